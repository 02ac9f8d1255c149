"""Find and read the YAML that defines a task. PyYAML only: the Snakefile uses this module at every parse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from lm_headroom.errors import HeadroomError
from lm_headroom.workflow_files import WORKFLOW

TASK_FOLDERS = WORKFLOW / "tasks"
"""Holds a folder of task YAMLs for each value of the study's ``prompts``."""
NAMES = TASK_FOLDERS / "lm-eval.json"
"""Lists the names of the pinned lm-eval, which itself takes a minute to collect them; ``make tasks`` writes it."""
_TASK_LINE = re.compile(r"^['\"]?task['\"]?:[ \t]*['\"]?(\S.*?)['\"]?[ \t]*(?:#.*)?$", re.MULTILINE)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
"""Folders in which lm-eval looks for no tasks."""


def task_yaml(name: str, folder: Path) -> Path | None:
    """Find the YAML below ``folder`` that defines a task, or None; other files may be broken.

    Raises:
        HeadroomError: several files define it.
    """
    paths = [path for path, task in _named(folder, name) if task == name]
    if len(paths) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in paths)
        raise HeadroomError(f"task {name!r} is defined twice in {folder}, by {names}; rename one of them, or remove it")
    return paths[0] if paths else None


def task_names(folder: Path) -> list[str]:
    """List the names of all tasks that YAMLs below ``folder`` define."""
    return sorted({task for _, task in task_yamls(folder)})


def task_yamls(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the YAMLs below ``folder`` that define a task, each with its name."""
    return _named(folder, "")


def yamls_with(folder: Path, text: str) -> Iterator[Path]:
    """Yield the YAMLs below ``folder`` that contain a text, which is faster to check than to parse them."""
    return (path for path in _sorted(folder) if text in _text(path))


def built_in_yaml(name: str, folder: Path) -> Path | None:
    """Find the first YAML with a ``task:`` line of this name in lm-eval's own folder.

    On lm-eval's 14,000 files, this text search is five times as fast as lm-eval's index, which also takes the first.
    Each file is read once in a process, and those after the one that is found not before another name needs them.
    """
    known, unread = _task_lines(folder)
    while name not in known:
        path = next(unread, None)
        if path is None:
            return None
        for line in _TASK_LINE.finditer(_text(path)):
            known.setdefault(line[1], path)
    return known[name]


@cache
def built_in_names() -> dict[str, Any]:
    """The names of lm-eval's ``tasks``, its ``groups`` and tags with their members, and its release, ``lm-eval``."""
    names: dict[str, Any] = json.loads(NAMES.read_text(encoding="utf-8"))
    return names


def knows_names() -> bool:
    """Whether these names are those of the installed lm-eval; where none is, of the pinned one."""
    try:
        return bool(version("lm_eval") == built_in_names()["lm-eval"])
    except PackageNotFoundError:
        return True


def read_task_yaml(path: Path, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    """Read the keys of a YAML.

    Raises:
        HeadroomError: the file is missing, is not YAML, or holds something other than keys.
    """
    try:
        # As bytes, so that YAML detects the encoding.
        content = yaml.load(path.read_bytes(), Loader=loader)
    except OSError as error:
        raise HeadroomError(f"{path} cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HeadroomError(f"{path} is no YAML in UTF-8: {' '.join(str(error).split())}; mend the file") from error
    if not isinstance(content, dict):
        content_type = "nothing" if content is None else f"a {type(content).__name__}"
        raise HeadroomError(f"{path} holds {content_type}; expected the keys of a task, such as 'task: NAME'")
    return content


def _named(folder: Path, text: str) -> Iterator[tuple[Path, str]]:
    """Yield the YAMLs below a folder that contain ``text`` and name a task, each with the name."""
    for path in yamls_with(folder, text):
        task = _task_of(_text(path))
        if task is not None:
            yield path, task


@cache
def _installed(folder: Path) -> list[Path]:
    """The YAMLs of an installed package, which do not change while a process runs."""
    return _sorted(folder)


@cache
def _task_lines(folder: Path) -> tuple[dict[str, Path], Iterator[Path]]:
    """The first YAML by each name of the ``task:`` lines that were read so far, and the YAMLs that were not."""
    return {}, iter(_installed(folder))


def _sorted(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*.yaml") if path.is_file() and _IGNORED.isdisjoint(path.parts))
    return sorted(paths, key=Path.as_posix)


def _text(path: Path) -> str:
    """Read a file as text; invalid bytes become replacement characters."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig", errors="replace")


def _task_of(content: str) -> str | None:
    """Get the value of the key ``task`` of a YAML's text, or of its ``task:`` line if the YAML is broken."""
    try:
        # Composed, not constructed: functions and includes are ignored.
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        line = re.search(r"^task[ \t]*:[ \t]*(['\"]?)(.*?)\1[ \t]*(#.*)?$", content, re.MULTILINE)
        return line[2] if line else None
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "task" and isinstance(value, yaml.ScalarNode):
            return str(value.value)
    return None
