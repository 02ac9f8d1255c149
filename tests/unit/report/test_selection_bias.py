"""The selection bias of FFN rankings that the evaluation questions made, from artifacts with known values."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import write
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.findings.ffns import selection_note
from lm_headroom.report.findings.page import findings
from lm_headroom.report.tables import selection_bias
from lm_headroom.report.tables.selection_bias import AVERAGE, measure_selection_bias
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.power import judges_of
from lm_headroom.study.choices import Outcome
from lm_headroom.study.ranking_names import OTHER_DOCUMENTS
from tests.support.small_study import FFN_SIZE, PERCENTS, knockout_answers, leave_one_choice, made_of, outcomes, small

# Right answers of 10 questions: by the whole model, and without the FFN of each of four layers.
WHOLE = {"evaluation": 8, "scoring": 7}
WITHOUT = {"evaluation": [7, 8, 9, 5], "scoring": [4, 6, 5, 3]}
RIGHT = {"own": [8, 8, 7, 6], OTHER_DOCUMENTS: [8, 8, 6, 3]}
"""Of the curves, at 0, 20, 50 and 90% of four FFNs: 0, 0, 2 and 3 go."""


def scores(selection: str, layers: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
    whole = WHOLE[selection]
    ablated = [WITHOUT[selection][layer] for layer in layers]
    return {
        "layer": list(layers),
        "score": [(whole - n) / 10 for n in ablated],
        "stderr": [0.1] * 4,
        "accuracy_dense": [whole / 10] * 4,
        "accuracy_ablated": [n / 10 for n in ablated],
        "doc_id": [list(range(10))] * 4,
        **knockout_answers(outcomes([whole] * 4)["correct"], outcomes(ablated)["correct"]),
    }


def write_task(
    study: ResultsMatrix, k: int, task: str, selections: tuple[str, str] = ("evaluation", "scoring")
) -> None:
    """Scores and curves of both rankings; the study's own first."""
    for step, kind, selection in zip(
        ("ffn_importance", "ffn_selection"), (FFN_IMPORTANCE, FFN_SELECTION), selections, strict=True
    ):
        provenance = made_of(study, k, task, options={"selection": selection})
        # Rows in any order.
        write(study.path(step, k, task=task), kind, scores(selection, (2, 0, 3, 1)), provenance)
    for ranking, right in RIGHT.items():
        columns = {
            "percent": PERCENTS,
            "n_pruned": [0, 0, 2, 3],
            "parameters_removed": [FFN_SIZE * n for n in (0, 0, 2, 3)],
            "partner": [None] * 4,
            "correlation": [None] * 4,
            **outcomes(right),
        }
        write(study.curve(task, k, ranking, "ffns"), PRUNED_EVAL, columns, made_of(study, k, task, ranking))


@pytest.fixture
def study(tmp_path: Path) -> ResultsMatrix:
    matrix = replace(small(tmp_path), selection_bias=True)
    for k in matrix.shots:
        for task in matrix.tasks:
            write_task(matrix, k, task)
    return matrix


def test_both_rankings_are_judged_on_the_same_questions(study: ResultsMatrix) -> None:
    rows = {(row.task, row.percent): row for row in measure_selection_bias(study, 5)}
    assert [percent for task, percent in rows if task == AVERAGE] == [50, 90, None], "at 20% no FFN goes"
    at_90, mean = rows[AVERAGE, 90], rows[AVERAGE, None]
    assert (at_90.evaluation.value, at_90.scoring.value) == pytest.approx((0.6, 0.3))
    assert at_90.difference.value == pytest.approx(0.3)
    assert 0 < at_90.difference.low < 0.3 < at_90.difference.high
    assert (at_90.srcc, at_90.least) == (None, None)
    assert (mean.n_levels, mean.n_questions) == (2, 30)
    assert mean.difference.value == pytest.approx((0.1 + 0.3) / 2)
    # Ranks 2 1 0 3 and 2 0 1 3.
    assert mean.srcc == pytest.approx(0.8)
    assert rows["copa", None].n_questions == 10


def test_the_least_ffn_is_measured_where_it_was_chosen_and_apart(study: ResultsMatrix) -> None:
    row = next(row for row in measure_selection_bias(study, 0) if row.task == "piqa" and row.percent is None)
    assert row.least is not None
    # Layer 2: 9 of 10 on the evaluation documents, where the whole model has 8; 5 and 7 on the others.
    assert row.least[:2] == pytest.approx((-0.1, 0.2))
    assert row.least[2].value == pytest.approx(0.3)
    assert row.least[2].low < 0.3 < row.least[2].high


def test_the_rankings_keep_their_names_where_the_study_ranks_by_scoring_documents(study: ResultsMatrix) -> None:
    for k in study.shots:
        for task in study.tasks:
            write_task(study, k, task, ("scoring", "evaluation"))
    row = next(row for row in measure_selection_bias(study, 0) if row.task == "piqa" and row.percent is None)
    assert row.difference.value == pytest.approx(-0.2)
    assert row.least is not None
    assert row.least[:2] == pytest.approx((-0.1, 0.2))
    chance = read_chance_levels(study)
    note = list(selection_note(study, {shots: judges_of(study, shots, "ffns", chance) for shots in study.shots}))
    assert len(note) == 2
    assert "The selection bias is -20.0 points (" in note[0]


