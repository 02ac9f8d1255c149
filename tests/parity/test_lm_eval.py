"""lm-eval itself as witness: its task loader, prompts, HFLM likelihoods and simple_evaluate accuracies.

One run of ``simple_evaluate`` per task and shot, on real records read through a task YAML that lm-eval merges itself,
gives all three.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lm_headroom.analysis.metrics import Choices, correct_normalised
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.artifacts.prompts import EVALUATION, GREEDY
from lm_headroom.engine.likelihood import Likelihoods, encode, likelihoods, sequence_slices
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.models import architectures
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.scoring.pruned_evaluation import right_documents
from lm_headroom.tasks import prompts
from lm_headroom.tasks.files import TASK_FOLDERS
from tests.support.harness import UPSTREAM, evaluate, upstream
from tests.support.simulations import members

CASES = members(
    [
        ("winogrande", 5),
        *((task, 0) for task in ("arc_easy", "piqa", "winogrande", "wic", "copa", "lambada_openai")),
    ],
    [
        *((task, 5) for task in ("arc_easy", "hellaswag")),
        *((task, 0) for task in ("hellaswag", "openbookqa", "wsc", "boolq", "arc_challenge", "cb", "rte", "mathqa")),
    ],
)
"""What a model is run on: the tasks whose prompts and labels are right in lm-eval, some with shots.

Those that ``make simulations`` alone takes have longer prompts, or choices of the same kinds.
"""
N = 6
"""Documents of each whose prompts are compared."""
RUN = 4
"""Documents of each that a model is run on; of long prompts, with shots, half."""
NEAR = 2e-3
"""Nats: how far ours may be from HFLM, and how near two choices may be for the accuracy not to be compared."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hflm(smollm2_record: Path) -> Any:
    """HFLM over a copy of the model without interventions."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = checkpoint_folder(smollm2_record)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=8, add_bos_token=False)


def ours(
    smollm2: Any, task: str, shots: int, records: Path, gates: Any = None
) -> tuple[Any, Likelihoods, list[Document], list[Choices]]:
    """Evaluation rows of lm-eval's prompts as we render them, their likelihoods, documents and choices."""
    n = RUN // 2 if shots else RUN
    columns, _ = prompts.render(task, shots, 1234, str(records), 2, n, folders=[TASK_FOLDERS / "harness"])
    keep = [i for i, purpose in enumerate(columns["purpose"]) if purpose == EVALUATION]
    rows = [(columns["doc_id"][i], columns["context"][i], columns["continuation"][i]) for i in keep]
    documents = encode(rows, smollm2.tokenizer, smollm2.max_positions)
    actual = likelihoods(smollm2, Batches(documents, 1024), gates)
    choices = []
    for doc_id, part in sequence_slices(documents):
        members = keep[part]
        lengths = tuple(columns["choice_length"][i] for i in members)
        gold = tuple(columns["gold"][i] for i in members)
        greedy = columns["metric"][members[0]] == GREEDY
        choices.append(Choices(doc_id, gold, None if None in lengths else lengths, greedy=greedy))
    return rows, actual, documents, choices


def requests(task: str, shots: int, records: Path, folder: Path) -> list[tuple[int, str, str]]:
    """What lm-eval would ask a model: document, context and continuation; more documents than ours."""
    theirs = upstream(task, records, folder).load([task])["tasks"][task]
    theirs.set_config("num_fewshot", shots)
    theirs.set_fewshot_seed(1234)
    theirs.build_all_requests(limit=None if task == "lambada_openai" else 8 * N)
    return [(instance.doc_id, *instance.args) for instance in theirs.instances]


def truthful(task: str, text: str) -> str:
    """MultiRC's shots with their labels the right way round; lm-eval 0.4.13 inverts them."""
    if task != "multirc":
        return text
    asked = "\nIs the answer correct? "
    first, *rest = text.split(asked)
    swapped = [
        part.replace("yes", "no", 1) if part.startswith("yes") else part.replace("no", "yes", 1) for part in rest
    ]
    return asked.join([first, *swapped])


