"""Hand a command to a warm process, which has its imports, and do as the command does. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_headroom.checkout import WARM
from lm_headroom.errors import HeadroomError
from lm_headroom.warm import context, sockets

_ASK_TO_END = (*sockets.ASK_TO_END, signal.SIGQUIT)
_PASSED_ON = (*_ASK_TO_END, signal.SIGUSR1, signal.SIGUSR2)
_MOST = 3
"""Warm processes of a kind that stay when another is started, for environments that differ."""
_REAPED = 30.0
"""Seconds to wait for a job whose warm process was killed: the kernel kills it too."""


def run(kind: str | None, module: str, arguments: Sequence[str]) -> int | None:
    """Run ``python -m module arguments`` as a child of a warm process, which this starts if there is none.

    The job has this process's streams, folder, environment and limits; signals to this process reach it, it is killed
    if this process is, and it ends as the job ends.

    Args:
        kind: what the job imports, a key of :data:`lm_headroom.warm.server.PRELOADS`; None runs nothing.
        module: the module.
        arguments: its arguments.

    Returns:
        The exit status; None if the caller has to run the module itself: warm processes are off or cannot be had, or
        the one that had the job was killed, and the job with it. Where this process was asked to end, too, it ends.
    """
    if kind is None or os.environ.get(WARM) != "1" or sys.platform != "linux":
        return None
    try:
        request = {
            "module": module,
            "arguments": list(arguments),
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "path": sys.path,
        }
        if not os.access(os.getcwd(), os.X_OK):
            # This process is in a folder that another cannot enter, as below one of another user.
            return None
        connection = _connect(kind, sockets.folder() / f"{kind}-{context.key(kind)}.sock")
        while connection is not None:
            job = _Job(connection, request)
            status = job.wait()
            if status is not None:
                return _end_as(status)
            connection = sockets.connect(job.elsewhere) if job.elsewhere else None
    except (OSError, HeadroomError):
        pass
    return None


def _connect(kind: str, path: Path) -> socket.socket | None:
    connection = sockets.connect(path)
    if connection is not None:
        return connection
    with sockets.alone(path.parent, kind):
        # Another job may have been faster.
        connection = sockets.connect(path)
        if connection is None:
            sockets.ask_to_leave(path.parent, kind, _MOST)
            with sockets.listen(path) as listening:
                command = [sys.executable, "-m", "lm_headroom.warm.server", kind, str(path), str(listening.fileno())]
                # It outlives this job, and holds neither its folder nor its terminal.
                subprocess.Popen(
                    command,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[listening.fileno()],
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": str(context.PACKAGE.parent), "PYTHONSAFEPATH": "1"},
                )
            connection = sockets.connect(path)
    return connection


class _Job:
    """A command that a warm process runs.

    Attributes:
        elsewhere: the socket of the warm process that is to run the command instead, if the one that was asked says so.
    """

    def __init__(self, connection: socket.socket, request: dict[str, Any]) -> None:
        self.elsewhere: Path | None = None
        self._connection, self._pid = connection, 0
        self._asked_to_end: int | None = None
        sockets.send_request(connection, request)

    def wait(self) -> int | None:
        """The status with which the job ended, as ``os.waitpid`` gives it; None if it did not run to its end here.

        If it did not and this process was asked to end meanwhile, the status is that of a job which this has ended.
        """
        handlers = {**dict.fromkeys(_PASSED_ON, self._pass_on), signal.SIGTSTP: self._pause}
        former = {
            number: signal.signal(number, handler) for number, handler in handlers.items() if self._listens(number)
        }
        try:
            with self._connection:
                return self._follow()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @staticmethod
    def _listens(number: int) -> bool:
        # What the caller ignores, as nohup does, the job ignores too.
        return signal.getsignal(number) is not signal.SIG_IGN

    def _follow(self) -> int | None:
        received = b""
        while True:
            try:
                piece = self._connection.recv(4096)
            except OSError:
                piece = b""
            if not piece:
                self._wait_for_the_end()
                return self._asked_to_end
            received += piece
            lines, _, received = received.rpartition(b"\n")
            for message in sockets.messages(lines):
                if "pid" in message:
                    self._pid = message["pid"]
                elif "elsewhere" in message:
                    self.elsewhere = Path(message["elsewhere"])
                    return self._asked_to_end
                else:
                    return int(message["status"])

    def _pass_on(self, number: int, frame: object) -> None:
        if not self._pid:
            # The job has not begun: it will not, once this connection is closed.
            sys.exit(128 + number)
        if number in _ASK_TO_END:
            self._asked_to_end = number
        sockets.send(self._connection, signal=number)

    def _pause(self, number: int, frame: object) -> None:
        """Stop the job and this process, and go on with both when this is continued, as a terminal's Ctrl-Z asks."""
        sockets.send(self._connection, signal=signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        sockets.send(self._connection, signal=signal.SIGCONT)

    def _wait_for_the_end(self) -> None:
        """Wait until the job is dead, which is killed with its warm process: it must not write beside its successor."""
        end = time.monotonic() + _REAPED
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while self._pid and time.monotonic() < end:
                os.kill(self._pid, 0)
                time.sleep(0.02)


def _end_as(status: int) -> int:
    """End by the signal that ended the job, if one did; else its exit status."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        sys.stdout.flush()
        with contextlib.suppress(OSError):
            # Stopping and ignoring signals end no process; one that ended the job has its default action.
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        return 128 - code
    return code
