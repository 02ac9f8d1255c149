"""Models that do not fit one device: layers that wait on disk, as accelerate's device maps place them.

The same hooks serve several GPUs and the host's memory; a disk is what every machine has.
"""

import numpy as np
import pytest
import torch

from lm_headroom.analysis.metrics import Choices
from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.loading import prepare
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.knockout import knock_out_ffns
from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from lm_headroom.scoring.pruned_evaluation import Evaluation
from tests.support.documents import random_documents
from tests.support.tiny_models import tiny_model


@pytest.fixture(params=["llama", "opt", "opt-350m"])
def pair(request, tmp_path):
    """A model in memory, and the same with its middle layer and its embeddings' projections on disk."""
    from transformers import AutoModelForCausalLM

    model = tiny_model(request.param).float()
    model.save_pretrained(tmp_path)
    stem = "model" if request.param == "llama" else "model.decoder"
    places = {f"{stem}.layers.{n}": "disk" if n == 1 else "cpu" for n in range(3)}
    for name, _ in model.get_submodule(stem).named_children():
        if name != "layers":
            places[f"{stem}.{name}"] = "disk" if name.startswith("project") else "cpu"
    split = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, device_map={**places, "lm_head": "cpu"}, attn_implementation="sdpa"
    )
    assert {parameter.device.type for parameter in split.parameters()} == {"cpu", "meta"}
    return prepare(model, None), prepare(split, None)


def test_every_measure_is_that_of_the_model_in_memory(pair):
    documents = random_documents(np.random.default_rng(0))
    actual = [log_likelihoods(loaded, Batches(documents, 200)) for loaded in pair]
    np.testing.assert_array_equal(*actual)
    knocked = [knock_out_ffns(loaded, Batches(documents, 200)) for loaded in pair]
    for ours, theirs in zip(knocked[0].ablated, knocked[1].ablated, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)
    gold = [Document(d.doc_id, d.sequences[:1]) for d in documents]
    np.testing.assert_allclose(*(contributions(loaded, gold, 200).absolute for loaded in pair), rtol=1e-5, atol=1e-7)
    tokens = list(range(10, 40))
    np.testing.assert_array_equal(*(prefix_matching_scores(loaded, tokens, 1) for loaded in pair))
    np.testing.assert_array_equal(*(copying_scores(loaded, tokens, 1, output_bias=True) for loaded in pair))


def test_layers_that_wait_are_named(pair, capsys):
    whole, split = pair
    prepare(whole.model, None)
    assert capsys.readouterr().err == ""
    prepare(split.model, None)
    assert "1 of 3 layers do not fit this job's GPUs" in capsys.readouterr().err


def test_pruned_curves_and_counts_are_too(pair):
    documents = random_documents(np.random.default_rng(1))
    choices = [Choices(d.doc_id, tuple(n == 0 for n in range(len(d.sequences))), None) for d in documents]
    ranking = [(layer, head) for layer in (1, 0, 2) for head in range(4)]
    curves = [
        Evaluation(loaded, documents, choices, Batches(documents, 200)).curve(ranking, [0, 40, 100]) for loaded in pair
    ]
    assert curves[0] == curves[1]
    assert curves[0]["parameters_removed"][1] > 0
