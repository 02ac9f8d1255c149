from headroom.progress import Progress, duration


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
    assert progress.line(10) == "prune copa 0-shot: 50/200 documents (25 %), 5.0/s, 30 s left"
    progress.advance(150)
    assert progress.line(40).endswith("200/200 documents (100 %), 5.0/s, done in 40 s")
    printed = capsys.readouterr().err
    assert printed.count("\n") == 2
    assert "\r" not in printed
