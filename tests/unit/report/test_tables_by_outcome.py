"""Tables of outcomes other than accuracy, against values worked out by hand and by loops."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read
from lm_headroom.audit.verify import verify
from lm_headroom.cli import main
from lm_headroom.report.tables import gains, headroom, induction_ablation, losses
from lm_headroom.report.tables.by_outcome import in_unit, unit_of, value_of
from lm_headroom.results.ablation import GAIN
from lm_headroom.results.margins import margin_in_words, margin_of
from lm_headroom.results.matrix import AVERAGE, ResultsMatrix
from lm_headroom.study.choices import DEFAULT_MARGINS, RELATIVE_OUTCOMES, Outcome
from lm_headroom.study.config import Study
from tests.support.ablated_study import ablated
from tests.support.small_study import leave_one_choice, small

RIGHT = 1 / (1 + math.exp(-1))
"""Probability of the right choice where it is likelier by a nat; where the other is, 1 less this."""
BITS = {True: 1 / math.log(2) / 4, False: 2 / math.log(2) / 4}
"""Bits per byte of the right choice, of 4 bytes and 1 or 2 nats."""
RELATIVE = "gold_bits_per_byte"


@pytest.fixture
def many(tmp_path: Path) -> ResultsMatrix:
    return small(tmp_path, repeat=40, selection="scoring")


def by(study: ResultsMatrix, outcome: Outcome) -> ResultsMatrix:
    return replace(study, outcome=outcome)


def probability(right: float) -> float:
    """Mean probability of the right choice where a share of questions is right."""
    return right * RIGHT + (1 - right) * (1 - RIGHT)


def bits(right: float) -> float:
    return right * BITS[True] + (1 - right) * BITS[False]


def command(study: ResultsMatrix, name: str, outcome: str, out: Path, *more: str) -> tuple[list[dict[str, str]], str]:
    """The rows that the command writes, and the page."""
    options = ["--tasks", *study.tasks, "--shots", "0", "5", "--outcome", outcome, *more]
    assert main(["table", name, "--results", str(study.results), *options, "--out", str(out)]) == 0
    return list(csv.DictReader(out.with_suffix(".csv").open())), out.with_suffix(".md").read_text()


def test_every_outcome_has_a_margin() -> None:
    assert list(DEFAULT_MARGINS) == list(OUTCOMES)
    study = ResultsMatrix(Path("m"), ("copa",), (0,))
    margins = {name: margin_of(by(study, name)) for name in OUTCOMES}
    assert {name: margin.value for name, margin in margins.items()} == {
        "accuracy": 0.02, "accuracy_norm": 0.02, "gold_probability": 0.01, "gold_probability_norm": 0.01,
        "gold_bits_per_byte": 0.01, "loss": 0.01, "margin": 0.01,
    }  # fmt: skip
    assert {name for name, margin in margins.items() if margin.relative} == set(RELATIVE_OUTCOMES)
    words = [margin_in_words(replace(by(study, name), margin=3)) for name in ("accuracy", RELATIVE, "margin")]
    assert words == ["3 points", "3% of the whole model's", "3 nats per byte"]


def test_costs_are_positive_and_shares_are_points() -> None:
    assert (value_of("gold_bits_per_byte", -2.0), value_of("gold_probability", 0.4)) == (2.0, 0.4)
    assert (unit_of("gold_bits_per_byte"), unit_of("gold_probability")) == ("bits per byte", "share")
    assert (in_unit("gold_bits_per_byte", 2.0, None), in_unit("accuracy", 0.4)) == (["2.000", "0.000"], ["40.0"])


class TestHeadroom:
    def test_values_of_gold_probability(self, many: ResultsMatrix, tmp_path: Path) -> None:
        rows, page = command(many, "headroom", "gold_probability", tmp_path / "t", "--seeds", "7", "--joint")
        row = next(r for r in rows if (r["shots"], r["component"], r["task"]) == ("0", "heads", AVERAGE))
        assert (row["outcome"], row["unit"], row["verdict"], row["heads"]) == (
            "gold_probability",
            "share",
            "up to",
            "20",
        )
        assert float(row["value"]) == pytest.approx(probability(2.5 / 3))
        assert float(row["accuracy"]) == pytest.approx(2.5 / 3)
        assert row["relative"] == ""
        assert "# How much of model can be pruned, by gold probability\n" in page
        assert "| gold probability in % ± SE | accuracy ± SE" in page
        assert "the loss of gold probability against the whole model is less than 1 point" in page
        assert "sum over right choices c of p_c / sum over all choices of p" in page
        assert "the test is a paired t test" in page
        assert "are of 95%, from a paired t test over questions" in page
        assert "of the accuracy above chance*" not in page

    def test_a_cost_is_lost_when_it_rises(self, many: ResultsMatrix, tmp_path: Path) -> None:
        rows, page = command(many, "headroom", RELATIVE, tmp_path / "t", "--seeds", "7", "--margin", "12")
        by_cell = {(r["shots"], r["component"], r["ranking"], r["task"]): r for r in rows}
        row = by_cell["0", "heads", "own", "copa"]
        # 9, 9, 8 and 4 of 10 right: at 50% a tenth of the questions costs 1.44 bits more in 4 bytes, or 9%.
        assert float(row["value"]) == pytest.approx(bits(0.9))
        assert (row["unit"], row["verdict"], row["heads"], row["below"]) == ("bits per byte", "up to", "50", "90")
        assert float(row["loss"]) == pytest.approx(bits(0.8) - bits(0.9))
        assert float(row["loss_low"]) < float(row["loss"]) < float(row["loss_high"])
        assert f"| {bits(0.8) - bits(0.9):.3f} (" in page
        assert "less than 12% of the whole model's" in page
        assert "| bits per byte lost (95%) |" in page

    def test_accuracy_stays_as_it_was(self, many: ResultsMatrix, tmp_path: Path) -> None:
        rows, page = command(many, "headroom", "accuracy", tmp_path / "t", "--seeds", "7")
        assert all(row["value"] == row["accuracy"] for row in rows)
        assert "the loss of accuracy against the whole model is less than 2 points" in page
        assert "prunable within 10% of the accuracy above chance" in page
        assert "the test is a score test" in page
        assert "are of 95%, from a bootstrap over questions" in page

    def test_a_task_that_does_not_define_the_outcome_says_so(self, many: ResultsMatrix, tmp_path: Path) -> None:
        leave_one_choice(many, "copa")
        rows = list(headroom.rows(by(many, "gold_probability"), [7]))
        copa = [row for row in rows if row.task == "copa"]
        assert [(row.shots, row.component, row.ranking) for row in copa] == [
            (k, *cell) for k in (0, 5) for cell in headroom.CURVES
        ]
        assert {(row.verdict, row.value, row.loss) for row in copa} == {("inconclusive", None, None)}
        assert copa[0].accuracy == pytest.approx(0.9)
        assert "compares choices" in copa[0].reason
        assert next(row for row in rows if row.task == AVERAGE).tasks == 2
        _, page = command(many, "headroom", "gold_probability", tmp_path / "t", "--seeds", "7")
        assert "some document has one alone, or none that is right or wrong: copa, mathqa" not in page
        assert page.rstrip().endswith(": copa.")


class TestLosses:
    def test_values_of_gold_probability(self, many: ResultsMatrix, tmp_path: Path) -> None:
        rows = {
            (*row[:4], row.percent_heads, row.percent_ffns): row for row in losses.rows(by(many, "gold_probability"))
        }
        row = rows[0, "heads", "own", "copa", 50, 0]
        assert (row.value, row.loss) == pytest.approx((probability(0.8), 0.1 * (2 * RIGHT - 1)))
        assert row.low < row.value < row.high
        assert {row.mcnemar_p for row in rows.values()} == {None}
        _, page = command(many, "losses", "gold_probability", tmp_path / "t", "--seed", "7")
        assert "| gold probability in % (95%) | points lost (95%) |" in page
        assert "its column is empty" in page
        assert "Student's t, a loss from a paired t test over questions" in page

    def test_limits_of_a_cost_are_in_order(self, many: ResultsMatrix) -> None:
        rows = [row for row in losses.rows(by(many, RELATIVE)) if row.task in ("copa", AVERAGE)]
        assert all(row.low <= row.value <= row.high for row in rows)
        row = next(r for r in rows if (r.shots, r.ranking, r.task, r.percent_heads) == (0, "own", "copa", 90))
        assert (row.value, row.loss) == pytest.approx((bits(0.4), bits(0.4) - bits(0.9)))
        assert row.loss > 0

    def test_the_file_of_accuracy_has_its_column(self, many: ResultsMatrix, tmp_path: Path) -> None:
        for outcome, name in (("accuracy", "accuracy"), (RELATIVE, "value")):
            rows, _ = command(many, "losses", outcome, tmp_path / outcome, "--seed", "7")
            assert name in rows[0]
            assert {row["outcome"] for row in rows} == {outcome}


@pytest.mark.parametrize(
    ("outcome", "factor"), [("gold_probability", 2 * RIGHT - 1), (RELATIVE, 0.01 / math.log(2) / 4)]
)
def test_gains_are_positive_where_a_ranking_is_better(many: ResultsMatrix, outcome: Outcome, factor: float) -> None:
    """Each question that is right has the same advantage, so that gains are those of accuracy times it."""
    rows = [gains.rows(by(many, name)) for name in ("accuracy", outcome)]
    assert len(rows[0]) == len(rows[1])
    for accuracy, other in zip(*rows, strict=True):
        assert other[5] == pytest.approx(factor * accuracy[5])
        assert other[-2:] == (outcome, OUTCOMES[outcome].unit)
    assert any(row[5] > 0 for row in rows[1])


def test_ablations_by_gold_probability(tmp_path: Path) -> None:
    study = ablated(small(tmp_path))
    rows, page = command(
        study, "induction_ablation", RELATIVE, tmp_path / "t", "--seed", "7", "--ablated", "piqa", "copa"
    )
    assert {row["McNemar p"] for row in rows} == {""}
    chosen = {"task": AVERAGE, "selection": "prefix_matching", "percent": "20"}
    at_5, gain = (
        next(r for r in rows if (chosen | {"quantity": quantity, "shots": "5"}).items() <= r.items())
        for quantity in (RELATIVE, GAIN)
    )
    # 0.9 of the questions right with all heads at 5 shots, 0.4 without the chosen ones, and 0.1 more than at 0 shots.
    assert float(at_5["whole"]) == pytest.approx(bits(0.9))
    assert float(at_5["lost"]) == pytest.approx(bits(0.4) - bits(0.9))
    assert float(gain["whole"]) == pytest.approx(bits(0.8) - bits(0.9))
    assert "# Without induction heads: model, by bits per byte of the gold continuation\n" in page
    leave_one_choice(study, "copa")
    by_probability = by(study, "gold_probability")
    induction_ablation.write(by_probability, tmp_path / "one")
    assert {row["task"] for row in csv.DictReader((tmp_path / "one.csv").open())} == {"piqa"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("headroom", ["--seeds", "7", "--joint"]),
        ("losses", ["--seed", "7", "--joint"]),
        ("gains", ["--seed", "7", "--controls", "random_1"]),
        ("induction_ablation", ["--seed", "7", "--ablated", "piqa", "copa"]),
    ],
)
def test_a_study_that_does_not_define_an_outcome_says_so(tmp_path: Path, name: str, more: list[str]) -> None:
    study = ablated(small(tmp_path))
    leave_one_choice(study, *study.tasks, *study.unseen)
    rows, page = command(study, name, "gold_probability", tmp_path / "t", *more)
    assert "No task of the study defines gold probability, so this table has no numbers of it." in page
    assert {row["verdict"] for row in rows} == {"inconclusive"} if name == "headroom" else not rows


class TestOutcomes:
    def test_all_that_the_tasks_define_are_compared_in_loops(self, many: ResultsMatrix, tmp_path: Path) -> None:
        leave_one_choice(many, "copa")
        rows, page = write_outcomes(many, tmp_path)
        assert {row["outcome"] for row in rows if row["task"] == "piqa"} == set(OUTCOMES) - {"accuracy_norm"}
        assert {row["outcome"] for row in rows if row["task"] == "copa"} == {"accuracy", RELATIVE, "loss"}
        assert "Left out, since gold probability compares choices, and" in page
        row = the(rows, "piqa", "gold_probability")
        curves = {name: scores_of(many, "piqa", 5, name) for name in ("accuracy", "gold_probability")}
        squared = []
        for levels in curves.values():
            means = [sum(level) / len(level) for level in levels]
            errors = [np.var(levels[0] - level, ddof=1) / len(level) for level in levels[1:]]
            squared.append((max(means) - min(means)) ** 2 / (sum(errors) / len(errors)))
        assert float(row["effective_ratio"]) == pytest.approx(squared[1] / squared[0])
        assert float(row["effective_questions"]) == pytest.approx(400 * squared[1] / squared[0])
        assert float(the(rows, "piqa", "accuracy")["effective_ratio"]) == 1

    def test_values_losses_and_margins(self, many: ResultsMatrix, tmp_path: Path) -> None:
        rows, page = write_outcomes(many, tmp_path, "--outcomes", "accuracy=3", f"{RELATIVE}=2")
        # Of copa 9, 9, 8 and 4 of 10 are right at 0 shots, of piqa 8, 8, 7 and 5.
        row = the(rows, "copa", RELATIVE, shots="0")
        assert (row["percent"], row["questions"], row["unit"]) == ("20", "400", "bits per byte")
        assert float(row["value"]) == pytest.approx(bits(0.9))
        assert (row["margin"], row["margin_unit"]) == ("2.0", "% of the whole model's")
        average = the(rows, AVERAGE, "accuracy", shots="0")
        assert (average["tasks"], average["questions"], average["margin"]) == ("3", "1200", "3.0")
        assert float(average["loss"]) == 0
        assert float(average["power"]) > 0.8
        assert (average["more_questions"], float(average["questions_needed"]) < 400) == ("0", True)
        assert "| 3 points |" in page
        ffns = the(rows, "piqa", "accuracy", shots="0", component="ffns")
        assert (ffns["percent"], float(ffns["loss"])) == ("20", 0.5)
        assert float(ffns["power"]) < 0.8
        assert int(ffns["more_questions"]) == math.ceil(float(ffns["questions_needed"]) - 400) > 0


def write_outcomes(study: ResultsMatrix, folder: Path, *more: str) -> tuple[list[dict[str, str]], str]:
    """The rows of the table of outcomes, and its page."""
    options = ["--tasks", *study.tasks, "--shots", "0", "5", "--seed", "7", "--out", str(folder / "t"), *more]
    assert main(["table", "outcomes", "--results", str(study.results), *options]) == 0
    return list(csv.DictReader((folder / "t.csv").open())), (folder / "t.md").read_text()


def the(
    rows: list[dict[str, str]], task: str, outcome: str, shots: str = "5", component: str = "heads"
) -> dict[str, str]:
    wanted = {"task": task, "outcome": outcome, "shots": shots, "component": component}
    return next(row for row in rows if wanted.items() <= row.items())


def scores_of(study: ResultsMatrix, task: str, shots: int, outcome: str) -> list[Any]:
    """Scores per level of heads under the own ranking, in loops."""
    path = study.curve(task, shots)
    levels = []
    for row in read(path, PRUNED_EVAL).to_pylist():
        if outcome == "accuracy":
            levels.append([float(right) for right in row["correct"]])
        else:
            levels.append([math.exp(a) / (math.exp(a) + math.exp(b)) for a, b in row["log_likelihoods"]])
    return [np.array(level) for level in levels]


def test_another_margin_of_an_outcome_is_stale(many: ResultsMatrix) -> None:
    table = many.results / "tables" / "headroom-gold_probability"
    command(many, "headroom", "gold_probability", table, "--seeds", "7", "--joint")

    def options_differ(**changes: Any) -> list[str]:
        values = {"tasks": list(many.tasks), "shots": [0, 5], "seeds": [7], "models": {"model": {"source": "x"}}}
        files = verify(many.results.parent, Study.model_validate({**values, **changes}))
        (file,) = (file for file in files if file.path.endswith("tables/headroom-gold_probability.csv"))
        return [reason for reason in file.reasons if reason.startswith("made with")]

    assert options_differ(margin=5) == []
    assert options_differ(margins={"gold_probability": 4}) == ["made with margin 1; the study has 4"]
    assert options_differ(margins={"gold_probability": 4}, outcomes=["accuracy"]) == []
