"""The findings in words, from a study written with known values."""

import re
from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, write
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.figures import style
from lm_headroom.report.findings import words
from lm_headroom.report.findings.ffns import swing_sentence
from lm_headroom.report.findings.page import findings, in_short
from lm_headroom.report.findings.words import change_with_error
from lm_headroom.results.chance import read_chance_level, read_chance_levels
from lm_headroom.results.curves import average, difference, read_curve
from lm_headroom.results.ffns import largest_swing
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.power import judges_of
from lm_headroom.study.judged import JudgedOutcome
from tests.support.ablated_study import ablated
from tests.support.small_study import Values, leave_one_choice, outcomes, small, write_study


@pytest.fixture
def study(tmp_path):
    return small(tmp_path)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Its findings."""
    return findings(small(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The same with each question forty times."""
    return small(tmp_path_factory.mktemp("many"), repeat=40, selection="scoring")


@pytest.fixture(scope="module")
def text_of_many(many):
    """The findings of that."""
    return findings(many)


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
        assert curve.band.low[0] < curve.mean[0] < curve.band.high[0]
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


class TestChanceLevel:
    def test_it_is_the_share_of_right_choices(self, study):
        levels = read_chance_levels(study)
        assert {task: level.random_choice for task, level in levels.items()} == {
            "piqa": 0.25, "copa": 0.5, "record": 0.5, "mathqa": 0.5,
        }  # fmt: skip
        assert [levels[task].majority for task in ("piqa", "copa")] == pytest.approx([0.3, 0.5])

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
            "turns": [None] * 6,
            "reply": [None] * 6,
            "gold": [bool(g) for g in gold],
            "metric": [metric] * 6,
            "choice_length": [None] * 6,
        }
        write(tmp_path / "p.parquet", PROMPTS, columns, {})
        chance = read_chance_level(tmp_path / "p.parquet")
        assert chance[:2] == pytest.approx((expected, majority))
        assert chance.level == pytest.approx(max(expected, majority))


