"""Loading a resolved model, and gates for it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from headroom import anatomy, settings
from headroom.errors import HeadroomError
from headroom.seam import Seam, attach

DTYPES = {name: getattr(torch, name) for name in settings.DTYPES}


@dataclass(frozen=True)
class Loaded:
    """A model ready for a step: weights frozen, attention routed through the seam."""

    model: Any
    tokenizer: Any
    seam: Seam
    record: dict[str, Any]

    @property
    def shape(self) -> anatomy.Heads:
        """Head counts."""
        return self.seam.shape

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return torch.device(anatomy.input_device(self.model))

    @property
    def window(self) -> int:
        """Largest number of input tokens."""
        return int(self.model.config.max_position_embeddings)


def load(record_path: Path, dtype: str = "float32", device: str = "auto", threads: int | None = None) -> Loaded:
    """Load the model of a ``model.json``.

    Args:
        record_path: the model record that ``headroom model`` wrote.
        dtype: float32, float64, bfloat16 or float16.
        device: ``cpu``, ``cuda`` or ``auto``: all visible GPUs through accelerate's device map, else the CPU.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        HeadroomError: the record or the checkpoint is missing or unsupported.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    if not Path(record_path).is_file():
        raise HeadroomError(f"{record_path}: no such model record; 'headroom model' makes one")
    record = json.loads(Path(record_path).read_text(encoding="utf-8"))
    path = Path(record["path"])
    if not (path / "config.json").is_file():
        raise HeadroomError(
            f"{path}: the checkpoint of model {record['name']!r} is gone; delete {record_path} and run the workflow "
            "again, which resolves it anew"
        )
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=DTYPES[dtype],
        attn_implementation="sdpa",
        local_files_only=True,
        device_map="auto" if use_gpu else None,
    )
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return prepare(model, tokenizer, record)


def prepare(model: Any, tokenizer: Any, record: dict[str, Any] | None = None) -> Loaded:
    """Freeze a model, set it to evaluation and attach the seam."""
    model.eval().requires_grad_(False)
    return Loaded(model, tokenizer, attach(model), record or {})


def gates_without(shape: anatomy.Heads, pruned: Iterable[tuple[int, int]]) -> Tensor:
    """Gates [layer, head]: 0 for the pruned heads, 1 for the others."""
    gates = torch.ones(shape.layers, shape.heads)
    for layer, head in pruned:
        gates[layer, head] = 0
    return gates
