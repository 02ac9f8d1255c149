"""Attention within packed trees: one call of flex attention, on the CPU, equals the calls of each tree."""

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention

from lm_headroom.engine import layout as layouts
from lm_headroom.engine.attachment import attach
from lm_headroom.engine.attention import AttentionSpec
from lm_headroom.engine.layout import FLEX, Layout, TreeMask, attend_within
from lm_headroom.engine.likelihood import encode
from lm_headroom.engine.packing import TreeDocument, assemble, build_prefix_tree
from lm_headroom.errors import HeadroomError
from tests.support.tiny_models import SENTENCES, tiny_model

CONTINUATIONS = [" the river", " the road", " a stone", " a", " the river and a stone"]
SPECS = {
    "plain": AttentionSpec(0.3),
    "capped": AttentionSpec(0.3, softcap=2.0),
    "window": AttentionSpec(0.3, sliding_window=4),
    "sinks": AttentionSpec(0.3, sinks=torch.tensor([0.5, -1.0, 2.0])),
    "all": AttentionSpec(0.3, 2.0, 4, torch.tensor([0.5, -1.0, 2.0])),
}


@pytest.fixture
def documents(tokenizer):
    """Sequences that branch at several depths, and one document without a branch."""
    pairs = [(i, text, rest) for i, text in enumerate(SENTENCES[:3]) for rest in CONTINUATIONS]
    return encode([*pairs, (3, SENTENCES[3], " alone")], tokenizer, 256)


@pytest.fixture
def packed(documents):
    trees = [build_prefix_tree([TreeDocument(document, n, 9 * n)]) for n, document in enumerate(documents)]
    return assemble(trees, "cpu").layout()


@pytest.fixture
def calls(monkeypatch):
    """How many calls of flex attention there were, as the length of a list."""
    done, original = [], layouts._flex_attention

    def counted(device):
        done.append(device)
        return original(device)

    monkeypatch.setattr(layouts, "_flex_attention", counted)
    return done


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_one_call_gives_values_and_gradients_of_one_per_tree(packed, spec, monkeypatch, calls):
    assert len(packed.trees) == 4
    assert sum(tree.branches is None for tree in packed.trees) == 1
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, packed.columns)
    leaves = [torch.randn(*shape, width, generator=generator).requires_grad_() for width in (8, 8, 6)]
    weights = torch.randn(*shape, 6, generator=generator)

    def run():
        values = attend_within(packed, *leaves, spec)
        return values, *torch.autograd.grad((values * weights).sum(), leaves)

    apart = run()
    monkeypatch.setenv(FLEX, "1")
    run()
    assert not calls, "flex attention has no gradients on CPUs"
    # Its reference has them, as it has on GPUs.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(layouts, "_can_differentiate", lambda *_: True)
    for ours, expected in zip(run(), apart, strict=True):
        np.testing.assert_allclose(ours.detach(), expected.detach(), atol=2e-6)
    assert len(calls) == 1


def test_one_causal_sequence_needs_no_other_call(monkeypatch, calls):
    monkeypatch.setenv(FLEX, "1")
    attend_within(Layout.causal(5), *torch.randn(3, 1, 2, 5, 4), AttentionSpec(1.0))
    assert not calls


def test_loading_proves_it(family, monkeypatch, calls):
    """A mask that lets a tree see the one before is found, as it is without."""
    monkeypatch.setenv(FLEX, "1")
    monkeypatch.setattr(
        Layout, "visible", property(lambda layout: torch.ones(layout.columns, layout.columns).tril() > 0)
    )
    with pytest.raises(HeadroomError, match="packed rows"):
        attach(tiny_model(family))
    assert calls


def test_columns_see_their_ancestors_alone():
    branches = torch.tensor([[True, True, False, True, False], [True, False, False, False, True]])
    layout = Layout((TreeMask(2, 2), TreeMask(5, 3, branches)))
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[:2, :2] = torch.tensor([[1, 0], [1, 1]])
    expected[2:5, 2:5] = torch.ones(3, 3).tril()
    expected[5:, 2:] = branches
    assert torch.equal(layout.visible, expected)
