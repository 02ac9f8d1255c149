"""Prefix-matching scores of heads on repeated random sequences (Algorithm 1, Figure 10a)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_headroom.artifacts.heads import places
from lm_headroom.engine.attention import AttentionSpec
from lm_headroom.engine.layout import Layout
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, digest
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.sequences import COPIES, most_sequences, sequence_length
from lm_headroom.progress import Progress
from lm_headroom.settings import other_dtype

CUT = 0.04
"""Share of the ranked vocabulary that is left out at each end: the most and the least common tokens."""
BLOCK = 64
"""Query positions computed at once, so that no N x N attention map is kept."""
BY_MERGES = "BPE merge order"
Array = np.ndarray[Any, np.dtype[np.float64]]


def ranked_vocabulary(tokenizer: Any) -> tuple[list[int], str]:
    """Rank token ids by BPE merge order (the most frequent first); return them with the name of the order.

    Without merges, the order is that of token ids, without special tokens.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else {}
    merges = model.get("merges")
    if merges:
        vocabulary = model["vocab"]
        pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in merges]
        # Two merges may produce the same token; it keeps its first place.
        ids = dict.fromkeys(vocabulary[a + b] for a, b in pairs if a + b in vocabulary)
        return list(ids), BY_MERGES
    special = set(tokenizer.all_special_ids)
    return [i for i in sorted(tokenizer.get_vocab().values()) if i not in special], "token id"


def sequence(ranked: list[int], seed: int, times: int = 1) -> list[int]:
    """Draw distinct tokens from the middle of the ranked vocabulary (without 4% at either end), not yet repeated.

    Args:
        ranked: token ids, the most frequent first.
        seed: from 1; sets the draw and the length L.
        times: length of the sequence in units of L.

    Raises:
        HeadroomError: the vocabulary has too few tokens.
    """
    cut = int(CUT * len(ranked))
    pool = ranked[cut : len(ranked) - cut]
    length = times * sequence_length(seed)
    if length > len(pool):
        raise HeadroomError(
            f"induction sequence {seed} needs {length} distinct tokens, the vocabulary offers {len(pool)}; "
            + _advice(len(pool) // times * COPIES)
        )
    chosen = np.random.default_rng(seed).choice(len(pool), size=length, replace=False)
    return [pool[int(i)] for i in chosen]


def _advice(longest: int) -> str:
    """Advise on the setting if the copies of a sequence may have at most ``longest`` tokens."""
    most = most_sequences(longest, bos=False)
    return f"set induction.sequences to at most {most}" if most > 0 else "this model cannot hold even the shortest one"


def start_token(tokenizer: Any) -> tuple[int, str]:
    """Return the token to put before a sequence, BOS or else EOS, and the name of the one it is.

    Raises:
        HeadroomError: the tokenizer has neither.
    """
    if tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id), "BOS"
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id), "EOS (the tokenizer has no BOS)"
    raise HeadroomError("the tokenizer has neither BOS nor EOS; set induction.bos: false")


def input_ids(loaded: LoadedModel, tokens: list[int], start: int | None) -> list[int]:
    """Prepend the start token, if there is one.

    Raises:
        HeadroomError: the input is longer than the model's context window.
    """
    ids = ([] if start is None else [start]) + tokens
    if len(ids) > loaded.max_positions:
        raise HeadroomError(
            f"an induction sequence of {len(ids)} tokens is longer than the model's context window of "
            f"{loaded.max_positions}; " + _advice(loaded.max_positions - (start is not None))
        )
    return ids


@torch.no_grad()
def prefix_matching_scores(loaded: LoadedModel, tokens: list[int], start: int | None) -> Array:
    """Run Algorithm 1 for one sequence: attention from repeated tokens to the successors of their earlier copies.

    The score sums the attention from each token of the copies after the first to the successors of its earlier
    occurrences, and divides by 3L.

    Args:
        loaded: the model.
        tokens: the L tokens of the sequence.
        start: token to put first (BOS), or None.

    Returns:
        Scores in [0, 1], [layer, head].

    Raises:
        HeadroomError: the repeated sequence is longer than the context window, or a score is not finite.
    """
    length = len(tokens)
    offset = 0 if start is None else 1
    ids = input_ids(loaded, tokens * COPIES, start)
    queries, keys = _matches(length, offset)
    scores = dict.fromkeys(loaded.shape.attending, np.zeros(loaded.shape.heads))

    def observer(layer: int, q: Tensor, k: Tensor, attention_spec: AttentionSpec) -> None:
        scores[layer] = _matched_attention(q[0], k[0], attention_spec, queries.to(q.device), keys.to(q.device)) / (
            3 * length
        )

    with loaded.interventions.layout(Layout.causal(len(ids))), loaded.interventions.observe(observer):
        run(loaded, ids)
    return check_finite_scores(np.stack(list(scores.values())), "prefix-matching", loaded)


def run(loaded: LoadedModel, ids: list[int]) -> None:
    """Run one pass of the model without its unembedding; an observer or capture reads what it needs."""
    positions = torch.arange(len(ids), device=loaded.device)[None]
    architectures.body(loaded.model)(
        input_ids=torch.tensor([ids], device=loaded.device), position_ids=positions, use_cache=False
    )


