"""What was proved of a checkpoint when it was loaded, kept beside its record, so that not every job proves it again.

A proof holds for its conditions: checkpoint, code, number format, devices, threads, processor and packages. Under the
same conditions a job compares, bit for bit, the outcome of two passes with that of the job that proved it: without
interventions, and with open gates. Whatever differs, is damaged or missing leads to all proofs.
"""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.artifacts.provenance import versions
from lm_headroom.artifacts.seal import is_unchanged, sealed
from lm_headroom.artifacts.store import ArtifactError, write_json
from lm_headroom.engine.layout import is_at_once

MOST_KEPT = 32
"""Proofs in a file, the newest: one for each number format, number of threads and kind of machine in use."""
_PACKAGES = ("torch", "transformers", "accelerate", "safetensors")
_PROCESSOR = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
)
"""What Linux says of a processor, on x86 and on ARM, that decides which kernels run."""


class KeptProofs:
    """The kept proofs of a checkpoint, as they concern one loaded model.

    Example:
        kept = KeptProofs(Path("results/opt/model.json"), record["digest"], model)
        if not kept.holds(outcome):
            prove(model)
            kept.add(outcome)
    """

    def __init__(self, record: Path, checkpoint: str, model: Any) -> None:
        """Take the conditions of a model.

        Args:
            record: the model's record, model.json.
            checkpoint: digest of the checkpoint, which has been compared with its files.
            model: the model with its weights.
        """
        self._file = proofs_file(record)
        self._conditions = _conditions(checkpoint, model)

    def holds(self, outcome: str) -> bool:
        """Whether the model was proved under these conditions, with this outcome of its passes."""
        return {"conditions": self._conditions, "outcome": outcome} in _read(self._file)

    def add(self, outcome: str) -> None:
        """Keep that the model is proved. Of two jobs that do so at once, one may have to prove it again.

        Where the folder is read-only the next job proves it again.
        """
        others = [proof for proof in _read(self._file) if proof.get("conditions") != self._conditions]
        proofs = [*others, {"conditions": self._conditions, "outcome": outcome}][-MOST_KEPT:]
        with suppress(ArtifactError):
            write_json(self._file, sealed({"proofs": proofs}))


def proofs_file(record: Path) -> Path:
    """The file of a record's kept proofs."""
    return record.with_name(".model.proofs.json")


def outcome_of(*values: Tensor | float | list[Any]) -> str:
    """Digest of the bits of tensors of any shape, and of other values: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{value!r}\n".encode())
    return digest.hexdigest()


def _conditions(checkpoint: str, model: Any) -> dict[str, Any]:
    """All that a proof depends on."""
    return {
        "checkpoint": checkpoint,
        "code": code_digest("engine.loading"),
        "dtype": str(model.dtype),
        "attention at once": is_at_once(),
        "devices": _devices(model),
        "threads": torch.get_num_threads(),
        "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability(), _processor()],
        "packages": versions(_PACKAGES),
    }


def _devices(model: Any) -> list[str]:
    """Where each part of a model is: the processor, a kind of GPU, or another kind of device."""
    places = getattr(model, "hf_device_map", None) or {"": model.device}
    return [f"{part}: {_device(place)}" for part, place in sorted(places.items())]


def _device(place: Any) -> str:
    if place == "disk":
        return "disk"
    # accelerate gives GPUs as numbers.
    device = torch.device(f"cuda:{place}" if isinstance(place, int) else place)
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


@cache
def _processor() -> str:
    """Digest of the kinds of processors and what they can do; their name where the system says no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return platform.processor()
    kinds = sorted({line for line in lines if line.partition(":")[0].strip() in _PROCESSOR})
    return hashlib.sha256(json.dumps(kinds).encode()).hexdigest()[:16]


def _read(file: Path) -> list[dict[str, Any]]:
    """The proofs in a file; none where it is missing, damaged or edited."""
    try:
        content = read_object(file)
    except (OSError, ValueError):
        return []
    proofs = content.get("proofs")
    if not is_unchanged(content) or not isinstance(proofs, list):
        return []
    return [proof for proof in proofs if isinstance(proof, dict)]
