"""Sockets that only this user can open, and what is sent through them. Standard library only: each job imports this."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_headroom.places import private_folder

_LENGTH = struct.Struct("!I")
_STREAMS = (0, 1, 2)
ASK_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals by which a system, a scheduler or a terminal asks all processes of a run to end."""


def folder() -> Path:
    """The folder of this user's sockets on this host.

    Raises:
        HeadroomError: another user created it.
    """
    return private_folder(Path(tempfile.gettempdir()) / f"lm-headroom-{os.getuid()}")


@contextlib.contextmanager
def alone(folder: Path, kind: str) -> Iterator[None]:
    """Hold the lock of a kind's sockets, so that one process at a time makes one."""
    with open(folder / f"{kind}.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # A process that was forked meanwhile has the file, too, and with it the lock.
            fcntl.flock(file, fcntl.LOCK_UN)


def connect(path: Path) -> socket.socket | None:
    """A connection to the process that listens at a path, which is used as of now; None if there is none."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return connection


def listen(path: Path) -> socket.socket:
    """Listen at a path; what a killed process left there is taken away.

    Raises:
        OSError: the path is too long for a socket, or cannot be made.
    """
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(128)
    return listening


def send_request(connection: socket.socket, request: dict[str, Any], streams: Sequence[int] = _STREAMS) -> None:
    """Send a request with this process's input, output and error streams, or with others.

    Raises:
        OSError: the other side is gone, or a stream is closed.
    """
    body = json.dumps(request).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
    connection.sendmsg([_LENGTH.pack(len(body))], rights)
    connection.sendall(body)


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a request and its streams.

    Raises:
        OSError: the other side is gone, or sends no request.
    """
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, len(_STREAMS))
    try:
        if len(head) < _LENGTH.size or len(streams) != len(_STREAMS):
            raise ConnectionError("no request")
        body = b""
        while len(body) < _LENGTH.unpack(head)[0]:
            piece = connection.recv(1 << 20)
            if not piece:
                raise ConnectionError("half a request")
            body += piece
        return dict(json.loads(body)), streams
    except Exception:
        for stream in streams:
            os.close(stream)
        raise


def send(connection: socket.socket, **message: Any) -> None:
    """Send a message; nothing happens where the other side is gone."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def messages(received: bytes) -> list[dict[str, Any]]:
    """The messages in what was received, each a line."""
    return [dict(json.loads(line)) for line in received.splitlines()]


def ask_to_leave(folder: Path, kind: str, most: int) -> None:
    """Ask the least recently used processes of a kind to end, those that run no job: their memory would add up.

    Args:
        folder: the folder of sockets.
        kind: the kind.
        most: how many may stay.
    """
    listening = sorted(folder.glob(f"{kind}-*.sock"), key=_last_use, reverse=True)
    for path in listening[most:]:
        connection = connect(path)
        if connection is None:
            path.unlink(missing_ok=True)
            continue
        # A process that is busy or stopped holds what it is sent, so that who reads our output would wait for it.
        with connection, open(os.devnull, "r+b") as nowhere, contextlib.suppress(OSError):
            send_request(connection, {"leave": True}, [nowhere.fileno()] * len(_STREAMS))


def _last_use(path: Path) -> float:
    # A process that ends meanwhile takes its socket along.
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_mtime
    return 0.0
