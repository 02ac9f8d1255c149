"""Prefix matching against Algorithm 1 written as loops over eager attention maps."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lm_headroom.errors import HeadroomError
from lm_headroom.scoring.prefix_matching import (
    prefix_matching,
    prefix_matching_scores,
    ranked_vocabulary,
    sequence,
    sequence_length,
    start_token,
)
from tests.support.tiny_models import tiny_model


def looped(family, tokens, start):
    """Algorithm 1: for each repeated token, attention to what followed its earlier copies, over 3L."""
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    ids = ([] if start is None else [start]) + tokens * 4
    with torch.no_grad():
        maps = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    length, offset = len(tokens), 0 if start is None else 1
    scores = np.zeros((len(maps), maps[0].shape[1]))
    for layer in range(scores.shape[0]):
        for head in range(scores.shape[1]):
            total = 0.0
            for t in range(length, 4 * length):
                for earlier in range(t):
                    if tokens[earlier % length] == tokens[t % length] and earlier + 1 <= t:
                        total += float(maps[layer][0, head, t + offset, earlier + 1 + offset])
            scores[layer, head] = total / (3 * length)
    return scores


@pytest.mark.parametrize("start", [None, 1])
def test_equals_the_loops(loaded, family, start):
    # 27 tokens: 108 positions cross the blocks of the normaliser.
    tokens = np.random.default_rng(0).permutation(np.arange(3, 500))[:27].tolist()
    scores = prefix_matching_scores(loaded, tokens, start)
    np.testing.assert_allclose(scores, looped(family, tokens, start), rtol=1e-5, atol=1e-7)


def test_scores_stay_within_their_bounds(loaded):
    scores = prefix_matching_scores(loaded, list(range(3, 30)), 1)
    assert (scores > 0).all()
    assert (scores < 1).all()


def test_sequences_are_seeded_distinct_and_from_the_middle():
    ranked = list(range(1000, 3000))
    first = sequence(ranked, 5)
    assert first == sequence(ranked, 5) != sequence(ranked, 6)
    assert len(first) == len(set(first)) == sequence_length(5) == 33
    every = {token for seed in range(1, 101) for token in sequence(ranked, seed)}
    assert min(every) >= 1080
    assert max(every) < 2920


def test_a_small_vocabulary_says_how_many_sequences_it_can_have():
    with pytest.raises(HeadroomError, match="needs 43 distinct tokens, the vocabulary offers 38; .* at most 7"):
        sequence(list(range(40)), 10)
    sequence(list(range(40)), 7)


def test_the_vocabulary_is_ranked_by_merges(tokenizer):
    ranked, order = ranked_vocabulary(tokenizer)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert order == "BPE merge order"
    assert ranked[0] == model["vocab"]["".join(model["merges"][0])]
    assert len(ranked) == len(set(ranked)) <= len(model["merges"])


def test_a_tokenizer_without_merges_is_ranked_by_id():
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "b": 2, "a": 1}, unk_token="<unk>")), unk_token="<unk>"
    )
    assert ranked_vocabulary(words) == ([1, 2], "token id")
    with pytest.raises(HeadroomError, match="neither BOS nor EOS"):
        start_token(words)


def test_mean_and_variance_over_sequences(loaded, tokenizer):
    columns, provenance = prefix_matching(loaded, 3)
    ranked, _ = ranked_vocabulary(tokenizer)
    single = np.stack([prefix_matching_scores(loaded, sequence(ranked, s), 1) for s in (1, 2, 3)])
    np.testing.assert_allclose(np.reshape(columns["mean"], (3, 4)), single.mean(axis=0))
    np.testing.assert_allclose(np.reshape(columns["variance"], (3, 4)), single.var(axis=0, ddof=1))
    assert columns["layer"] == [0] * 4 + [1] * 4 + [2] * 4
    assert columns["head"] == [0, 1, 2, 3] * 3
    assert set(columns["n_sequences"]) == {3}
    assert provenance == {"vocabulary": "BPE merge order", "start_token": "BOS"}


def test_a_sequence_longer_than_the_window_is_refused(loaded):
    with pytest.raises(
        HeadroomError, match="261 tokens is longer than the model's context window of 256; .* at most 20"
    ):
        prefix_matching_scores(loaded, list(range(3, 68)), 1)
    assert 4 * sequence_length(20) + 1 <= 256 < 4 * sequence_length(21) + 1
