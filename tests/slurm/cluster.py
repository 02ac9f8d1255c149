"""A private Slurm on this machine, with two GPUs that are not there: started, used and stopped by the tests.

By hand: ``python -m tests.slurm.cluster start FOLDER``, then ``sinfo`` and ``snakemake --workflow-profile
profiles/slurm`` as on a cluster, then ``python -m tests.slurm.cluster stop FOLDER``.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged")
ETC = Path("/etc/slurm")
GPUS = 2
GPU_TYPE = "h200"
MARK = "private-slurm-of-tests"
"""A file in the folder of a Slurm that these tests started."""
SLURM_CONF = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
EnforcePartLimits=ALL
MinJobAge=3600
KillWait=3
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 Boards=1 SocketsPerBoard=1 CoresPerSocket=16 ThreadsPerCore=1 \
RealMemory=64000 Gres=gpu:{gpu_type}:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=1:00:00 DefaultTime=10 DefMemPerCPU=500 State=UP
PartitionName=gpu Nodes={host} MaxTime=4:00:00 DefaultTime=10 DefMemPerCPU=500 State=UP
"""
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
}  # fmt: skip
"""The states in which Slurm leaves a job for good (scontrol's manual)."""
COLUMNS = {
    "job": "JobId",
    "rule": "Comment",
    "partition": "Partition",
    "cpus": "NumCPUs",
    "memory": "mem",
    "gpus": "JOB_GRES",
    "limit": "TimeLimit",
    "ran": "RunTime",
    "state": "JobState",
    "exit": "ExitCode",
}
"""Columns of the history, by what ``scontrol show job`` calls them."""


class Unavailable(Exception):
    """There can be no Slurm here; says why."""


@dataclass(frozen=True)
class Entry:
    """What Slurm knows of a job."""

    job: str
    rule: str
    partition: str
    cpus: str
    memory: str
    gpus: str
    limit: str
    ran: str
    state: str
    exit: str


def install() -> None:
    """Install Slurm from Debian's packages where it is not there.

    Raises:
        Unavailable: it is not wanted, this user may not, there is no apt, or its packages cannot be had.
    """
    if os.environ.get("LM_HEADROOM_SLURM") == "off":
        raise Unavailable("LM_HEADROOM_SLURM=off")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"Slurm is not installed, and only root with apt-get can install {', '.join(PACKAGES)} here")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    order = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
    for command in (order, ["apt-get", "update", "--quiet"], order):
        done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if all(map(shutil.which, PROGRAMS)):
            return
    raise Unavailable(f"{' '.join(order)} failed: {done.stdout.strip().splitlines()[-1]}")


