"""The data behind each figure, from artifacts written here with known values; and that each figure is drawn."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from headroom.artifacts.cross_shot import CROSS_SHOT
from headroom.artifacts.cross_task import CROSS_TASK
from headroom.artifacts.head_importance import HEAD_IMPORTANCE
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.prompts import PROMPTS
from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.ranking import RANKING
from headroom.artifacts.store import ArtifactError, write
from headroom.correlation import TaskScores, cross_shot, cross_task
from headroom.errors import HeadroomError
from headroom.figures import fig03, fig05, fig08, fig10a, fig12, style
from headroom.figures.study import Study
from headroom.findings import average_curve, chance, findings, flat_until
from headroom.ranking import as_columns, rank_heads

TASKS = ("piqa", "copa")
SHAPE = (4, 5)
PERCENTS = [0, 20, 50, 90]
# Right answers of 10 documents per level: shot -> task -> ranking -> level.
RIGHT = {
    0: {
        "piqa": {"own": [8, 8, 7, 5], "random_1": [8, 5, 5, 5]},
        "copa": {"own": [9, 9, 8, 4], "random_1": [9, 6, 4, 5]},
    },
    5: {
        "piqa": {"own": [7, 7, 7, 4], "random_1": [7, 4, 5, 5]},
        "copa": {"own": [8, 8, 3, 4], "random_1": [8, 5, 4, 5]},
    },
}


def scores(seed):
    return np.random.default_rng(seed).random(SHAPE)


def per_head(values):
    layers, heads = np.indices(values.shape)
    return {"layer": layers.ravel(), "head": heads.ravel()}


@pytest.fixture
def study(tmp_path):
    """A small fixture study of two tasks and two shots."""
    results = tmp_path / "results" / "model"
    made = Study(results, TASKS, (0, 5), 7, rankings=("own", "aggregate", "random_1"))
    for k in made.shots:
        cell = f"{k}shot-seed7"
        by_task = {task: scores(10 * k + i) for i, task in enumerate(TASKS)}
        mean = np.mean(list(by_task.values()), axis=0)
        for task, values in {**by_task, "aggregate": mean}.items():
            columns = {name: values.ravel() for name in ("score", "stderr", "score_even", "score_odd")}
            path = results / "head_importance" / task / f"{cell}.parquet"
            write(path, HEAD_IMPORTANCE, {**per_head(values), **columns}, {})
            path = results / "ranking" / "heads" / task / f"{cell}.parquet"
            write(path, RANKING, as_columns(rank_heads(values), values), {})
        halves = {task: TaskScores(v, v, v) for task, v in by_task.items()}
        table = cross_task(halves, TaskScores(mean, mean, mean))
        write(results / "correlation" / "cross_task" / f"{cell}.parquet", CROSS_TASK, table, {})
        for task in TASKS:
            for name, right in RIGHT[k][task].items():
                correct = [[i < n for i in range(10)] for n in right]
                columns = {
                    "percent": PERCENTS,
                    "n_pruned": [p * 20 // 100 for p in PERCENTS],
                    "parameters_removed": [0] * 4,
                    "accuracy": [n / 10 for n in right],
                    "stderr": [0.1] * 4,
                    "accuracy_norm": [None] * 4,
                    "stderr_norm": [None] * 4,
                    "n_documents": [10] * 4,
                    "n_truncated": [0] * 4,
                    "doc_id": [list(range(10))] * 4,
                    "correct": correct,
                    "correct_norm": [None] * 4,
                }
                write(results / "pruned_eval" / "heads" / task / cell / f"{name}.parquet", PRUNED_EVAL, columns, {})
            n_choices = 4 if task == "piqa" else 2
            columns = {
                "doc_id": np.repeat(np.arange(10), n_choices),
                "purpose": ["evaluation"] * 10 * n_choices,
                "split": ["validation"] * 10 * n_choices,
                "choice": list(range(n_choices)) * 10,
                "context": ["c"] * 10 * n_choices,
                "continuation": [" t"] * 10 * n_choices,
                "gold": ([True] + [False] * (n_choices - 1)) * 10,
                "choice_length": [None] * 10 * n_choices,
            }
            write(tmp_path / "results" / "prompts" / task / f"{cell}.parquet", PROMPTS, columns, {})
    shifted = {k: {t: TaskScores(*[scores(10 * k + i)] * 3) for i, t in enumerate(TASKS)} for k in made.shots}
    write(results / "correlation" / "cross_shot" / "seed7.parquet", CROSS_SHOT, cross_shot(shifted), {})
    matching = scores(99)
    matching[2, 3] = 2.0
    columns = {"mean": matching.ravel(), "variance": [0.0] * 20, "n_sequences": [3] * 20}
    write(results / "induction" / "prefix_matching.parquet", PREFIX_MATCHING, {**per_head(matching), **columns}, {})
    return made


def test_figure_3_shows_the_aggregate_with_layer_1_at_the_bottom(study):
    values = fig03.data(study)
    assert list(values) == [0, 5]
    np.testing.assert_allclose(values[5], (scores(50) + scores(51)) / 2)
    figure, axes = style.panels(1)
    style.head_heatmap(axes[0], values[5], "5-shot", "importance")
    (image,) = axes[0].images
    np.testing.assert_array_equal(image.get_array(), values[5])
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == (0.5, 5.5, 0.5, 4.5), "heads and layers count from 1"
    plt.close(figure)


def test_figure_5_has_a_line_per_task_and_their_average(study):
    curves = fig05.data(study)[0]
    assert curves.percent.tolist() == PERCENTS
    assert curves.tasks["piqa"].tolist() == [0.8, 0.8, 0.7, 0.5]
    np.testing.assert_allclose(curves.average, [0.85, 0.85, 0.75, 0.45])
    np.testing.assert_allclose(curves.stderr, np.sqrt(2 * 0.01) / 2)
    assert study.controls == ["random_1"]
    np.testing.assert_allclose(fig05.data(study, "random_1")[5].average, [0.75, 0.45, 0.45, 0.5])


def test_figure_8_is_symmetric_with_the_aggregate_last(study):
    matrix = fig08.data(study)[0]
    assert matrix.shape == (3, 3)
    np.testing.assert_allclose(np.diag(matrix), 1)
    np.testing.assert_allclose(matrix, matrix.T)
    released = Study(study.results, study.tasks, study.shots, study.seed, "argsort")
    assert not np.allclose(fig08.data(released)[0], matrix)


def test_figure_8_names_a_pair_that_is_missing(study):
    wider = Study(study.results, (*TASKS, "wic"), study.shots, study.seed)
    with pytest.raises(ArtifactError, match="no correlation of piqa and wic"):
        fig08.data(wider)


def test_figure_10a_shows_the_means(study):
    assert fig10a.data(study)[2, 3] == 2.0


def test_figures_12_to_14_show_the_tasks_of_one_number_of_shots(study, tmp_path):
    one = replace(study, shots=(5,))
    values = fig12.data(one)
    assert list(values) == list(TASKS)
    np.testing.assert_array_equal(values["copa"], scores(51))
    fig12.draw(one, tmp_path / "f")
    assert (tmp_path / "f.png").stat().st_size > 5000
    with pytest.raises(HeadroomError, match=r"one number of shots, got \[0, 5\]"):
        fig12.data(study)


def test_panels_wrap_into_rows():
    figure, axes = style.panels(9, per_row=7)
    assert len(axes) == 9
    assert len({round(ax.get_subplotspec().get_position(figure).y0, 3) for ax in axes}) == 2
    plt.close(figure)


@pytest.mark.parametrize("module", [fig03, fig05, fig08, fig10a], ids=lambda module: module.__name__[-5:])
def test_each_figure_is_drawn_as_pdf_and_png_and_the_same_each_time(study, tmp_path, module):
    for name in "ab":
        module.draw(study, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.pdf").read_bytes()[:5] == b"%PDF-"
    assert (tmp_path / "a.png").stat().st_size > 5000
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_fourteen_tasks_are_told_apart():
    styles = style.task_styles([f"task{i}" for i in range(14)])
    assert len({(str(s["color"]), s["marker"]) for s in styles.values()}) == 14
    assert len({s["marker"] for s in styles.values()}) == 14


class TestFindings:
    def test_losses_are_paired(self, study):
        curve = average_curve(study, 0, "own")
        np.testing.assert_allclose(curve.loss, [0, 0, 0.1, 0.4])
        # One document of ten lost per task: variance 0.09 * 10 / 9 over 10, two tasks.
        assert curve.loss_stderr[2] == pytest.approx(np.sqrt(2 * 0.1 / 10) / 2)
        assert flat_until(curve) == 50
        assert flat_until(average_curve(study, 5, "own")) == 20

    def test_guessing_is_the_share_of_right_choices(self, study):
        assert chance(study, 0, study.results.parent) == pytest.approx((0.25 + 0.5) / 2)

    def test_sentences_carry_the_numbers(self, study):
        text = findings(study)
        assert "0-shot: average accuracy over 2 tasks is 0.85 ± " in text
        assert "with all heads and 0.45 ± 0.12 with 90 % pruned (guessing: 0.38)" in text
        assert "Up to 50 % pruned the loss is not told from noise (0.10 ± 0.07 at 50 %), and at 90 % it is 0.40" in text
        assert "Layer 3 head 4 (counted from 1) has the highest prefix-matching score, 2.00" in text
        assert "(3 sequences)" in text
        assert "- Between 0 and 5 shots: SRCC of a task's head importances is " in text
        assert "not SRCC" in text
