"""Where a model has its attention and FFNs, read from one pass without weights instead of from a table.

The pass runs a copy of the model on the meta device, whose attention goes through a function of ours. What calls it is
attention; what takes its result is the output projection; gradients say which maps feed queries, keys and values, and
whether a norm is the FFN's alone. All of it is proved on the model itself when interventions are attached.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface

from lm_headroom.errors import HeadroomError
from lm_headroom.models.architecture import PROBE_TOKENS, Architecture, HeadLayout

PROBE = "lm-headroom-probe"
WHOLE_CLASS = "lm_headroom_whole"
"""The attribute of a model that holds the class to read, where its own class prunes whatever it builds."""
SOFTCAP = "final_logit_softcapping"
"""The configuration's key of the soft cap of logits, by the name that families use."""
_SHOWN: dict[tuple[type, type, str], Architecture] = {}
"""What earlier passes of this process showed, by classes and configuration, on which alone it depends."""


@dataclass(frozen=True)
class Attention:
    """One call of the attention interface: who called it, with q, k and v [batch, head, pos, d], and its result."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module: its first tensor, its first result of how many (0: no tuple), and attention calls so far."""

    module: nn.Module
    path: str
    input: Tensor | None
    output: Tensor
    n_results: int
    calls_before: int


class Pass:
    """What one pass showed: calls of attention and of all modules, in order."""

    def __init__(self, model: Any) -> None:
        self.attention: list[Attention] = []
        self.modules: list[ModuleCall] = []
        self.path_of = {module: path for path, module in model.named_modules()}

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        """Stand in for attention: values that depend on queries, keys and values, of the shape that the model wants."""
        groups = query.shape[1] // key.shape[1]
        keys, values = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        scores = (query @ keys.transpose(-1, -2)).softmax(dim=-1)
        outputs = (scores @ values).transpose(1, 2).contiguous()
        self.attention.append(Attention(module, query, key, value, outputs))
        return outputs, None

    def clear(self) -> None:
        """Forget a pass that failed."""
        self.attention.clear()
        self.modules.clear()

    def record(self, module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> None:
        """Note the call of a module."""
        output = _first_tensor([result])
        if output is not None:
            entry = _first_tensor([*arguments, *named.values()])
            path, n_results = self.path_of[module], len(result) if isinstance(result, (tuple, list)) else 0
            self.modules.append(ModuleCall(module, path, entry, output, n_results, len(self.attention)))

    def path_of_output(self, model: Any) -> str:
        """The path of the output embedding."""
        embedding = model.get_output_embeddings()
        return next(path for path, module in model.named_modules() if module is embedding)

    def within(self, path: str) -> list[ModuleCall]:
        """Calls of modules below a path."""
        return [call for call in self.modules if call.path.startswith(f"{path}.")]


@torch.enable_grad()
def infer(model: Any) -> Architecture:
    """Read the architecture of a model from a pass without weights, one per process for each configuration.

    Args:
        model: a causal language model of transformers; only its class and configuration matter.

    Raises:
        HeadroomError: attention does not go through transformers' interface once in each layer, or what a layer
            consists of cannot be told; says what was seen.
    """
    key = _key(model)
    if key not in _SHOWN:
        shown = _run(model)
        try:
            _SHOWN[key] = _architecture(model, shown)
        except HeadroomError as error:
            raise HeadroomError(f"model family {model.config.model_type!r} is not supported: {error}") from None
    return _SHOWN[key]


def _key(model: Any) -> tuple[type, type, str]:
    """The class of a model, the class to read, and the configuration but for the place of its files."""
    settings = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    return type(model), getattr(model, WHOLE_CLASS, type(model)), repr(settings)


class _FirstItems(TorchFunctionMode):
    """Let a number without a value, by which a module picks an item, be 0; with all tokens being each expert's."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__ and _has_no_value(args[1]):
            args = (args[0], 0)
        return func(*args, **(kwargs or {}))


def _has_no_value(index: Any) -> bool:
    return isinstance(index, Tensor) and index.is_meta and index.dim() == 0


def _run(model: Any) -> Pass:
    """Run the copy of a model that has no weights."""
    family = model.config.model_type
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy = (
                getattr(model, WHOLE_CLASS, type(model))
                ._from_config(deepcopy(model.config), dtype=torch.float32)
                .eval()
            )
            shown = Pass(copy)
            with _routed(copy, shown), _FirstItems(), fx_config.patch(meta_nonzero_assume_all_nonzero=True):
                run_without_weights(copy, shown.clear)
    # A family's code may raise anything.
    except Exception as error:
        raise HeadroomError(
            f"model family {family!r} is not supported: a pass without weights, which shows where attention and FFNs "
            f"are, fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    return shown


def run_without_weights(model: Any, clear: Callable[[], object] = lambda: None) -> None:
    """Run a model whose weights are on the meta device, and whose masks are None, on a few tokens.

    Args:
        model: the model.
        clear: called before a second try.
    """
    ids = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device="meta")
    # With a mask, transformers does not look for packed sequences, which would read positions.
    # Recurrent layers look whether it hides anything, which takes numbers; some models multiply by it, too.
    numbers = torch.ones_like(ids, device="cpu")
    try:
        model(input_ids=ids, attention_mask=numbers, use_cache=False)
    except RuntimeError:
        clear()
        model(input_ids=ids, attention_mask=numbers.to(ids), use_cache=False)


@contextmanager
def _routed(copy: Any, shown: Pass) -> Iterator[None]:
    """Route attention and hooks of a copy to a pass; transformers' table has the probe for that long."""
    AttentionInterface.register(PROBE, shown.attend)
    AttentionMaskInterface.register(PROBE, lambda *_, **__: None)
    copy.set_attn_implementation(PROBE)
    if hasattr(copy, "set_experts_implementation"):
        # The others look at the experts that tokens chose, which a pass without weights does not know.
        copy.set_experts_implementation("batched_mm")
    copy.requires_grad_(True)
    for module in copy.modules():
        module.register_forward_hook(shown.record, with_kwargs=True)
    yield


def _architecture(model: Any, shown: Pass) -> Architecture:
    root, attention, numbers = _layers_of(model, shown)
    first = shown.attention[0]
    shared = _shared(shown, numbers)
    layer = f"{root}.{numbers[0]}"
    within = f"{layer}.{attention}"
    ffn, after_ffn = _ffn_of(shown, layer, within)
    output = _output_projection(shown, first, within)
    inputs = [
        _input_projections(shown, place, f"{root}.{number}.{attention}", number in dict(shared))
        for place, number in enumerate(numbers)
    ]
    norms = _norms_of(shown, first, layer, within, ffn)
    (call,) = [call for call in shown.modules if call.path == layer]
    n_layers = len(model.get_submodule(root))
    others = tuple(number for number in range(n_layers) if number not in numbers)
    names = tuple(part.path.removeprefix(f"{layer}.") for part in ffn)
    mixers = dict.fromkeys(_mixer_of(shown, f"{root}.{number}", names, norms, call.n_results) for number in others)
    layout = HeadLayout(
        n_layers,
        first.query.shape[1],
        _one_or_all([call.key.shape[1] for call in shown.attention]),
        _one_or_all([call.value.shape[-1] for call in shown.attention]),
        others,
        shared,
    )
    return Architecture(
        layers=root,
        attention=attention,
        output_projection=output,
        input_projections=inputs[0],
        layer_projections=tuple(inputs) if len(set(inputs)) > 1 else (),
        grouped=_is_grouped(shown, first, within, inputs[0]),
        joint_norms=_has_joint_norms(shown, first, within),
        head_norms=_head_norms(first),
        shared_norms=_shared_norms(shown, numbers, dict(shared), f"{root}.{{}}.{attention}"),
        ffn=names,
        after_ffn=after_ffn,
        mixers=tuple(mixers),
        **norms,
        returns_tuple=call.n_results > 0,
        ffn_results=ffn[-1].n_results,
        shape=layout,
        final_projection=_final_projection(model, shown),
        softcap=SOFTCAP if getattr(model.config.get_text_config(), SOFTCAP, None) is not None else "",
    )


def _layers_of(model: Any, shown: Pass) -> tuple[str, str, list[int]]:
    """The path of the layers, that of attention within one, and the numbers of layers that have attention."""
    if not shown.attention:
        raise HeadroomError("its attention does not go through transformers' attention interface")
    paths = [shown.path_of[call.module] for call in shown.attention]
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise HeadroomError(f"{twice[0]} calls the attention interface {Counter(paths)[twice[0]]} times in a pass")
    steps = paths[0].split(".")
    place = next((place for place, step in enumerate(steps) if step.isdigit()), None)
    if place is None:
        raise HeadroomError(f"{paths[0]}, which calls the attention interface, is in no list of layers")
    root, attention = ".".join(steps[:place]), ".".join(steps[place + 1 :])
    n_layers = len(model.get_submodule(root))
    numbers = {f"{root}.{number}.{attention}": number for number in range(n_layers)}
    others = [path for path in paths if path not in numbers]
    if others:
        raise HeadroomError(f"attention is also at {', '.join(others)}, not at {paths[0]} alone")
    if paths != sorted(paths, key=lambda path: numbers[path]):
        raise HeadroomError(f"its layers attend in another order than they are listed: {', '.join(paths)}")
    heads = {call.query.shape[1] for call in shown.attention}
    if len(heads) > 1:
        raise HeadroomError(f"its layers differ in query heads: {', '.join(map(str, sorted(heads)))}")
    return root, attention, [numbers[path] for path in paths]


def _one_or_all(numbers: list[int]) -> int | tuple[int, ...]:
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _shared(shown: Pass, numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Layers whose keys and values are those of an earlier layer, each with the first that has them.

    Raises:
        HeadroomError: it is one of the two alone that a layer shares.
    """
    pairs = []
    for place, call in enumerate(shown.attention):
        before = shown.attention[:place]
        keys, values = (
            next((numbers[n] for n, one in enumerate(before) if _are_one(getattr(one, kind), states)), None)
            for kind, states in (("key", call.key), ("value", call.value))
        )
        if keys != values:
            raise HeadroomError(f"layer {numbers[place]} has keys of layer {keys}, and values of layer {values}")
        if keys is not None:
            pairs.append((numbers[place], keys))
    return tuple(pairs)


def _ffn_of(shown: Pass, layer: str, attention: str) -> tuple[list[ModuleCall], str]:
    """The modules of a layer beside attention that have matrices: one, or two maps in sequence.

    Returns:
        Them; and the path of the module that takes the residual stream after the FFN, if the layer then adds more.
    """
    tops = _tops(shown, layer, attention)
    if _ends_before(shown, tops, attention):
        return tops[:1], tops[1].path.removeprefix(f"{layer}.")
    names = ", ".join(call.path.removeprefix(f"{layer}.") for call in tops) or "none"
    if len(tops) == 2 and all(isinstance(call.module, nn.Linear) for call in tops):
        is_chain = _depends(tops[1].output, tops[0].output)
    else:
        is_chain = len(tops) == 1
    d_model = next(call.output.shape[-1] for call in shown.modules if call.path == layer)
    if not is_chain or tops[-1].output.shape[-1] != d_model:
        raise HeadroomError(f"which of a layer's modules beside attention are its FFN cannot be told: {names}")
    return tops, ""


def _ends_before(shown: Pass, tops: list[ModuleCall], attention: str) -> bool:
    """Whether the first of some modules is an FFN after attention, and the next takes what both have added to."""
    (own,) = [call for call in shown.modules if call.path == attention]
    if len(tops) < 2 or tops[0].input is None or tops[1].input is None or tops[0].output.shape != own.output.shape:
        return False
    follows = _depends(tops[0].input, own.output) and _depends(tops[1].input, tops[0].output)
    is_chain = _is_same(tops[1].input, tops[0].output)
    return follows and not is_chain and _reaches(tops[1].input, own.output, past=tops[0].output)


def _tops(shown: Pass, layer: str, but: str) -> list[ModuleCall]:
    """The outermost modules of a layer that have matrices, but one, in the order of their calls."""
    tops: list[ModuleCall] = []
    for call in reversed(shown.within(layer)):
        is_other = f"{call.path}.".startswith(f"{but}.") or f"{but}.".startswith(f"{call.path}.")
        is_part = any(call.path.startswith(f"{top.path}.") for top in tops)
        if not is_other and not is_part and any(weight.dim() > 1 for weight in call.module.parameters()):
            tops.append(call)
    return tops[::-1]


def _mixer_of(shown: Pass, layer: str, ffn: tuple[str, ...], norms: dict[str, Any], n_results: int) -> str:
    """The module of a layer without attention that mixes its tokens: what has matrices beside the FFN."""
    tops = [call for call in _tops(shown, layer, "") if call.path.removeprefix(f"{layer}.") not in ffn]
    calls = [call for call in shown.modules if call.path == layer]
    parts = {call.path.removeprefix(f"{layer}."): call for call in shown.within(layer)}
    if len(tops) != 1 or len(calls) != 1 or not set(ffn) <= set(parts):
        seen = ", ".join(call.path for call in tops) or "none"
        raise HeadroomError(f"{layer} has no attention, and what mixes its tokens beside an FFN cannot be told: {seen}")
    mixer, last = tops[0], parts[ffn[-1]]
    here = _norms_of(shown, None, layer, mixer.path, [parts[name] for name in ffn])
    if here | {"attention_output_norm": ""} != norms | {"attention_output_norm": ""}:
        raise HeadroomError(f"{layer}, which has no attention, has norms in other places than layers with attention")
    if calls[0].n_results != n_results or mixer.calls_before != last.calls_before:
        raise HeadroomError(f"{layer}, which has no attention, returns other values than layers with attention")
    return mixer.path.removeprefix(f"{layer}.")


def _output_projection(shown: Pass, first: Attention, attention: str) -> str:
    """The linear map that takes what the interface returned; or, with gates between, the one that takes its width."""
    after = [call for call in shown.within(attention) if call.calls_before and _is_linear(call.module)]
    width = first.outputs.shape[-1] * first.outputs.shape[-2]
    same = [call for call in after if call.input is not None and _is_same(call.input, first.outputs)]
    fitting = same or [
        call
        for call in after
        if call.input is not None and call.input.shape[-1] == width and _depends(call.output, first.outputs)
    ]
    if len(fitting) != 1:
        seen = ", ".join(call.path.removeprefix(f"{attention}.") for call in after) or "none"
        raise HeadroomError(
            f"no single linear map takes the outputs of its heads (linear maps after attention: {seen})"
        )
    return fitting[0].path.removeprefix(f"{attention}.")


def _input_projections(shown: Pass, place: int, attention: str, is_reader: bool) -> tuple[str, ...]:
    """The last linear maps before queries, keys and values of a call of attention; one if they are one.

    Args:
        shown: the pass.
        place: of the call among all.
        attention: the path of the module that made it.
        is_reader: whether keys and values are those of an earlier layer, so that only queries have a map.
    """
    call = shown.attention[place]
    before = [one for one in shown.within(attention) if one.calls_before == place and _is_linear(one.module)]
    chosen = []
    for states in (call.query,) if is_reader else (call.query, call.key, call.value):
        feeding = [one for one in before if _depends(states, one.output)]
        if not feeding:
            raise HeadroomError(f"no linear map of {attention} feeds queries, keys or values")
        chosen.append(feeding[-1].path.removeprefix(f"{attention}."))
    return tuple(chosen[:1] if len(set(chosen)) == 1 else chosen)


def _is_grouped(shown: Pass, first: Attention, attention: str, paths: tuple[str, ...]) -> bool:
    """Whether a fused map orders its outputs by group."""
    heads, groups, width = first.query.shape[1], first.key.shape[1], first.value.shape[-1]
    if len(paths) > 1 or groups == 1:
        return False
    fused = next(call for call in shown.within(attention) if call.path == f"{attention}.{paths[0]}")
    # A view of the fused map's outputs shows where they lie; values are not rotated.
    return _is_same(first.value, fused.output) and first.value.stride(1) == (heads // groups + 2) * width


def _shared_norms(shown: Pass, numbers: list[int], shared: Mapping[int, int], path: str) -> tuple[str, ...]:
    """The norms that only keys and values pass in layers whose keys and values others read."""
    names: dict[str, None] = {}
    for place, number in enumerate(numbers):
        if number in shared.values():
            call, attention = shown.attention[place], path.format(number)
            for one in shown.within(attention):
                feeds = [_depends(states, one.output) for states in (call.query, call.key, call.value)]
                if _is_norm(one) and not feeds[0] and any(feeds):
                    names[one.path.removeprefix(f"{attention}.")] = None
    return tuple(names)


def _norms_of(
    shown: Pass, first: Attention | None, layer: str, attention: str, ffn: list[ModuleCall]
) -> dict[str, Any]:
    """The norms of a layer: those of the FFN alone, and those between attention (or what is there) and the residual."""
    (own,), (whole,) = ([call for call in shown.modules if call.path == path] for path in (attention, layer))
    alone, after_attention, after_ffn, last = [], "", "", ""
    for call in shown.within(layer):
        name = call.path.removeprefix(f"{layer}.")
        if not _is_norm(call) or f"{call.path}.".startswith(f"{attention}.") or call.input is None:
            continue
        if any(call.path.startswith(f"{part.path}.") for part in ffn):
            continue
        if _is_same(call.output, whole.output):
            last = name
        elif _is_same(call.input, ffn[-1].output):
            after_ffn = name
            alone.append(name)
        elif _is_same(call.input, own.output):
            after_attention = name
        elif (
            ffn[0].input is not None
            and _is_same(ffn[0].input, call.output)
            and not (first is not None and _feeds(call, first))
            # A norm on the residual stream also reaches the layer's output past the FFN.
            and not _reaches(whole.output, call.output, past=ffn[-1].output)
        ):
            alone.append(name)
    return {
        "ffn_norms": tuple(alone),
        "attention_output_norm": after_attention,
        "ffn_output_norm": after_ffn,
        "last_norm": last,
    }


def _final_projection(model: Any, shown: Pass) -> str:
    """The linear map between the last hidden state and the output embedding; empty where there is none."""
    unembedding = shown.path_of_output(model)
    call = next((call for call in shown.modules if call.path == unembedding), None)
    before = [one for one in shown.modules if call and call.input is not None and _is_same(one.output, call.input)]
    return next((one.path for one in before if _is_linear(one.module)), "")


def _feeds(call: ModuleCall, attention: Attention) -> bool:
    return any(_depends(states, call.output) for states in (attention.query, attention.key, attention.value))


def _has_joint_norms(shown: Pass, first: Attention, attention: str) -> bool:
    """Whether a norm between a linear map and attention covers more than one head; Cohere's have a row for each."""
    before = [call for call in shown.within(attention) if not call.calls_before and call.input is not None]
    # Latent attention has norms before its last maps, which are of no head.
    entries = [call.input for call in before if call.input is not None and _is_linear(call.module)]
    width = max(first.query.shape[-1], first.value.shape[-1])
    return any(
        weight.numel() > width and weight.dim() == 1 and not any(_is_same(entry, call.output) for entry in entries)
        for call in before
        if _is_norm(call) and _feeds(call, first)
        for weight in call.module.parameters(recurse=False)
    )


def _head_norms(first: Attention) -> tuple[str, ...]:
    """Lists of norms that have one for each query head, or each key-value head, and norms with a row for each."""
    sizes = first.query.shape[1], first.key.shape[1]
    return tuple(path for path, part in first.module.named_modules() if _n_norms(part) in sizes)


def _n_norms(module: nn.Module) -> int:
    """How many norms a list has, or how many rows of weights a norm has; 0 for other modules."""
    if isinstance(module, nn.ModuleList):
        return len(module)
    weight = next(module.parameters(recurse=False), None)
    is_norm = "norm" in type(module).__name__.lower()
    return len(weight) if is_norm and weight is not None and weight.dim() == 2 else 0


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or hasattr(module, "nf")


def _is_norm(call: ModuleCall) -> bool:
    """Whether a module keeps the shape of its input and has no more weights than that is wide."""
    is_leaf = not any(True for _ in call.module.children())
    return (
        is_leaf
        and not _is_linear(call.module)
        and call.input is not None
        and call.input.shape == call.output.shape
        and "norm" in type(call.module).__name__.lower()
    )


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are views of the same numbers."""
    return first.untyped_storage()._cdata == second.untyped_storage()._cdata


def _are_one(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same order."""
    places = [(states.shape, states.stride(), states.storage_offset()) for states in (first, second)]
    return _is_same(first, second) and places[0] == places[1]


def _depends(result: Tensor, source: Tensor) -> bool:
    """Whether a tensor was computed from another."""
    if not (result.requires_grad and source.requires_grad):
        return False
    (gradient,) = torch.autograd.grad(result.sum(), source, allow_unused=True, retain_graph=True)
    return gradient is not None


def _reaches(result: Tensor, source: Tensor, past: Tensor) -> bool:
    """Whether a tensor depends on another in a way that does not lead through a third."""
    pending, seen = [result.grad_fn], {past.grad_fn, None}
    while pending:
        node = pending.pop()
        if node is source.grad_fn and node is not None:
            return True
        if node not in seen:
            seen.add(node)
            pending += [before for before, _ in node.next_functions]
    return False


def _first_tensor(values: Iterable[Any]) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (tuple, list)) and (inner := _first_tensor(value)) is not None:
            return inner
    return None
