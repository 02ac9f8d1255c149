"""Attach interventions to a model, and prove on the model itself that they are exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lm_headroom.engine import attention_adapters
from lm_headroom.engine.expert_interventions import attach_experts
from lm_headroom.engine.interventions import IMPLEMENTATION, Capture, Interventions
from lm_headroom.engine.kept_proofs import KeptProofs, outcome_of
from lm_headroom.engine.layout import Layout, TreeMask
from lm_headroom.engine.rounding import (
    TIMES_WRITTEN_OUT,
    Trace,
    agree,
    find_fault,
    measure_spread,
    tolerance,
    trace_layers,
    unit_in_last_place,
)
from lm_headroom.engine.unembedding import FACTOR, find_factor, logits
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import PROBE_TOKENS
from lm_headroom.settings import other_dtype


def attach(model: Any, kept: KeptProofs | None = None) -> Interventions:
    """Route a model's attention through :class:`Interventions` and prove that they are exact.

    Args:
        model: the model with its weights.
        kept: what was proved of its checkpoint; None proves it in any case, and keeps nothing.

    Raises:
        HeadroomError: the architecture or a setting of it is not supported; logits are not finite; attention is not
            called exactly once per layer; open gates change the logits; closed heads or omitted FFNs do not; sequences
            packed into a tree differ from separate ones; or a restarted pass gives other logits.
    """
    architectures.check_config(model.config.to_dict())
    row, shape = architectures.architecture_of(model), architectures.head_layout(model)
    if model.dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        # The default multiplies experts' weights by a kernel that has no float64.
        model.set_experts_implementation("eager")
    tokens = _probe_tokens(model)
    own, before, raw = _own_pass(model, tokens)
    if not torch.isfinite(before).all():
        raise HeadroomError(
            f"the model's logits are not finite in {str(before.dtype).removeprefix('torch.')}: its numbers overflow; "
            + other_dtype(str(before.dtype))
        )
    setattr(model, FACTOR, find_factor(model, raw, before))
    norms = architectures.ffn_output_norms(model)
    weights = {number: architectures.head_rows(model, number) for number in architectures.projections(model)}
    interventions = Interventions(shape, row.returns_tuple, norms is not None, row.ffn_results, weights)
    for module in architectures.attention_modules(model).values():
        module.lm_headroom_interventions = interventions
    for number, layer in enumerate(architectures.layers(model)):
        layer.forward = partial(interventions.run_layer, number, layer.forward)
    for mixer in architectures.mixers(model).values():
        mixer.forward = partial(interventions.run_mixer, mixer.forward)
    for number, projections in architectures.projections(model).items():
        for projection in projections:
            last = projection is projections[-1]
            projection.forward = partial(interventions.run_projection, number, projection, last, projection.forward)
    for number, modules in enumerate(architectures.ffn_modules(model)):
        for module in modules:
            first, last = module is modules[0], module is modules[-1]
            module.forward = partial(interventions.run_ffn, number, first, last, module.forward)
    interventions.experts = attach_experts(model, model.config.model_type)
    for number, norm in enumerate(norms or ()):
        norm.forward = partial(interventions.run_ffn_norm, number, norm.forward)
    if row.adapter:
        attention_adapters.install(row.adapter, interventions, architectures.attention_modules(model).values())
        # Where transformers looks up who makes masks; it sets this only for families that look up attention there, too.
        model.config._attn_implementation = "-".join(filter(None, (IMPLEMENTATION, row.mask)))
    else:
        model.set_attn_implementation(IMPLEMENTATION)
    outcome = _outcome(model, interventions, tokens, before) if kept else ""
    if kept is None or not kept.holds(outcome):
        _prove(model, interventions, tokens, own, before)
        if kept is not None:
            kept.add(outcome)
    return interventions


@torch.no_grad()
def _own_pass(model: Any, tokens: Tensor) -> tuple[Trace, Tensor, Tensor]:
    """Run the model as it is: the trace of its layers, its logits, and its output embedding of last hidden states."""
    last: list[Tensor] = []
    # Some models call only the decoder in their body; of two that are called, the outer one ends later.
    bodies = (
        architectures.body(model),
        model.get_submodule(architectures.architecture_of(model).layers.rpartition(".")[0]),
    )
    hooks = [part.register_forward_hook(lambda _, arguments, out: last.append(out[0])) for part in bodies]
    with trace_layers(model) as own:
        values = model(input_ids=tokens, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return own, values, model.get_output_embeddings()(last[-1])


def _probe_tokens(model: Any) -> Tensor:
    """Tokens spread over the vocabulary, [1, PROBE_TOKENS]."""
    device, last = architectures.input_device(model), architectures.text_config(model).vocab_size - 1
    return torch.linspace(1, last, PROBE_TOKENS, device=device).long()[None]


@torch.no_grad()
def _outcome(model: Any, interventions: Interventions, tokens: Tensor, before: Tensor) -> str:
    """Digest of what a pass with open gates gives, and of what the unmodified model gave (``before``, its logits)."""
    interventions.calls.clear()
    opened = model(input_ids=tokens, use_cache=False).logits
    calls = sorted(interventions.calls.items())
    interventions.calls.clear()
    return outcome_of(before, opened, calls, getattr(model, FACTOR))


@torch.no_grad()
def _prove(model: Any, interventions: Interventions, tokens: Tensor, own: Trace, before: Tensor) -> None:
    """Prove that interventions are exact for a model.

    All passes but that of packed rows get the unmodified model's inputs of layers, so that proofs share them.

    Args:
        model, interventions: the model and its interventions, attached.
        tokens: the input of the proofs, [1, pos].
        own, before: trace of the unmodified model's layers, and its logits.
    """
    interventions.calls.clear()
    with (
        trace_layers(model, own.inputs) as opened,
        measure_spread(interventions, opened),
        interventions.capture_ffns() as added,
        _streams(model, opened) as streams,
    ):
        values = model(input_ids=tokens, use_cache=False).logits
    if interventions.calls != Counter(interventions.shape.attending):
        raise HeadroomError(
            f"family {model.config.model_type!r}: the attention function must be called once per layer, "
            f"was called {dict(interventions.calls)} times for layers {interventions.shape.attending}; this model "
            f"cannot be pruned here"
        )
    _prove_attention(model, opened, values, replace(own, spread=opened.spread), before)
    _prove_packing(model, interventions, tokens, opened)
    _prove_gates(model, interventions, tokens, opened)
    _prove_restart(model, interventions, tokens, opened, values)
    _prove_ffns(model, interventions, tokens, opened, streams, added)
    interventions.calls.clear()


def _prove_attention(model: Any, opened: Trace, values: Tensor, own: Trace, before: Tensor) -> None:
    """Compare the model with all gates open with the unmodified model."""
    why = find_fault(opened, own, TIMES_WRITTEN_OUT)
    if not why and not agree(values, before):
        why = "given the same input, the last layer's output gives others"
    if why:
        raise HeadroomError(
            f"family {model.config.model_type!r}: with all heads open the logits differ from the model's own ({why}); "
            "this model cannot be served exactly"
        )


def _prove_packing(model: Any, interventions: Interventions, tokens: Tensor, first: Trace) -> None:
    """Compare sequences packed into two trees, where two of them share six tokens, with separate sequences."""
    shared, own, n = 6, 4, tokens.shape[1]
    row = torch.cat([tokens[:, :shared], tokens[:, :own]], dim=1)
    # What both begin with must be the same numbers: its rounding would grow over layers where branches attend to it.
    with trace_layers(model, first.at(slice(shared)).inputs) as second, measure_spread(interventions, second):
        architectures.body(model)(input_ids=row, use_cache=False)
    expected = first.joined(second, lambda a, b: torch.cat([a, b[:, shared:], a[:, :5]], dim=1))
    sees = torch.cat([torch.arange(n) < shared, torch.zeros(own, dtype=torch.bool)]).repeat(own, 1)
    sees[:, n:] = torch.ones(own, own, dtype=torch.bool).tril()
    positions = torch.cat([torch.arange(n), torch.arange(shared, shared + own), torch.arange(5)]).to(tokens.device)
    trees = (TreeMask(n + own, n, sees.to(tokens.device)), TreeMask(5, 5))
    with interventions.layout(Layout(trees, positions=positions)), trace_layers(model, expected.inputs) as packed:
        architectures.body(model)(
            input_ids=torch.cat([tokens, row[:, shared:], tokens[:, :5]], dim=1),
            position_ids=positions[None],
            use_cache=False,
        )
    if why := find_fault(packed, expected):
        raise HeadroomError(
            f"family {model.config.model_type!r}: the hidden states of packed rows differ from those of rows apart "
            f"({why}); this model cannot be served exactly"
        )


def _prove_gates(model: Any, interventions: Interventions, tokens: Tensor, opened: Trace) -> None:
    """Close every other head, then the rest: no output of theirs may reach the projections, and layers must change.

    Some heads, or all heads of some layers, may write nothing, for example if another tool zeroed them; not all may.
    """
    numbers = torch.arange(interventions.shape.layers)[:, None] + torch.arange(interventions.shape.heads)
    tells = False
    for rest in range(2):
        gates = (numbers % 2 != rest).to(tokens.device, torch.float32)
        with interventions.gates(gates), trace_layers(model, opened.inputs) as closed:
            model(input_ids=tokens, use_cache=False)
        tells |= not _are_equal(closed.outputs, opened.outputs)
        for layer, outputs in closed.heads.items():
            heard = outputs.unflatten(-1, (interventions.shape.heads, -1)).any(dim=-1)[0].any(dim=0)
            leaks = (heard & (gates[layer] == 0).to(heard.device)).nonzero().flatten().tolist()
            if tells and leaks:
                raise HeadroomError(
                    f"family {model.config.model_type!r}: head {leaks[0]} of layer {layer} still reaches the output "
                    "projection when it is closed; this model's heads cannot be pruned here"
                )
    if not tells:
        raise HeadroomError(
            f"family {model.config.model_type!r}: closing the first layer's heads changes nothing, nor does closing "
            "those of any other layer; this model's heads cannot be pruned here"
        )
    _prove_projections(model, tokens, opened, closed, gates)


def _prove_projections(model: Any, tokens: Tensor, opened: Trace, closed: Trace, gates: Tensor) -> None:
    """Compare heads closed by gates with zeros in their places of the output projections' inputs, layer by layer."""
    hooks = [
        projection.register_forward_pre_hook(partial(_silence, open_heads=gates[layer]))
        for layer, projection in architectures.output_projections(model).items()
    ]
    with trace_layers(model, opened.inputs) as zeroed:
        model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    if why := find_fault(closed, replace(zeroed, spread=opened.spread), TIMES_WRITTEN_OUT):
        raise HeadroomError(
            f"family {model.config.model_type!r}: closing heads is not the same as leaving out their part of the "
            f"output projection's input ({why}); this model's heads cannot be pruned here"
        )


