"""One line every few seconds: done, rate and time left. No carriage returns, so logs stay readable."""

from __future__ import annotations

import sys
import time
from collections import deque


class Progress:
    """Report progress on standard error, less often the longer it takes.

    Args:
        label: what runs, for example ``head-importance arc_easy``.
        total: number of units in all.
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
        """Count ``units`` as done that an earlier run has computed: they say nothing of the rate."""
        self.reused += units
        self.done += units
        if self.done >= self.total:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self.last_line = now
        print(self.line(now - self.started), file=sys.stderr, flush=True)
        self._past.append((now - self.started, self.done - self.reused))

    def line(self, elapsed: float) -> str:
        """The line for ``elapsed`` seconds since the start.

        While work goes on, rate and time left are of the last lines, since documents come sorted by length; at the end
        the rate is that of the whole.
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
"""Lines back to which the rate reaches."""


def _per_second(rate: float) -> str:
    """``3.2/s``; slower than one in ten seconds by the minute."""
    return f"{rate:.1f}/s" if rate >= 0.1 or not rate else f"{60 * rate:.1f}/min"


def duration(seconds: float) -> str:
    """``75 s`` as ``1 min 15 s``, ``7300 s`` as ``2 h 01 min``."""
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
