"""Every outcome again from an evaluation's file and its prompts, by loops, against what readers and the file say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lm_headroom.artifacts.ffn_importance import metric_of
from lm_headroom.artifacts.prompts import GREEDY, PROMPTS
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.results.curves import UndefinedOutcomeError, answers, lost_by_question, per_question
from tests.support.looped_outcomes import FROM_LIKELIHOODS, question_scores, right_answers

ANSWERED = {schema.name: schema for schema in SCHEMAS if "log_likelihoods" in {c.name for c in schema.columns}}
"""Artifacts that hold answers, by name."""
_OF = {"log_likelihoods": "correct", "log_likelihoods_dense": "correct_dense"}


def read_back(results: Path) -> dict[str, int]:
    """Assert that files of answers give every outcome again; kind of artifact to how many files were read."""
    counts = dict.fromkeys(ANSWERED, 0)
    for path in sorted(results.rglob("*.parquet")):
        record = provenance(path)
        if record["kind"] in ANSWERED and record["task"] != "aggregate":
            _read_file(path, record, results)
            counts[record["kind"]] += 1
    return counts


def _read_file(path: Path, record: dict[str, Any], results: Path) -> None:
    table = read(path, ANSWERED[record["kind"]])
    cell = f"{record['shots']}shot-seed{record['seed']}.parquet"
    prompts = read(results / "prompts" / record["task"] / cell, PROMPTS).to_pylist()
    knocked_out = "log_likelihoods_dense" in table.column_names
    for column in _OF if knocked_out else ["log_likelihoods"]:
        for outcome in FROM_LIKELIHOODS:
            expected = [question_scores(outcome, row, column) for row in table.to_pylist()]
            if None in expected:
                with pytest.raises(UndefinedOutcomeError, match="compares choices"):
                    answers(table, path, outcome, column)
            else:
                # Log-likelihoods are kept in float32: both begin with the same numbers.
                np.testing.assert_allclose(answers(table, path, outcome, column), expected, rtol=1e-12, atol=1e-12)
        if prompts[0]["metric"] != GREEDY:
            name = "correct_ablated" if knocked_out and column == "log_likelihoods" else _OF[column]
            assert table.column(name).to_pylist() == [right_answers(row, column) for row in table.to_pylist()], path
    if "correct_norm" in table.column_names and not table.column("correct_norm").null_count:
        _normalised(table, path, prompts)
    if record["kind"] in ("ffn_importance", "ffn_selection"):
        losses = lost_by_question(table, path, metric_of(record))
        np.testing.assert_allclose(table.column("score").to_pylist(), losses.mean(axis=1), rtol=1e-4, atol=1e-6)
    if record["kind"] == "head_oracle":
        losses = lost_by_question(table, path, "loss")
        np.testing.assert_allclose(table.column("loss_rises").to_pylist(), losses, rtol=1e-4, atol=1e-5)
        lost = lost_by_question(table, path).mean(axis=1)
        np.testing.assert_allclose(table.column("accuracy_lost").to_pylist(), lost, atol=1e-12)


def _normalised(table: pa.Table, path: Path, prompts: list[dict[str, Any]]) -> None:
    """acc_norm needs the number of characters, which prompts have."""
    documents: dict[tuple[str, int], list[int]] = {}
    for row in prompts:
        documents.setdefault((row["purpose"], row["doc_id"]), []).append(row["choice_length"])
    lengths = [sizes for (purpose, _), sizes in documents.items() if purpose == "evaluation"]
    expected = [right_answers(row, lengths=lengths) for row in table.to_pylist()]
    assert table.column("correct_norm").to_pylist() == expected
    np.testing.assert_array_equal(per_question(table, path, "accuracy_norm"), np.array(expected, dtype=float))
