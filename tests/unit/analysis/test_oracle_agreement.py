"""Gradient against oracle: the artifact, the table, the figure's data and the findings, from known values."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import spearmanr

from lm_headroom.analysis.correlation import TaskScores, corrected_srcc
from lm_headroom.analysis.oracle_agreement import Gradient, agreement
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.store import ArtifactError, provenance, read, write
from lm_headroom.cli import main
from lm_headroom.report.figures import oracle as figure
from lm_headroom.report.findings.agreement import oracle_sentences
from lm_headroom.report.findings.page import findings
from lm_headroom.report.tables.oracle import NAMES
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.oracle import read_ffns, read_heads
from lm_headroom.steps.correlate_oracle import correlate_oracle
from tests.support.small_study import Values, leave_one_choice, made_of, small, write_study


@pytest.fixture
def study(tmp_path):
    return small(tmp_path)


def agreed(study, **wanted):
    path = study.results / "correlation" / "oracle" / f"seed{study.seed}.parquet"
    rows = read(path, ORACLE_AGREEMENT, **study.expected()).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def exact(values):
    """Gradient scores without error."""
    values = np.array(values, dtype=float)
    return Gradient(values, np.zeros_like(values), values, values)


class TestAgreement:
    def test_by_hand(self):
        rng = np.random.default_rng(0)
        score, outcomes = rng.random(20), rng.normal(size=(20, 11))
        agreed = agreement(exact(score), outcomes, np.repeat([0, 1], 10))
        lost = outcomes.mean(axis=1)
        assert agreed.srcc == pytest.approx(spearmanr(score, lost).statistic)
        inside = [spearmanr(score[part], lost[part]).statistic for part in (slice(10), slice(10, 20))]
        assert agreed.within_layer == pytest.approx(np.mean(inside))
        r = spearmanr(outcomes[:, ::2].mean(axis=1), outcomes[:, 1::2].mean(axis=1)).statistic
        assert agreed.reliability_gradient == pytest.approx(1)
        if r > 0:
            assert agreed.reliability_oracle == pytest.approx(2 * r / (1 + r))
            assert agreed.noise_ceiling == pytest.approx(np.sqrt(2 * r / (1 + r)))
        else:
            assert agreed.reliability_oracle is agreed.noise_ceiling is agreed.corrected is None
        assert agreed.low < agreed.srcc < agreed.high

    def test_without_noise_the_limits_close(self):
        score = np.random.default_rng(1).random(30)
        other = score.copy()
        other[:10] = other[:10][::-1]
        agreed = agreement(exact(score), np.repeat(other[:, None], 8, axis=1))
        assert agreed.low == pytest.approx(agreed.srcc) == pytest.approx(agreed.high)
        assert agreed.noise_ceiling == pytest.approx(1)
        assert agreed.corrected == pytest.approx(agreed.srcc)
        assert agreed.within_layer is None
        sampled = agreement(exact(score), np.repeat(other[:, None], 8, axis=1), sampled=True)
        assert sampled.low < agreed.srcc - 0.05 < agreed.srcc + 0.02 < sampled.high

    def test_what_is_above_one_is_kept_as_between_rankings(self):
        """The score is the oracle's own mean, so that the SRCC is 1, above what its noise allows."""
        rng = np.random.default_rng(4)
        outcomes = rng.normal(size=(40, 1)) + 4 * rng.normal(size=(40, 60))
        lost, even, odd = outcomes.mean(axis=1), outcomes[:, ::2].mean(axis=1), outcomes[:, 1::2].mean(axis=1)
        agreed = agreement(Gradient(lost, np.full(40, 0.1), even, odd), outcomes)
        scores = TaskScores(*(values[None] for values in (lost, even, odd)))
        assert agreed.srcc == pytest.approx(1)
        assert agreed.corrected == pytest.approx(corrected_srcc(scores, scores))
        assert agreed.corrected > 1
        assert agreed.corrected_high > 1
        assert agreed.high == 1, "of a plain SRCC nothing is above 1"

    def test_constant_scores_have_none(self):
        agreed = agreement(exact(np.ones(5)), np.random.default_rng(0).normal(size=(5, 6)))
        assert agreed.srcc is agreed.low is agreed.corrected is agreed.noise_ceiling is None
        agreed = agreement(exact(np.arange(5)), np.zeros((5, 6)))
        assert agreed.srcc is agreed.high is agreed.reliability_oracle is None

    def test_the_same_data_give_the_same_limits(self):
        rng = np.random.default_rng(2)
        score, outcomes = rng.random(9), rng.normal(size=(9, 20))
        assert agreement(exact(score), outcomes) == agreement(exact(score), outcomes)

    def test_noise_only_corrects_nothing(self):
        rng = np.random.default_rng(3)
        agreed = agreement(exact(rng.random(30)), rng.normal(size=(30, 40)))
        assert agreed.corrected is agreed.corrected_low is agreed.corrected_high is None
        assert agreed.low < 0 < agreed.high