def test_two_rankings_by_the_same_documents_are_refused(study: ResultsMatrix) -> None:
    write_task(study, 0, "copa", ("evaluation", "evaluation"))
    with pytest.raises(HeadroomError, match="ffn_selection/copa/0shot-seed7.parquet: expected FFNs ranked by the eval"):
        measure_selection_bias(study, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc_id": [list(range(1, 11))] * 4}, "have different levels or questions; delete both and run again"),
        ({"percent": [0, 20, 50, 80]}, "have different levels or questions; delete both and run again"),
        ({"parameters_removed": [0] * 4}, None),
    ],
)
def test_curves_that_cannot_be_compared_are_refused(
    study: ResultsMatrix, change: dict[str, Any], message: str | None
) -> None:
    for ranking, right in RIGHT.items():
        columns = {
            **{name: [0, 1, 2, 3] for name in ("n_pruned", "parameters_removed")},
            "percent": PERCENTS,
            **{name: [None] * 4 for name in ("partner", "correlation")},
            **outcomes(right),
        }
        if ranking == OTHER_DOCUMENTS or message is None:
            columns |= change
        write(study.curve("copa", 0, ranking, "ffns"), PRUNED_EVAL, columns, made_of(study, 0, "copa", ranking))
    with pytest.raises(HeadroomError, match=message or "no level prunes an FFN; give larger ones in pruning.levels"):
        measure_selection_bias(study, 0)


def test_scores_without_outcomes_are_refused(study: ResultsMatrix) -> None:
    columns = scores("scoring") | dict.fromkeys(("doc_id", "correct_dense", "correct_ablated"), [None] * 4)
    provenance = made_of(study, 0, "copa", options={"selection": "scoring"})
    write(study.path("ffn_selection", 0, task="copa"), FFN_SELECTION, columns, provenance)
    with pytest.raises(HeadroomError, match="ffn_selection/copa/0shot-seed7.parquet: no outcomes by question"):
        measure_selection_bias(study, 0)


def test_the_table_is_written(study: ResultsMatrix, tmp_path: Path) -> None:
    options = ["--tasks", *study.tasks, "--shots", "0", "5", "--seed", "7", "--out", str(tmp_path / "t")]
    assert main(["table", "selection_bias", "--results", str(study.results), *options]) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert len(rows) == 2 * 4 * 3
    (row,) = (r for r in rows if (r["task"], r["shots"], r["percent"]) == (AVERAGE, "5", "mean"))
    assert float(row["selection bias"]) == pytest.approx(0.2)
    assert float(row["SRCC"]) == pytest.approx(0.8)
    assert np.isclose(float(row["least FFN selection bias"]), 0.3)


@pytest.mark.parametrize("outcome", ["gold_probability", "gold_bits_per_byte"])
def test_another_outcome_is_read_from_the_same_artifacts(study: ResultsMatrix, outcome: Outcome) -> None:
    """The right choice has 1 of 4 bytes' nats where it is answered, else 2, and probability 0.731, else 0.269."""
    right, wrong = {"gold_probability": (0.7310586, 0.2689414)}.get(outcome, (-0.3606738, -0.7213475))
    factor = right - wrong
    rows = {(row.task, row.percent): row for row in measure_selection_bias(replace(study, outcome=outcome), 5)}
    at_90, mean = rows[AVERAGE, 90], rows[AVERAGE, None]
    assert at_90.evaluation.value == pytest.approx(0.6 * right + 0.4 * wrong)
    assert at_90.difference.value == pytest.approx(0.3 * factor)
    assert mean.least is not None
    assert mean.least[:2] == pytest.approx((-0.1 * factor, 0.2 * factor))
    assert mean.least[2].value == pytest.approx(0.3 * factor)


def test_the_table_of_a_cost_shows_it_positive(study: ResultsMatrix, tmp_path: Path) -> None:
    options = ["--tasks", *study.tasks, "--shots", "5", "--seed", "7", "--outcome", "gold_bits_per_byte"]
    assert main(["table", "selection_bias", "--results", str(study.results), *options, "--out", f"{tmp_path}/t"]) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    row = next(r for r in rows if (r["task"], r["percent"]) == (AVERAGE, "90"))
    assert (row["outcome"], row["unit"]) == ("gold_bits_per_byte", "bits per byte")
    assert float(row["ranked by scoring"]) > float(row["ranked by evaluation"]) > 0
    assert float(row["selection bias"]) == pytest.approx(0.3 * 0.3606738)


def test_tasks_without_the_outcome_are_left_out(study: ResultsMatrix, tmp_path: Path) -> None:
    leave_one_choice(study, "copa")
    selection_bias.write(replace(study, outcome="gold_probability"), tmp_path / "t")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {row["task"] for row in rows} == {AVERAGE, "piqa", "record"}
    leave_one_choice(study, *study.tasks)
    selection_bias.write(replace(study, outcome="gold_probability"), tmp_path / "t")
    assert "No task of the study defines gold probability" in (tmp_path / "t.md").read_text()


def test_the_findings_cite_the_number(study: ResultsMatrix) -> None:
    text = findings(study)
    assert (
        "- **Ranking FFNs on the evaluation documents improves accuracy with 5-shot prompts.** The selection bias is "
        "20.0 points (" in text
    )
    assert (
        "accuracy averages 0.65 under this ranking and 0.45 under that of the scoring documents, over 3 tasks and 2 "
        "levels." in text
    )
    assert "so accuracies include a selection bias: the lines above give its size." in text
    assert "include a selection bias: the study does not measure its size." in findings(
        replace(study, selection_bias=False)
    )
