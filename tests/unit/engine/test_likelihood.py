"""The engine against one plain forward pass per row."""

import numpy as np
import pytest
import torch

from lm_headroom.engine.likelihood import encode, log_likelihoods, sequence_slices
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.packing import Batches, Document, TokenSequence
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.scoring.knockout import knock_out_ffns
from tests.support.documents import plain, random_documents
from tests.support.tiny_models import SENTENCES, tiny_model


@pytest.mark.parametrize("budget", [1, 60, 100_000])
def test_branches_equal_rows_of_their_own(loaded, family, budget):
    documents = random_documents(np.random.default_rng(1))
    rows = [row for document in documents for row in document.sequences]
    batches = Batches(documents, budget)
    assert sum(batch.n_documents for batch in batches) == len(documents)
    values = log_likelihoods(loaded, batches)
    model = tiny_model(family)
    # RMSNorm computes in float32, whose rounding may differ by a step.
    tolerance = 1e-10 if family == "opt" else 1e-5
    np.testing.assert_allclose(values, [plain(model, row) for row in rows], rtol=tolerance, atol=tolerance)


def test_pruned_heads_equal_zeroed_projection_columns(loaded, family):
    pruned = [(0, 1), (1, 0), (1, 3), (2, 2), (2, 0), (2, 1), (2, 3)]
    documents = random_documents(np.random.default_rng(2))
    rows = [row for document in documents for row in document.sequences]
    values = log_likelihoods(loaded, Batches(documents, 64), gates_without(loaded.shape, pruned))
    model = tiny_model(family)
    d_head = architectures.head_layout(model).d_head
    with torch.no_grad():
        for layer, head in pruned:
            architectures.output_projections(model)[layer].weight[:, head * d_head : (head + 1) * d_head] = 0
    expected = [plain(model, row) for row in rows]
    assert np.abs(np.array(expected) - log_likelihoods(loaded, Batches(documents, 64))).max() > 0.01
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_the_model_is_as_it_was_after_an_evaluation(loaded):
    documents = random_documents(np.random.default_rng(3), 3)
    before = log_likelihoods(loaded, Batches(documents, 64))
    log_likelihoods(loaded, Batches(documents, 64), torch.zeros(loaded.shape.layers, loaded.shape.heads))
    np.testing.assert_array_equal(log_likelihoods(loaded, Batches(documents, 64)), before)


def test_shared_positions_get_logits_once():
    context = tuple(range(3, 20))
    document = Document(0, tuple(TokenSequence((*context, t), 1) for t in (30, 31, 32, 33)))
    (batch,) = Batches([document], 100)
    assert batch.input_ids.tolist() == [list(context)]
    assert batch.layout().trees[0].branches is None
    assert batch.positions.tolist() == [len(context) - 1]
    assert batch.targets.tolist() == [30, 31, 32, 33]


def test_budgets_bound_the_columns_of_a_batch():
    documents = random_documents(np.random.default_rng(4), 12)
    for batch in Batches(documents, 80):
        assert batch.input_ids.numel() <= 80 or batch.n_documents == 1
    seen = sorted(int(row) for batch in Batches(documents, 80) for row in batch.sequence_ids.unique())
    assert seen == list(range(sum(len(d.sequences) for d in documents)))
    assert [doc_id for doc_id, _ in sequence_slices(documents)] == [d.doc_id for d in documents]


