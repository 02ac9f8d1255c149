"""Claim GPUs for a job before torch sees any, so that concurrent jobs on one host use different ones. No torch.

A claim is a lock on one file per GPU in a folder of the user. The kernel releases it when the process ends, however it
ends, so nothing needs cleaning up.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lm_headroom.errors import HeadroomError
from lm_headroom.places import private_folder

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 1.0
"""Seconds between two attempts to lock."""
REMIND = 600.0
"""Seconds between two reminders that a job still waits."""
_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
_LISTED = re.compile(r"^\s*(GPU|MIG).*\(UUID: ([\w/-]+)\)", re.MULTILINE)
_held: list[FileLock] = []
"""Locks that this process holds until it ends."""


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance of one.

    Attributes:
        name: its name in ``CUDA_VISIBLE_DEVICES``.
        key: its identity on this host.
    """

    name: str
    key: str


def claim(count: int) -> None:
    """Claim GPUs for the rest of this process's life and hide all others from it.

    Waits, and prints that it waits, while too few GPUs are free. Does nothing if no GPU is visible or ``count`` is 0.

    Args:
        count: how many.

    Raises:
        HeadroomError: fewer GPUs are visible, or the folder of locks belongs to another user.
    """
    devices = visible_gpus(os.environ)
    if not devices or not count:
        return
    if len(devices) < count:
        raise HeadroomError(
            f"the job needs {count} GPUs (config key 'gpus', option --gpus) but only {len(devices)} "
            f"{'is' if len(devices) == 1 else 'are'} visible "
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
            needed = "a GPU" if count == 1 else f"{count} GPUs"
            print(f"waiting for {needed}: other lm-headroom jobs hold all visible ones", file=sys.stderr, flush=True)
        time.sleep(POLL)
    os.environ[VISIBLE] = ",".join(device.name for device in claimed)


def visible_gpus(environ: Mapping[str, str]) -> list[Device]:
    """List the GPUs this process may use: those named in ``CUDA_VISIBLE_DEVICES``, else all GPUs of the host."""
    listed = _list_gpus()
    names = environ.get(VISIBLE)
    if names is None:
        # A GPU that is split into MIG instances can only be used through them.
        return [Device(uuid, uuid) for gpu, *instances in listed for uuid in (instances or [gpu])]
    # Without the driver's list, the scheduler's job identifies a number: each job may have its own GPU 0.
    job = next((environ[name] for name in _ALLOCATIONS if name in environ), "")
    devices: list[Device] = []
    for name in (part.strip() for part in names.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name):
            # CUDA, too, ignores everything from the first invalid name on.
            break
        if name.isdecimal():
            key = listed[int(name)][0] if int(name) < len(listed) else f"{job}.{name}"
        else:
            key = next((uuid for gpu in listed for uuid in gpu if uuid.startswith(name)), name)
        if key not in {device.key for device in devices}:
            devices.append(Device(name, key))
    return devices


def runs_on_cpu(device: str) -> bool:
    """Whether a job on a device of the settings will use no GPU, of those that the driver lists or torch finds.

    Torch finds some that nvidia-smi does not list, as those of AMD.
    """
    if device == "cpu":
        return True
    if visible_gpus(os.environ):
        return False
    # Only in a process that has imported it, or is about to.
    import torch

    return not torch.cuda.is_available()


def _list_gpus() -> list[list[str]]:
    """List the UUIDs of the host's GPUs, each followed by those of its MIG instances; empty without a driver."""
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
    """Create and return the folder of this user's locks on this host.

    Raises:
        HeadroomError: another user created it.
    """
    return private_folder(Path(tempfile.gettempdir()) / f"lm-headroom-gpus-{os.getuid()}")


def _try_claim(devices: Sequence[Device], count: int, folder: Path) -> list[Device]:
    """Lock ``count`` of the devices and return them; lock none and return an empty list if too few are free."""
    # One process at a time: two processes that each hold a part of what both need would deadlock.
    with FileLock(folder / "turn", fallback_to_soft=False):
        claimed: list[tuple[Device, FileLock]] = []
        for device in devices:
            lock = FileLock(folder / re.sub(r"[^\w.-]", "_", device.key), timeout=0, fallback_to_soft=False)
            try:
                lock.acquire()
            except Timeout:
                continue
            claimed.append((device, lock))
            if len(claimed) == count:
                _held.extend(lock for _, lock in claimed)
                return [device for device, _ in claimed]
        for _, lock in claimed:
            lock.release()
        return []
