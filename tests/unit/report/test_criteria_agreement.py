"""Tables and figure of why criteria differ, against the artifacts of a small study."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.stats import spearmanr

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.store import read
from lm_headroom.cli import main
from lm_headroom.report.figures import criteria_agreement as figure_of_agreement
from lm_headroom.report.tables import criteria_agreement, linearity
from lm_headroom.results.criteria import read_criteria, read_estimates
from lm_headroom.study.ranking_names import ORACLES
from tests.support.small_study import small


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small(tmp_path_factory.mktemp("study"), selection="scoring")


@pytest.fixture(scope="module")
def table(study):
    return list(criteria_agreement.rows(study))


def test_correlations_are_those_of_the_columns(study, table):
    artifact = read(study.path("head_importance", 5, task="copa"), HEAD_IMPORTANCE)
    rows = [row for row in table if (row.shots, row.component, row.task) == (5, "heads", "copa")]
    assert len(rows) > 20
    for row in rows:
        if {row.a, row.b} & {*ORACLES}:
            continue
        expected = spearmanr(grid(artifact, row.a).ravel(), grid(artifact, row.b).ravel()).statistic
        assert (row.srcc is None and np.isnan(expected)) or row.srcc == pytest.approx(expected)


def test_oracles_are_the_mean_losses_of_each_ffn_and_of_heads_that_were_all_removed(study, table):
    def oracles(component, task):
        return {name for row in table if (row.component, row.task) == (component, task) for name in (row.a, row.b)} & {
            *ORACLES
        }

    assert all(oracles("ffns", task) >= {"oracle_accuracy", "oracle_loss"} for task in study.tasks)
    scores = read_criteria(study, 5, "ffns", "copa")
    oracle = read(study.path("ffn_importance", 5, task="copa"), FFN_IMPORTANCE).sort_by("layer").to_pylist()
    for row, score in zip(oracle, scores["oracle_accuracy"][:, 0], strict=True):
        assert score == pytest.approx(np.mean(row["correct_dense"]) - np.mean(row["correct_ablated"]))
    heads = read(study.path("head_oracle", 5, task="copa"), HEAD_ORACLE).to_pylist()
    grids = read_criteria(study, 5, "heads", "copa")
    assert (len(heads) == grids["token"].size) == ("oracle_loss" in grids)
    for row in heads if "oracle_loss" in grids else ():
        assert grids["oracle_loss"][row["layer"], row["head"]] == pytest.approx(np.mean(row["loss_rises"]))


def test_the_attention_to_the_first_token_is_that_of_heads_pruned_by_one_criterion_alone():
    sink = np.array([[0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95]])
    other = np.arange(10.0)[None]
    ((*_, sunk, kept),) = list(criteria_agreement._pairs({"bos_sink": 1 - sink, "depth": other}, None))
    # The three of the highest attention are 1, 8 and 9; of the three lowest by order, 0, 1 and 2, two are others.
    assert sunk == pytest.approx((0.8 + 0.95) / 2)
    assert kept == pytest.approx((0.1 + 0.2) / 2)


def test_averages_are_means_over_tasks(study, table):
    def values(task):
        return {(row.shots, row.component, row.a, row.b): row.overlap_30 for row in table if row.task == task}

    for key, value in values("average").items():
        assert value == pytest.approx(np.mean([values(task)[key] for task in study.tasks]))


def test_estimates_are_of_all_ffns_and_of_the_heads_that_the_oracle_removed(study):
    estimates = list(read_estimates(study, 0))
    assert [(one.component, one.task) for one in estimates] == [
        ("heads", "copa"),
        *(("ffns", task) for task in study.tasks),
    ]
    rows = [row for row in linearity.rows(study) if row.shots == 0 and row.part == "all"]
    for one, row in zip(estimates, rows, strict=True):
        assert (row.component, row.task, row.values.components) == (one.component, one.task, len(one.rise))
        assert row.values.gap == pytest.approx(np.abs(one.estimate - one.rise).mean())


@pytest.mark.parametrize("name", ["criteria_agreement", "linearity"])
def test_commands_write_their_rows(study, table, tmp_path, name):
    options = ["--tasks", *study.tasks, "--shots", "0", "5", "--seed", "7"]
    assert main(["table", name, "--results", str(study.results), *options, "--out", str(tmp_path / name)]) == 0
    expected = {"criteria_agreement": table, "linearity": [*linearity.rows(study)]}[name]
    assert len(list(csv.DictReader((tmp_path / f"{name}.csv").open()))) == len(expected)


def test_the_figure_has_a_matrix_and_a_scatter_per_component_and_shots(study):
    figure = figure_of_agreement.draw.__wrapped__(study)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert sum(title.startswith("SRCC") for title in titles) == 4
    assert sum(title.startswith("Single ") for title in titles) == 4


def test_pairs_that_differ_have_each_criterions_own_heads_in_its_columns():
    """One criterion prunes the first layer first, the other the last: swapped columns would show."""
    rising = np.arange(20.0).reshape(4, 5)
    matching = np.repeat([[0.1], [0.0], [0.0], [0.9]], 5, axis=1)
    ((a, b, *numbers),) = criteria_agreement._pairs({"up": rising, "down": -rising}, matching)
    srcc, *overlaps, a_depth, b_depth, a_matching, b_matching, _, _ = numbers
    assert (a, b, srcc, overlaps) == ("up", "down", -1, [0, 0, 0])
    # Of 20 heads the lowest 30% are 6: the first layer and one head of the second, or the last and one of the third.
    assert (a_depth, b_depth) == pytest.approx((1 / 18, 17 / 18))
    assert (a_matching, b_matching) == pytest.approx((0.5 / 6, 4.5 / 6))