def rank_ffns_by(study, metric):
    """Make the study's FFN scores those of another metric, and the agreement with them."""
    for task, shots in product(study.tasks, study.shots):
        path = study.path("ffn_importance", shots, task=task)
        record = provenance(path)
        record["options"]["metric"] = metric
        write(path, FFN_IMPORTANCE, read(path, FFN_IMPORTANCE).to_pydict(), record)
    out = study.path("oracle_agreement")
    correlate_oracle(results=study.results, tasks=study.tasks, shots=study.shots, seed=study.seed, out=out)


class TestArtifact:
    def test_rows_of_ffns_and_heads(self, study):
        assert len(agreed(study, component="ffns")) == 6
        (copa,) = agreed(study, component="ffns", task="copa", shots=0)
        # Lost -1, 0, 4 and 0 of 10 without the FFNs that the gradient ranks 4, 3, 2 and 1.
        assert copa["srcc"] == pytest.approx(spearmanr([4, 3, 2, 1], [-1, 0, 4, 0]).statistic)
        assert (copa["n_components"], copa["n_questions"], copa["measure"]) == (4, 10, "accuracy_lost")
        assert copa["srcc_within_layer"] is None
        (rise,) = agreed(study, component="heads", shots=5, measure="loss_rise")
        # The rise is the score: perfect agreement, in each layer, too.
        assert (rise["srcc"], rise["srcc_within_layer"]) == (pytest.approx(1), pytest.approx(1))
        assert (rise["task"], rise["n_components"]) == ("copa", 20)
        (lost,) = agreed(study, component="heads", shots=5, measure="accuracy_lost")
        assert lost["srcc"] is lost["corrected"] is None

    def test_changes_have_no_sign(self, study):
        from lm_headroom.artifacts.head_oracle import HEAD_ORACLE

        path = study.path("head_oracle", 0, task="copa")
        table = read(path, HEAD_ORACLE)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        # Half of the heads do harm.
        signs = [-1 if place % 2 else 1 for place in range(20)]
        columns["loss_rises"] = [[s * x for x in row] for s, row in zip(signs, columns["loss_rises"], strict=True)]
        write(path, HEAD_ORACLE, columns, made_of(study, 0, "copa"))
        heads = read_heads(study, 0, "copa")
        srccs = {name: agreement(heads.gradient, values).srcc for name, values in heads.outcomes.items()}
        assert srccs["loss_change"] == pytest.approx(1)
        assert srccs["loss_rise"] < 0.5

    def test_a_sample_of_heads_is_known_as_one(self, study):
        from lm_headroom.artifacts.head_oracle import HEAD_ORACLE

        path = study.path("head_oracle", 0, task="copa")
        assert not read_heads(study, 0, "copa").sampled
        table = read(path, HEAD_ORACLE).take([17, 3, 8, 12, 0])
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        write(path, HEAD_ORACLE, columns, made_of(study, 0, "copa"))
        heads = read_heads(study, 0, "copa")
        assert heads.sampled
        assert heads.layers.tolist() == [0, 0, 1, 2, 3]
        np.testing.assert_allclose(heads.outcomes["loss_rise"].mean(axis=1), heads.gradient.score, rtol=1e-6)

    @pytest.mark.parametrize(
        ("metric", "measure", "per_question"),
        [("loss", "loss_rise", 1), ("gold_probability", "gold_probability_lost", np.tanh(0.5))],
    )
    def test_ffns_are_measured_by_the_outcome_that_ranks_them(self, study, metric, measure, per_question):
        """A right answer that is lost costs 1 nat of one token, or the sigmoid of 1 less that of -1."""
        rank_ffns_by(study, metric)
        ffns = read_ffns(study, 0, "copa")
        assert list(ffns.outcomes) == [measure]
        np.testing.assert_allclose(ffns.outcomes[measure].mean(axis=1), np.array([-1, 0, 4, 0]) / 10 * per_question)

    def test_heads_of_a_task_without_other_choices_have_no_gold_probability(self, study):
        assert "gold_probability_lost" in read_heads(study, 0, "copa").outcomes
        leave_one_choice(study, "copa")
        assert list(read_heads(study, 0, "copa").outcomes) == ["loss_rise", "loss_change", "accuracy_lost"]

    def test_other_layers_are_refused(self, study):
        names = [column.name for column in FFN_GRADIENT.columns if column.name != "layer"]
        columns = {name: [0.1, 0.2] for name in names}
        path = study.path("ffn_gradient", 0, task="copa")
        write(path, FFN_GRADIENT, {"layer": [0, 1], **columns}, made_of(study, 0, "copa"))
        with pytest.raises(ArtifactError, match="has 2 layers, .* has 4; run the workflow again"):
            read_ffns(study, 0, "copa")

    def test_other_heads_are_refused(self, study):
        from lm_headroom.artifacts.head_oracle import HEAD_ORACLE

        path = study.path("head_oracle", 0, task="copa")
        table = read(path, HEAD_ORACLE)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        write(path, HEAD_ORACLE, columns | {"head": [7] * 20}, made_of(study, 0, "copa"))
        with pytest.raises(ArtifactError, match="has heads that .* has not"):
            read_heads(study, 0, "copa")


