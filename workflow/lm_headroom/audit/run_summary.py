"""What is said at the end of a run: what ran, what was there already, what failed and why, and how to go on.

Standard library only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from lm_headroom.progress import duration

State = Literal["ran", "there", "failed", "interrupted", "waiting"]
_ERROR = re.compile(r"^lm-headroom [\w-]+: error: .+")
_EXCEPTION = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b.*")
_REUSED = re.compile(r"(\d+) reused\b")
_WIDEST = 300
_SHOWN = 20


@dataclass(frozen=True)
class FinishedJob:
    """A job of the run.

    Attributes:
        rule: its rule.
        state: ``ran``; ``there``: its results were up to date before; ``failed``; ``interrupted``; ``waiting``: it did
            not start, or what it needs failed.
        results: the files that it makes.
        log: its log file, if it has one.
        seconds: from its start (on a cluster: its submission) to its end, if it ran.
        attempts: how often it was started.
    """

    rule: str
    state: State
    results: Sequence[str]
    log: str | None = None
    seconds: float | None = None
    attempts: int = 1


def summary_of(workflow: Any, elapsed: float, arguments: Sequence[str]) -> str:
    """The text at the end of a run of a Snakemake workflow.

    Args:
        workflow: Snakemake's, after the run.
        elapsed: seconds since it began.
        arguments: of the run, without the program.
    """
    failed, running = (
        {job for item in items for job in (item if item.is_group() else [item])}
        for items in (workflow.scheduler.failed, workflow.scheduler.running)
    )
    jobs = []
    for job in chain.from_iterable(map(sorted, workflow.dag.toposorted())):
        # Rules that only name targets run nothing.
        if job.output:
            state = _state(workflow.dag, job, failed, running)
            seconds = _wall_time(workflow.persistence, job) if state == "ran" else None
            log = job.log[0] if job.log else None
            jobs.append(FinishedJob(job.rule.name, state, list(job.output), log, seconds, job.attempt))
    return summary(jobs, elapsed, resume_command(arguments))


def _state(dag: Any, job: Any, failed: Container[Any], running: Container[Any]) -> State:
    """What became of a job of this run."""
    if not dag.needrun(job):
        return "there"
    if job in failed:
        return "failed"
    if dag.finished(job):
        return "ran"
    return "interrupted" if job in running else "waiting"


def _wall_time(persistence: Any, job: Any) -> float | None:
    """Seconds from a job's start to its end, as Snakemake has recorded them, if it has."""
    record = persistence.metadata(job.output[0])
    if record is None or record.starttime is None or record.endtime is None:
        return None
    return float(record.endtime - record.starttime)


def summary(jobs: Sequence[FinishedJob], elapsed: float, command: str) -> str:
    """The text at the end of a run.

    Args:
        jobs: all jobs of the run in the order of the workflow, without those that only name targets.
        elapsed: seconds since it began.
        command: what resumes it.
    """
    by_state: dict[str, list[FinishedJob]] = {}
    for job in jobs:
        by_state.setdefault(job.state, []).append(job)
    ran, failed, interrupted = (by_state.get(state, []) for state in ("ran", "failed", "interrupted"))
    waiting = by_state.get("waiting", [])
    counts = [
        f"{_count(ran, 'job')} ran",
        f"{len(by_state.get('there', []))} were up to date",
        *([f"{len(failed)} failed"] if failed else []),
        *([f"{len(interrupted)} were interrupted"] if interrupted else []),
        *([f"{len(waiting)} did not run"] if waiting else []),
    ]
    lines = [f"lm-headroom: {', '.join(counts)}, in {duration(elapsed)}"]
    lines += _table(ran)
    for title, unfinished in (("Failed", failed), ("Interrupted", interrupted)):
        if unfinished:
            lines += ["", title]
        for job in unfinished[:_SHOWN]:
            lines += _failure(job)
        if len(unfinished) > _SHOWN:
            lines.append(f"  and {len(unfinished) - _SHOWN} more")
    if failed or interrupted or waiting:
        lines += ["", "Resume with", f"  {command}"]
    return "\n".join(lines)


def _table(ran: Iterable[FinishedJob]) -> Iterator[str]:
    """A line per rule in the order of the jobs: how many, wall time of all and of the longest."""
    by_rule: dict[str, list[FinishedJob]] = {}
    for job in ran:
        by_rule.setdefault(job.rule, []).append(job)
    if not by_rule:
        return
    width = max(4, *map(len, by_rule))
    yield ""
    yield f"  {'rule':<{width}}  jobs  {'wall time':>12}  {'longest':>12}"
    for rule, jobs in by_rule.items():
        times = [job.seconds for job in jobs if job.seconds is not None]
        total, longest = (duration(statistic(times)) if times else "" for statistic in (sum, max))
        line = f"  {rule:<{width}}  {len(jobs):>4}  {total:>12}  {longest:>12}"
        again = sum(job.attempts > 1 for job in jobs)
        reused = sum(reused_units(job.log) for job in jobs)
        notes = [f"{again} at a later attempt"] if again else []
        notes += [f"{reused} units reused"] if reused else []
        yield f"{line}  {', '.join(notes)}".rstrip()


def _failure(job: FinishedJob) -> Iterator[str]:
    more = f" and {len(job.results) - 1} more" if len(job.results) > 1 else ""
    attempts = f", {job.attempts} attempts" if job.attempts > 1 else ""
    yield f"  {job.rule}{attempts}: {job.results[0] if job.results else 'no files'}{more}"
    if job.log:
        yield f"    log: {job.log}"
        yield f"    {last_error(job.log)}"


def last_error(log: str) -> str:
    """The line of a log that says what went wrong: lm-headroom's own, else a traceback's last, else the last there
    is."""
    lines = _lines(log)
    for pattern in (_ERROR, _EXCEPTION):
        for line in reversed(lines):
            if pattern.match(line):
                return line[:_WIDEST]
    return f"last line: {lines[-1][:_WIDEST]}" if lines else "the log is empty"


def reused_units(log: str | None) -> int:
    """Units that a job took from an earlier run, as its last line of progress says."""
    counts = [int(match[1]) for line in _lines(log) if (match := _REUSED.search(line))] if log else []
    return counts[-1] if counts else 0


def _lines(log: str) -> list[str]:
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def resume_command(arguments: Sequence[str]) -> str:
    """The command line that goes on where a run stopped.

    Args:
        arguments: of the run, without the program; those that force jobs are left out, as they would run all again.
    """
    kept: list[str] = []
    forcing = False
    for argument in arguments:
        if argument.startswith("-"):
            forcing = argument.partition("=")[0] in ("-R", "--forcerun")
            if forcing or argument in ("-f", "--force", "-F", "--forceall"):
                continue
        elif forcing:
            continue
        kept.append(argument)
    return shlex.join(["snakemake", *kept])


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"
