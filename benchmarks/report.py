"""docs/benchmarks.json, and its tables in docs/benchmarks.md."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contest import geometric_mean
from benchmarks.floor import HFLM_AGAINST_PRODUCTS
from benchmarks.pruned import ANSWER, PROMPT, SCORING, SHORT

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "a": "Evaluation",
    "b": "FFN oracle",
    "c": "Head importance",
    "d": "Induction scores",
    "e": "A whole (task, shot) pair",
    "f": "Start-up",
    "g": "The plan (equal: within 25%)",
    "h": "Pruned checkpoints",
    "i": "Log-likelihoods kept",
    "j": "Attention statistics",
    "k": "Evaluation: matrix products alone (equal: as many operations)",
    "l": "FFN oracle: matrix products alone (equal: as many operations)",
    "m": "Removed heads",
}


@dataclass(frozen=True)
class Goal:
    """A speed that was asked for before it was measured.

    Attributes:
        name: what of.
        measure: the letter.
        what: beginning of its rows' ``what``.
        shots: of its rows; None for those without.
        asked: the least ratio.
        summary: what is held against it: the tasks' geometric mean, or the least of them.
        floor: the measure whose rows say what ratio its products alone would have.
    """

    name: str
    measure: str
    what: str
    shots: int | None
    asked: float
    summary: Callable[[list[float]], float] = geometric_mean
    floor: str = ""


GOALS = (
    Goal("evaluation, 5-shot", "a", "evaluation, float32", 5, 2.4, floor="k"),
    Goal("evaluation, 0-shot", "a", "evaluation, float32", 0, 1.7),
    *(Goal(f"evaluation, {k}-shot, the slowest task", "a", "evaluation, float32", k, 1.0, min) for k in (0, 1, 5)),
    Goal("evaluation in bfloat16 against float32, 5-shot", "a", "evaluation, bfloat16 against HFLM in float32", 5, 4),
    Goal("FFN oracle, 5-shot", "b", "", 5, 4.5, floor="l"),
    Goal("head importance, 0-shot", "c", "", 0, 1.7),
    Goal("head importance, 5-shot", "c", "", 5, 1.7),
    Goal("copying", "d", "copying", None, 50),
    Goal("a whole pair, 5-shot", "e", "", 5, 3.5),
    # At most 2% more time.
    Goal("curves with log-likelihoods against curves without", "i", "", 0, 0.98),
    # At most 10% more time.
    *(Goal(f"all criteria against those without attention statistics, {k}-shot", "j", "", k, 0.91) for k in (0, 5)),
    # At most 0.85 of the time.
    Goal("half of the heads removed against the whole model", "m", "", None, 1.18),
)


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write both files; ``out`` has no suffix."""
    rows = sorted(rows, key=lambda row: row["measure"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(rows), encoding="utf-8")


def page(rows: Sequence[Row]) -> str:
    """The tables."""
    dates, commits, machines = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("date", "commit", "machine")
    )
    lines = [
        "# Benchmarks",
        "",
        f"`make bench` measured these ratios on {', '.join(dates)} at commit {', '.join(commits)}:",
        f"{'; '.join(machines)}.",
        "",
        "Each ratio is the other's time over lm-headroom's, for SmolLM2-135M-Instruct on real prompts.",
        "Contestants take turns in one run; a ratio is the median of the rounds, with their range in brackets.",
        "HFLM runs at the faster of its batch sizes 1 and 8, chosen for each row. `equal` compares the results:",
        "in float32, log-likelihoods agree within 2e-3 nats; in bfloat16, accuracies of the same documents agree",
        "within two standard errors of their difference.",
        "",
    ]
    lines += _goals(rows)
    for measure, title in TITLES.items():
        chosen = [row for row in rows if row["measure"] == measure]
        if measure == "h":
            lines += [f"## {measure}. {title}", "", *_pruned(chosen), ""] if chosen else []
            continue
        groups = _groups(chosen)
        if groups:
            lines += [f"## {measure}. {title}", ""]
        for what, part in groups:
            lines += [f"{what[0].upper()}{what[1:]}:", "", *_table(part), ""]
    return "\n".join(lines)


