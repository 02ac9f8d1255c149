"""One line every few seconds: done, rate and time left. No carriage returns, so logs stay readable."""

from __future__ import annotations

import sys
import time


class Progress:
    """Report progress on standard error.

    Args:
        label: what runs, for example ``head-importance arc_easy``.
        total: number of units in all.
        unit: plural name of the unit.
        interval: seconds between two lines.
    """

    def __init__(self, label: str, total: int, unit: str, interval: float = 10.0) -> None:
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.done = 0
        self.started = time.monotonic()
        self.last_line = self.started

    def advance(self, units: int = 1) -> None:
        """Count ``units`` as done and print a line when one is due."""
        self.done += units
        now = time.monotonic()
        if now - self.last_line >= self.interval or self.done >= self.total:
            self.last_line = now
            print(self.line(now - self.started), file=sys.stderr, flush=True)

    def line(self, elapsed: float) -> str:
        """The line for ``elapsed`` seconds since the start."""
        rate = self.done / max(elapsed, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        share = 100 * self.done / max(self.total, 1)
        state = f"done in {duration(elapsed)}" if self.done >= self.total else f"{duration(left)} left"
        return f"{self.label}: {self.done}/{self.total} {self.unit} ({share:.0f} %), {rate:.1f}/s, {state}"


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
