"""Hand a job over to a warm process that keeps its model, loaded and proved."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lm_headroom.errors import HeadroomError
from lm_headroom.warm import forks, sockets

connection: socket.socket | None = None
"""In a job of a warm process that keeps no model: the connection to who asked for the job."""


def hand_over(identify: Callable[[], str], load: Callable[[], None]) -> None:
    """Send this job to the process that keeps its model, which this starts if there is none.

    Returns where the job is to go on in this process: it was started cold, keeps the model itself, or cannot have a
    process that does. Else this process ends, and who asked for the job asks the other one.

    Args:
        identify: names code, model and number format.
        load: loads the model, and keeps it for who asks for it in this process.
    """
    global connection
    if connection is None:
        return
    try:
        path = sockets.folder() / f"kept-{identify()}.sock"
        listening = _fork_keeper(path)
    except (OSError, HeadroomError):
        # No room for a file or a process, say. What is wrong with the model, the job says itself.
        return
    if listening is not None:
        caller, connection = connection, None
        caller.close()
        _keep(listening, path, load)
    sockets.send(connection, elsewhere=str(path))
    os._exit(0)


def _fork_keeper(path: Path) -> socket.socket | None:
    """Fork the process that keeps a model if none listens at a path: in the fork, its socket; else None."""
    with sockets.alone(path.parent, "kept"):
        listener = sockets.connect(path)
        if listener is not None:
            listener.close()
            return None
        sockets.ask_to_leave(path.parent, "kept", 0)
        listening = sockets.listen(path)
        try:
            pid = os.fork()
        except OSError:
            listening.close()
            raise
        # Out of this job's group before who asked goes away, with whom the group is killed.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return None if pid else listening


def _keep(listening: socket.socket, path: Path, load: Callable[[], None]) -> NoReturn:
    """Load, and serve; the processes that are forked for jobs run these."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    # The job's way to end, which keeps its units.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        # A job that cannot load its model says so itself.
        with contextlib.suppress(HeadroomError):
            load()
        # Not before: the job's paths may begin in its folder, which this process then holds no longer.
        os.chdir("/")
        request = forks.serve(listening, path)
    except BaseException:
        # Who waits sees the connection closed, and runs the job itself, with the message.
        os._exit(1)
    if request is None:
        os._exit(0)
    forks.become(request)
    request.connection.close()
    forks.run(request)