def _goals(rows: Sequence[Row]) -> list[str]:
    """What was asked for beside what was found; the floor where it was measured."""
    lines: list[str] = []
    shows_floor = any(row["what"] == HFLM_AGAINST_PRODUCTS for row in rows)
    for goal in GOALS:
        held = [
            row
            for row in rows
            if (row["measure"], row["shots"]) == (goal.measure, goal.shots) and row["what"].startswith(goal.what)
        ]
        if held:
            outcome = goal.summary([row["ratio"] for row in held])
            counts = [row["operations"] for row in held if "operations" in row]
            count = f"{goal.summary(counts):.2f}" if counts else ""
            floors = [
                row["ratio"] for row in rows
                if row["measure"] == goal.floor and row["what"] == HFLM_AGAINST_PRODUCTS
            ]  # fmt: skip
            floor = f" {goal.summary(floors):.2f} |" if floors else "  |" * shows_floor
            met = outcome >= goal.asked
            # No rounded number that seems to meet a goal that is missed.
            measured = f"{outcome:.2f}" if met or round(outcome, 2) < goal.asked else f"{outcome:.4f}"
            lines.append(f"| {goal.name} ({goal.measure}) | {goal.asked} | {measured} | {_yes(met)} | {count} |{floor}")
    if not lines:
        return []
    return [
        "## Goals",
        "",
        "A goal is a ratio that was set before it was measured: the tasks' geometric mean unless the slowest task",
        "is named, in float32 unless another format is named. *By count* is the other's number of floating-point",
        "operations over lm-headroom's on the same prompts (`benchmarks/operations.py`), which is the ratio if",
        "both computed at one rate and nothing else took time. A higher ratio means that the other wastes more",
        "(batches of one, padding, stored gradients). A lower ratio means that other work than matrix products",
        "(softmax, norms, rotary embeddings, and in e the start-up of each job) weighs more on lm-headroom, which",
        "has fewer of them.",
        *["*Products alone* is the ratio if lm-headroom's matrix products took all of its time,"] * shows_floor,
        *["measured in turns with the others (k, l): no code with these products gets beyond it."] * shows_floor,
        "",
        "| goal | asked | measured | met | by count |" + " products alone |" * shows_floor,
        "|---|---|---|---|---|" + "---|" * shows_floor,
        *lines,
        "",
    ]


def _pruned(rows: Sequence[Row]) -> list[str]:
    """Sizes, speed and accuracy of pruned checkpoints."""
    tasks = list(rows[0]["accuracy"])
    count = rows[0]["documents"]
    lines = [
        "This table compares pruned checkpoints with the whole model, both loaded in float32. Speed is the whole",
        f"model's time over the checkpoint's, in turns: a prefill of {PROMPT} tokens, and {ANSWER} tokens decoded",
        f"one by one after {SHORT}, with a cache; it gives the range of the rounds in brackets, then tokens per",
        "second. Memory is the amount that loading, prefill and decoding add to a process. Parameters, size and",
        f"memory are shares of the whole model's. Accuracy is that of lm-eval's HFLM on the checkpoint, {count}",
        "documents per task, 0-shot, ± standard error; `equal` compares its likelihoods with the masked model's",
        f"on some of them. Rankings are the aggregate over {SCORING} documents of each task.",
        "",
        "| pruned | parameters | size | memory | prefill | decode | " + " | ".join(tasks) + " | equal |",
        "|---" * (7 + len(tasks)) + "|",
    ]
    for row in rows:
        shares = [
            f"{part / whole:.0%} ({part / 1e6:.0f} {unit})"
            for (part, whole), unit in ((row["parameters"], "M"), (row["bytes"], "MB"), (row["memory"], "MB"))
        ]
        speeds = [
            f"{cell['ratio']:.2f} ({cell['spread'][0]:.2f} to {cell['spread'][1]:.2f}), {rate:.0f}/s"
            for cell, rate in zip((row, row["decode"]), row["tokens_per_second"].values(), strict=True)
        ]
        accuracies = [f"{mean:.2f} ± {error:.2f}" for mean, error, _ in row["accuracy"].values()]
        lines.append(f"| {row['task']} | " + " | ".join([*shares, *speeds, *accuracies, _yes(row["equal"])]) + " |")
    return lines


def stamp(threads: int) -> Row:
    """When, at which commit, on what and with which packages a row was made."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval"))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "machine": f"{_processor()}, {threads} threads, {packages}",
    }


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by what is measured; the batch size that was best differs from row to row."""
    result: dict[str, list[Row]] = {}
    for row in rows:
        result.setdefault(row["what"].split(" (batch")[0], []).append(row)
    return list(result.items())


def _table(rows: Sequence[Row]) -> list[str]:
    shots = sorted({row["shots"] for row in rows if row["shots"] is not None})
    if not shots:
        return ["| ratio | range | equal |", "|---|---|---|"] + [
            f"| {row['ratio']:.1f} | {row['spread'][0]:.1f} to {row['spread'][1]:.1f} | {_yes(row['equal'])} |"
            for row in rows
        ]
    lines = ["| task | " + " | ".join(f"{k}-shot" for k in shots) + " | equal |", "|---" * (len(shots) + 2) + "|"]
    for task in dict.fromkeys(row["task"] for row in rows):
        cells = {row["shots"]: row for row in rows if row["task"] == task}
        texts = [
            f"{cells[k]['ratio']:.2f} ({cells[k]['spread'][0]:.2f} to {cells[k]['spread'][1]:.2f})"
            if k in cells
            else ""
            for k in shots
        ]
        lines.append(f"| {task} | {' | '.join(texts)} | {_yes(all(row['equal'] for row in cells.values()))} |")
    means = [f"**{geometric_mean(row['ratio'] for row in rows if row['shots'] == k):.2f}**" for k in shots]
    return [*lines, f"| **geometric mean** | {' | '.join(means)} | |"]


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _commit() -> str:
    """The commit of the code that ran, with a mark where files other than the tables differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/benchmarks.*")
    return f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{'-dirty' if dirty else ''}"