def test_the_table_has_the_artifacts_rows(study, tmp_path):
    options = ["--results", str(study.results), "--seed", "7", "--out", str(tmp_path / "t")]
    assert main(["table", "oracle", *options]) == 0
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0].split(",")[:3] == ["component", "task", "shots"]
    # Six of FFNs, and four measures of the heads of one task at two shots.
    assert len(lines) == 1 + 6 + 8
    assert sum(line.startswith("heads,copa,0,gold probability lost,20,10,") for line in lines) == 1
    assert any(line.startswith("FFNs,copa,0,accuracy lost,4,10,-0.") for line in lines)
    assert "| heads | copa | 5 | rise of the loss | 20 | 10 | 1.000 |" in (tmp_path / "t.md").read_text()
    assert len(NAMES) == len(ORACLE_AGREEMENT.columns)


def test_the_figure_shows_heads_by_loss_and_ffns_by_accuracy(study, tmp_path):
    rows = figure.data(study)
    assert {(component, task) for component, task, _ in rows} == {
        ("heads", "copa"), ("ffns", "piqa"), ("ffns", "copa"), ("ffns", "record"),
    }  # fmt: skip
    assert rows["heads", "copa", 0]["measure"] == "loss_rise"
    options = ["--tasks", *study.tasks, "--shots", "0", "5", "--seed", "7", "--out", str(tmp_path / "f")]
    for component in ("ffns", "heads"):
        assert main(["figure", f"oracle_{component}", "--results", str(study.results), *options]) == 0
        assert (tmp_path / "f.png").stat().st_size > 20_000
        assert (tmp_path / "f.pdf").read_bytes()[:5] == b"%PDF-"
    titles = [ax.get_title() for ax in figure.draw.__wrapped__(study, "heads").axes if ax.get_title()]
    assert [title.split("\n")[0] for title in titles] == ["heads, copa, 0-shot", "heads, copa, 5-shot"]


def test_signed_scores_are_all_drawn_and_named_by_their_criterion(study):
    for path in (study.path("head_importance", k, task=task) for k in study.shots for task in study.tasks):
        columns = read(path, HEAD_IMPORTANCE).to_pydict()
        signed = {"score": [score - 0.5 for score in columns["score"]]}
        write(path, HEAD_IMPORTANCE, columns | signed, provenance(path) | {"options": {"criterion": "loss_rise"}})
    panels = [ax for ax in figure.draw.__wrapped__(study, "heads").axes if ax.get_title()]
    for ax in panels:
        scores = ax.collections[-1].get_offsets()[:, 0]
        assert len(scores) == 20
        assert ax.get_xlim()[0] < scores.min() < 0 < scores.max() < ax.get_xlim()[1]
        assert (ax.get_xscale(), ax.get_xlabel()) == ("symlog", "score by loss_rise (nats)")
    assert oracle_sentences(study)[2].startswith("- **Scores of heads by `loss_rise` ")
    (ffns, *_) = figure.draw.__wrapped__(study, "ffns").axes
    assert (ffns.get_xscale(), ffns.get_xlabel()) == ("log", "score by token (nats)")


