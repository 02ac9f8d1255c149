"""Progress lines every few seconds with rate and remaining time. No carriage returns, so that logs stay readable."""

from __future__ import annotations

import sys
import time
from collections import deque


class Progress:
    """Report progress on standard error, less often the longer it takes.

    Args:
        label: name of the work, for example ``score-heads arc_easy``.
        total: number of all units.
        unit: plural name of the unit.
        interval: seconds between two lines at first; later a tenth of the time that has passed, at most six intervals.
    """

    def __init__(self, label: str, total: int, unit: str, interval: float = 10.0) -> None:
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.done = self.reused = 0
        self.started = self.last_line = time.monotonic()
        # (seconds since the start, units computed) at past lines.
        self._past: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=_WINDOW)

    def advance(self, units: int = 1) -> None:
        """Count ``units`` as done and print a line when one is due."""
        self.done += units
        now = time.monotonic()
        due = min(max(self.interval, (now - self.started) / 10), 6 * self.interval)
        if now - self.last_line >= due or self.done >= self.total:
            self._print(now)

    def reuse(self, units: int) -> None:
        """Count ``units`` of an earlier run as done; they do not affect the rate."""
        self.reused += units
        self.done += units
        if self.done >= self.total:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self.last_line = now
        print(self.line(now - self.started), file=sys.stderr, flush=True)
        self._past.append((now - self.started, self.done - self.reused))

    def line(self, elapsed: float) -> str:
        """Format the line for ``elapsed`` seconds since the start.

        During the work, rate and remaining time follow from the last lines, since documents are sorted by length; at
        the end, the rate is that of the whole.
        """
        computed = self.done - self.reused
        share = 100 * self.done / max(self.total, 1)
        state = f"{self.label}: {self.done}/{self.total} {self.unit} ({share:.0f}%)"
        if self.reused:
            state += f", {self.reused} reused"
        if self.done >= self.total:
            rate = computed / max(elapsed, 1e-9)
            return f"{state}{f', {_per_second(rate)}' if computed else ''}, done in {duration(elapsed)}"
        seconds, before = self._past[0]
        rate = (computed - before) / max(elapsed - seconds, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        return f"{state}, {_per_second(rate)}, {duration(left)} left"


_WINDOW = 6
"""Number of past lines from which the rate is computed."""


def _per_second(rate: float) -> str:
    """Format a rate: ``3.2/s``, or per minute if slower than one in ten seconds."""
    return f"{rate:.1f}/s" if rate >= 0.1 or not rate else f"{60 * rate:.1f}/min"


def duration(seconds: float) -> str:
    """Format seconds: 75 as ``1 min 15 s``, 7300 as ``2 h 01 min``."""
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
