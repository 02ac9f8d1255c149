"""Loading a resolved model, and gates for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from headroom import anatomy, settings
from headroom.checkpoint_place import checkpoint_folder
from headroom.models import read_record
from headroom.seam import Seam, attach
from headroom.shapes import model_from_config

DTYPES = {name: getattr(torch, name) for name in settings.DTYPES}


class Loaded:
    """A model for a step. Its weights are read when they are first needed: a step may find all it needs in parts.

    Attributes:
        tokenizer: the model's.
        record: what ``headroom model`` wrote of it.
        skeleton: the model without weights (or with them), for its shape and its parameters' sizes.
    """

    def __init__(self, tokenizer: Any, record: dict[str, Any], skeleton: Any, read: Callable[[], Any]) -> None:
        self.tokenizer, self.record, self.skeleton = tokenizer, record, skeleton
        self._read = read

    @cached_property
    def model(self) -> Any:
        """The model with its weights, frozen, its attention not yet routed: :attr:`seam` does that."""
        model = self._read().eval().requires_grad_(False)
        found = anatomy.layers(model)
        waiting = sum(any(p.device.type == "meta" for p in layer.parameters()) for layer in found)
        if waiting:
            print(
                f"{waiting} of {len(found)} layers do not fit the GPUs of this job and are fetched for each pass, many "
                "times as slow; give it more GPUs (config key 'gpus', option --gpus) or a number format of 16 bits",
                file=sys.stderr,
            )
        return model

    @property
    def in_memory(self) -> bool:
        """Whether the weights have been read."""
        return "model" in self.__dict__

    @cached_property
    def seam(self) -> Seam:
        """Where attention and FFNs of the model are governed."""
        return attach(self.model)

    @cached_property
    def shape(self) -> anatomy.Heads:
        """Head counts."""
        return anatomy.heads(self.skeleton)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return torch.device(anatomy.input_device(self.model))

    @property
    def window(self) -> int:
        """Largest number of input tokens."""
        return int(self.skeleton.config.max_position_embeddings)


def load(record_path: Path, dtype: str = "float32", device: str = "auto", threads: int | None = None) -> Loaded:
    """The model of a ``model.json``; its weights are read when they are needed.

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
    record = read_record(Path(record_path))
    path = checkpoint_folder(Path(record_path))
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())

    def weights() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            local_files_only=True,
            device_map="auto" if use_gpu else None,
        )

    skeleton = model_from_config(AutoConfig.from_pretrained(path, local_files_only=True), DTYPES[dtype])
    return Loaded(AutoTokenizer.from_pretrained(path, local_files_only=True), record, skeleton, weights)


def prepare(model: Any, tokenizer: Any, record: dict[str, Any] | None = None) -> Loaded:
    """A model that is in memory: frozen, set to evaluation, the seam attached."""
    loaded = Loaded(tokenizer, record or {}, model, lambda: model)
    # Now, so that a model that the seam does not work in is refused here.
    _ = loaded.seam
    return loaded


def gates_without(shape: anatomy.Heads, pruned: Iterable[tuple[int, int]]) -> Tensor:
    """Gates [layer, head]: 0 for the pruned heads, 1 for the others."""
    gates = torch.ones(shape.layers, shape.heads)
    for layer, head in pruned:
        gates[layer, head] = 0
    return gates
