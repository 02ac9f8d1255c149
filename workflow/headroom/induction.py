"""Prefix-matching scores of heads on repeated random sequences (Algorithm 1, Figure 10a)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headroom.checkpoints import Loaded
from headroom.errors import HeadroomError
from headroom.progress import Progress
from headroom.seam import Layout

COPIES = 4
CUT = 0.04
"""Share of the ranked vocabulary left out at each end: the most and the least common tokens."""
BLOCK = 64
"""Query rows whose softmax normaliser is computed at once, so that no N x N map is kept."""
Array = np.ndarray[Any, np.dtype[np.float64]]


def sequence_length(seed: int) -> int:
    """L = 2 seed + 23."""
    return 2 * seed + 23


def ranked_vocabulary(tokenizer: Any) -> tuple[list[int], str]:
    """Token ids by BPE merge order (the most frequent first), and the name of the order.

    A tokenizer without merges is ranked by token id, special tokens left out.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else {}
    merges = model.get("merges")
    if merges:
        vocabulary = model["vocab"]
        pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in merges]
        # Two merges may make the same token; it keeps its first place.
        ids = dict.fromkeys(vocabulary[a + b] for a, b in pairs if a + b in vocabulary)
        return list(ids), "BPE merge order"
    special = set(tokenizer.all_special_ids)
    return [i for i in sorted(tokenizer.get_vocab().values()) if i not in special], "token id"


def sequence(ranked: list[int], seed: int) -> list[int]:
    """L distinct tokens drawn from the middle of the ranked vocabulary (4 % cut at both ends), not yet repeated.

    Raises:
        HeadroomError: the vocabulary has too few tokens.
    """
    cut = int(CUT * len(ranked))
    pool = ranked[cut : len(ranked) - cut]
    length = sequence_length(seed)
    if length > len(pool):
        raise HeadroomError(
            f"induction sequence {seed} needs {length} distinct tokens, the vocabulary offers {len(pool)}; "
            f"set induction.sequences to at most {(len(pool) - 23) // 2}"
        )
    chosen = np.random.default_rng(seed).choice(len(pool), size=length, replace=False)
    return [pool[int(i)] for i in chosen]


def start_token(tokenizer: Any) -> tuple[int, str]:
    """The token put before a sequence, BOS or else EOS, and which of the two it is.

    Raises:
        HeadroomError: the tokenizer has neither.
    """
    if tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id), "BOS"
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id), "EOS (the tokenizer has no BOS)"
    raise HeadroomError("the tokenizer has neither BOS nor EOS; set induction.bos: false")


@torch.no_grad()
def prefix_matching_scores(loaded: Loaded, tokens: list[int], start: int | None) -> Array:
    """Algorithm 1 for one sequence: attention from repeated tokens to what followed their earlier copies.

    For each token t of the copies after the first, the attention to the successors of its earlier occurrences,
    summed, over 3L.

    Args:
        loaded: the model.
        tokens: the L tokens of the sequence.
        start: token put first (BOS), or None.

    Returns:
        Scores in [0, 1], [layer, head].

    Raises:
        HeadroomError: the repeated sequence is longer than the model's window, or a score is not finite.
    """
    length = len(tokens)
    offset = 0 if start is None else 1
    ids = ([] if start is None else [start]) + tokens * COPIES
    if len(ids) > loaded.window:
        raise HeadroomError(
            f"an induction sequence of {len(ids)} tokens is longer than the model's window of {loaded.window}; "
            f"set induction.sequences to at most {max(0, (loaded.window // COPIES - 24) // 2)}"
        )
    queries, keys = _matches(length, offset)
    found = np.zeros((loaded.shape.layers, loaded.shape.heads))

    def observer(layer: int, q: Tensor, k: Tensor, scaling: float) -> None:
        found[layer] = _matched_attention(q[0], k[0], scaling, queries.to(q.device), keys.to(q.device)) / (3 * length)

    input_ids = torch.tensor([ids], device=loaded.device)
    positions = torch.arange(len(ids), device=loaded.device)[None]
    with loaded.seam.layout(Layout(len(ids))), loaded.seam.observe(observer):
        loaded.model.base_model(input_ids=input_ids, position_ids=positions, use_cache=False)
    if not np.isfinite(found).all():
        layer, head = np.argwhere(~np.isfinite(found))[0]
        raise HeadroomError(f"the prefix-matching score of layer {layer} head {head} is not finite; try dtype float32")
    return found


def _matches(length: int, offset: int) -> tuple[Tensor, Tensor]:
    """(query, key) index pairs: a repeated token and the successor of each of its earlier copies, each [6 L]."""
    pairs = [
        (t + offset, copy * length + t % length + 1 + offset)
        for t in range(length, COPIES * length)
        for copy in range(t // length)
    ]
    queries, keys = zip(*pairs, strict=True)
    return torch.tensor(queries), torch.tensor(keys)


def _matched_attention(q: Tensor, k: Tensor, scaling: float, queries: Tensor, keys: Tensor) -> Array:
    """Sum over the pairs of softmax attention, [head]; q and k are [head, time, width]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(wide) * scaling, k.to(wide)
    time = q.shape[1]
    normalisers = torch.empty(q.shape[:2], dtype=wide, device=q.device)
    for begin in range(0, time, BLOCK):
        end = min(begin + BLOCK, time)
        products = q[:, begin:end] @ k[:, :end].transpose(1, 2)
        future = torch.arange(end, device=q.device)[None] > torch.arange(begin, end, device=q.device)[:, None]
        normalisers[:, begin:end] = products.masked_fill(future, float("-inf")).logsumexp(dim=-1)
    matched = (q[:, queries] * k[:, keys]).sum(dim=-1) - normalisers[:, queries]
    result: Array = matched.exp().sum(dim=1).double().cpu().numpy()
    return result


def prefix_matching(loaded: Loaded, n_sequences: int, bos: bool = True) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Columns of a prefix-matching artifact over sequences with seeds 1 to ``n_sequences``, and facts about them."""
    ranked, order = ranked_vocabulary(loaded.tokenizer)
    start, start_name = start_token(loaded.tokenizer) if bos else (None, "none")
    progress = Progress("induction", n_sequences, "sequences")
    found = []
    for seed in range(1, n_sequences + 1):
        found.append(prefix_matching_scores(loaded, sequence(ranked, seed), start))
        progress.advance()
    scores = np.stack(found)
    layers, heads = np.indices(scores.shape[1:])
    columns = {
        "layer": layers.ravel().tolist(),
        "head": heads.ravel().tolist(),
        "mean": scores.mean(axis=0).ravel().tolist(),
        "variance": scores.var(axis=0, ddof=1).ravel().tolist() if n_sequences > 1 else [None] * layers.size,
        "n_sequences": [n_sequences] * layers.size,
    }
    return columns, {"vocabulary": order, "start_token": start_name}
