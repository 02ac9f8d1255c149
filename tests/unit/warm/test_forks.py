"""The process that forks others for jobs."""

import gc
import os
import socket
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from lm_headroom.warm import forks, sockets


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Ask this process for a job, as a warm one that cannot fork: how often it has tried, and whether it listens."""
    module = ModuleType("edited")
    module.__file__ = str(tmp_path / "edited.py")
    (tmp_path / "edited.py").write_text("VALUE = 1")
    monkeypatch.setitem(sys.modules, "edited", module)
    forked = []

    def refuse():
        forked.append(True)
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    with tempfile.TemporaryDirectory(prefix="warm-", dir="/tmp") as folder:
        path = Path(folder, "report-x.sock")
        server = forks._Server(sockets.listen(path), path)
        server._selector.register(server._listening, 1)

        def asking():
            with socket.socket(socket.AF_UNIX) as connection, open(os.devnull, "r+b") as nowhere:
                connection.connect(str(path))
                sockets.send_request(connection, {"module": "job"}, [nowhere.fileno()] * 3)
                opened = set(os.listdir("/proc/self/fd"))
                assert server._accept() is None
                assert set(os.listdir("/proc/self/fd")) <= opened
                assert connection.recv(1) == b""
            return len(forked), path.exists()

        yield asking
        server._take_no_more()
        server._leave_to_the_parent()


def test_where_no_process_can_be_had_who_asks_is_refused(ask):
    """And the jobs that run already go on."""
    assert [ask(), ask()] == [(1, True), (2, True)]


def test_a_process_takes_no_more_jobs_once_what_it_imported_is_edited(ask, tmp_path):
    """As in a package that is installed from its checkout: the next job starts another process."""
    assert ask() == (1, True)
    (tmp_path / "edited.py").write_text("VALUE = 22")
    assert ask() == (1, False)
