"""FFN importance against plain evaluations, one per layer."""

from typing import get_args

import numpy as np
import pytest
import torch

from lm_headroom.analysis.metrics import Choices
from lm_headroom.analysis.outcomes import AMONG_CHOICES
from lm_headroom.engine import likelihood
from lm_headroom.engine.likelihood import likelihoods, sequence_slices
from lm_headroom.engine.loading import prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.errors import HeadroomError
from lm_headroom.progress import Progress
from lm_headroom.scoring.knockout import check_metric, ffn_importance_columns, knock_out_ffns, knock_out_heads
from lm_headroom.scoring.pruned_evaluation import Evaluation
from lm_headroom.study.choices import KnockoutOutcome
from tests.support.documents import documents as gold_alone
from tests.support.documents import random_documents
from tests.support.looped_outcomes import question_scores, right_answers
from tests.support.tiny_models import tiny_model


@pytest.fixture(params=["opt", "llama", "opt-350m"])
def narrow(request, tokenizer):
    """A tiny model in float32: fc1 and fc2 on the layer, an mlp module, norms after their blocks."""
    return prepare(tiny_model(request.param).float(), tokenizer)


@pytest.mark.parametrize("budget", [70, 100_000])
def test_restarted_passes_equal_whole_ones_bit_for_bit(narrow, budget):
    documents = random_documents(np.random.default_rng(3))
    batches = Batches(documents, budget)
    knockouts = knock_out_ffns(narrow, batches)
    np.testing.assert_array_equal(knockouts.dense.values, likelihoods(narrow, batches).values)
    assert len(knockouts.ablated) == narrow.shape.layers == 3
    for layer, ablated in enumerate(knockouts.ablated):
        whole = likelihoods(narrow, batches, without_ffns=[layer])
        np.testing.assert_array_equal(ablated.values, whole.values)
        np.testing.assert_array_equal(ablated.greedy, whole.greedy)
        assert not np.allclose(ablated.values, knockouts.dense.values, atol=1e-2)


def test_layers_below_the_ablated_one_are_not_computed(narrow):
    documents = random_documents(np.random.default_rng(4), n=3)
    batches = Batches(documents, 100_000)
    assert len(batches) == 1
    narrow.interventions.calls.clear()
    progress = Progress("x", 9, "y")
    knock_out_ffns(narrow, batches, progress)
    # One whole pass, and one from each layer on.
    assert [narrow.interventions.calls[layer] for layer in range(3)] == [2, 3, 4]
    assert progress.done == 9


class TestLayers:
    """A small study is one batch, and each of its layers a unit: a line of progress, and kept when it is done."""

    DOCUMENTS = tuple(random_documents(np.random.default_rng(8), n=4))
    HEADS = tuple((layer, head) for layer in range(3) for head in (0, 2))

    def run(self, which, loaded, progress=None, cache=NO_CACHE):
        batches = Batches(self.DOCUMENTS, 100_000)
        assert len(batches) == 1
        if which == "ffns":
            return knock_out_ffns(loaded, batches, progress, cache)
        return knock_out_heads(loaded, batches, self.HEADS, progress, cache)

    @pytest.mark.parametrize(("which", "each"), [("ffns", 1), ("heads", 2)])
    @pytest.mark.parametrize("done", [0, 1, 2])
    def test_a_job_that_is_killed_after_some_layers_computes_the_rest(
        self, narrow, tmp_path, monkeypatch, which, each, done
    ):
        monkeypatch.setattr("lm_headroom.engine.resume_cache.SAVE_EVERY", 0)
        whole = self.run(which, narrow)
        plain, passes = likelihood.predict, []

        def counted(*arguments):
            passes.append(1)
            # Killed outright in the layer that follows, before anything is written at the end.
            if len(passes) == stop:
                raise SystemExit
            return plain(*arguments)

        monkeypatch.setattr(likelihood, "predict", counted)
        with monkeypatch.context() as patched:
            patched.setattr("lm_headroom.engine.resume_cache.WorkUnit.__exit__", lambda *_: None)
            stop = 1 + done * each + 1
            with pytest.raises(SystemExit):
                self.run(which, narrow, cache=ResumeCache(tmp_path))
        passes.clear()
        stop = None
        progress = Progress("x", 3 * each * len(self.DOCUMENTS), "y")
        actual = self.run(which, narrow, progress, ResumeCache(tmp_path))
        # The whole model's pass, whose inputs of layers the others begin with.
        assert len(passes) == 1 + (3 - done) * each
        assert (progress.done, progress.reused) == (progress.total, done * each * len(self.DOCUMENTS))
        for one, other in zip([whole.dense, *whole.ablated], [actual.dense, *actual.ablated], strict=True):
            np.testing.assert_array_equal(other.values, one.values)
            np.testing.assert_array_equal(other.greedy, one.greedy)
        passes.clear()
        self.run(which, narrow, cache=ResumeCache(tmp_path))
        assert passes == []

    @pytest.mark.parametrize(("which", "each"), [("ffns", 1), ("heads", 2)])
    def test_progress_is_reported_by_layer(self, narrow, capsys, which, each):
        progress = Progress("oracle", 3 * each * len(self.DOCUMENTS), "evaluations", interval=0)
        self.run(which, narrow, progress)
        lines = capsys.readouterr().err.splitlines()
        for layer in range(1, 4):
            assert any(f" {layer * each * len(self.DOCUMENTS)}/{progress.total} " in line for line in lines)


