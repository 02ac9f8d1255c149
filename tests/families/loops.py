"""What lm-headroom computes, written as loops around transformers' own models; nothing of the project is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tests.families.cases import Case, attention_norms, ffn_outputs, last_maps, layers_of, output_projections


def rows_first(linear: Any) -> Any:
    """A weight as [outputs, inputs]; GPT-2's lie the other way round."""
    return linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight


def part(case: Case, layer: int, head: int) -> slice:
    """A head's place among the inputs of the output projection."""
    width = case.width_of(layer)
    return slice(head * width, (head + 1) * width)


def close(model: Any, case: Case, pruned: Sequence[tuple[int, int]]) -> Any:
    """The model with heads' columns of the output projection zeroed."""
    for layer, head in pruned:
        rows_first(output_projections(model)[layer])[:, part(case, layer, head)] = 0
    return model


def silence(model: Any, layers: Sequence[int]) -> Any:
    """The model with the last maps of some FFNs zeroed, with their biases."""
    for layer in layers:
        for parameter in last_maps(model)[layer].parameters():
            parameter.zero_()
    return model


def log_likelihoods(model: Any, documents: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Of each row's continuation, a pass per row."""
    rows = []
    for document in documents:
        for row in document.sequences:
            logits = model(input_ids=torch.tensor([row.tokens[:-1]]), use_cache=False).logits[0].double()
            log_p = logits.log_softmax(-1)
            places = range(len(row.tokens) - row.n_target, len(row.tokens))
            rows.append(sum(float(log_p[place - 1, row.tokens[place]]) for place in places))
    return np.array(rows)


def activations(model: Any, tokens: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Of a pass over one row, per layer: the heads' outputs, [pos, head * width], and what the FFN adds, [pos, d]."""
    heads: dict[int, Any] = {}
    ffns: dict[int, Any] = {}
    handles = [
        m.register_forward_pre_hook(lambda _, inputs, n=n: heads.update({n: inputs[0].flatten(0, -2).clone()}))
        for n, m in enumerate(output_projections(model))
    ] + [
        m.register_forward_hook(lambda _, inputs, out, n=n: ffns.update({n: out.flatten(0, -2).clone()}))
        for n, m in enumerate(ffn_outputs(model))
    ]
    model(input_ids=torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [heads[n] for n in sorted(heads)], [ffns[n] for n in sorted(ffns)]


@contextmanager
def replaced(
    model: Any, case: Case, heads: Sequence[tuple[int, int]], ffns: Sequence[int], by: tuple[list[Any], list[Any]]
) -> Iterator[None]:
    """Let heads and FFNs give activations at the same position, those of shorter rows from their start again."""

    def hook_heads(layer: int) -> Any:
        def hook(module: Any, inputs: Any) -> Any:
            entering = inputs[0].clone()
            rows = by[0][layer][[p % len(by[0][layer]) for p in range(entering.shape[-2])]]
            for head in (head for at, head in heads if at == layer):
                entering[..., part(case, layer, head)] = rows[:, part(case, layer, head)]
            return (entering,)

        return hook

    def hook_ffn(layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            rows = by[1][layer][[p % len(by[1][layer]) for p in range(output.shape[-2])]]
            return rows.expand_as(output).clone()

        return hook

    projections, outputs = output_projections(model), ffn_outputs(model)
    handles = [projections[layer].register_forward_pre_hook(hook_heads(layer)) for layer, _ in dict(heads).items()]
    handles += [outputs[layer].register_forward_hook(hook_ffn(layer)) for layer in ffns]
    yield
    for handle in handles:
        handle.remove()


def importance(model: Any, case: Case, documents: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Sum over tokens of |A_t . dL/dA_t|, [document, layer, head], by eq. 8 and 9."""
    caught: dict[int, Any] = {}

    def catch(layer: int) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            entering = arguments[0] if arguments[0].requires_grad else arguments[0].detach().requires_grad_()
            entering.retain_grad()
            caught[layer] = entering
            return (entering,)

        return hook

    handles = [m.register_forward_pre_hook(catch(layer)) for layer, m in enumerate(output_projections(model))]
    scores = np.zeros((len(documents), len(handles), case.heads))
    for number, document in enumerate(documents):
        (row,) = document.sequences
        logits = model(input_ids=torch.tensor([row.tokens[:-1]]), use_cache=False).logits[0].double()
        places = range(len(row.tokens) - row.n_target, len(row.tokens))
        loss = -sum(logits[place - 1].log_softmax(-1)[row.tokens[place]] for place in places) / row.n_target
        loss.backward()
        for layer in range(len(handles)):
            for head in range(case.heads):
                a, g = (x[0, :, part(case, layer, head)] for x in (caught[layer].detach(), caught[layer].grad))
                scores[number, layer, head] = sum(abs(float(a[t] @ g[t])) for t in range(len(a)))
    for handle in handles:
        handle.remove()
    return scores


def written(model: Any, case: Case, documents: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Sum over tokens of the norm of what each head adds to the residual, [document, layer, head].

    That is W_O^h A_t, channel by channel times what a norm behind attention makes of the sum of all heads.
    """
    caught: dict[int, Any] = {}
    factors: dict[int, Any] = {}
    projections, norms = output_projections(model), attention_norms(model)
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, layer=layer: caught.update({layer: inputs[0][0]}))
        for layer, module in enumerate(projections)
    ] + [
        norm.register_forward_hook(lambda _, inputs, out, layer=layer: factors.update({layer: out[0] / inputs[0][0]}))
        for layer, norm in enumerate(norms)
        if norm is not None
    ]
    totals = np.zeros((len(documents), len(projections), case.heads))
    for number, document in enumerate(documents):
        model(input_ids=torch.tensor([document.sequences[0].tokens[:-1]]), use_cache=False)
        for layer, module in enumerate(projections):
            for head in range(case.heads):
                here = part(case, layer, head)
                parts = caught[layer][:, here] @ rows_first(module)[:, here].T
                totals[number, layer, head] = float((parts * factors.get(layer, 1)).norm(dim=-1).sum())
    for handle in handles:
        handle.remove()
    return totals


def mean_loss(model: Any, row: Any) -> Any:
    """L(y|x) of one row."""
    logits = model(input_ids=torch.tensor([row.tokens[:-1]]), use_cache=False).logits[0].double()
    places = range(len(row.tokens) - row.n_target, len(row.tokens))
    return -sum(logits[place - 1].log_softmax(-1)[row.tokens[place]] for place in places) / row.n_target


def ffn_importance(model: Any, documents: Sequence[Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sums over tokens of |F_t . dL/dF_t| and F_t . dL/dF_t, F what an FFN adds to the residual, [document, layer]."""
    caught: dict[int, Any] = {}

    def catch(layer: int) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> Any:
            leaving = output if output.requires_grad else output.detach().requires_grad_()
            leaving.retain_grad()
            caught[layer] = leaving
            # Falcon adds to what it is given in place.
            return leaving.clone()

        return hook

    handles = [m.register_forward_hook(catch(layer)) for layer, m in enumerate(ffn_outputs(model))]
    sums = np.zeros((2, len(documents), len(handles)))
    for number, document in enumerate(documents):
        mean_loss(model, document.sequences[0]).backward()
        for layer in range(len(handles)):
            f, g = (x.reshape(-1, x.shape[-1]) for x in (caught[layer].detach(), caught[layer].grad))
            products = [float(f[t] @ g[t]) for t in range(len(f))]
            sums[:, number, layer] = sum(map(abs, products)), sum(products)
    for handle in handles:
        handle.remove()
    return sums[0], sums[1]


def ffn_gate_derivative(model: Any, layer: int, row: Any, eps: float) -> float:
    """How the loss changes with a factor on what an FFN adds to the residual, by finite differences."""
    losses = []
    for gate in (1 + eps, 1 - eps):
        handle = ffn_outputs(model)[layer].register_forward_hook(lambda m, a, output, gate=gate: output * gate)
        with torch.no_grad():
            losses.append(float(mean_loss(model, row)))
        handle.remove()
    return (losses[0] - losses[1]) / (2 * eps)


def attention_maps(model: Any, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """[layer, head, query, key], as the model itself gives them."""
    maps = model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
    return torch.cat([layer.double() for layer in maps]).numpy()


def prefix_matching(model: Any, tokens: Sequence[int], start: int | None) -> np.ndarray[Any, Any]:
    """Algorithm 1: attention from repeated tokens to what followed their earlier copies, [layer, head]."""
    length, offset = len(tokens), 0 if start is None else 1
    maps = attention_maps(model, ([] if start is None else [start]) + list(tokens) * 4)
    total = np.zeros(maps.shape[:2])
    for t in range(length, 4 * length):
        for copy in range(t // length):
            total += maps[:, :, t + offset, copy * length + t % length + 1 + offset]
    return total / (3 * length)


def copying(
    model: Any, case: Case, tokens: Sequence[int], start: int | None, head_output: str, output_bias: bool
) -> np.ndarray[Any, Any]:
    """Algorithm 2 by queries, over the softmax of the whole vocabulary, [layer, head]."""
    ids = torch.tensor([([] if start is None else [start]) + list(tokens)])
    n = ids.shape[1]
    kept: dict[Any, Any] = {}

    def enter(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        first = kept.setdefault("first", arguments[0])
        return (first[:, kept["columns"]], *arguments[1:])

    def keep(layer: int) -> Any:
        return lambda module, arguments: kept.update({layer: arguments[0][0]})

    projections = output_projections(model)
    handles = [layer.register_forward_pre_hook(enter) for layer in layers_of(model)]
    handles += [m.register_forward_pre_hook(keep(layer)) for layer, m in enumerate(projections)]
    kept["columns"] = slice(None)
    maps = attention_maps(model, ids[0].tolist())
    outputs = [kept[layer] for layer in range(len(projections))]
    if head_output == "value":
        # A token that is alone attends to itself.
        alone = []
        for j in range(n):
            kept["columns"] = slice(j, j + 1)
            model(input_ids=ids[:, j : j + 1], use_cache=False)
            alone.append([kept[layer] for layer in range(len(projections))])
        outputs = [torch.cat([values[layer] for values in alone]) for layer in range(len(projections))]
    for handle in handles:
        handle.remove()
    scores = np.zeros((len(projections), case.heads))
    for layer, projection in enumerate(projections):
        for head in range(case.heads):
            weight = rows_first(projection)[:, part(case, layer, head)]
            written = outputs[layer][:, part(case, layer, head)] @ weight.T
            if output_bias and projection.bias is not None:
                written = written + projection.bias
            probabilities = vocabulary_logits(model, written).softmax(-1)
            queries = range(0 if start is None else 1, n)
            for j in queries:
                seen = np.flatnonzero(maps[layer, head, j])
                of_tokens = probabilities[j, ids[0, seen]]
                raised = (of_tokens - of_tokens.mean()).relu()
                attended = int(maps[layer, head, j, seen].argmax())
                scores[layer, head] += float(raised[attended] / raised.sum()) / len(queries) if raised.sum() else 0.0
    return scores


def vocabulary_logits(model: Any, written: Any) -> Any:
    """Logits of the vocabulary for what a head writes, without norms and biases."""
    projection = getattr(getattr(getattr(model, "model", None), "decoder", None), "project_out", None)
    logits = (written if projection is None else projection(written)) @ model.get_output_embeddings().weight.T
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def attention_sums(model: Any, documents: Sequence[Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sums over queries of attention entropy, and of attention to the first token, from the model's own maps."""
    model.set_attn_implementation("eager")
    entropies, sinks = [], []
    for document in documents:
        (row,) = document.sequences
        maps = model(input_ids=torch.tensor([row.tokens[:-1]]), use_cache=False, output_attentions=True).attentions
        attention = torch.cat([layer.double() for layer in maps]).numpy()
        logs = np.log(attention, where=attention > 0, out=np.zeros_like(attention))
        entropies.append(-(attention * logs).sum(axis=(2, 3)))
        sinks.append(attention[..., 0].sum(axis=2))
    return np.array(entropies), np.array(sinks)
