"""The exception that the command line prints as one sentence instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

MORE_MEMORY = "use a number format of 16 bits, more GPUs, or a machine with more memory"
"""Advice if a model does not fit into memory."""


class HeadroomError(Exception):
    """An error that the user can correct; the message names the cause, the expectation and the remedy."""


def first_of(names: Iterable[str]) -> str:
    """Name the first of sorted names: ``x``, or ``x and 3 more``."""
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing if no known name is similar."""
    names = list(known)
    same = [each for each in names if each.lower() == name.lower()]
    matches = same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, or while they were handled; ten at most."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)


def with_causes(error: BaseException) -> str:
    """Format an error with its causes, if they add information: ``OSError: no data, because of KeyError: 'train'``."""
    messages = (f"{type(each).__name__}: {' '.join(str(each).split())}" for each in causes(error))
    return ", because of ".join(dict.fromkeys(messages))
