"""Each family, from tiny random checkpoints on disk, against loops around transformers' own eager models."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from lm_headroom.engine.ablation import MeanAblation, ResampleAblation
from lm_headroom.engine.layout import FLEX
from lm_headroom.engine.likelihood import likelihoods, log_likelihoods
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.packing import Batches
from lm_headroom.models import architectures
from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.knockout import knock_out_ffns
from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from tests.families import loops
from tests.families.cases import CASES, HIDDEN, LAYERS, output_projections
from tests.families.documents import DOCUMENTS, SINGLE, TOKENS
from tests.support.paths import ROOT

# Some models of transformers compute the softmax of attention in float32, whatever they are in.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize(
    "pruned", [[(0, 0)], [(1, 2), (2, 3)], [(1, head) for head in range(6)]], ids=["one", "two", "a whole layer"]
)
@torch.no_grad()
def test_closed_heads_equal_zeroed_projection_columns(served, plain, name, case, pruned):
    loaded, pruned = served(name), [(layer, head) for layer, head in pruned if head < case.heads]
    ids = torch.tensor([TOKENS])
    with loaded.interventions.gates(gates_without(loaded.shape, pruned)):
        actual = loaded.model(input_ids=ids, use_cache=False).logits
    expected = loops.close(plain(name), case, pruned)(input_ids=ids).logits
    torch.testing.assert_close(actual, expected, **CLOSE)
    assert not torch.allclose(actual, loaded.model(input_ids=ids).logits, atol=1e-3)


def test_packed_rows_equal_separate_rows(served, plain, name):
    batches = Batches(DOCUMENTS, 200)
    (batch,) = batches
    assert len(batch.trees) == 2, "two of the documents share a tree"
    assert any(tree.trunk < tree.columns for tree in batch.trees)
    values = log_likelihoods(served(name), batches)
    np.testing.assert_allclose(values, loops.log_likelihoods(plain(name), DOCUMENTS), **CLOSE)


def test_one_call_of_flex_attention_equals_separate_rows(served, plain, name, monkeypatch):
    monkeypatch.setenv(FLEX, "1")
    values = log_likelihoods(served(name), Batches(DOCUMENTS, 200))
    np.testing.assert_allclose(values, loops.log_likelihoods(plain(name), DOCUMENTS), **CLOSE)


def test_left_out_ffns_equal_zeroed_ones_in_restarted_passes(served, plain, name):
    knockouts = knock_out_ffns(served(name), Batches(DOCUMENTS, 200))
    np.testing.assert_allclose(knockouts.dense.values, loops.log_likelihoods(plain(name), DOCUMENTS), **CLOSE)
    for layer, ablated in enumerate(knockouts.ablated):
        with torch.no_grad():
            expected = loops.log_likelihoods(loops.silence(plain(name), [layer]), DOCUMENTS)
        np.testing.assert_allclose(ablated.values, expected, **CLOSE)
        assert not np.allclose(ablated.values, knockouts.dense.values, atol=1e-3)


@torch.no_grad()
def test_mean_and_resample_ablation_equal_hooks_on_a_plain_model(served, plain, name, case):
    """Some heads of a layer, all of another, an FFN of a third, and the last one, which few columns read."""
    heads = [(0, 0), (2, case.heads - 1), *((1, head) for head in range(case.heads))]
    ffns, gates = [0, LAYERS - 1], gates_without(served(name).shape, heads)
    model, scoring = plain(name), SINGLE
    by_document = [loops.activations(model, document.sequences[0].inputs) for document in scoring]
    means = tuple(
        [torch.cat(values).mean(0, keepdim=True) for values in zip(*(each[k] for each in by_document), strict=True)]
        for k in range(2)
    )
    mean = MeanAblation(served(name), scoring, 40)
    values = likelihoods(served(name), Batches(DOCUMENTS, 200), gates, ffns, ablation=mean).values
    with loops.replaced(model, case, heads, ffns, means):
        np.testing.assert_allclose(values, loops.log_likelihoods(model, DOCUMENTS), **CLOSE)
    resample = ResampleAblation(served(name), scoring, 40)
    values = likelihoods(served(name), Batches(DOCUMENTS, 200, share=False), gates, ffns, ablation=resample).values
    expected = []
    for document in DOCUMENTS:
        donor = resample.donors[resample.donor(document)]
        with loops.replaced(model, case, heads, ffns, by_document[scoring.index(donor)]):
            expected += loops.log_likelihoods(model, [document]).tolist()
    np.testing.assert_allclose(values, expected, **CLOSE)
    zeroed = likelihoods(served(name), Batches(DOCUMENTS, 200), gates, ffns).values
    assert not np.allclose(values, zeroed, atol=1e-3)


def test_importance_equals_the_loops(served, plain, name, case):
    actual = contributions(served(name), SINGLE, 200)
    expected = loops.importance(plain(name), case, SINGLE)
    np.testing.assert_allclose(actual.absolute, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_what_heads_write_equals_the_loops(served, plain, name, case):
    actual = contributions(served(name), SINGLE, 200)
    with torch.no_grad():
        expected = loops.written(plain(name), case, SINGLE)
    np.testing.assert_allclose(actual.written, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_how_heads_attend_equals_the_models_own_attention_maps(served, plain, name):
    actual = contributions(served(name), SINGLE, 200)
    entropy, sink = loops.attention_sums(plain(name), SINGLE)
    np.testing.assert_allclose(actual.entropy, entropy, **CLOSE)
    np.testing.assert_allclose(actual.sink, sink, **CLOSE)


def test_ffn_gradients_equal_the_loops_and_finite_differences(served, plain, name):
    """Behind the norm of families that norm what an FFN gives: before it the norm undoes any factor."""
    actual = contributions(served(name), SINGLE, 200).ffns
    absolute, signed = loops.ffn_importance(plain(name), SINGLE)
    np.testing.assert_allclose(actual.absolute[..., 0], absolute, rtol=1e-3, atol=1e-5 * absolute.max())
    np.testing.assert_allclose(actual.signed[..., 0], signed, rtol=1e-3, atol=1e-5 * absolute.max())
    for layer in range(LAYERS):
        # Norms that compute in float32 leave few digits to a difference of two losses.
        difference = loops.ffn_gate_derivative(plain(name), layer, SINGLE[0].sequences[0], 1e-2)
        assert signed[0, layer] == pytest.approx(difference, rel=0.02, abs=1e-3 * np.abs(signed[0]).max())


@pytest.mark.parametrize("start", [None, 1])
def test_prefix_matching_equals_the_maps(served, plain, name, start):
    # So short that the last copy is within a window of five tokens, and the others are not.
    tokens = TOKENS[:4]
    with torch.no_grad():
        expected = loops.prefix_matching(plain(name), tokens, start)
    np.testing.assert_allclose(prefix_matching_scores(served(name), tokens, start), expected, **CLOSE)


@pytest.mark.parametrize("head_output", ["attention", "value"])
@torch.no_grad()
def test_copying_equals_the_loops(served, plain, name, case, head_output):
    with_bias = head_output == "value"
    scores = copying_scores(served(name), TOKENS, 1, head_output, with_bias)
    expected = loops.copying(plain(name), case, TOKENS, 1, head_output, with_bias)
    np.testing.assert_allclose(scores, expected, **CLOSE)
    assert scores.std() > 0.01


@torch.no_grad()
def test_the_rows_of_a_head_make_its_output_alone(plain, name, case):
    """Query rows of one head change its output alone, key and value rows those of its group."""
    model = plain(name)
    ids, rows = torch.tensor([TOKENS]), architectures.head_rows(model, 0)
    kept = {}
    output_projections(model)[0].register_forward_pre_hook(lambda module, arguments: kept.update(a=arguments[0]))

    def outputs():
        model(input_ids=ids, use_cache=False)
        return kept["a"][0].unflatten(-1, (case.heads, case.width_of(0))).transpose(0, 1)

    before = outputs()
    groups = case.groups_of(0)
    group = case.heads // groups
    for what, chosen, theirs in (
        (rows.query, case.heads - 1, [case.heads - 1]),
        (rows.key, groups - 1, range(case.heads - group, case.heads)),
        (rows.value, groups - 1, range(case.heads - group, case.heads)),
    ):
        weight = loops.rows_first(what.module)
        whole = weight.clone()
        weight[what.rows[chosen]] *= -0.7
        changed = [h for h, (a, b) in enumerate(zip(before, outputs(), strict=True)) if not torch.equal(a, b)]
        assert changed == (list(theirs) if rows.separable or what is rows.value else list(range(case.heads)))
        weight.copy_(whole)


def test_all_heads_take_all_of_attention_but_the_output_biases(served, name, case):
    model = served(name).skeleton
    everything = [(layer, head) for layer in range(LAYERS) for head in range(case.heads)]
    biases = sum(m.bias.numel() for m in output_projections(model) if m.bias is not None)
    attention = sum(p.numel() for m in architectures.attention_modules(model).values() for p in m.parameters())
    assert architectures.removed_parameters(model, everything) == attention - biases


def test_the_parameters_of_a_layer_are_attention_ffn_and_norms(served, name):
    """Nothing of a layer is counted twice: what is left are norms that attention has or shares, and the output bias."""
    model = served(name).skeleton
    layer = architectures.layers(model)[1]
    ffn, attention = (
        architectures.ffn_parameters(model, 1),
        sum(p.numel() for p in architectures.attention_modules(model)[1].parameters()),
    )
    # What else Gemma 4 adds after its FFN stays.
    rest = {name: p.numel() for name, p in layer.named_parameters() if "per_layer" not in name}
    left = sum(rest.values()) - ffn - attention
    assert 0 <= left <= 4 * HIDDEN
    assert left % HIDDEN == 0


def test_every_row_is_tested_and_documented():
    page = (ROOT / "docs" / "models.md").read_text()
    assert set(architectures.ARCHITECTURES) <= {case.family for case in CASES.values()}
    (served,) = re.findall(r"^\| served, by a row \| (.*) \|$", page, re.MULTILINE)
    assert re.findall(r"`(\w+)`", served) == sorted(architectures.ARCHITECTURES)
    for row in architectures.ARCHITECTURES.values():
        assert all(f"`{key.rsplit('.', 1)[-1]}" in page for key, _, _ in row.unsupported)
