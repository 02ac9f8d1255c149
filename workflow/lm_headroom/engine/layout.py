"""Prefix trees that lie end to end in one row of tokens, and attention within each of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from lm_headroom.engine.attention import AttentionSpec, attention, soft_cap

FLEX = "LM_HEADROOM_FLEX_ATTENTION"
"""Environment variable: where it is 1, flex attention attends within all trees by one call per layer."""


def is_at_once() -> bool:
    """Whether all trees are attended to by one call per layer."""
    return os.environ.get(FLEX) == "1"


@dataclass(frozen=True)
class TreeMask:
    """Which columns of one prefix tree may attend to each other.

    The first ``trunk`` columns are causal. Each later column is part of a branch and attends to its ancestors.

    Attributes:
        columns: number n of columns.
        trunk: number R of columns in the trunk.
        branches: bool [n - R, n], which columns each branch column may attend to; None where n = R.
    """

    columns: int
    trunk: int
    branches: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Prefix trees end to end in one row of tokens; no tree attends to another.

    Attributes:
        trees: the trees.
        needed: columns whose last hidden states are read; the last layer's FFN is computed only there. None for all.
        positions: position of each column in its sequence, [n]; None if each column follows the one before.
        documents: what each tree holds, for replacements that differ by document; empty where nothing asks.
    """

    trees: tuple[TreeMask, ...]
    needed: Tensor | None = None
    positions: Tensor | None = None
    documents: tuple[Any, ...] = ()

    @property
    def columns(self) -> int:
        """Number of columns of all trees."""
        return sum(tree.columns for tree in self.trees)

    @cached_property
    def sequences(self) -> tuple[Tensor, Tensor]:
        """Sequences of the trees, for modules that go through tokens in order.

        Returns:
            Columns of each path from a tree's first column to a leaf, [path, longest], padded with column 0 at the end;
            and where each column is among them, counted row by row, [n].
        """
        paths, start = [], 0
        for tree in self.trees:
            sees = torch.ones(tree.columns, tree.columns, dtype=torch.bool).tril()
            if tree.branches is not None:
                sees[tree.trunk :] = tree.branches.cpu()
            # A leaf is a column that no other one attends to.
            leaves = (sees.sum(dim=0) == 1).nonzero().flatten().tolist()
            paths += [start + sees[leaf].nonzero().flatten() for leaf in leaves]
            start += tree.columns
        rows = torch.nn.utils.rnn.pad_sequence(paths, batch_first=True)
        places = torch.empty(start, dtype=torch.long)
        for number, path in enumerate(paths):
            places[path] = number * rows.shape[1] + torch.arange(len(path))
        return rows, places

    @cached_property
    def visible(self) -> Tensor:
        """Which columns each column may attend to, bool [n, n]."""
        device = next((tree.branches.device for tree in self.trees if tree.branches is not None), None)
        sees = torch.zeros(self.columns, self.columns, dtype=torch.bool, device=device)
        start = 0
        for tree in self.trees:
            end = start + tree.columns
            sees[start:end, start:end] = torch.ones(tree.columns, tree.columns, dtype=torch.bool, device=device).tril()
            if tree.branches is not None:
                sees[start + tree.trunk : end, start:end] = tree.branches
            start = end
        return sees

    @cached_property
    def places(self) -> Tensor:
        """Position of each column in its sequence, [n]."""
        if self.positions is not None:
            return self.positions
        return torch.cat([torch.arange(tree.columns) for tree in self.trees])

    def block_mask(self, sliding_window: int | None, device: torch.device) -> BlockMask:
        """The same for flex attention, with a sliding window over positions; made once for all layers."""
        key = sliding_window, device
        if key not in self._block_masks:
            visible, places = self.visible.to(device), self.places.to(device)
            if sliding_window is not None:
                visible = visible & (places[:, None] - places < sliding_window)
            n = self.columns
            self._block_masks[key] = create_block_mask(lambda b, h, q, k: visible[q, k], None, None, n, n, device)
        return self._block_masks[key]

    @cached_property
    def _block_masks(self) -> dict[tuple[int | None, torch.device], BlockMask]:
        return {}

    @classmethod
    def causal(cls, columns: int) -> Layout:
        """The layout of one causal sequence."""
        return cls((TreeMask(columns, columns),))


def attend_within(layout: Layout, query: Tensor, key: Tensor, value: Tensor, attention_spec: AttentionSpec) -> Tensor:
    """Compute attention within each tree of a layout, [batch, head, pos, d_head].

    Tree by tree, with one causal call for its trunk and one masked call for its branches: this is cheaper than one mask
    over all trees, which would compute and discard the entries between trees. Flex attention discards whole blocks of
    them without computing them, in one call (arXiv 2412.05496).

    Args:
        layout: the trees.
        query, key: [batch, head, pos, d_head], of all trees.
        value: [batch, head, pos, width].
        attention_spec: how the layer attends.
    """
    if is_at_once() and len(layout.trees) > 1 and _can_differentiate(query, key, value):
        return _attend_at_once(layout, query, key, value, attention_spec)
    outputs = []
    start = 0
    for tree in layout.trees:
        end, trunk = start + tree.columns, start + tree.trunk
        if tree.trunk:
            q, k, v = (x[:, :, start:trunk] for x in (query, key, value))
            outputs.append(attention(q, k, v, attention_spec.restrict(None, q, k), attention_spec))
        if tree.branches is not None:
            q, k, v = query[:, :, trunk:end], key[:, :, start:end], value[:, :, start:end]
            mask = tree.branches.to(query.device)
            # No position is beyond the last column's number.
            if attention_spec.sliding_window is not None and tree.columns > attention_spec.sliding_window:
                mask = mask & _near(layout, start, trunk, end, attention_spec.sliding_window).to(query.device)
            outputs.append(attention(q, k, v, mask, attention_spec))
        start = end
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]


def _near(layout: Layout, start: int, trunk: int, end: int, sliding_window: int) -> Tensor:
    """Mark the columns within the sliding window of each branch column, by positions, bool [n - R, n]."""
    places = layout.places[start:end]
    return places[trunk - start :, None] - places < sliding_window


def _attend_at_once(layout: Layout, query: Tensor, key: Tensor, value: Tensor, attention_spec: AttentionSpec) -> Tensor:
    """Compute the same by one call of flex attention, which is compiled on GPUs."""
    cap = attention_spec.softcap

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return score if cap is None else soft_cap(score, cap)

    outputs, more = _flex_attention(query.device.type)(
        query,
        key,
        value,
        score_mod=None if cap is None else capped,
        block_mask=layout.block_mask(attention_spec.sliding_window, query.device),
        scale=attention_spec.scaling,
        return_aux=AuxRequest(lse=attention_spec.sinks is not None),
    )
    if attention_spec.sinks is None:
        return outputs
    # A sink's share of the softmax is given to no value.
    share = (more.lse - attention_spec.sinks.to(more.lse)[:, None]).sigmoid()
    return outputs * share[..., None].to(outputs.dtype)


def _can_differentiate(*tensors: Tensor) -> bool:
    """Whether flex attention gives the gradients that are asked for, if any; on CPUs it gives none."""
    return not any(tensor.requires_grad and tensor.device.type == "cpu" for tensor in tensors)


@cache
def _flex_attention(device: str) -> Any:
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
