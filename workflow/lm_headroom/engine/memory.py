"""Measure free and used memory, and compute how many tokens fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lm_headroom.engine import batch_size
from lm_headroom.models.sizes import model_sizes

MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Free memory in bytes: of the GPU, or of the machine within its container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = machine_bytes("MemAvailable")
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(most) - int(used.read_text(encoding="ascii")))
    return max(free, 0)


def machine_bytes(entry: str) -> int:
    """Read an entry of /proc/meminfo, such as MemTotal, in bytes."""
    return _read_entry(Path("/proc/meminfo"), entry)


def _read_entry(path: Path, name: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def bytes_per_token(model: Any, keeps_layers: bool = False, differentiates: bool = False) -> int:
    """Estimate the bytes of a token of a batch; see :func:`lm_headroom.engine.batch_size.bytes_per_token`."""
    sizes = model_sizes(model)
    return batch_size.bytes_per_token(
        sizes["d_model"], sizes["d_mlp"], sizes["layers"], _item_size(model), keeps_layers, differentiates
    )


def logit_bytes(model: Any) -> int:
    """Bytes of the logits of one chunk of positions."""
    return batch_size.logit_bytes(model_sizes(model)["vocabulary"], _item_size(model))


def token_budget(model: Any, device: torch.device, *, keeps_layers: bool = False, differentiates: bool = False) -> int:
    """Compute how many tokens per batch fit into the free memory."""
    # Over several GPUs, the fullest one decides.
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"} or {device}
    per_token = bytes_per_token(model, keeps_layers, differentiates)
    return batch_size.fitting_tokens(
        min(free_bytes(each) for each in devices), logit_bytes(model), per_token, device.type, differentiates
    )


def peak_memory() -> dict[str, int]:
    """Peak memory of this process so far, in MiB, on the host and on the GPUs."""
    # Not getrusage: its value starts at the memory of the parent process.
    peaks = {"peak_memory_mib": _read_entry(Path("/proc/self/status"), "VmHWM") // MIB}
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        peaks["peak_gpu_memory_mib"] = max(torch.cuda.max_memory_allocated(device) for device in devices) // MIB
    return peaks


def _item_size(model: Any) -> int:
    size: int = model.get_input_embeddings().weight.element_size()
    return size
