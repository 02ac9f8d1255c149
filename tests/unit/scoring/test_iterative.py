"""Importance computed again while heads go: against loops, finite differences, and a study with known curves."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lm_headroom.analysis.bootstrap import interval, resample
from lm_headroom.analysis.ranking import rank_heads
from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import ArtifactError, read, write
from lm_headroom.cli import main
from lm_headroom.engine.likelihood import target_log_probabilities
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import ResumeCache
from lm_headroom.models import architectures
from lm_headroom.planning.costs import Load
from lm_headroom.planning.workload import Prompts, operations
from lm_headroom.report.figures import fig05
from lm_headroom.report.findings.page import findings
from lm_headroom.report.tables import losses
from lm_headroom.results.curves import study_curves
from lm_headroom.results.gain import gain
from lm_headroom.results.matrix import AVERAGE
from lm_headroom.scoring import gradient
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.iterative import iterative_ranking, rounds
from lm_headroom.study.ranking_names import ITERATIVE
from lm_headroom.study.reading import read_study
from tests.support import looped_gradient
from tests.support.documents import documents
from tests.support.looped_gradient import looped
from tests.support.small_study import made_of, outcomes, small
from tests.support.tiny_models import tiny_model

# One of each layer, then all of the second.
GONE = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 3)]


def looped_without(family, chosen, gone, monkeypatch):
    """The loops on a model whose heads are gone for good: their part of the output projection is zero."""

    def pruned(name):
        model = tiny_model(name)
        d_head = architectures.head_layout(model).d_head
        with torch.no_grad():
            for layer, head in gone:
                architectures.output_projections(model)[layer].weight[:, head * d_head : (head + 1) * d_head] = 0
        return model

    monkeypatch.setattr(looped_gradient, "tiny_model", pruned)
    return looped(family, chosen)


def test_gates_in_force_equal_loops_on_a_model_without_the_heads(loaded, family, monkeypatch):
    chosen = documents(5)
    absolute, signed = looped_without(family, chosen, GONE, monkeypatch)
    actual = contributions(loaded, chosen, 64, gates=gates_without(loaded.shape, GONE))
    np.testing.assert_allclose(actual.absolute, absolute, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(actual.signed, signed, rtol=1e-8, atol=1e-12)
    assert all((actual.absolute[:, layer, head] == 0).all() for layer, head in GONE)
    whole = contributions(loaded, chosen, 64)
    assert not np.allclose(actual.absolute[:, 0, 0], whole.absolute[:, 0, 0], rtol=1e-3), "and it matters"
    assert (whole.absolute[:, 1] > 0).all(), "the gates are open again"


def test_it_is_the_derivative_of_a_gate_beside_closed_ones(loaded, family):
    eps, tolerance = (1e-5, 1e-5) if family == "opt" else (1e-2, 1e-3)
    (document,) = documents(1, seed=3)
    (batch,) = Batches([document], 100)
    closed = gates_without(loaded.shape, GONE).double()

    def loss(gate):
        gates = closed.clone()
        gates[0, 0] = gate
        with torch.no_grad(), loaded.interventions.gates(gates):
            return -float(target_log_probabilities(loaded, batch).mean())

    difference = (loss(1 + eps) - loss(1 - eps)) / (2 * eps)
    signed = contributions(loaded, [document], 100, gates=closed).signed[0, 0, 0]
    assert signed == pytest.approx(difference, rel=tolerance)


def test_layers_that_are_computed_again_find_the_gates(loaded, monkeypatch):
    chosen, gates = documents(3, seed=8), gates_without(loaded.shape, GONE)
    expected = contributions(loaded, chosen, 10_000, gates=gates)
    plain = gradient.products

    def short_of_memory(model, batch, n_targets, checkpointing=False):
        if not checkpointing:
            raise torch.OutOfMemoryError("no")
        return plain(model, batch, n_targets, checkpointing)

    monkeypatch.setattr(gradient, "products", short_of_memory)
    actual = contributions(loaded, chosen, 10_000, gates=gates)
    np.testing.assert_allclose(actual.absolute, expected.absolute, rtol=1e-7, atol=1e-12)


def test_rounds_by_hand():
    assert rounds(10, 270) == [(p, 27 * p // 10, 27 * (p + 10) // 10) for p in range(0, 100, 10)]
    assert rounds(30, 12) == [(0, 0, 3), (30, 3, 7), (60, 7, 10), (90, 10, 12)]
    assert rounds(10, 4) == [(20, 0, 1), (40, 1, 2), (70, 2, 3), (90, 3, 4)], "rounds in which nothing goes are none"
    assert rounds(100, 5) == [(0, 0, 5)]


def of_criterion(criterion, absolute, signed, sizes):
    """Scores straight from the criterion's formula; pruned heads, whose products are zero, are in no median."""
    example, rise = np.abs(signed).mean(axis=0), (signed**2 / 2 - signed).mean(axis=0)
    small = example <= np.median(example[example > 0])
    large = example + max(0, rise[small].max() - min(example[~small], default=np.inf))
    return {
        "token": absolute.sum(axis=0) / sizes,
        "example": example,
        "loss_rise": -signed.mean(axis=0),
        "fisher": (signed**2).mean(axis=0),
        "second_order": rise,
        "trusted_second_order": np.where(small, rise, large),
    }[criterion]


