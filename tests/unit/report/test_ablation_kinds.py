"""The table of ablations, on curves whose losses are known by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, write
from lm_headroom.cli import main
from lm_headroom.report.tables.ablation_kinds import measure_losses
from lm_headroom.results.curves import read_curve
from lm_headroom.results.matrix import AVERAGE
from tests.support.small_study import PERCENTS, made_of, outcomes, small

RIGHT = {"own": [8, 8, 6, 3], "own_mean": [8, 8, 7, 6], "own_resample": [8, 8, 4, 3], "reversed": [8, 1, 1, 1]}
"""Of 10 questions at 0, 20, 50 and 90%: the study's own ablation is zero. Nothing is pruned at 20%."""


def write_curves(study, k, task, component, right=RIGHT):
    for ranking, n_right in right.items():
        columns = {
            "percent": PERCENTS,
            "n_pruned": [0, 0, 2, 3],
            "parameters_removed": [0, 0, 20, 30],
            "partner": [None] * 4,
            "correlation": [None] * 4,
            **outcomes(n_right),
        }
        provenance = made_of(study, k, task, ranking, options={"ablation": "zero"})
        write(study.curve(task, k, ranking, component), PRUNED_EVAL, columns, provenance)


@pytest.fixture
def study(tmp_path):
    matrix = replace(small(tmp_path), controls=("own_mean", "own_resample", "reversed"))
    for k in matrix.shots:
        for task in matrix.tasks:
            for component in ("heads", "ffns"):
                write_curves(matrix, k, task, component)
    return matrix


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_losses_by_hand(study, component):
    rows = [row for row in measure_losses(study, 0, component) if row.task == "piqa"]
    by_cell = {(row.percent, row.kind): row for row in rows}
    assert list(by_cell) == [(p, kind) for p in (50, 90) for kind in ("zero", "mean", "resample")]
    values = [(by_cell[90, kind].value.value, by_cell[90, kind].lost.value) for kind in ("zero", "mean", "resample")]
    assert values == [pytest.approx(pair) for pair in ((0.3, 0.5), (0.6, 0.2), (0.3, 0.5))]
    assert by_cell[90, "zero"].more is None
    assert by_cell[90, "mean"].more.value == pytest.approx(-0.3)
    assert by_cell[50, "resample"].more.value == pytest.approx(0.2)
    # Questions are paired: equal answers differ by nothing, whatever is drawn.
    assert by_cell[90, "resample"].more == (0, 0, 0)
    low, high = by_cell[90, "mean"].more[1:]
    assert low < -0.3 < high <= 0
    average = [row for row in measure_losses(study, 0, component) if row.task == AVERAGE]
    assert average[1].more.value == pytest.approx(-0.1)
    assert average[1].n_questions == 10 * len(study.tasks)


def test_the_interval_covers_the_true_difference_in_19_of_20_studies(tmp_path):
    """Each question is right with probability 0.6 under zeros; the mean mends a third of the others."""
    rng, n, covered = np.random.default_rng(0), 200, 0
    study = replace(small(tmp_path), tasks=("piqa",), shots=(0,), controls=("own_mean",))
    for _ in range(100):
        zero = rng.random(n) < 0.6
        mean = zero | (rng.random(n) < 1 / 3)
        for ranking, right in (("own", zero), ("own_mean", mean)):
            columns = outcomes([10, 10], n // 10)
            columns |= {"correct": [[True] * n, right.tolist()], "accuracy": [1.0, float(right.mean())]}
            columns |= {"percent": [0, 50], "n_pruned": [0, 2], "parameters_removed": [0, 20]}
            columns |= {"partner": [None] * 2, "correlation": [None] * 2}
            provenance = made_of(study, 0, "piqa", ranking, options={"ablation": "zero"})
            write(study.curve("piqa", 0, ranking), PRUNED_EVAL, columns, provenance)
        more = measure_losses(study, 0, "heads")[1].more
        covered += more.low <= -0.4 / 3 <= more.high
    assert 90 <= covered <= 99


def test_the_command_writes_each_outcome(study, tmp_path):
    words = ["--results", str(study.results), "--tasks", *study.tasks, "--shots", "0", "5", "--seed", str(study.seed)]
    words += ["--controls", *study.controls]
    for outcome in ("accuracy", "gold_bits_per_byte"):
        out = tmp_path / outcome
        assert main(["table", "ablation_kinds", *words, "--outcome", outcome, "--out", str(out)]) == 0
        with out.with_suffix(".csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2 * 2 * (1 + len(study.tasks)) * 2 * 3
        assert {row["ablation"] for row in rows} == {"zero", "mean", "resample"}
        last = rows[5]
        assert (last["percent"], last["ablation"]) == ("90", "resample")
        assert float(last["lost"]) > 0, "a rise of a cost is a loss"
        assert rows[0]["more lost"] == ""
        assert "another scoring document" in out.with_suffix(".md").read_text()


def test_curves_of_other_levels_or_questions_are_refused(study):
    path = study.curve("piqa", 0, "own_mean")
    right = {name: RIGHT[name] for name in ("own", "own_resample")}
    columns = {"percent": [0, 50], "n_pruned": [0, 2], "parameters_removed": [0, 20], "partner": [None] * 2}
    provenance = made_of(study, 0, "piqa", "own_mean", options={"ablation": "zero"})
    write(path, PRUNED_EVAL, columns | {"correlation": [None] * 2} | outcomes([8, 7]), provenance)
    with pytest.raises(ArtifactError, match="have different levels"):
        measure_losses(study, 0, "heads")
    write_curves(study, 0, "piqa", "heads", right)
    columns = {"percent": PERCENTS, "n_pruned": [0, 0, 2, 3], "parameters_removed": [0, 0, 20, 30]}
    columns |= {"partner": [None] * 4, "correlation": [None] * 4} | outcomes(RIGHT["own_mean"], 2)
    write(path, PRUNED_EVAL, columns, provenance)
    assert len(read_curve(path).questions) == 20
    with pytest.raises(ArtifactError, match="hold different questions"):
        measure_losses(study, 0, "heads")
