"""The maps of an attention layer without the rows and columns of pruned heads, so that these are not computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lm_headroom.models.architectures import HeadRows, is_plain, n_outputs, rows_first


@dataclass(frozen=True)
class CutMap:
    """A linear map of which some inputs or outputs are left.

    Attributes:
        left: the inputs that are left of an output projection, or the outputs of an input projection, [n].
        weight: [output, input].
        bias: [output], or None.
        outputs: outputs of the whole map, zero where they are not left; None if it is the inputs that were cut.
    """

    left: Tensor
    weight: Tensor
    bias: Tensor | None
    outputs: int | None

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of the whole map for ``x`` [..., input], whose cut inputs are zero."""
        if self.outputs is None:
            return functional.linear(x[..., self.left], self.weight, self.bias)
        whole = x.new_zeros(*x.shape[:-1], self.outputs)
        return whole.index_copy(-1, self.left, functional.linear(x, self.weight, self.bias))


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
        None if all of it is needed, or if it does not multiply by a plain matrix, as where that is quantised.
    """
    if not is_plain(module):
        return None
    if module is weights.output:
        left = weights.columns[heads].flatten().to(module.weight.device)
        return CutMap(left, rows_first(module)[:, left].contiguous(), module.bias, None)
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
    left = (~goes).nonzero().flatten().to(module.weight.device)
    return CutMap(left, rows_first(module)[left], None if module.bias is None else module.bias[left], n_outputs(module))