@pytest.mark.parametrize(
    "criterion", ["token", "example", "loss_rise", "fisher", "second_order", "trusted_second_order"]
)
def test_the_ranking_is_that_of_a_loop(loaded, family, monkeypatch, criterion):
    chosen = documents(5, seed=2)
    sizes = sum(len(d.sequences[0].tokens) - 1 for d in chosen)
    gone, expected = [], []
    for before, after in ((0, 3), (3, 7), (7, 10), (10, 12)):
        absolute, signed = looped_without(family, chosen, gone, monkeypatch)
        score = of_criterion(criterion, absolute, signed, sizes)
        left = sorted(
            (score[layer, head], layer, head) for layer in range(3) for head in range(4) if (layer, head) not in gone
        )
        expected += left[: after - before]
        gone = [(layer, head) for _, layer, head in expected]
    ranking = iterative_ranking(loaded, chosen, 64, 30, criterion)
    assert [ranked.head for ranked in ranking] == gone
    np.testing.assert_allclose([ranked.score for ranked in ranking], [score for score, _, _ in expected], rtol=1e-7)
    assert [ranked.percent for ranked in ranking] == [0] * 3 + [30] * 4 + [60] * 3 + [90] * 2
    once = rank_heads(gradient.scores_by(contributions(loaded, chosen, 64), criterion).score)
    assert [ranked.head for ranked in ranking[:3]] == once[:3]
    assert {ranked.head for ranked in ranking} == set(once)


def test_finished_rounds_are_not_computed_again(loaded, monkeypatch, tmp_path):
    chosen, cache = documents(4), ResumeCache(tmp_path)
    contributions(loaded, chosen, 64, cache=cache)
    calls = []
    plain = gradient.products

    def counted(model, batch, *arguments):
        calls.append(batch.n_documents)
        return plain(model, batch, *arguments)

    monkeypatch.setattr(gradient, "products", counted)
    first = iterative_ranking(loaded, chosen, 64, 50, cache=cache)
    assert sum(calls) == 4, "the first round is that of the plain scores"
    assert iterative_ranking(loaded, chosen, 64, 50, cache=cache) == first
    assert sum(calls) == 4


def test_the_artifact_is_read_as_what_it_is(tmp_path):
    columns = {"rank": [0, 1], "layer": [0, 0], "head": [1, 0], "score": [0.5, 0.1]}
    write(tmp_path / "r", ITERATIVE_RANKING, {**columns, "percent": [0, 50]}, {})
    assert read_ranking(tmp_path / "r", ITERATIVE_RANKING).order == ((0, 1), (0, 0))
    with pytest.raises(ArtifactError, match="expected a ranking artifact, found 'iterative_ranking'"):
        read_ranking(tmp_path / "r", RANKING)


def test_work_is_that_of_so_many_scoring_passes(tmp_path):
    class Costs:
        layers = 3

        def forward(self, load, ffns=1.0):
            return 2.0 * load.columns

        def activations(self, load):
            return 1000.0

        def backward(self, load):
            return 5.0 * load.columns

    prompts = Prompts("t", 0, Load(10, 0, 0), Load(20, 0, 0), Load(30, 0, 0))
    (tmp_path / "s.yaml").write_text("pruning: {schedule: iterative, step: 30, levels: [0, 10, 50]}")
    settings = read_study(tmp_path / "s.yaml")
    assert operations("rank_heads_iteratively", settings, Costs(), prompts) == (4 * 20.0, 4 * 50.0)
    assert operations("evaluate_iterative", settings, Costs(), prompts) == (3 * 60.0, 0.0)


