"""Scores of heads on prompts of one's own are those that a study's step computes on the same texts."""

import pytest
import torch

import lm_headroom
from lm_headroom.engine import batch_size
from lm_headroom.engine.likelihood import tokenise
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.errors import HeadroomError
from lm_headroom.scoring import gradient
from tests.support.tiny_models import SENTENCES, tiny_model

PAIRS = [(text[:40], text[40:]) for text in SENTENCES]


@pytest.mark.parametrize("criterion", ["token", "fisher", "output_norm"])
def test_scores_are_those_of_the_step(family, tokenizer, criterion):
    frame = lm_headroom.score_heads(tiny_model(family), tokenizer, PAIRS, criterion)
    loaded = prepare(tiny_model(family), tokenizer)
    documents = tokenise([(number, *pair) for number, pair in enumerate(PAIRS)], loaded, False)
    expected = gradient.scores_by(gradient.contributions(loaded, documents, 256), criterion)
    for name, values in {
        "score": expected.score, "stderr": expected.stderr, "score_even": expected.even, "score_odd": expected.odd,
    }.items():  # fmt: skip
        assert frame[name].to_numpy() == pytest.approx(values.ravel(), rel=1e-9), name
    assert frame[["layer", "head"]].to_numpy().tolist() == [[i, j] for i in range(3) for j in range(4)]


def test_scoring_leaves_the_model_as_it_was_and_ranks_for_a_mask(family, tokenizer):
    model, ids = tiny_model(family), torch.tensor([[5, 17, 100]])
    before = model(input_ids=ids).logits
    frame = lm_headroom.score_heads(model, tokenizer, PAIRS)
    assert all(weight.requires_grad for weight in model.parameters())
    assert torch.equal(model(input_ids=ids).logits, before)
    order = frame.sort_values("score")[["layer", "head"]].to_numpy().tolist()
    with torch.no_grad():
        with lm_headroom.mask(model, frame, 50):
            masked = model(input_ids=ids).logits
        with lm_headroom.mask(model, order, 50):
            assert torch.equal(model(input_ids=ids).logits, masked)


def test_in_a_mask_the_masked_model_is_scored_and_stays_masked(family, tokenizer):
    """Heads that are pruned contribute nothing, and the others what they do where these are closed."""
    model, ids, order = tiny_model(family), torch.tensor([[5, 17, 100]]), [(0, 1), (0, 2), (2, 3), (1, 0)]
    loaded = prepare(tiny_model(family), tokenizer)
    documents = tokenise([(number, *pair) for number, pair in enumerate(PAIRS)], loaded, False)
    gates = gates_without(loaded.shape, order)
    expected = gradient.scores_by(gradient.contributions(loaded, documents, 256, gates=gates), "token").score
    with torch.no_grad(), lm_headroom.mask(model, order, 34):
        before = model(input_ids=ids).logits
        frame = lm_headroom.score_heads(model, tokenizer, PAIRS)
        assert torch.equal(model(input_ids=ids).logits, before), "the mask is in force"
        with lm_headroom.without_ffns(model, [1]):
            fewer = model(input_ids=ids).logits
            with pytest.raises(HeadroomError, match="without_ffns leaves out FFNs here"):
                lm_headroom.score_heads(model, tokenizer, PAIRS)
            assert torch.equal(model(input_ids=ids).logits, fewer)
    assert frame["score"].to_numpy() == pytest.approx(expected.ravel(), rel=1e-9)
    assert [expected[place] for place in order] == [0] * 4


def test_batches_are_as_small_as_a_backward_pass_needs(tokenizer, monkeypatch):
    asked, original = [], batch_size.bytes_per_token
    monkeypatch.setattr(batch_size, "bytes_per_token", lambda *sizes: asked.append(sizes[-2:]) or original(*sizes))
    lm_headroom.score_heads(tiny_model("opt"), tokenizer, PAIRS)
    assert asked == [(False, True)], "no pass keeps inputs of layers, and each has a backward pass"


@pytest.mark.parametrize(
    "pairs, criterion, message",
    [
        (["a text"], "token", r"pair 0: expected \(context, continuation\), two texts; got 'a text'"),
        (PAIRS, "magic", "criterion 'magic' is none of token, "),
        (PAIRS, "choosing_fisher", "'choosing_fisher' compares answer choices, and a pair has one continuation alone"),
        (PAIRS[:1], "token", "at least two scoring documents"),
    ],
)
def test_what_cannot_be_scored_is_refused(tokenizer, pairs, criterion, message):
    with pytest.raises(HeadroomError, match=message):
        lm_headroom.score_heads(tiny_model("opt"), tokenizer, pairs, criterion)
