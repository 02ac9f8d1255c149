"""No test asserts how long something took: a slower machine would fail it. Tests count; speeds are benchmarks."""

import ast

import pytest

from tests.support.paths import ROOT

CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "getrusage", "monotonic_ns", "time_ns",
          "perf_counter_ns", "process_time_ns"}  # fmt: skip
LEAST = 600
"""Seconds that a time-out leaves: ten times what a slow machine needs for a minute's work."""
WAITS = {"wait_for"}
"""Functions whose assertion is a time-out."""
FILES = sorted((ROOT / "tests").rglob("*.py"))


def reads_clock(node):
    return any(
        isinstance(part, ast.Call) and getattr(part.func, "attr", getattr(part.func, "id", "")) in CLOCKS
        for part in ast.walk(node)
    )


def names(*nodes):
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def stopwatches(source):
    """Lines with an assertion on a clock, or on what was computed from one; and with time-outs that are too short."""
    lines = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or function.name in WAITS:
            continue
        timed = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and reads_clock(node.value):
                timed |= names(*node.targets)
            # What a clock's reading is appended to.
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "append" and reads_clock(node):
                timed |= names(node.func)
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and (reads_clock(node.test) or names(node.test) & timed):
                lines.append(node.lineno)
            limit = node.value if isinstance(node, ast.keyword) and node.arg == "timeout" else None
            if isinstance(limit, ast.Constant) and limit.value is not None and limit.value < LEAST:
                lines.append(limit.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_asserts_on_elapsed_time(path):
    assert stopwatches(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "body",
    [
        "before = time.monotonic()\n    work()\n    assert time.monotonic() - before < 10",
        "took = -process_time()\n    work()\n    assert took < 5",
        "times = []\n    times.append(time.perf_counter() - 1)\n    assert times[0] < 6",
        "process.communicate(timeout=60)",
    ],
)
def test_stopwatches_are_seen(body):
    assert stopwatches(f"def test_it():\n    {body}\n")
