"""What was seen of a model, and what was proved of it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lm_headroom.engine.loading import load
from lm_headroom.models import architectures
from lm_headroom.models.architecture import Architecture, HeadLayout
from lm_headroom.models.experts import expert_blocks
from lm_headroom.models.resolve import resolve

PROOFS = (
    "attention runs once in each layer, and with all heads open each layer gives what transformers' own gives",
    "rows packed into one pass give the same values as separate rows",
    "nothing of a closed head reaches the output projection, and closing heads changes the logits",
    "zeros in heads' places of the output projections' inputs equal closed heads",
    "a pass restarted at the last layer ends where the whole pass does, and logits follow from last hidden states",
    "leaving out FFNs changes the logits, and takes from the residual stream a multiple of what each gives",
)
"""What attaching interventions proves (:func:`lm_headroom.engine.attachment.attach`)."""


def explain(source: str, revision: str | None, allowed: Collection[str], dtype: str, is_proved: bool) -> str:
    """Say where a model has its parts and, with its weights, prove that interventions on them are exact.

    Args:
        source: a checkpoint folder or a hub name.
        revision: of a hub name.
        allowed: permissions of the checkpoint.
        dtype: number format of the proofs.
        is_proved: whether to read the weights and prove it.

    Raises:
        HeadroomError: the model cannot be resolved or loaded, is not supported, or a proof fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / Path(source).name / "model.json"
        resolve(Path(source).name, source, revision, record, allowed)
        loaded = load(record, dtype=dtype)
        row, shape = architectures.architecture_of(loaded.skeleton), loaded.shape
        family = loaded.skeleton.config.model_type
        lines = [
            f"{family}: {shape.layers} layers of {shape.heads} heads of width {_numbers(shape.d_head)}, "
            f"with {_numbers(shape.key_value_heads)} key-value heads",
            *_without_heads(shape),
            *(f"Layer {layer} reads the keys and values of layer {source}" for layer, source in shape.shared),
            *_experts(loaded.skeleton),
            f"Seen {'in a row of our own' if family in architectures.ARCHITECTURES else 'in a pass without weights'}:",
            *(f"  {name:<26}{', '.join(parts)}" for name, parts in _parts(row) if any(parts)),
        ]
        if is_proved:
            _ = loaded.interventions
            lines += [f"Proved in {dtype} with its weights:", *(f"  - {proof}" for proof in PROOFS)]
        return "\n".join(lines)


def _numbers(numbers: int | tuple[int, ...]) -> str:
    return str(numbers) if isinstance(numbers, int) else f"{', '.join(map(str, numbers))} (by layer)"


def _without_heads(shape: HeadLayout) -> list[str]:
    if not shape.without_heads:
        return []
    layers = ", ".join(map(str, shape.without_heads))
    return [f"{len(shape.without_heads)} layers have no attention, and keep what mixes their tokens: {layers}"]


def _experts(model: Any) -> list[str]:
    blocks = expert_blocks(model)
    kinds = {(block.number, block.top_k) for block in blocks.values()}
    if not blocks:
        return []
    each = " or ".join(f"{number} experts, {top_k} for each token" for number, top_k in sorted(kinds))
    return [f"{len(blocks)} layers have a mixture of experts: {each}"]


def _parts(row: Architecture) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("layers", (row.layers,)),
        ("attention", (row.attention,)),
        ("queries, keys, values", row.input_projections),
        ("output projection", (row.output_projection,)),
        ("mixes tokens without heads", row.mixers),
        ("norm after attention", (row.attention_output_norm,)),
        ("norms of each head", row.head_norms),
        ("FFN", row.ffn),
        ("norms of the FFN alone", row.ffn_norms),
        ("norm after the FFN", (row.ffn_output_norm,)),
        ("norm that ends a layer", (row.last_norm,)),
        ("what follows the FFN", (row.after_ffn,)),
        ("map before the embedding", (row.final_projection,)),
        ("soft cap of logits", (row.softcap,)),
    ]
