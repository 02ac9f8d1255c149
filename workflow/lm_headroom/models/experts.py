"""Experts of a model: where each layer has its router and its experts, as the modules themselves show.

In transformers the experts of a layer are one module that holds their weights stacked, [expert, ...], and takes the
hidden states, the experts of each token and their weights; a router gives the last two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_headroom.errors import HeadroomError
from lm_headroom.models.architectures import ffn_modules

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTS = "num_experts", "out_features"
"""Attributes of routers, of their maps, and of stacks, with the number of experts."""
GROUPS = "num_group", "n_group"
"""Attributes of a router, or of what holds it, with the number of groups that it chooses among first."""


@dataclass(frozen=True)
class ExpertBlock:
    """The experts of a layer that tokens are sent to; shared ones, which take every token, are no part of it.

    Attributes:
        router: gives logits, weights [token, k] and experts [token, k] of each token.
        experts: takes hidden states, experts [token, k] and weights [token, k].
        number: of experts E.
        top_k: experts that each token is sent to, k.
        parameters_each: parameters that go with an expert: its own and its rows of the router and of biases.
        around: modules that hold the stack, and may hold a bias of the choice beside the router.
        groups: groups of experts among which the router chooses first; 1 where it chooses among single experts.
    """

    router: nn.Module
    experts: nn.Module
    number: int
    top_k: int
    parameters_each: int
    around: tuple[nn.Module, ...]
    groups: int


def expert_blocks(model: Any) -> Mapping[int, ExpertBlock]:
    """Number of each layer that has experts to its block; empty for a dense model, or one whose router is not seen.

    Example:
        expert_blocks(model)[0].number  # 64 for OLMoE
    """
    blocks = {}
    for layer, modules in enumerate(ffn_modules(model)):
        block = _block([part for module in modules for part in module.modules()])
        if block is not None:
            blocks[layer] = block
    return blocks


def expert_grid(model: Any) -> tuple[list[int], int, int]:
    """Layers that have experts, how many each has, and to how many of them a token is sent.

    Raises:
        HeadroomError: no layer has experts that a router chooses among, or layers differ in their number.
    """
    blocks = expert_blocks(model)
    name = model.config.model_type
    if not blocks:
        raise HeadroomError(
            f"family {name!r}: no layer has a router and stacked experts, so that there are no experts to score or "
            "prune; leave config key 'experts.levels' empty for this model"
        )
    shapes = {(block.number, block.top_k) for block in blocks.values()}
    if len(shapes) > 1:
        raise HeadroomError(f"family {name!r}: its layers differ in their experts, {sorted(shapes)}; not supported")
    ((number, top_k),) = shapes
    return list(blocks), number, top_k


def check_prunable(family: str, blocks: Iterable[ExpertBlock]) -> None:
    """Refuse a model of whose experts none can be pruned alone.

    Args:
        family: of the model, for the message.
        blocks: of its layers.

    Raises:
        HeadroomError: a router chooses among groups of experts first; says what can be done.
    """
    groups = max((block.groups for block in blocks), default=1)
    if groups > 1:
        raise HeadroomError(
            f"family {family!r}: its router chooses among {groups} groups of experts, whose sizes must stay equal, so "
            "that experts cannot be pruned one by one; score and rank them alone (config keys 'experts.levels': [0], "
            "and 'experts.controls' without oracles)"
        )


def experts_left(
    blocks: Mapping[int, ExpertBlock], pruned: Iterable[tuple[int, int]]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Each layer that has experts with those that are left of it, without some of them, as (layer, expert)."""
    removed = set(pruned)
    return tuple(
        (layer, tuple(expert for expert in range(block.number) if (layer, expert) not in removed))
        for layer, block in blocks.items()
    )


def expert_rows(tensor: Tensor, number: int, kept: Tensor) -> Tensor:
    """The rows of some experts of a tensor that has one for each; another tensor as it is.

    Args:
        tensor: of a router or a stack of experts.
        number: of all experts.
        kept: which to keep, ascending.
    """
    axis = next((axis for axis, size in enumerate(tensor.shape) if size == number), None)
    return tensor if axis is None else tensor.detach().index_select(axis, kept.to(tensor.device))


def expert_parameters(model: Any, pruned: Sequence[tuple[int, int]]) -> int:
    """Count the parameters removed with experts, as (layer, expert)."""
    blocks = expert_blocks(model) if pruned else {}
    return sum(blocks[layer].parameters_each for layer, _ in pruned)


def _block(parts: list[nn.Module]) -> ExpertBlock | None:
    """The one router and the one stack of experts among the modules of an FFN."""
    stacks = [part for part in parts if _is_stack(part)]
    if len(stacks) != 1:
        return None
    experts, number = stacks[0], stacks[0].num_experts
    routers = [
        part
        for part in parts
        if part is not experts
        and getattr(part, "num_experts", None) == number
        and isinstance(_top_k(part), int)
        # Of the block and its router, the router holds no experts.
        and experts not in list(part.modules())
    ]
    if len(routers) != 1:
        return None
    (router,) = routers
    routing = [weight for weight in router.parameters() if number in weight.shape]
    # Some families keep a bias of the choice beside the router.
    around = [part for part in parts if part not in (router, experts) and experts in list(part.children())]
    routing += [weight for part in around for weight in part.parameters(recurse=False) if weight.shape == (number,)]
    total = sum(weight.numel() for weight in (*experts.parameters(), *routing))
    groups = max(getattr(part, name, 1) or 1 for part in (router, *around) for name in GROUPS)
    return ExpertBlock(router, experts, number, _top_k(router), total // number, tuple(around), groups)


def _is_stack(module: nn.Module) -> bool:
    number = getattr(module, "num_experts", None)
    weights = list(module.parameters(recurse=False))
    return isinstance(number, int) and any(weight.dim() == 3 and weight.shape[0] == number for weight in weights)


def _top_k(router: Any) -> Any:
    return getattr(router, "top_k", None)
