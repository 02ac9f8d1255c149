"""Fork a process for each job that asks, and let it run as the job would by itself."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lm_headroom.checkout import WARM, WARM_SECONDS
from lm_headroom.warm import context, sockets

_IDLE = 60.0
"""What :data:`lm_headroom.checkout.WARM_SECONDS` is where it gives no number of 0 or more."""
_LONGEST = 86400.0
"""A day: the system's clock holds no endless wait."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Request:
    """A job that this process, a fork, is to run, with its streams and the connection to who asked."""

    body: dict[str, Any]
    streams: list[int]
    connection: socket.socket


def serve(listening: socket.socket, path: Path) -> Request | None:
    """Fork a process for each request that arrives.

    Args:
        listening: the socket.
        path: its place, which is removed in the end.

    Returns:
        In a forked process, its request; in this one None, after it was idle, asked to end or its socket removed.
    """
    return _Server(listening, path).serve()


def _idle_seconds() -> float:
    # It changes no result: what is no number of seconds does not keep warm processes from being had.
    with contextlib.suppress(ValueError):
        seconds = float(os.environ.get(WARM_SECONDS, _IDLE))
        if seconds >= 0:
            return min(seconds, _LONGEST)
    return _IDLE


class _Server:
    def __init__(self, listening: socket.socket, path: Path) -> None:
        self._listening, self._path = listening, path
        self._inode = path.stat().st_ino
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, socket.socket] = {}
        self._running: set[int] = set()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._is_asked_to_end = False
        self._former: dict[int, Any] = {}
        self._imported = context.imported()
        self._states = context.states(self._imported)

    def serve(self) -> Request | None:
        heard = [number for number in sockets.ASK_TO_END if signal.getsignal(number) is not signal.SIG_IGN]
        self._former = {number: signal.signal(number, self._note) for number in (signal.SIGCHLD, *heard)}
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        last, idle = time.monotonic(), _idle_seconds()
        while self._running or (time.monotonic() - last < idle and self._is_here()):
            for key, _ in self._selector.select(timeout=5.0):
                last = time.monotonic()
                if key.fileobj is self._listening:
                    request = self._accept()
                    if request is not None:
                        return request
                elif key.fileobj is self._woken:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:
                    self._hear(key.data, key.fileobj)
            self._reap()
            if self._is_asked_to_end:
                self._take_no_more()
        self._take_no_more()
        return None

    def _note(self, number: int, frame: object) -> None:
        # Jobs are asked themselves, by whoever asks all processes of a run or a user, and may have work to keep.
        self._is_asked_to_end |= number != signal.SIGCHLD

    def _take_no_more(self) -> None:
        if self._listening.fileno() < 0:
            return
        if self._is_here():
            self._path.unlink(missing_ok=True)
        self._selector.unregister(self._listening)
        self._listening.close()

    def _is_here(self) -> bool:
        return self._path.exists() and self._path.stat().st_ino == self._inode

    def _accept(self) -> Request | None:
        connection, _ = self._listening.accept()
        # Who asks has sent all at once; a process that hangs halfway does not hold up the others for long.
        connection.settimeout(10.0)
        try:
            body, streams = sockets.receive_request(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        connection.settimeout(None)
        if "leave" in body or _is_closed(connection):
            if "leave" in body and not self._running:
                self._path.unlink(missing_ok=True)
            _refuse(connection, streams)
            return None
        # A name has the times of folders, which an edited file within a package leaves alone. 4 to 12 ms.
        if context.states(self._imported) != self._states:
            self._take_no_more()
            _refuse(connection, streams)
            return None
        parent = os.getpid()
        # Objects of this process are no garbage of its forks, which would copy all memory to look for some.
        gc.freeze()
        try:
            pid = os.fork()
        except OSError:
            # No room for a process now. Who asked runs the job itself; to end would kill the jobs that are there.
            _refuse(connection, streams)
            return None
        if pid == 0:
            self._leave_to_the_parent()
            _die_with(parent)
            return Request(body, streams, connection)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        for stream in streams:
            os.close(stream)
        self._running.add(pid)
        self._jobs[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, data=pid)
        sockets.send(connection, pid=pid)
        return None

    def _leave_to_the_parent(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._selector.close()
        for end in (self._listening, self._woken, self._waker, *self._jobs.values()):
            end.close()

    def _hear(self, pid: int, connection: Any) -> None:
        """Pass on signals; who asked and is gone takes the job along."""
        try:
            received = connection.recv(4096)
        except OSError:
            received = b""
        with contextlib.suppress(ProcessLookupError):
            for message in sockets.messages(received):
                os.kill(pid, int(message["signal"]))
            if not received:
                self._drop(pid)
                os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            self._running.discard(pid)
            if pid in self._jobs:
                sockets.send(self._jobs[pid], status=status)
                self._drop(pid)

    def _drop(self, pid: int) -> None:
        connection = self._jobs.pop(pid)
        self._selector.unregister(connection)
        connection.close()


def _refuse(connection: socket.socket, streams: list[int]) -> None:
    connection.close()
    for stream in streams:
        os.close(stream)


def _is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: a job without a warm process has no one to report to."""
    os.setpgid(0, 0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def become(request: Request) -> None:
    """Take on a job's streams, folder, environment and import path, as if it had been started by who asked."""
    # As matplotlib does with a folder that it makes where a home cannot be written: the warm process removes its own.
    atexit.unregister(shutil.rmtree)
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.body["folder"])
    os.environ.clear()
    os.environ.update(request.body["environment"])
    time.tzset()
    sys.path[:] = request.body["path"]
    importlib.invalidate_caches()
    tempfile.tempdir = None
    # Anew: the old ones believe that they write to a file.
    unbuffered = bool(getattr(sys.stdout, "write_through", False))
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        old = getattr(sys, name)
        raw = io.FileIO(old.fileno(), mode, closefd=False)
        # As the interpreter does at its start.
        lines = not unbuffered and (raw.isatty() or name == "stderr")
        buffer: Any = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
        text = io.TextIOWrapper(buffer, old.encoding, old.errors, None, lines, unbuffered)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(request: Request) -> NoReturn:
    """Run a job's module in this fresh fork; does not return."""
    module = request.body["module"]
    if module == context.PACKAGE.name:
        # This process is the warm one.
        os.environ[WARM] = "0"
    sys.argv[1:] = request.body["arguments"]
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        status = _status(stopped.code)
    except Exception:
        sys.excepthook(*sys.exc_info())
        status = 1
    _end(status)


def _status(code: object) -> int:
    """The exit status of ``sys.exit(code)``, whose text goes to the error stream."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _end(status: int) -> NoReturn:
    """End as the interpreter does, but leave the memory to the system: to free what libraries hold takes a second."""
    vars(threading)["_shutdown"]()
    vars(atexit)["_run_exitfuncs"]()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # The interpreter's own status for it.
        status = status or 120
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status & 0xFF)
