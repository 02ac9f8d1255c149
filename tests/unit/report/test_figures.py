"""The data behind each figure, from a study written with known values; and that each figure is drawn."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest

from lm_headroom.analysis.correlation import partners
from lm_headroom.artifacts import ffns as ffn_artifacts
from lm_headroom.artifacts.ordered import read_ffn_ranking
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import ArtifactError, read, write
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.figures import fig03, fig04, fig05, fig07, fig08, fig09, fig10, fig11, fig12, fig18, style
from lm_headroom.report.figures.layout import Layout
from lm_headroom.report.findings.page import findings
from lm_headroom.report.products import named
from lm_headroom.report.tables import gains, losses
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.curves import read_curve, read_grid
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.ranking_names import NAMED_CONTROLS, REVERSED
from tests.support.small_study import PERCENTS, induction, outcomes, scores, small, write_study

TASKS = ["piqa", "copa", "record"]
FIGURES = {
    name: figure
    for name, figure in named("figure").items()
    if name.startswith("fig") and figure.outcome in ("accuracy", "gold_probability")
}


@pytest.fixture
def study(tmp_path):
    return small(tmp_path)


def test_figure_3_shows_the_aggregate_with_layer_1_at_the_bottom(study):
    values = {shots: aggregate.score for shots, aggregate in fig03.data(study).items()}
    assert list(values) == [0, 5]
    np.testing.assert_allclose(values[5], (scores(100) + scores(101) + scores(102)) / 3)
    figure, axes = style.panels(1)
    style.head_heatmap(axes[0], values[5], range(len(values[5])), "5-shot", "importance")
    (image,) = axes[0].images
    np.testing.assert_array_equal(image.get_array(), values[5])
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == (0.5, 5.5, 0.5, 4.5), "heads and layers count from 1"
    plt.close(figure)


def test_no_matplotlibrc_changes_a_figure():
    """One in the working folder would, in a process that imports matplotlib there, and in no warm one."""
    plt.rcParams["lines.dash_capstyle"] = "round"
    plt.close(style.panels(1)[0])
    assert plt.rcParams["lines.dash_capstyle"] == plt.rcParamsDefault["lines.dash_capstyle"] != "round"


def test_figure_4_averages_the_tasks(study):
    importance = fig04.data(study)[0]
    assert importance.tasks["copa"].tolist() == [-0.1, 0, 0.4, 0]
    assert importance.tasks["record"].tolist() == [0.1, 0, 0, 0]
    np.testing.assert_allclose(importance.average, [0.1 / 3, 0, 0.4 / 3, 0])
    # Of 10 questions of copa, 4 are lost at layer 3: the mean over three tasks is 0.13.
    assert 0 < importance.band.low[2] < 0.4 / 3 < importance.band.high[2] < 0.3
    assert importance.band.low[1] == importance.band.high[1] == 0


def test_figures_5_and_6_have_a_line_per_task_and_their_average(study):
    curves = fig05.data(study)[0]
    assert list(curves.tasks) == TASKS
    assert curves.percent == PERCENTS
    assert curves.tasks["piqa"].tolist() == [0.8, 0.8, 0.7, 0.5]
    np.testing.assert_allclose(curves.average, [2.5 / 3, 2.5 / 3, 2.2 / 3, 1.4 / 3])
    # Variances of a question: 0.8 * 0.2 and 0.9 * 0.1; limits are near two standard errors.
    half = (curves.band.high[0] - curves.band.low[0]) / 2
    assert half == pytest.approx(1.96 * np.sqrt((0.16 + 0.09 + 0.16) / 10) / 3, rel=0.15)
    np.testing.assert_allclose(fig05.data(study, ranking="random_1")[5].average, [2.3 / 3, 1.7 / 3, 1.6 / 3, 1.5 / 3])
    np.testing.assert_allclose(fig05.data(study, "ffns")[0].average, [2.5 / 3, 2 / 3, 1.5 / 3, 1.2 / 3])


def test_figure_7_averages_the_grid_with_heads_down_and_ffns_across(study):
    grid = fig07.data(study)[0]
    assert (grid.heads, grid.ffns) == ([0, 50, 70], [0, 20])
    np.testing.assert_allclose(grid.mean, [[2.5 / 3, 2.5 / 3], [2.5 / 3, 0.7 / 3], [1.8 / 3, 0.7 / 3]])
    assert grid.removed[1].tolist() == [10e6, 15e6]
    accuracy, half = fig07.labels(grid)[2, 0].split("\n±")
    assert accuracy == "60.0"
    assert 12 < float(half) < 22


def test_figure_7_colours_span_the_intervals(study, monkeypatch):
    scales = []
    heatmap = fig07.style.heatmap
    monkeypatch.setattr(
        fig07.style,
        "heatmap",
        lambda *a, vmin, vmax, **k: scales.append((vmin, vmax)) or heatmap(*a, vmin=vmin, vmax=vmax, **k),
    )
    plt.close(fig07.draw.__wrapped__(study))
    grids = fig07.data(study).values()
    lowest, highest = min(g.band.low.min() for g in grids), max(g.band.high.max() for g in grids)
    assert scales == [(100 * lowest, 100 * highest)] * 2, "one scale for all panels"
    assert all(lowest < grid.mean.min() < grid.mean.max() < highest for grid in grids)


def test_figures_8_and_15_are_symmetric_with_the_aggregate_last(study):
    matrices = fig08.data(study)
    assert list(matrices) == [0, 5]
    assert matrices[0].shape == (4, 4)
    np.testing.assert_allclose(np.diag(matrices[0]), 1)
    np.testing.assert_allclose(matrices[0], matrices[0].T)
    assert not np.allclose(fig08.data(replace(study, correlation="argsort"))[0], matrices[0])


def test_figure_8_names_a_pair_that_is_missing(study):
    with pytest.raises(ArtifactError, match="no correlation of piqa and wic"):
        fig08.data(replace(study, tasks=(*TASKS, "wic")))


def test_figures_9_16_and_17_have_four_curves_per_transfer_task_and_two_per_unseen(study):
    panels = fig09.data(replace(study, shots=(0,)))
    assert {task: list(curves) for task, curves in panels.items()} == {
        "copa": ["own", "aggregate", "highest_srcc", "lowest_srcc"],
        "mathqa": ["own", "aggregate"],
    }
    highest = panels["copa"]["highest_srcc"]
    assert highest.percent == [0, 50, 90]
    assert highest.mean.tolist() == [0.9, 0.8, 0.5]
    assert fig09.label("highest_srcc", highest) == "highest: piqa (0.75)"
    assert fig09.label("lowest_srcc", panels["copa"]["lowest_srcc"]) == "lowest: record (-0.25)"
    assert fig09.label("own", panels["copa"]["own"]) == "own"


def drawn(monkeypatch, module, study, **what):
    """The figure that a module draws."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, out, provenance: figures.append(figure))
    module.draw(study, Path("x"), **what)
    return figures[0]


