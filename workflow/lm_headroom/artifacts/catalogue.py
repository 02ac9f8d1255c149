"""The catalogue of artifacts: what each is called, where it lies below the results folder, which step makes it, and
which of them a study has.

Rules, targets, readers, schemas and ``verify`` take their paths from here. Standard library only: the Snakefile imports
this module at every parse. Code digests leave it out, since it says where results lie, and not how they are made.

    path_of("capacity", model="opt", shot=0, seed=1234)  # opt/capacity/0shot-seed1234.parquet
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_headroom.study.ranking_names import AGGREGATE, LEARNED

if TYPE_CHECKING:
    from lm_headroom.study.config import Study

CELL = "{shot}shot-seed{seed}"
"""Number of shots and few-shot seed, as files and folders are named."""
Cells = Callable[["Study"], Iterable[Mapping[str, str]]]


def fill(template: str, **values: object) -> str:
    """A template with some of its fields filled in; the others stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda field: str(values.get(field[1], field[0])), template)


def expand(template: str, **values: object) -> list[str]:
    """A template filled in with each combination of values, of which a field may have one or several."""
    lists = [list(value) if isinstance(value, list | tuple) else [value] for value in values.values()]
    return list(dict.fromkeys(fill(template, **dict(zip(values, chosen, strict=True))) for chosen in product(*lists)))


@dataclass(frozen=True)
class Artifact:
    """A row of the catalogue.

    Attributes:
        name: of the artifact, and of the schema of its files.
        template: its path below the results folder; the fields are its dimensions.
        step: the rule, command and module that make it.
        target: the workflow's target that asks for it; empty where only a path does.
        title: what it holds, as docs/artifacts.md says it.
        cells: from a study to values of the dimensions that are neither a model, a number of shots nor a seed.
        has: whether a study has it at all.
    """

    name: str
    template: str
    step: str
    target: str
    title: str
    cells: Cells = lambda study: [{}]
    has: Callable[[Study], bool] = lambda study: True

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of what tells its files apart."""
        return tuple(dict.fromkeys(re.findall(r"\{(\w+)\}", self.template)))

    def paths(self, study: Study, **values: Any) -> list[str]:
        """Paths of a study's files below the results folder.

        Args:
            study: the typed study.
            values: for models, shots and seeds what to take instead of the study's, such as ``"{model}"``; for other
                dimensions, one value or several that files are chosen by.
        """
        return list(dict.fromkeys(self._paths(study, values))) if self.has(study) else []

    def _paths(self, study: Study, values: Mapping[str, Any]) -> Iterator[str]:
        matrix = {"model": list(study.models), "shot": study.shots, "seed": study.seeds}
        chosen = {name: value if isinstance(value, list | tuple) else [value] for name, value in values.items()}
        for cell in self.cells(study):
            if all(cell[name] in chosen.get(name, [cell[name]]) for name in cell):
                listed_values = {
                    name: chosen.get(name, listed) for name, listed in matrix.items() if name in self.dimensions
                }
                yield from expand(self.template, **cell, **listed_values)


def _tasks(*lists: str, aggregate: bool = False) -> Cells:
    """Cells of the tasks in some of a study's lists, and of their aggregate."""

    def cells(study: Study) -> Iterator[Mapping[str, str]]:
        yield from ({"task": task} for name in lists for task in getattr(study, name))
        if aggregate:
            yield {"task": AGGREGATE}

    return cells


def _curves(study: Study) -> Iterator[Mapping[str, str]]:
    experts = dict.fromkeys(study.expert_tasks, study.experts.rankings)
    by_component = (("heads", study.head_rankings), ("ffns", study.ffn_rankings), ("experts", experts))
    for component, rankings in by_component:
        for task, names in rankings.items():
            yield from ({"component": component, "task": task, "ranking": name} for name in names)


def _custom(study: Study) -> Iterator[Mapping[str, str]]:
    return (cell for cell in _curves(study) if cell["ranking"] in study.rankings)


def _learned(study: Study) -> Iterator[Mapping[str, str]]:
    return (
        {name: cell[name] for name in ("component", "task")} for cell in _curves(study) if cell["ranking"] == LEARNED
    )


def _has_induction(study: Study) -> bool:
    return study.has_induction


def _is_compared(study: Study) -> bool:
    return bool(study.compared_models)


