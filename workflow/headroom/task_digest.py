"""Digest of a task's YAML by its parsed content: includes are merged, functions count by their code.

Comments and formatting change nothing. Standard library and PyYAML only: the Snakefile uses it at every parse.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from headroom.digest import source_digest
from headroom.errors import HeadroomError
from headroom.task_files import task_yaml


def task_digest(name: str, folder: Path) -> str:
    """Digest of a task: its own YAML in ``folder``, or lm-eval's version for tasks that lm-eval brings."""
    path = task_yaml(name, folder)
    if path is None:
        try:
            return f"lm-eval {version('lm_eval')}"
        except PackageNotFoundError:
            # The scheduling host may do without lm-eval; then its pinned version is the environment's business.
            return "lm-eval"
    content = json.dumps(_load(path, ()), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _load(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise HeadroomError(f"{path}: the task YAML includes itself")

    class Loader(yaml.SafeLoader):
        """Knows ``!function module.name``, relative to this YAML."""

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> dict[str, str]:
        name = str(loader.construct_scalar(node))
        module = path.parent / f"{name.rpartition('.')[0]}.py"
        # Functions of installed packages count by name.
        return {"function": name, "code": source_digest(module) if module.is_file() else ""}

    Loader.add_constructor("!function", function)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    if not isinstance(content, dict):
        raise HeadroomError(f"{path}: expected a task YAML with keys, found {type(content).__name__}")
    includes = content.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged.update(_load(path.parent / include, (*seen, path)))
    return {**merged, **content}