class TestSentences:
    def test_heads(self, text, many, text_of_many):
        assert "Over 3 tasks, accuracy averages 0.83 ± 0.07 with all heads and 0.47 ± 0.10 with 90% pruned" in text
        # Of 10 questions of record 8 are right, as by chance in one case of 18.
        assert "(chance level: 0.43; random choice: 0.42)." in text
        assert (
            "- **Inconclusive for heads with 0-shot prompts.** By accuracy, the study has too few questions (power "
            "0.09 at the lowest pruning level); about " in text
        )
        assert "The verdict averages over the 2 tasks above chance level, without record." in text
        assert "With 50% of heads pruned at random (random_1), accuracy is 0.53 ± 0.09; the importance ranking" in text
        # Nothing is lost at 20%, a question of ten at 50%.
        assert (
            "- **Up to 20% of heads can be pruned with 0-shot prompts.** By accuracy, the loss stays within 2 points "
            "(point estimate 20%, upper bound 50%, 95% confidence). At that level, pruning removes 4.0 M parameters "
            "and loses 0.0 points (0.0 to 0.0)." in text_of_many
        )
        wide = findings(replace(many, margin=15.0))
        assert (
            "- **Up to 50% of heads can be pruned with 0-shot prompts.** By accuracy, the loss stays within 15 points ("
            in wide
        )
        assert "(point estimate 50%, upper bound 90%, 95% confidence)" in wide
        assert "pruning removes 10.0 M parameters and loses 10.0 points (8.3 to 11.7)." in wide

    def test_ffns(self, study, text, text_of_many):
        assert "with all FFNs" in text
        assert (
            "- **No tested share of FFNs can be pruned with 0-shot prompts.** By accuracy, no test shows a loss within "
            "2 points (point "
            "estimate 0%, upper bound 20%, 95% confidence)." in text_of_many
        )
        assert (
            "- **The FFN of layer 3 matters most with 0-shot prompts.** Without it, copa loses 0.40 ± 0.16 of accuracy "
            "(layers count from 1; this is the largest of 12 measured losses" in text
        )
        assert largest_swing(study, 0, ["piqa"])[:3] == ("piqa", 0, 0.1)
        assert "As in the paper, the evaluation questions also rank the FFNs" in text

    def test_ffns_that_matter_alike_are_all_named_and_losses_of_nothing_are_none(self, study):
        def changed(**lost):
            write_study(study, Values(lost=lambda task: lost.get(task, [0, 0, 0, 0])))
            return swing_sentence(study, 0)

        start = (
            "- **The FFNs of layers 1 and 3 matter most with 0-shot prompts.** Without that of layer 3, copa loses 0.20"
        )
        assert changed(copa=[0, 1, 2, 0], record=[2, 0, 0, 0]).startswith(start)
        none = "- **No FFN is needed by itself with 0-shot prompts.** "
        none += "The largest of 12 measured losses of accuracy is 0.00"
        assert changed(copa=[0, -1, 0, 0]).startswith(none)

    def test_ffns_ranked_by_the_evaluation_questions_have_an_estimate_only(self, tmp_path):
        text = findings(small(tmp_path, repeat=40))
        ranked = "no test can confirm it: the evaluation questions also ranked the FFNs (`ffn.selection: evaluation`)."
        assert (
            "- **Estimate only for FFNs with 0-shot prompts.** By accuracy, observed losses stay within 2 points (up "
            f"to 0% pruned), but {ranked}" in text
        )
        assert (
            "- **Estimate only for heads and FFNs together with 0-shot prompts.** By accuracy, observed losses stay "
            f"within 2 points (up to 50% of heads and 0% of FFNs, 10.0 M parameters), but {ranked}" in text
        )

    def test_joint(self, study, text_of_many, tmp_path):
        few = findings(small(tmp_path / "few", repeat=2, selection="scoring"))
        assert (
            "- **Inconclusive for heads and FFNs together with 0-shot prompts.** By accuracy, the study has too" in few
        )
        assert (
            "- **50% of heads and 0% of FFNs can be pruned together with 0-shot prompts.** By accuracy, this cell "
            "removes the most parameters (10.0 M) of those shown to lose no more than 2 points; it loses 0.0 points "
            "(0.0 to 0.0)." in text_of_many
        )
        assert "together" not in findings(replace(study, joint=False)).split("## 3")[0].split("with heads\n")[1]

    def test_transfer_and_unseen(self, text):
        assert (
            "- **Other rankings change accuracy on copa by -20.0 to +10.0 points with 0-shot prompts.** Under its own"
            in text
        )
        assert "it averages 0.60 (0.90 with all heads, chance level: 0.50), over 2 levels from 50 to 90% of" in text
        assert "piqa's (highest correlation, 0.75) +5.0 ± 5.0 points" in text
        assert "record's (lowest correlation, -0.25) -20.0 ± 8.2 points" in text
        assert "- **Other rankings change accuracy on mathqa by +0.0 points with 0-shot prompts.**" in text
        assert "The aggregate ranking does not include mathqa." in text
        # Own 0.8 + 0.7 + 0.5, 0.9 + 0.8 + 0.4, 0.8 + 0.7 + 0.5; the aggregate gains 0.1 twice on copa.
        assert (
            "- **The aggregate ranking changes accuracy by +2.2 ± 1.5 points with 0-shot prompts.** It averages 0.68 "
            "under each task's own ranking (3 levels from 20 to 90%" in text
        )

    def test_correlation(self, text):
        assert "tasks agrees between 0 and 5 shots beyond a shared layer-wise trend.** " in text
        assert "The SRCC of a task's head importances averages " in text
        # The halves of the fixture's scores are the scores.
        assert "over 3 pairs); the disattenuated SRCC, without the noise in the scores, is -0.18. Inside layers" in text
        assert "- **1 of 3 task pairs agrees beyond a shared layer-wise trend with 0-shot prompts.**" in text
        assert "The test shuffles heads within layers and key-value groups (p < 0.05 each" in text
        assert "Both numbers of shots score the same documents." in text
        assert "not SRCC" in text

    def test_induction(self, text):
        assert "- **Layer 3 head 4 has the highest prefix-matching score.** It scores 2.00" in text
        assert "- **Layer 4 head 1 has the highest copying score.** It scores 2.00" in text
        assert "(3 sequences; layers and heads count from 1)" in text
        assert text.count("(at random: 70, 50, 30%)") == 4


def test_the_page_is_written_as_markdown_and_as_html_that_needs_no_other_file(study, text, tmp_path):
    out = tmp_path / "seed7"
    options = (
        "--tasks piqa copa record --shots 0 5 --seed 7 --controls random_1 --unseen mathqa --transfer copa --joint"
    )
    assert main(["findings", "--results", str(study.results), *options.split(), "--out", str(out)]) == 0
    written = (tmp_path / "seed7.md").read_text()
    assert written == f"# Findings: model, few-shot seed 7\n\n{text}"
    page = (tmp_path / "seed7.html").read_text()
    assert "<title>Findings: model, few-shot seed 7</title>" in page
    assert page.count("<li>") == sum(line.startswith("- ") for line in written.splitlines())
    assert "http" not in page
    assert "src=" not in page


@pytest.mark.parametrize(
    ("value", "rounded"), [(-0.0004, "+0.0"), (0.0004, "+0.0"), (-0.0006, "-0.1"), (0.25, "+25.0")]
)
def test_what_rounds_to_nothing_has_no_minus(value, rounded):
    assert change_with_error(value, 0.01, "accuracy") == f"{rounded} ± 1.0 points"


