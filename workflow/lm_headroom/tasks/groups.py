"""Groups and tags in place of their tasks, and names that nothing defines, before any job runs.

Standard library and PyYAML only: the Snakefile uses this module at every parse, so lm-eval's own names come from
:data:`lm_headroom.tasks.files.NAMES`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lm_headroom.errors import HeadroomError, nearest
from lm_headroom.study.choices import DEFAULT_PROMPTS
from lm_headroom.study.config import Study
from lm_headroom.study.reading import parse_study, read_file
from lm_headroom.study.task_entry import expanded
from lm_headroom.study.values import check_tasks
from lm_headroom.tasks.digest import task_config
from lm_headroom.tasks.files import TASK_FOLDERS, built_in_names, knows_names, read_task_yaml, task_yamls, yamls_with

ENTRY_LISTS = ("tasks", "unseen")
"""Keys of a study whose values may also say where a task's records are."""
TASK_LISTS = (*ENTRY_LISTS, "transfer.tasks", "head_oracle.tasks", "induction.ablate.tasks")
"""Keys of a study whose values are tasks."""
_HARMLESS = {"task", "group", "task_alias", "group_alias", "aggregate_metric_list", "metadata", "weight_by_size"}
"""Keys of a group's member that leave its task as it is."""


def members_of(listed: Any) -> list[str] | None:
    """Tasks and groups that a group lists; None where it changes them."""
    members: list[str] = []
    for member in listed if isinstance(listed, list) else [listed]:
        inner: list[str] | None = [member] if isinstance(member, str) else None
        if isinstance(member, dict) and set(member) <= _HARMLESS:
            inner = members_of(member.get("task"))
        if inner is None:
            return None
        members += inner
    return members


@dataclass
class TaskNames:
    """What names stand for.

    Attributes:
        tasks: names of tasks.
        groups: group or tag to its members; None where the group changes its tasks.
    """

    tasks: set[str] = field(default_factory=set)
    groups: dict[str, list[str] | None] = field(default_factory=dict)

    def add_folder(self, folder: Path) -> None:
        """Add what the YAMLs of a folder define; those that cannot be read are refused where a task needs them."""
        for path, name in task_yamls(folder):
            self.tasks.add(name)
            with suppress(HeadroomError):
                tags = task_config(name, path).get("tag")
                for tag in tags if isinstance(tags, list) else [tags]:
                    if isinstance(tag, str):
                        self.groups[tag] = [*(self.groups.get(tag) or ()), name]
        for path in yamls_with(folder, "group"):
            with suppress(HeadroomError):
                content = read_task_yaml(path, _Loader)
                if isinstance(content.get("group"), str):
                    self.groups[content["group"]] = members_of(content.get("task"))

    def expand(self, name: str, inside: tuple[str, ...] = ()) -> Iterator[str]:
        """The tasks that a name stands for, in order.

        Raises:
            HeadroomError: a group holds itself, or changes its tasks.
        """
        if name in self.tasks or name not in self.groups:
            yield name
            return
        members = self.groups[name]
        if name in inside or members is None:
            wrong = "holds itself" if members else "changes its tasks, which keep their own definition here"
            raise HeadroomError(f"group {name!r} {wrong}; name tasks, or define them in YAMLs of your own")
        for member in members:
            yield from self.expand(member, (*inside, name))


class _Loader(yaml.SafeLoader):
    """Takes functions for nothing: which tasks a group has does not depend on them."""


_Loader.add_constructor("!function", lambda loader, node: None)


def with_subtasks(values: Mapping[str, Any], base: Path = Path()) -> dict[str, Any]:
    """Keys and values of a study, with the tasks of groups and tags in their place, each once.

    What is no study is left as it is: reading refuses it, and names the key.

    Args:
        values: as the study's files hold them.
        base: what relative paths of the study are relative to.

    Raises:
        HeadroomError: nothing defines a name, with names that are near; or see :meth:`TaskNames.expand`.
    """
    expanded_values = copy.deepcopy(dict(values))
    own = values.get("task_folders") or []
    texts = isinstance(own, list) and all(isinstance(path, str) for path in own)
    paths = [base / expanded("task_folders", path) for path in own] if texts else []
    folders = [TASK_FOLDERS / str(values.get("prompts", DEFAULT_PROMPTS)), *paths]
    if not texts or not all(folder.is_dir() for folder in folders):
        return expanded_values
    listed = built_in_names()
    names = TaskNames(set(listed["tasks"]), dict(listed["groups"]))
    for folder in folders:
        names.add_folder(folder)
    names.tasks.update(_with_files(values))
    for key in TASK_LISTS:
        *sections, last = key.split(".")
        section: Any = expanded_values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        entries = section.get(last) if isinstance(section, dict) else None
        if isinstance(entries, list) and None not in map(_name, entries):
            section[last] = list(_entries(key, entries, names, listed["lm-eval"]))
    return expanded_values


def read_with_subtasks(path: Path, base: Path = Path()) -> Study:
    """A study file, with the tasks of groups and tags in their place; see :func:`with_subtasks`."""
    return parse_study(with_subtasks(read_file(path), base))


def _name(entry: Any) -> str | None:
    """The name of an entry; None where it is none that a task can have."""
    name = entry.get("name") if isinstance(entry, Mapping) else entry
    try:
        return check_tasks([name])[0] if isinstance(name, str) else None
    except ValueError:
        return None


def _with_files(values: Mapping[str, Any]) -> Iterator[str]:
    """Names of the tasks that a study defines by files of the user's own."""
    for key in ENTRY_LISTS:
        entries = values.get(key)
        for entry in entries if isinstance(entries, list) else ():
            name = _name(entry)
            if name is not None and isinstance(entry, Mapping) and entry.get("file"):
                yield name


def _entries(key: str, entries: list[Any], names: TaskNames, release: str) -> Iterator[Any]:
    """Entries with tasks in place of groups; what is there twice as it was written stays so, and is refused later."""
    written = {name for name in map(_name, entries) if name is not None}
    for entry in entries:
        name = _name(entry) or ""
        tasks = list(names.expand(name))
        if tasks == [name]:
            _check_defined(key, name, names, release)
            yield entry
            continue
        for task in tasks:
            if task not in written:
                written.add(task)
                yield {**entry, "name": task} if isinstance(entry, Mapping) else task


def _check_defined(key: str, name: str, names: TaskNames, release: str) -> None:
    """Refuse a name that nothing defines, where the installed lm-eval is the one whose names are known."""
    if knows_names() and name not in names.tasks:
        near = nearest(name, [*names.tasks, *names.groups])
        raise HeadroomError(
            f"config key {key!r}: {name!r} is no task, group or tag of lm-eval {release} or of task_folders{near}"
        )
