"""Show a person what a study's task looks like once it is rendered: its documents, splits, shots and score."""

from __future__ import annotations

from itertools import groupby, islice
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.prompts import EVALUATION, GREEDY
from lm_headroom.errors import HeadroomError, nearest
from lm_headroom.tasks.data import Records
from lm_headroom.tasks.prompts import quieten, render, render_own
from lm_headroom.tasks.sources import TaskSources

SHOWN = 3
"""Prompts that are printed."""


def describe_task(study: Any, name: str, shots: int) -> str:
    """Render a study's task and describe it, as the workflow would do it in this folder.

    Args:
        study: the typed study.
        name: one of its tasks.
        shots: few-shot examples per prompt.

    Raises:
        HeadroomError: the study has no such task, or it cannot be rendered; names the file and row.
    """
    if name not in study.all_tasks:
        raise HeadroomError(f"{name!r} is not in 'tasks' or 'unseen'{nearest(name, study.all_tasks)}")
    quieten()
    study.check_folders()
    sources, entry = TaskSources(study), study.all_entries[name]
    records = Records(study, sources, Digests())
    settings = (study.limits.importance, study.limits.evaluation, study.sample)
    records.check_task(name)
    if entry.file is not None:
        columns, details = render_own(entry, shots, study.seeds[0], *settings, study.metric)
    else:
        missing = next((file for file in records.files(name) if not Path(file).is_file()), None)
        if missing:
            raise HeadroomError(f"task {name!r}: {missing} is not unpacked yet; run snakemake {missing} first")
        place = records.place(name)
        columns, details = render(name, shots, study.seeds[0], place, *settings, sources.folders, study.metric)
    return "\n".join([*_summary(name, shots, columns, details), *_prompts(columns)])


def _summary(name: str, shots: int, columns: dict[str, list[Any]], details: dict[str, Any]) -> list[str]:
    greedy = columns["metric"][0] == GREEDY
    normalised = columns["choice_length"][0] is not None
    scored = "greedy decoding gives the continuation" if greedy else "the likeliest choice is right"
    return [
        f"task {name}, {shots}-shot, defined in {details['definition']}, records from {details['data']['source']}",
        *(
            f"{purpose}: {counts['count']} documents in {counts['questions']} questions, from split {counts['split']!r}"
            + (f"; {counts['left_out']} without a right choice are left out" if counts["left_out"] else "")
            for purpose, counts in details["documents"].items()
        ),
        f"shots: from split {details['splits']['shots']!r}" if shots else "shots: none",
        f"scored: whether {scored} (acc)" + (", also per character of the choice (acc_norm)" * normalised),
        *(f"note: {note}" for note in details["notes"]),
    ]


def _prompts(columns: dict[str, list[Any]]) -> list[str]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    evaluated = (row for row in rows if row["purpose"] == EVALUATION)
    lines = []
    for number, (doc_id, group) in enumerate(islice(groupby(evaluated, key=lambda row: row["doc_id"]), SHOWN), 1):
        choices = list(group)
        lines += ["", f"prompt {number}, document {doc_id}:"]
        contexts = list(dict.fromkeys(row["context"] for row in choices))
        lines += [f"  | {line}" for context in contexts for line in context.split("\n")]
        lines += [f"  {'*' if row['gold'] else ' '} {row['continuation']!r}" for row in choices]
    return [*lines, "", "* marks the right choice; each continuation follows the prompt as it stands."]
