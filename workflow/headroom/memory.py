"""How much memory there is, how much was used, and how many tokens fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headroom import anatomy
from headroom.likelihood import LOGIT_ROWS

MIB = 2**20
SHARE = 0.5
"""Share of the free memory that a batch is given; what it takes is an estimate."""
MOST = {"cpu": 1024, "cuda": 16384}
"""Tokens beyond which a batch gets no faster."""
LEAST = 128
"""Tokens of a batch where memory is short; less would be slow, and an out-of-memory error halves it anyway."""
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Memory that is free for one process: of the GPU, or of the machine within its container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = machine_bytes("MemAvailable")
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(most) - int(used.read_text(encoding="ascii")))
    return max(free, 0)


def machine_bytes(entry: str) -> int:
    """An entry of /proc/meminfo, such as MemTotal."""
    return _entry(Path("/proc/meminfo"), entry)


def _entry(path: Path, name: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def bytes_per_token(model: Any, keeps_layers: bool = False, differentiates: bool = False) -> int:
    """What a token of a batch takes at most at one time, without weights and logits.

    A pass holds about the inputs and outputs of one layer's maps: the residual, q, k, v and A, and three of the FFN's
    width. The FFN oracle keeps the inputs of all layers; a backward pass keeps what is above, of every layer.
    """
    config, shape = model.config, anatomy.heads(model)
    inner = max(parameter.shape[0] for module in anatomy.ffn_modules(model)[0] for parameter in module.parameters())
    one_layer = 6 * config.hidden_size + 3 * inner
    numbers = one_layer * (shape.layers if differentiates else 1) + config.hidden_size * shape.layers * keeps_layers
    return int(numbers * _item_size(model))


def logit_bytes(model: Any) -> int:
    """What the logits of one chunk of positions take: in the model's numbers, in float32, and their exponentials."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return int(LOGIT_ROWS * vocabulary * (_item_size(model) + 8))


def token_budget(model: Any, device: torch.device, keeps_layers: bool = False, differentiates: bool = False) -> int:
    """Tokens per batch that the free memory holds."""
    # Over several GPUs, the fullest one decides.
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"} or {device}
    per_token = bytes_per_token(model, keeps_layers, differentiates)
    return fitting_tokens(
        min(free_bytes(each) for each in devices), logit_bytes(model), per_token, device.type, differentiates
    )


def fitting_tokens(free: float, logits: int, per_token: int, device: str, differentiates: bool) -> int:
    """Tokens per batch that ``free`` bytes hold.

    Args:
        free: bytes.
        logits: bytes of one chunk of logits.
        per_token: bytes of a token.
        device: ``cpu`` or ``cuda``.
        differentiates: for a backward pass.
    """
    fitting = int((SHARE * free - logits) / per_token)
    most = MOST.get(device, MOST["cuda"])
    # A backward pass keeps all layers; half the tokens are as fast.
    return max(LEAST, min(fitting, most // 2 if differentiates else most))


def peak() -> dict[str, int]:
    """Most memory that this process has held so far, in MiB."""
    # Not getrusage: what it says begins with the memory of the process that started this one.
    found = {"peak_memory_mib": _entry(Path("/proc/self/status"), "VmHWM") // MIB}
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        found["peak_gpu_memory_mib"] = max(torch.cuda.max_memory_allocated(device) for device in devices) // MIB
    return found


def _item_size(model: Any) -> int:
    size: int = model.get_input_embeddings().weight.element_size()
    return size
