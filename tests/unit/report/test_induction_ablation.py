"""Ablation of induction heads: which go, what is read off the outcomes, and what table, figure and findings say."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.head_selection import SELECTIONS, control, strongest
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.store import ArtifactError, read, write
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.figures import induction_ablation as figure
from lm_headroom.report.figures import style
from lm_headroom.report.figures.layout import Layout
from lm_headroom.report.findings.induction import ablation_sentences
from lm_headroom.report.findings.page import findings
from lm_headroom.results.ablation import ACCURACY, AVERAGE, GAIN, Cell, effects, select
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.judged import JudgedOutcome
from tests.support.ablated_study import ablated, right, write_ablation
from tests.support.small_study import leave_one_choice, made_of, small

# Ranks by prefix matching 0 1 2 / 3 4 5, by copying 2 4 0 / 1 5 3.
PREFIX = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
COPYING = np.array([[0.4, 0.2, 0.6], [0.5, 0.1, 0.3]])


class TestHeads:
    def test_one_score_ranks_by_itself(self) -> None:
        assert strongest(PREFIX, COPYING, "prefix_matching") == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        assert strongest(PREFIX, COPYING, "copying") == [(0, 2), (1, 0), (0, 0), (1, 2), (0, 1), (1, 1)]

    def test_both_ranks_by_the_worse_rank_then_the_better(self) -> None:
        # Worse ranks 2 4 2 / 3 5 5: heads 0 and 2 of the first layer tie, (0, 0) and (0, 2), and so do 1 and 2 of the
        # second, of which the last has the better rank.
        assert strongest(PREFIX, COPYING, "both") == [(0, 0), (0, 2), (1, 0), (0, 1), (1, 2), (1, 1)]

    @pytest.mark.parametrize("k", range(1, 60))
    def test_by_both_are_heads_that_are_high_in_both(self, k: int) -> None:
        scores = np.random.default_rng(1).random((2, 6, 10))
        chosen = set(strongest(*scores, "both")[:k])
        tops = [strongest(*scores, name) for name in ("prefix_matching", "copying")]
        for r in range(1, 61):
            together = set(tops[0][:r]) & set(tops[1][:r])
            if len(together) <= k:
                assert together <= chosen

    def test_controls_are_of_the_same_layers_without_the_chosen(self) -> None:
        chosen = [(0, 1), (3, 2), (0, 4), (3, 0), (3, 5)]
        controls = [control(chosen, "both", 8, number) for number in range(1, 200)]
        for heads in controls:
            assert sorted(layer for layer, _ in heads) == [0, 0, 3, 3, 3]
            assert len(set(heads)) == 5
            assert not set(heads) & set(chosen)
        counts = {head: sum(head in heads for heads in controls) for heads in controls for head in heads}
        # Each of six others twice, of five others three times: 66 and 119 of 199.
        assert len(counts) == 11
        assert all(abs(n - (66 if layer == 0 else 119)) < 30 for (layer, _), n in counts.items())

    def test_a_layer_with_too_few_others_gives_all_of_them_and_keeps_the_number(self) -> None:
        chosen = [(2, head) for head in range(5)]
        for number in range(1, 9):
            control_heads = control(chosen, "copying", 8, number)
            assert len(set(control_heads)) == 5
            assert {(2, 5), (2, 6), (2, 7)} < set(control_heads)
        assert control([(1, 0), (1, 1)], "copying", 2, 1) == [(1, 0), (1, 1)]

    def test_a_control_is_the_same_for_the_same_heads(self) -> None:
        chosen = [(0, 1), (3, 2), (0, 4)]
        assert control(chosen, "both", 9, 1) == control(chosen[::-1], "both", 9, 1)
        assert control([], "both", 9, 1) == []
        drawn = {str(control(chosen, name, 9, number)) for name in SELECTIONS for number in (1, 2, 3)}
        assert len(drawn) > 6


@pytest.fixture
def study(tmp_path: Path) -> ResultsMatrix:
    return ablated(small(tmp_path))


def change(study: ResultsMatrix, shots: int, task: str, edit) -> None:  # type: ignore[no-untyped-def]
    path = study.path("induction_ablation", shots, task=task)
    rows = [row for row in map(edit, read(path, INDUCTION_ABLATION).to_pylist()) if row is not None]
    write(path, INDUCTION_ABLATION, by_column(rows), made_of(study, shots, task))


class TestEffects:
    def test_losses_by_hand(self, study: ResultsMatrix) -> None:
        selected = select(effects(study), ACCURACY, 5)
        assert list(selected) == [Cell(name, percent) for name in SELECTIONS for percent in (10, 20)]
        e = selected[Cell("prefix_matching", 20)]
        assert (e.task, e.n_heads, e.n_shared, e.n_controls, e.n_questions) == (AVERAGE, 4, 0.5, 2, 20)
        assert e.whole.value == pytest.approx(0.9)
        assert e.ablated.value == pytest.approx(0.4)
        assert e.lost.value == pytest.approx(0.5)
        # One control of two loses a question.
        assert e.control.value == pytest.approx(0.85)
        assert e.control_lost.value == pytest.approx(0.05)
        assert (e.least, e.most) == pytest.approx((0, 0.1))
        assert e.extra.value == pytest.approx(0.45)
        assert e.p_value is None
        assert e.extra.low > 0
        assert e.beyond_controls
        same = selected[Cell("copying", 10)]
        assert (same.lost, same.extra) == ((0, 0, 0), (0, 0, 0))
        assert not same.beyond_controls

    def test_one_task_has_mcnemars_test(self, study: ResultsMatrix) -> None:
        e = select(effects(study), ACCURACY, 5, "copa")[Cell("prefix_matching", 20)]
        assert e.n_questions == 10
        # Five lost of five that changed: 2 / 2 ** 5.
        assert e.p_value == pytest.approx(0.0625)

    def test_gain_lost_is_the_loss_at_these_shots_minus_the_loss_at_none(self, study: ResultsMatrix) -> None:
        e = select(effects(study), GAIN, 5)[Cell("prefix_matching", 20)]
        assert e.whole.value == pytest.approx(0.1)
        assert e.ablated.value == pytest.approx(0.4 - 0.6)
        assert e.lost.value == pytest.approx(0.3)
        assert e.control_lost.value == pytest.approx(0.05)
        assert e.extra.value == pytest.approx(0.25)
        assert e.p_value is None
        assert not select(effects(study), GAIN, 0)

    def test_gains_pair_questions(self, tmp_path: Path) -> None:
        """A task that loses as much at both numbers of shots, on the same questions, loses no gain for certain."""
        study = ablated(small(tmp_path), right=lambda k, task, s, p, c: 8 if s == "none" or c else 6)
        e = select(effects(study), GAIN, 5)[Cell("copying", 20)]
        assert (e.lost, e.extra) == ((0, 0, 0), (0, 0, 0))
        at_5 = select(effects(study), ACCURACY, 5)[Cell("copying", 20)]
        assert at_5.lost.low < at_5.lost.value < at_5.lost.high

    def test_without_0_shots_there_is_no_gain(self, study: ResultsMatrix) -> None:
        assert {e.outcome for e in effects(replace(study, shots=(5,)))} == {ACCURACY}

    def test_more_than_the_average_control_is_not_yet_more_than_each(self, tmp_path: Path) -> None:
        def lost(k: int, task: str, s: str, p: int, c: int | None) -> int:
            return 9 if s == "none" or c == 1 else 3 if c == 2 else 4

        e = select(effects(ablated(small(tmp_path), right=lost)), ACCURACY, 0)[Cell("both", 10)]
        assert e.extra.low > 0
        assert not e.beyond_controls

    def test_other_questions_at_0_shots_are_refused(self, study: ResultsMatrix) -> None:
        change(study, 0, "copa", lambda row: row | {"doc_id": [n + 1 for n in row["doc_id"]]})
        with pytest.raises(
            HeadroomError, match="the few-shot gain of copa compares the same questions at 5 and 0 shots"
        ):
            effects(study)

    def test_other_questions_within_a_file_are_refused(self, study: ResultsMatrix) -> None:
        def edit(row):  # type: ignore[no-untyped-def]
            return row | {"doc_id": [n + 1 for n in row["doc_id"]]} if row["control"] == 1 else row

        change(study, 0, "copa", edit)
        with pytest.raises(ArtifactError, match="rows hold different questions"):
            effects(study)

    @pytest.mark.parametrize(
        "gone",
        [
            lambda row: row["selection"] == "none",
            lambda row: row["control"] is not None and row["selection"] == "both",
            lambda row: row["control"] == 2 and row["percent"] == 20,
            lambda row: row["control"] is None and row["percent"] == 20,
        ],
    )
    def test_half_an_ablation_is_refused(self, study: ResultsMatrix, gone) -> None:  # type: ignore[no-untyped-def]
        change(study, 0, "copa", lambda row: None if gone(row) else row)
        with pytest.raises(
            ArtifactError, match="copa/0shot-seed7.parquet: expected the whole model, then sets of heads"
        ):
            effects(study)

    def test_tasks_of_different_heads_are_refused(self, study: ResultsMatrix) -> None:
        write_ablation(study, 0, "copa", controls=3)
        with pytest.raises(HeadroomError, match="ablate different sets of heads; run the study again"):
            effects(study)

    def test_another_tasks_artifact_is_refused(self, study: ResultsMatrix) -> None:
        source, target = (study.path("induction_ablation", 0, task=task) for task in ("piqa", "copa"))
        target.write_bytes(source.read_bytes())
        with pytest.raises(ArtifactError, match="made from task piqa, expected copa"):
            effects(study)


OPTIONS = ["--tasks", "piqa", "copa", "record", "--shots", "0", "5", "--seed", "7", "--ablated", "piqa", "copa"]


def test_the_table_has_a_row_per_effect(study: ResultsMatrix, tmp_path: Path) -> None:
    out = tmp_path / "table"
    assert main(["table", "induction_ablation", "--results", str(study.results), *OPTIONS, "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    # Two numbers of shots and one gain, the average and two tasks, three selections, two percents.
    assert len(rows) == 3 * 3 * 3 * 2
    chosen = {"quantity": GAIN, "outcome": ACCURACY, "task": AVERAGE, "selection": "prefix_matching", "percent": "20"}
    (row,) = (r for r in rows if chosen.items() <= r.items())
    assert float(row["extra lost"]) == pytest.approx(0.25)
    assert float(row["extra low"]) < 0.25 < float(row["extra high"])
    assert row["McNemar p"] == ""
    assert "Extra lost" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize("shots", ["0 5", "5"])
def test_the_figure_is_drawn(study: ResultsMatrix, tmp_path: Path, shots: str) -> None:
    options = " ".join(OPTIONS).replace("--shots 0 5", f"--shots {shots}").split()
    assert (
        main(["figure", "induction_ablation", "--results", str(study.results), *options, "--out", str(tmp_path / "f")])
        == 0
    )
    assert (tmp_path / "f.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "f.pdf").read_bytes()[:5] == b"%PDF-"


def test_one_level_alone_is_a_dot_plot(study: ResultsMatrix, monkeypatch: pytest.MonkeyPatch) -> None:
    level = [effect for effect in effects(study) if effect.cell.percent == 10]
    monkeypatch.setattr(figure, "effects", lambda matrix: level)
    drawn = figure.draw.__wrapped__(study)  # type: ignore[attr-defined]
    drawn.draw_without_rendering()
    for ax in drawn.axes:
        assert ax.get_window_extent().height / drawn.dpi > 1, "inches, beside legend and title"
    columns = dict.fromkeys((effect.outcome, effect.shots) for effect in level)
    for ax, column in zip(drawn.axes, columns, strict=True):
        shown = select(level, *column).values()
        expected = [estimate.value for effect in shown for estimate in (effect.ablated, effect.control)]
        points = [line.get_xdata()[0] for line in ax.lines if line.get_marker() in ("o", "|")]
        np.testing.assert_allclose(points, 100 * np.array(expected), atol=1e-9)
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == [*SELECTIONS.values()]
    plt.close(drawn)
    # Each row of panels names its choices.
    with style.laid_out(Layout("single")):
        drawn = figure.draw.__wrapped__(study)  # type: ignore[attr-defined]
    assert len(drawn.axes) > 1
    for ax in drawn.axes:
        assert [label.get_text() for label in ax.get_yticklabels()] == [*SELECTIONS.values()]
    plt.close(drawn)


class TestSentences:
    def test_say_what_intervals_allow(self, study: ResultsMatrix) -> None:
        sentences = ablation_sentences(study, read_chance_levels(study))
        # Three selections at 0 shots, at 5, and of the gain, and a note.
        assert len(sentences) == 10
        draws = "the average of 2 random draws of 4 heads from the same layers"
        assert sentences[3].startswith(
            "- **Ablating the top 20% of heads by prefix matching costs more 5-shot accuracy than each random draw.** "
            "The ablation loses 50.0 points ("
        )
        assert ", 45.0 points (" in sentences[3]
        assert f") more than {draws}." in sentences[3]
        assert sentences[3].endswith("With all heads, the 5-shot accuracy averages 0.90 (0.75 to 1.00) over 2 tasks.")
        assert sentences[1].startswith("- **Inconclusive for the top 20% of heads by copying and 0-shot accuracy.** ")
        assert f"loses 0.0 points (0.0 to 0.0), not significantly different from {draws}: the diff" in sentences[1]
        assert "With all heads, the 5-shot accuracy gain averages 10.0 points (0.0 to " in sentences[6]
        assert "(up to 0.5 heads of a draw)" in sentences[9]
        text = findings(study)
        assert all(sentence in text for sentence in sentences)

    def test_less_than_random_and_not_more_than_each(self, tmp_path: Path) -> None:
        def lost(k: int, task: str, s: str, p: int, c: int | None) -> int:
            if s == "copying":
                return 9 if c is None else 4
            return right(k, task, s, p, c) if s != "both" else 4 if c is None else 9 if c == 1 else 3

        study = ablated(small(tmp_path), right=lost)
        (_, copying, both, *_) = ablation_sentences(study, read_chance_levels(study))
        assert "by copying costs less 0-shot accuracy than the average random draw.**" in copying
        assert "The ablation loses -10.0 points (" in copying
        assert ", 50.0 points (" in copying
        assert ") less than the average of 2 random draws of 4 heads from the same layers." in copying
        assert "by both scores costs more 0-shot accuracy than the average random draw, not each.**" in both
        assert "The ablation loses 40.0 points (" in both

    def test_tasks_that_do_not_define_an_outcome_are_not_counted_but_named(self, tmp_path: Path) -> None:
        study = ablated(small(tmp_path))
        leave_one_choice(study, "piqa")
        outcomes = tuple(map(JudgedOutcome.parse, ("accuracy=0.1", "gold_probability=50")))
        at_5 = ablation_sentences(replace(study, outcomes=outcomes), read_chance_levels(study))[3]
        assert "costs more 5-shot gold probability" in at_5
        assert " over 1 task. By accuracy: " in at_5
        assert at_5.endswith(" Gold probability leaves out piqa, not defined there.")
        nothing = replace(study, ablated=("piqa",), outcomes=outcomes[1:])
        assert ablation_sentences(nothing, read_chance_levels(study)) == []

    def test_a_study_without_ablations_says_nothing(self, tmp_path: Path) -> None:
        assert ablation_sentences(small(tmp_path), {}) == []
