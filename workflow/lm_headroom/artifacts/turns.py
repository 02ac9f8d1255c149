"""The turns of a conversation, as prompts hold them. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
FIELDS = ("role", "text", "delimiter")
"""Of a turn. Its delimiter follows it in plain text; that of a system turn follows a model's own system prompt."""
Turn = Mapping[str, str]


class Template(Protocol):
    """What makes a text of turns."""

    def render(self, turns: Iterable[Turn]) -> str:
        """The context that a model reads."""
