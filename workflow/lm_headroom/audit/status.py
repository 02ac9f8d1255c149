"""``lm-headroom status``: how far a running or stopped run has come, from the log that Snakemake writes as it goes.

The log is the same on one machine and on a cluster, where the process that submits jobs writes it; nothing is loaded,
and the run is not disturbed. Standard library only, but for the lock.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lm_headroom.audit.invocation import is_held
from lm_headroom.errors import HeadroomError
from lm_headroom.progress import duration

LOGS = ".snakemake/log/*.snakemake.log"
"""Logs of runs, below the folder that holds the results."""
_TIME = re.compile(r"\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\]")
_PLANNED = re.compile(r"(\w+) +(\d+)")
_STARTED = re.compile(r"Job (\d+): (.*)|rule (\w+):|localrule (\w+):")
_JOB_ID = re.compile(r"jobid: (\d+)")
_FINISHED = re.compile(r"Finished jobid: (\d+)(?: \(Rule: (\w+)\))?")
_FAILED = re.compile(r"Error in rule (\S+):")
State = Literal["running", "finished", "failed", "stopped"]


@dataclass
class Running:
    """A job that has started and not ended."""

    job: int
    what: str
    seconds: float


@dataclass
class Status:
    """How far a run has come.

    Attributes:
        state: ``stopped`` where no process works on it any more, though jobs are left.
        planned: jobs of the run.
        done: of these, those that have ended well.
        left: those that have neither ended nor started.
        failed: rule to the number of its jobs that failed.
        running: jobs at work.
        seconds: since the run began, until now or until its log's last line.
        seconds_left: by the jobs' own durations and how many ran at once; None where no job has ended.
        rules: rule to the number of jobs, those done, and mean seconds of a job; None where none has ended.
        log: the log.
    """

    state: State
    planned: int
    done: int
    left: int
    failed: dict[str, int]
    running: list[Running]
    seconds: float
    seconds_left: float | None
    rules: dict[str, dict[str, Any]]
    log: str


@dataclass
class _Events:
    """What a log says, in seconds since the epoch."""

    planned: dict[str, int] = field(default_factory=dict)
    starts: dict[int, tuple[float, str]] = field(default_factory=dict)
    ends: dict[int, tuple[float, str]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    first: float | None = None
    last: float = 0.0


def _parse(lines: Iterable[str]) -> _Events:
    """Read a log.

    Example:
        >>> log = ["total 2", "[Sun Nov 29 14:00:00 2026]", "Job 1: Draw.", "[Sun Nov 29 14:00:09 2026]"]
        >>> events = _parse([*log, "Finished jobid: 1 (Rule: draw_fig03)"])
        >>> events.ends[1][0] - events.starts[1][0]
        9.0
    """
    events = _Events()
    in_plan, now, failing = False, 0.0, ""
    # Jobs that were submitted together are indented below their group.
    for line in map(str.strip, lines):
        if moment := _TIME.match(line):
            now = time.mktime(time.strptime(moment[1]))
            events.first, events.last = events.first or now, now
        elif line.startswith("Job stats:"):
            in_plan, events.planned = True, {}
        elif in_plan and not line:
            in_plan = False
        elif in_plan and (row := _PLANNED.fullmatch(line)) and row[1] != "total":
            events.planned[row[1]] = int(row[2])
        elif started := _STARTED.match(line):
            if started[1]:
                events.starts[int(started[1])] = (now, started[2].split(" It asks for ")[0])
                # A job that failed is at work again where the run retries it.
                events.failed.pop(int(started[1]), None)
        elif ended := _FINISHED.match(line):
            events.ends[int(ended[1])] = (now, ended[2] or "")
        elif failed := _FAILED.match(line):
            failing = failed[1]
        elif failing and (number := _JOB_ID.match(line)):
            events.failed[int(number[1])], failing = failing, ""
    return events


def read_status(results: Path, now: float | None = None) -> Status:
    """How far the last run of a results folder has come.

    Args:
        results: the results folder of a study, in the folder where it was run.
        now: seconds since the epoch; the clock's if not given.

    Raises:
        HeadroomError: no run has a log there.
    """
    folder = Path(results).absolute().parent
    logs = sorted(folder.glob(LOGS), key=lambda path: path.stat().st_mtime)
    # A dry run has a log, too, but starts nothing.
    parsed = (
        (path, _parse(path.read_text(encoding="utf-8", errors="replace").splitlines())) for path in reversed(logs)
    )
    path, events = next(((path, events) for path, events in parsed if events.starts), (None, _Events()))
    if path is None:
        raise HeadroomError(
            f"{results}: no run has left a log in {folder / '.snakemake' / 'log'}; give the results folder of a "
            "study in the folder where it was run"
        )
    is_live = is_held(folder / ".snakemake")
    now = (time.time() if now is None else now) if is_live else events.last
    return _status(events, is_live, now, str(path))


def _status(events: _Events, is_live: bool, now: float, log: str) -> Status:
    """What the events of a log say, counted."""
    # Rules that only name targets start no job of their own.
    open_jobs = events.starts.keys() - events.ends.keys() - events.failed.keys()
    running = [Running(job, events.starts[job][1], now - events.starts[job][0]) for job in sorted(open_jobs)]
    spans = {
        job: (end - events.starts[job][0], rule) for job, (end, rule) in events.ends.items() if job in events.starts
    }
    by_rule: dict[str, list[float]] = {}
    for seconds, rule in spans.values():
        by_rule.setdefault(rule, []).append(seconds)
    done = Counter(rule for _, rule in events.ends.values())
    rules: dict[str, dict[str, Any]] = {
        rule: {
            "planned": n,
            "done": done[rule],
            "mean_seconds": sum(by_rule[rule]) / len(by_rule[rule]) if rule in by_rule else None,
        }
        for rule, n in events.planned.items()
        if rule not in ("all", "total")
    }
    planned = sum(row["planned"] for row in rules.values())
    ended = sum(row["done"] for row in rules.values())
    elapsed = now - (events.first or now)
    is_over = not open_jobs and ended >= planned
    state: State = "finished" if is_over else "running" if is_live else "failed" if events.failed else "stopped"
    left = max(planned - ended - len(running) - len(events.failed), 0)
    return Status(
        state=state,
        planned=planned,
        done=ended,
        left=left,
        failed=dict(Counter(events.failed.values())),
        running=running if is_live else [],
        seconds=elapsed,
        seconds_left=_seconds_left(rules, [span for span, _ in spans.values()], elapsed) if not is_over else 0.0,
        rules=rules,
        log=log,
    )


def _seconds_left(rules: dict[str, dict[str, Any]], spans: list[float], elapsed: float) -> float | None:
    """Work left, by mean durations of each rule's jobs (of all jobs where a rule has none), at the measured pace."""
    if not spans or elapsed <= 0:
        return None
    mean = sum(spans) / len(spans)
    work = sum(
        (row["planned"] - row["done"]) * (mean if row["mean_seconds"] is None else row["mean_seconds"])
        for row in rules.values()
    )
    at_once = max(sum(spans) / elapsed, 1.0)
    return float(work / at_once)