def multiple_choice(documents):
    """Choices of documents, of which 0-1 and 2-4 make questions; the second choice is right."""
    return [
        Choices(
            document.doc_id,
            tuple(place == 1 for place in range(len(document.sequences))),
            None,
            question={0: 0, 1: 0, 2: 2, 3: 2, 4: 2}.get(number, number),
            n_bytes=tuple(3 + place + number for place in range(len(document.sequences))),
        )
        for number, document in enumerate(documents)
    ]


def test_scores_count_questions_and_pair_them(narrow):
    """Accuracies from the evaluation of each model by itself."""
    documents = random_documents(np.random.default_rng(5), n=12)
    choices = multiple_choice(documents)
    batches = Batches(documents, 200)
    evaluation = Evaluation(narrow, documents, choices, batches)
    columns = ffn_importance_columns(documents, choices, knock_out_ffns(narrow, batches))
    dense = evaluation.outcomes()
    assert dense["n_documents"] == 9
    assert columns["layer"] == [0, 1, 2]
    for layer in range(3):
        ablated = evaluation.outcomes(ffns=[layer])
        assert columns["score"][layer] == pytest.approx(dense["accuracy"] - ablated["accuracy"])
        assert columns["correct_ablated"][layer] == ablated["correct"]
        assert columns["correct_dense"][layer] == dense["correct"]
        assert columns["doc_id"][layer] == dense["doc_id"] == [0, 2, *range(5, 12)]
        difference = np.array(dense["correct"], float) - np.array(ablated["correct"], float)
        assert columns["stderr"][layer] == pytest.approx(difference.std(ddof=1) / 3)


@pytest.mark.parametrize("metric", get_args(KnockoutOutcome))
def test_scores_by_each_metric_are_those_of_loops(narrow, metric):
    """Plain passes without each FFN, and loops over questions, documents and choices."""
    documents = random_documents(np.random.default_rng(5), n=12)
    choices, batches = multiple_choice(documents), Batches(documents, 200)
    columns = ffn_importance_columns(documents, choices, knock_out_ffns(narrow, batches), metric)
    of_all = {
        "gold": [choice.gold for choice in choices],
        "n_bytes": [choice.n_bytes for choice in choices],
        "n_tokens": [[row.n_target for row in document.sequences] for document in documents],
        "document_question": [choice.question for choice in choices],
    }

    def by_question(without):
        values = likelihoods(narrow, batches, without_ffns=without).values
        row = {"log_likelihoods": [values[part].tolist() for _, part in sequence_slices(documents)], **of_all}
        return np.array(right_answers(row) if metric == "accuracy" else question_scores(metric, row), dtype=float)

    for layer in range(3):
        lost = by_question([]) - by_question([layer])
        assert len(lost) == 9
        assert columns["score"][layer] == pytest.approx(lost.mean(), rel=1e-9, abs=1e-12)
        assert columns["stderr"][layer] == pytest.approx(lost.std(ddof=1) / 3)
        if metric != "accuracy":
            assert abs(lost.mean()) > 1e-6


@pytest.mark.parametrize("metric", AMONG_CHOICES)
def test_a_metric_that_compares_choices_is_refused_where_there_is_one(narrow, metric):
    documents = gold_alone(n=4)
    choices = [Choices(document.doc_id, (True,), None, n_bytes=(5,)) for document in documents]
    with pytest.raises(
        HeadroomError, match=rf"ffn.metric {metric}: .* compares choices, .*; take ffn.metric accuracy or"
    ):
        check_metric(documents, choices, metric)
    check_metric(documents, choices, "loss")
    knockouts = knock_out_ffns(narrow, Batches(documents, 200))
    assert ffn_importance_columns(documents, choices, knockouts, "loss")["layer"] == [0, 1, 2]


def test_an_ffn_without_effect_scores_zero(tokenizer):
    model = tiny_model("llama").float()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    loaded = prepare(model, tokenizer)
    documents = random_documents(np.random.default_rng(7))
    knockouts = knock_out_ffns(loaded, Batches(documents, 200))
    np.testing.assert_array_equal(knockouts.ablated[1].values, knockouts.dense.values)
