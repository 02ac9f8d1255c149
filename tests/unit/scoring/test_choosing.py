"""Products by the loss of choosing against loops straight from its formula, and against finite differences."""

import numpy as np
import pytest
import torch

from lm_headroom.analysis.outcomes import AnswerKey
from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.packing import Batches, Document, out_of_memory
from lm_headroom.engine.resume_cache import ResumeCache
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.scoring import choosing
from lm_headroom.scoring.choosing import choosing_products
from lm_headroom.scoring.iterative import iterative_ranking
from tests.support.documents import random_documents
from tests.support.looped_choosing import looped_choosing


def drawn(n=9, seed=0):
    """Documents with choices of mixed lengths, one with a single choice and one with two right ones, and which are."""
    rng = np.random.default_rng(seed)
    documents = random_documents(rng, n)
    documents[1] = Document(101, documents[1].sequences[:1])
    right = [tuple(np.arange(len(d.sequences)) == rng.integers(len(d.sequences))) for d in documents]
    right[3] = (True, False, True, False)
    return documents, right


def losses(loaded, documents, right, gates=None):
    """-log of the gold probability, the outcome, of each document."""
    sizes = np.array([len(document.sequences) for document in documents])
    ones = np.ones(sizes.sum())
    key = AnswerKey(sizes, np.arange(len(sizes)), np.concatenate(right), ones, ones)
    values = log_likelihoods(loaded, Batches(documents, 10_000), gates)
    return -np.log(key.scores("gold_probability", values))


def test_equals_the_loops(loaded, family, monkeypatch):
    def norm(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    # transformers computes it in float32, which alone rounds a tree and its rows differently.
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", norm)
    documents, right = drawn()
    actual, loops = choosing_products(loaded, documents, right, 64), looped_choosing(family, documents, right)
    np.testing.assert_allclose(actual.heads, loops["heads"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(actual.ffns, loops["ffns"], rtol=1e-8, atol=1e-12)
    assert np.abs(actual.heads[[0, *range(2, 9)]]).min() > 0


def test_a_document_with_one_choice_has_no_loss(loaded):
    documents, right = drawn()
    actual = choosing_products(loaded, documents, right, 64)
    assert (actual.heads[1] == 0).all()
    assert (actual.ffns[1] == 0).all()


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 3), (2, 2)])
def test_it_is_the_derivative_of_a_gate_by_the_log_of_the_gold_probability(loaded, family, layer, head):
    eps, tolerance = (1e-5, 1e-5) if family == "opt" else (1e-2, 1e-3)
    documents, right = drawn(seed=3)

    def gated(gate):
        gates = torch.ones(loaded.shape.layers, loaded.shape.heads, dtype=torch.float64)
        gates[layer, head] = gate
        return losses(loaded, documents, right, gates)

    differences = (gated(1 + eps) - gated(1 - eps)) / (2 * eps)
    actual = choosing_products(loaded, documents, right, 10_000).heads[:, layer, head]
    np.testing.assert_allclose(actual, differences, rtol=tolerance, atol=tolerance * np.abs(differences).max())


def test_it_does_not_depend_on_batches_checkpointing_or_an_interruption(loaded, tmp_path, monkeypatch):
    documents, right = drawn(seed=1)
    alone, together = (choosing_products(loaded, documents, right, budget) for budget in (1, 10_000))
    plain, calls = choosing.gate_products, []

    def short_of_memory(*arguments):
        calls.append(arguments[-1])
        if not calls[-1]:
            raise MemoryError
        return plain(*arguments)

    monkeypatch.setattr(choosing, "gate_products", short_of_memory)
    recomputed = choosing_products(loaded, documents, right, 1)
    assert out_of_memory(MemoryError())
    assert calls == [False, True] * len(documents)
    monkeypatch.setattr(choosing, "gate_products", plain)
    kept = ResumeCache(tmp_path)
    choosing_products(loaded, documents[:5], right[:5], 64, cache=kept)
    resumed = choosing_products(loaded, documents, right, 64, cache=kept)
    for other in (together, recomputed, resumed):
        for actual, expected in zip(other, alone, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-12)


def test_what_is_kept_is_of_the_same_right_choices(loaded, tmp_path):
    documents, right = drawn()
    kept = ResumeCache(tmp_path)
    choosing_products(loaded, documents, right, 64, cache=kept)
    others = [right[0][::-1], *right[1:]]
    again = choosing_products(loaded, documents, others, 64, cache=kept)
    expected = choosing_products(loaded, documents, others, 64)
    np.testing.assert_allclose(again.heads, expected.heads, rtol=1e-9)
    if right[0] != right[0][::-1]:
        assert not np.allclose(again.heads[0], choosing_products(loaded, documents, right, 64).heads[0])


def test_each_round_of_the_iterative_ranking_is_behind_the_gates_of_those_before(loaded):
    documents, right = drawn(seed=2)
    ranking = iterative_ranking(loaded, documents, 10_000, 50, "choosing_loss_rise", right=right)
    half = [ranked.head for ranked in ranking[:6]]
    whole = -choosing_products(loaded, documents, right, 10_000).heads.mean(axis=0)
    gates = gates_without(loaded.shape, half)
    pruned = -choosing_products(loaded, documents, right, 10_000, gates=gates).heads.mean(axis=0)
    for ranked in ranking:
        scores = pruned if ranked.percent else whole
        assert ranked.score == pytest.approx(scores[ranked.head], rel=1e-9)
    assert [ranked.score for ranked in ranking[:6]] == sorted(whole.ravel())[:6]


def test_values_that_are_not_finite_name_document_and_layer(loaded, monkeypatch):
    documents, right = drawn()
    plain = choosing.gate_products

    def overflow(*arguments):
        for layer, (outputs, heads, ffn) in enumerate(plain(*arguments)):
            yield outputs, heads / (layer != 1), ffn

    monkeypatch.setattr(choosing, "gate_products", overflow)
    with pytest.raises(HeadroomError, match="document 100, layer 1: the gradient of the loss is not finite"):
        choosing_products(loaded, documents[:1], right[:1], 1)
    with torch.no_grad():
        architectures.output_projections(loaded.model)[1].weight[:] = float("inf")
    with pytest.raises(HeadroomError, match="document 100: the log-likelihood .* is nan; .* in layer 1"):
        choosing_products(loaded, documents[:1], right[:1], 1)
