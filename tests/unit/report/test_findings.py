"""The findings in words, from a study written with known values."""

from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, write
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.findings import _signed, findings, largest_swing
from lm_headroom.results.chance import read_chance_level, read_chance_levels
from lm_headroom.results.curves import average, difference, read_curve
from tests.support.small_study import outcomes, small


@pytest.fixture
def study(tmp_path):
    return small(tmp_path)


@pytest.fixture
def many(tmp_path):
    """The same with each question forty times."""
    return small(tmp_path / "many", repeat=40, selection="scoring")


def curves(study, shots, ranking="own", component="heads"):
    return [read_curve(study.curve(task, shots, ranking, component)) for task in study.tasks]


class TestAccuracy:
    def test_losses_are_paired(self, study):
        curve = average(curves(study, 0))
        np.testing.assert_allclose(curve.loss, [0, 0, 0.1, 1.1 / 3])
        # One question of ten lost per task: variance 0.09 * 10 / 9 over 10, three tasks.
        assert curve.loss_stderr[2] == pytest.approx(np.sqrt(3 * 0.1 / 10) / 3)
        # Nothing changes at 20%: no draw of questions loses anything.
        assert (curve.loss_interval.low[1], curve.loss_interval.high[1]) == (0, 0)
        assert curve.loss_interval.low[2] == 0
        assert curve.loss_interval.high[2] == pytest.approx(0.2, abs=0.07)
        assert curve.band.low[0] < curve.accuracy[0] < curve.band.high[0]
        assert curve.questions == 30

    def test_curves_of_different_levels_have_no_average(self, study):
        own, highest = (read_curve(study.curve("copa", 0, name)) for name in ("own", "highest_srcc"))
        with pytest.raises(HeadroomError, match="different levels"):
            average([own, highest])

    def test_differences_are_paired_and_averaged_over_levels(self, study):
        own, lowest = (read_curve(study.curve("copa", 0, name)) for name in ("own", "lowest_srcc"))
        # Right answers 8, 4 against 4, 4: questions 5 to 8 lose half of the two levels.
        mean, error = difference(own, lowest, [50, 90])
        assert mean == pytest.approx(-0.2)
        assert error == pytest.approx(np.std([0] * 6 + [0.5] * 4, ddof=1) / np.sqrt(10))

    def test_differences_need_the_same_questions(self, study, tmp_path):
        own = read_curve(study.curve("copa", 0))
        columns = {
            **{name: [0, 50] for name in ("percent", "n_pruned", "parameters_removed")},
            **{name: [None] * 2 for name in ("partner", "correlation")},
            **outcomes([9, 8]),
            "doc_id": [[*range(1, 11)]] * 2,
        }
        write(tmp_path / "other.parquet", PRUNED_EVAL, columns, {})
        with pytest.raises(ArtifactError, match="hold different questions"):
            difference(own, read_curve(tmp_path / "other.parquet"), [50])


class TestGuessing:
    def test_it_is_the_share_of_right_choices(self, study):
        found = read_chance_levels(study)
        assert {task: of.guessing for task, of in found.items()} == {
            "piqa": 0.25, "copa": 0.5, "record": 0.5, "mathqa": 0.5,
        }  # fmt: skip
        assert [found[task].majority for task in ("piqa", "copa")] == pytest.approx([0.3, 0.5])

    @pytest.mark.parametrize(
        ("metric", "question", "gold", "expected", "majority"),
        [
            # Three documents of two choices; the first two are one question: both must be right.
            ("choice", [0, 0, 0, 0, 2, 2], [1, 0, 0, 1, 1, 0], (0.25 + 0.5) / 2, 1 / 2),
            ("choice", [0, 0, 0, 0, 2, 2], [1, 0, 1, 0, 1, 0], (0.25 + 0.5) / 2, 1),
            # Each document its own question; one has two right choices.
            ("choice", [0, 0, 1, 1, 2, 2], [1, 1, 0, 1, 1, 0], 2 / 3, 2 / 3),
            # As in BoolQ, RTE and CB, one answer is right more often than the other.
            ("choice", [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 1, 0], 1 / 2, 2 / 3),
            ("greedy", [0, 0, 1, 1, 2, 2], [1, 0, 0, 1, 1, 0], 0.0, 0.0),
        ],
    )
    def test_questions_of_several_documents_and_generated_answers(
        self, tmp_path, metric, question, gold, expected, majority
    ):
        columns = {
            "doc_id": [0, 0, 1, 1, 2, 2],
            "question": question,
            "purpose": ["evaluation"] * 6,
            "split": ["validation"] * 6,
            "choice": [0, 1] * 3,
            "context": ["c"] * 6,
            "continuation": [" t"] * 6,
            "gold": [bool(g) for g in gold],
            "metric": [metric] * 6,
            "choice_length": [None] * 6,
        }
        write(tmp_path / "p.parquet", PROMPTS, columns, {})
        found = read_chance_level(tmp_path / "p.parquet")
        assert found[:2] == pytest.approx((expected, majority))
        assert found.level == pytest.approx(max(expected, majority))


