"""The prompts of one task, shot and seed, read once: a row per choice of a document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.store import ArtifactFile, Source, read_artifact
from lm_headroom.artifacts.turns import Template
from lm_headroom.errors import HeadroomError

_ORIGIN = ("task", "task_version", "shots", "seed", "data")
"""What results record of the prompts that they were measured on."""


@dataclass(frozen=True)
class PromptSet:
    """A prompts artifact that was read and checked."""

    artifact: ArtifactFile

    @property
    def path(self) -> Path:
        """The file."""
        return self.artifact.path

    @property
    def source(self) -> Source:
        """What the provenance of a result records of this input."""
        return self.artifact.source

    @property
    def provenance(self) -> dict[str, Any]:
        """Task, shots, seed and data, for the provenance of what is made from these prompts."""
        return {key: self.artifact.provenance[key] for key in _ORIGIN if key in self.artifact.provenance}

    @property
    def task(self) -> str | None:
        """The task; None where the prompts do not say it."""
        return self.provenance.get("task")

    def label(self, step: str, model: str) -> str:
        """What progress lines call a step of a model on these prompts."""
        return f"{step} {model}, {self.task or self.path.stem} {self.provenance.get('shots', '?')}-shot"

    def rows(self, purpose: str, chat: Template | None = None) -> pa.Table:
        """Rows of one purpose.

        Args:
            purpose: ``importance`` or ``evaluation``.
            chat: the model's chat template, by which contexts are rendered; None for plain text.

        Raises:
            HeadroomError: there are none, or they have no turns for the template.
        """
        table = self.artifact.table.filter(pc.field("purpose") == purpose)
        if table.num_rows == 0:
            raise HeadroomError(f"{self.path}: no rows with purpose {purpose!r}")
        return _as_chat(table, chat, self.path) if chat else table


def _as_chat(table: pa.Table, chat: Template, path: Path) -> pa.Table:
    turns = table.column("turns").to_pylist()
    if None in turns:
        raise HeadroomError(f"{path}: these prompts have no turns for a chat template; render them again")
    rendered: dict[str, str] = {}
    contexts = []
    for each in turns:
        key = json.dumps(each)
        if key not in rendered:
            rendered[key] = chat.render(each)
        contexts.append(rendered[key])
    for name, values in (("context", pa.array(contexts)), ("continuation", table.column("reply"))):
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
    return table


def read_prompts(path: Path, **expected: Any) -> PromptSet:
    """Read a prompts artifact.

    Args:
        path: the artifact.
        expected: what its provenance must say (see :func:`lm_headroom.artifacts.store.read_artifact`).

    Raises:
        ArtifactError: it is none, or not the one expected.
    """
    return PromptSet(read_artifact(path, PROMPTS, **expected))


def pairs(table: pa.Table) -> list[tuple[int, str, str]]:
    """(doc_id, context, continuation) of prompt rows."""
    return list(zip(*(table.column(c).to_pylist() for c in ("doc_id", "context", "continuation")), strict=True))


def right_choices(table: pa.Table) -> list[tuple[bool, ...]]:
    """Which choices of each document are right, from prompt rows in order."""
    rows = zip(table.column("doc_id").to_pylist(), table.column("gold").to_pylist(), strict=True)
    return [tuple(gold for _, gold in document) for _, document in groupby(rows, key=itemgetter(0))]


def first_gold(table: pa.Table) -> pa.Table:
    """One row per document: its first right choice, the y of eq. 8."""
    table = table.filter(pc.field("gold"))
    ids = table.column("doc_id").to_pylist()
    return table.take([i for i, doc_id in enumerate(ids) if i == 0 or ids[i - 1] != doc_id])
