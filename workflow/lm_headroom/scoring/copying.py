"""Copying scores of heads on random sequences (Algorithm 2, Figure 10b), from only the logits that they need.

Sequences. Algorithm 2 takes a sequence of random tokens without repeats; the released code makes it four times as
long as the one that prefix matching repeats (``length = 4 * length`` before the draw, and "sequence is not repeated
for copying score"). So a sequence here has 4L = 4 (2 seed + 23) distinct tokens and as many as the four copies there.

Input. Algorithm 2 applies a layer to token embeddings as such: each layer gets the input of the first one (for OPT with
its positions), normed as that layer norms its input.

Logits. A head's output passes through its slice of the output projection and the unembedding, then through the model's
soft cap on logits if it has one. Norms in between (the final norm, and the norm after attention of some architectures)
act on the sum of all heads and are left out, as are biases of the unembedding. The score of a head is ReLU(p - mean p)
at one token, divided by its sum, with p the softmax over the vocabulary. The softmax's normaliser cancels in that
ratio, so only the logits of the sequence's own tokens are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from lm_headroom.engine.attention import AttentionSpec
from lm_headroom.engine.layout import Layout, TreeMask
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.engine.unembedding import at_least_float32, cap_logits, unembedding_rows
from lm_headroom.models import architectures
from lm_headroom.scoring.prefix_matching import (
    BLOCK,
    COPIES,
    Array,
    average_over_sequences,
    check_finite_scores,
    input_ids,
    run,
)
from lm_headroom.study.choices import HeadOutput


def copying(
    loaded: LoadedModel,
    n_sequences: int,
    bos: bool = True,
    head_output: HeadOutput = "attention",
    output_bias: bool = False,
    cache: ResumeCache = NO_CACHE,
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Build the columns of a copying artifact for sequences with seeds 1 to ``n_sequences``, and their provenance.

    Args:
        loaded: the model.
        n_sequences: number of sequences; the last is the longest.
        bos: put the start token first; it can be attended to and is no query.
        head_output: ``attention``: softmax(q k) V, as in Algorithm 2; ``value``: V alone, as in the released code.
        output_bias: add the output projection's bias to every head's output, as in the released code.
        cache: holds finished sequences.

    Raises:
        HeadroomError: the vocabulary or the context window is too small for the longest sequence.
    """
    score = partial(copying_scores, head_output=head_output, output_bias=output_bias)
    kept = cache.subfolder(f"{head_output}{'-bias' if output_bias else ''}")
    return average_over_sequences(loaded, "copying", n_sequences, bos, score, COPIES, kept)


@torch.no_grad()
def copying_scores(
    loaded: LoadedModel,
    tokens: list[int],
    start: int | None,
    head_output: HeadOutput = "attention",
    output_bias: bool = False,
) -> Array:
    """Run Algorithm 2 for one sequence: the share of a head's raised probability at the token it attends to most.

    Args:
        loaded: the model.
        tokens: the sequence.
        start: token to put first (BOS), or None.
        head_output: see :func:`copying`.
        output_bias: see :func:`copying`.

    Returns:
        Scores in [0, 1], [layer, head].

    Raises:
        HeadroomError: the sequence is longer than the context window, or a score is not finite.
    """
    ids = input_ids(loaded, tokens, start)
    offset = len(ids) - len(tokens)
    scores = dict.fromkeys(loaded.shape.attending, np.zeros(loaded.shape.heads))
    unembedding = unembedding_rows(loaded.model, ids)
    cap = partial(cap_logits, loaded.model)
    projections = architectures.output_projections(loaded.model)
    reads = {layer: Unembedding(unembedding, projection, cap) for layer, projection in projections.items()}
    attending: list[Attending] = []

    def observe(layer: int, q: Tensor, k: Tensor, attention_spec: AttentionSpec) -> None:
        attending[:] = [
            Attending(at_least_float32(q[0]) * attention_spec.scaling, at_least_float32(k[0]), attention_spec)
        ]

    def score_layer(layer: int) -> None:
        if layer not in reads:
            return
        a = at_least_float32(outputs.pop(layer).value[0]).transpose(0, 1)
        if head_output == "value":
            a = a / attending[0].own_share
        scores[layer] = _head_scores(attending[0], a, reads[layer], output_bias, offset)

    # If each token attends only to itself, a head's output is its value, but for what a sink takes: this gives v for
    # any architecture.
    itself = torch.eye(len(ids), dtype=torch.bool, device=loaded.device)
    alone = Layout((TreeMask(len(ids), 0, itself),))
    interventions = loaded.interventions
    with (
        interventions.layout(alone if head_output == "value" else Layout.causal(len(ids))),
        interventions.observe(observe),
        interventions.capture() as outputs,
    ):
        with (
            interventions.without_ffns(range(interventions.shape.layers)),
            _embeddings_enter(architectures.layers(loaded.model), score_layer),
        ):
            run(loaded, ids)
    return check_finite_scores(np.stack(list(scores.values())), "copying", loaded)