@pytest.mark.parametrize(
    ("task", "shots"), [(task, k) for task in UPSTREAM for k in (0, 5) if (task, k) != ("lambada_openai", 5)]
)
def test_the_harness_prompts_are_lm_evals(records, tmp_path, monkeypatch, task, shots):
    """Byte for byte, for each of the study's tasks; no model is run.

    LAMBADA is compared without shots: lm-eval draws them from the documents that it evaluates.
    """
    # lm-eval's ReCoRD imports these to score answers, which takes no part here; transformers 5 has them no more.
    for name in ("transformers.data.metrics", "transformers.data.metrics.squad_metrics"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    columns, details = prompts.render(task, shots, 1234, str(records), 2, N, folders=[TASK_FOLDERS / "harness"])
    names = ("doc_id", "context", "continuation", "purpose")
    ours = [row[:3] for row in zip(*(columns[name] for name in names), strict=True) if row[3] == EVALUATION]
    wanted = {doc_id for doc_id, _, _ in ours}
    theirs = [
        (doc_id, truthful(task, context), continuation)
        for doc_id, context, continuation in requests(task, shots, records, tmp_path)
        if doc_id in wanted
    ]
    # The order of its choices is what is wrong with lm-eval's MultiRC.
    order = sorted if task == "multirc" else list
    assert order(ours) == order(theirs)
    assert details["definition"].startswith("harness/" if task in ("multirc", "record", "rte") else "lm-eval ")


@pytest.mark.parametrize(("task", "shots"), CASES)
def test_prompts_likelihoods_and_accuracies(smollm2, hflm, records, tmp_path, task, shots):
    rows, actual, documents, choices = ours(smollm2, task, shots, records)
    result = evaluate(hflm, task, shots, [document.doc_id for document in documents], records, tmp_path)
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])

    # Tasks that also measure mutual information ask for choices without context, after those with it.
    asked = [
        list(zip(s["arguments"], s["resps"], strict=True))[: len(c.gold)] for s, c in zip(samples, choices, strict=True)
    ]
    theirs = [(c.doc_id, *argument) for c, pairs in zip(choices, asked, strict=True) for argument, _ in pairs]
    assert rows == theirs, "prompts are lm-eval's, byte for byte"

    expected = np.array([float(response[0][0]) for pairs in asked for _, response in pairs])
    assert not any(document.truncated for document in documents)
    np.testing.assert_allclose(actual.values, expected, atol=NEAR, rtol=0)

    right = right_documents(documents, choices, actual)
    compared = 0
    for (_, part), choice, sample, outcome in zip(sequence_slices(documents), choices, samples, right, strict=True):
        best = np.sort(expected[part])[::-1]
        if len(best) == 1 or best[0] - best[1] > NEAR:
            compared += 1
            assert outcome == bool(sample["acc"])
            if "acc_norm" in sample:
                assert correct_normalised(choice, actual.values[part]) == bool(sample["acc_norm"])
    difference = np.abs(actual.values - expected).max()
    print(f"{task} {shots}-shot: {compared} of {len(samples)} documents compared, at most {difference:.1e} nats apart")
    assert compared >= len(samples) - 1
    if compared == len(samples):
        assert np.mean(right) == pytest.approx(result["results"][task]["acc,none"])


def test_masked_heads_equal_a_model_with_zeroed_projection_columns(smollm2, hflm, records):
    """A random third of the heads, some layers without any, on Winogrande (two contexts) and HellaSwag."""
    from lm_eval.api.instance import Instance

    rng = np.random.default_rng(0)
    pruned = [(layer, head) for layer in range(30) for head in range(9) if rng.random() < 0.33 or layer in (3, 17)]
    projections = list(architectures.output_projections(hflm.model).values())
    kept = [projection.weight.detach().clone() for projection in projections]
    d_head = smollm2.shape.d_head
    try:
        with torch.no_grad():
            for layer, head in pruned:
                projections[layer].weight[:, head * d_head : (head + 1) * d_head] = 0
        for task in ("winogrande", "hellaswag"):
            gates = gates_without(smollm2.shape, pruned)
            rows, actual, _, _ = ours(smollm2, task, 0, records, gates)
            requests = [
                Instance(request_type="loglikelihood", doc={}, arguments=(c, t), idx=i)
                for i, (_, c, t) in enumerate(rows)
            ]
            expected = np.array([answer[0] for answer in hflm.loglikelihood(requests, disable_tqdm=True)])
            np.testing.assert_allclose(actual.values, expected, atol=NEAR, rtol=0)
            if task == "winogrande":
                assert np.abs(ours(smollm2, task, 0, records)[1].values - expected).max() > 1, "the mask matters"
    finally:
        with torch.no_grad():
            for projection, weight in zip(projections, kept, strict=True):
                projection.weight.copy_(weight)


