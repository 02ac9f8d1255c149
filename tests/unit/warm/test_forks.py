"""The process that forks others for jobs."""

import gc
import os
import socket
import tempfile
from pathlib import Path

import pytest

from lm_headroom.warm import forks, sockets


@pytest.fixture
def server():
    """A process that would serve, in this one."""
    with tempfile.TemporaryDirectory(prefix="warm-", dir="/tmp") as folder:
        path = Path(folder, "report-x.sock")
        with sockets.listen(path) as listening:
            yield forks._Server(listening, path), path


def test_where_no_process_can_be_had_who_asks_is_refused(server, monkeypatch):
    """And the jobs that run already go on."""

    def refuse():
        raise BlockingIOError("no more processes")

    server, path = server
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    with socket.socket(socket.AF_UNIX) as asking, open(os.devnull, "r+b") as nowhere:
        asking.connect(str(path))
        sockets.send_request(asking, {"module": "job"}, [nowhere.fileno()] * 3)
        opened = set(os.listdir("/proc/self/fd"))
        assert server._accept() is None
        assert asking.recv(1) == b""
        assert set(os.listdir("/proc/self/fd")) == opened
