"""The oracle of heads against plain evaluations with one head gone, and its sample."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lm_headroom.analysis.metrics import Choices
from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.store import ArtifactFile
from lm_headroom.engine import likelihood
from lm_headroom.engine.likelihood import likelihoods
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.engine.resume_cache import ResumeCache
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.progress import Progress
from lm_headroom.scoring.knockout import gold_losses, head_oracle_columns, knock_out_heads, sample_heads
from lm_headroom.scoring.oracle_scores import oracle_scores
from lm_headroom.scoring.pruned_evaluation import Evaluation
from tests.support.documents import random_documents
from tests.support.tiny_models import tiny_model

HEADS = [(0, 1), (0, 3), (1, 0), (2, 2)]


@pytest.fixture(params=["opt", "llama"])
def narrow(request, tokenizer):
    """A tiny model in float32."""
    return prepare(tiny_model(request.param).float(), tokenizer)


def choices_of(documents, questions=None):
    """The second choice is right, where there are two."""
    return [
        Choices(
            d.doc_id,
            tuple(i == min(1, len(d.sequences) - 1) for i in range(len(d.sequences))),
            None,
            (questions or {}).get(n),
        )
        for n, d in enumerate(documents)
    ]


@pytest.mark.parametrize("budget", [70, 100_000])
def test_restarted_passes_equal_gated_whole_ones_bit_for_bit(narrow, budget):
    batches = Batches(random_documents(np.random.default_rng(3)), budget)
    knockouts = knock_out_heads(narrow, batches, HEADS)
    np.testing.assert_array_equal(knockouts.dense.values, likelihoods(narrow, batches).values)
    for head, ablated in zip(HEADS, knockouts.ablated, strict=True):
        whole = likelihoods(narrow, batches, gates_without(narrow.shape, [head]))
        np.testing.assert_array_equal(ablated.values, whole.values)
        np.testing.assert_array_equal(ablated.greedy, whole.greedy)
        assert not np.allclose(ablated.values, knockouts.dense.values, atol=1e-3)


def test_layers_below_are_not_computed(narrow):
    batches = Batches(random_documents(np.random.default_rng(4), n=3), 100_000)
    narrow.interventions.calls.clear()
    progress = Progress("x", 12, "y")
    knock_out_heads(narrow, batches, HEADS, progress)
    # One whole pass, and one per head from its layer on.
    assert [narrow.interventions.calls[layer] for layer in range(3)] == [3, 4, 5]
    assert progress.done == 12


def test_columns_by_hand(narrow):
    """Documents 0 and 1 are one question: right if both are, with the mean of their losses."""
    documents = random_documents(np.random.default_rng(5), n=7)
    choices = choices_of(documents, {0: 0, 1: 0})
    batches = Batches(documents, 200)
    columns = head_oracle_columns(documents, choices, HEADS, knock_out_heads(narrow, batches, HEADS))
    evaluation = Evaluation(narrow, documents, choices, batches)
    dense = evaluation.outcomes()
    golds = [min(1, len(d.sequences) - 1) for d in documents]

    def losses(gates):
        values = likelihoods(narrow, batches, gates).values
        rows = [batches.first_sequences[n] + gold for n, gold in enumerate(golds)]
        return np.array([-values[r] / d.sequences[g].n_target for r, d, g in zip(rows, documents, golds, strict=True)])

    for place, head in enumerate(HEADS):
        rises = losses(gates_without(narrow.shape, [head])) - losses(None)
        rises = np.array([rises[:2].mean(), *rises[2:]])
        np.testing.assert_allclose(columns["loss_rises"][place], rises, rtol=1e-9)
        assert columns["loss_rise"][place] == pytest.approx(rises.mean())
        assert columns["loss_stderr"][place] == pytest.approx(rises.std(ddof=1) / np.sqrt(6))
        assert columns["loss_rise_even"][place] == pytest.approx(rises[[0, 2, 4]].mean())
        assert columns["loss_rise_odd"][place] == pytest.approx(rises[[1, 3, 5]].mean())
        ablated = evaluation.outcomes(heads=[head])
        assert columns["accuracy_lost"][place] == pytest.approx(dense["accuracy"] - ablated["accuracy"])
        assert columns["correct_ablated"][place] == ablated["correct"]
        assert columns["doc_id"][place] == [0, *(d.doc_id for d in documents[2:])]
        assert (columns["layer"][place], columns["head"][place]) == head


def test_a_document_without_a_right_choice_has_no_loss(narrow):
    documents = random_documents(np.random.default_rng(5), n=2)
    choices = [Choices(d.doc_id, (False,) * len(d.sequences), None) for d in documents]
    with pytest.raises(HeadroomError, match=f"document {documents[0].doc_id}: no choice is right"):
        gold_losses(documents, choices, likelihoods(narrow, Batches(documents, 100)))


def test_a_stopped_job_goes_on_with_the_layer_and_gives_equal_numbers(narrow, tmp_path, monkeypatch):
    documents: list[Document] = random_documents(np.random.default_rng(6), n=6)
    whole = knock_out_heads(narrow, Batches(documents, 60), HEADS)
    kept, plain, calls = ResumeCache(tmp_path), likelihood.predict, [0]

    def stopped(*arguments):
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return plain(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(likelihood, "predict", stopped)
        with pytest.raises(KeyboardInterrupt):
            knock_out_heads(narrow, Batches(documents, 60), HEADS, cache=kept)
    narrow.interventions.calls.clear()
    progress = Progress("x", 24, "y")
    knockouts = knock_out_heads(narrow, Batches(documents, 60), HEADS, progress, kept)
    assert progress.done == 24
    assert progress.reused > 4
    for one, other in zip([whole.dense, *whole.ablated], [knockouts.dense, *knockouts.ablated], strict=True):
        np.testing.assert_array_equal(other.values, one.values)
        np.testing.assert_array_equal(other.greedy, one.greedy)
    narrow.interventions.calls.clear()
    # Another budget packs other batches, of which there is nothing left to compute.
    again = knock_out_heads(narrow, Batches(documents, 1000), HEADS, cache=kept)
    np.testing.assert_array_equal(again.ablated[2].values, whole.ablated[2].values)
    assert not narrow.interventions.calls


def test_running_out_of_memory_in_the_middle_counts_nothing_twice(narrow, monkeypatch):
    import torch

    documents = random_documents(np.random.default_rng(7), n=6)
    whole = knock_out_heads(narrow, Batches(documents, 60), HEADS)
    plain, calls = likelihood.predict, [0]

    def short_of_memory(*arguments):
        calls[0] += 1
        if calls[0] == 5:
            raise torch.OutOfMemoryError("no")
        return plain(*arguments)

    monkeypatch.setattr(likelihood, "predict", short_of_memory)
    knockouts = knock_out_heads(narrow, Batches(documents, 1000), HEADS)
    for one, other in zip([whole.dense, *whole.ablated], [knockouts.dense, *knockouts.ablated], strict=True):
        np.testing.assert_allclose(other.values, one.values, rtol=1e-5)


class TestSample:
    shape = HeadLayout(30, 9, 3, 64)

    def test_layers_are_strata(self):
        for n in (3, 30, 40, 100):
            chosen = sample_heads(self.shape, n)
            assert len(set(chosen)) == n
            assert chosen == sorted(chosen)
            counts = Counter(layer for layer, _ in chosen)
            assert max(counts.values()) - min(counts.get(layer, 0) for layer in range(30)) <= 1

    def test_it_is_the_same_each_time_and_grows(self):
        assert sample_heads(self.shape, 40) == sample_heads(self.shape, 40)
        samples = [set(sample_heads(self.shape, n)) for n in (5, 30, 31, 64, 270)]
        assert all(small < large for small, large in pairwise(samples))
        assert len({head for _, head in sample_heads(self.shape, 30)}) > 3, "not the same head of each layer"

    def test_all(self):
        everything = [(layer, head) for layer in range(30) for head in range(9)]
        assert sample_heads(self.shape, None) == sample_heads(self.shape, 1000) == everything


@pytest.fixture
def every_head(narrow):
    """The artifact of all heads, on documents of two choices or more."""
    chosen = [d for d in random_documents(np.random.default_rng(5)) if len(d.sequences) > 1]
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    columns = head_oracle_columns(
        chosen, choices_of(chosen), heads, knock_out_heads(narrow, Batches(chosen, 200), heads)
    )
    return ArtifactFile(Path("oracle.parquet"), pa.table(columns, schema=HEAD_ORACLE.schema), {}, "")


def gold_probability(values, gold):
    p = np.exp(np.array(values, dtype=float))
    return p[np.array(gold)].sum() / p.sum()


def test_scores_of_the_oracles_are_what_each_outcome_loses(every_head):
    # From another order of rows than heads have.
    shuffled = replace(every_head, table=every_head.table.take([5, 11, 0, 3, 2, 1, 4, 10, 9, 8, 7, 6]))
    rows = every_head.table.to_pylist()
    expected = {
        "accuracy": [row["accuracy_lost"] for row in rows],
        "loss": [row["loss_rise"] for row in rows],
        "gold_probability": [
            np.mean(
                [
                    gold_probability(dense, gold) - gold_probability(ablated, gold)
                    for dense, ablated, gold in zip(
                        row["log_likelihoods_dense"], row["log_likelihoods"], row["gold"], strict=True
                    )
                ]
            )
            for row in rows
        ],
    }
    for outcome, lost in expected.items():
        actual = oracle_scores(shuffled, outcome, (3, 4))
        np.testing.assert_allclose(actual.ravel(), lost, rtol=1e-5, atol=1e-7, err_msg=outcome)


def test_a_sample_of_heads_ranks_none(every_head):
    sample = replace(every_head, table=every_head.table.slice(0, 9))
    with pytest.raises(HeadroomError, match=r"oracle.parquet: has 9 of the model's 12 heads; .*head_oracle.heads"):
        oracle_scores(sample, "loss", (3, 4))
