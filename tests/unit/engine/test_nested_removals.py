"""Several removals in one go, each from the first layer that differs: equal to whole passes, with fewer layers."""

import weakref

import numpy as np
import pytest
import torch

from lm_headroom.engine import cut_maps, interventions, likelihood
from lm_headroom.engine.ablation import ZERO, MeanAblation, ResampleAblation
from lm_headroom.engine.likelihood import Removal, likelihoods, likelihoods_of
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import ResumeCache
from lm_headroom.progress import Progress
from tests.support.documents import documents as gold_alone
from tests.support.documents import random_documents

FROM_ABOVE = [(), ((2, 1),), ((2, 1), (2, 0)), ((2, 1), (2, 0), (1, 3)), ((2, 1), (2, 0), (1, 3), (1, 0), (0, 2))]
"""Nested sets of heads that begin in the last of three layers, with the first layers that differ: 2, 2, 1, 0."""


def removals_of(shape, heads=FROM_ABOVE, ffns=()):
    return [Removal(gates_without(shape, pruned) if pruned else None, tuple(ffns)) for pruned in heads]


def check_equal(actual, loaded, batches, removals, ablation=ZERO):
    for removal, results in zip(removals, actual, strict=True):
        whole = likelihoods(loaded, batches, removal.gates, removal.ffns, ablation=ablation)
        np.testing.assert_array_equal(results.values, whole.values)
        np.testing.assert_array_equal(results.greedy, whole.greedy)


