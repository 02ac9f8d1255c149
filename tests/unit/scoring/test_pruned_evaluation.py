"""Curves and the joint grid: edges, questions, greedy outcomes."""

import numpy as np
import pytest

from lm_headroom.analysis.metrics import Choices
from lm_headroom.analysis.ranking import random_ranking
from lm_headroom.engine.likelihood import encode
from lm_headroom.engine.packing import Batches
from lm_headroom.models import architectures
from lm_headroom.scoring.pruned_evaluation import Evaluation
from tests.support.documents import random_documents

LEVELS = [0, 20, 50, 100]


@pytest.fixture
def evaluation(loaded):
    documents = random_documents(np.random.default_rng(0), n=12)
    choices = [
        Choices(d.doc_id, tuple(i == 1 for i in range(len(d.sequences))), tuple(3 + i for i in range(len(d.sequences))))
        for d in documents
    ]
    return Evaluation(loaded, documents, choices, Batches(documents, 300))


OUTCOMES = ("parameters_removed", "accuracy", "accuracy_norm", "stderr", "correct", "correct_norm", "doc_id")


def test_edges_of_the_grid_are_the_curves(evaluation):
    """Evaluated anew, not taken from what the grid has kept."""
    heads, ffns = random_ranking(3, 4, 1), [2, 0, 1]
    grid = evaluation.grid(heads, ffns, LEVELS, [0, 34, 67])
    cells = {
        (row[0], row[1]): row[2:]
        for row in zip(grid["percent_heads"], grid["percent_ffns"], *(grid[name] for name in OUTCOMES), strict=True)
    }
    assert len(cells) == 12
    anew = Evaluation(evaluation.loaded, evaluation.documents, evaluation.choices, evaluation.batches)
    for curve, place in (
        (anew.curve(heads, LEVELS), lambda percent: (percent, 0)),
        (anew.ffn_curve(ffns, [0, 34, 67]), lambda percent: (0, percent)),
    ):
        for row, percent in zip(zip(*(curve[name] for name in OUTCOMES), strict=True), curve["percent"], strict=True):
            assert cells[place(percent)] == row
    dense = anew.outcomes()
    assert cells[0, 0][1:] == tuple(dense[name] for name in OUTCOMES[1:])
    assert grid["n_ffns"][:3] == [0, 1, 2]
    assert [n for n, f in zip(grid["n_heads"], grid["percent_ffns"], strict=True) if f == 0] == [0, 2, 6, 12]


def test_a_set_is_evaluated_once(evaluation, monkeypatch):
    from lm_headroom.scoring import pruned_evaluation

    evaluated = []
    inner = pruned_evaluation.likelihoods_of

    def evaluate(loaded, batches, removals, *rest):
        evaluated.extend(removals)
        return inner(loaded, batches, removals, *rest)

    monkeypatch.setattr(pruned_evaluation, "likelihoods_of", evaluate)
    heads = random_ranking(3, 4, 1)
    # 1% of 12 heads is none, as is 0%.
    evaluation.curve(heads, [0, 1, 50])
    evaluation.grid(heads, [0, 1, 2], [0, 50], [0, 10, 40])
    assert len(evaluated) == 4


def test_a_cell_counts_the_parameters_of_both(evaluation):
    shape = evaluation.loaded.shape
    everything = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    actual = evaluation.grid(everything, [0, 1, 2], [100], [100])
    model = evaluation.loaded.model
    ffns = sum(architectures.ffn_parameters(model, layer) for layer in range(3))
    assert actual["parameters_removed"] == [architectures.removed_parameters(model, everything) + ffns]


def test_a_question_is_right_if_all_its_documents_are(evaluation):
    plain = evaluation.outcomes()
    groups = [document.doc_id - document.doc_id % 3 for document in evaluation.documents]
    choices = [
        Choices(c.doc_id, c.gold, c.lengths, question) for c, question in zip(evaluation.choices, groups, strict=True)
    ]
    grouped = Evaluation(evaluation.loaded, evaluation.documents, choices, evaluation.batches).outcomes()
    for name in ("correct", "correct_norm"):
        expected = {}
        for group, right in zip(groups, plain[name], strict=True):
            expected[group] = expected.get(group, True) and right
        assert grouped[name] == list(expected.values())
        assert grouped["doc_id"] == list(expected)
    assert grouped["n_documents"] == len(set(groups))


def test_a_greedy_document_is_right_if_decoding_gives_it(loaded, tokenizer):
    """The continuation is built by decoding token by token with the whole model; a changed last token is wrong."""
    import torch

    context = tokenizer.encode("Question: Which of these is a source")
    ids = list(context)
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    from lm_headroom.engine.packing import Document, TokenSequence

    wrong = [*ids[:-1], 3 if ids[-1] != 3 else 4]
    documents = [Document(0, (TokenSequence(tuple(ids), 3),)), Document(1, (TokenSequence(tuple(wrong), 3),))]
    choices = [Choices(i, (True,), None, greedy=True) for i in range(2)]
    actual = Evaluation(loaded, documents, choices, Batches(documents, 100)).outcomes()
    assert actual["correct"] == [True, False]
    assert actual["accuracy"] == 0.5
    assert actual["accuracy_norm"] is None


def test_truncated_questions_are_counted_once(loaded, tokenizer):
    pairs = [(i, "river bank " * (200 if i < 2 else 1), " morning") for i in range(3)]
    documents = encode(pairs, tokenizer, loaded.max_positions)
    choices = [Choices(i, (True,), None, question=0 if i < 2 else 2, greedy=True) for i in range(3)]
    assert Evaluation(loaded, documents, choices, Batches(documents, 600)).outcomes()["n_truncated"] == 1


def test_what_was_evaluated_elsewhere_is_not_evaluated_again(evaluation):
    """The FFN oracle hands over the whole model's likelihoods, and those without each single FFN."""
    from lm_headroom.scoring.knockout import knock_out_ffns

    knockouts = knock_out_ffns(evaluation.loaded, evaluation.batches)
    anew = Evaluation(evaluation.loaded, evaluation.documents, evaluation.choices, evaluation.batches)
    expected = anew.ffn_curve([1, 0, 2], [0, 34])
    evaluation.remember(knockouts.dense)
    evaluation.remember(knockouts.ablated[1], ffns=[1])
    evaluation.loaded.interventions.calls.clear()
    assert evaluation.ffn_curve([1, 0, 2], [0, 34]) == expected
    assert not evaluation.loaded.interventions.calls
    assert evaluation.ffn_curve([1, 0, 2], [67])["n_pruned"] == [2]
    assert evaluation.loaded.interventions.calls