def _silence(_: Any, arguments: tuple[Tensor, ...], open_heads: Tensor) -> tuple[Tensor, ...]:
    heads = arguments[0].unflatten(-1, (len(open_heads), -1)) * open_heads.to(arguments[0])[:, None]
    return (heads.flatten(-2), *arguments[1:])


def _prove_restart(model: Any, interventions: Interventions, tokens: Tensor, kept: Trace, opened: Tensor) -> None:
    """Check a pass restarted at the last layer, and logits computed from last hidden states."""
    last = interventions.shape.restart_at(interventions.shape.layers - 1)
    with interventions.restart(last, kept.inputs[last]):
        hidden = architectures.body(model)(input_ids=tokens, use_cache=False).last_hidden_state
    if agree(logits(model, hidden).to(opened.dtype), opened):
        return
    hidden = architectures.body(model)(input_ids=tokens, use_cache=False).last_hidden_state
    if agree(logits(model, hidden).to(opened.dtype), opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: a pass restarted at layer {last} does not give the model's logits; "
            "this model's FFNs cannot be scored here"
        )
    raise HeadroomError(
        f"family {model.config.model_type!r}: logits are more than the output embedding of the last hidden state; "
        "this model cannot be served exactly"
    )


def _are_equal(first: dict[int, Tensor], second: dict[int, Tensor]) -> bool:
    return all(torch.equal(first[layer], second[layer]) for layer in second)