# Right answers of 10 per level under the iterative ranking; see fixture_study.RIGHT for the own ranking's.
ITERATIVE_RIGHT = {"piqa": [8, 8, 8, 7], "copa": [9, 9, 9, 8], "record": [8, 8, 8, 5]}


@pytest.fixture
def study(tmp_path):
    changed = replace(small(tmp_path), iterative=True)
    for k in changed.shots:
        for task, right in ITERATIVE_RIGHT.items():
            own = read(changed.curve(task, k), PRUNED_EVAL)
            kept = ("percent", "n_pruned", "parameters_removed", "partner", "correlation")
            columns = {name: own.column(name).to_pylist() for name in kept} | outcomes(right)
            write(changed.curve(task, k, ITERATIVE), PRUNED_EVAL, columns, made_of(changed, k, task, ITERATIVE))
    return changed


def test_gain_by_hand(study):
    own, other = (study_curves(study, 0, name) for name in ("own", ITERATIVE))
    mean, limits = gain(own, other, [20, 50, 90])
    # Own: 8 7 5, 9 8 4, 8 7 5 of 10. Iterative: 8 8 7, 9 9 8, 8 8 5.
    assert mean == pytest.approx((3 + 5 + 1) / 3 / 30)
    gained = [(other[task].scores[1:] - own[task].scores[1:]).mean(axis=0) for task in study.tasks]
    assert tuple(limits) == pytest.approx(tuple(interval(resample(gained))))
    assert 0 < limits.low < mean < limits.high


def test_the_sentence_says_what_the_interval_allows(study):
    text = findings(study)
    assert (
        "- **Iterative re-scoring of heads improves accuracy with 0-shot prompts.** Against scoring once, it "
        "changes by +10.0 points (+" in text
    )
    assert "), averaged over 3" in text
    assert "of heads pruned and 3 tasks." in text
    assert "Iterative" not in findings(replace(study, iterative=False))
    for k in study.shots:
        for task in study.tasks:
            table = read(study.curve(task, k), PRUNED_EVAL)
            columns = {name: table.column(name).to_pylist() for name in table.column_names}
            write(study.curve(task, k, ITERATIVE), PRUNED_EVAL, columns, made_of(study, k, task, ITERATIVE))
    unchanged = "does not change accuracy significantly with 0-shot prompts.** Against scoring once, it changes by"
    assert f"{unchanged} +0.0 points (+0.0 to +0.0)" in findings(study)


def test_the_table_of_losses_has_its_rows(study):
    actual = {
        (row.shots, row.component, row.ranking, row.task, row.percent_heads, row.percent_ffns): row
        for row in losses.rows(study)
    }
    own, again = (actual[0, "heads", name, "copa", 90, 0] for name in ("own", ITERATIVE))
    # Of ten questions, nine right with all heads: four, and eight.
    assert (own.loss, again.loss) == pytest.approx((0.5, 0.1))
    assert actual[0, "heads", ITERATIVE, AVERAGE, 90, 0].value == pytest.approx(2 / 3)
    assert not any(row.ranking == ITERATIVE for row in losses.rows(replace(study, iterative=False)))


def test_figure_5_has_both_averages_of_heads(study, monkeypatch):
    shown = []
    monkeypatch.setattr(fig05, "iterative_line", lambda axes, curves, *label: shown.append(curves))
    draw = fig05.draw.__wrapped__
    plt.close(draw(study, component="heads"))
    assert len(shown) == 2, "a panel per shot"
    np.testing.assert_allclose(shown[0].average, [2.5 / 3, 2.5 / 3, 2.5 / 3, 2 / 3])
    plt.close(draw(study, component="ffns"))
    plt.close(draw(replace(study, iterative=False), component="heads"))
    assert len(shown) == 2


def test_figure_5_is_drawn_with_the_option(study, tmp_path):
    options = ["--results", str(study.results), "--tasks", *study.tasks, "--shots", "0", "5", "--seed", "7"]
    assert main(["figure", "fig05", *options, "--iterative", "--out", str(tmp_path / "f")]) == 0
    assert (tmp_path / "f.png").stat().st_size > 5000