def test_a_study_of_one_task_one_shot_and_nothing_else(tmp_path):
    study = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (1,), 3))
    text = findings(study)
    assert "- **Not applicable with 1-shot prompts.** The study has one task alone" in text
    assert "Between" not in text
    assert "random_1" not in text


def _studies(tmp_path):
    """Small studies whose findings have each verdict that there is."""
    yield ablated(small(tmp_path / "few"))
    yield small(tmp_path / "fewer", repeat=2, selection="scoring")
    controls = ("random_1", "random_2", "example", "token")
    many = write_study(
        replace(small(tmp_path / "many"), controls=controls), Values(repeat=40, selection="scoring", right=_right)
    )
    yield many
    yield replace(many, joint=False, without_induction=True)
    flat = replace(small(tmp_path / "flat"), shots=(0,))
    yield write_study(flat, Values(right=lambda *key: [8] * (3 if "srcc" in key[-1] else 4), repeat=40))
    yield write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (1,), 3), Values(head_oracle=()))
    outcomes = tuple(map(JudgedOutcome.parse, ("accuracy=2", "gold_probability=1", "gold_bits_per_byte=1")))
    yield replace(ablated(small(tmp_path / "outcomes", selection="scoring")), outcomes=outcomes)


def _right(shots, component, task, ranking):
    right = {"random_2": [8, 4, 4, 4], "example": [8, 8, 6, 6]}.get(ranking, [8, 8, 7, 5])
    return right[: 3 if "srcc" in ranking else 4]


@pytest.fixture(scope="module")
def texts(tmp_path_factory, text_of_many):
    """The findings of these studies, and of one with enough questions."""
    return [text_of_many, *(findings(study) for study in _studies(tmp_path_factory.mktemp("studies")))]


@pytest.fixture
def enough(tmp_path):
    return small(tmp_path / "outcomes", repeat=40, selection="scoring")


