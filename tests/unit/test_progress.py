import re
from itertools import pairwise

import pytest

from lm_headroom import progress as module
from lm_headroom.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """Seconds, moved by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_durations():
    assert [duration(s) for s in (0, 59.4, 75, 7300, float("inf"))] == [
        "0 s",
        "59 s",
        "1 min 15 s",
        "2 h 01 min",
        "unknown time",
    ]


def test_lines_have_share_rate_and_time_left(capsys):
    progress = Progress("prune copa 0-shot", 200, "documents", interval=0)
    progress.advance(50)
    assert progress.line(10) == "prune copa 0-shot: 50/200 documents (25%), 5.0/s, 30 s left"
    progress.advance(150)
    assert progress.line(40).endswith("200/200 documents (100%), 5.0/s, done in 40 s")
    printed = capsys.readouterr().err
    assert printed.count("\n") == 2
    assert "\r" not in printed


def test_lines_grow_rare_as_time_passes(clock, capsys):
    progress = Progress("prune copa", 10_000, "documents")
    times = []
    for _ in range(1200):
        clock.now += 1
        progress.advance()
        if capsys.readouterr().err:
            times.append(round(clock.now - 100))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[:3] == [10, 20, 30]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 60
    assert len(times) < 45


def test_rate_and_time_left_follow_recent_work(clock, capsys):
    """Documents come sorted by length: the first hundred are eight times as fast as the rest."""
    progress = Progress("prune copa", 300, "documents")
    for seconds in [0.125] * 100 + [1] * 100:
        clock.now += seconds
        progress.advance()
    done, left = re.search(
        r"(\d+)/300 documents .*, 1\.0/s, 1 min (\d+) s left", capsys.readouterr().err[-100:]
    ).groups()
    assert int(done) + 60 + int(left) == 300
    for _ in range(100):
        clock.now += 1
        progress.advance()
    assert "300/300 documents (100%), 1.4/s, done in 3 min 32 s" in capsys.readouterr().err


def test_reused_units_are_done_but_say_nothing_of_the_rate(clock, capsys):
    progress = Progress("prune copa", 400, "documents")
    progress.reuse(300)
    assert capsys.readouterr().err == ""
    clock.now += 10
    progress.advance(20)
    assert capsys.readouterr().err == ("prune copa: 320/400 documents (80%), 300 reused, 2.0/s, 40 s left\n")
    progress.reuse(80)
    assert capsys.readouterr().err == "prune copa: 400/400 documents (100%), 380 reused, 2.0/s, done in 10 s\n"


def test_a_job_of_which_everything_is_reused_says_so(clock, capsys):
    progress = Progress("prune copa", 40, "documents")
    progress.reuse(40)
    assert capsys.readouterr().err == "prune copa: 40/40 documents (100%), 40 reused, done in 0 s\n"


def test_slow_work_is_told_by_the_minute(clock, capsys):
    progress = Progress("ffn", 10, "layers")
    clock.now += 60
    progress.advance()
    assert capsys.readouterr().err == "ffn: 1/10 layers (10%), 1.0/min, 9 min 00 s left\n"
