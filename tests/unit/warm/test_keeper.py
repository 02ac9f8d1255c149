"""Handing a job over to the process that keeps its model."""

import os
import socket
import tempfile

from lm_headroom.warm import keeper, sockets


def test_a_job_goes_on_where_no_process_can_be_had(monkeypatch):
    """As where a limit on processes or memory is reached; nobody is then sent to a socket that none serves."""
    asked = []

    def refuse():
        asked.append(True)
        raise BlockingIOError("no more processes")

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(keeper, "connection", ours)
    # A short name, as a socket's place must have.
    with ours, theirs, tempfile.TemporaryDirectory(prefix="warm-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        keeper.hand_over(lambda: "model", lambda: None)
        assert sockets.connect(sockets.folder() / "kept-model.sock") is None
    assert asked
