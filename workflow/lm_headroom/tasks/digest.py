"""Digest of a task's YAML by its parsed content, with includes merged and functions represented by their code.

The digest ignores comments, formatting and the paths of local data, whose content :mod:`lm_headroom.tasks.data`
digests. Standard library and PyYAML only: the Snakefile uses this module at every parse.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from lm_headroom.artifacts.code_digest import source_digest, source_imports
from lm_headroom.errors import HeadroomError
from lm_headroom.tasks.files import read_task_yaml, task_yaml
from lm_headroom.workflow_files import IMPORT_FOLDER, PACKAGE

PLACES = ("data_files", "data_dir", "cache_dir")
"""Keys of ``dataset_kwargs`` with the paths of data."""


def task_digest(name: str, folder: Path) -> str:
    """Compute the digest of a task: of its YAML in ``folder``, or lm-eval's version for lm-eval's own tasks.

    Raises:
        HeadroomError: the YAML, a file that it includes or a module of its functions cannot be read.
    """
    path = task_yaml(name, folder)
    if path is None:
        try:
            return f"lm-eval {version('lm_eval')}"
        except PackageNotFoundError:
            # The scheduling host may lack lm-eval; its version then follows from the pinned environment.
            return "lm-eval"
    content = task_config(name, path)
    if has_local_data(content):
        kwargs = content.get("dataset_kwargs") or {}
        content["dataset_kwargs"] = {key: value for key, value in kwargs.items() if key not in PLACES}
        if Path(str(content["dataset_path"])).is_dir():
            content["dataset_path"] = "a folder"
    try:
        text = json.dumps(content, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise HeadroomError(f"task {name!r}: the keys of {path} have no order, or it holds itself ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def task_config(name: str, path: Path) -> dict[str, Any]:
    """Read a task's keys with its includes merged; a function becomes its name and the digests of its modules.

    Raises:
        HeadroomError: a file cannot be read; names it and the task.
    """
    try:
        return _load(path, ())
    except HeadroomError as error:
        raise HeadroomError(f"task {name!r}: {error}") from error


def explain_no_choices(task: str | None) -> str:
    """Why a criterion by the loss of choosing cannot score a task."""
    return f"compares answer choices, and task {task!r} has none; leave out the task, or the criterion"


def has_local_data(config: dict[str, Any]) -> bool:
    """Whether a task reads its data set from local files, through a reader such as ``json`` or from a folder."""
    path, kwargs = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if not isinstance(path, str) or not isinstance(kwargs, dict):
        return False
    named = json.dumps([kwargs.get("data_files"), kwargs.get("data_dir")])
    return Path(path).is_dir() or ("/" not in path and "://" not in named and named != "[null, null]")


def _load(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in including:
        raise HeadroomError(f"{path}: the task YAML includes itself")

    class Loader(yaml.SafeLoader):
        """Resolves ``!function module.name`` relative to this YAML."""

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> dict[str, Any]:
        name = str(loader.construct_scalar(node))
        return {"function": name, "code": _code(name.rpartition(".")[0], path.parent)}

    Loader.add_constructor("!function", function)
    content = read_task_yaml(path, Loader)
    includes = content.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        if not isinstance(include, str):
            raise HeadroomError(f"{path}: include names {include!r}; expected the path of a YAML")
        merged.update(_load(path.parent / include, (*including, path)))
    return {**merged, **content}


def _code(module: str, folder: Path) -> dict[str, str]:
    """Compute digests of a module and of the local modules that it imports, by name; installed packages are left out.

    Raises:
        HeadroomError: a module cannot be read or parsed.
    """
    digests: dict[str, str] = {}
    pending = [(module, folder)]
    while pending:
        name, beside = pending.pop()
        path = _module_file(name, beside)
        if path is None or str(path) in digests:
            continue
        try:
            digests[str(path)] = source_digest(path)
            imports = source_imports(path)
        except (OSError, ValueError, SyntaxError) as error:
            raise HeadroomError(f"{path}, which its functions need, cannot be read ({error}); mend the file") from error
        pending += [(imported, path.parent) for imported in imports]
    # Without folders, which may be moved.
    return {f"{number} {Path(path).name}": digest for number, (path, digest) in enumerate(digests.items())}


def _module_file(name: str, folder: Path) -> Path | None:
    """Find the file of a user's module: relative to the file that names it, as lm-eval does, or where Python looks in a
    job: in the working folder and this package."""
    dots = len(name) - len(name.lstrip("."))
    if dots:
        folder = folder.joinpath(*[".."] * (dots - 1))
    parts = name.lstrip(".").split(".")
    # Of an installed package's folder, only the package itself: all that Python has may lie beside it.
    own = [IMPORT_FOLDER] if parts[0] == PACKAGE.name else []
    roots = [folder] if dots else [folder, Path.cwd(), *own]
    for root in roots:
        base = root.joinpath(*parts)
        for candidate in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate.resolve()
    return None
