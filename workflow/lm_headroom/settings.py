"""Settings of running a model, which change speed, memory and the last digits of results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DTYPES = ("float32", "float64", "bfloat16", "float16")
_BETTER = {"float16": "float32 or bfloat16", "bfloat16": "float32 or float64", "float32": "float64"}
MARGIN = 2.0
"""Default non-inferiority margin: the tolerated loss of accuracy, in percentage points."""


def other_dtype(dtype: str) -> str:
    """Advise which number format to use if one overflows, if any is better.

    Args:
        dtype: the format, a name of :data:`DTYPES`, possibly with torch's prefix.
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
        token_budget: maximal tokens per batch; None for as many as fit into memory. Changes only speed and memory.
        add_bos: put the BOS token before each prompt.
        cache: folder of the resume cache; None disables it.
    """

    dtype: str = "float32"
    device: str = "auto"
    threads: int | None = None
    token_budget: int | None = None
    add_bos: bool = False
    cache: Path | None = None
