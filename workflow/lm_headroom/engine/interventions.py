"""Interventions on heads and FFNs, through an attention function registered with transformers.

transformers calls the function once per layer with q, k and v and expects the per-head outputs A, [batch, pos, head,
d_head], back: exactly the tensor that enters the output projection. A gate that multiplies A removes a head; the
gradient with respect to A scores one. Wrapped forward methods leave out FFNs and restart passes at a layer. No
modelling file is patched. Where transformers does not route an architecture's attention through its interface,
:mod:`lm_headroom.engine.attention_adapters` makes the same call. :mod:`lm_headroom.engine.attachment` attaches them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from lm_headroom.engine.attention import AttentionSpec, attention, with_key_bias
from lm_headroom.engine.cut_maps import FEW_ROWS, KeptCuts, cut_map, open_heads
from lm_headroom.engine.expert_interventions import ExpertInterventions
from lm_headroom.engine.layout import Layout, attend_within
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.architectures import HeadRows

IMPLEMENTATION = "lm_headroom"
TENSOR_MASK = "tensor"
"""Value of :attr:`lm_headroom.models.architecture.Architecture.mask` if the mask must always be a tensor."""

Observer = Callable[[int, Tensor, Tensor, AttentionSpec], None]
"""Called with layer, q and k, each [batch, head, pos, d_head] (keys repeated for groups), and how they attend."""


@dataclass(frozen=True)
class Capture:
    """A kept activation: one layer's A, [batch, pos, head, d_head], or its FFN's output, [..., pos, d_model].

    Attributes:
        value: the activation, detached.
        probe: zeros that were added to it; their gradient equals that of the activation.
    """

    value: Tensor
    probe: Tensor


@dataclass(frozen=True)
class Replacements:
    """What removed heads and FFNs give instead of zeros.

    Attributes:
        heads: per layer, A of each head, [row, head, d_head].
        ffns: per layer, what its FFN adds to the residual, after its norm, [row, d_model].
        rows: gives the row of each column of a layout, [n]; None: the first row everywhere.
    """

    heads: Sequence[Tensor]
    ffns: Sequence[Tensor]
    rows: Callable[[Layout], Tensor] | None = None


class WindowMask(int):
    """A sliding window in place of its mask: some families (phimoe, qwen2_moe) say it by the mask and nowhere else."""

    def __getitem__(self, _: Any) -> WindowMask:
        """The part of the mask that a family takes (Gemma 4) has the same window."""
        return self


class Interventions:
    """Interventions on one model, made by :func:`lm_headroom.engine.attachment.attach`.

    Each context manager undoes its change when it ends.
    """

    def __init__(
        self,
        shape: HeadLayout,
        returns_tuple: bool = False,
        norms_ffns: bool = False,
        ffn_results: int = 0,
        weights: Mapping[int, HeadRows] | None = None,
    ) -> None:
        self.shape = shape
        self._weights = weights or {}
        # Later layers read them, whichever heads of their own layer are open.
        self._read_elsewhere = {
            (layer, part.module)
            for layer in {source for _, source in shape.shared}
            for part in (self._weights[layer].key, self._weights[layer].value)
            if part is not None
        }
        self._returns_tuple = returns_tuple
        self._ffn_results = ffn_results
        self._norms_ffns = norms_ffns
        self.calls: Counter[int] = Counter()
        self.experts = ExpertInterventions("", {})
        self._gates: Tensor | None = None
        self._closed: list[bool] = []
        self._empty: list[bool] = []
        self._open: dict[int, Tensor] = {}
        self._name = b""
        self._cuts = KeptCuts()
        self._keeps_cuts = False
        self._without_ffns: frozenset[int] = frozenset()
        self._ffn_gates: Tensor | None = None
        self._inputs: dict[int, Tensor] | None = None
        self._kept_layers: Container[int] | None = None
        self._restart: tuple[int, Tensor] | None = None
        self._layout: Layout | None = None
        self._replacements: Replacements | None = None
        self._rows: Tensor | None = None
        self._observer: Observer | None = None
        self._captures: dict[int, Capture] | None = None
        self._ffn_captures: dict[int, Capture] | None = None
        self._checkpointing = False

    @contextmanager
    def gates(self, gates: Tensor | None) -> Iterator[None]:
        """Multiply head outputs by ``gates`` [layer, head], which may require gradients; None changes nothing."""
        if gates is not None and tuple(gates.shape) != (self.shape.layers, self.shape.heads):
            raise HeadroomError(
                f"gates have shape {tuple(gates.shape)}, the model has {self.shape.layers} layers of "
                f"{self.shape.heads} heads"
            )
        self._gates = gates
        # Copied to the host once, so that layers without a closed gate cost nothing: the numbers of heads index there.
        numbers = None if gates is None else gates.detach().cpu()
        # Backward passes need each layer.
        learned = gates is not None and gates.requires_grad
        self._closed = [] if numbers is None else ((numbers != 1).any(dim=1) | learned).tolist()
        self._empty = [] if numbers is None or learned else (numbers == 0).all(dim=1).tolist()
        self._open = {} if numbers is None or learned else open_heads(numbers)
        self._name = numbers.numpy().tobytes() if numbers is not None and self._open else b""
        try:
            yield
        finally:
            self._gates, self._closed, self._empty, self._open = None, [], [], {}
            if not self._keeps_cuts:
                self._cuts = KeptCuts()

    @contextmanager
    def keeping_cuts(self) -> Iterator[None]:
        """Keep what gates cut of weights for the next batch under the same gates."""
        self._keeps_cuts = True
        try:
            yield
        finally:
            self._keeps_cuts, self._cuts = False, KeptCuts()

    @contextmanager
    def replacing(self, replacements: Replacements | None) -> Iterator[None]:
        """Let removed heads and FFNs give ``replacements``; None: zeros. Layouts are to begin within."""
        self._replacements = replacements
        try:
            yield
        finally:
            self._replacements = None

    @contextmanager
    def without_ffns(self, layers: Iterable[int]) -> Iterator[None]:
        """Skip the FFNs of ``layers`` and their biases; the residual passes through, or takes replacements."""
        self._without_ffns = frozenset(layers)
        try:
            yield
        finally:
            self._without_ffns = frozenset()

    @contextmanager
    def ffn_gates(self, gates: Tensor) -> Iterator[None]:
        """Multiply what each FFN adds to the residual by ``gates`` [layer], which may require gradients."""
        if tuple(gates.shape) != (self.shape.layers,):
            raise HeadroomError(
                f"gates of FFNs have shape {tuple(gates.shape)}, the model has {self.shape.layers} layers"
            )
        self._ffn_gates = gates
        try:
            yield
        finally:
            self._ffn_gates = None

    @contextmanager
    def layer_inputs(self, layers: Container[int] | None = None) -> Iterator[dict[int, Tensor]]:
        """Keep the input of each layer, [batch, pos, d_model], in the yielded dictionary.

        Args:
            layers: those whose input is kept; None for all.
        """
        self._inputs, self._kept_layers = {}, layers
        try:
            yield self._inputs
        finally:
            self._inputs, self._kept_layers = None, None

    @contextmanager
    def restart(self, layer: int, hidden: Tensor) -> Iterator[None]:
        """Begin passes at ``layer`` with ``hidden`` [batch, pos, d_model] as its input; skip the layers below.

        The pass must have the input ids, positions and layout of the pass that ``hidden`` comes from.

        Raises:
            HeadroomError: it or a later layer reads keys of a layer below (:meth:`HeadLayout.restart_at`).
        """
        if self.shape.restart_at(layer) < layer:
            raise HeadroomError(
                f"no pass can begin at layer {layer}, as keys are read of {self.shape.restart_at(layer)}"
            )
        self._restart = (layer, hidden)
        try:
            yield
        finally:
            self._restart = None

    @contextmanager
    def layout(self, layout: Layout) -> Iterator[None]:
        """Attend by ``layout`` instead of the mask that the model makes."""
        global _layouts_in_force
        rows_of = None if self._replacements is None else self._replacements.rows
        self._layout, self._rows = layout, None if rows_of is None else rows_of(layout)
        _layouts_in_force += 1
        try:
            yield
        finally:
            self._layout, self._rows = None, None
            _layouts_in_force -= 1

    @contextmanager
    def capture(self, checkpointing: bool = False) -> Iterator[dict[int, Capture]]:
        """Keep each layer's A in the yielded dictionary, ready for gradients.

        Args:
            checkpointing: recompute layers in the backward pass instead of keeping their activations.
        """
        self._captures = {}
        self._checkpointing = checkpointing
        try:
            yield self._captures
        finally:
            self._captures = None
            self._checkpointing = False

    @contextmanager
    def capture_ffns(self) -> Iterator[dict[int, Capture]]:
        """Keep what each layer's FFN adds to the residual, after its norm: what :meth:`without_ffns` sets to zero."""
        self._ffn_captures = {}
        try:
            yield self._ffn_captures
        finally:
            self._ffn_captures = None

    @contextmanager
    def observe(self, observer: Observer) -> Iterator[None]:
        """Call ``observer`` with q and k of each layer."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        key_bias: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Compute attention of one layer: A, [batch, pos, head, d_head].

        Args:
            layer: number of the layer.
            query: [batch, head, pos, d_head].
            key, value: [batch, key-value head, pos, d_head].
            mask: from transformers, bool (True: may attend) or added to scores; None: causal. A layout overrides it.
            scaling: factor of the products; None for one over the root of d_head.
            softcap: scores s become softcap tanh(s / softcap).
            sliding_window: number of tokens that a token attends to at most, including itself.
            sinks: scores of each head's sink, [head].
            key_bias: ALiBi: added to the scores of each key after the scaling, [batch, head, pos].
        """
        self.calls[layer] += 1
        if self._is_empty(layer):
            return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        some = self._heads_left(layer)
        if some is not None:
            some = some.to(query.device)
            groups = some // (query.shape[1] // key.shape[1])
            query, key, value = query[:, some], key[:, groups], value[:, groups]
            key_bias = None if key_bias is None else key_bias[:, some]
            # Some masks differ by head.
            mask = mask[:, some] if mask is not None and mask.shape[1] > 1 else mask
            sinks = None if sinks is None else sinks[some]
        elif key.shape[1] != query.shape[1]:
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        attention_spec = AttentionSpec(
            scaling if scaling is not None else query.shape[-1] ** -0.5, softcap, sliding_window, sinks
        )
        d_head = value.shape[-1]
        if key_bias is not None:
            query, key, value = with_key_bias(query, key, value, key_bias, attention_spec.scaling)
        if self._observer is not None:
            self._observer(layer, query, key, attention_spec)
        if self._layout is not None:
            outputs = attend_within(self._layout, query, key, value, attention_spec)
        else:
            outputs = attention(query, key, value, attention_spec.restrict(mask, query, key), attention_spec)
        # As transformers' own, contiguous: some families view the heads of a position as one vector.
        outputs = outputs[..., :d_head].transpose(1, 2).contiguous()
        if some is not None:
            outputs = outputs.new_zeros(*outputs.shape[:2], self.shape.heads, d_head).index_copy_(2, some, outputs)
        elif self._gates is not None and self._closed[layer]:
            outputs = outputs * self._gates[layer].to(outputs.device, outputs.dtype)[:, None]
        return outputs

    def at_positions(self, values: Tensor) -> Tensor:
        """Gather ``values`` [..., pos], made for consecutive positions, at the layout's positions."""
        if self._layout is None or self._layout.positions is None:
            return values
        return values[..., self._layout.positions.to(values.device)]

    def _replaced(self, replacements: Tensor, outputs: Tensor) -> Tensor:
        """The replacements of a layer's heads or FFN, in the shape of its ``outputs``, [..., pos, ...]."""
        rows = replacements[:1] if self._rows is None else replacements[self._rows.to(replacements.device)]
        return rows.to(outputs.device, outputs.dtype).expand_as(outputs).contiguous()

    def _is_empty(self, layer: int) -> bool:
        """Whether all heads of a layer are pruned and nothing reads them: then there is no attention to compute."""
        return bool(self._empty) and self._empty[layer] and not self._is_read

    def _heads_left(self, layer: int) -> Tensor | None:
        """The heads of a layer that are computed while others are pruned; None: all, as where something reads them."""
        return None if self._is_read else self._open.get(layer)

    @property
    def _is_read(self) -> bool:
        """Whether something reads the attention of pruned heads, too."""
        return self._captures is not None or self._observer is not None

    def run_projection(
        self, layer: int, module: nn.Module, last: bool, forward: Callable[..., Tensor], x: Tensor
    ) -> Tensor:
        """Run an attention projection without what only pruned heads need, which is cut from it.

        If all heads of the layer are pruned, only the last projection gives its bias.
        """
        if (layer, module) in self._read_elsewhere:
            return forward(x)
        replaced = last and self._replacements is not None
        if not self._is_empty(layer) or replaced:
            x = self._entering(layer, x) if last else x
            some = self._heads_left(layer)
            if some is None or replaced or layer not in self._weights:
                return forward(x)
            if torch.is_grad_enabled() and any(weight.requires_grad for weight in module.parameters()):
                # Whose gradients a cut map would keep to itself; closed heads are zeros in A anyway.
                return forward(x)
            cut = partial(cut_map, self._weights[layer], module, some, self.shape.group_of(layer))
            # A model that generates under gates has one row at a time.
            pays_at_once = self._keeps_cuts or x.shape[:-1].numel() >= FEW_ROWS
            left = self._cuts.find((self._name, layer, module), module, cut, pays_at_once)
            return forward(x) if left is None else left(x)
        if last:
            return forward(x[..., :1, :]).expand(*x.shape[:-1], architectures.n_outputs(module))
        return x.new_zeros(*x.shape[:-1], architectures.n_outputs(module))

    def _entering(self, layer: int, x: Tensor) -> Tensor:
        """A of a layer's heads as it enters the output projection, [..., head * d_head], with replacements and a probe.

        Here rather than where attention ends, since some families multiply heads by gates of their own in between.
        """
        is_replaced = self._replacements is not None and self._gates is not None and self._closed[layer]
        if self._captures is None and not is_replaced:
            return x
        heads = x.unflatten(-1, (self.shape.heads, -1))
        if is_replaced:
            closed = self._gates[layer].to(heads.device)[:, None] == 0  # type: ignore[index]
            heads = torch.where(closed, self._replaced(self._replacements.heads[layer], heads), heads)  # type: ignore[union-attr]
        if self._captures is not None:
            heads = _probe(self._captures, layer, heads)
        return heads.flatten(-2)

    def run_mixer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run what mixes tokens in a layer without attention; of packed rows, each sequence apart.

        A recurrent module takes a token's neighbour for the one before it. So each path of a tree, from its first token
        to a leaf, is a row of its own; later tokens pad shorter rows, and reach none before them.
        """
        if self._layout is None or (len(self._layout.trees) == 1 and self._layout.trees[0].branches is None):
            return forward(*args, **kwargs)
        (rows, places), columns = self._layout.sequences, self._layout.columns

        def split(value: Any) -> Any:
            """Hidden states, and positions where they are asked for: what has a value per column."""
            has_columns = isinstance(value, Tensor) and value.shape[:2] == (1, columns)
            return value[0][rows.to(value.device)] if has_columns else value

        result = forward(*map(split, args), **{name: split(value) for name, value in kwargs.items()})
        outputs = result[0] if isinstance(result, tuple) else result
        outputs = outputs.flatten(0, 1)[places.to(outputs.device)][None]
        return (outputs, *result[1:]) if isinstance(result, tuple) else outputs

    def run_layer(self, layer: int, forward: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run a decoder layer unless it is skipped."""
        if self._restart is not None:
            start, kept = self._restart
            if layer < start:
                return (hidden, None) if self._returns_tuple else hidden
            if layer == start:
                hidden = kept
        if self._inputs is not None and (self._kept_layers is None or layer in self._kept_layers):
            self._inputs[layer] = hidden
        if self._checkpointing:
            run = partial(self._as_laid_out, self._layout, forward)
            return checkpoint(run, hidden, *args, use_reentrant=False, **kwargs)
        return forward(hidden, *args, **kwargs)

    def _as_laid_out(self, layout: Layout | None, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a forward pass with the layout of the pass it repeats, whose context has ended by then."""
        before, self._layout = self._layout, layout
        try:
            return forward(*args, **kwargs)
        finally:
            self._layout = before

    def run_ffn(
        self, layer: int, first: bool, last: bool, forward: Callable[..., Any], hidden: Tensor, *rest: Any, **named: Any
    ) -> Any:
        """Run a module of an FFN; if it is left out, modules return their input, the last one zeros or replacements."""
        if layer in self._without_ffns:
            if not last:
                return hidden
            replaced = self._replacements is not None and not self._norms_ffns
            if replaced:
                return self._as_result(self._replaced(self._replacements.ffns[layer], hidden), None)  # type: ignore[union-attr]
            return self._as_result(torch.zeros_like(hidden), None)
        layout = self._layout
        only_needed = layout is not None and layout.needed is not None and layer == self.shape.layers - 1
        if only_needed and first:
            hidden = hidden.index_select(-2, layout.needed.to(hidden.device))  # type: ignore[union-attr]
        result = forward(hidden, *rest, **named)
        if not last:
            return result
        outputs: Tensor = result[0] if self._ffn_results else result
        if only_needed:
            whole = outputs.new_zeros(*outputs.shape[:-2], layout.columns, outputs.shape[-1])  # type: ignore[union-attr]
            outputs = whole.index_copy(-2, layout.needed.to(outputs.device), outputs)  # type: ignore[union-attr]
        return self._as_result(outputs if self._norms_ffns else self._add_to_residual(layer, outputs), result)

    def _as_result(self, outputs: Tensor, result: Any) -> Any:
        """What an FFN returns, with these outputs: also what else it says, such as of a router, if it was run."""
        if not self._ffn_results:
            return outputs
        return (outputs, *((None,) * (self._ffn_results - 1) if result is None else result[1:]))

    def run_ffn_norm(self, layer: int, forward: Callable[..., Tensor], hidden: Tensor) -> Tensor:
        """Run the norm between an FFN and the residual; gate and probe follow it: it cancels factors of its input."""
        if self._replacements is not None and layer in self._without_ffns:
            return self._replaced(self._replacements.ffns[layer], hidden)
        return self._add_to_residual(layer, forward(hidden))

    def _add_to_residual(self, layer: int, outputs: Tensor) -> Tensor:
        """What an FFN adds to the residual: its outputs behind its gate and with its probe."""
        if self._ffn_gates is not None:
            outputs = outputs * self._ffn_gates[layer].to(outputs.device, outputs.dtype)
        return outputs if self._ffn_captures is None else _probe(self._ffn_captures, layer, outputs)


def _probe(captures: dict[int, Capture], layer: int, outputs: Tensor) -> Tensor:
    """Keep a tensor with its probe. A layer that is recomputed in the backward pass keeps its first probe."""
    if layer not in captures:
        probe = outputs.new_zeros(()).requires_grad_(torch.is_grad_enabled()).expand(outputs.shape)
        captures[layer] = Capture(outputs.detach(), probe)
    return outputs + captures[layer].probe


def _attention_function(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | WindowMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls. OPT scales its queries itself and passes ``scaling`` 1."""
    interventions: Interventions = module.lm_headroom_interventions
    if isinstance(attention_mask, WindowMask):
        sliding_window, attention_mask = sliding_window or attention_mask, None
    return interventions.attend(
        module.layer_idx, query, key, value, attention_mask, scaling, softcap, sliding_window, sinks=s_aux
    ), None


_layouts_in_force = 0


def _mask_function(*args: Any, **kwargs: Any) -> Any:
    """Make the mask that transformers asks for; while a layout is in force its window alone, None without one.

    From positions that restart, transformers infers packed sequences and would make an unused n x n mask.
    """
    if not _layouts_in_force:
        return sdpa_mask(*args, **kwargs)
    return WindowMask(kwargs["local_size"]) if kwargs.get("local_size") else None


def _tensor_mask_function(*args: Any, **kwargs: Any) -> Tensor:
    """Make the mask for models that compute with it themselves; an empty tensor while a layout is in force."""
    if _layouts_in_force:
        return torch.empty(0, dtype=torch.bool)
    mask: Tensor = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})
    return mask


AttentionInterface.register(IMPLEMENTATION, _attention_function)
AttentionMaskInterface.register(IMPLEMENTATION, _mask_function)
AttentionMaskInterface.register(f"{IMPLEMENTATION}-{TENSOR_MASK}", _tensor_mask_function)
