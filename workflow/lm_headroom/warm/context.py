"""What a process inherits and a running one cannot change: jobs share a warm process only where all of it is equal."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
"""Variables that keep libraries from the hub; they read these when they are imported."""
_VOLATILE = {"PWD", "OLDPWD", "SHLVL", "_", "PYTHONPATH", "PYTHONSAFEPATH"}
"""Variables that no library reads when it is imported; a job gets its own values of these, too."""
_OUR_OWN = ("LM_HEADROOM_", "PYTEST_")
_NAMESPACES = ("mnt", "pid", "net", "user", "ipc")
_LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]


def key(kind: str) -> str:
    """Identity of this process's context: the interpreter, the packages it imports, environment and limits.

    Args:
        kind: what the warm process imports, a key of :data:`lm_headroom.warm.server.PRELOADS`.

    Raises:
        OSError: the system does not say, as without /proc.
    """
    return digest(kind, _interpreter(), _environment(), _limits(), sources(PACKAGE / "warm"))


def digest(*values: Any) -> str:
    """A name for values that JSON can write."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:24]


def sources(folder: Path = PACKAGE) -> list[str]:
    """Digests of the Python files below a folder."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.py"))]


def stamps(folder: Path) -> list[tuple[str, int, int, int]]:
    """Names, sizes, times and inodes of the files in a folder, all of which a changed file cannot keep."""
    # Editors leave links to nothing beside a file that is open.
    files = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.exists())
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in files]


def imported() -> list[str]:
    """Files of the modules that this process has imported, but for this package's, whose content is in names."""
    ours = ("__main__", PACKAGE.name)
    others = [module for name, module in [*sys.modules.items()] if name.partition(".")[0] not in ours]
    return [file for module in others if isinstance(file := getattr(module, "__file__", None), str)]


def states(files: Sequence[str]) -> list[tuple[int, int, int] | None]:
    """Sizes, times and inodes of files, of those that are there."""
    return [_state(file) for file in files]


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _interpreter() -> list[Any]:
    # A folder's time changes when a package is installed or removed there. Those of checkouts hold this package.
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = {entry for entry in named if entry and Path(entry, PACKAGE.name).is_dir()}
    folders = [Path(entry) for entry in sys.path if entry and entry not in ours]
    installed = [(str(path.resolve()), path.stat().st_mtime_ns) for path in folders if path.is_dir()]
    working = str(Path.cwd())
    flags = [*sys.flags, sys._xoptions, sys.warnoptions]
    return [sys.executable, sys.version, flags, [entry for entry in installed if entry[0] != working]]


def _environment() -> dict[str, str]:
    names = (name for name in os.environ if name not in _VOLATILE and not name.startswith(_OUR_OWN))
    return {name: os.environ[name] for name in names}


def _limits() -> list[Any]:
    mask = os.umask(0)
    os.umask(mask)
    limits = [resource.getrlimit(getattr(resource, name)) for name in _LIMITS]
    namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES]
    process = [Path(f"/proc/self/{name}").read_text(encoding="utf-8") for name in ("cgroup", "oom_score_adj")]
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    process += [line for line in status if line.startswith(("SigIgn", "SigBlk", "Cap", "NoNewPrivs", "Seccomp"))]
    user = [os.getresuid(), os.getresgid(), os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0)]
    scheduling = [os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, sorted(os.sched_getaffinity(0))]
    return [mask, limits, namespaces, process, user, scheduling, os.stat("/").st_ino]