CATALOGUE = (
    # First: no model may be called prompts, but a task may be called like a step's folder.
    Artifact("prompts", f"prompts/{{task}}/{CELL}.parquet", "render_prompts", "prompts",
             "prompts, a row per choice", _tasks("all_tasks")),
    Artifact("head_importance", f"{{model}}/head_importance/{{task}}/{CELL}.parquet", "score_heads", "importance",
             "head importance with errors and halves, under each variant of eq. 8 and by criteria without gradients; "
             "the task may be `aggregate`", _tasks("all_tasks", aggregate=True)),
    Artifact("ffn_importance", f"{{model}}/ffn_importance/{{task}}/{CELL}.parquet", "score_ffns", "importance",
             "FFN importance by the oracle, with answers and log-likelihoods; the task may be `aggregate`",
             _tasks("tasks", aggregate=True)),
    Artifact("ffn_selection", f"{{model}}/ffn_selection/{{task}}/{CELL}.parquet", "select_ffns", "curves",
             "with `ffn.selection_bias`: FFN importance on the documents that the study does not rank by",
             _tasks("selection_tasks")),
    Artifact("ffn_gradient", f"{{model}}/ffn_gradient/{{task}}/{CELL}.parquet", "score_heads", "importance",
             "the gradient score of FFNs, to compare with the oracle", _tasks("all_tasks")),
    Artifact("head_oracle", f"{{model}}/head_oracle/{{task}}/{CELL}.parquet", "score_head_knockouts", "importance",
             "for the tasks of `head_oracle`: loss, answers and log-likelihoods without each head alone",
             _tasks("oracle_tasks")),
    Artifact("expert_importance", f"{{model}}/expert_importance/{{task}}/{CELL}.parquet", "score_experts", "importance",
             "with `experts.levels`: importance of the experts of each layer, by every criterion",
             _tasks("expert_tasks")),
    Artifact("ranking", f"{{model}}/ranking/heads/{{task}}/{CELL}.parquet", "score_heads", "importance",
             "heads, least important first; the task may be `aggregate`", _tasks("all_tasks", aggregate=True)),
    Artifact("iterative_ranking", f"{{model}}/ranking/heads_iterative/{{task}}/{CELL}.parquet",
             "rank_heads_iteratively", "curves",
             "with `pruning.schedule: iterative`: heads in pruning order, scored again after each step",
             _tasks("iterative_tasks")),
    Artifact("ffn_ranking", f"{{model}}/ranking/ffns/{{task}}/{CELL}.parquet", "score_ffns", "importance",
             "FFNs, least important first; the task may be `aggregate`", _tasks("tasks", aggregate=True)),
    Artifact("expert_ranking", f"{{model}}/ranking/experts/{{task}}/{CELL}.parquet", "score_experts", "importance",
             "with `experts.levels`: experts in the order in which they are pruned", _tasks("expert_tasks")),
    Artifact("custom_ranking", f"{{model}}/ranking/{{component}}_custom/{{ranking}}/{{task}}/{CELL}.parquet",
             "rank_custom", "curves", "of each of `rankings`: heads or FFNs by scores of your own, least important "
             "first", _custom),
    Artifact("learned_ranking", f"{{model}}/ranking/{{component}}_learned/{{task}}/{CELL}.parquet",
             "learn_mask", "curves", "of each component of `learned_mask`: heads or FFNs in the order in which a "
             "learned mask closes them", _learned),
    Artifact("pruned_eval", f"{{model}}/pruned_eval/{{component}}/{{task}}/{CELL}/{{ranking}}.parquet",
             "evaluate_pruned", "curves",
             "answers and log-likelihoods per pruning level; components: `heads`, `ffns`, `experts`; rankings: `own`, "
             "`aggregate`, `iterative`, controls, `rankings`, `learned`, `highest_srcc`, `lowest_srcc`, "
             "`other_documents`",
             _curves),
    Artifact("joint_eval", f"{{model}}/pruned_eval/joint/{{task}}/{CELL}.parquet", "evaluate_joint", "curves",
             "the same with heads and FFNs pruned together", _tasks("joint_tasks")),
    Artifact("cross_task", f"{{model}}/correlation/cross_task/{CELL}.parquet", "correlate_tasks", "correlations",
             "rank correlations between tasks"),
    Artifact("cross_shot", "{model}/correlation/cross_shot/seed{seed}.parquet", "correlate_shots", "correlations",
             "of two or more numbers of shots: rank correlations between them", has=lambda study: len(study.shots) > 1),
    Artifact("oracle_agreement", "{model}/correlation/oracle/seed{seed}.parquet", "correlate_oracle", "correlations",
             "rank correlation of gradient scores with the oracles"),
    Artifact("prefix_matching", "{model}/induction/prefix_matching.parquet", "score_induction", "induction",
             "prefix-matching scores", has=_has_induction),
    Artifact("copying", "{model}/induction/copying.parquet", "score_induction", "induction",
             "copying scores", has=_has_induction),
    Artifact("capacity", f"{{model}}/capacity/{CELL}.parquet", "retain_capacity", "induction",
             "share of the induction scores that remains after pruning", has=_has_induction),
    Artifact("induction_ablation", f"{{model}}/induction_ablation/{{task}}/{CELL}.parquet", "ablate_induction",
             "induction", "with `induction.ablate.percents`: answers and log-likelihoods without the strongest "
             "induction heads, and without random heads of the same layers", _tasks("ablated_tasks")),
    Artifact("seed_scores", "{model}/seeds/head_importance.parquet", "average_seeds", "tables",
             "of two or more few-shot seeds: head importance averaged over them, with the variance that they cause",
             has=lambda study: len(study.seeds) > 1),
    Artifact("compared_models", "comparison/models.parquet", "compare_models", "comparison",
             "of two or more models: family, sizes, group and training step, a row per model", has=_is_compared),
    Artifact("compared_prunable", "comparison/prunable/seed{seed}.parquet", "compare_prunable", "comparison",
             "share of heads and FFNs that is prunable within the margin", has=_is_compared),
    Artifact("compared_rankings", "comparison/rankings/seed{seed}.parquet", "compare_rankings", "comparison",
             "rank correlations of head importance between models of equal shape", has=_is_compared),
    Artifact("compared_induction", "comparison/induction.parquet", "compare_induction", "comparison",
             "summary of the induction scores of each model",
             has=lambda study: _is_compared(study) and study.has_induction),
    Artifact("compared_profiles", "comparison/profiles/seed{seed}.parquet", "compare_profiles", "comparison",
             "importance by layer and relative depth", has=_is_compared),
)  # fmt: skip
"""All tables that a study may hold."""
ARTIFACTS = {artifact.name: artifact for artifact in CATALOGUE}
RECORD = "{model}/model.json"
"""Path of a model's record below the results folder."""
PRUNED = f"{{model}}/pruned/{{ranked}}/{{pruned}}/{CELL}"
"""Path of a pruned checkpoint below the results folder, where ``pruned`` says what it lacks; no target asks for one."""
MANIFEST = "lm_headroom.json"
"""File of a pruned checkpoint that says what made it."""
TAG = "lm-headroom"
"""Tag on the hub of repositories that lm-headroom filled."""
_PERCENT = "100|[1-9]?[0-9]"
PRUNED_PARTS = f"heads(?:{_PERCENT})-ffns(?:{_PERCENT})(?:-experts(?:100|[1-9][0-9]?))?(?:-even)?"
"""Pattern of what such a path says: percents of heads, FFNs and experts, and whether layers keep as many."""