def describe_status(status: Status) -> str:
    """The same in words, for a terminal."""
    left = "" if status.seconds_left is None else f", about {duration(status.seconds_left)} left"
    left = left if status.state in ("running", "stopped") else ""
    counts = f"{len(status.running)} running, {status.left} left, {sum(status.failed.values())} failed"
    lines = [
        f"{status.state}: {status.done} of {status.planned} jobs done, {counts}, in {duration(status.seconds)}{left}"
    ]
    if status.running:
        lines += ["", "Running"]
        lines += [f"  {job.what} ({duration(job.seconds)})" for job in status.running]
    waiting = {rule: row for rule, row in status.rules.items() if row["done"] < row["planned"]}
    if waiting:
        width = max(map(len, waiting))
        lines += ["", f"  {'rule':{width}}  done  of  seconds a job"]
        for rule, row in waiting.items():
            seconds = "" if row["mean_seconds"] is None else f"{row['mean_seconds']:.0f}"
            lines.append(f"  {rule:{width}}  {row['done']:4}  {row['planned']:2}  {seconds:>13}".rstrip())
    if status.failed:
        lines += ["", "Failed", *(f"  {rule}: {n}" for rule, n in status.failed.items()), f"  log: {status.log}"]
    return "\n".join(lines)


def as_json(status: Status) -> dict[str, Any]:
    """The same as JSON has it."""
    return asdict(status)