def legend(figure):
    """Labels of each legend."""
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return [[text.get_text() for text in legend.get_texts()] for legend in legends]


def test_a_partner_that_is_the_highest_and_the_lowest_is_drawn_once(tmp_path, monkeypatch):
    study = ResultsMatrix(tmp_path / "results" / "m", ("piqa", "copa"), (0,), 7, transfer=("copa",))
    panels = fig09.data(write_study(study))
    assert list(panels["copa"]) == ["own", "aggregate", "highest_and_lowest_srcc"]
    figure = drawn(monkeypatch, fig09, study)
    assert legend(figure) == [["own", "aggregate", "highest and lowest: piqa (0.75)", "chance"]]
    assert [len(ax.lines) for ax in figure.axes] == [4]
    assert "piqa's (highest and lowest correlation, 0.75)" in findings(study)
    lost = {row.ranking for row in losses.rows(study)}
    assert "highest_and_lowest_srcc" in lost
    assert not {"highest_srcc", "lowest_srcc"} & lost


@pytest.mark.parametrize("values", [{"b": 0.4, "c": 0.4, "d": 0.4}, {"b": -1.0}, {"b": 0.0, "c": float("nan")}])
def test_tied_partners_are_one(values):
    chosen = partners("a", {"a": 1.0, **values})
    assert chosen["highest_srcc"] == chosen["lowest_srcc"]


