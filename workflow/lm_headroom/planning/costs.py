"""Floating-point operations and memory of passes, from the sizes of a model. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_headroom.engine.batch_size import bytes_per_token, logit_bytes

BACKWARD_LINEAR = 1.0
"""Backward cost of linear maps relative to forward: only gradients of inputs, since weights are frozen."""
BACKWARD_ATTENTION = 3.0
"""Backward cost of attention relative to its two forward products: the scores again, four gradients, and the scores
once more for how heads attend."""


@dataclass(frozen=True)
class Load:
    """The work that some documents require of a model.

    Attributes:
        columns: number of tokens to compute.
        pairs: pairs of tokens whose attention is computed, per head.
        logits: positions where vocabulary logits are computed.
    """

    columns: float
    pairs: float
    logits: float

    def times(self, factor: float) -> Load:
        """Multiply the load."""
        return Load(self.columns * factor, self.pairs * factor, self.logits * factor)


@dataclass(frozen=True)
class Costs:
    """Operations and bytes of one model.

    Attributes:
        layers, heads: L and H.
        widths: d_h of each layer that has heads.
        restarts: where a pass begins that computes each layer, and those above it.
        parameters: number of parameters of the model.
        attention, ffn: parameters of one layer's attention and FFN maps, which each token is multiplied by.
        unembedding: parameters of the unembedding.
        item_size: bytes of a number.
        token_bytes: a batch's bytes per token: in a pass, in the FFN oracle, in a backward pass.
        logit_bytes: bytes of one chunk of logits.
        experts: number of experts of all layers.
    """

    layers: int
    heads: int
    widths: tuple[int, ...]
    restarts: tuple[int, ...]
    parameters: int
    attention: int
    ffn: int
    unembedding: int
    item_size: int
    token_bytes: tuple[int, int, int]
    logit_bytes: int
    experts: int = 0

    @classmethod
    def from_sizes(cls, sizes: Mapping[str, Any], item_size: int) -> Costs:
        """Compute the costs of a model from its sizes (:func:`lm_headroom.models.sizes.model_sizes`), in numbers of
        ``item_size`` bytes."""
        batch = (sizes["d_model"], sizes["d_mlp"], sizes["layers"], item_size)
        names = ("layers", "heads", "parameters", "attention", "ffn", "unembedding")
        attending, d_head = sizes["layers"] - len(sizes.get("without_heads", ())), sizes["d_head"]
        return cls(
            **{name: sizes[name] for name in names},
            widths=(d_head,) * attending if isinstance(d_head, int) else tuple(d_head),
            restarts=tuple(sizes.get("restarts", range(sizes["layers"]))),
            item_size=item_size,
            token_bytes=(
                bytes_per_token(*batch),
                bytes_per_token(*batch, keeps_layers=True),
                bytes_per_token(*batch, differentiates=True),
            ),
            logit_bytes=logit_bytes(sizes["vocabulary"], item_size),
            experts=sizes.get("experts", 0),
        )

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights in bytes."""
        return self.parameters * self.item_size

    def forward(self, load: Load, layers: float | None = None, ffns: float = 1.0) -> float:
        """Compute the floating-point operations of one forward pass.

        Args:
            load: the load of the documents.
            layers: number of layers to compute; None for all.
            ffns: share of these layers whose FFN is computed.
        """
        layers = self.layers if layers is None else layers
        linear = 2 * load.columns * (self.attention + ffns * self.ffn) * layers
        # The last layer's FFN is computed only where logits are needed.
        saved = 2 * (load.columns - load.logits) * self.ffn * ffns
        attention = 4 * load.pairs * self.heads * sum(self.widths) * layers / self.layers
        return linear - saved + attention + 2 * load.logits * self.unembedding

    def activations(self, load: Load) -> float:
        """Compute the operations of a pass that keeps all layers' activations at all tokens, and computes no logits."""
        return self.forward(Load(load.columns, load.pairs, 0)) + 2 * load.columns * self.ffn

    def backward(self, load: Load) -> float:
        """Compute the operations of one backward pass for gradients of activations."""
        attention = 4 * load.pairs * self.heads * sum(self.widths)
        linear = self.forward(load) - attention
        return BACKWARD_LINEAR * linear + BACKWARD_ATTENTION * attention

    def oracle(self, load: Load) -> float:
        """Compute the operations of the FFN oracle: a whole pass, and one pass from each layer on, without its FFN."""
        restarts = sum(self.forward(load, self.layers - layer) for layer in self.restarts)
        return self.forward(load) + restarts - 2 * load.columns * self.ffn * self.layers

    def head_oracle(self, load: Load, n_heads: int | None) -> float:
        """Compute the operations of the head oracle: a whole pass, and one from its layer on per head (None: all)."""
        total = len(self.widths) * self.heads
        restarts = sum(self.forward(load, self.layers - layer) for layer in self.restarts)
        return self.forward(load) + restarts * min(n_heads or total, total) / self.layers

    def expert_oracle(self, load: Load) -> float:
        """Compute the operations of the oracle of experts: a whole pass, and one from its layer on per expert."""
        restarts = sum(self.forward(load, self.layers - layer) for layer in self.restarts)
        return self.forward(load) + restarts * self.experts / self.layers

    def induction(self, lengths: Sequence[int]) -> float:
        """Compute the operations of prefix matching and copying for sequences of ``lengths`` tokens."""
        total = 0.0
        for n in lengths:
            pairs = n * n / 2
            total += self.forward(Load(n, 2 * pairs, 0))
            for inside in (self.heads * width for width in self.widths):
                # Copying: the attention's maps, each head's unembedding of the tokens, and three products per pair.
                copying = 2 * n * self.attention + 2 * n * inside * inside + 6 * 2 * pairs * inside
                total += 2 * pairs * inside + copying
        return total
