"""The maps of an attention layer without the rows and columns of pruned heads, so that these are not computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lm_headroom.models.architectures import HeadRows, is_plain, n_outputs, rows_first

KEPT_BYTES = 256 * 2**20
"""Bytes of cut weights that are kept from pass to pass: all of a small model, and what a large one has to spare."""
FEW_ROWS = 64
"""A pass over fewer rows does not pay for cutting a map for it alone: an estimate, which no benchmark has measured."""


class Kept:
    """What is kept of a dimension, in blocks as wide as it allows: copying heads is faster than copying their numbers.

    Args:
        places: kept places, ascending, [n].
        total: size of the dimension.
        device: of what is picked.

    Example:
        >>> kept = Kept(torch.tensor([2, 3, 6, 7]), 8, "cpu")
        >>> kept.blocks, kept.pick(torch.arange(8))
        (tensor([1, 3]), tensor([2, 3, 6, 7]))
    """

    def __init__(self, places: Tensor, total: int, device: torch.device | str) -> None:
        starts = places[places.diff(prepend=places[:1] - 2) != 1]
        ends = places[places.diff(append=places[-1:] + 2) != 1] + 1
        self.total, self.width = total, math.gcd(total, *starts.tolist(), *ends.tolist())
        self.blocks = (places[:: self.width] // self.width).to(device)

    def pick(self, x: Tensor, dim: int = -1) -> Tensor:
        """What is kept of a dimension of ``x``."""
        dim %= x.dim()
        return x.unflatten(dim, (-1, self.width)).index_select(dim, self.blocks).flatten(dim, dim + 1)

    def spread(self, x: Tensor) -> Tensor:
        """``x`` [..., kept] in its places of the whole dimension, with zeros elsewhere, [..., total]."""
        whole = x.new_zeros(*x.shape[:-1], self.total // self.width, self.width)
        return whole.index_copy_(-2, self.blocks, x.unflatten(-1, (-1, self.width))).flatten(-2)


@dataclass(frozen=True)
class CutMap:
    """A linear map of which some inputs or outputs are left.

    Attributes:
        kept: the inputs that are left of an output projection, or the outputs of an input projection.
        weight: [output, input].
        bias: [output], or None.
        is_output: whether it is an output projection.
    """

    kept: Kept
    weight: Tensor
    bias: Tensor | None
    is_output: bool

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of the whole map for ``x`` [..., input], whose cut inputs are zero, as cut outputs are."""
        if self.is_output:
            return functional.linear(self.kept.pick(x), self.weight, self.bias)
        return self.kept.spread(functional.linear(x, self.weight, self.bias))


class KeptCuts:
    """Cut maps of passes so far, as many as take :data:`KEPT_BYTES`; one whose weights have changed is cut anew."""

    def __init__(self) -> None:
        self._cuts: dict[Hashable, tuple[Hashable, CutMap | None]] = {}
        self._bytes = 0
        self._is_full = False

    def find(
        self, name: Hashable, module: nn.Module, cut: Callable[[], CutMap | None], pays_at_once: bool
    ) -> CutMap | None:
        """A cut map of ``module`` by its name, made by ``cut`` where none is kept.

        Returns:
            None if all of it is needed, if it does not multiply by a plain matrix, as where that is quantised, or if
            no more cuts are kept and one does not pay in this pass alone.
        """
        if not is_plain(module):
            return None
        state = _state_of(module)
        before, left = self._cuts.get(name, (None, None))
        if before == state:
            return left
        if self._is_full and not pays_at_once:
            return None
        self._bytes -= _bytes_of(left)
        self._cuts.pop(name, None)
        left = cut()
        if self._bytes + _bytes_of(left) > KEPT_BYTES:
            self._is_full = True
        else:
            self._cuts[name] = state, left
            self._bytes += _bytes_of(left)
        return left


def _bytes_of(cut: CutMap | None) -> int:
    return 0 if cut is None else cut.weight.nbytes


def _state_of(module: nn.Module) -> Hashable:
    """What changes with the weights of a module, and with who may use what is cut from them."""
    weights = module.parameters(recurse=False)
    versions = ((id(w), w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
    return torch.is_inference_mode_enabled(), *versions


def open_heads(gates: Tensor) -> dict[int, Tensor]:
    """The open heads of each layer that has both open and closed ones, by layer.

    Args:
        gates: [layer, head].

    Returns:
        Nothing if a gate is neither 0 nor 1: then no head is simply left out.

    Example:
        >>> open_heads(torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
        {0: tensor([0, 2])}
    """
    is_open = gates == 1
    if not (is_open | (gates == 0)).all():
        return {}
    some = is_open.any(dim=1) & ~is_open.all(dim=1)
    return {layer: is_open[layer].nonzero().flatten() for layer in some.nonzero().flatten().tolist()}


def cut_map(weights: HeadRows, module: nn.Module, heads: Tensor, group: int) -> CutMap | None:
    """Cut a projection of attention to what some heads need.

    Keys and values stay while a head of their group does; rows that a norm over all heads reads stay, too.

    Args:
        weights: of the layer.
        module: one of its projections.
        heads: numbers of the heads that stay.
        group: heads that share a key and a value.

    Returns:
        None if all of it is needed.
    """
    if module is weights.output:
        columns = weights.columns[heads].flatten().sort().values
        kept = Kept(columns, rows_first(module).shape[1], module.weight.device)
        return CutMap(kept, kept.pick(rows_first(module)), module.bias, True)
    closed = torch.ones(weights.query.rows.shape[0], dtype=torch.bool)
    closed[heads] = False
    closed_groups = closed.view(-1, group).all(dim=1)
    goes = torch.zeros(n_outputs(module), dtype=torch.bool)
    parts = [(weights.query, closed), (weights.key, closed_groups)] if weights.separable else []
    for part, without in (*parts, (weights.value, closed_groups)):
        if part is not None and part.module is module:
            goes[part.rows[without].flatten()] = True
    if not goes.any():
        return None
    kept = Kept((~goes).nonzero().flatten(), n_outputs(module), module.weight.device)
    return CutMap(
        kept, kept.pick(rows_first(module), 0), None if module.bias is None else kept.pick(module.bias), False
    )
