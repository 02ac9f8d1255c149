"""FFN importance against plain evaluations, one per layer."""

import numpy as np
import pytest
import torch

from headroom.checkpoints import prepare
from headroom.likelihood import likelihoods
from headroom.oracle import importance, knock_out_ffns
from headroom.packing import Batches
from headroom.progress import Progress
from headroom.pruning import Evaluation
from headroom.statistics import Choices
from tests.conftest import tiny_model
from tests.unit.test_likelihood import random_documents


@pytest.fixture(params=["opt", "llama", "opt-350m"])
def narrow(request, tokenizer):
    """A tiny model in float32: fc1 and fc2 on the layer, an mlp module, norms after their blocks."""
    return prepare(tiny_model(request.param).float(), tokenizer)


@pytest.mark.parametrize("budget", [70, 100_000])
def test_restarted_passes_equal_whole_ones_bit_for_bit(narrow, budget):
    documents = random_documents(np.random.default_rng(3))
    batches = Batches(documents, budget)
    found = knock_out_ffns(narrow, batches)
    np.testing.assert_array_equal(found.dense.values, likelihoods(narrow, batches).values)
    assert len(found.ablated) == narrow.shape.layers == 3
    for layer, ablated in enumerate(found.ablated):
        whole = likelihoods(narrow, batches, without_ffns=[layer])
        np.testing.assert_array_equal(ablated.values, whole.values)
        np.testing.assert_array_equal(ablated.greedy, whole.greedy)
        assert not np.allclose(ablated.values, found.dense.values, atol=1e-2)


def test_layers_below_the_ablated_one_are_not_computed(narrow):
    documents = random_documents(np.random.default_rng(4), n=3)
    batches = Batches(documents, 100_000)
    assert len(batches) == 1
    narrow.seam.calls.clear()
    progress = Progress("x", 9, "y")
    knock_out_ffns(narrow, batches, progress)
    # One whole pass, and one from each layer on.
    assert [narrow.seam.calls[layer] for layer in range(3)] == [2, 3, 4]
    assert progress.done == 9


def test_scores_count_questions_and_pair_them(narrow):
    """Accuracies from the evaluation of each model by itself; documents 0-1 and 2-4 make questions."""
    documents = random_documents(np.random.default_rng(5), n=12)
    rng = np.random.default_rng(6)
    choices = [
        Choices(
            document.doc_id,
            tuple(bool(i == rng.integers(len(document.rows))) for i in range(len(document.rows))) or (True,),
            None,
            question={0: 0, 1: 0, 2: 2, 3: 2, 4: 2}.get(number, number),
        )
        for number, document in enumerate(documents)
    ]
    batches = Batches(documents, 200)
    evaluation = Evaluation(narrow, documents, choices, batches)
    columns = importance(documents, choices, knock_out_ffns(narrow, batches))
    dense = evaluation.outcomes()
    assert dense["n_documents"] == 9
    assert columns["layer"] == [0, 1, 2]
    for layer in range(3):
        ablated = evaluation.outcomes(ffns=[layer])
        assert columns["score"][layer] == pytest.approx(dense["accuracy"] - ablated["accuracy"])
        assert columns["correct_ablated"][layer] == ablated["correct"]
        assert columns["correct_dense"][layer] == dense["correct"]
        assert columns["doc_id"][layer] == dense["doc_id"] == [0, 2, *range(5, 12)]
        difference = np.array(dense["correct"], float) - np.array(ablated["correct"], float)
        assert columns["stderr"][layer] == pytest.approx(difference.std(ddof=1) / 3)


def test_an_ffn_without_effect_scores_zero(tokenizer):
    model = tiny_model("llama").float()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    loaded = prepare(model, tokenizer)
    documents = random_documents(np.random.default_rng(7))
    found = knock_out_ffns(loaded, Batches(documents, 200))
    np.testing.assert_array_equal(found.ablated[1].values, found.dense.values)
