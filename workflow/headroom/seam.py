"""The one seam: an attention function registered with transformers, through which heads are gated and read.

transformers calls the function once per layer with q, k, v and expects the per-head outputs A, [batch, time, head,
width], back: exactly the tensor that enters the output projection. Multiplying A by a gate removes a head; keeping A
and differentiating with respect to it scores one. FFNs are left out, and passes restarted at a layer, by wrapping the
forward methods of the modules in question. No modelling file is patched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from headroom import anatomy
from headroom.errors import HeadroomError

IMPLEMENTATION = "headroom"

Observer = Callable[[int, Tensor, Tensor, float], None]
"""Called with layer, q [batch, head, time, width], k [batch, head, time, width] (repeated for groups), scaling."""


@dataclass(frozen=True)
class Branching:
    """How the columns of one tree of tokens may attend to each other.

    The first ``trunk`` columns are causal. Each column after it is part of a branch and sees what leads to it.

    Attributes:
        columns: number n of columns.
        trunk: number R of columns in the trunk.
        branches: bool [n - R, n], which columns each branch column may attend to; None where n = R.
    """

    columns: int
    trunk: int
    branches: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Trees that lie end to end in the one row of a batch; none sees another.

    Attributes:
        trees: the trees.
        needed: columns whose last hidden states are read; the last layer's FFN is computed there alone. None for all.
    """

    trees: tuple[Branching, ...]
    needed: Tensor | None = None

    @property
    def columns(self) -> int:
        """Columns of all trees."""
        return sum(tree.columns for tree in self.trees)

    @classmethod
    def causal(cls, columns: int) -> Layout:
        """One sequence."""
        return cls((Branching(columns, columns),))


@dataclass(frozen=True)
class Capture:
    """One layer's A, [batch, time, head, width].

    Attributes:
        value: A, outside the graph of gradients.
        probe: zeros that were added to A: the loss's gradient with respect to them is the one with respect to A.
    """

    value: Tensor
    probe: Tensor