@contextmanager
def _embeddings_enter(layers: Sequence[nn.Module], after: Callable[[int], None]) -> Iterator[None]:
    """Give every layer the input of the first one, and call ``after`` with the number of each layer after it ran."""
    first: list[Tensor] = []

    def enter(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        first[:] = first or [arguments[0]]
        return (first[0].to(arguments[0].device), *arguments[1:])

    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    handles += [
        layer.register_forward_hook(lambda *_, number=number: after(number)) for number, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Attending:
    """q (scaled) and k of a layer's heads, each [head, pos, d_head], and how they attend."""

    q: Tensor
    k: Tensor
    attention_spec: AttentionSpec

    @property
    def own_share(self) -> Tensor:
        """What a token that attends only to itself pays to itself, not to a sink, [head, pos, 1]."""
        own, sinks = self.attention_spec.cap((self.q * self.k).sum(dim=-1, keepdim=True)), self.attention_spec.sinks
        return torch.ones_like(own) if sinks is None else torch.sigmoid(own - sinks.to(own)[:, None, None])


@dataclass(frozen=True)
class Unembedding:
    """The maps from a layer's head outputs to logits.

    Attributes:
        tokens: the unembedding vectors of the sequence's tokens, [pos, d_model].
        projection: the layer's output projection.
        cap: the model's soft cap of logits.
    """

    tokens: Tensor
    projection: nn.Module
    cap: Callable[[Tensor], Tensor]


def _head_scores(attending: Attending, a: Tensor, unembedding: Unembedding, output_bias: bool, offset: int) -> Array:
    """Compute the scores of one layer, [head], from what its heads give at each position, [head, pos, d_head]."""
    q, k, attention_spec, projection = attending.q, attending.k, attending.attention_spec, unembedding.projection
    heads, time, d_head = a.shape
    tokens = unembedding.tokens.to(q)
    with align_module_device(projection):
        reads = (tokens @ architectures.rows_first(projection).to(q)).unflatten(1, (heads, d_head)).transpose(0, 1)
        has_bias = output_bias and projection.bias is not None
        bias = tokens @ projection.bias.to(q) if has_bias else tokens.new_zeros(time)
    total = tokens.new_zeros(heads)
    for begin in range(offset, time, BLOCK):
        end = min(begin + BLOCK, time)
        unseen = attention_spec.masked_keys(begin, end, q.device)
        scores = attention_spec.cap(q[:, begin:end] @ k[:, :end].transpose(1, 2)).masked_fill_(unseen, float("-inf"))
        logits = unembedding.cap(a[:, begin:end] @ reads[:, :end].transpose(1, 2) + bias[:end])
        total += _copied(scores.argmax(dim=-1), logits, unseen).sum(dim=1)
    means: Array = (total / (time - offset)).double().cpu().numpy()
    return means


def _copied(attended: Tensor, logits: Tensor, unseen: Tensor) -> Tensor:
    """Compute the share of raised probability that each query gives to the token it attends to most, [head, query].

    Args:
        attended: index of that token, [head, query].
        logits: logits of the sequence's tokens, [head, query, token].
        unseen: tokens that a query cannot attend to, [query, token].
    """
    logits = logits.masked_fill(unseen, float("-inf"))
    # Probabilities relative to the largest, minus 1, which the mean cancels: no logit overflows.
    raised = torch.expm1(logits - logits.amax(dim=-1, keepdim=True)).masked_fill_(unseen, 0)
    mean = raised.sum(dim=-1, keepdim=True) / (~unseen).sum(dim=-1, keepdim=True)
    raised = (raised - mean).relu_().masked_fill_(unseen, 0)
    total = raised.sum(dim=-1)
    return torch.where(total == 0, 0, raised.gather(-1, attended[..., None])[..., 0] / total)