@pytest.mark.parametrize(
    ("module", "what", "limits"),
    [(fig04, {}, "interval"), (fig05, {"component": "heads"}, "band"), (fig05, {"component": "ffns"}, "band")],
)
def test_a_task_alone_is_drawn_once(tmp_path, monkeypatch, module, what, limits):
    alone = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (0,), 7))
    labels = legend(drawn(monkeypatch, module, alone, **what))[0]
    chance = ["chance"] if module is fig05 else []
    assert labels == [f"piqa, 95% {limits}", *chance]
    two = write_study(ResultsMatrix(tmp_path / "other" / "results" / "m", ("piqa", "copa"), (0,), 7))
    assert legend(drawn(monkeypatch, module, two, **what))[0] == ["piqa", "copa", f"average, 95% {limits}", *chance]


def test_a_task_alone_is_one_row_of_tables_and_one_curve_of_capacity(tmp_path, monkeypatch):
    alone = ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (0,), 7, controls=("random_1",), joint=True)
    write_study(alone)
    assert {row.task for row in losses.rows(alone)} == {"piqa"}
    assert {row[2] for row in gains.rows(alone)} == {"piqa"}
    assert legend(drawn(monkeypatch, fig18, alone, score="copying")) == [["piqa", "at random"]]
    losses.write(alone, tmp_path / "losses")
    assert "| 0-shot | heads, own | 50% |" in (tmp_path / "losses.md").read_text()


def test_of_two_tasks_there_is_one_correlation(tmp_path):
    study = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa", "copa"), (0,), 7))
    (sentence,) = [line for line in findings(study).splitlines() if "SRCC between the head importances" in line]
    assert "on average" not in sentence.split(";")[0]
    assert "1 pair)" not in sentence


def test_figure_10_shows_the_means(study):
    values = fig10.data(study)
    assert values["prefix_matching"].scores[2, 3] == values["copying"].scores[3, 0] == 2.0


def test_figure_11_has_a_curve_per_shot(study):
    curves = fig11.data(study)["copying"]
    assert list(curves) == [0, 5]
    aggregate, kept = (scores(0) + scores(1) + scores(2)) / 3, induction("copying")
    first = np.unravel_index(np.argmin(aggregate), aggregate.shape)
    assert curves[0].percent[:2].tolist() == [0, 5]
    np.testing.assert_allclose(curves[0].retained[:2], [1, 1 - kept[first] / kept.sum()])
    np.testing.assert_allclose(curves[0].retained[-1], 0, atol=1e-12)


def test_figures_12_to_14_show_the_tasks_of_one_number_of_shots(study):
    values = fig12.data(replace(study, shots=(5,)))
    assert list(values) == TASKS
    np.testing.assert_array_equal(values["copa"].score, scores(101))


@pytest.mark.parametrize(
    ("provenance", "unit"),
    [
        ({}, "nats"),
        ({"options": {"criterion": "fisher"}}, "nats^2"),
        ({"criterion": "output_norm"}, "activations"),
        ({"criterion": "token", "options": {"aggregate": "mean"}}, "nats"),
        ({"criterion": "token", "options": {"aggregate": "mean_rank"}}, "rank, mean over tasks"),
    ],
)
def test_scores_are_in_the_unit_of_their_criterion(study, provenance, unit):
    scores = fig03.data(study)[5]
    assert replace(scores, artifact=replace(scores.artifact, provenance=provenance)).unit == unit


@pytest.mark.parametrize("module", [fig09, fig12])
def test_figures_of_one_number_of_shots_refuse_several(study, module):
    with pytest.raises(HeadroomError, match=r"one number of shots, got \[0, 5\]"):
        module.data(study)


def test_a_figure_of_other_rankings_without_a_task_is_refused(study):
    with pytest.raises(HeadroomError, match="name them as --transfer or --unseen"):
        fig09.draw.__wrapped__(replace(study, shots=(0,), transfer=(), unseen=()))


@pytest.mark.parametrize("width", ["single", "double"])
def test_figure_8_leaves_its_cells_room_beside_long_names(study, monkeypatch, width):
    tasks = tuple(f"mmlu_high_school_government_and_politics_{i}" for i in range(4))
    values = np.full((5, 5), 0.5)
    monkeypatch.setattr(fig08, "ceilings", lambda matrix: {0: fig08.Ceilings(values, style.numbers(values))})
    with style.laid_out(Layout(width)):
        figure = fig08.draw.__wrapped__(replace(study, tasks=tasks))
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert min(box.width, box.height) > 0.75 * figure.dpi
    plt.close(figure)


