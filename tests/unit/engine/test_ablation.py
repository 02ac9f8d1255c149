"""What removed heads and FFNs give: the same in batches and apart, restarted and whole, and never another kind's."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from lm_headroom.engine import likelihood
from lm_headroom.engine.ablation import ZERO, MeanAblation, ResampleAblation
from lm_headroom.engine.likelihood import likelihoods
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.engine.packing import Batches, Document, TokenSequence
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.errors import HeadroomError
from lm_headroom.scoring.knockout import knock_out_ffns, knock_out_heads
from lm_headroom.scoring.pruned_evaluation import Evaluation
from tests.support.documents import documents as gold_alone
from tests.support.documents import random_documents
from tests.support.pretended_device import Pretended
from tests.support.tiny_models import count_operations, tiny_model

HEADS, FFNS = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3)], [0, 2]
SCORING = gold_alone(5, seed=3)
KINDS = pytest.mark.parametrize("kind", [MeanAblation, ResampleAblation])


@pytest.fixture(params=["opt", "llama", "opt-350m"])
def narrow(request, tokenizer):
    """A tiny model in float32."""
    return prepare(tiny_model(request.param).float(), tokenizer)


def ablated(loaded, ablation, documents, budget=100_000, cache=NO_CACHE):
    batches = Batches(documents, budget, share=not ablation.by_document)
    return likelihoods(loaded, batches, gates_without(loaded.shape, HEADS), FFNS, cache=cache, ablation=ablation)


@KINDS
def test_batches_change_nothing(loaded, kind):
    documents = random_documents(np.random.default_rng(3))
    together = ablated(loaded, kind(loaded, SCORING, 100_000), documents).values
    apart = [ablated(loaded, kind(loaded, SCORING, 16), [document], 16).values for document in documents]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-9)


def test_layers_without_heads_may_lie_on_another_device(tokenizer, monkeypatch):
    loaded = prepare(tiny_model("lfm2"), tokenizer)
    assert loaded.shape.without_heads == (0, 2)
    expected, original = MeanAblation(loaded, SCORING, 64).replacements, loaded.interventions.capture_ffns

    @contextmanager
    def last_layer_elsewhere():
        with original() as added:
            yield added
        added[2] = replace(added[2], value=Pretended(added[2].value))

    monkeypatch.setattr(loaded.interventions, "capture_ffns", last_layer_elsewhere)
    actual = MeanAblation(loaded, SCORING, 64).replacements
    torch.testing.assert_close(actual.heads, expected.heads)
    torch.testing.assert_close(actual.ffns, expected.ffns)


@KINDS
@pytest.mark.parametrize("budget", [70, 100_000])
def test_restarted_passes_equal_whole_ones_bit_for_bit(narrow, kind, budget):
    ablation, shape = kind(narrow, SCORING, 64), narrow.shape
    batches = Batches(random_documents(np.random.default_rng(3)), budget, share=not kind.by_document)
    heads = [(layer, head) for layer in range(3) for head in (0, 2)]
    removed = knock_out_heads(narrow, batches, heads, ablation=ablation).ablated
    for head, actual in zip(heads, removed, strict=True):
        whole = likelihoods(narrow, batches, gates_without(shape, [head]), ablation=ablation)
        np.testing.assert_array_equal(actual.values, whole.values)
    for layer, actual in enumerate(knock_out_ffns(narrow, batches, ablation=ablation).ablated):
        whole = likelihoods(narrow, batches, without_ffns=[layer], ablation=ablation)
        np.testing.assert_array_equal(actual.values, whole.values)
        assert not np.allclose(actual.values, likelihoods(narrow, batches, without_ffns=[layer]).values, atol=1e-2)


def test_a_layer_without_heads_computes_no_attention_and_no_input_projections(loaded):
    ablation, gates = MeanAblation(loaded, SCORING, 64), gates_without(loaded.shape, [(1, h) for h in range(4)])
    batches = Batches(random_documents(np.random.default_rng(3), 2), 1000)
    assert ablation.replacements is not None
    few, all_ = (
        count_operations(lambda g=g: likelihoods(loaded, batches, g, ablation=ablation)) for g in (gates, None)
    )
    # The maps of queries, keys and values: LLaMA's two have half as many outputs.
    outputs = 3 * 24 if loaded.model.config.model_type == "opt" else 2 * 24
    assert all_ - few == 2 * batches.columns * 24 * outputs


class TestCache:
    DOCUMENTS = tuple(random_documents(np.random.default_rng(8), n=4))

    def kinds(self, loaded, cache=NO_CACHE):
        more = gold_alone(6, seed=3)
        return [ZERO, *(kind(loaded, scoring, 64, cache) for kind in KINDS.args[1] for scoring in (SCORING, more))]

    def test_kinds_and_scoring_documents_share_no_unit_of_pruned_models(self, narrow, tmp_path):
        cache = ResumeCache(tmp_path)
        expected = [ablated(narrow, ablation, self.DOCUMENTS).values for ablation in self.kinds(narrow)]
        for first, one in enumerate(expected):
            assert not any(np.array_equal(one, other) for other in expected[first + 1 :])
        for _ in range(2):
            for ablation, values in zip(self.kinds(narrow, cache), expected, strict=True):
                np.testing.assert_allclose(ablated(narrow, ablation, self.DOCUMENTS, cache=cache).values, values)

    def test_knockouts_share_none_either(self, narrow, tmp_path):
        cache = ResumeCache(tmp_path)
        for knock_out in (knock_out_ffns, lambda *args, **more: knock_out_heads(*args[:2], [(1, 2)], **more)):
            results = []
            for ablation in self.kinds(narrow, cache):
                batches = Batches(self.DOCUMENTS, 1000, share=False)
                alone = knock_out(narrow, batches, ablation=ablation).ablated[0].values
                kept = knock_out(narrow, batches, cache=cache, ablation=ablation).ablated[0].values
                np.testing.assert_array_equal(kept, alone)
                results.append(kept)
            assert len({values.tobytes() for values in results}) == len(results)

    def test_the_whole_model_and_the_means_are_computed_once(self, narrow, tmp_path, monkeypatch):
        cache, passes = ResumeCache(tmp_path), []
        monkeypatch.setattr(likelihood, "predict", counted(likelihood.predict, passes))
        for ablation in self.kinds(narrow, cache):
            likelihoods(narrow, Batches(self.DOCUMENTS, 1000), cache=cache, ablation=ablation)
        assert len(passes) == 1
        ablated(narrow, MeanAblation(narrow, SCORING, 64, cache), self.DOCUMENTS, cache=cache)
        monkeypatch.setattr(narrow.model.base_model, "forward", None)
        again = MeanAblation(narrow, SCORING, 64, cache)
        assert again.replacements.heads[2].shape == (1, 4, 6)
        ablated(narrow, again, self.DOCUMENTS, cache=cache)


def counted(function, calls):
    def count(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return count


def test_one_evaluation_serves_several_kinds(loaded):
    """Controls under another ablation share the whole model's evaluation, and nothing of pruned ones."""
    documents = gold_alone(4)
    choices = Evaluation(loaded, documents, [], Batches(documents, 1000))
    other = choices.ablating(ResampleAblation(loaded, SCORING, 64))
    assert other.ablation.kind == "resample"
    assert all(len(batch.trees) == len(batch.members) for batch in other.batches)