class TestEncode:
    def test_as_lm_eval_encodes(self, tokenizer):
        """HFLM's own pair encoding; trailing spaces of the context go to the continuation."""
        from lm_eval.api.model import TemplateLM

        class Encoder:
            backend = "causal"

            def tok_encode(self, text, add_special_tokens=None):
                return tokenizer.encode(text, add_special_tokens=False)

        pairs = [(0, SENTENCES[0], " the sun"), (0, SENTENCES[0] + "  ", "a lamp"), (1, "Answer:", "\nstone")]
        documents = encode(pairs, tokenizer, 200)
        expected = [TemplateLM._encode_pair(Encoder(), c, t) for _, c, t in pairs]
        rows = [row for document in documents for row in document.sequences]
        assert [(list(r.tokens), r.n_target) for r in rows] == [(c + t, len(t)) for c, t in expected]
        assert [len(d.sequences) for d in documents] == [2, 1]

    def test_no_special_token_but_bos_where_asked(self, tokenizer):
        (plain_document,) = encode([(0, "The sun", " is")], tokenizer, 200)
        (with_bos,) = encode([(0, "The sun", " is")], tokenizer, 200, add_bos=True)
        assert with_bos.sequences[0].tokens == (tokenizer.bos_token_id, *plain_document.sequences[0].tokens)
        (empty,) = encode([(0, "", "The sun")], tokenizer, 200)
        assert empty.sequences[0].tokens[0] == tokenizer.bos_token_id

    def test_long_documents_lose_context_once_for_all_choices(self, tokenizer):
        context = " ".join(SENTENCES)
        (whole,) = encode([(7, context, " a"), (7, context, " the river bank")], tokenizer, 10_000)
        max_positions = len(whole.sequences[1].inputs) - 5
        (cut,) = encode([(7, context, " a"), (7, context, " the river bank")], tokenizer, max_positions)
        assert cut.truncated == 5
        assert [row.tokens for row in cut.sequences] == [row.tokens[5:] for row in whole.sequences]
        assert max(len(row.inputs) for row in cut.sequences) == max_positions

    def test_a_continuation_longer_than_the_window_is_refused(self, tokenizer):
        with pytest.raises(HeadroomError, match="document 7: a continuation of .* tokens leaves no room"):
            encode([(7, "Say:", " " + SENTENCES[0])], tokenizer, 4)

    def test_an_empty_continuation_is_refused(self, tokenizer):
        with pytest.raises(HeadroomError, match="document 3: the continuation '' has no tokens"):
            encode([(3, "Say:", "")], tokenizer, 100)


class TestNotFinite:
    """The job stops at the first batch, and names the document and where its numbers go wrong."""

    @pytest.mark.parametrize("budget", [1, 10_000])
    def test_one_document_of_many(self, loaded, budget):
        documents = random_documents(np.random.default_rng(5), 5)
        known = {token for document in documents for row in document.sequences for token in row.tokens}
        token = max(set(range(3, 500)) - known)
        rows = documents[3].sequences
        documents[3] = Document(103, tuple(TokenSequence((token, *row.tokens[1:]), row.n_target) for row in rows))
        loaded.model.get_input_embeddings().register_forward_hook(
            lambda module, arguments, actual: actual.masked_fill((arguments[0] == token)[..., None], float("nan"))
        )
        with pytest.raises(HeadroomError, match="document 103: the log-likelihood .* is nan; .* in the embedding"):
            log_likelihoods(loaded, Batches(documents, budget))

    @pytest.mark.parametrize("layer", [0, 1])
    def test_the_layer(self, loaded, layer):
        architectures.ffn_modules(loaded.model)[layer][-1].register_forward_hook(lambda *_: _[2] * float("inf"))
        where = f"values first become non-finite in layer {layer}"
        message = f"document 10\\d: .* {where}: no number format holds more than float64"
        with pytest.raises(HeadroomError, match=message):
            log_likelihoods(loaded, Batches(random_documents(np.random.default_rng(5), 2), 64))

    def test_after_the_layers(self, loaded):
        with torch.no_grad():
            loaded.model.get_output_embeddings().weight[:] = float("nan")
        with pytest.raises(HeadroomError, match="values first become non-finite in "):
            log_likelihoods(loaded, Batches(random_documents(np.random.default_rng(5), 2), 64))

    def test_without_an_ffn(self, loaded):
        """The oracle's restarted passes, too."""
        norm = architectures.layers(loaded.model)[2].self_attn
        norm.register_forward_hook(
            lambda module, arguments, actual: (
                (actual[0] * float("nan"), *actual[1:]) if loaded.interventions._without_ffns else actual
            )
        )
        with pytest.raises(HeadroomError, match="document 10\\d: .* in the last layer, 2, or after it"):
            knock_out_ffns(loaded, Batches(random_documents(np.random.default_rng(5), 2), 64))
