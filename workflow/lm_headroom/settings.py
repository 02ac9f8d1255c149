"""How a model is run: what changes speed and memory, and what changes numbers in their last digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DTYPES = ("float32", "float64", "bfloat16", "float16")
_BETTER = {"float16": "float32 or bfloat16", "bfloat16": "float32 or float64", "float32": "float64"}
MARGIN = 2.0
"""Default of the loss of accuracy that counts as none, in percentage points."""


def other_dtype(dtype: str) -> str:
    """What to do where numbers of a format overflow: which format to take instead, if any is better.

    Args:
        dtype: the format, a name of :data:`DTYPES`, or as torch has it.
    """
    dtype = dtype.removeprefix("torch.")
    if dtype in _BETTER:
        return f"use dtype {_BETTER[dtype]}"
    return f"no number format holds more than {dtype}: the checkpoint or its configuration is not as it was trained"


@dataclass(frozen=True)
class Settings:
    """Options of every step that runs a model on prompts.

    Attributes:
        dtype: number format of weights and activations.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads; None leaves torch's choice.
        token_budget: most tokens per batch; None for what the memory holds. Changes speed and memory only.
        add_bos: put the BOS token before each prompt.
        cache: folder where finished units are kept, and looked for; None keeps nothing.
    """

    dtype: str = "float32"
    device: str = "auto"
    threads: int | None = None
    token_budget: int | None = None
    add_bos: bool = False
    cache: Path | None = None
