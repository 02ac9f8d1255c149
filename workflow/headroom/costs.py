"""What a pass costs: parameters, floating-point operations and memory of a model that need not be loaded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headroom import anatomy
from headroom.checkpoints import model_from_config, prepare
from headroom.likelihood import predict
from headroom.memory import bytes_per_token, logit_bytes
from headroom.packing import Batches, Document, Row

BACKWARD_LINEAR = 1.0
"""Linear maps again, for gradients of their inputs; weights are frozen."""
BACKWARD_ATTENTION = 2.5
"""Attention: two products forward; in its backward pass the scores again and four gradients."""
REPEATS = 5
"""Timed passes of a measurement."""


@dataclass(frozen=True)
class Load:
    """What some documents ask of a model.

    Attributes:
        columns: tokens that are computed.
        pairs: pairs of tokens whose attention is computed, per head.
        logits: places where vocabulary logits are computed.
    """

    columns: float
    pairs: float
    logits: float

    def times(self, factor: float) -> Load:
        """So many of it."""
        return Load(self.columns * factor, self.pairs * factor, self.logits * factor)


def load_of(batches: Batches) -> Load:
    """The load of documents that are packed."""
    trees = [tree for batch in batches for tree in batch.trees]
    pairs = sum(t.trunk * (t.trunk + 1) / 2 + (t.columns - t.trunk) * t.columns for t in trees)
    return Load(batches.columns, pairs, sum(len(batch.positions) for batch in batches))


@dataclass(frozen=True)
class Costs:
    """Operations and bytes of one model.

    Attributes:
        layers, heads, width: L, H and d_h.
        parameters: all of the model.
        attention, ffn: parameters of one layer's attention and FFN maps, which each token is multiplied by.
        readout: parameters of the output embedding and what stands before it.
        item_size: bytes of a number.
        token_bytes: a batch's bytes per token: in a pass, in the FFN oracle, in a backward pass.
        logit_bytes: bytes of one chunk of logits.
    """

    layers: int
    heads: int
    width: int
    parameters: int
    attention: int
    ffn: int
    readout: int
    item_size: int
    token_bytes: tuple[int, int, int]
    logit_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.parameters * self.item_size

    def forward(self, load: Load, layers: float | None = None, ffns: float = 1.0) -> float:
        """Floating-point operations of one pass.

        Args:
            load: the documents.
            layers: how many layers are computed; None for all.
            ffns: share of them whose FFN is computed.
        """
        layers = self.layers if layers is None else layers
        linear = 2 * load.columns * (self.attention + ffns * self.ffn) * layers
        # The last layer's FFN is computed where logits are needed.
        saved = 2 * (load.columns - load.logits) * self.ffn * ffns
        attention = 4 * load.pairs * self.heads * self.width * layers
        return linear - saved + attention + 2 * load.logits * self.readout

    def backward(self, load: Load) -> float:
        """Operations of one backward pass for gradients of activations."""
        attention = 4 * load.pairs * self.heads * self.width * self.layers
        linear = self.forward(load) - attention
        return BACKWARD_LINEAR * linear + BACKWARD_ATTENTION * attention

    def oracle(self, load: Load) -> float:
        """Operations of the FFN oracle: a whole pass, and one from each layer on, without that layer's FFN."""
        restarts = sum(self.forward(load, self.layers - layer) for layer in range(self.layers))
        return self.forward(load) + restarts - 2 * load.columns * self.ffn * self.layers

    def induction(self, lengths: Sequence[int]) -> float:
        """Operations of prefix matching and copying over sequences of ``lengths`` tokens."""
        total = 0.0
        for n in lengths:
            pairs = n * n / 2
            inside = self.heads * self.width
            total += self.forward(Load(n, 2 * pairs, 0)) + 2 * pairs * inside * self.layers
            # Copying: the attention's maps, each head's readout of the tokens, and three products per pair.
            total += self.layers * (2 * n * self.attention + 2 * n * inside * inside + 6 * 2 * pairs * inside)
        return total


def costs_of(model: Any) -> Costs:
    """Costs of a model; one on the meta device will do."""
    shape = anatomy.heads(model)
    embedding = model.get_output_embeddings().weight
    maps = [sum(p.weight.numel() for p in layer) for layer in anatomy.projections(model)]
    ffns = [
        sum(p.numel() for m in layer for p in m.parameters() if p.dim() > 1) for layer in anatomy.ffn_modules(model)
    ]
    return Costs(
        shape.layers,
        shape.heads,
        shape.width,
        sum(parameter.numel() for parameter in model.parameters()),
        round(float(np.mean(maps))),
        round(float(np.mean(ffns))),
        embedding.numel(),
        embedding.element_size(),
        (bytes_per_token(model), bytes_per_token(model, True), bytes_per_token(model, differentiates=True)),
        logit_bytes(model),
    )


def measured_rates(config: Any, dtype: torch.dtype, threads: int, columns: int = 1024) -> tuple[float, float]:
    """Operations per second of this machine's passes, forward and backward, in layers of a model's shape.

    From what two layers more add to the time of a pass over documents of 128 tokens, the median of several: what is
    spent outside the layers weighs little in a whole model. Random weights: speed needs no trained ones.
    """
    torch.set_num_threads(threads)
    few, more = (_time_layers(config, dtype, n, columns) for n in (1, 3))
    forward, both = (
        (b.operations - a.operations) / max(b.seconds - a.seconds, 1e-9) for a, b in zip(few, more, strict=True)
    )
    return forward, both


@dataclass(frozen=True)
class _Pass:
    operations: float
    seconds: float


def _time_layers(config: Any, dtype: torch.dtype, n_layers: int, columns: int) -> tuple[_Pass, _Pass]:
    """A forward pass, and a forward pass with its backward pass, of a model of so many layers."""
    from headroom.importance import head_products

    small = deepcopy(config)
    small.num_hidden_layers = n_layers
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = prepare(model_from_config(small, dtype, device), None)
    costs = costs_of(loaded.model)
    rng = np.random.default_rng(0)
    rows = rng.integers(10, config.vocab_size, (columns // 128, 129))
    batches = Batches([Document(n, (Row(tuple(row), 1),)) for n, row in enumerate(rows.tolist())], columns, device)
    (batch,) = batches
    load = load_of(batches)

    def median(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        # The first one warms up.
        return statistics.median(seconds[1:])

    with torch.no_grad():
        ahead = _Pass(costs.forward(load), median(lambda: predict(loaded, batch)))
    both = median(lambda: head_products(loaded, batch, np.ones(len(rows))))
    return ahead, _Pass(ahead.operations + costs.backward(load), both)
