"""Reading a JSON file that others may have written. Standard library only: the Snakefile imports this module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """The keys and values of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, no JSON, nested too deeply to be read, or holds something else than an object; the
            message says which.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected an object {{...}}, found {type(content).__name__}")
    return content
