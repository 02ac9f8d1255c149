"""Step: render the prompts of one task, shot and seed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.tasks import prompts
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.files import task_yaml
from lm_headroom.tasks.prompt_sizes import prompt_sizes

_ROLES = {IMPORTANCE: "scores", EVALUATION: "evaluates", "shots": "takes shots from"}


def run(
    out: Path,
    task: str,
    shots: int,
    seed: int,
    data: str,
    limit_importance: int | None,
    limit_evaluation: int | None,
    sample: str,
    folders: Sequence[Path],
    metric: str,
) -> None:
    """Write a prompts artifact (see :func:`lm_headroom.tasks.prompts.render`)."""
    # They note each default they fill in and each file they cannot read; what went wrong still comes as an exception.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    columns, facts = prompts.render(
        task, shots, seed, data, limit_importance, limit_evaluation, sample, folders, metric
    )
    folder = next((folder for folder in folders if task_yaml(task, folder)), None)
    facts["definition_digest"] = task_digest(task, folder) if folder else facts["definition"]
    options = {"limit_importance": limit_importance, "limit_evaluation": limit_evaluation, "sample": sample}
    write(
        out,
        PROMPTS,
        columns,
        build_provenance("steps.render_prompts", {}, options, {**facts, "prompt_sizes": prompt_sizes(columns)}),
    )
    for purpose, found in facts["documents"].items():
        text = f"prompts {task} {shots}-shot: {found['count']} {purpose} documents ({found['split']})"
        if found["questions"] < found["count"]:
            text += f" in {found['questions']} questions"
        if found["left_out"]:
            text += f"; {found['left_out']} left out, as none of their choices is right"
        print(text, file=sys.stderr)
    used = ", ".join(f"{_ROLES[role]} {split}" for role, split in facts["splits"].items())
    for line in (f"splits: {used}", *facts["notes"]):
        print(f"prompts {task} {shots}-shot: {line}", file=sys.stderr)