@pytest.mark.parametrize(
    ("metric", "lost"), [("loss", "rise of the loss of the gold continuation"), ("margin", "margin of the gold")]
)
def test_texts_name_the_outcome_that_ranks_ffns(study, tmp_path, metric, lost):
    rank_ffns_by(study, metric)
    assert f"with the {lost}" in oracle_sentences(study)[0]
    (first, *_) = figure.draw.__wrapped__(study, "ffns").axes
    assert first.get_ylabel().replace("\n", " ").startswith(f"{lost}")
    options = ["--results", str(study.results), "--seed", "7", "--out", str(tmp_path / "t")]
    assert main(["table", "oracle", *options]) == 0
    assert "accuracy lost" not in (tmp_path / "t.csv").read_text()


class TestFindings:
    def test_known_values(self, study):
        sentences = oracle_sentences(study)
        assert len(sentences) == 6
        srcc = [spearmanr([4, 3, 2, 1], lost).statistic for lost in ([1, 0, 0, 0], [-1, 0, 4, 0], [1, 0, 0, 0])]
        assert (
            f"Their mean SRCC is {np.mean(srcc):.2f} ({min(srcc):.2f} to {max(srcc):.2f} over 3 tasks) with the "
            "accuracy "
            "lost without each FFN;" in sentences[0]
        )
        rise, change = sentences[4:]
        assert "- **Gradient scores of heads agree with the oracle on copa with 5-shot prompts.** Their SRCC is" in rise
        assert ", 20 heads), 1.00 inside layers, with the rise of the loss when each head is removed alone." in rise
        assert "with the absolute change of the loss when each head is removed alone." in change
        for sentence in (rise, change):
            assert "SRCC is 1.00 (" in sentence
            assert "too noisy for a disattenuated SRCC" in sentence, "a gradient score's error is as large as itself"
            assert sentence in findings(study)

    def rows(self, study, monkeypatch, **changes):
        (row,) = agreed(study, component="heads", shots=0, measure="loss_rise")
        from lm_headroom.report.findings.agreement import _head_agreement

        return _head_agreement({**row, **changes}, "gradient scores of heads")

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            (
                {"srcc": None},
                "- **Not defined for heads on copa with 0-shot prompts.** Gradient scores of heads and the",
            ),
            (
                {"srcc": 0.1, "srcc_low": -0.2, "srcc_high": 0.4},
                "0.10 (95% interval -0.20 to 0.40, 20 heads), 1.00 inside",
            ),
            (
                {"srcc": 0.1, "srcc_low": -0.2, "srcc_high": 0.4},
                "scores of heads do not significantly agree with the oracle",
            ),
            (
                {"srcc": 0.5, "srcc_low": None, "srcc_high": None},
                "scores of heads do not significantly agree with the oracle",
            ),
            ({"srcc": 0.5, "srcc_low": 0.3, "srcc_high": 0.7, "corrected": None}, "too noisy for a disattenuated SRCC"),
            (
                {"srcc": 0.5, "srcc_low": 0.3, "srcc_high": 0.7}
                | {"corrected": 0.6, "corrected_low": 0.35, "corrected_high": 0.85},
                "The disattenuated SRCC is 0.60 (0.35 to 0.85), below full agreement.",
            ),
            (
                {"srcc": 0.5, "srcc_low": 0.3, "srcc_high": 0.7}
                | {"corrected": 0.8, "corrected_low": 0.5, "corrected_high": 1.0},
                "0.80 (0.50 to 1.00), not significantly different from full agreement.",
            ),
        ],
    )
    def test_sentences_say_no_more_than_the_interval(self, study, monkeypatch, changes, text):
        assert text in self.rows(study, monkeypatch, **changes)

    def test_without_heads_there_is_one_sentence_per_shot(self, tmp_path):
        study = write_study(
            ResultsMatrix(tmp_path / "results" / "m", ("copa",), (1,), 3), replace(Values(), head_oracle=())
        )
        (sentence,) = oracle_sentences(study)
        assert sentence.startswith(
            "- **Gradient scores of FFNs do not significantly agree with the oracle on any task with 1-shot prompts.**"
        )
        assert " (1 task) with" in sentence