@pytest.mark.parametrize("budget", [70, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_they_equal_whole_passes_bit_for_bit(loaded, budget, seed):
    """Sets of heads and FFNs in any order, nested or not."""
    rng = np.random.default_rng(seed)
    batches = Batches(random_documents(rng), budget)
    removals = [
        Removal(
            gates_without(loaded.shape, {tuple(rng.integers((3, 4)).tolist()) for _ in range(size)}) if size else None,
            tuple(sorted({int(layer) for layer in rng.integers(0, 3, size // 2)})),
        )
        for size in rng.permutation(6).tolist()
    ]
    check_equal(likelihoods_of(loaded, batches, removals), loaded, batches, removals)


@pytest.mark.parametrize("kind", [MeanAblation, ResampleAblation])
def test_so_they_do_where_something_replaces_what_is_removed(loaded, kind):
    ablation = kind(loaded, gold_alone(5, seed=3), 64)
    batches = Batches(random_documents(np.random.default_rng(3)), 70, share=not kind.by_document)
    removals = removals_of(loaded.shape, ffns=[1])
    check_equal(likelihoods_of(loaded, batches, removals, ablation=ablation), loaded, batches, removals, ablation)


@pytest.mark.parametrize("share", [1, 0.5, 0], ids=["all", "some", "none"])
def test_weights_are_cut_once_for_all_batches_as_far_as_they_may_be_kept(loaded, monkeypatch, share):
    batches = Batches(random_documents(np.random.default_rng(4)), 70)
    assert len(batches) > 2
    removals = removals_of(loaded.shape, heads=[(), ((0, 0), (1, 2)), ((0, 1), (2, 3))])
    original, cuts, held = interventions.cut_map, [], []

    def cut(*args):
        left = original(*args)
        cuts.append(None if left is None else weakref.ref(left))
        # In the middle of a pass, too.
        held.append(sum(left().weight.nbytes for left in cuts if left is not None and left() is not None))
        return left

    monkeypatch.setattr(interventions, "cut_map", cut)
    expected = [results.values for results in likelihoods_of(loaded, batches, removals)]
    n_projections, total = len(cuts), held[-1]
    cuts.clear()
    held.clear()
    monkeypatch.setattr(cut_maps, "KEPT_BYTES", share * total)
    actual = [results.values for results in likelihoods_of(loaded, batches, removals)]
    np.testing.assert_array_equal(actual, expected)
    largest = max(weight.nbytes for weight in loaded.model.parameters())
    assert max(held) <= share * total + largest
    assert (len(cuts) == n_projections) if share == 1 else n_projections < len(cuts) <= len(batches) * n_projections
    assert not any(left is not None and left() is not None for left in cuts), "nothing is held after an evaluation"


@pytest.mark.parametrize("kept", [0, cut_maps.KEPT_BYTES])
@torch.no_grad()
def test_weights_are_not_cut_again_for_few_rows(loaded, monkeypatch, kept):
    """As where a masked model generates token by token."""
    monkeypatch.setattr(cut_maps, "KEPT_BYTES", kept)
    original, cuts = interventions.cut_map, []
    monkeypatch.setattr(interventions, "cut_map", lambda *args: (cuts.append(args), original(*args))[1])
    rows = torch.arange(100, 100 + cut_maps.FEW_ROWS)[None]
    with loaded.interventions.gates(gates_without(loaded.shape, [(0, 1), (2, 3)])):
        long = loaded.model(input_ids=rows, use_cache=False).logits
        n_cuts = len(cuts)
        short = loaded.model(input_ids=rows[:, :3], use_cache=False).logits
    assert n_cuts
    assert len(cuts) == n_cuts
    torch.testing.assert_close(short, long[:, :3])


def test_layers_below_the_first_difference_are_not_computed(loaded):
    batches = Batches(random_documents(np.random.default_rng(4), n=3), 100_000)
    assert len(batches) == 1
    loaded.interventions.calls.clear()
    progress = Progress("x", 15, "y")
    likelihoods_of(loaded, batches, removals_of(loaded.shape), progress)
    assert [loaded.interventions.calls[layer] for layer in range(3)] == [2, 3, 5]
    assert progress.done == 15


def test_what_is_known_is_not_computed_and_what_follows_it_starts_anew(loaded, tmp_path, monkeypatch):
    """The whole model's evaluation and the third level are known, of half of the documents the second, too."""
    batches = Batches(random_documents(np.random.default_rng(5), n=8), 100_000)
    removals = removals_of(loaded.shape)
    cache = ResumeCache(tmp_path, "stamp")
    likelihoods_of(loaded, batches, [removals[0], removals[2]], cache=cache)
    with likelihood.open_unit(cache, batches, removals[1].gates) as unit:
        whole = likelihoods(loaded, batches, removals[1].gates)
        for number in range(4):
            unit.add(number, **whole.entry(batches.sequence_slice(number)))
    loaded.interventions.calls.clear()
    progress = Progress("x", 40, "y")
    actual = likelihoods_of(loaded, batches, removals, progress, cache)
    assert [loaded.interventions.calls[layer] for layer in range(3)] == [2, 3, 3]
    assert progress.done == 40
    check_equal(actual, loaded, batches, removals)
    monkeypatch.setattr(likelihood, "predict", lambda *arguments: pytest.fail("everything is known"))
    for results, again in zip(actual, likelihoods_of(loaded, batches, removals, cache=cache), strict=True):
        np.testing.assert_array_equal(results.values, again.values)


def let_memory_run_out(monkeypatch, number):
    """Let memory run out in the pass of this number, from 1; the batches of all passes so far are in the list."""
    predict, passes = likelihood.predict, []

    def scarce(loaded, batch):
        passes.append(batch)
        if len(passes) == number:
            raise MemoryError
        return predict(loaded, batch)

    monkeypatch.setattr(likelihood, "predict", scarce)
    return passes


def test_memory_that_runs_out_where_the_rest_is_known_computes_no_document_anew(loaded, tmp_path, monkeypatch):
    removals, cache = removals_of(loaded.shape)[:2], ResumeCache(tmp_path, "stamp")
    batches = Batches(random_documents(np.random.default_rng(6), n=8), 100_000)
    (batch,) = batches
    known = [member.number for member in batch.halves()[0].members]
    expected = [likelihoods(loaded, batches, removal.gates) for removal in removals]
    with likelihood.open_unit(cache, batches, removals[1].gates) as unit:
        for number in known:
            unit.add(number, **expected[1].entry(batches.sequence_slice(number)))
    passes = let_memory_run_out(monkeypatch, 2)
    actual = likelihoods_of(loaded, batches, removals, cache=cache)
    assert [batch.n_documents for batch in passes] == [8, 8, 8 - len(known)]
    for results, whole in zip(actual, expected, strict=True):
        np.testing.assert_allclose(results.values, whole.values, rtol=1e-9)


def test_memory_that_runs_out_between_levels_counts_nothing_twice(loaded, monkeypatch):
    removals = removals_of(loaded.shape)
    documents = random_documents(np.random.default_rng(6), n=8)
    predict = likelihood.predict
    let_memory_run_out(monkeypatch, 3)
    batches = Batches(documents, 100_000)
    actual = likelihoods_of(loaded, batches, removals)
    monkeypatch.setattr(likelihood, "predict", predict)
    for removal, results in zip(removals, actual, strict=True):
        whole = likelihoods(loaded, Batches(documents, 100_000), removal.gates)
        np.testing.assert_allclose(results.values, whole.values, rtol=1e-9)
