"""Copying against Algorithm 2 written as loops over the softmax of the whole vocabulary."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lm_headroom.engine.loading import prepare
from lm_headroom.errors import HeadroomError
from lm_headroom.scoring.copying import copying, copying_scores
from lm_headroom.scoring.prefix_matching import ranked_vocabulary, sequence
from tests.support.looped_copying import VARIANTS, looped
from tests.support.tiny_models import tiny_config

TOKENS = np.random.default_rng(0).permutation(np.arange(3, 500))[:15].tolist()


def tiny(family, **changes):
    """A random float64 model whose biases and norms are not at their neutral start."""
    torch.manual_seed(1)
    config = tiny_config(family, 523)
    config.update(changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.double().eval()


CASES = {
    "opt": ("opt", {}),
    "opt with projections": ("opt", {"word_embed_proj_dim": 16}),
    "post-norm opt": ("opt", {"do_layer_norm_before": False}),
    "post-norm opt with projections, as 350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "llama with grouped heads": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True}),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def model(request, tokenizer):
    family, changes = request.param
    return prepare(tiny(family, **changes), tokenizer)


@pytest.mark.parametrize("start", [None, 1])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_equals_the_loops(model, variant, start):
    scores = copying_scores(model, TOKENS, start, **variant)
    expected = looped(model.model, TOKENS, start, **variant)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-10)
    assert scores.std() > 0.01


def test_the_output_bias_matters_where_there_is_one(tokenizer):
    model = prepare(tiny("opt"), tokenizer)
    without, with_bias = (copying_scores(model, TOKENS, 1, output_bias=bias) for bias in (False, True))
    assert np.abs(without - with_bias).max() > 0.01


def test_blocks_of_queries_do_not_matter(loaded, monkeypatch):
    together = copying_scores(loaded, TOKENS, 1)
    monkeypatch.setattr("lm_headroom.scoring.copying.BLOCK", 4)
    np.testing.assert_allclose(copying_scores(loaded, TOKENS, 1), together, rtol=1e-10)


def test_the_model_is_left_as_it_was(loaded):
    ids = torch.tensor([[1, *TOKENS]])
    before = loaded.model(input_ids=ids).logits
    copying_scores(loaded, TOKENS, 1)
    assert torch.equal(loaded.model(input_ids=ids).logits, before)


def test_half_precision_is_widened(loaded):
    wide = copying_scores(loaded, TOKENS, 1)
    loaded.model.bfloat16()
    narrow = copying_scores(loaded, TOKENS, 1)
    assert np.abs(narrow - wide).mean() < 0.05


def test_heads_that_raise_nothing_score_zero(loaded):
    for layer in loaded.model.base_model.modules():
        for name in ("v_proj", "out_proj", "o_proj"):
            if hasattr(layer, name):
                torch.nn.init.zeros_(getattr(layer, name).weight)
    assert (copying_scores(loaded, TOKENS, 1) == 0).all()


def test_mean_and_variance_over_sequences_of_four_times_the_length(loaded, tokenizer):
    columns, provenance = copying(loaded, 2, bos=False, head_output="value")
    ranked, _ = ranked_vocabulary(tokenizer)
    sequences = [sequence(ranked, seed, times=4) for seed in (1, 2)]
    assert [len(set(tokens)) for tokens in sequences] == [100, 108]
    single = np.stack([copying_scores(loaded, tokens, None, head_output="value") for tokens in sequences])
    np.testing.assert_allclose(np.reshape(columns["mean"], (3, 4)), single.mean(axis=0))
    np.testing.assert_allclose(np.reshape(columns["variance"], (3, 4)), single.var(axis=0, ddof=1))
    assert provenance == {"vocabulary": "BPE merge order", "start_token": "none"}


def test_small_vocabularies_and_windows_are_refused(loaded):
    with pytest.raises(HeadroomError, match="needs 116 distinct tokens, the vocabulary offers 110; .* at most 2"):
        copying_scores(loaded, sequence(list(range(118)), 3, times=4), 1)
    with pytest.raises(HeadroomError, match="needs 100 distinct tokens.*cannot hold even the shortest"):
        sequence(list(range(90)), 1, times=4)
    with pytest.raises(
        HeadroomError, match="257 tokens is longer than the model's context window of 256; .* at most 20"
    ):
        copying_scores(loaded, list(range(3, 259)), 1)
