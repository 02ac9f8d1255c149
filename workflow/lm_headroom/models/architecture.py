"""What is said of one architecture: the layout of its heads, and where it has attention, FFNs and norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lm_headroom.errors import HeadroomError

PROBE_TOKENS = 12
"""Tokens of the inputs that show where a model's parts are, and with which interventions are proved on it."""


@dataclass(frozen=True)
class HeadLayout:
    """Head counts of a model: layers, query heads and key-value heads per layer, and d_head.

    Attributes:
        key_value_heads, d_head: of each layer; a number for each layer that has heads, in order, where they differ.
        without_heads: layers that have no attention: recurrent ones, linear attention, short convolutions.
        shared: (layer, the earlier layer whose keys and values it reads) of layers that make none of their own.

    Example:
        >>> gemma = HeadLayout(4, 8, (4, 2, 4, 2), (16, 32, 16, 32), shared=((2, 0), (3, 1)))
        >>> gemma.d_head_of(1), gemma.group_of(1), gemma.readers_of(1), gemma.restart_at(3)
        (32, 4, (1, 3), 0)
    """

    layers: int
    heads: int
    key_value_heads: int | tuple[int, ...]
    d_head: int | tuple[int, ...]
    without_heads: tuple[int, ...] = ()
    shared: tuple[tuple[int, int], ...] = ()

    @property
    def attending(self) -> tuple[int, ...]:
        """Numbers of the layers that have heads; arrays of head scores, [layer, head], have a row for each of them."""
        return tuple(layer for layer in range(self.layers) if layer not in self.without_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Shape of an array of head scores: layers that have heads, and heads of each."""
        return self.layers - len(self.without_heads), self.heads

    @property
    def places(self) -> list[tuple[int, int]]:
        """(layer, head) of all query heads, in order."""
        return [(layer, head) for layer in self.attending for head in range(self.heads)]

    @property
    def total(self) -> int:
        """Number of query heads of the model."""
        return self.grid[0] * self.heads

    @property
    def group(self) -> int:
        """Number of query heads that share a key-value head, in every layer.

        Raises:
            HeadroomError: layers differ in it.
        """
        groups = {self.group_of(layer) for layer in self.attending}
        if len(groups) > 1:
            raise HeadroomError(
                f"layers differ in how many heads share a key-value head ({', '.join(map(str, sorted(groups)))}), so "
                "that no even number of heads can be removed from each of them; remove heads by a ranking as it is"
            )
        return groups.pop()

    def group_of(self, layer: int) -> int:
        """Number of query heads of a layer that share a key-value head."""
        return self.heads // self._of(self.key_value_heads, layer)

    def d_head_of(self, layer: int) -> int:
        """Width of the heads of a layer."""
        return self._of(self.d_head, layer)

    @property
    def widest(self) -> int:
        """Width of the widest heads."""
        return self.d_head if isinstance(self.d_head, int) else max(self.d_head)

    def _of(self, numbers: int | tuple[int, ...], layer: int) -> int:
        return numbers if isinstance(numbers, int) else numbers[self.attending.index(layer)]

    def readers_of(self, layer: int) -> tuple[int, ...]:
        """A layer with keys and values of its own, and those that read them, too."""
        return layer, *(reader for reader, source in self.shared if source == layer)

    def restart_at(self, layer: int) -> int:
        """Where a pass must begin to compute ``layer``: there, or where the keys are made that it or a later one reads.

        Their inputs at that layer are those of the pass that is restarted.
        """
        read_before = [source for reader, source in self.shared if reader >= layer > source]
        return min([self.restart_at(source) for source in read_before], default=layer)


@dataclass(frozen=True)
class Architecture:
    """Attribute paths of one architecture, and the layout of its weights.

    Attributes:
        layers: from the causal language model to the list of decoder layers.
        attention: from a layer to its attention module.
        output_projection: from the attention module to its output projection.
        input_projections: from the attention module to its query, key and value projections, or to the fused one. The
            last two may be one map (latent attention).
        grouped: whether a fused projection's outputs are ordered by group (its queries, its key, its value); otherwise
            they are all queries, all keys, all values.
        joint_norms: whether one norm covers the queries of all heads, and one the keys, so that a head's rows cannot be
            removed alone.
        head_norms: from the attention module to the norms of queries and keys that have a row of weights per head, or
            to lists of a norm per head.
        ffn: from a layer to the modules of its FFN, in order of their calls, each taking the output of the one before.
        ffn_norms: from a layer to the norms of the FFN alone, if it has them; a norm shared with attention is not one.
        attention_output_norm: from a layer to the norm between attention and the residual stream, if any; it divides by
            the root mean square.
        ffn_output_norm: from a layer to the norm between the FFN and the residual stream, if any.
        mixers: from a layer without attention to the modules that mix its tokens instead; each layer has one of them.
        last_norm: from a layer to the norm that its residual stream leaves it through, if any.
        residual_norm: config key, and its value if the FFN's norm acts on the residual stream and is therefore kept.
        final_projection: from the causal language model to the map between last hidden state and unembedding.
        softcap: config key of the logits' soft cap.
        max_positions: config key of the largest number of input tokens.
        default_max_positions: that number where the config has none.
        reference_attention: the attention implementation of transformers to compare interventions with.
        adapter: name of the function in :mod:`lm_headroom.engine.attention_adapters` that routes its attention
            through interventions; empty if transformers' interface does.
        mask: ``tensor`` if the model's mask must always be a tensor; empty if it may be None.
        returns_tuple: whether a layer returns a tuple whose first item is its hidden states.
        ffn_results: how many values an FFN returns, the first of which it adds; 0 where it returns that alone.
        layer_projections: the input projections of each layer that has heads, where not all have the same: a layer may
            read keys and values of an earlier one, or take its keys for values.
        shared_norms: from the attention module to the norms that keys and values alone pass, where layers share these.
        after_ffn: from a layer to the module that takes the residual stream after the FFN for what else the layer adds.
        shape: head counts that a pass showed; None where the configuration is asked.
        unsupported: (config key, value, reason) of settings that are refused; ``ANYTHING`` for any value but null.
    """

    layers: str
    attention: str = "self_attn"
    output_projection: str = "o_proj"
    input_projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    grouped: bool = False
    joint_norms: bool = False
    head_norms: tuple[str, ...] = ()
    ffn: tuple[str, ...] = ("mlp",)
    ffn_norms: tuple[str, ...] = ("post_attention_layernorm",)
    attention_output_norm: str = ""
    ffn_output_norm: str = ""
    mixers: tuple[str, ...] = ()
    last_norm: str = ""
    residual_norm: tuple[str, bool] | None = None
    final_projection: str = ""
    softcap: str = ""
    max_positions: str = "max_position_embeddings"
    default_max_positions: int = 0
    reference_attention: str = "sdpa"
    adapter: str = ""
    mask: str = ""
    returns_tuple: bool = False
    ffn_results: int = 0
    layer_projections: tuple[tuple[str, ...], ...] = ()
    shared_norms: tuple[str, ...] = ()
    after_ffn: str = ""
    shape: HeadLayout | None = None
    unsupported: tuple[tuple[str, Any, str], ...] = ()
