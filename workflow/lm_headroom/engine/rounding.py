"""Distinguish errors from rounding by comparing two computations of the same model layer by layer.

Rounding grows over layers without bound: in 16 bits, or if a few channels are thousands of times larger than others,
logits of two exact orders of computation can differ by a tenth. The second computation therefore gets, in each layer,
the input that the first one had, and the outputs of heads and layer are compared. A sound model then shows only the
rounding of one layer, and an error in one layer is not hidden by the rounding of others. The size of rounding is
measured: attention is repeated with queries, keys and values changed by one unit in the last place, the difference that
two orders of computation may cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lm_headroom.engine.interventions import Interventions
from lm_headroom.models import architectures

TIMES = 2
"""Heads may differ by this multiple of the measured rounding. Sound models stay below 1.2; a wrongly attended token in
one layer of SmolLM2 exceeds 2.3 in bfloat16, and reaches thousands in float32."""
TIMES_WRITTEN_OUT = 4
"""The same if one computation writes attention out, which also rounds scores and probabilities: sound below 1.7."""
DRAWS = 4
"""Number of measurements of rounding."""
UNITS = 4
"""Units in the last place, as a share of the norm, by which other tensors may differ."""
LEAST = 1e-4
"""The smallest share of the norm that counts as an error; sums of thousands of terms approach it in float32."""


@dataclass
class Trace:
    """Activations of a model's layers, by the number of the layer.

    Attributes:
        inputs: input of the layer, [batch, pos, d_model].
        heads: A of all heads, as it enters the output projection, [batch, pos, head * d_head]; of layers that have
            heads.
        outputs: output of the layer, [batch, pos, d_model].
        spread: how far rounding may move A of each head, as a norm, [batch, pos, head]; likewise. See
            :func:`measure_spread`.
    """

    inputs: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    spread: dict[int, Tensor] = field(default_factory=dict)

    def joined(self, other: Trace, join: Callable[[Tensor, Tensor], Tensor]) -> Trace:
        """Join the tensors of two traces."""
        both = ((getattr(self, part.name), getattr(other, part.name)) for part in fields(self))
        return Trace(*({layer: join(mine[layer], theirs[layer]) for layer in mine} for mine, theirs in both))

    def at(self, positions: slice) -> Trace:
        """Select positions."""
        parts = (getattr(self, part.name) for part in fields(self))
        return Trace(*({layer: tensor[:, positions] for layer, tensor in part.items()} for part in parts))


@contextmanager
def trace_layers(model: Any, layer_inputs: Mapping[int, Tensor] | None = None) -> Iterator[Trace]:
    """Record the activations of all layers in one pass.

    Args:
        model: a model of a supported architecture, with or without interventions attached.
        layer_inputs: inputs that replace the model's own, layer by layer, or those of its first positions. The first
            layer keeps its own, which shows what embeddings and positions are.
    """
    trace = Trace()
    hooks = []

    def enter(layer: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if layer_inputs is not None and layer:
            replacement = layer_inputs[layer].to(arguments[0])
            arguments = (torch.cat([replacement, arguments[0][:, replacement.shape[1] :]], dim=1), *arguments[1:])
        trace.inputs[layer] = arguments[0].clone()
        return arguments

    def keep(values: dict[int, Tensor], layer: int, value: Tensor) -> None:
        values[layer] = value.clone()

    for number, layer in enumerate(architectures.layers(model)):
        hooks.append(layer.register_forward_pre_hook(lambda _, arguments, number=number: enter(number, arguments)))
        hooks.append(
            layer.register_forward_hook(lambda _, arguments, out, n=number: keep(trace.outputs, n, _first(out)))
        )
    for number, projection in architectures.output_projections(model).items():
        hooks.append(
            projection.register_forward_pre_hook(lambda _, arguments, n=number: keep(trace.heads, n, arguments[0]))
        )
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def _first(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def measure_spread(interventions: Interventions, trace: Trace) -> Iterator[None]:
    """Measure in one pass how far rounding may move each head's output; append it to ``trace.spread``."""
    generator = torch.Generator().manual_seed(0)
    attend = interventions.attend

    def measured(layer: int, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
        outputs = attend(layer, query, key, value, *rest, **named)
        squares = torch.zeros(outputs.shape[:-1], dtype=torch.float64, device=outputs.device)
        for _ in range(DRAWS):
            near = [_one_unit_off(x, x.dtype, generator) for x in (query, key, value)]
            if (bias := named.get("key_bias")) is not None:
                named = named | {"key_bias": _one_unit_off(bias, outputs.dtype, generator)}
            moved = attend(layer, *near, *rest, **named)
            squares += (moved.double() - outputs.double()).square().sum(dim=-1)
        interventions.calls[layer] -= DRAWS
        trace.spread[layer] = (squares / DRAWS).sqrt()
        return outputs

    interventions.attend = measured  # type: ignore[method-assign]
    try:
        yield
    finally:
        del interventions.attend


def _one_unit_off(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Add or subtract, at random, one unit in the last place of ``dtype`` to each number."""
    # Torch's own generator on the CPU, so that the numbers are the same on each machine.
    signs = torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
    return values * (1 + unit_in_last_place(dtype) * signs).to(values)


def unit_in_last_place(dtype: torch.dtype) -> float:
    """One unit in the last place of a dtype's computations, as a share.

    At least that of float32, in which transformers always computes norms and softmaxes, times 8, since sums of many
    terms round more than once.
    """
    return max(torch.finfo(dtype).eps, 8 * torch.finfo(torch.float32).eps)


def tolerance(dtype: torch.dtype) -> float:
    """The share of the norm by which two computations from the same input may differ."""
    return max(UNITS * unit_in_last_place(dtype), LEAST)


def agree(values: Tensor, expected: Tensor) -> bool:
    """Whether the difference in each row, [..., row, channel], is rounding."""
    far, size = (x.double().norm(dim=-1) for x in (values.to(expected.device) - expected, expected))
    return bool((far <= tolerance(expected.dtype) * size).all())


def find_fault(trace: Trace, expected: Trace, times: float = TIMES) -> str:
    """Find a difference between two computations that exceeds rounding.

    Args:
        trace: recorded with the layer inputs of ``expected``; its heads are compared if it has any.
        expected: recorded with the spread of its heads.
        times: multiple of the spread by which heads may differ.

    Returns:
        A clause for the sentence that refuses the model; empty where all is rounding.
    """
    for layer in expected.outputs:
        spread = expected.spread.get(layer)
        if spread is None:
            # It has no heads: what else mixes its tokens rounds as linear maps do.
            far, allowed = _output_distance(trace, expected, layer)
            if not (far <= allowed).all():
                return _clause(f"layer {layer}", far, allowed)
            continue
        written = expected.heads[layer].double().unflatten(-1, (spread.shape[-1], -1))
        if trace.heads:
            far = (trace.heads[layer].to(written).unflatten(-1, (spread.shape[-1], -1)) - written).norm(dim=-1)
            # The median over positions bounds the spread from below: one position may move little by chance.
            allowed = times * torch.maximum(spread, spread.median(dim=-2, keepdim=True).values).to(far.device)
            if not (far <= allowed).all():
                return _clause(f"head {_worst_head(far - allowed)} of layer {layer}", far, allowed)
        size = written.flatten(-2).norm(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
        far, allowed = _output_distance(trace, expected, layer, times * spread.norm(dim=-1).to(size.device) / size)
        if not (far <= allowed).all():
            return _clause(f"layer {layer}", far, allowed)
    return ""


def _output_distance(trace: Trace, expected: Trace, layer: int, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distance of a layer's outputs beyond the rounding of the residual, and its limit, [batch, pos].

    Args:
        trace, expected: see :func:`find_fault`.
        layer: number of the layer.
        share: share of the heads' outputs that rounding may reach, [batch, pos]; None for a layer without heads.
    """
    before, after = expected.inputs[layer].double(), expected.outputs[layer].double()
    before = before.to(after.device)
    # The rounding of channels thousands of times the others exceeds what a layer adds to the others.
    rounding = 2 * unit_in_last_place(expected.outputs[layer].dtype) * after.abs()
    far = ((trace.outputs[layer].to(after) - after).abs() - rounding).clamp_min(0).norm(dim=-1)
    least = tolerance(expected.outputs[layer].dtype)
    allowed = (least if share is None else least + share.to(far.device)) * (after - before).norm(dim=-1)
    return far, allowed


def _worst_head(excess: Tensor) -> int:
    """The head that exceeds its limit most, of [batch, pos, head]."""
    return int(excess.argmax()) % excess.shape[-1]


def _clause(what: str, far: Tensor, allowed: Tensor) -> str:
    worst = int((far - allowed).argmax())
    return (
        f"given the same input, the output of {what} differs by {float(far.flatten()[worst]):.3g}, of which "
        f"rounding explains {float(allowed.flatten()[worst]):.3g}"
    )
