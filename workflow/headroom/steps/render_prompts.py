"""Step: render the prompts of one task, shot and seed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from headroom import prompts
from headroom.artifacts.prompts import PROMPTS
from headroom.artifacts.store import write
from headroom.provenance import describe


def run(
    out: Path,
    task: str,
    shots: int,
    seed: int,
    data: str,
    limit_importance: int | None,
    limit_evaluation: int | None,
    sample: str,
    task_folder: Path | None,
) -> None:
    """Write a prompts artifact (see :func:`headroom.prompts.render`)."""
    # lm-eval notes each default it fills in; what went wrong still comes as an exception.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    columns, facts = prompts.render(task, shots, seed, data, limit_importance, limit_evaluation, sample, task_folder)
    options = {"limit_importance": limit_importance, "limit_evaluation": limit_evaluation, "sample": sample}
    write(out, PROMPTS, columns, describe("steps.render_prompts", {}, options, facts))
    counts = ", ".join(f"{d['count']} {purpose} ({d['split']})" for purpose, d in facts["documents"].items())
    print(f"prompts {task} {shots}-shot: {counts} documents", file=sys.stderr)
