"""Attach interventions to a model, and prove on the model itself that they are exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lm_headroom.engine import attention_adapters
from lm_headroom.engine.interventions import IMPLEMENTATION, Interventions, Layout, TreeMask
from lm_headroom.engine.rounding import TIMES_WRITTEN_OUT, Trace, agree, find_fault, measure_spread, trace_layers
from lm_headroom.engine.unembedding import logits
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.settings import other_dtype


def attach(model: Any) -> Interventions:
    """Route a model's attention through :class:`Interventions` and prove that they are exact.

    Raises:
        HeadroomError: the architecture or a setting of it is not supported; logits are not finite; attention is not
            called exactly once per layer; open gates change the logits; closed heads or omitted FFNs do not; sequences
            packed into a tree differ from separate ones; or a restarted pass gives other logits.
    """
    row = architectures.check_config(model.config.to_dict())
    shape = architectures.head_layout(model)
    tokens = _probe_tokens(model)
    with torch.no_grad(), trace_layers(model) as own:
        before = model(input_ids=tokens, use_cache=False).logits
    if not torch.isfinite(before).all():
        raise HeadroomError(
            f"the model's logits are not finite in {str(before.dtype).removeprefix('torch.')}: its numbers overflow; "
            + other_dtype(str(before.dtype))
        )
    norms = architectures.ffn_output_norms(model)
    interventions = Interventions(shape, row.returns_tuple, norms_ffns=norms is not None)
    for module in architectures.attention_modules(model):
        module.lm_headroom_interventions = interventions
    for number, layer in enumerate(architectures.layers(model)):
        layer.forward = partial(interventions.run_layer, number, layer.forward)
    for number, projections in enumerate(architectures.projections(model)):
        for projection in projections:
            last = projection is projections[-1]
            projection.forward = partial(interventions.run_projection, number, projection, last, projection.forward)
    for number, modules in enumerate(architectures.ffn_modules(model)):
        for module in modules:
            first, last = module is modules[0], module is modules[-1]
            module.forward = partial(interventions.run_ffn, number, first, last, module.forward)
    for number, norm in enumerate(norms or ()):
        norm.forward = partial(interventions.run_ffn_norm, number, norm.forward)
    if row.adapter:
        attention_adapters.install(row.adapter, interventions, architectures.attention_modules(model))
        # Where transformers looks up who makes masks; it sets this only for families that look up attention there, too.
        model.config._attn_implementation = "-".join(filter(None, (IMPLEMENTATION, row.mask)))
    else:
        model.set_attn_implementation(IMPLEMENTATION)
    _prove(model, interventions, tokens, own, before)
    return interventions


def _probe_tokens(model: Any) -> Tensor:
    """Twelve tokens spread over the vocabulary, [1, 12]."""
    device = architectures.input_device(model)
    return torch.linspace(1, architectures.text_config(model).vocab_size - 1, 12, device=device).long()[None]


@torch.no_grad()
def _prove(model: Any, interventions: Interventions, tokens: Tensor, own: Trace, before: Tensor) -> None:
    """Prove that interventions are exact for a model.

    Args:
        model, interventions: the model and its interventions, attached.
        tokens: the input of the proofs, [1, pos].
        own, before: trace of the unmodified model's layers, and its logits.
    """
    interventions.calls.clear()
    with trace_layers(model) as opened, measure_spread(interventions, opened):
        values = model(input_ids=tokens, use_cache=False).logits
    if interventions.calls != Counter(range(interventions.shape.layers)):
        raise HeadroomError(
            f"family {model.config.model_type!r}: the attention function must be called once per layer, "
            f"was called {dict(interventions.calls)} times for {interventions.shape.layers} layers; this model "
            f"cannot be pruned here"
        )
    _prove_attention(model, interventions, tokens, replace(own, spread=opened.spread), before)
    _prove_packing(model, interventions, tokens, opened)
    _prove_gates(model, interventions, tokens, values)
    _prove_restart(model, interventions, tokens, opened, values)
    _prove_ffns(model, interventions, tokens, values)
    interventions.calls.clear()


def _prove_attention(model: Any, interventions: Interventions, tokens: Tensor, own: Trace, before: Tensor) -> None:
    """Compare the model with all gates open with the unmodified model."""
    with trace_layers(model, own.inputs) as trace:
        values = model(input_ids=tokens, use_cache=False).logits
    why = find_fault(trace, own, TIMES_WRITTEN_OUT)
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
    with trace_layers(model) as second, measure_spread(interventions, second):
        model.base_model(input_ids=row, use_cache=False)
    expected = first.joined(second, lambda a, b: torch.cat([a, b[:, shared:], a[:, :5]], dim=1))
    sees = torch.cat([torch.arange(n) < shared, torch.zeros(own, dtype=torch.bool)]).repeat(own, 1)
    sees[:, n:] = torch.ones(own, own, dtype=torch.bool).tril()
    positions = torch.cat([torch.arange(n), torch.arange(shared, shared + own), torch.arange(5)]).to(tokens.device)
    trees = (TreeMask(n + own, n, sees.to(tokens.device)), TreeMask(5, 5))
    with interventions.layout(Layout(trees, positions=positions)), trace_layers(model, expected.inputs) as packed:
        model.base_model(
            input_ids=torch.cat([tokens, row[:, shared:], tokens[:, :5]], dim=1),
            position_ids=positions[None],
            use_cache=False,
        )
    if why := find_fault(packed, expected):
        raise HeadroomError(
            f"family {model.config.model_type!r}: the hidden states of packed rows differ from those of rows apart "
            f"({why}); this model cannot be served exactly"
        )


def _prove_gates(model: Any, interventions: Interventions, tokens: Tensor, opened: Tensor) -> None:
    """Close every other head, then the rest: no output of theirs may reach the projections, and logits must change.

    Some heads, or all heads of some layers, may write nothing, for example if another tool zeroed them; not all may.
    """
    numbers = torch.arange(interventions.shape.layers)[:, None] + torch.arange(interventions.shape.heads)
    tells = False
    for rest in range(2):
        gates = (numbers % 2 != rest).to(tokens.device, torch.float32)
        with interventions.gates(gates), trace_layers(model) as closed:
            tells |= not torch.equal(model(input_ids=tokens, use_cache=False).logits, opened)
        for layer, outputs in enumerate(closed.heads):
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


def _prove_restart(model: Any, interventions: Interventions, tokens: Tensor, kept: Trace, opened: Tensor) -> None:
    """Check a pass restarted at the last layer, and logits computed from last hidden states."""
    last = interventions.shape.layers - 1
    with interventions.restart(last, kept.inputs[last]):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    if agree(logits(model, hidden).to(opened.dtype), opened):
        return
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    if agree(logits(model, hidden).to(opened.dtype), opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: a pass restarted at the last layer does not give the model's logits; "
            "this model's FFNs cannot be scored here"
        )
    raise HeadroomError(
        f"family {model.config.model_type!r}: logits are more than the output embedding of the last hidden state; "
        "this model cannot be served exactly"
    )


def _prove_ffns(model: Any, interventions: Interventions, tokens: Tensor, opened: Tensor) -> None:
    with interventions.without_ffns(range(interventions.shape.layers)):
        without = model(input_ids=tokens, use_cache=False).logits
    if torch.equal(without, opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: leaving out all FFNs changes nothing; "
            "this model's FFNs cannot be pruned here"
        )
