"""Seals: a digest of a JSON file's own content in the file, so that an edit by hand shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "seal"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its seal."""
    return {**content, KEY: _digest(content)}


def is_unchanged(content: Mapping[str, Any]) -> bool:
    """Whether a content is what was sealed."""
    return content.get(KEY) == _digest(content)


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of all keys and values but the seal, 64 hexadecimal digits."""
    rest = {key: value for key, value in content.items() if key != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
