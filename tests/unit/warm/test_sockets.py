"""What processes send each other through sockets."""

import os
import subprocess
import sys
from pathlib import Path

from lm_headroom.warm import sockets
from tests.support.paths import ROOT

ASK = """
import pathlib
from lm_headroom.warm.sockets import ask_to_leave
ask_to_leave(pathlib.Path("."), "kept", 0)
print("asked")
"""


def test_a_process_that_does_not_answer_holds_no_output_of_who_asks_it_to_leave(tmp_path):
    """Such as one that is stopped, or loads a model: who reads our output would wait for it to end."""
    listening = sockets.listen(tmp_path / "kept-busy.sock")
    command, environment = [sys.executable, "-c", ASK], {"PYTHONPATH": str(ROOT / "workflow")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=600)
    assert done.stdout == b"asked\n", done.stderr
    connection, _ = listening.accept()
    request, streams = sockets.receive_request(connection)
    assert request == {"leave": True}
    assert len(streams) == 3
    listening.close()


def test_the_process_that_was_used_last_stays(tmp_path):
    """Not the one that was started last: a study would start anew the process that all its jobs share."""
    listening = {name: sockets.listen(tmp_path / f"kept-{name}.sock") for name in ("first", "second", "third")}
    for number, name in enumerate(listening):
        os.utime(tmp_path / f"kept-{name}.sock", (number, number))
    sockets.connect(tmp_path / "kept-first.sock").close()
    sockets.ask_to_leave(tmp_path, "kept", 2)
    asked = []
    for name, listener in listening.items():
        listener.setblocking(False)
        try:
            while True:
                connection, _ = listener.accept()
                if connection.recv(1):
                    asked.append(name)
        except BlockingIOError:
            listener.close()
    assert asked == ["second"]


def test_a_process_that_ends_meanwhile_is_not_asked(tmp_path, monkeypatch):
    listed = [tmp_path / "kept-ended.sock"]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: listed)
    sockets.ask_to_leave(tmp_path, "kept", 0)
