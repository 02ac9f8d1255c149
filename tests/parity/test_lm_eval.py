"""lm-eval itself as witness: its task loader, prompts, HFLM likelihoods and simple_evaluate accuracies.

One run of ``simple_evaluate`` per task and shot, on real records read through a task YAML that lm-eval merges itself,
gives all three.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headroom import anatomy, prompts
from headroom.artifacts.prompts import EVALUATION
from headroom.checkpoints import gates_without
from headroom.likelihood import encode, log_likelihoods, pack, rows_of
from headroom.statistics import Choices, correct, correct_normalised

TASKS = {
    "arc_easy": "arc/arc_easy.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "boolq": "super_glue/boolq/default.yaml",
}
N = 8
NEAR = 2e-3
"""Nats: how far ours may be from HFLM, and how near two choices may be for the accuracy not to be compared."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hflm(smollm2_record: Path) -> Any:
    """HFLM over a copy of the model that knows nothing of the seam."""
    import json

    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = json.loads(smollm2_record.read_text())["path"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=8, add_bos_token=False)


def evaluate(hflm: Any, task: str, shots: int, records: Path, folder: Path) -> Any:
    """simple_evaluate on the first documents, with one sample record per document."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    files = {path.stem: str(path) for path in (records / task).glob("*.parquet")}
    upstream = Path(lm_eval.__file__).parent / "tasks" / TASKS[task]
    (folder / "task.yaml").write_text(
        f"include: {upstream}\ntask: {task}\ndataset_path: parquet\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {files}, cache_dir: {folder}}}\n"
    )
    result = lm_eval.simple_evaluate(
        hflm,
        tasks=[task],
        num_fewshot=shots,
        limit=N,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        fewshot_random_seed=1234,
    )
    shutil.rmtree(folder / "parquet", ignore_errors=True)
    return result


def ours(smollm2: Any, task: str, shots: int, records: Path, gates: Any = None) -> tuple[Any, Any, list[Any], Any]:
    """Evaluation rows of our prompts, their log-likelihoods, documents and columns."""
    columns, _ = prompts.render(task, shots, 1234, str(records), 2, N)
    keep = [i for i, purpose in enumerate(columns["purpose"]) if purpose == EVALUATION]
    rows = [(columns["doc_id"][i], columns["context"][i], columns["continuation"][i]) for i in keep]
    documents = encode(rows, smollm2.tokenizer, smollm2.window)
    values = log_likelihoods(smollm2, pack(documents, 1024), len(rows), gates)
    choices = []
    for (doc_id, part), _ in zip(rows_of(documents), documents, strict=True):
        members = keep[part]
        lengths = tuple(columns["choice_length"][i] for i in members)
        gold = tuple(columns["gold"][i] for i in members)
        choices.append(Choices(doc_id, gold, None if None in lengths else lengths))
    return rows, values, documents, choices


@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("task", TASKS)
def test_prompts_likelihoods_and_accuracies(smollm2, hflm, records, tmp_path, task, shots):
    result = evaluate(hflm, task, shots, records, tmp_path)
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    rows, values, documents, choices = ours(smollm2, task, shots, records)

    theirs = [(s["doc_id"], *argument) for s in samples for argument in s["arguments"]]
    assert rows == theirs, "prompts are lm-eval's, byte for byte"

    expected = np.array([float(response[0][0]) for s in samples for response in s["resps"]])
    assert not any(document.truncated for document in documents)
    np.testing.assert_allclose(values, expected, atol=NEAR, rtol=0)

    compared = 0
    for (_, part), choice, sample in zip(rows_of(documents), choices, samples, strict=True):
        best = np.sort(expected[part])[::-1]
        if best[0] - best[1] > NEAR:
            compared += 1
            assert correct(choice, values[part]) == bool(sample["acc"])
            if "acc_norm" in sample:
                assert correct_normalised(choice, values[part]) == bool(sample["acc_norm"])
    difference = np.abs(values - expected).max()
    print(f"{task} {shots}-shot: {compared} of {len(samples)} documents compared, at most {difference:.1e} nats apart")
    assert compared >= len(samples) - 1
    if compared == len(samples):
        mean = np.mean([correct(c, values[p]) for (_, p), c in zip(rows_of(documents), choices, strict=True)])
        assert mean == pytest.approx(result["results"][task]["acc,none"])


def test_masked_heads_equal_a_model_with_zeroed_projection_columns(smollm2, hflm, records):
    """A random third of the heads, some layers without any, on Winogrande (two contexts) and HellaSwag."""
    from lm_eval.api.instance import Instance

    rng = np.random.default_rng(0)
    pruned = [(layer, head) for layer in range(30) for head in range(9) if rng.random() < 0.33 or layer in (3, 17)]
    projections = anatomy.output_projections(hflm.model)
    kept = [projection.weight.detach().clone() for projection in projections]
    width = smollm2.shape.width
    try:
        with torch.no_grad():
            for layer, head in pruned:
                projections[layer].weight[:, head * width : (head + 1) * width] = 0
        for task in ("winogrande", "hellaswag"):
            gates = gates_without(smollm2.shape, pruned)
            rows, values, _, _ = ours(smollm2, task, 0, records, gates)
            requests = [
                Instance(request_type="loglikelihood", doc={}, arguments=(c, t), idx=i)
                for i, (_, c, t) in enumerate(rows)
            ]
            expected = np.array([answer[0] for answer in hflm.loglikelihood(requests, disable_tqdm=True)])
            np.testing.assert_allclose(values, expected, atol=NEAR, rtol=0)
            assert np.abs(ours(smollm2, task, 0, records)[1] - expected).max() > 1, "the mask matters"
    finally:
        with torch.no_grad():
            for projection, weight in zip(projections, kept, strict=True):
                projection.weight.copy_(weight)
