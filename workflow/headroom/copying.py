"""Copying scores of heads on random sequences (Algorithm 2, Figure 10b), from the logits that they need alone.

The sequences. Algorithm 2 takes a sequence of random tokens without repeats; the released code makes it four times as
long as the one that prefix matching repeats (``length = 4 * length`` before the draw, and "sequence is not repeated
for copying score"). So a sequence here has 4L = 4 (2 seed + 23) distinct tokens and as many as the four copies there.

The input. Algorithm 2 asks what a layer does with token embeddings as such: each layer gets what enters the first one
(for OPT with its positions), normed as that layer norms its input.

The logits. A head is judged by ReLU(p - mean p) at one token over its sum, p the softmax over the vocabulary. The
softmax's normaliser cancels in that ratio, so only the logits of the sequence's own tokens are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from headroom import anatomy
from headroom.checkpoints import Loaded
from headroom.induction import BLOCK, COPIES, Array, finite, input_ids, over_sequences, run
from headroom.parts import NO_PARTS, Parts
from headroom.seam import Branching, Layout

HeadOutput = Literal["attention", "value"]
PROJECTIONS_OUT = {"opt": "model.decoder.project_out"}
"""Model type to the projection between the last hidden state and the output embedding, where a family may have one."""


def copying(
    loaded: Loaded,
    n_sequences: int,
    bos: bool = True,
    head_output: HeadOutput = "attention",
    output_bias: bool = False,
    parts: Parts = NO_PARTS,
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Columns of a copying artifact over sequences with seeds 1 to ``n_sequences``, and facts about them.

    Args:
        loaded: the model.
        n_sequences: number of sequences; the last is the longest.
        bos: put the start token first; it can be attended to and is no query.
        head_output: ``attention``: softmax(q k) V, as in Algorithm 2; ``value``: V alone, as in the released code.
        output_bias: add the output projection's bias to every head's output, as in the released code.
        parts: where sequences are kept that are done, and looked for.

    Raises:
        HeadroomError: the vocabulary or the window is too small for the longest sequence.
    """
    score = partial(copying_scores, head_output=head_output, output_bias=output_bias)
    kept = parts.below(f"{head_output}{'-bias' if output_bias else ''}")
    return over_sequences(loaded, "copying", n_sequences, bos, score, COPIES, kept)


@torch.no_grad()
def copying_scores(
    loaded: Loaded,
    tokens: list[int],
    start: int | None,
    head_output: HeadOutput = "attention",
    output_bias: bool = False,
) -> Array:
    """Algorithm 2 for one sequence: how much of a head's raised probability goes to the token it attends to most.

    Args:
        loaded: the model.
        tokens: the sequence.
        start: token put first (BOS), or None.
        head_output: see :func:`copying`.
        output_bias: see :func:`copying`.

    Returns:
        Scores in [0, 1], [layer, head].

    Raises:
        HeadroomError: the sequence is longer than the model's window, or a score is not finite.
    """
    ids = input_ids(loaded, tokens, start)
    offset = len(ids) - len(tokens)
    found = np.zeros((loaded.shape.layers, loaded.shape.heads))
    readout = unembedding(loaded.model, ids)
    projections = anatomy.output_projections(loaded.model)
    seen: list[Tensor] = []

    def observe(layer: int, q: Tensor, k: Tensor, scaling: float) -> None:
        seen[:] = [_wide(q[0]) * scaling, _wide(k[0])]

    def score(layer: int) -> None:
        q, k = seen
        v = _wide(outputs.pop(layer).value[0]).transpose(0, 1)
        found[layer] = _head_scores(q, k, v, readout, projections[layer], head_output, output_bias, offset)

    # Where each token attends to itself alone, a head's output is its value: q, k and v of any family, by one seam.
    itself = torch.eye(len(ids), dtype=torch.bool, device=loaded.device)
    seam = loaded.seam
    with seam.layout(Layout((Branching(len(ids), 0, itself),))), seam.observe(observe), seam.capture() as outputs:
        with seam.without_ffns(range(seam.shape.layers)), _embeddings_enter(anatomy.layers(loaded.model), score):
            run(loaded, ids)
    return finite(found, "copying")


def unembedding(model: Any, ids: Sequence[int]) -> Tensor:
    """What the logit of each token reads from the model's width, [token, width]; final norms are left out."""
    embedding = model.get_output_embeddings()
    # Weights that wait outside the GPU are fetched.
    with align_module_device(embedding):
        rows = _wide(embedding.weight[torch.tensor(ids, device=embedding.weight.device)])
    path = PROJECTIONS_OUT.get(model.config.model_type)
    projection = attrgetter(path)(model) if path else None
    if projection is None:
        return rows
    with align_module_device(projection):
        return rows @ projection.weight.to(rows)


@contextmanager
def _embeddings_enter(layers: Sequence[nn.Module], after: Callable[[int], None]) -> Iterator[None]:
    """Give every layer the input of the first one, and call ``after`` with a layer's number when it has run."""
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


def _head_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    readout: Tensor,
    projection: nn.Linear,
    head_output: HeadOutput,
    output_bias: bool,
    offset: int,
) -> Array:
    """Scores of one layer, [head]; q (scaled), k and v are [head, time, width], readout [time, model width]."""
    heads, time, width = q.shape
    readout = readout.to(q)
    with align_module_device(projection):
        reads = (readout @ projection.weight.to(q)).unflatten(1, (heads, width)).transpose(0, 1)
        has_bias = output_bias and projection.bias is not None
        bias = readout @ projection.bias.to(q) if has_bias else readout.new_zeros(time)
    total = readout.new_zeros(heads)
    for begin in range(offset, time, BLOCK):
        end = min(begin + BLOCK, time)
        future = torch.arange(end, device=q.device)[None] > torch.arange(begin, end, device=q.device)[:, None]
        products = (q[:, begin:end] @ k[:, :end].transpose(1, 2)).masked_fill_(future, float("-inf"))
        outputs = products.softmax(dim=-1) @ v[:, :end] if head_output == "attention" else v[:, begin:end]
        logits = outputs @ reads[:, :end].transpose(1, 2) + bias[:end]
        total += _copied(products.argmax(dim=-1), logits, future).sum(dim=1)
    scores: Array = (total / (time - offset)).double().cpu().numpy()
    return scores


def _copied(attended: Tensor, logits: Tensor, future: Tensor) -> Tensor:
    """Share of the raised probability that each query gives to the token it attends to most, [head, query].

    Args:
        attended: index of that token, [head, query].
        logits: of the sequence's tokens, [head, query, token].
        future: tokens that a query cannot attend to, [query, token].
    """
    logits = logits.masked_fill(future, float("-inf"))
    # Probabilities over the largest attendable one, less 1, which the mean takes away again: no logit overflows.
    raised = torch.expm1(logits - logits.amax(dim=-1, keepdim=True)).masked_fill_(future, 0)
    mean = raised.sum(dim=-1, keepdim=True) / (~future).sum(dim=-1, keepdim=True)
    raised = (raised - mean).relu_().masked_fill_(future, 0)
    total = raised.sum(dim=-1)
    return torch.where(total == 0, 0, raised.gather(-1, attended[..., None])[..., 0] / total)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
