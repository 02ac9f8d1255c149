"""Masked generation with the key-value cache, where attention has an adapter, a window or a cap."""

import pytest
import torch

import lm_headroom
from tests.families.cases import CASES, model_of


@pytest.mark.parametrize("name", ["falcon", "bloom", "mpt", "gemma2", "mistral-sliding"])
def test_a_padded_batch_generates_what_passes_without_a_cache_choose(name):
    model, n_tokens = model_of(CASES[name]), 5
    ids = torch.arange(5, 17).view(2, 6)
    seen = torch.ones_like(ids)
    seen[1, :2] = 0
    shape = lm_headroom.attach(model).interventions.shape
    ranking = [(layer, head) for head in range(shape.heads) for layer in range(shape.layers)]
    options = {"max_new_tokens": n_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with lm_headroom.mask(model, ranking, 40), torch.no_grad():
        generated = model.generate(ids, attention_mask=seen, **options)
        for _ in range(n_tokens):
            places = {} if name in ("bloom", "mpt") else {"position_ids": (seen.cumsum(1) - 1).clamp(min=0)}
            logits = model(input_ids=ids, attention_mask=seen, use_cache=False, **places).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            seen = torch.cat([seen, seen.new_ones(2, 1)], dim=1)
    assert torch.equal(generated, ids)
