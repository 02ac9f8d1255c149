"""Interventions on experts: leaving some out of the router's choice, and the gradient of the loss by their weights.

An expert that is left out does not exist for the router: its row of the router's weights is cut, so that the softmax,
the choice of k experts and the normalisation of their weights are those of a model with the other experts alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lm_headroom.errors import HeadroomError
from lm_headroom.models.experts import COUNTS, ExpertBlock, check_prunable, expert_blocks, expert_rows


@dataclass(frozen=True)
class Routed:
    """Where a layer's router sent tokens.

    Attributes:
        experts: of each token, [token, k].
        weights: by which their outputs are multiplied, [token, k], detached.
        probe: zeros that were added to the weights; their gradient equals that of the weights.
    """

    experts: Tensor
    weights: Tensor
    probe: Tensor


class ExpertInterventions:
    """Interventions on the experts of one model. Each context manager undoes its change when it ends.

    Example:
        experts = attach_experts(model, "olmoe")
        with experts.without([(0, 5), (3, 1)]):
            model(input_ids=tokens)
    """

    def __init__(self, family: str, blocks: Mapping[int, ExpertBlock]) -> None:
        self.blocks = blocks
        self._family = family
        self._smaller: dict[int, tuple[nn.Module, Tensor]] = {}
        self._captures: dict[int, Routed] | None = None

    @contextmanager
    def without(self, pruned: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Leave experts, as (layer, expert), out of the choice of their layers' routers.

        Raises:
            HeadroomError: a layer has no such expert, or keeps fewer than it sends each token to; or its router cannot
                be cut.
        """
        by_layer: dict[int, set[int]] = {}
        for layer, expert in pruned:
            by_layer.setdefault(layer, set()).add(expert)
        self._smaller = {layer: self._cut(layer, experts) for layer, experts in by_layer.items()}
        try:
            yield
        finally:
            self._smaller = {}

    @contextmanager
    def capture(self) -> Iterator[dict[int, Routed]]:
        """Keep where each layer's router sends tokens in the yielded dictionary, ready for gradients."""
        self._captures = {}
        try:
            yield self._captures
        finally:
            self._captures = None

    def run_router(self, layer: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a router among the experts that are left."""
        if layer not in self._smaller:
            return forward(*args, **kwargs)
        router, kept = self._smaller[layer]
        # Of what else it is given, such as a bias of the choice, the rows of these experts, too.
        others = [_rows(value, self.blocks[layer].number, kept, self._family) for value in args[1:]]
        result = router(*args[:1], *others, **kwargs)
        if not isinstance(result, tuple) or len(result) != 3 or result[0].shape[-1] != len(kept):
            raise HeadroomError(
                f"family {self._family!r}: the router of layer {layer} gives other than logits, weights and experts of "
                "each token, so that its experts cannot be pruned; leave config key 'experts.levels' empty for this "
                "model"
            )
        logits, weights, experts = result
        kept = kept.to(experts.device)
        whole = logits.new_full((*logits.shape[:-1], self.blocks[layer].number), -torch.inf)
        return whole.index_copy(-1, kept, logits), weights, kept[experts]

    def run_experts(self, layer: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a layer's experts, with a probe on the weights of their outputs."""
        if self._captures is None:
            return forward(*args, **kwargs)
        # Families call the weights by different names; they have the shape of the only whole numbers, the experts.
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        experts = next(value for value in tensors if not value.is_floating_point())
        weights = next(value for value in tensors if value.is_floating_point() and value.shape == experts.shape)
        # A layer that is recomputed in the backward pass keeps its first probe.
        if layer not in self._captures:
            probe = torch.zeros_like(weights).requires_grad_(torch.is_grad_enabled())
            self._captures[layer] = Routed(experts, weights.detach(), probe)
        probed = weights + self._captures[layer].probe
        args = tuple(probed if value is weights else value for value in args)
        return forward(*args, **{name: probed if value is weights else value for name, value in kwargs.items()})

    def _cut(self, layer: int, pruned: set[int]) -> tuple[nn.Module, Tensor]:
        """The router of a layer among the experts that are left, and their numbers."""
        if layer not in self.blocks:
            raise HeadroomError(
                f"layer {layer} has no experts; layers with experts: {', '.join(map(str, self.blocks))}"
            )
        block = self.blocks[layer]
        check_prunable(self._family, [block])
        unknown = sorted(expert for expert in pruned if not 0 <= expert < block.number)
        if unknown:
            raise HeadroomError(f"layer {layer} has no expert {unknown[0]}; its experts are 0 to {block.number - 1}")
        kept = [expert for expert in range(block.number) if expert not in pruned]
        if len(kept) < block.top_k:
            raise HeadroomError(
                f"layer {layer} would keep {len(kept)} of {block.number} experts, and sends each token to "
                f"{block.top_k}; prune fewer"
            )
        numbers = torch.tensor(kept)
        return _without_rows(block.router, block.number, numbers, self._family), numbers


def attach_experts(model: Any, family: str) -> ExpertInterventions:
    """Let interventions see routers and experts of a model; of a dense model there are none."""
    interventions = ExpertInterventions(family, expert_blocks(model))
    for layer, block in interventions.blocks.items():
        block.router.forward = partial(interventions.run_router, layer, block.router.forward)
        block.experts.forward = partial(interventions.run_experts, layer, block.experts.forward)
    return interventions


def _without_rows(router: nn.Module, number: int, kept: Tensor, family: str) -> nn.Module:
    """A copy of a router with the rows of some experts alone, in each tensor that has a row per expert.

    Raises:
        HeadroomError: its weights are not in memory.
    """
    smaller = copy.copy(router)
    # The copy runs as its class says: without the hooks and the wrapper of the original.
    smaller.__dict__.pop("forward", None)
    for kind in ("_parameters", "_buffers"):
        tensors = {name: _rows(tensor, number, kept, family) for name, tensor in getattr(router, kind).items()}
        smaller.__dict__[kind] = tensors
    smaller.__dict__["_modules"] = {
        name: _without_rows(module, number, kept, family) for name, module in router.named_children()
    }
    for name in COUNTS:
        if getattr(smaller, name, None) == number:
            smaller.__dict__[name] = len(kept)
    return smaller


def _rows(tensor: Any, number: int, kept: Tensor, family: str) -> Any:
    if not isinstance(tensor, Tensor):
        return tensor
    if tensor.is_meta:
        raise HeadroomError(
            f"family {family!r}: its router's weights are not in memory; experts can be pruned where the model fits"
        )
    rows = expert_rows(tensor, number, kept)
    return nn.Parameter(rows, requires_grad=False) if isinstance(tensor, nn.Parameter) else rows
