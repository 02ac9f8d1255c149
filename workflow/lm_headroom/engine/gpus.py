"""GPUs of a job: jobs beside each other on one host claim different ones, before torch sees any. No torch.

A claim is a lock on a file per GPU, in a folder of the user's. The kernel drops it when the process ends, however it
ends, so that there is nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lm_headroom.errors import HeadroomError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 1.0
"""Seconds between two looks at the locks."""
REMIND = 600.0
"""Seconds between two lines that say a job still waits."""
_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
_LISTED = re.compile(r"^\s*(GPU|MIG).*\(UUID: ([\w/-]+)\)", re.MULTILINE)
_held: list[TextIO] = []
"""Locked files, open for as long as the process lives."""


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance of one.

    Attributes:
        name: what ``CUDA_VISIBLE_DEVICES`` calls it.
        key: what it is known by on this host.
    """

    name: str
    key: str


def claim(count: int) -> None:
    """Claim GPUs for the rest of this process's life, and let it see no others.

    Waits while too few are free, and says so. Does nothing where no GPU can be seen, or none is wanted.

    Args:
        count: how many.

    Raises:
        HeadroomError: fewer can be seen, or the folder of locks is not the user's.
    """
    devices = visible_gpus(os.environ)
    if not devices or not count:
        return
    if len(devices) < count:
        raise HeadroomError(
            f"a job is to have {count} GPUs (config key 'gpus', option --gpus), and {len(devices)} can be seen here "
            f"({VISIBLE}={os.environ.get(VISIBLE, 'not set')}); ask for fewer, or for a node with more"
        )
    folder = lock_folder()
    reminded: float | None = None
    while True:
        claimed = _try_claim(devices, count, folder)
        if claimed:
            break
        if reminded is None or time.monotonic() - reminded >= REMIND:
            reminded = time.monotonic()
            what = "a GPU" if count == 1 else f"{count} GPUs"
            print(f"waiting for {what}: other jobs of lm-headroom have those seen here", file=sys.stderr, flush=True)
        time.sleep(POLL)
    os.environ[VISIBLE] = ",".join(device.name for device in claimed)


def visible_gpus(environ: Mapping[str, str]) -> list[Device]:
    """The GPUs that this process may use: those that ``CUDA_VISIBLE_DEVICES`` names, else all of the host."""
    listed = _list_gpus()
    names = environ.get(VISIBLE)
    if names is None:
        # A GPU that is cut into MIG instances is used by them alone.
        return [Device(uuid, uuid) for gpu, *instances in listed for uuid in (instances or [gpu])]
    # Without the driver's list a number is known by the scheduler's job: jobs may each have a GPU 0 of their own.
    job = next((environ[name] for name in _ALLOCATIONS if name in environ), "")
    devices: list[Device] = []
    for name in (part.strip() for part in names.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name):
            # As CUDA does: nothing from the first name on that is none.
            break
        if name.isdecimal():
            key = listed[int(name)][0] if int(name) < len(listed) else f"{job}.{name}"
        else:
            key = next((uuid for gpu in listed for uuid in gpu if uuid.startswith(name)), name)
        if key not in {device.key for device in devices}:
            devices.append(Device(name, key))
    return devices


def _list_gpus() -> list[list[str]]:
    """UUIDs of the host's GPUs, each followed by those of its MIG instances; none where the driver lists none."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    uuids: list[list[str]] = []
    for kind, uuid in _LISTED.findall(listing.stdout):
        if kind == "GPU":
            uuids.append([uuid])
        elif uuids:
            uuids[-1].append(uuid)
    return uuids


def lock_folder() -> Path:
    """Where this user's locks are on this host.

    Raises:
        HeadroomError: somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"lm-headroom-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise HeadroomError(f"{folder}: the folder for the locks of this user's GPUs is somebody else's; remove it")
    return folder


def _try_claim(devices: Sequence[Device], count: int, folder: Path) -> list[Device]:
    """Lock ``count`` of the devices, or none."""
    # One process at a time: two that each take a part of what both need would wait for each other.
    with (folder / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        claimed: list[tuple[Device, TextIO]] = []
        for device in devices:
            file = (folder / re.sub(r"[^\w.-]", "_", device.key)).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            claimed.append((device, file))
            if len(claimed) == count:
                _held.extend(lock for _, lock in claimed)
                return [device for device, _ in claimed]
        for _, lock in claimed:
            lock.close()
        return []