class TestSentences:
    def test_heads(self, study, many):
        text = findings(study)
        assert "0-shot: average accuracy over 3 tasks is 0.83 ± 0.07 with all heads and 0.47 ± 0.10 with 90%" in text
        # Of 10 questions of record 8 are right, as by chance in one case of 18.
        assert (
            "(chance: 0.43; guessing: 0.42). How many can go at a loss of 2 points at most on average over the 2 tasks "
            "above chance (without record) is not certifiable: too few questions" in text
        )
        assert "With heads pruned at random (random_1) it is 0.53 ± 0.09 at 50%, where" in text
        text = findings(many)
        # Nothing is lost at 20%, a question of ten at 50%.
        assert "Of them up to 20% (estimate 20%; less than 50%) can go at a loss of 2 points at most" in text
        assert "; the loss there is 0.0 points (0.0 to 0.0), 4.0 M parameters." in text
        wide = findings(replace(many, margin=15.0))
        assert "Of them up to 50% (estimate 50%; less than 90%) can go at a loss of 15 points at most" in wide
        assert "the loss there is 10.0 points (8.3 to 11.7), 10.0 M parameters." in wide

    def test_ffns(self, study, many):
        text = findings(study)
        assert "with all FFNs" in text
        assert "Of them up to 0% (estimate 0%; less than 20%) can go at a loss of 2 points at most." in findings(many)
        assert (
            "largest loss is 0.40 ± 0.10, without the FFN of layer 3 on copa (counted from 1; the largest of 12" in text
        )
        assert largest_swing(study, 0, ["piqa"])[:3] == ("piqa", 0, 0.1)
        assert "FFNs are ranked on the questions that their curves are measured on" in text

    def test_ffns_ranked_by_their_judges_are_not_certified(self, tmp_path):
        text = findings(small(tmp_path, repeat=40))
        ranked = "the questions that judge have ranked the FFNs, too (`ffn.selection: evaluation`)"
        assert f"No observed loss exceeds 2 points up to 0% of them, which is no certificate: {ranked}." in text
        assert (
            "heads and FFNs together: no observed loss exceeds 2 points up to 50% of heads with 0% of FFNs "
            f"(10.0 M parameters), which is no certificate: {ranked}." in text
        )

    def test_joint(self, study, many, tmp_path):
        few = findings(small(tmp_path / "few", repeat=2, selection="scoring"))
        assert "heads and FFNs together: not certifiable, too few questions" in few
        assert (
            "together: 50% of heads with 0% of FFNs (10.0 M parameters) are certified to go at a loss of 2 points "
            "at most (it is 0.0 points (0.0 to 0.0)), the most parameters" in findings(many)
        )
        assert "together" not in findings(replace(study, joint=False)).split("## 3")[0].split("with heads\n")[1]

    def test_transfer_and_unseen(self, study):
        text = findings(study)
        assert "- 0-shot, copa: averaged over 2 levels from 50 to 90% of heads pruned, accuracy is 0.60 under" in text
        assert "piqa's (highest correlation, 0.75) +0.05 ± 0.05" in text
        assert "record's (lowest correlation, -0.25) -0.20 ± 0.08" in text
        assert "- 0-shot, mathqa (no part of the aggregate): averaged over 3 levels from 20 to 90%" in text
        # Own 0.8 + 0.7 + 0.5, 0.9 + 0.8 + 0.4, 0.8 + 0.7 + 0.5; the aggregate gains 0.1 twice on copa.
        assert (
            "accuracy is 0.68 under each task's own ranking; the aggregate ranking changes it by +0.02 ± 0.01" in text
        )

    def test_correlation(self, study):
        text = findings(study)
        assert "- Between 0 and 5 shots: SRCC of a task's head importances is " in text
        # The halves of the fixture's scores are the scores.
        assert "over 3 pairs); corrected for the noise in the scores it is -0.18. Inside layers it is" in text
        assert "1 of 3 pairs agrees more than a profile over layers explains (p < 0.05 each" in text
        assert "The scores are of the same documents at both numbers of shots." in text
        assert "not SRCC" in text

    def test_induction(self, study):
        text = findings(study)
        assert "Layer 3 head 4 (counted from 1) has the highest prefix-matching score, 2.00" in text
        assert "Layer 4 head 1 (counted from 1) has the highest copying score, 2.00" in text
        assert "(3 sequences)" in text
        assert text.count("(at random: 70, 50, 30%)") == 4


def test_the_page_is_written_as_markdown_and_as_html_that_needs_no_other_file(study, tmp_path):
    out = tmp_path / "seed7"
    options = (
        "--tasks piqa copa record --shots 0 5 --seed 7 --controls random_1 --unseen mathqa --transfer copa --joint"
    )
    assert main(["findings", "--results", str(study.results), *options.split(), "--out", str(out)]) == 0
    text = (tmp_path / "seed7.md").read_text()
    assert text == f"# Findings: model, few-shot seed 7\n\n{findings(study)}"
    page = (tmp_path / "seed7.html").read_text()
    assert "<title>Findings: model, few-shot seed 7</title>" in page
    assert page.count("<li>") == sum(line.startswith("- ") for line in text.splitlines())
    assert "http" not in page
    assert "src=" not in page


@pytest.mark.parametrize(("value", "said"), [(-0.004, "+0.00"), (0.004, "+0.00"), (-0.006, "-0.01"), (0.25, "+0.25")])
def test_what_rounds_to_nothing_has_no_minus(value, said):
    assert _signed(value, 0.01) == f"{said} ± 0.01"


def test_a_study_of_one_task_one_shot_and_nothing_else(tmp_path):
    from lm_headroom.results.matrix import ResultsMatrix
    from tests.support.small_study import write_study

    study = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (1,), 3))
    text = findings(study)
    assert "one task alone, nothing to correlate" in text
    assert "Between" not in text
    assert "random_1" not in text
