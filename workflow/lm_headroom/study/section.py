"""A section of a study: its keys, each with a type, bounds, a default and a description."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys of a study: unknown ones are refused, and a value is of its type or refused (1.0 is no whole number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