class Cluster:
    """One node, a partition ``cpu`` and a partition ``gpu``; its files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs.

        Raises:
            Unavailable: another Slurm is configured on this machine, or a daemon does not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MARK).touch()
        self._configure()
        socket_, key = self.folder / "munge.socket", self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(1024))
            key.chmod(0o400)
        files = {"key-file": key, "socket": socket_}
        files |= {f"{name}-file": self.folder / f"munged.{name}" for name in ("pid", "log", "seed")}
        self._run("munged", "--force", *(f"--{option}={path}" for option, path in files.items()))
        self._wait("munged", socket_.exists)
        self._run("slurmctld", "-c")
        self._run("slurmd", "-c", "-N", _host())
        self._wait("slurmd", lambda: "idle" in self._ask("sinfo", "--noheader", "--format=%t"))

    def stop(self) -> None:
        """End jobs and daemons, each by its own process id, and take the links in /etc/slurm away."""
        subprocess.run(["scancel", "--user", _user()], capture_output=True)
        for _ in range(50):
            if not self._ask("squeue", "--noheader").strip():
                break
            time.sleep(0.2)
        for name in ("slurmd", "slurmctld", "munged"):
            file = self.folder / f"{name}.pid"
            if file.is_file():
                _end(int(file.read_text()))
                file.unlink(missing_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            if (ETC / name).is_symlink() and (ETC / name).readlink() == self.folder / name:
                (ETC / name).unlink()

    def history(self) -> list[Entry]:
        """All jobs since the start, in their order."""
        text = self._ask("scontrol", "--oneliner", "--details", "show", "job")
        jobs = []
        for line in text.splitlines():
            fields = dict(re.findall(r"(\S+?)=(\S*)", line))
            if "JobId" not in fields:
                continue
            fields |= dict(part.split("=", 1) for part in fields.get("TRES", "").split(",") if "=" in part)
            fields["JOB_GRES"] = fields.get("JOB_GRES", "").replace("(null)", "")
            fields["Comment"] = re.sub(r"^rule_|_wildcards_.*", "", fields.get("Comment", ""))
            jobs.append(Entry(*(fields.get(name, "") for name in COLUMNS.values())))
        return sorted(jobs, key=lambda entry: int(entry.job))

    def running(self) -> list[Entry]:
        """Jobs that have not ended: also those that Slurm still clears away (COMPLETING)."""
        return [entry for entry in self.history() if entry.state not in ENDED]

    def _configure(self) -> None:
        for name in ("slurm.conf", "gres.conf"):
            if _is_abandoned(ETC / name):
                (ETC / name).unlink()
            if (ETC / name).exists():
                raise Unavailable(
                    f"a Slurm is configured on this machine: {ETC / name}. If it is a private one of these tests, end "
                    f"it: python -m tests.slurm.cluster stop {(ETC / name).resolve().parent}"
                )
        for name in ("state", "spool"):
            (self.folder / name).mkdir(exist_ok=True)
        gpus = [self.folder / f"gpu{number}" for number in range(GPUS)]
        try:
            for path in gpus:
                # /dev/null once more: Slurm sets CUDA_VISIBLE_DEVICES for device files only.
                if not path.exists():
                    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            ETC.mkdir(parents=True, exist_ok=True)
            for name in ("slurm.conf", "gres.conf"):
                # Links, because the executor's job step drops SLURM_CONF from the environment.
                (ETC / name).symlink_to(self.folder / name)
        except OSError as error:
            raise Unavailable(f"a private Slurm needs device files and links in {ETC}: {error}") from error
        settings = {"host": _host(), "user": _user(), "folder": self.folder, "gpu_type": GPU_TYPE, "gpus": GPUS}
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**settings))
        lines = [f"Name=gpu Type={GPU_TYPE} File={path} Flags=nvidia_gpu_env\n" for path in gpus]
        (self.folder / "gres.conf").write_text("".join(lines))

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise Unavailable(f"{command[0]} does not start: {done.stdout.strip()}")

    def _ask(self, *command: str) -> str:
        return subprocess.run(command, text=True, capture_output=True).stdout

    def _wait(self, what: str, ready: object, seconds: float = 200.0) -> None:
        end = time.monotonic() + seconds
        while not ready():  # type: ignore[operator]
            if time.monotonic() > end:
                raise Unavailable(f"{what} does not come up within {seconds:.0f} s; its log is in {self.folder}")
            time.sleep(0.2)


def table(entries: Sequence[Entry]) -> str:
    """The history as Markdown."""
    rows = [[*COLUMNS], ["---"] * len(COLUMNS), *([getattr(entry, name) for name in COLUMNS] for entry in entries)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _is_abandoned(link: Path) -> bool:
    """Whether this is the link of a private Slurm whose daemon is gone: a killed test leaves it.

    With it in place every Snakemake on this machine would wait for a controller that does not answer.
    """
    if not link.is_symlink() or (link.exists() and not (link.readlink().parent / MARK).exists()):
        return False
    try:
        os.kill(int((link.readlink().parent / "slurmctld.pid").read_text()), 0)
    except (OSError, ValueError):
        return True
    return False


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
            time.sleep(0.1)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop", "history"):
        sys.exit(__doc__)
    try:
        install()
        cluster = Cluster(Path(sys.argv[2]))
        if sys.argv[1] == "history":
            print(table(cluster.history()))
        else:
            getattr(cluster, sys.argv[1])()
    except Unavailable as error:
        sys.exit(f"no Slurm: {error}")
