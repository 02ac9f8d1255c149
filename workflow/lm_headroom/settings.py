"""Number formats, start tokens, and the default margin."""

from __future__ import annotations

from typing import Literal, get_args

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES = get_args(Dtype)
AddBos = Literal["auto"] | bool
"""Whether a start token precedes prompts; ``auto``: whatever the tokenizer itself puts before a text."""
_BETTER = {"float16": "float32 or bfloat16", "bfloat16": "float32 or float64", "float32": "float64"}
MARGIN: float = 2
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
