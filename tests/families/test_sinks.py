"""Attention whose softmax has a sink of each head, against the maps that transformers' own model gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.models import architectures
from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from tests.families.documents import FEW_TOKENS as TOKENS
from tests.families.documents import IN_FEW_TOKENS as DOCUMENTS
from tests.families.documents import SINGLE_IN_FEW_TOKENS as SINGLE
from tests.families.loops import attention_sums, prefix_matching
from tests.families.loops import log_likelihoods as one_by_one
from tests.support.model_types import tiny_of_type

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def gpt_oss():
    return prepare(tiny_of_type("gpt_oss").requires_grad_(False), None)


@pytest.fixture
def plain():
    return tiny_of_type("gpt_oss").requires_grad_(False)


@torch.no_grad()
def test_packed_rows_and_closed_heads_equal_the_models_own(gpt_oss, plain):
    pruned = [(1, 0), (2, 3)]
    for layer, head in pruned:
        weights = architectures.head_rows(plain, layer)
        weights.output.weight[:, weights.columns[head]] = 0
    values = log_likelihoods(gpt_oss, Batches(DOCUMENTS, 200), gates_without(gpt_oss.shape, pruned))
    np.testing.assert_allclose(values, one_by_one(plain, DOCUMENTS), **CLOSE)


@torch.no_grad()
def test_sinks_take_their_share_of_attention(gpt_oss, plain):
    values = log_likelihoods(gpt_oss, Batches(DOCUMENTS, 200))
    for attention in architectures.attention_modules(plain).values():
        attention.sinks.fill_(-1e9)
    assert not np.allclose(values, one_by_one(plain, DOCUMENTS), atol=1e-3)


def test_how_heads_attend_equals_the_models_own_maps(gpt_oss, plain):
    actual = contributions(gpt_oss, SINGLE, 200)
    entropy, first = attention_sums(plain, SINGLE)
    np.testing.assert_allclose(actual.entropy, entropy, **CLOSE)
    np.testing.assert_allclose(actual.sink, first, **CLOSE)


@torch.no_grad()
def test_prefix_matching_equals_the_maps(gpt_oss, plain):
    expected = prefix_matching(plain, TOKENS[:4], 1)
    np.testing.assert_allclose(prefix_matching_scores(gpt_oss, TOKENS[:4], 1), expected, **CLOSE)


def test_the_value_of_a_head_is_that_without_a_sink(gpt_oss, plain):
    for attention in architectures.attention_modules(plain).values():
        attention.sinks.fill_(-1e9)
    expected = copying_scores(prepare(plain, None), TOKENS, 1, head_output="value")
    np.testing.assert_allclose(copying_scores(gpt_oss, TOKENS, 1, head_output="value"), expected, **CLOSE)


def test_the_sink_of_a_head_is_removed_with_it(gpt_oss):
    model = gpt_oss.model
    (attention,) = [one for layer, one in architectures.attention_modules(model).items() if layer == 1]
    own = attention.q_proj, attention.o_proj
    heads = attention.sinks.numel()
    biases = attention.q_proj.bias.numel() // heads
    expected = sum(one.weight.numel() // heads for one in own) + biases + 1
    assert architectures.removed_parameters(model, [(1, 0)]) == expected