def template_of(name: str) -> str:
    """Path of an artifact below the results folder, with its dimensions as fields."""
    return ARTIFACTS[name].template


def path_of(name: str, **values: object) -> str:
    """Path of an artifact's file below the results folder; dimensions without a value stay fields."""
    return fill(template_of(name), **values)


def file_of(results: Path, name: str, **values: object) -> Path:
    """Path of an artifact's file from a model's results folder, which may have any name.

    Args:
        results: the model's folder below the results folder.
        name: of the artifact.
        values: of its dimensions.
    """
    template = template_of(name)
    inside = template.removeprefix("{model}/")
    return (results if inside != template else results.parent) / fill(inside, **values)


def pruned_by(pruned: str, **others: str) -> dict[str, int]:
    """Rankings that a pruned checkpoint is made by, with their percents; nothing pruned needs no FFN scores.

    Args:
        pruned: the part of its path that says what it lacks, of :data:`PRUNED_PARTS`.
        others: of its path, which change nothing.

    Example:
        pruned_by("heads50-ffns0-experts25-even")  # {"ranking": 50, "expert_ranking": 25}
    """
    rankings = {"heads": "ranking", "ffns": "ffn_ranking", "experts": "expert_ranking"}
    percents = {rankings[name]: int(percent) for name, percent in re.findall(r"([a-z]+)(\d+)", pruned)}
    return {name: percent for name, percent in percents.items() if percent} or {"ranking": 0}


def is_even(pruned: str) -> bool:
    """Whether layers of a pruned checkpoint keep as many; see :func:`pruned_by`."""
    return pruned.endswith("-even")


def targets(study: Study) -> dict[str, list[str]]:
    """The workflow's targets, each with the paths that it asks for below the results folder."""
    by_target: dict[str, list[str]] = {}
    for artifact in CATALOGUE:
        by_target.setdefault(artifact.target, []).extend(artifact.paths(study))
    return by_target
