"""Where a study's tasks come from: the folders with their definitions, and the source of their records.

Standard library and PyYAML only: the Snakefile uses this module at every parse.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lm_headroom.errors import HeadroomError
from lm_headroom.study.task_entry import Data, expanded
from lm_headroom.tasks.digest import explain_no_choices, task_config, task_digest
from lm_headroom.tasks.files import TASK_FOLDERS, built_in_names, built_in_yaml, knows_names, task_yaml

OWN = "study"
"""Source of records, and of a definition, that are a file of the study's own."""
HUB: Final = "hub"
"""Source of records that are the hub's."""


class TaskSources:
    """Definitions and records of a study's tasks.

    Attributes:
        study: the typed study.
        own_folders: the study's folders of task YAMLs.
        folders: all folders of task YAMLs, those that come first before others.
    """

    def __init__(self, study: Any, base: Path = Path()) -> None:
        """Say where they are.

        Args:
            study: the typed study.
            base: what relative paths of the study are relative to.
        """
        self.study = study
        self.own_folders = [base / expanded("task_folders", path) for path in study.task_folders]
        self.folders = [*self.own_folders, TASK_FOLDERS / study.prompts]

    def folder(self, task: str) -> Path:
        """The folder whose YAML defines a task, or the last one for a task of lm-eval's.

        Raises:
            HeadroomError: several of the study's own folders define it.
        """
        own = [folder for folder in self.own_folders if task_yaml(task, folder)]
        if len(own) > 1:
            raise HeadroomError(f"task {task!r} is defined in {own[0]} and in {own[1]}; rename one of them")
        return own[0] if own else self.folders[-1]

    def data(self, task: str) -> Data | None:
        """The source of a task's records; None if the study names a file.

        A task of the study's own folders reads the data set that its YAML names, unless the study says otherwise.
        """
        entry = self.study.all_entries[task]
        if entry.file is not None:
            return None
        is_own = self.folder(task) in self.own_folders
        # The study is untyped here, so that no new key of it is new code of prompts.
        data: Data = entry.data or (Data(source=HUB) if is_own else self.study.data)
        return data

    def source(self, task: str) -> str:
        """The kind of that source."""
        data = self.data(task)
        return OWN if data is None else data.source

    def digest(self, task: str) -> str:
        """Digest of a task's definition.

        Raises:
            HeadroomError: a file that defines it cannot be read.
        """
        entry = self.study.all_entries[task]
        return task_digest(task, self.folder(task)) if entry.file is None else str(entry.digest)

    def check_name(self, task: str) -> None:
        """Refuse the name of another task for a file of one's own: results would pass for those of the other.

        Raises:
            HeadroomError: names the YAML that has the name.
        """
        # Its files, which take seconds to read, only where its names do not say that it has no such task.
        harness = None if knows_names() and task not in built_in_names()["tasks"] else find_spec("lm_eval")
        theirs = [Path(str(harness.origin)).parent / "tasks"] if harness else []
        for folder in (*self.own_folders, TASK_FOLDERS, *theirs):
            path = built_in_yaml(task, folder)
            if path is not None:
                raise HeadroomError(
                    f"task {task!r} has a file of your own, but {path} defines {task!r}, too; rename yours"
                )

    def check_choices(self) -> None:
        """Refuse tasks without choices where a criterion is of the loss of choosing.

        What a task of lm-eval's own has is known once its prompts are rendered; scoring then refuses it.

        Raises:
            HeadroomError: names the criterion and the task.
        """
        for key, criterion in self.study.choosing_criteria[:1]:
            for task, entry in self.study.all_entries.items():
                path = None if entry.file else task_yaml(task, self.folder(task))
                if path and task_config(task, path).get("output_type") == "loglikelihood":
                    raise HeadroomError(f"config key {key!r}: {criterion!r} {explain_no_choices(task)}")
