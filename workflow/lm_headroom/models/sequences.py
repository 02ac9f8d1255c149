"""Lengths of the random sequences of induction scores (Algorithms 1 and 2). No torch."""

from __future__ import annotations

from lm_headroom.errors import HeadroomError

COPIES = 4
"""How often a sequence repeats its tokens."""


def sequence_length(seed: int) -> int:
    """L = 2 seed + 23."""
    return 2 * seed + 23


def longest_input(sequences: int, bos: bool) -> int:
    """Tokens of the longest input of so many sequences, copies and start token included; 0 without sequences."""
    return COPIES * sequence_length(sequences) + bos if sequences else 0


def most_sequences(window: int, bos: bool) -> int:
    """Compute how many sequences a context window of so many tokens holds."""
    return max(0, ((window - bos) // COPIES - sequence_length(0)) // 2)


def check_window(model: str, window: int, sequences: int, bos: bool) -> None:
    """Refuse a study whose induction sequences do not fit a model, which follows from its configuration.

    Args:
        model: its name.
        window: largest number of input tokens.
        sequences: number of sequences, as the study has it; the last is the longest.
        bos: whether a start token comes first.

    Raises:
        HeadroomError: they do not fit; says how many do.
    """
    longest = longest_input(sequences, bos)
    if longest > window:
        most = most_sequences(window, bos)
        less = f"at most {most}, or to 0 to leave induction out" if most else "0 to leave induction out: none fits"
        raise HeadroomError(
            f"model {model!r}: an input of {longest} tokens, the longest of {sequences} induction sequences, does not "
            f"fit its context window of {window}; set induction.sequences to {less}"
        )