@contextmanager
def _streams(model: Any, trace: Trace) -> Iterator[dict[int, Tensor]]:
    """The residual stream after each layer's FFN: the layer's output, or what a norm there or the next module takes."""
    row = architectures.architecture_of(model)
    path = row.last_norm or row.after_ffn
    if not path:
        yield trace.outputs
        return
    kept: dict[int, Tensor] = {}

    def keep(layer: int, arguments: tuple[Tensor, ...]) -> None:
        kept[layer] = arguments[0].clone()

    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(lambda _, arguments, n=number: keep(n, arguments))
        for number, layer in enumerate(architectures.layers(model))
    ]
    yield kept
    for hook in hooks:
        hook.remove()


def _prove_ffns(
    model: Any,
    interventions: Interventions,
    tokens: Tensor,
    opened: Trace,
    streams: dict[int, Tensor],
    added: dict[int, Capture],
) -> None:
    """Check of each layer that leaving out its FFN takes from the residual stream a multiple of what the FFN adds.

    Args:
        model, interventions, tokens: see :func:`_prove`.
        opened, streams, added: of the pass with all FFNs: trace, residual streams, and what FFNs add.
    """
    with (
        interventions.without_ffns(range(interventions.shape.layers)),
        trace_layers(model, opened.inputs) as trace,
        _streams(model, trace) as rests,
    ):
        model(input_ids=tokens, use_cache=False)
    if _are_equal(rests, streams):
        raise HeadroomError(
            f"family {model.config.model_type!r}: leaving out all FFNs changes nothing; "
            "this model's FFNs cannot be pruned here"
        )
    for layer, before in streams.items():
        after = rests[layer]
        addition = added[layer].value.double().reshape(before.shape).to(before.device)
        difference = before.double() - after.double()
        rounding = 4 * unit_in_last_place(before.dtype) * torch.maximum(before.abs(), after.abs()).double()
        # Channels thousands of times the others round by more than the FFN adds to them, and say little of the factor.
        weights = 1 / (rounding.square() + torch.finfo(torch.float64).tiny)
        factor = (weights * addition * difference).sum() / (weights * addition.square()).sum().clamp_min(1e-300)
        far = ((difference - factor * addition).abs() - rounding).clamp_min(0).norm(dim=-1)
        if not (far <= tolerance(before.dtype) * addition.norm(dim=-1) * factor.abs()).all():
            raise HeadroomError(
                f"family {model.config.model_type!r}: leaving out the FFN of layer {layer} does more than take what it "
                "adds from the residual stream; this model's FFNs cannot be pruned here"
            )
