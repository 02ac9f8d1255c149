"""Step: render the prompts of one task, shot and seed."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import Count, Limit, OutFile, Paths, StudyKey, recorded_options
from lm_headroom.study.choices import Metric, PromptStyle, Sample
from lm_headroom.study.task_entry import TaskEntry
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.files import TASK_FOLDERS, task_yaml
from lm_headroom.tasks.prompt_sizes import prompt_sizes
from lm_headroom.tasks.sources import HUB

_ROLES = {IMPORTANCE: "scores", EVALUATION: "evaluates", "shots": "takes shots from"}


def render_prompts(
    *,
    task: str,
    shots: Count,
    seed: int = 1234,
    data: str = HUB,
    limit_importance: Annotated[Limit, StudyKey("limits.importance")] = 2500,
    limit_evaluation: Annotated[Limit, StudyKey("limits.evaluation")] = None,
    sample: Annotated[Sample, StudyKey("sample")] = "first",
    metric: Annotated[Metric, StudyKey("metric", is_fact=True)] = "question",
    prompts: Annotated[PromptStyle, StudyKey("prompts", is_fact=True)] = "paper",
    task_folders: Paths = (),
    own: str = "",
    out: OutFile,
) -> None:
    """Render the prompts of a task with lm-eval.

    Args:
        task: a task of output type multiple_choice or loglikelihood.
        shots: few-shot examples per prompt.
        seed: seed of the few-shot sampler.
        data: `hub`, or a folder with {task}/{split}.parquet (`./hub` if it has that name).
        limit_importance: scoring documents, or `all`.
        limit_evaluation: evaluation questions, or `all`.
        sample: the choice of scoring documents if there are more than the limit.
        metric: the unit of limits and accuracy in MultiRC: questions or single answers.
        prompts: the paper's prompts, or those of the lm-eval that is installed.
        task_folders: folders with task YAMLs of your own, which come before all others.
        own: a task with a file of your own, as JSON: what stands in `tasks` of a study; `data` is then not read.
        out: the prompts artifact.

    Example:
        lm-headroom render-prompts --task copa --shots 0 --limit-evaluation 100 --out prompts.parquet
    """
    from lm_headroom.tasks.prompts import quieten, render, render_own

    options = recorded_options(render_prompts, locals())
    quieten()
    entry = TaskEntry.model_validate_json(own) if own else None
    folders = [*task_folders, TASK_FOLDERS / prompts]
    settings = (limit_importance, limit_evaluation, sample)
    if entry is not None:
        columns, details = render_own(entry, shots, seed, *settings, metric)
    else:
        columns, details = render(task, shots, seed, data, *settings, folders, metric)
        folder = next((folder for folder in folders if task_yaml(task, folder)), None)
        details["definition_digest"] = task_digest(task, folder) if folder else details["definition"]
    write(
        out,
        PROMPTS,
        columns,
        build_provenance("steps.render_prompts", {}, options, {**details, "prompt_sizes": prompt_sizes(columns)}),
    )
    _report(task, shots, details)


def _report(task: str, shots: int, details: dict[str, Any]) -> None:
    """Print how many documents each purpose has, of which splits, and what deviates from the definition."""
    for purpose, counts in details["documents"].items():
        text = f"prompts {task} {shots}-shot: {counts['count']} {purpose} documents ({counts['split']})"
        if counts["questions"] < counts["count"]:
            text += f" in {counts['questions']} questions"
        if counts["left_out"]:
            text += f"; {counts['left_out']} left out, as none of their choices is right"
        print(text, file=sys.stderr)
    used = ", ".join(f"{_ROLES[role]} {split}" for role, split in details["splits"].items())
    for line in (f"splits: {used}", *details["notes"]):
        print(f"prompts {task} {shots}-shot: {line}", file=sys.stderr)