def test_figures_18_and_19_have_a_curve_per_task_and_the_aggregate(study):
    curves = fig18.data(study, "prefix_matching")[5]
    assert list(curves) == [*TASKS, "aggregate"]
    first = np.unravel_index(np.argmin(scores(101)), (4, 5))
    kept = induction("prefix_matching")
    np.testing.assert_allclose(curves["copa"].retained[1], 1 - kept[first] / kept.sum())
    with pytest.raises(ArtifactError, match="no copying capacity of wic"):
        fig18.data(replace(study, tasks=("wic",)), "copying")


def test_panels_wrap_into_rows():
    for layout, rows, inches in ((Layout("double"), 3, 6.30), (Layout("single"), 9, 3.03)):
        with style.laid_out(layout):
            figure, axes = style.panels(9, per_row=7)
        assert len(axes) == 9
        assert len({round(ax.get_subplotspec().get_position(figure).y0, 3) for ax in axes}) == rows
        assert figure.get_figwidth() == pytest.approx(inches)
        plt.close(figure)


@pytest.mark.parametrize("width", ["single", "double"])
def test_files_fit_a_paper(study, tmp_path, width):
    """Width and type at the size of print, fonts as TrueType in the PDF, and an SVG of the same size."""
    fig05.draw(study, tmp_path / "f", layout=Layout(width, "none"), component="heads")
    points = {"single": 3.03, "double": 6.30}[width] * 72
    pdf = (tmp_path / "f.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    (box,) = re.findall(rb"/MediaBox *\[ *0 0 ([\d.]+)", pdf)
    assert float(box) == pytest.approx(points, abs=0.5)
    svg = (tmp_path / "f.svg").read_text()
    assert float(re.search(r'<svg [^>]*width="([\d.]+)pt"', svg.replace("\n", " "))[1]) == pytest.approx(
        points, abs=0.5
    )
    assert "<dc:date>" not in svg


def test_a_figure_without_title_has_none_and_its_type_has_eight_points(study):
    with style.laid_out(Layout(title="none")):
        figure = fig05.draw.__wrapped__(study, "heads")
    assert not figure.get_suptitle()
    sizes = {text.get_fontsize() for ax in figure.axes for text in (ax.title, ax.xaxis.label, *ax.get_xticklabels())}
    assert sizes == {8}
    plt.close(figure)


def test_cells_have_contrast():
    for colour in plt.get_cmap("cividis")(np.linspace(0, 1, 200)):
        light, dark = sorted([style.luminance(colour), style.luminance(style.ink_on(colour))], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_cells_are_written_in_their_places(study):
    figure = fig08.draw.__wrapped__(study)
    shown = fig08.ceilings(study)[0]
    written = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert written == {(j + 0.5, i + 0.5): shown.texts[i, j] for i, j in np.ndindex(shown.texts.shape)}
    frames = figure.axes[0].patches
    assert len(frames) == 4
    assert not any(frame.get_clip_on() for frame in frames)
    plt.close(figure)


def test_scales_of_importance_and_capacity(study):
    values = np.array([[0.1, 0.2], [5.0, 100.0]])
    ranks, _ = style.heat_scale(values, "rank")
    np.testing.assert_allclose(ranks, [[0, 100 / 3], [200 / 3, 100]])
    _, look = style.heat_scale(values, "log")
    assert (look["norm"].vmin, look["norm"].vmax) == (0.1, 100)
    with style.laid_out(Layout(capacity_scale="difference")):
        figure = fig18.draw.__wrapped__(study, "copying")
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "copa"]
    curve = fig18.data(study, "copying")[0]["copa"]
    np.testing.assert_allclose(line.get_ydata(), 100 * curve.retained - (100 - curve.percent))
    assert figure.axes[0].get_ylabel().replace("\n", " ") == "copying score retained beyond chance (points)"
    plt.close(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_drawn_as_pdf_and_png_from_the_command_line(study, tmp_path, name):
    # Figures of one number of shots cannot show both.
    shots = ["0"] if FIGURES[name].caption in ("fig09", "fig12") else ["0", "5"]
    judged = [FIGURES[name].base, "--outcome", FIGURES[name].outcome]
    options = [] if name == "fig10" else ["--tasks", *TASKS, "--shots", *shots, "--seed", "7"]
    lists = ["--controls", "random_1", "--unseen", "mathqa", "--transfer", "copa"]
    out = tmp_path / "figure"
    assert main(["figure", *judged, "--results", str(study.results), *options, *lists, "--out", str(out)]) == 0
    assert (tmp_path / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "figure.pdf").read_bytes()[:5] == b"%PDF-"
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_random_orders_are_one_band_and_other_controls_a_line_each():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    values = {"random_1": [0.8, 0.5], "random_2": [0.8, 0.7], "reversed": [0.8, 0.3], "magnitude": [0.8, 0.4]}
    fig05.draw_controls(axes, {n: fig05.Curves([0, 50], {}, np.array(v), np.zeros(2)) for n, v in values.items()})
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["average, random (range of 2)", "average, reversed", "average, magnitude"]
    np.testing.assert_allclose(lines["average, random (range of 2)"].get_ydata(), [80, 60])
    (band,) = axes.collections
    edge = band.get_paths()[0].vertices
    assert (edge[edge[:, 0] == 50][:, 1].min(), edge[edge[:, 0] == 50][:, 1].max()) == pytest.approx((50, 70))
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 3


def test_every_ranking_that_a_study_may_name_is_drawn_and_looks_like_no_other():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    custom = ["learned", "mine", "random_baseline"]
    names = [REVERSED, *NAMED_CONTROLS, *custom]
    curves = fig05.Curves([0, 50], {}, np.array([0.8, 0.5]), np.zeros(2))
    fig05.draw_controls(axes, dict.fromkeys(names, curves), custom=custom)
    assert [line.get_label() for line in axes.lines] == [f"average, {name.replace('_', ' ')}" for name in names]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}) == len(names)


def test_a_long_legend_makes_a_figure_higher_and_leaves_its_panels_as_they_are():
    heights, panel_heights = [], []
    for labels in (3, 30):
        figure, (axes,) = style.panels(1)
        for i in range(labels):
            axes.plot([0, 1], [0, i], label=f"average, ranking {i}")
        style.legend_below(figure, axes)
        figure.draw_without_rendering()
        heights.append(figure.get_figheight())
        panel_heights.append(axes.get_window_extent().height / figure.dpi)
        plt.close(figure)
    assert heights[1] > heights[0] + 1
    assert panel_heights[1] > 0.75 * panel_heights[0]


def test_curves_of_ffns_have_the_controls_that_need_no_scores_of_heads(study):
    figure = fig05.draw.__wrapped__(replace(study, controls=("target", "random_1")), "ffns")
    labels = [line.get_label() for line in figure.axes[1].lines]
    plt.close(figure)
    assert "average, random order" in labels
    assert not any("target" in label for label in labels)


@pytest.mark.parametrize("module", [fig03, fig11])
def test_the_same_data_give_the_same_bytes(study, tmp_path, module):
    for name in "ab":
        module.draw(study, tmp_path / name)
    for suffix in (".png", ".pdf", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_every_figure_of_the_paper_has_a_module():
    assert sorted({figure.base for figure in FIGURES.values()}) == [f"fig{number:02}" for number in range(3, 20)]
    for figure in FIGURES.values():
        assert import_module(f"lm_headroom.{figure.module}").__doc__.startswith("Figure")


def test_sixteen_tasks_are_told_apart():
    known = style.task_styles(style.KNOWN_TASKS)
    styles = [*known.values(), *style.task_styles([f"task{i}" for i in range(16)]).values()]
    assert len({(str(s["color"]), s["marker"], s["linestyle"]) for s in styles}) == 32
    assert len({s["marker"] for s in known.values()}) == 16
    greys = [s["color"] for s in styles if max(s["color"]) - min(s["color"]) < 0.1]
    assert not greys, "grey and black are of controls and averages"


def test_a_task_looks_the_same_in_every_study():
    for task in ("piqa", "capitals"):
        looks = [style.task_styles(tasks)[task] for tasks in ([task], ["copa", task, "mine"], ["a", "b", task])]
        assert looks[0] == looks[1] == looks[2]


def test_titles_fit_the_figure():
    figure, _ = style.panels(1)
    style.headline(figure, "Rank correlation of head importance between tasks, SmolLM2-135M-Instruct")
    assert max(map(len, figure.get_suptitle().splitlines())) <= 14 * figure.get_figwidth()
    plt.close(figure)


class TestReaders:
    def test_ffn_rows_are_the_layers_each_once(self, tmp_path):
        table = pa.table({"layer": [2, 0, 1], "score": [0.3, 0.1, None]})
        np.testing.assert_array_equal(ffn_artifacts.layers(table, "score"), [0.1, np.nan, 0.3])
        path = tmp_path / "r.parquet"
        for layers in ([0, 2], [0, 0], [], [-1, 0]):
            write(path, FFN_RANKING, {"rank": range(len(layers)), "layer": layers, "score": [0.0] * len(layers)}, {})
            with pytest.raises(ArtifactError, match="do not number .* layers from 0, each once"):
                read_ffn_ranking(path)

    def test_an_ffn_ranking_is_read_in_order(self, tmp_path):
        path = tmp_path / "r.parquet"
        write(path, FFN_RANKING, {"rank": [1, 0, 2], "layer": [0, 2, 1], "score": [0.2, 0.1, 0.3]}, {})
        assert read_ffn_ranking(path).order == (2, 0, 1)
        write(path, FFN_RANKING, {"rank": [1, 0, 3], "layer": [0, 2, 1], "score": [0.2, 0.1, 0.3]}, {})
        with pytest.raises(ArtifactError, match="3 rows do not number 4 ranks from 0, each once"):
            read_ffn_ranking(path)

    def test_a_grid_is_read_whatever_the_order_of_its_cells(self, study, tmp_path):
        path = study.path("joint_eval", 0, task="copa")
        table = read(path, JOINT_EVAL)
        mixed = table.take([5, 0, 3, 1, 4, 2])
        columns = {name: mixed.column(name).to_pylist() for name in mixed.column_names}
        write(tmp_path / "grid.parquet", JOINT_EVAL, columns, {})
        grid = read_grid(tmp_path / "grid.parquet")
        np.testing.assert_array_equal(grid.mean, read_grid(path).mean)
        np.testing.assert_array_equal(grid.scores, read_grid(path).scores)
        columns = {name: values[:-1] for name, values in columns.items()}
        write(tmp_path / "grid.parquet", JOINT_EVAL, columns, {})
        with pytest.raises(ArtifactError, match="must be a grid"):
            read_grid(tmp_path / "grid.parquet")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"percent": [0, 50, 20, 90]}, r"levels must ascend from 0, got \[0, 50, 20, 90\]"),
            ({"percent": [10, 20, 50, 90]}, "levels must ascend from 0"),
            ({"doc_id": [[*range(10)]] * 3 + [[*range(1, 11)]]}, "rows hold different questions"),
            ({"doc_id": [[*range(10)]] * 3 + [[*range(9)]]}, "rows hold different questions"),
        ],
    )
    def test_a_curve_is_checked(self, study, tmp_path, change, message):
        from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL

        columns = {
            **{name: [0, 1, 2, 3] for name in ("percent", "n_pruned", "parameters_removed")},
            **{name: [None] * 4 for name in ("partner", "correlation")},
            **outcomes([8, 7, 6, 5]),
            **change,
        }
        write(tmp_path / "curve.parquet", PRUNED_EVAL, columns, {})
        with pytest.raises(ArtifactError, match=message):
            read_curve(tmp_path / "curve.parquet")


@pytest.mark.parametrize("module", [fig05, fig09])
def test_the_line_of_chance_is_the_prompts_level_where_an_outcome_has_one(study, monkeypatch, module):
    what = {"component": "heads"} if module is fig05 else {}
    shown = study.changed(unseen=()) if module is fig05 else study.changed(shots=(0,))
    tasks = shown.tasks if module is fig05 else tuple(fig09.data(shown))[:1]
    levels = read_chance_levels(shown.changed(tasks=tasks, unseen=())).values()
    lines = [line for line in drawn(monkeypatch, module, shown, **what).axes[0].lines if line.get_label() == "chance"]
    np.testing.assert_allclose([line.get_ydata() for line in lines], [[100 * np.mean([v.level for v in levels])] * 2])
    costs = drawn(monkeypatch, module, shown.changed(outcome="loss"), **what)
    assert not any("chance" in labels for labels in legend(costs))