def test_a_pruned_checkpoint_has_the_accuracy_of_the_grid(smollm2_record, records, tmp_path):
    """SmolLM2 exported without 30% of its heads and one FFN, loaded, and judged by lm-eval's own simple_evaluate."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    import lm_headroom
    from lm_headroom.analysis.ranking import as_columns, ffn_columns, rank_ffns, rank_heads
    from lm_headroom.artifacts.pruned_eval import JOINT_EVAL
    from lm_headroom.artifacts.ranking import FFN_RANKING, RANKING
    from lm_headroom.artifacts.store import read, write
    from lm_headroom.options import EvaluationSettings
    from lm_headroom.steps.evaluate_joint import evaluate_joint
    from lm_headroom.steps.export_pruned import export_pruned
    from lm_headroom.steps.render_prompts import render_prompts

    settings = EvaluationSettings(model=smollm2_record, device="cpu", threads=2)
    prompts_file, ranking, ffns, grid = (tmp_path / f"{name}.parquet" for name in ("prompts", "heads", "ffns", "grid"))
    limits = {"limit_importance": 2, "limit_evaluation": RUN}
    render_prompts(task="arc_easy", shots=0, data=str(records), **limits, prompts="harness", out=prompts_file)
    cell = {"model": read_record(smollm2_record), "task": "arc_easy", "shots": 0, "seed": 1234}
    scores, by_layer = np.random.default_rng(0).random((30, 9)), np.abs(np.arange(30.0) - 12)
    write(ranking, RANKING, as_columns(rank_heads(scores), scores), cell)
    write(ffns, FFN_RANKING, ffn_columns(rank_ffns(by_layer), by_layer), cell)
    levels = {"joint_heads": [0, 30], "joint_ffns": [0, 5]}
    rankings = {"heads_ranking": ranking, "ffns_ranking": ffns}
    evaluate_joint(settings=settings, prompts=prompts_file, **rankings, **levels, out=grid)
    row = next(r for r in read(grid, JOINT_EVAL).to_pylist() if (r["percent_heads"], r["percent_ffns"]) == (30, 5))
    assert (row["n_heads"], row["n_ffns"]) == (81, 1)

    export_pruned(settings=settings, ranking=[ranking, ffns], percent=[30, 5], out=tmp_path / "export")
    model, tokenizer = lm_headroom.load_pruned(tmp_path / "export"), AutoTokenizer.from_pretrained(tmp_path / "export")
    whole = sum(path.stat().st_size for path in checkpoint_folder(smollm2_record).glob("*.safetensors"))
    there = sum(path.stat().st_size for path in (tmp_path / "export").glob("*.safetensors"))
    # In float32; the header, with fewer names, is some kilobytes.
    assert whole - there == pytest.approx(4 * row["parameters_removed"], abs=20_000)
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, add_bos_token=False)
    result = evaluate(hflm, "arc_easy", 0, row["doc_id"], records, tmp_path)
    assert result["results"]["arc_easy"]["acc,none"] == pytest.approx(row["accuracy"])
    right = {sample["doc_id"]: bool(sample["acc"]) for sample in result["samples"]["arc_easy"]}
    assert right == dict(zip(row["doc_id"], row["correct"], strict=True))


def test_simple_evaluate_under_a_mask_is_the_workflows_evaluation(tmp_path, tokenizer, records):
    """A tiny model masked in a session and judged by lm-eval, beside the curve of the same ranking, in float64."""
    from lm_eval.models.huggingface import HFLM

    import lm_headroom
    from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
    from lm_headroom.artifacts.store import read
    from lm_headroom.models.resolve import resolve
    from lm_headroom.options import EvaluationSettings
    from lm_headroom.steps.evaluate_pruned import evaluate_pruned
    from lm_headroom.steps.render_prompts import render_prompts
    from lm_headroom.steps.score_heads import score_heads
    from tests.support.tiny_models import tiny_model

    model, record = tiny_model("llama"), tmp_path / "model.json"
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    resolve("tiny", str(tmp_path / "checkpoint"), None, record)
    settings = EvaluationSettings(model=record, device="cpu", dtype="float64")
    prompts_file, ranking = tmp_path / "prompts.parquet", tmp_path / "ranking.parquet"
    limits = {"limit_importance": 4, "limit_evaluation": 40}
    render_prompts(task="arc_easy", shots=0, data=str(records), **limits, prompts="harness", out=prompts_file)
    score_heads(settings=settings, prompts=prompts_file, out=tmp_path / "scores.parquet", ranking=ranking)
    evaluate_pruned(
        settings=settings, prompts=prompts_file, rankings=["own"], ranking_file=ranking, levels=[0, 30], out=tmp_path
    )
    whole, pruned = read(tmp_path / "own.parquet", PRUNED_EVAL).to_pylist()
    assert whole["log_likelihoods"] != pruned["log_likelihoods"]

    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, add_bos_token=False, max_length=256)
    for row, percent in ((whole, 0), (pruned, 30), (whole, 0)):
        with lm_headroom.mask(model, ranking, percent):
            result = evaluate(hflm, "arc_easy", 0, row["doc_id"], records, tmp_path)
        assert result["results"]["arc_easy"]["acc,none"] == row["accuracy"]
        assert result["results"]["arc_easy"]["acc_norm,none"] == row["accuracy_norm"]
        samples = sorted(result["samples"]["arc_easy"], key=lambda sample: sample["doc_id"])
        by_hflm = [[float(choice[0]) for choice in sample["filtered_resps"]] for sample in samples]
        expected = dict(zip(row["doc_id"], row["log_likelihoods"], strict=True))
        for sample, values in zip(samples, by_hflm, strict=True):
            # HFLM adds token log-likelihoods in float32.
            assert values == pytest.approx(expected[sample["doc_id"]], rel=1e-5)
