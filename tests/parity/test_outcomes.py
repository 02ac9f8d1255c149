"""Outcomes of real tasks: our artifacts against lm-eval's own samples, of a tiny random model in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.prompts import EVALUATION, PROMPTS
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read
from lm_headroom.models.resolve import resolve
from lm_headroom.options import EvaluationSettings
from lm_headroom.results.curves import UndefinedOutcomeError, answers, per_question
from lm_headroom.steps.render_prompts import render_prompts
from lm_headroom.steps.score_ffns import score_ffns
from tests.support.harness import evaluate
from tests.support.looped_outcomes import FROM_LIKELIHOODS, question_scores, right_answers
from tests.support.tiny_models import tiny_config

TASKS = ("arc_easy", "copa", "multirc", "lambada_openai")
ROUNDING = 1e-6
"""Relative: artifacts hold log-likelihoods in float32."""


@pytest.fixture(scope="module")
def settings(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    """A tiny LLaMA whose context window holds the passages of MultiRC."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    config = tiny_config("llama", 523)
    config.max_position_embeddings = 8192
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "checkpoint")
    long = copy.deepcopy(tokenizer)
    long.model_max_length = 8192
    long.save_pretrained(folder / "checkpoint")
    resolve("tiny", str(folder / "checkpoint"), None, folder / "model.json")
    return EvaluationSettings(model=folder / "model.json", dtype="float64", device="cpu", threads=1)


@pytest.fixture(scope="module")
def hflm(settings: EvaluationSettings) -> Any:
    """HFLM over a copy of the model without interventions."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = settings.model.parent / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=4, add_bos_token=False)


def gold_of(task: str, sample: dict[str, Any], continuations: list[str]) -> list[bool]:
    """Which choices lm-eval's record says are right; its MultiRC has the two labels the wrong way round."""
    if task == "lambada_openai":
        return [True]
    if task == "multirc":
        word = "yes" if sample["doc"]["label"] == 1 else "no"
        return [text.rstrip().endswith(word) for text in continuations]
    if task == "copa":
        return [text.strip() == sample["target"].strip() for text in continuations]
    return [number == int(sample["target"]) for number in range(len(continuations))]


def row_of(task: str, samples: list[dict[str, Any]], hflm: Any) -> dict[str, Any]:
    """An artifact's columns from lm-eval's samples; MultiRC's questions by paragraph and number."""
    row: dict[str, Any] = {
        name: [] for name in ("log_likelihoods", "gold", "n_bytes", "n_tokens", "document_question", "texts")
    }
    for sample in samples:
        pairs = [tuple(arguments) for arguments in sample["arguments"]]
        texts = [continuation for _, continuation in pairs]
        index = sample["doc"].get("idx")
        row["document_question"].append(
            (index["paragraph"], index["question"]) if task == "multirc" else sample["doc_id"]
        )
        row["log_likelihoods"].append([float(response[0][0]) for response in sample["resps"]])
        row["gold"].append(gold_of(task, sample, texts))
        row["n_bytes"].append([len(text.encode()) for text in texts])
        row["n_tokens"].append([len(hflm._encode_pair(*pair)[1]) for pair in pairs])
        row["texts"].append(pairs)
    return row


@pytest.mark.parametrize("task", TASKS)
def test_every_outcome_is_that_of_lm_evals_samples(settings, hflm, records, tmp_path, task):
    prompts, out, curve = (tmp_path / f"{name}.parquet" for name in ("prompts", "ffns", "own"))
    limits = {"limit_importance": 2, "limit_evaluation": 6}
    render_prompts(task=task, shots=0, data=str(records), **limits, prompts="harness", out=prompts)
    score_ffns(
        settings=settings, prompts=prompts, metric="loss", selection="evaluation", levels=[0, 34], out=out, curve=curve
    )
    rendered = [row for row in read(prompts, PROMPTS).to_pylist() if row["purpose"] == EVALUATION]
    doc_ids = list(dict.fromkeys(row["doc_id"] for row in rendered))
    result = evaluate(hflm, task, 0, doc_ids, records, tmp_path)
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    theirs = row_of(task, samples, hflm)

    whole, knockouts = read(curve, PRUNED_EVAL).slice(0, 1), read(out, FFN_IMPORTANCE)
    ours = {
        (row["doc_id"], row["context"], row["continuation"]): value
        for row, value in zip(rendered, np.concatenate(whole["log_likelihoods"][0].as_py()), strict=True)
    }
    expected = {
        (sample["doc_id"], *pair): value
        for sample, texts, values in zip(samples, theirs["texts"], theirs["log_likelihoods"], strict=True)
        for pair, value in zip(texts, values, strict=True)
    }
    assert ours.keys() == expected.keys(), "the prompts are lm-eval's"
    np.testing.assert_allclose(list(ours.values()), [expected[name] for name in ours], rtol=ROUNDING)
    assert knockouts["log_likelihoods_dense"][0] == whole["log_likelihoods"][0]

    for outcome in FROM_LIKELIHOODS:
        scores = question_scores(outcome, theirs)
        if scores is None:
            assert task == "lambada_openai"
            with pytest.raises(UndefinedOutcomeError):
                per_question(whole, curve, outcome)
            continue
        assert len(scores) == 6
        np.testing.assert_allclose(per_question(whole, curve, outcome)[0], scores, rtol=1e-4, atol=1e-6)
        of_whole = answers(knockouts, out, outcome, "log_likelihoods_dense")
        np.testing.assert_allclose(of_whole, np.tile(scores, (3, 1)), rtol=1e-4, atol=1e-6)
    right = whole["correct"][0].as_py()
    if task == "lambada_openai":
        assert right == [bool(sample["acc"]) for sample in samples]
    else:
        assert right == right_answers(theirs)
    if task in ("arc_easy", "copa"):
        assert np.mean(right) == result["results"][task]["acc,none"]
