"""Figures of each outcome: what is drawn equals the artifacts' scores, in units and direction that the axes name."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.store import provenance, read, write
from lm_headroom.cli import main
from lm_headroom.report.figures import fig04, fig05, fig07, fig09, induction_ablation, judged, prunable_share
from lm_headroom.study.choices import OUTCOMES
from tests.support.ablated_study import ablated
from tests.support.small_study import JOINT, leave_one_choice, small

# What readers are shown of a question that is answered right and of one that is not; log p are -1 and -2 nats, and the
# right choice has 4 bytes and 1 token, the other 5 and 2.
SHOWN = {
    "accuracy": (100, 0),
    "gold_probability": (100 / (1 + np.exp(-1)), 100 / (1 + np.exp(1))),
    "gold_bits_per_byte": (1 / (4 * np.log(2)), 2 / (4 * np.log(2))),
    "loss": (1, 2),
    "margin": (-1 / 4 + 2 / 5, -2 / 4 + 1 / 5),
}
COSTS = ("gold_bits_per_byte", "loss")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def drawn():
    """Draw a figure of a matrix; it is closed afterwards."""
    yield lambda module, matrix, **what: module.draw.__wrapped__(matrix, **what)
    plt.close("all")


def mean(outcome, right):
    """Mean of what is shown of 10 questions so many of which are answered right."""
    of_right, of_wrong = SHOWN[outcome]
    return (np.array(right) * of_right + (10 - np.array(right)) * of_wrong) / 10


def line(axes, label):
    (one,) = [line for line in axes.lines if line.get_label() == label]
    return one.get_ydata()


def words(figure):
    """All that a figure says outside its panels."""
    titles = [legend.get_title().get_text() for legend in figure.legends]
    return " ".join([figure.get_suptitle(), figure.get_supxlabel(), *titles]).replace("\n", " ")


@pytest.mark.parametrize("outcome", SHOWN)
def test_figure_5_draws_scores_as_readers_expect_them(study, drawn, outcome):
    figure = drawn(fig05, study.changed(outcome=outcome), component="heads")
    axes = figure.axes[0]
    np.testing.assert_allclose(line(axes, "copa"), mean(outcome, [9, 9, 8, 4]), rtol=1e-5)
    averages = [mean(outcome, values) for values in ([8, 8, 7, 5], [9, 9, 8, 4], [8, 8, 7, 5])]
    np.testing.assert_allclose(line(axes, "average, 95% band"), np.mean(averages, axis=0), rtol=1e-5)
    controls = [mean(outcome, values) for values in ([8, 5, 5, 5], [9, 6, 4, 5], [8, 8, 7, 5])]
    rankings = figure.axes[1]
    np.testing.assert_allclose(line(rankings, "average, random order"), np.mean(controls, axis=0), rtol=1e-5)
    assert line(rankings, "average, 95% band") == pytest.approx(line(axes, "average, 95% band"))
    band = axes.collections[0].get_paths()[0].vertices
    at_50 = band[band[:, 0] == 50][:, 1]
    assert at_50.min() < line(axes, "average, 95% band")[2] < at_50.max()
    assert ("lower is better" in axes.get_ylabel()) == (outcome in COSTS)
    assert words(figure).startswith(judged.subject(outcome) + " with the least important heads pruned")


@pytest.mark.parametrize("outcome", SHOWN)
def test_figure_4_draws_what_of_the_outcome_is_lost(study, drawn, outcome):
    figure = drawn(fig04, study.changed(outcome=outcome))
    right, wrong = SHOWN[outcome]
    lost = np.array([-1, 0, 4, 0]) / 10 * abs(right - wrong)
    np.testing.assert_allclose(line(figure.axes[0], "copa"), lost, rtol=1e-5, atol=1e-7)
    (intervals,) = figure.axes[0].collections
    (at_layer_3,) = [ends for ends in intervals.get_segments() if ends[0, 0] == 3]
    assert at_layer_3[:, 1].min() < line(figure.axes[0], "average, 95% interval")[2] < at_layer_3[:, 1].max()
    assert ("FFNs are ranked by another outcome: accuracy." in words(figure)) == (outcome != "accuracy")


def test_figure_4_does_not_depend_on_what_ranked_the_ffns(tmp_path, drawn):
    study = small(tmp_path)
    for path in (study.path("ffn_importance", k, task=task) for k in study.shots for task in study.tasks):
        columns = read(path, FFN_IMPORTANCE).to_pydict() | {"score": [9.0] * 4}
        write(path, FFN_IMPORTANCE, columns, provenance(path) | {"options": {"metric": "loss"}})
    figure = drawn(fig04, study)
    np.testing.assert_allclose(line(figure.axes[0], "copa"), [-10, 0, 40, 0])
    assert "FFNs are ranked by another outcome: loss of the gold continuation." in words(figure)
    assert "ranked" not in words(drawn(fig04, study.changed(outcome="loss")))


@pytest.mark.parametrize("outcome", SHOWN)
def test_figure_7_is_bright_where_the_model_is_better(study, drawn, outcome):
    figure = drawn(fig07, study.changed(outcome=outcome))
    (mesh,) = figure.axes[0].collections
    rights = [JOINT[task] for task in ("piqa", "copa", "piqa")]
    expected = np.mean([mean(outcome, right) for right in rights], axis=0)
    np.testing.assert_allclose(np.ravel(mesh.get_array()), expected.ravel(), rtol=1e-5)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [float(text.split("\n±")[0]) for text in texts] == pytest.approx(expected.ravel(), abs=0.051)
    assert all(float(text.split("\n±")[1]) > 0 for text in texts)
    low, high = mesh.get_clim()
    assert low < expected.min() < expected.max() < high
    # The whole model is the best cell.
    brightness = mesh.get_cmap()(mesh.norm(expected.ravel()))[:, :3].sum(axis=1)
    assert brightness[0] == brightness.max() > brightness[-1]


@pytest.mark.parametrize("outcome", SHOWN)
def test_figure_9_draws_each_ranking_within_its_band(study, drawn, outcome):
    figure = drawn(fig09, study.changed(outcome=outcome, shots=(0,)))
    copa = figure.axes[0]
    np.testing.assert_allclose(line(copa, "highest: piqa (0.75)"), mean(outcome, [9, 8, 5]), rtol=1e-5)
    rankings = [line.get_label() for line in copa.lines if line.get_label() != "chance"]
    for band, label in zip(copa.collections, rankings, strict=True):
        edge = band.get_paths()[0].vertices
        at_50 = edge[edge[:, 0] == 50][:, 1]
        assert at_50.min() < line(copa, label)[-2] < at_50.max(), label
    assert ("lower is better" in copa.get_ylabel()) == (outcome in COSTS)


@pytest.mark.parametrize("outcome", SHOWN)
def test_the_ablation_of_induction_heads_draws_levels_and_gains(tmp_path, drawn, outcome):
    study = ablated(small(tmp_path))
    figure = drawn(induction_ablation, study.changed(outcome=outcome))
    level, gain = figure.axes[1], figure.axes[2]
    # Both tasks: 9 right at 5 shots, 7 and 4 without 10 and 20% of heads; 8, 7 and 6 at 0 shots.
    np.testing.assert_allclose(level.lines[1].get_ydata(), mean(outcome, [9, 7, 4]), rtol=1e-5)
    better = abs(np.subtract(*SHOWN[outcome]))
    expected = better * np.array([1, 0, -2]) / 10
    np.testing.assert_allclose(gain.lines[2].get_ydata(), expected, rtol=1e-5, atol=1e-7)
    assert ("lower is better" in level.get_ylabel().replace("\n", " ")) == (outcome in COSTS)
    assert judged.OUTCOMES[outcome].unit in gain.get_ylabel()


def test_the_ablation_of_induction_heads_leaves_out_tasks(tmp_path, drawn):
    study = ablated(small(tmp_path)).changed(outcome="gold_probability")
    leave_one_choice(study, "piqa")
    assert "Not shown: piqa, since" in words(drawn(induction_ablation, study))
    leave_one_choice(study, "copa")
    figure = drawn(induction_ablation, study)
    assert [text.get_text() for text in figure.axes[0].texts] == ["No task of this figure defines gold probability."]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_labels_name_outcome_and_unit_on_short_lines(outcome):
    for label in (judged.level_label(outcome), judged.loss_label(outcome, "without the FFN")):
        # Brackets stay in one line, even where they are longer than the axis.
        assert all(len(line) <= judged.AXIS or line.startswith("(") for line in label.splitlines())
        assert judged.OUTCOMES[outcome].title in label.replace("\n", " ")
        unit = judged.OUTCOMES[outcome].unit
        assert unit in label or (unit == "points" and "(%)" in label)


PARTS = [(fig04, {}), (fig05, {"component": "heads"}), (fig05, {"component": "ffns"}), (fig07, {})]


@pytest.mark.parametrize(("module", "what"), PARTS)
def test_tasks_that_do_not_define_the_outcome_are_left_out_and_named(tmp_path, drawn, module, what):
    study = small(tmp_path)
    leave_one_choice(study, "piqa")
    matrix = study.changed(unseen=(), transfer=())
    figure = drawn(module, matrix.changed(outcome="gold_probability"), **what)
    assert "Not shown: piqa, since gold probability compares choices" in words(figure)
    if module is fig07:
        assert "2 tasks" in words(figure)
    else:
        assert [line.get_label() for line in figure.axes[0].lines if line.get_marker() not in ("", "None", "_")] == [
            *("copa", "record")
        ]
    assert "Not shown" not in words(drawn(module, matrix.changed(outcome="gold_bits_per_byte"), **what))


def test_prunable_shares_name_the_tasks_that_are_left_out(tmp_path, drawn):
    study = small(tmp_path)
    leave_one_choice(study, "piqa", "mathqa")
    figure = drawn(prunable_share, study.changed(outcome="gold_probability"))
    assert "Not shown: piqa, since gold probability compares choices" in words(figure)


def test_transfer_leaves_out_panels(tmp_path, drawn):
    study = small(tmp_path)
    leave_one_choice(study, "mathqa")
    figure = drawn(fig09, study.changed(outcome="gold_probability", shots=(0,)))
    assert [axes.get_title() for axes in figure.axes] == ["copa"]
    assert "Not shown: mathqa, since" in words(figure)


@pytest.mark.parametrize("name", ["fig04", "fig05", "fig06", "fig07", "fig09", "prunable_share"])
def test_a_study_none_of_whose_tasks_defines_the_outcome_is_drawn(tmp_path, monkeypatch, name):
    study = small(tmp_path)
    leave_one_choice(study, *study.tasks, *study.unseen)
    shots = ["0"] if name == "fig09" else ["0", "5"]
    options = ["--tasks", *study.tasks, "--shots", *shots, "--seed", "7"]
    options += [] if name == "prunable_share" else ["--unseen", "mathqa", "--transfer", "copa"]
    texts = []
    monkeypatch.setattr(judged.Figure, "savefig", lambda figure, out, **_: texts.append(figure.axes[0].texts))
    command = ["figure", name, "--outcome", "gold_probability", "--results", str(study.results), *options]
    assert main([*command, "--out", str(tmp_path / "figure")]) == 0
    (text,) = texts[0]
    assert text.get_text() == "No task of this figure defines gold probability."
    assert Path(tmp_path / "figure.png").is_file()
