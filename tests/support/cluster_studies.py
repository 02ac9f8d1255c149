"""Studies whose jobs run on nodes of a cluster that exists only for the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.workflow_studies import Study

NODE = """\
#!/bin/sh
# `python` as a compute node has it: without a network, and with faults, each of which happens once.
[ "$2" = lm_headroom ] && [ -n "$SLURM_JOB_ID$ON_NODE" ] || exec {python} "$@"
once() {{ mkdir {notes}/"$1" 2> /dev/null; }}
{faults}
exec {in_network} sh -c '
  echo "$1 $CUDA_VISIBLE_DEVICES: $(readlink /proc/self/ns/net)" >> {notes}/calls; shift
  exec {python} "$@"' node "$3" "$@"
"""
ASKING = """\
import asyncio
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

async def sleep(self):
    await asyncio.sleep(1)

RemoteExecutor.sleep = sleep
main()
"""
"""Snakemake that asks each second which jobs have ended; Slurm's executor asks less often while none has."""
SUBMIT = """\
#!/bin/sh
# The plainest scheduler: starts the script at once, and prints a number for it.
echo "$@" >> {notes}/submitted
for script; do :; done
ON_NODE=1 setsid sh "$script" > /dev/null 2>&1 < /dev/null &
echo $!
"""


class ClusterStudy(Study):
    """A study whose jobs run on nodes, which keep notes in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.started: list[subprocess.Popen[str]] = []
        self._network: subprocess.Popen[bytes] | None = None

    @property
    def notes(self) -> Path:
        """What nodes note."""
        return self.folder / "notes"

    def program(self, name: str, text: str) -> Path:
        """A program that goes before others of its name."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def nodes(self, faults: str = "") -> None:
        """Let jobs run lm-headroom as a node would, with faults, given in shell."""
        self.notes.mkdir(exist_ok=True)
        is_root = os.geteuid() == 0
        network = ["unshare", "--net", *([] if is_root else ["--map-root-user"])]
        if subprocess.run([*network, "true"], capture_output=True).returncode:
            pytest.skip(f"a network cannot be taken away here: {' '.join(network)} fails")
        # One for all jobs, as those of a node have: the jobs of a group share warm processes only within it.
        self._network = subprocess.Popen(
            [*network, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._network.stdout.readline()
        enter = f"nsenter --target {self._network.pid} --net {'' if is_root else '--user --preserve-credentials'}"
        values = {"python": sys.executable, "notes": self.notes, "in_network": enter}
        self.program("python", NODE.format(faults=faults, **values))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own."""
        snakemake = self.program("snakemake", ASKING)
        command = [sys.executable, str(snakemake), "--configfile", self.config_path.name, *arguments]
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "PATH": path}, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            # Tests in the background of a shell inherit that interrupts are ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.started.append(process)
        return process

    def end_all(self) -> None:
        """Kill each Snakemake that still runs, and its jobs on this machine; end the network of the nodes."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if self._network is not None:
            # It ends where its input does.
            self._network.communicate()

    def calls(self) -> list[list[str]]:
        """What ran on nodes: command, the GPUs that it could see with a colon, its network."""
        return [line.split() for line in (self.notes / "calls").read_text().splitlines()]


def wait_for(what: Callable[[], Any], seconds: float, process: subprocess.Popen[str] | None = None) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (outcome := what()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"Snakemake ended: {process.stdout.read() if process.stdout else ''}")
        time.sleep(0.2)
    return outcome


def end(process: subprocess.Popen[str], number: int) -> str:
    """Send Snakemake a signal, wait for its end, and return what it printed."""
    # A job may have started before Snakemake has been told its number, and could not be cancelled.
    time.sleep(5)
    os.kill(process.pid, number)
    return process.communicate(timeout=2400)[0]