class TestDonors:
    def test_each_document_has_another_document_of_the_seed(self, loaded):
        drawn = [ResampleAblation(loaded, SCORING, 64, seed=seed) for seed in (1, 1, 2)]
        others = random_documents(np.random.default_rng(0), 9)
        first, same, other = ([each.donors[each.donor(d)].doc_id for d in others] for each in drawn)
        assert first == same != other
        assert len(set(first)) > 1
        for document in SCORING:
            assert drawn[0].donors[drawn[0].donor(document)] != document

    def test_a_document_draws_the_same_among_others(self, loaded):
        ablation, documents = ResampleAblation(loaded, SCORING, 64), random_documents(np.random.default_rng(0), 9)
        values = ablated(loaded, ablation, documents).values
        backwards = ablated(loaded, ablation, documents[::-1]).values
        sizes = np.cumsum([0, *(len(document.sequences) for document in documents[::-1])])
        blocks = [backwards[a:b] for a, b in pairwise(sizes)]
        np.testing.assert_allclose(values, np.concatenate(blocks[::-1]), rtol=1e-9)

    def test_at_most_sixteen_are_kept(self, loaded):
        assert len(ResampleAblation(loaded, gold_alone(20), 64).donors) == 16

    def test_a_single_scoring_document_is_no_donor_of_itself(self, loaded):
        scoring = [Document(7, (TokenSequence((5, 6, 7), 1),))]
        with pytest.raises(HeadroomError, match=r"document 7: resample ablation .* raise limits.importance"):
            ablated(loaded, ResampleAblation(loaded, scoring, 64), scoring)


@KINDS
def test_activations_that_are_not_finite_are_refused(tokenizer, kind):
    loaded = prepare(tiny_model("opt").float(), tokenizer)
    with torch.no_grad():
        loaded.model.model.decoder.layers[2].fc2.bias[0] = float("inf")
    with pytest.raises(HeadroomError, match=rf"so {kind.kind} ablation has none to give"):
        ablated(loaded, kind(loaded, SCORING, 64), SCORING)
