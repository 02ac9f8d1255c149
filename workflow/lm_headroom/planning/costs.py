"""What a pass costs: floating-point operations and memory, by the sizes of a model. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lm_headroom.engine.batch_size import bytes_per_token, logit_bytes

BACKWARD_LINEAR = 1.0
"""Linear maps again, for gradients of their inputs; weights are frozen."""
BACKWARD_ATTENTION = 2.5
"""Attention: two products forward; in its backward pass the scores again and four gradients."""


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


@dataclass(frozen=True)
class Costs:
    """Operations and bytes of one model.

    Attributes:
        layers, heads, d_head: L, H and d_h.
        parameters: all of the model.
        attention, ffn: parameters of one layer's attention and FFN maps, which each token is multiplied by.
        unembedding: parameters of the output embedding and what stands before it.
        item_size: bytes of a number.
        token_bytes: a batch's bytes per token: in a pass, in the FFN oracle, in a backward pass.
        logit_bytes: bytes of one chunk of logits.
    """

    layers: int
    heads: int
    d_head: int
    parameters: int
    attention: int
    ffn: int
    unembedding: int
    item_size: int
    token_bytes: tuple[int, int, int]
    logit_bytes: int

    @classmethod
    def from_sizes(cls, sizes: Mapping[str, int], item_size: int) -> Costs:
        """Costs of a model of these sizes (:func:`lm_headroom.models.architectures.sizes`), in numbers of
        ``item_size`` bytes."""
        batch = (sizes["d_model"], sizes["d_mlp"], sizes["layers"], item_size)
        names = ("layers", "heads", "d_head", "parameters", "attention", "ffn", "unembedding")
        return cls(
            **{name: sizes[name] for name in names},
            item_size=item_size,
            token_bytes=(
                bytes_per_token(*batch),
                bytes_per_token(*batch, keeps_layers=True),
                bytes_per_token(*batch, differentiates=True),
            ),
            logit_bytes=logit_bytes(sizes["vocabulary"], item_size),
        )

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
        attention = 4 * load.pairs * self.heads * self.d_head * layers
        return linear - saved + attention + 2 * load.logits * self.unembedding

    def backward(self, load: Load) -> float:
        """Operations of one backward pass for gradients of activations."""
        attention = 4 * load.pairs * self.heads * self.d_head * self.layers
        linear = self.forward(load) - attention
        return BACKWARD_LINEAR * linear + BACKWARD_ATTENTION * attention

    def oracle(self, load: Load) -> float:
        """Operations of the FFN oracle: a whole pass, and one from each layer on, without that layer's FFN."""
        restarts = sum(self.forward(load, self.layers - layer) for layer in range(self.layers))
        return self.forward(load) + restarts - 2 * load.columns * self.ffn * self.layers

    def head_oracle(self, load: Load, n_heads: int | None) -> float:
        """Operations of the head oracle: a whole pass, and one from its layer on per head; None for all heads."""
        total = self.layers * self.heads
        restarts = sum(self.forward(load, self.layers - layer) for layer in range(self.layers))
        return self.forward(load) + restarts * min(n_heads or total, total) / self.layers

    def induction(self, lengths: Sequence[int]) -> float:
        """Operations of prefix matching and copying over sequences of ``lengths`` tokens."""
        total = 0.0
        for n in lengths:
            pairs = n * n / 2
            inside = self.heads * self.d_head
            total += self.forward(Load(n, 2 * pairs, 0)) + 2 * pairs * inside * self.layers
            # Copying: the attention's maps, each head's readout of the tokens, and three products per pair.
            total += self.layers * (2 * n * self.attention + 2 * n * inside * inside + 6 * 2 * pairs * inside)
        return total
