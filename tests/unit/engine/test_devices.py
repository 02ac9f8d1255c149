"""Models whose tensors lie on another device than the numbers of heads, experts and documents, as on a GPU."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lm_headroom.engine import cut_maps
from lm_headroom.engine.ablation import KINDS
from lm_headroom.engine.likelihood import likelihoods
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.models.experts import expert_blocks
from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.expert_gradient import expert_products
from lm_headroom.scoring.gradient import contributions, magnitudes
from lm_headroom.scoring.knockout import knock_out_ffns, knock_out_heads
from lm_headroom.scoring.learned_mask import gate_gradient
from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from tests.support.documents import documents as gold_documents
from tests.support.documents import random_documents
from tests.support.pretended_device import DEVICE, Pretended, moved, pretending
from tests.support.tiny_models import tiny_model


def measures(model):
    """What the engine computes of a model, by name."""
    loaded = prepare(model, None)
    shape, drawn, gold = loaded.shape, random_documents(np.random.default_rng(0)), gold_documents()
    heads = [(layer, head) for layer in shape.attending for head in (0, 3)]
    gates = gates_without(shape, heads)
    evaluated = partial(likelihoods, loaded, Batches(drawn, 200, lambda: loaded.device))
    apart = Batches(drawn, 200, lambda: loaded.device, share=False)
    result = {"whole": evaluated().values, "pruned": evaluated(gates, [1]).values, "magnitude": magnitudes(loaded)}
    for kind, ablation in KINDS.items():
        result[kind] = likelihoods(loaded, apart, gates, ablation=ablation(loaded, gold, 200)).values
    for name, chosen in (("scores", None), ("scores of a pruned model", gates)):
        products = contributions(loaded, gold, 200, gates=chosen)
        result[name] = np.stack([getattr(products, kind) for kind in ("signed", "written", "entropy", "sink")])
        result[f"{name}, FFNs"] = products.ffns.signed
    result["knockout of FFNs"] = np.stack([each.values for each in knock_out_ffns(loaded, apart).ablated])
    result["knockout of heads"] = np.stack([each.values for each in knock_out_heads(loaded, apart, heads).ablated])
    result["prefix matching"] = prefix_matching_scores(loaded, list(range(10, 40)), 1)
    for output in ("attention", "value"):
        result[f"copying, {output}"] = copying_scores(loaded, list(range(10, 40)), 1, output, output_bias=True)
    for size in (shape.grid, (shape.layers,)):
        half = torch.full(size, 0.5, dtype=torch.float64)
        result[f"learned gates, {size}"] = gate_gradient(loaded, gold, 200, half)[1].numpy()
    if blocks := expert_blocks(model):
        result["experts"] = expert_products(loaded, gold, 200).signed
        result["without an expert"] = evaluated(without_experts=[(max(blocks), 1)]).values
    return result


@pytest.mark.parametrize("family", ["opt", "llama", "olmoe", "lfm2"])
def test_every_measure_is_that_of_the_model_on_the_host(family, monkeypatch):
    monkeypatch.setattr(cut_maps, "is_plain", lambda linear: type(linear) is nn.Linear)
    expected = measures(tiny_model(family))
    with pretending():
        actual = measures(moved(tiny_model(family)))
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_device_refuses_what_a_gpu_does():
    here = torch.arange(4)
    there = Pretended(here)
    with pretending():
        assert there[here].device.type == DEVICE.type
        assert (there + torch.tensor(1)).cpu().tolist() == [1, 2, 3, 4]
        for mixed in (lambda: here[there], lambda: there + here, lambda: here.index_add(0, there, here)):
            with pytest.raises(RuntimeError, match="of the host and of the device meet"):
                mixed()