class TestOutcomes:
    """Accuracy beside others: a right answer has a gold probability of 0.731, a wrong one of 0.269."""

    def judged(self, study, *outcomes):
        return replace(study, outcomes=tuple(map(JudgedOutcome.parse, outcomes)))

    def test_the_sharpest_leads_and_the_other_stands_beside_it(self, enough):
        text = findings(self.judged(enough, "accuracy=5", "gold_probability=5"))
        # The power of both for heads is 1, for FFNs 0.995 and 1.
        assert (
            "- **Up to 20% of heads can be pruned with 0-shot prompts.** By accuracy, the loss stays within 5 points "
            "(point estimate 20%, upper bound 50%, 95% confidence). At that level, pruning removes 4.0 M parameters "
            "and loses 0.0 points (0.0 to 0.0). By gold probability: up to 20%. Over 3 tasks, accuracy" in text
        )
        assert (
            "- **No tested share of FFNs can be pruned with 0-shot prompts.** By gold probability, no test shows a "
            "loss within 5 points (point estimate 0%, upper bound 20%, 95% confidence). By accuracy: no tested share."
            in text
        )
        assert "By gold probability, this cell removes the most parameters (10.0 M) of those shown to lose" in text
        # A question of ten loses 46.2 points of gold probability where it loses 100 of accuracy.
        assert "- **The aggregate ranking changes accuracy by +7.8 ± 0.4 points with 5-shot prompts.**" in text
        assert "By gold probability: +3.6 ± 0.2 points." in text

    def test_a_narrower_margin_changes_which_is_the_sharpest(self, enough):
        text = findings(self.judged(enough, "accuracy=5", "gold_probability=1"))
        assert "By accuracy, no test shows a loss within 5 points (point estimate 0%, upper bound 20%" in text
        assert "By gold probability: no tested share. Over 3 tasks" in text

    def test_the_documents_that_are_missing_are_said(self, tmp_path):
        few = self.judged(small(tmp_path, repeat=3, selection="scoring"), "accuracy=2", "gold_probability=1")
        (line,) = re.findall(r"- \*\*Inconclusive for heads with 0.*? Over", findings(few).partition("## 1.")[2])
        more = dict(re.findall(r"By ([a-z ]+)[:,].*?about (\d+) more documents of each task would settle it", line))
        assert set(more) == {"accuracy", "gold probability"}
        chance = read_chance_levels(few)
        for judge in judges_of(few, 0, "heads", chance):
            n = int(more[OUTCOMES[judge.matrix.outcome].title])
            assert judge.needed - 30 <= n < judge.needed - 30 + 10
        # With so many more, nothing else changed, the power is enough.
        repeat = 3 + -(-max(map(int, more.values())) // 10)
        larger = self.judged(small(tmp_path / "larger", repeat, "scoring"), "accuracy=2", "gold_probability=1")
        assert all(judge.power > 0.8 and judge.more == 0 for judge in judges_of(larger, 0, "heads", chance))

    def test_a_task_that_does_not_define_an_outcome_is_left_out_and_named(self, tmp_path):
        study = self.judged(small(tmp_path, repeat=40, selection="scoring"), "accuracy=5", "gold_probability=5")
        leave_one_choice(study, "record", "mathqa")
        text = findings(study)
        assert "Gold probability leaves out record, not defined there. Over 3 tasks, accuracy averages" in text
        assert "- **Other rankings change accuracy on mathqa by +0.0 points" in text

    def test_a_cost_rises(self, enough):
        text = findings(self.judged(enough, "accuracy=2", "gold_bits_per_byte=20"))
        assert (
            "- **Up to 50% of heads can be pruned with 0-shot prompts.** By bits per byte of the gold continuation, "
            "the loss stays within 20% of the whole model's (point estimate 50%, upper bound 90%, 95% confidence). At "
            "that level, pruning removes 10.0 M parameters and loses 0.036 bits per byte (0.030 to 0.043). By "
            "accuracy: up to 20%." in text
        )
        assert "- **The aggregate ranking changes bits per byte of the gold continuation by -0.008 ± 0.001 bits" in text


def test_findings_in_short_are_the_first_of_each_section_then_the_second(text):
    in_brief, *sections = (part.splitlines() for part in text.split("\n## ")[1:])
    lines = [[line for line in section if line.startswith("- ")] for section in sections]
    assert in_brief[0] == "In short"
    short = [line for line in in_brief if line.startswith("- ")]
    firsts = [lines[0][0], lines[0][1], *(section[0] for section in lines[1:])]
    assert len(short) == 6
    assert all(line.startswith(brief) and brief.endswith(".") for line, brief in zip(firsts, short, strict=True))
    assert in_short([["- **A.** B 4.0 M (0.5 to 1) C. D."], ["- **E.** F."], []]) == [
        "- **A.** B 4.0 M (0.5 to 1) C.", "- **E.** F.",
    ]  # fmt: skip


def test_each_finding_begins_with_its_verdict_and_soon_has_a_number(texts):
    verdicts = set()
    for text in texts:
        for line in text.splitlines():
            if line.startswith("- "):
                verdict = re.match(r"- \*\*([A-Z0-9][^*]*)\.\*\* [A-Z]", line)
                assert verdict, line
                verdicts.add(verdict[1])
                before = re.split(r"\([^)]*\d", line.removeprefix("- "), maxsplit=1)[0]
                assert len(before.split()) <= 25, line
    for start in (
        *("Up to", "At least", "No tested share", "Inconclusive for heads", "Inconclusive for FFNs", "Estimate only"),
        *("The importance ranking", "The FFN of layer", "No task", "Not applicable", "Gradient scores of heads"),
        *("The aggregate ranking", "Other rankings", "Layer 3 head 4", "The top half", "Ablating", "Some random draws"),
    ):
        assert any(verdict.startswith(start) for verdict in verdicts), (start, sorted(verdicts))


def test_no_finding_uses_a_private_word(texts):
    private = r"told (from|apart)|\bcan go\b|\bgoes?\b|certif|\bworth\b|optimis|profile over layers|guessing|recomputed"
    for text in texts:
        assert not re.search(private, text)


def test_the_command_takes_outcomes_and_records_them(study, tmp_path, capsys):
    command = ["findings", "--results", str(study.results), "--tasks", "piqa", "--shots", "0", "--seed", "7"]
    out = tmp_path / "results" / "model" / "findings" / "seed7"
    assert main([*command, "--outcomes", "accuracy=4", "gold_probability=0.5", "--out", str(out)]) == 0
    record = read_provenance(out.with_suffix(".html"))
    assert record["options"]["outcomes"] == ["accuracy=4", "gold_probability=0.5"]
    assert main([*command, "--outcomes", "accuracy=none", "--out", str(out)]) == 2
    assert "'accuracy=none': expected an outcome and its margin, such as accuracy=2" in capsys.readouterr().err


@pytest.mark.parametrize("value", [-0.0, -0.0001, 0.0001])
def test_small_numbers_have_no_sign(value):
    assert words.loss_in_words((value, value, value), "accuracy") == "0.0 points (0.0 to 0.0)"
    assert words.change_in_words(value, (value, value), "accuracy") == "+0.0 points (+0.0 to +0.0)"
    assert words.change_of(value, "gold_bits_per_byte") == "+0.000"
    assert style.numbers(np.array([[value]]))[0, 0] == "0.00"
