"""The one seam: an attention function registered with transformers, through which heads are gated and read.

transformers calls the function once per layer with q, k, v and expects the per-head outputs A, [batch, time, head,
width], back: exactly the tensor that enters the output projection. Multiplying A by a gate removes a head; keeping A
and differentiating with respect to it scores one. No modelling file is patched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from headroom import anatomy
from headroom.errors import HeadroomError

IMPLEMENTATION = "headroom"

Observer = Callable[[int, Tensor, Tensor, float], None]
"""Called with layer, q [batch, head, time, width], k [batch, head, time, width] (repeated for groups), scaling."""


@dataclass(frozen=True)
class Layout:
    """How the positions of a batch may attend to each other.

    The first ``prefix`` columns hold a prefix per row (right-padded) and are causal. The columns after it hold the
    branches of that row: short continuations of the prefix that do not see each other.

    Attributes:
        prefix: number C of prefix columns.
        branches: bool [batch, 1, K, C + K], which columns each of the K branch columns may attend to; None for K = 0.
    """

    prefix: int
    branches: Tensor | None = None


class Seam:
    """State of one model's seam. Made by :func:`attach`; every change is undone when its context manager ends."""

    def __init__(self, shape: anatomy.Heads) -> None:
        self.shape = shape
        self.calls: Counter[int] = Counter()
        self._gates: Tensor | None = None
        self._closed: list[bool] = []
        self._layout: Layout | None = None
        self._observer: Observer | None = None
        self._captures: dict[int, Tensor] | None = None

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
        try:
            yield
        finally:
            self._gates, self._closed = None, []

    @contextmanager
    def layout(self, layout: Layout) -> Iterator[None]:
        """Attend by ``layout`` instead of by the mask that the model makes."""
        self._layout = layout
        try:
            yield
        finally:
            self._layout = None

    @contextmanager
    def capture(self) -> Iterator[dict[int, Tensor]]:
        """Keep each layer's A in the yielded dictionary, as a tensor that gradients can be taken for."""
        self._captures = {}
        try:
            yield self._captures
        finally:
            self._captures = None

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
            if not outputs.requires_grad:
                # Weights are frozen: the first layer's A is where the gradient graph starts.
                outputs = outputs.detach().requires_grad_()
            self._captures[layer] = outputs
        return outputs


def _attend_by_layout(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    """One causal call for the prefixes and one masked call for the branches; cheaper than a mask over everything."""
    prefix = layout.prefix
    if layout.branches is None:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    branches = scaled_dot_product_attention(query[:, :, prefix:], key, value, attn_mask=layout.branches, scale=scaling)
    if prefix == 0:
        return branches
    prefixes = scaled_dot_product_attention(
        query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scaling
    )
    return torch.cat([prefixes, branches], dim=2)


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


AttentionInterface.register(IMPLEMENTATION, _attention_function)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def attach(model: Any) -> Seam:
    """Route a model's attention through a seam and prove that it works there.

    Raises:
        HeadroomError: the family is unknown; the seam does not fire exactly once per layer; opening all gates
            changes the logits; or closing one head does not.
    """
    shape = anatomy.heads(model)
    tokens = _probe_tokens(model)
    with torch.no_grad():
        before = model(input_ids=tokens, use_cache=False).logits
    seam = Seam(shape)
    for module in anatomy.attention_modules(model):
        module.headroom_seam = seam
    model.set_attn_implementation(IMPLEMENTATION)
    _prove(model, seam, tokens, before)
    return seam


def _probe_tokens(model: Any) -> Tensor:
    """Twelve tokens spread over the vocabulary, [1, 12]."""
    device = model.get_input_embeddings().weight.device
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
    seam.calls.clear()


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of another order of operations in the tensors' number format."""
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
    found, expected = found.float(), expected.float()
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * expected.std().item())
