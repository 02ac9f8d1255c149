"""Number formats, and default margins."""

from __future__ import annotations

from typing import Literal, get_args

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES = get_args(Dtype)
_BETTER = {"float16": "float32 or bfloat16", "bfloat16": "float32 or float64", "float32": "float64"}
MARGIN: float = 2
"""Default non-inferiority margin: the tolerated loss of accuracy, in percentage points."""
PROBABILITY_MARGIN: float = 1
"""The same of a gold probability: half as many points, since a probability moves before the answer flips."""
RELATIVE_MARGIN_PERCENT: float = 1
"""The same of bits per byte and of the loss, whose scale differs by task: percent of the whole model's own."""
CHOICE_MARGIN: float = 0.01
"""The same of the margin between choices, in nats per byte."""


def other_dtype(dtype: str) -> str:
    """Advise which number format to use if one overflows, if any is better.

    Args:
        dtype: the format, a name of :data:`DTYPES`, possibly with torch's prefix.
    """
    dtype = dtype.removeprefix("torch.")
    if dtype in _BETTER:
        return f"use dtype {_BETTER[dtype]}"
    return f"no number format holds more than {dtype}: the checkpoint or its configuration is not as it was trained"