def check_finite_scores(scores: Array, name: str, loaded: LoadedModel) -> Array:
    """Return ``scores`` [layer, head] unchanged.

    Raises:
        HeadroomError: a score is not finite; names the head.
    """
    if not np.isfinite(scores).all():
        advice = other_dtype(str(loaded.model.dtype))
        row, head = np.argwhere(~np.isfinite(scores))[0]
        raise HeadroomError(
            f"the {name} score of layer {loaded.shape.attending[row]} head {head} is not finite; {advice}"
        )
    return scores


def _matches(length: int, offset: int) -> tuple[Tensor, Tensor]:
    """List (query, key) pairs of a repeated token and the successor of each of its earlier copies, each [6 L]."""
    pairs = [
        (t + offset, copy * length + t % length + 1 + offset)
        for t in range(length, COPIES * length)
        for copy in range(t // length)
    ]
    queries, keys = zip(*pairs, strict=True)
    return torch.tensor(queries), torch.tensor(keys)


def _matched_attention(q: Tensor, k: Tensor, attention_spec: AttentionSpec, queries: Tensor, keys: Tensor) -> Array:
    """Sum softmax attention over the pairs, [head]; q and k are [head, pos, d_head]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(wide) * attention_spec.scaling, k.to(wide)
    if attention_spec.sliding_window is not None:
        near = queries - keys < attention_spec.sliding_window
        queries, keys = queries[near], keys[near]
    time = q.shape[1]
    normalisers = torch.empty(q.shape[:2], dtype=wide, device=q.device)
    for begin in range(0, time, BLOCK):
        end = min(begin + BLOCK, time)
        scores = attention_spec.cap(q[:, begin:end] @ k[:, :end].transpose(1, 2))
        unseen = attention_spec.masked_keys(begin, end, q.device)
        normalisers[:, begin:end] = attention_spec.normalisers(scores.masked_fill(unseen, float("-inf")))
    matched = attention_spec.cap((q[:, queries] * k[:, keys]).sum(dim=-1)) - normalisers[:, queries]
    result: Array = matched.exp().sum(dim=1).double().cpu().numpy()
    return result


def prefix_matching(
    loaded: LoadedModel, n_sequences: int, bos: bool = True, cache: ResumeCache = NO_CACHE
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Build the columns of a prefix-matching artifact for seeds 1 to ``n_sequences``, and their provenance."""
    return average_over_sequences(loaded, "prefix matching", n_sequences, bos, prefix_matching_scores, cache=cache)


def average_over_sequences(
    loaded: LoadedModel,
    label: str,
    n_sequences: int,
    bos: bool,
    score: Callable[[LoadedModel, list[int], int | None], Array],
    times: int = 1,
    cache: ResumeCache = NO_CACHE,
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Compute means and variances of head scores over sequences.

    Args:
        loaded: the model.
        label: label of the progress lines.
        n_sequences: number of sequences; their seeds count from 1.
        bos: put the start token first.
        score: computes the scores [layer, head] of one sequence with its start token.
        times: length of the sequences in units of L.
        cache: holds finished sequences; only for this score and its options.

    Returns:
        Columns of an artifact with one row per head, and provenance of the sequences.
    """
    ranked, order = ranked_vocabulary(loaded.tokenizer)
    if order != BY_MERGES:
        print(f"{label}: the tokenizer has no BPE merges: its vocabulary is ranked by {order}", file=sys.stderr)
    start, start_name = start_token(loaded.tokenizer) if bos else (None, "none")
    # Drawn first, so that a vocabulary or context window that is too small is noticed before hours of work.
    sequences = [sequence(ranked, seed, times) for seed in range(1, n_sequences + 1)]
    input_ids(loaded, sequences[-1] * (COPIES // times), start)
    for seed, tokens in enumerate(sequences, start=1):
        loaded.check_tokens(f"induction sequence {seed}", tokens if start is None else [start, *tokens])
    progress = Progress(f"{label} {loaded.record.get('name', '')}".strip(), n_sequences, "sequences")
    layout = {"scores": ("f", loaded.shape.grid)}
    sequence_scores = []
    for tokens in sequences:
        with cache.unit(f"sequence-{len(tokens)}", [digest(tokens, start)], layout) as unit:
            if unit.complete:
                progress.reuse(1)
            else:
                unit.add(0, scores=score(loaded, tokens, start)[None])
                progress.advance()
            sequence_scores.append(unit.done[0]["scores"][0])
    scores = np.stack(sequence_scores)
    n_heads = loaded.shape.total
    columns = {
        **places(loaded.shape.attending, loaded.shape.heads),
        "mean": scores.mean(axis=0).ravel().tolist(),
        "variance": scores.var(axis=0, ddof=1).ravel().tolist() if n_sequences > 1 else [None] * n_heads,
        "n_sequences": [n_sequences] * n_heads,
    }
    return columns, {"vocabulary": order, "start_token": start_name}
