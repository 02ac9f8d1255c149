"""Documents as token trees, batches that fit the memory, and what is shared."""

import numpy as np
import pytest
import torch

from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.packing import Batches, Document, TokenSequence, TreeDocument, build_prefix_tree
from lm_headroom.errors import HeadroomError
from tests.support.documents import plain, random_documents


def tree_of(*documents):
    first = np.cumsum([0, *(len(d.sequences) for d in documents)])
    return build_prefix_tree([TreeDocument(d, n, int(first[n])) for n, d in enumerate(documents)])


def questions(rng, paragraph_length=40, n=4):
    """Documents on one paragraph, as MultiRC has them: a question and an answer each, and two choices of one token."""
    paragraph = rng.integers(3, 500, paragraph_length).tolist()
    rows = []
    for i in range(n):
        context = [*paragraph, *rng.integers(3, 500, 6).tolist()]
        rows.append(Document(i, tuple(TokenSequence((*context, t), 1) for t in (7, 8))))
    return rows


def test_a_tree_holds_each_shared_beginning_once():
    """Choices a b c d, a b c e f and a b x (their last tokens are not read) branch at c and at b."""
    document = Document(
        0, (TokenSequence((1, 2, 3, 4, 9), 2), TokenSequence((1, 2, 3, 5, 6, 9), 3), TokenSequence((1, 2, 7, 9), 2))
    )
    tree = tree_of(document)
    assert tree.tokens.tolist() == [1, 2, 3, 5, 6, 4, 7]
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 3, 2]
    assert tree.trunk == 5
    batch = Batches([document], 100)
    (only,) = batch
    mask = only.layout().trees[0].branches
    assert mask.int().tolist() == [[1, 1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0, 1]]
    assert only.columns == batch.columns == 7


def test_rows_that_are_the_same_share_everything():
    tree = tree_of(Document(0, (TokenSequence((1, 2, 3), 1), TokenSequence((1, 2, 4), 1))))
    assert tree.columns == tree.trunk == 2
    assert tree.targets.tolist() == [3, 4]
    assert tree.sources.tolist() == [1, 1]


def test_documents_on_one_paragraph_share_it(loaded):
    rng = np.random.default_rng(0)
    first, second = questions(rng), questions(rng)
    # In turns, so that neighbours in the file do not share.
    documents = [document for pair in zip(first, second, strict=True) for document in pair]
    shared = Batches(documents, 1000)
    alone = Batches(documents, 1000, share=False)
    assert shared.columns == 2 * (40 + 4 * 6)
    assert alone.columns == 8 * 46
    expected = [plain(loaded.model, row) for document in documents for row in document.sequences]
    for batches in (shared, alone):
        np.testing.assert_allclose(log_likelihoods(loaded, batches), expected, rtol=1e-5, atol=1e-5)


def test_groups_keep_the_budget():
    documents = questions(np.random.default_rng(1), n=30)
    for batch in Batches(documents, 100):
        assert batch.columns <= 100


def test_documents_that_share_little_stay_apart():
    rng = np.random.default_rng(2)
    documents = [Document(i, (TokenSequence((1, 2, 3, *rng.integers(4, 500, 20).tolist()), 1),)) for i in range(5)]
    assert all(len(tree.members) == 1 for batch in Batches(documents, 1000) for tree in batch.trees)


class TestOutOfMemory:
    """Batches whose work fails for want of memory are halved, and nothing is counted twice."""

    @staticmethod
    def failing(most, error):
        seen = []

        def work(batch):
            if batch.columns > most:
                raise error
            seen.append(sorted({int(row) for row in batch.sequence_ids}))
            return batch.columns

        return work, seen

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory"),
            MemoryError(),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_budgets_halve_and_stay(self, error, capsys):
        documents = random_documents(np.random.default_rng(3), 30)
        batches = Batches(documents, 400)
        largest = max(tree.columns for batch in batches for tree in batch.trees)
        work, seen = self.failing(max(largest, 100), error)
        assert sum(result for _, result in batches.each(work)) == batches.columns
        assert sorted(row for rows in seen for row in rows) == list(range(batches.n_sequences))
        assert batches.token_budget <= 220
        assert capsys.readouterr().err.count("out of memory at ") <= 3
        # The next pass over the same documents begins with what fits.
        seen.clear()
        assert all(batch.columns <= max(largest, 100) for batch in batches)
        list(batches.each(work))
        assert capsys.readouterr().err == ""

    def test_a_shared_tree_is_cut_between_its_documents(self):
        documents = questions(np.random.default_rng(4), n=8)
        batches = Batches(documents, 1000)
        work, seen = self.failing(60, MemoryError())
        list(batches.each(work))
        assert sorted(row for rows in seen for row in rows) == list(range(16))

    def test_one_document_that_does_not_fit_is_named(self):
        work, _ = self.failing(10, MemoryError())
        batches = Batches([Document(77, (TokenSequence(tuple(range(30)), 1),))], 1000)
        with pytest.raises(HeadroomError, match=r"document 77 \(29 tokens\) does not fit in memory on its own"):
            list(batches.each(work))

    def test_other_errors_pass(self):
        work, _ = self.failing(1, RuntimeError("shapes do not match"))
        with pytest.raises(RuntimeError, match="shapes do not match"):
            list(Batches(questions(np.random.default_rng(5)), 1000).each(work))

    def test_results_are_those_of_a_run_that_had_the_memory(self, loaded, monkeypatch):
        from lm_headroom.engine import likelihood

        documents = random_documents(np.random.default_rng(6), 20)
        expected = log_likelihoods(loaded, Batches(documents, 300))
        predict = likelihood.predict

        def short_of_memory(model, batch):
            if batch.columns > 90 and batch.n_documents > 1:
                raise torch.OutOfMemoryError("no")
            return predict(model, batch)

        monkeypatch.setattr(likelihood, "predict", short_of_memory)
        np.testing.assert_allclose(log_likelihoods(loaded, Batches(documents, 300)), expected, rtol=1e-5, atol=1e-6)
