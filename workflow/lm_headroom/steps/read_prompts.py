"""Documents of a prompts artifact, tokenised for a model."""

from __future__ import annotations

import sys
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lm_headroom.analysis.metrics import Choices
from lm_headroom.artifacts.prompts import GREEDY, PROMPTS
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.engine.likelihood import encode
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Document
from lm_headroom.errors import HeadroomError


def rows(path: Path, purpose: str) -> pa.Table:
    """Rows of one purpose.

    Raises:
        HeadroomError: there are none.
    """
    table = read(path, PROMPTS).filter(pc.field("purpose") == purpose)
    if table.num_rows == 0:
        raise HeadroomError(f"{path}: no rows with purpose {purpose!r}")
    return table


def pairs(table: pa.Table) -> list[tuple[int, str, str]]:
    """(doc_id, context, continuation) of prompt rows."""
    return list(zip(*(table.column(c).to_pylist() for c in ("doc_id", "context", "continuation")), strict=True))


def tokenise(table: pa.Table, loaded: LoadedModel, add_bos: bool) -> list[Document]:
    """Documents of prompt rows; says on standard error how many were cut to fit the window."""
    documents = encode(pairs(table), loaded.tokenizer, loaded.max_positions, add_bos)
    for document in documents:
        loaded.check_tokens(
            f"document {document.doc_id}", chain.from_iterable(row.tokens for row in document.sequences)
        )
    truncated = sum(document.truncated > 0 for document in documents)
    if truncated:
        print(
            f"{truncated} of {len(documents)} documents lost context to fit {loaded.max_positions} tokens",
            file=sys.stderr,
        )
    return documents


def first_gold(table: pa.Table) -> pa.Table:
    """One row per document: its first right choice, the y of eq. 8."""
    table = table.filter(pc.field("gold"))
    ids = table.column("doc_id").to_pylist()
    return table.take([i for i, doc_id in enumerate(ids) if i == 0 or ids[i - 1] != doc_id])


def choices(table: pa.Table) -> list[Choices]:
    """What is known of each document's choices, in order."""
    found: list[Choices] = []
    names = ("doc_id", "gold", "choice_length", "question", "metric")
    columns = (table.column(c).to_pylist() for c in names)
    for doc_id, members in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        _, gold, lengths, questions, metrics = zip(*members, strict=True)
        known = None if None in lengths else tuple(lengths)
        found.append(Choices(doc_id, tuple(gold), known, questions[0], metrics[0] == GREEDY))
    return found


def task_provenance(path: Path) -> dict[str, Any]:
    """Task, shots, seed and data of a prompts artifact, for the provenance of what is made from it."""
    facts = provenance(path)
    return {key: facts[key] for key in ("task", "task_version", "shots", "seed", "data") if key in facts}


def label(step: str, path: Path, model: str) -> str:
    """What progress lines call a step of a model on these prompts."""
    facts = task_provenance(path)
    return f"{step} {model}, {facts.get('task', path.stem)} {facts.get('shots', '?')}-shot"
