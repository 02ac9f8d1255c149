"""Contestants that take turns, and what is said of their times."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timed:
    """Seconds of each round, and what the first round gave."""

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)


def contest(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timed]:
    """Let contestants take turns, ``rounds`` times; every other round in the opposite order."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        for name in names:
            gc.collect()
            start = time.perf_counter()
            result = contestants[name]()
            seconds[name].append(time.perf_counter() - start)
            results.setdefault(name, result)
    return {name: Timed(seconds[name], results[name]) for name in contestants}


def ratio(ours: Timed, other: Timed, times: float = 1.0) -> dict[str, Any]:
    """How many times as long the other took: the ratio of medians, and the range of the rounds' own ratios.

    Args:
        ours, other: from one contest.
        times: how often the other would have to do what was timed.
    """
    each = [times * b / a for a, b in zip(ours.seconds, other.seconds, strict=True)]
    return {
        "ratio": round(times * other.median / ours.median, 3),
        "spread": [round(min(each), 3), round(max(each), 3)],
        "seconds": round(ours.median, 3),
        "rounds": len(each),
    }


def geometric_mean(values: Iterable[float]) -> float:
    """Of ratios."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)
