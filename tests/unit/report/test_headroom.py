"""The headroom table and the table of losses, from a study written with known values."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from lm_headroom.analysis.columns import by_column
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import provenance, read, write
from lm_headroom.cli import main
from lm_headroom.report.tables import criteria, headroom, losses
from lm_headroom.report.tables.headroom import AVERAGE, BOTH
from lm_headroom.results.curves import average, read_curve
from lm_headroom.results.matrix import ResultsMatrix
from tests.support.small_study import HEAD_SIZE, Values, made_of, small, write_study

TASKS = "--tasks piqa copa record --shots 0 5 --joint"
MATRIX = f"{TASKS} --seed 7"
MORE = ("own", "random_1")


@pytest.fixture
def many(tmp_path):
    """A study of 400 questions a task, whose FFNs are ranked by others."""
    return small(tmp_path, repeat=40, selection="scoring")


def prunable(study):
    return {(row.shots, row.component, row.ranking, row.task): row for row in headroom.rows(study, [7])}


def lost(study):
    return {(*row[:4], row.percent_heads, row.percent_ffns): row for row in losses.rows(study)}


class TestHeadroom:
    def test_there_is_a_row_for_every_component_task_and_average(self, many):
        by_cell = prunable(many)
        tasks = (AVERAGE, *many.tasks)
        cells = [(c, r, t) for c, r in (("heads", "own"), ("heads", "aggregate"), ("ffns", "own")) for t in tasks]
        assert list(by_cell) == [(k, *cell) for k in (0, 5) for cell in [*cells, (BOTH, "joint grid", AVERAGE)]]

    def test_the_average_is_tested_by_the_stated_rule(self, many):
        row = prunable(many)[0, "heads", "own", AVERAGE]
        assert (row.verdict, row.heads, row.ffns, row.estimate_heads, row.below) == ("up to", 20, None, 20, 50)
        assert (row.questions, row.parameters, row.loss) == (1200, 4 * HEAD_SIZE, 0)
        assert row.accuracy == pytest.approx(2.5 / 3)
        assert row.random_choice == pytest.approx(1.25 / 3)
        # Of ten questions of piqa the first choice is right three times.
        assert (row.majority, row.chance_level) == pytest.approx((1.3 / 3, 1.3 / 3))
        assert row.paper == "about 70%"

    def test_each_task_has_its_own_chance_level_and_share(self, many):
        by_cell = prunable(many)
        # Piqa at 0 shots keeps 8, 8, 7, 5 of 10 under its own ranking, and at 5 shots 7, 7, 7, 4.
        assert by_cell[0, "heads", "own", "piqa"].heads == 20
        assert by_cell[5, "heads", "own", "piqa"].heads == 50
        assert by_cell[0, "heads", "own", "piqa"].random_choice == 0.25
        row = by_cell[0, "ffns", "own", "piqa"]
        assert (row.verdict, row.heads, row.ffns) == ("up to", None, 0)
        assert by_cell[0, "ffns", "own", "piqa"].paper == "30%"
        # Under the aggregate ranking copa keeps nine at 50%.
        assert by_cell[0, "heads", "aggregate", "copa"].heads == 50

    def test_heads_and_ffns_together(self, many):
        row = prunable(many)[0, BOTH, "joint grid", AVERAGE]
        assert (row.verdict, row.heads, row.ffns, row.loss) == ("prunable", 50, 0, 0)
        assert BOTH not in {row.component for row in headroom.rows(replace(many, joint=False), [7])}

    @pytest.mark.parametrize("shots", [0, 5])
    def test_ffns_and_both_have_an_estimate_only_where_the_evaluation_questions_rank(self, tmp_path, shots):
        by_cell = prunable(small(tmp_path, repeat=40))
        ranked = "the evaluation questions also ranked the FFNs (`ffn.selection: evaluation`)"
        for task in (AVERAGE, "piqa", "copa", "record"):
            row = by_cell[shots, "ffns", "own", task]
            assert (row.verdict, row.ffns, row.below, row.relative, row.loss) == ("estimate only", *[None] * 4)
            assert row.reason == ranked
            assert row.estimate_ffns is not None
            words = headroom.in_words(row)
            assert words[4] == f"estimate only, {row.estimate_ffns}%: {ranked}"
        joint = by_cell[shots, BOTH, "joint grid", AVERAGE]
        assert (joint.verdict, joint.heads, joint.ffns, joint.reason) == ("estimate only", None, None, ranked)
        assert (joint.estimate_heads, joint.estimate_ffns) == (50, 0)
        assert headroom.in_words(joint)[4].startswith("estimate only, 50% of heads and 0% of FFNs: the evaluation")
        assert by_cell[shots, "heads", "own", AVERAGE].verdict == "up to"

    def test_one_task_ranked_by_its_evaluation_questions_spoils_its_row_and_the_average_alone(self, many):
        path = many.path("ffn_importance", 0, task="copa")
        table = read(path, FFN_IMPORTANCE)
        provenance = made_of(many, 0, "copa", options={"selection": "evaluation"})
        write(path, FFN_IMPORTANCE, {name: table.column(name).to_pylist() for name in table.column_names}, provenance)
        by_cell = prunable(many)
        verdicts = {task: by_cell[0, "ffns", "own", task].verdict for task in (AVERAGE, *many.tasks)}
        assert verdicts == {AVERAGE: "estimate only", "piqa": "up to", "copa": "estimate only", "record": "up to"}
        assert by_cell[0, BOTH, "joint grid", AVERAGE].verdict == "estimate only"
        assert by_cell[5, "ffns", "own", AVERAGE].verdict == "up to"

    def test_heads_scored_on_an_evaluation_question_have_an_estimate_only(self, many):
        path = many.results.parent / "prompts" / "copa" / "0shot-seed7.parquet"
        table = read(path, PROMPTS).to_pylist()
        provenance = {"task": "copa", "shots": 0, "seed": 7}
        again = [{**row, "purpose": "importance"} for row in table if row["question"] == 3]
        for split, verdict in (("train", "up to"), ("validation", "estimate only")):
            rows = [*table, *({**row, "split": split} for row in again)]
            write(path, PROMPTS, by_column(rows), provenance)
            by_cell = prunable(many)
            assert by_cell[0, "heads", "own", "copa"].verdict == verdict
            assert by_cell[0, "heads", "own", AVERAGE].verdict == verdict
            # The aggregate ranks by the scores of all tasks, the own ranking of piqa by its own.
            assert by_cell[0, "heads", "aggregate", "piqa"].verdict == (
                "up to" if split == "train" else "estimate only"
            )
            assert by_cell[0, "heads", "own", "piqa"].verdict == "up to"
            assert by_cell[0, BOTH, "joint grid", AVERAGE].verdict == ("prunable" if split == "train" else verdict)

    def test_tasks_at_chance_are_shown_in_an_average_and_left_out_of_what_is_tested(self, tmp_path):
        study = ResultsMatrix(tmp_path / "results" / "m", ("piqa", "copa", "record"), (0,), 7, joint=True)
        values = Values(
            right=lambda k, c, task, r: [5, 5, 5, 5] if task == "record" else [8, 8, 7, 5],
            joint=lambda task: [[5, 5]] * 3 if task == "record" else [[8, 8], [8, 2], [7, 2]],
            repeat=40,
            selection="scoring",
        )
        by_cell = prunable(write_study(study, values))
        for component, ranking in (("heads", "own"), ("heads", "aggregate"), ("ffns", "own")):
            both = [by_cell[0, component, ranking, name] for name in (AVERAGE, headroom.ABOVE_CHANCE)]
            assert [(row.verdict, row.tasks, row.questions) for row in both] == [
                ("estimate only", 3, 1200), ("up to", 2, 800),
            ]  # fmt: skip
            assert both[0].reason == "1 of 3 tasks is at chance level"
            assert both[0].accuracy == pytest.approx(0.7)
            assert both[1].accuracy == pytest.approx(0.8)
            assert by_cell[0, component, ranking, "record"].verdict == "inconclusive"
        joint = [by_cell[0, BOTH, "joint grid", name] for name in (AVERAGE, headroom.ABOVE_CHANCE)]
        assert [(row.verdict, row.tasks) for row in joint] == [("estimate only", 3), ("prunable", 2)]
        assert headroom.in_words(both[1])[3] == "average above chance (2 tasks)"

    def test_a_level_that_prunes_nothing_is_the_whole_model(self, tmp_path):
        """As 20% of four FFNs: it passes any test, and is no share that can be pruned."""
        study = ResultsMatrix(tmp_path / "results" / "m", ("piqa", "copa"), (0,), 7, controls=("random_1",))
        values = Values(right=lambda *_: [8, 8, 3, 3], repeat=40, selection="scoring")
        write_study(study, values)
        for path in (study.curve(task, 0, name, "ffns") for task in study.tasks for name in MORE):
            table = read(path, PRUNED_EVAL).to_pydict()
            table["parameters_removed"][1] = 0
            write(path, PRUNED_EVAL, table, provenance(path))
        row = prunable(study)[0, "ffns", "own", AVERAGE]
        assert (row.verdict, row.ffns, row.estimate_ffns, row.below, row.parameters) == ("up to", 0, 0, 50, 0)
        compared = [row for row in criteria.rows(study) if row.component == "ffns"]
        assert {row.percent for row in compared} == {50, 90}
        assert {row.percent for row in criteria.rows(study) if row.component == "heads"} == {20, 50, 90}

    def test_a_task_alone_has_one_row(self, tmp_path):
        study = ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (0,), 7, joint=True)
        by_cell = prunable(write_study(study, Values(repeat=40, selection="scoring")))
        assert [key[1:] for key in by_cell] == [
            ("heads", "own", "piqa"), ("heads", "aggregate", "piqa"), ("ffns", "own", "piqa"),
            (BOTH, "joint grid", "piqa"),
        ]  # fmt: skip

    def test_the_limits_are_called_what_they_are(self, many, tmp_path):
        headroom.write(many, [7], tmp_path / "headroom")
        page = (tmp_path / "headroom.md").read_text()
        assert "Each of the two bounds is one-sided, at 95%; together they are an interval of 90%." in page
        assert "a power of at least 0.8 to pass at the next level if it lost nothing" in page
        assert "the higher of a uniform random choice and of always giving the same choice" in page

    def test_a_margin_of_its_own(self, many):
        assert prunable(replace(many, margin=15.0))[0, "heads", "own", AVERAGE].heads == 50

    def test_few_questions_are_inconclusive_with_a_reason(self, tmp_path):
        row = prunable(small(tmp_path, repeat=2))[0, "heads", "own", AVERAGE]
        assert (row.verdict, row.heads, row.parameters, row.loss) == ("inconclusive", None, None, None)
        assert "too few questions" in row.reason
        assert headroom.in_words(row)[4].startswith("inconclusive: the study has too few questions (power")

    def test_the_command_writes_numbers_and_words(self, many, tmp_path):
        out = tmp_path / "headroom"
        options = [*TASKS.split(), "--seeds", "7", "--margin", "2"]
        assert main(["table", "headroom", "--results", str(many.results), *options, "--out", str(out)]) == 0
        lines = list(csv.DictReader((tmp_path / "headroom.csv").open()))
        assert len(lines) == len(prunable(many))
        shown = {name: lines[0][name] for name in ("seed", "verdict", "heads", "ffns", "below")}
        assert shown == {"seed": "7", "verdict": "up to", "heads": "20", "ffns": "", "below": "50"}
        page = (tmp_path / "headroom.md").read_text()
        assert "| 0-shot | heads, own | average | up to 20% (point estimate 20%, upper bound 50%) | 4.0 M |" in page
        assert "less than 2 points" in page
        assert "about 70%" in page

    def test_several_seeds_are_told_apart(self, many, tmp_path):
        flat = Values(right=lambda *key: [8] * (3 if "srcc" in key[-1] else 4), repeat=40)
        other = write_study(replace(many, seed=8), flat)
        table_rows = list(headroom.rows(many, [7, 8]))
        assert table_rows == [*headroom.rows(many, [7]), *headroom.rows(other, [8])]
        headroom.write(many, [7, 8], tmp_path / "headroom")
        page = (tmp_path / "headroom.md").read_text()
        assert "| 7 | 0-shot | heads, own | average | up to 20%" in page
        assert "| 8 | 0-shot | heads, own | average | at least 90% (point estimate 90%, no upper bound)" in page

    @pytest.mark.parametrize("margin", ["0", "-1", "101", "two"])
    def test_a_margin_is_percentage_points(self, many, tmp_path, capsys, margin):
        options = [*TASKS.split(), "--seeds", "7", "--margin", margin]
        assert main(["table", "headroom", "--results", "r", *options, "--out", str(tmp_path / "x")]) == 2
        assert "expected percentage points above 0, to 100" in capsys.readouterr().err


class TestLosses:
    def test_every_curve_and_level_is_there(self, many):
        lost_rows = lost(many)
        assert len(lost_rows) == len(list(losses.rows(many)))
        for ranking in ("own", "aggregate", "random_1"):
            for task in (AVERAGE, *many.tasks):
                for percent in (0, 20, 50, 90):
                    assert (0, "heads", ranking, task, percent, 0) in lost_rows
        assert (5, "ffns", "own", "copa", 0, 90) in lost_rows
        assert (0, "ffns", "random_1", "copa", 0, 50) in lost_rows
        assert (0, "ffns", "aggregate", "copa", 0, 50) not in lost_rows
        assert (0, "heads", "lowest_srcc", "copa", 50, 0) in lost_rows
        assert (0, "heads", "own", "mathqa", 50, 0) in lost_rows
        assert (0, BOTH, "joint grid", "copa", 50, 20) in lost_rows

    def test_a_task_has_a_paired_test(self, many):
        row = lost(many)[0, "heads", "own", "copa", 50, 0]
        # 9 and then 8 of 10 right, each forty times.
        assert (row.value, row.loss) == pytest.approx((0.8, 0.1))
        assert row.mcnemar_p == pytest.approx(binomtest(40, 40).pvalue)
        assert row.low < 0.8 < row.high
        assert row.loss_low < 0.1 < row.loss_high
        assert row.stderr == pytest.approx(np.std([1] * 320 + [0] * 80, ddof=1) / 20)
        assert lost(many)[0, "heads", "own", "copa", 0, 0].mcnemar_p == 1.0

    def test_an_average_has_the_bootstrap(self, many):
        row = lost(many)[0, "heads", "own", AVERAGE, 50, 0]
        curve = average([read_curve(many.curve(task, 0)) for task in many.tasks])
        assert row.mcnemar_p is None
        assert (row.low, row.loss_high) == (curve.band.low[2], curve.loss_interval.high[2])
        assert row.questions == 1200

    def test_the_command_writes_all_in_the_csv_and_averages_on_the_page(self, many, tmp_path):
        lists = "--controls random_1 --unseen mathqa --transfer copa"
        options = f"table losses --results {many.results} {MATRIX} {lists} --out {tmp_path / 'losses'}"
        assert main(options.split()) == 0
        assert len(list(csv.reader((tmp_path / "losses.csv").open()))) == len(lost(many)) + 1
        page = (tmp_path / "losses.md").read_text()
        assert "| 0-shot | heads, own | 50% |" in page
        assert "| 0-shot | heads and FFNs, joint grid | 50% and 20% |" in page
        assert "copa" not in page