class Seam:
    """State of one model's seam. Made by :func:`attach`; every change is undone when its context manager ends."""

    def __init__(self, shape: anatomy.Heads) -> None:
        self.shape = shape
        self.calls: Counter[int] = Counter()
        self._gates: Tensor | None = None
        self._closed: list[bool] = []
        self._empty: list[bool] = []
        self._without_ffns: frozenset[int] = frozenset()
        self._inputs: dict[int, Tensor] | None = None
        self._restart: tuple[int, Tensor] | None = None
        self._layout: Layout | None = None
        self._observer: Observer | None = None
        self._captures: dict[int, Capture] | None = None
        self._checkpointing = False

    @contextmanager
    def gates(self, gates: Tensor | None) -> Iterator[None]:
        """Multiply head outputs by ``gates`` [layer, head]; None leaves the model as it is."""
        if gates is not None and tuple(gates.shape) != (self.shape.layers, self.shape.heads):
            raise HeadroomError(
                f"gates have shape {tuple(gates.shape)}, the model has {self.shape.layers} layers of "
                f"{self.shape.heads} heads"
            )
        self._gates = gates
        # Known on the host once, so that layers without a closed gate cost nothing.
        self._closed = [] if gates is None else (gates != 1).any(dim=1).tolist()
        self._empty = [] if gates is None else (gates == 0).all(dim=1).tolist()
        try:
            yield
        finally:
            self._gates, self._closed, self._empty = None, [], []

    @contextmanager
    def without_ffns(self, layers: Iterable[int]) -> Iterator[None]:
        """Leave out the FFNs of ``layers``, with their biases; the residual stays. They are not computed at all."""
        self._without_ffns = frozenset(layers)
        try:
            yield
        finally:
            self._without_ffns = frozenset()

    @contextmanager
    def layer_inputs(self) -> Iterator[dict[int, Tensor]]:
        """Keep what enters each layer, [batch, time, width], in the yielded dictionary."""
        self._inputs = {}
        try:
            yield self._inputs
        finally:
            self._inputs = None

    @contextmanager
    def restart(self, layer: int, hidden: Tensor) -> Iterator[None]:
        """Let passes begin at ``layer`` with ``hidden`` [batch, time, width] as its input; layers below are skipped.

        The pass must have the input ids, positions and layout of the one that ``hidden`` was kept from.
        """
        self._restart = (layer, hidden)
        try:
            yield
        finally:
            self._restart = None

    @contextmanager
    def layout(self, layout: Layout) -> Iterator[None]:
        """Attend by ``layout`` instead of by the mask that the model makes."""
        global _layouts_in_force
        self._layout = layout
        _layouts_in_force += 1
        try:
            yield
        finally:
            self._layout = None
            _layouts_in_force -= 1

    @contextmanager
    def capture(self, checkpointing: bool = False) -> Iterator[dict[int, Capture]]:
        """Keep each layer's A in the yielded dictionary, with what gradients can be taken for.

        Args:
            checkpointing: keep nothing inside the layers for the backward pass but compute them again.
        """
        self._captures = {}
        self._checkpointing = checkpointing
        try:
            yield self._captures
        finally:
            self._captures = None
            self._checkpointing = False

    @contextmanager
    def observe(self, observer: Observer) -> Iterator[None]:
        """Show q and k of each layer to ``observer``."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
    ) -> Tensor:
        """Attention of one layer: A, [batch, time, head, width]."""
        self.calls[layer] += 1
        if self._is_empty(layer):
            return torch.zeros_like(query.transpose(1, 2))
        if key.shape[1] != query.shape[1]:
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        if self._observer is not None:
            self._observer(layer, query, key, scaling if scaling is not None else query.shape[-1] ** -0.5)
        if self._layout is not None:
            outputs = _attend_by_layout(query, key, value, self._layout, scaling)
        else:
            outputs = scaled_dot_product_attention(
                # transformers leaves the mask out where nothing is padded; then None means causal.
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None and query.shape[2] > 1,
                scale=scaling,
            )
        outputs = outputs.transpose(1, 2)
        if self._gates is not None and self._closed[layer]:
            outputs = outputs * self._gates[layer].to(outputs.device, outputs.dtype)[:, None]
        if self._captures is not None:
            outputs = self._probe(layer, outputs)
        return outputs

    def _is_empty(self, layer: int) -> bool:
        """Whether all heads of a layer are gone and nobody looks: then there is nothing to compute."""
        return bool(self._empty) and self._empty[layer] and self._captures is None and self._observer is None

    def run_projection(
        self, layer: int, module: nn.Linear, last: bool, forward: Callable[..., Tensor], x: Tensor
    ) -> Tensor:
        """An attention projection, unless all heads of the layer are gone: then the last one gives its bias."""
        if not self._is_empty(layer):
            return forward(x)
        if last:
            return forward(x[..., :1, :]).expand(*x.shape[:-1], module.out_features)
        return x.new_zeros(*x.shape[:-1], module.out_features)

    def _probe(self, layer: int, outputs: Tensor) -> Tensor:
        """Keep A. A layer that is computed again for the backward pass gets the probe that it had."""
        assert self._captures is not None
        if layer not in self._captures:
            probe = outputs.new_zeros(()).requires_grad_(torch.is_grad_enabled()).expand(outputs.shape)
            self._captures[layer] = Capture(outputs.detach(), probe)
        return outputs + self._captures[layer].probe

    def run_layer(
        self, layer: int, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """A decoder layer's forward pass, unless it is skipped."""
        if self._restart is not None:
            start, kept = self._restart
            if layer < start:
                return hidden
            if layer == start:
                hidden = kept
        if self._inputs is not None:
            self._inputs[layer] = hidden
        if self._checkpointing:
            run = partial(self._as_laid_out, self._layout, forward)
            again: Tensor = checkpoint(run, hidden, *args, use_reentrant=False, **kwargs)
            return again
        return forward(hidden, *args, **kwargs)

    def _as_laid_out(self, layout: Layout | None, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """A forward pass with the layout of the pass that it repeats, whose context has ended by then."""
        before, self._layout = self._layout, layout
        try:
            return forward(*args, **kwargs)
        finally:
            self._layout = before

    def run_ffn(self, layer: int, first: bool, last: bool, forward: Callable[..., Tensor], hidden: Tensor) -> Tensor:
        """A part of an FFN, unless the FFN is left out: then parts hand their input on, and the last gives zeros."""
        if layer in self._without_ffns:
            return torch.zeros_like(hidden) if last else hidden
        layout = self._layout
        if layout is None or layout.needed is None or layer != self.shape.layers - 1:
            return forward(hidden)
        needed = layout.needed.to(hidden.device)
        found = forward(hidden.index_select(-2, needed) if first else hidden)
        if not last:
            return found
        whole = found.new_zeros(*found.shape[:-2], layout.columns, found.shape[-1])
        return whole.index_copy(-2, needed, found)


def _attend_by_layout(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    """Attention within each tree: one causal call for its trunk and one masked call for its branches.

    Cheaper than a mask over everything, whose entries between trees would be computed to be thrown away.
    """
    outputs = []
    start = 0
    for tree in layout.trees:
        end, trunk = start + tree.columns, start + tree.trunk
        if tree.trunk:
            q, k, v = (x[:, :, start:trunk] for x in (query, key, value))
            outputs.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
        if tree.branches is not None:
            q, k, v = query[:, :, trunk:end], key[:, :, start:end], value[:, :, start:end]
            mask = tree.branches.to(query.device)
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
        start = end
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]


def _attention_function(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls. ``scaling`` is used as given: OPT scales its queries itself and passes 1."""
    seam: Seam = module.headroom_seam
    return seam.attend(module.layer_idx, query, key, value, attention_mask, scaling), None


_layouts_in_force = 0


def _mask_function(*args: Any, **kwargs: Any) -> Any:
    """The mask that transformers asks for: none where a layout says who attends to whom.

    Positions that begin anew tell transformers of packed sequences; the mask that it then makes, n x n, is not used.
    """
    return None if _layouts_in_force else sdpa_mask(*args, **kwargs)


AttentionInterface.register(IMPLEMENTATION, _attention_function)
AttentionMaskInterface.register(IMPLEMENTATION, _mask_function)


def attach(model: Any) -> Seam:
    """Route a model's attention through a seam and prove that it works there.

    Raises:
        HeadroomError: the family is unknown; logits are not finite; the seam does not fire exactly once per layer;
            opening all gates changes the logits; closing heads or leaving out FFNs does not; or a restarted pass ends
            elsewhere.
    """
    shape = anatomy.heads(model)
    tokens = _probe_tokens(model)
    with torch.no_grad():
        before = model(input_ids=tokens, use_cache=False).logits
    if not torch.isfinite(before).all():
        raise HeadroomError(
            f"the model's logits are not finite in {str(before.dtype).removeprefix('torch.')}: its numbers overflow; "
            "use dtype float32 or bfloat16"
        )
    seam = Seam(shape)
    for module in anatomy.attention_modules(model):
        module.headroom_seam = seam
    for number, layer in enumerate(anatomy.layers(model)):
        layer.forward = partial(seam.run_layer, number, layer.forward)
    for number, projections in enumerate(anatomy.projections(model)):
        for projection in projections:
            last = projection is projections[-1]
            projection.forward = partial(seam.run_projection, number, projection, last, projection.forward)
    for number, modules in enumerate(anatomy.ffn_modules(model)):
        for module in modules:
            first, last = module is modules[0], module is modules[-1]
            module.forward = partial(seam.run_ffn, number, first, last, module.forward)
    model.set_attn_implementation(IMPLEMENTATION)
    _prove(model, seam, tokens, before)
    return seam


def _probe_tokens(model: Any) -> Tensor:
    """Twelve tokens spread over the vocabulary, [1, 12]."""
    device = anatomy.input_device(model)
    return torch.linspace(1, model.config.vocab_size - 1, 12, device=device).long()[None]


@torch.no_grad()
def _prove(model: Any, seam: Seam, tokens: Tensor, before: Tensor) -> None:
    seam.calls.clear()
    opened = model(input_ids=tokens, use_cache=False).logits
    if seam.calls != Counter(range(seam.shape.layers)):
        raise HeadroomError(
            f"family {model.config.model_type!r}: the attention function must be called once per layer, "
            f"was called {dict(seam.calls)} times for {seam.shape.layers} layers; this model cannot be pruned here"
        )
    if not _agree(opened, before):
        raise HeadroomError(
            f"family {model.config.model_type!r}: with all heads open the logits differ from the model's own "
            f"by up to {(opened - before).abs().max():.3g}; this model cannot be served exactly"
        )
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    if not _agree(model.get_output_embeddings()(hidden), opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: logits are more than the output embedding of the last hidden state; "
            "this model cannot be served exactly"
        )
    # A middle head may be inert; some head of the first layer is not.
    gates = torch.ones(seam.shape.layers, seam.shape.heads, device=tokens.device)
    gates[0] = 0
    with seam.gates(gates):
        closed = model(input_ids=tokens, use_cache=False).logits
    if torch.equal(closed, opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: closing the first layer's heads changes nothing; "
            "this model's heads cannot be pruned here"
        )
    _prove_ffns(model, seam, tokens, opened)
    seam.calls.clear()


def _prove_ffns(model: Any, seam: Seam, tokens: Tensor, opened: Tensor) -> None:
    with seam.layer_inputs() as inputs:
        model(input_ids=tokens, use_cache=False)
    last = seam.shape.layers - 1
    with seam.restart(last, inputs[last]):
        restarted = model(input_ids=tokens, use_cache=False).logits
    if not _agree(restarted, opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: a pass restarted at the last layer does not give the model's logits; "
            "this model's FFNs cannot be scored here"
        )
    with seam.without_ffns(range(seam.shape.layers)):
        without = model(input_ids=tokens, use_cache=False).logits
    if torch.equal(without, opened):
        raise HeadroomError(
            f"family {model.config.model_type!r}: leaving out all FFNs changes nothing; "
            "this model's FFNs cannot be pruned here"
        )


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of another order of operations in the tensors' number format."""
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
    found, expected = found.float(), expected.float()
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * expected.std().item())
