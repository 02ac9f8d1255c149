"""The headroom table and the table of losses, from a study written with known values."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from headroom import inflection, losses
from headroom.cli import main
from headroom.figures.accuracy import average, read_curve
from headroom.inflection import AVERAGE, BOTH
from tests.unit.fixture_study import HEAD_SIZE, Values, small, write_study

TASKS = "--tasks piqa copa record --shots 0 5 --joint"
MATRIX = f"{TASKS} --seed 7"


@pytest.fixture
def many(tmp_path):
    """A study of 400 questions a task."""
    return small(tmp_path, repeat=40)


def certified(study):
    return {(row.shots, row.component, row.ranking, row.task): row for row in inflection.rows(study, [7])}


def lost(study):
    return {row[:6]: row for row in losses.rows(study)}


class TestHeadroom:
    def test_there_is_a_row_for_every_component_task_and_average(self, many):
        found = certified(many)
        tasks = (AVERAGE, *many.tasks)
        cells = [(c, r, t) for c, r in (("heads", "own"), ("heads", "aggregate"), ("ffns", "own")) for t in tasks]
        assert list(found) == [(k, *cell) for k in (0, 5) for cell in [*cells, (BOTH, "joint grid", AVERAGE)]]

    def test_the_average_is_certified_by_the_stated_rule(self, many):
        row = certified(many)[0, "heads", "own", AVERAGE]
        assert (row.verdict, row.heads, row.ffns, row.estimate, row.below) == ("up to", 20, None, 20, 50)
        assert (row.questions, row.parameters, row.loss) == (1200, 4 * HEAD_SIZE, 0)
        assert row.accuracy == pytest.approx(2.5 / 3)
        assert row.guessing == pytest.approx(1.25 / 3)
        assert row.paper == "about 70 %"

    def test_each_task_has_its_own_guess_and_share(self, many):
        found = certified(many)
        # Piqa at 0 shots keeps 8, 8, 7, 5 of 10 under its own ranking, and at 5 shots 7, 7, 7, 4.
        assert found[0, "heads", "own", "piqa"].heads == 20
        assert found[5, "heads", "own", "piqa"].heads == 50
        assert found[0, "heads", "own", "piqa"].guessing == 0.25
        assert found[0, "ffns", "own", "piqa"][9:12] == ("up to", None, 0)
        assert found[0, "ffns", "own", "piqa"].paper == "30 %"
        # Under the aggregate ranking copa keeps nine at 50 %.
        assert found[0, "heads", "aggregate", "copa"].heads == 50

    def test_heads_and_ffns_together(self, many):
        row = certified(many)[0, BOTH, "joint grid", AVERAGE]
        assert (row.verdict, row.heads, row.ffns, row.loss) == ("certified", 50, 0, 0)
        assert BOTH not in {row.component for row in inflection.rows(replace(many, joint=False), [7])}

    def test_a_margin_of_its_own(self, many):
        assert certified(replace(many, margin=15.0))[0, "heads", "own", AVERAGE].heads == 50

    def test_few_questions_are_not_certifiable_with_a_reason(self, tmp_path):
        row = certified(small(tmp_path))[0, "heads", "own", AVERAGE]
        assert (row.verdict, row.heads, row.parameters, row.loss) == ("not certifiable", None, None, None)
        assert "too few questions" in row.reason
        assert inflection.in_words(row)[4].startswith("not certifiable: too few questions")

    def test_the_command_writes_numbers_and_words(self, many, tmp_path):
        out = tmp_path / "headroom"
        options = [*TASKS.split(), "--seeds", "7", "--margin", "2"]
        assert main(["certify", "--results", str(many.results), *options, "--out", str(out)]) == 0
        lines = list(csv.DictReader((tmp_path / "headroom.csv").open()))
        assert len(lines) == len(certified(many))
        shown = {name: lines[0][name] for name in ("seed", "verdict", "heads", "ffns", "below")}
        assert shown == {"seed": "7", "verdict": "up to", "heads": "20", "ffns": "", "below": "50"}
        page = (tmp_path / "headroom.md").read_text()
        assert "| 0-shot | heads, own | average | up to 20 % (estimate 20 %; less than 50 %) | 4.0 M |" in page
        assert "less than 2 points" in page
        assert "about 70 %" in page

    def test_several_seeds_are_told_apart(self, many, tmp_path):
        flat = Values(right=lambda *key: [8] * (3 if "srcc" in key[-1] else 4), repeat=40)
        other = write_study(replace(many, seed=8), flat)
        found = list(inflection.rows(many, [7, 8]))
        assert found == [*inflection.rows(many, [7]), *inflection.rows(other, [8])]
        inflection.write(many, [7, 8], tmp_path / "headroom")
        page = (tmp_path / "headroom.md").read_text()
        assert "| 7 | 0-shot | heads, own | average | up to 20 %" in page
        assert "| 8 | 0-shot | heads, own | average | at least 90 % (estimate 90 %; no level refuted)" in page

    @pytest.mark.parametrize("margin", ["0", "-1", "101", "two"])
    def test_a_margin_is_percentage_points(self, many, tmp_path, capsys, margin):
        options = [*TASKS.split(), "--seeds", "7", "--margin", margin]
        with pytest.raises(SystemExit):
            main(["certify", "--results", "r", *options, "--out", str(tmp_path / "x")])
        assert "expected percentage points above 0, to 100" in capsys.readouterr().err


class TestLosses:
    def test_every_curve_and_level_is_there(self, many):
        found = lost(many)
        assert len(found) == len(list(losses.rows(many)))
        for ranking in ("own", "aggregate", "random_1"):
            for task in (AVERAGE, *many.tasks):
                for percent in (0, 20, 50, 90):
                    assert (0, "heads", ranking, task, percent, 0) in found
        assert (5, "ffns", "own", "copa", 0, 90) in found
        assert (0, "ffns", "random_1", "copa", 0, 50) in found
        assert (0, "ffns", "aggregate", "copa", 0, 50) not in found
        assert (0, "heads", "lowest_srcc", "copa", 50, 0) in found
        assert (0, "heads", "own", "mathqa", 50, 0) in found
        assert (0, BOTH, "joint grid", "copa", 50, 20) in found

    def test_a_task_has_a_paired_test(self, many):
        row = lost(many)[0, "heads", "own", "copa", 50, 0]
        # 9 and then 8 of 10 right, each forty times.
        assert (row.accuracy, row.loss) == pytest.approx((0.8, 0.1))
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
        options = f"losses --results {many.results} {MATRIX} {lists} --out {tmp_path / 'losses'}"
        assert main(options.split()) == 0
        assert len(list(csv.reader((tmp_path / "losses.csv").open()))) == len(lost(many)) + 1
        page = (tmp_path / "losses.md").read_text()
        assert "| 0-shot | heads, own | 50 % |" in page
        assert "| 0-shot | heads and FFNs, joint grid | 50 % and 20 % |" in page
        assert "copa" not in page
