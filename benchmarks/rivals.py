"""What a user would run instead of lm-headroom, written as its sources have it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lm_headroom.engine.packing import Document
from lm_headroom.models import architectures
from lm_headroom.models.location import checkpoint_folder

Pairs = Sequence[tuple[int, str, str]]


class Harness:
    """lm-eval's HFLM over a model without interventions; masks are hooks."""

    def __init__(self, record: Path, dtype: str, model: Any = None) -> None:
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoModelForCausalLM, AutoTokenizer

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        path = checkpoint_folder(record)
        self.model = model or AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(path)
        self.hflm: Any = HFLM(pretrained=self.model, tokenizer=tokenizer, batch_size=1, add_bos_token=False)

    def log_likelihoods(self, pairs: Pairs, batch: int) -> np.ndarray:
        """Of each (doc_id, context, continuation), nats."""
        from lm_eval.api.instance import Instance

        self.hflm.batch_size_per_gpu = batch
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(context, rest), idx=0)
            for _, context, rest in pairs
        ]
        return np.array([value for value, _ in self.hflm.loglikelihood(requests, disable_tqdm=True)])

    def knock_out(self, pairs: Pairs, batch: int, layers: Iterable[int]) -> list[np.ndarray]:
        """The same without the FFN of each of these layers in turn."""
        results = []
        for layer in layers:
            with self.without(ffns=[layer]):
                results.append(self.log_likelihoods(pairs, batch))
        return results

    @contextmanager
    def without(self, heads: Iterable[tuple[int, int]] = (), ffns: Iterable[int] = ()) -> Iterator[None]:
        """Heads zeroed before the output projection, FFNs' outputs zeroed: what hooks can do from outside."""
        d_head = architectures.head_layout(self.model).d_head
        projections = architectures.output_projections(self.model)
        blocks = architectures.ffn_modules(self.model)
        by_layer: dict[int, list[int]] = {}
        for layer, head in heads:
            by_layer.setdefault(layer, []).append(head)
        with ExitStack() as stack:
            for layer, gone in by_layer.items():
                mask = torch.ones(projections[layer].in_features)
                for head in gone:
                    mask[head * d_head : (head + 1) * d_head] = 0

                def zero_heads(_: Any, inputs: Any, mask: torch.Tensor = mask) -> Any:
                    return (inputs[0] * mask.to(inputs[0].dtype), *inputs[1:])

                stack.callback(projections[layer].register_forward_pre_hook(zero_heads).remove)
            for layer in ffns:
                handle = blocks[layer][-1].register_forward_hook(lambda _, __, output: torch.zeros_like(output))
                stack.callback(handle.remove)
            yield


def released_importance(model: Any, documents: Sequence[Document]) -> np.ndarray:
    """Sum over documents and tokens of |A_t . dL/dA_t| as the released code goes about it, [layer, head].

    Batch of one, logits of all positions, and gradients of all weights, since ``loss.backward()`` runs on a model as
    it was loaded.
    """
    shape = architectures.head_layout(model)
    total = np.zeros((shape.layers, shape.heads))
    captured: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_: Any, inputs: Any) -> None:
            inputs[0].retain_grad()
            captured[layer] = inputs[0]

        return hook

    handles = [m.register_forward_pre_hook(keep(n)) for n, m in architectures.output_projections(model).items()]
    model.requires_grad_(True)
    try:
        for document in documents:
            (row,) = document.sequences
            model.zero_grad(set_to_none=True)
            ids = torch.tensor([row.tokens])
            labels = ids.clone()
            labels[0, : -row.n_target] = -100
            model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            for layer, outputs in captured.items():
                products = (outputs.detach().float() * outputs.grad.float())[0, :-1]
                total[layer] += products.unflatten(1, (shape.heads, shape.d_head)).sum(-1).abs().sum(0).numpy()
    finally:
        model.requires_grad_(False)
        model.zero_grad(set_to_none=True)
        for handle in handles:
            handle.remove()
    return total


@torch.no_grad()
def copying_by_vocabulary(model: Any, tokens: Sequence[int], start: int, layers: Sequence[int]) -> np.ndarray:
    """Algorithm 2 with the logits of the whole vocabulary, [layer of ``layers``, head]; LLaMA without biases.

    Each head's output at each position through its slice of the output projection and the unembedding, softmax over the
    vocabulary, ReLU of the rise over the mean of what can be attended to, ratio at the most attended token.
    """
    shape = architectures.head_layout(model)
    ids = torch.tensor([start, *tokens])
    time = len(ids)
    embedded = model.get_input_embeddings()(ids)[None]
    cos, sin = model.model.rotary_emb(embedded, torch.arange(time)[None])
    unembedding = model.get_output_embeddings().weight
    group = shape.heads // shape.key_value_heads
    totals = np.zeros((len(layers), shape.heads))
    for place, number in enumerate(layers):
        layer = model.model.layers[number]
        normed = layer.input_layernorm(embedded)
        q, k, v = (
            getattr(layer.self_attn, name)(normed)[0].unflatten(1, (-1, shape.d_head)).transpose(0, 1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = (x * cos[0] + _rotated(x) * sin[0] for x in (q, k))
        for head in range(shape.heads):
            weight = layer.self_attn.o_proj.weight[:, head * shape.d_head : (head + 1) * shape.d_head]
            scores = q[head] @ k[head // group].T * shape.d_head**-0.5
            total = 0.0
            for at in range(1, time):
                row = scores[at, : at + 1]
                output = weight @ (row.softmax(0) @ v[head // group][: at + 1])
                p = (unembedding @ output).softmax(0)[ids[: at + 1]]
                raised = (p - p.mean()).relu()
                if raised.sum() > 0:
                    total += float(raised[row.argmax()] / raised.sum())
            totals[place, head] = total / (time - 1)
    return totals


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """As LLaMA's rotary embedding has it."""
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], dim=-1)
