"""Lengths of the random sequences of induction scores (Algorithms 1 and 2). No torch."""

from __future__ import annotations

COPIES = 4
"""How often a sequence repeats its tokens."""


def sequence_length(seed: int) -> int:
    """L = 2 seed + 23."""
    return 2 * seed + 23
