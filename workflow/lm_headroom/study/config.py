"""What a study may say: one typed model with bounds, defaults and a description of every key, and what follows from it.

The JSON schema for editors, the page of options, the check of a study and its defaults are made from this model.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lm_headroom.errors import HeadroomError, nearest
from lm_headroom.study.compared import Compared
from lm_headroom.study.ranking_names import ffn_controls, reading
from lm_headroom.study.values import (
    AsWritten,
    Controls,
    Count,
    Group,
    ModelNames,
    Name,
    Percent,
    Percents,
    Seeds,
    Shots,
    Tasks,
    Text,
)

EMBEDDED = "embedded"
"""The source of the model, and of the records, that come in Python packages."""
PAPER_TRANSFER = ("copa", "winogrande", "record")
"""Tasks of Figures 9, 16 and 17."""
# Revisions such as step1000, step1000-tokens4B, stage1-step-40000.
_STEP = re.compile(r"(?:^|[-_/])step[-_]?(\d{1,12})(?=$|[-_])")


class Section(BaseModel):
    """Keys of a study: unknown ones are refused, and a value is of its type or refused (1.0 is no whole number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Section):
    """One model."""

    source: Text = Field(description="`embedded`, a hub name, or a local checkpoint folder.")
    revision: Text | None = Field(
        default=None,
        description="Branch, tag or commit on the hub, such as a training checkpoint's; null for its default branch.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run code that the checkpoint brings (`auto_map` in its config.json). It may do anything; read it "
        "first.",
    )
    allow_pickle: bool = Field(
        default=False, description="Read weights from pickles (*.bin) where the checkpoint has no safetensors."
    )
    group: Group | None = Field(
        default=None,
        description="What this model is a size, a training checkpoint or a version of: figures that compare models "
        "join those of one group by a line. Null groups models of the same source.",
    )
    step: Annotated[int, Field(ge=0, le=10**12)] | None = Field(
        default=None,
        description="Training step of the checkpoint; null takes it from a revision such as `step1000`.",
    )


class Limits(Section):
    """Documents per task; null for all."""

    importance: Annotated[Count, Field(ge=2)] | None = Field(
        default=2500, description="Scoring documents (the released code's 2500)."
    )
    evaluation: Annotated[Count, Field(ge=2)] | None = Field(default=None, description="Evaluation documents.")


class Data(Section):
    """Where the benchmark records come from."""

    source: Literal["embedded", "hub", "mirror"] = Field(
        default="embedded",
        description="`embedded` (validation splits from a Python package, a third of each kept for scoring and shots), "
        "`hub` (lm-eval's own data sets) or `mirror` (a local folder).",
    )
    mirror: Text | None = Field(
        default=None, description="Folder with {task}/{split}.parquet in the columns of the task's data set on the hub."
    )

    @property
    def mirror_folder(self) -> Path | None:
        """The mirror, with `~` as the home folder that it stands for; None where the records come from elsewhere."""
        return _expanded("data.mirror", self.mirror) if self.source == "mirror" and self.mirror else None


class Importance(Section):
    """Head importance, eq. 8 and 9."""

    reduction: Literal["token", "example"] = Field(
        default="token",
        description="`token`: sum of |A_t . dL/dA_t| over tokens, per token (released code); `example`: |sum over "
        "tokens| per document, mean over documents (eq. 8 read literally).",
    )
    last_layer_tokens: Literal["all", "target"] = Field(
        default="all",
        description="Divisor of the last layer under `token`: `all` tokens as in every layer, or the `target` tokens "
        "only, which inflates that layer (released code).",
    )

    @property
    def reading(self) -> str:
        """Which reading of eq. 8 this is."""
        return reading(self.reduction, self.last_layer_tokens)


class Ffn(Section):
    """FFN importance, eq. 7."""

    selection: Literal["evaluation", "scoring"] = Field(
        default="evaluation",
        description="Documents that the oracle scores are measured on: `evaluation`, as the paper did, which makes "
        "curves under that ranking optimistic, so that nothing is certified of them, or `scoring`, apart from those "
        "that curves are measured on.",
    )
    optimism: bool = Field(
        default=False,
        description="Also score on the other documents than `selection` names, and measure that ranking's curve: how "
        "much curves gain from being measured on the documents that ranked the FFNs. Twice the work of the oracle.",
    )

    @property
    def other_selection(self) -> str:
        """The documents that `optimism` scores on."""
        return "scoring" if self.selection == "evaluation" else "evaluation"


class HeadOracle(Section):
    """Heads removed one at a time, as the oracle of FFNs does, to hold the gradient scores against. A pass per head and
    batch: dear."""

    tasks: Tasks = Field(default=[], description="On which tasks, of `tasks` and `unseen`; none by default.")
    heads: Literal["all"] | Annotated[Count, Field(ge=3)] = Field(
        default="all",
        description="`all` heads, or a number: a random sample with as many heads of each layer, the same for all "
        "tasks and shots.",
    )
    others: Literal["all"] | Annotated[Count, Field(ge=3)] | None = Field(
        default=None, description="The same for each other task of `tasks`; null for none."
    )


class Pruning(Section):
    """Evaluation with heads or FFNs pruned, under the task's own and the aggregate ranking."""

    levels: Percents = Field(
        default=list(range(0, 100, 10)),
        min_length=1,
        description="Percents of all heads (or FFNs) to prune; 0, the model with all, is always evaluated.",
    )
    controls: Controls = Field(
        default=["random_1"],
        description="Control rankings beside the own one. Of heads and FFNs: `reversed` (most important first); "
        "`random_N` (drawn with seed N; several become a band). Of heads alone: the readings of eq. 8 whatever "
        "`importance` says, `token`, `example` and `target` (token with the last layer by target tokens); and two that "
        "need no gradient, `magnitude` (norm of the head's slice of the output projection) and `output_norm` (mean "
        "norm of what the head writes). Each costs a curve of evaluations, but for the reading that is the configured "
        "one, which costs nothing.",
    )
    schedule: Literal["one_shot", "recomputed"] = Field(
        default="one_shot",
        description="`one_shot`: importance is computed once, with all heads there; `recomputed`: also under a ranking "
        "whose importance is computed again each time `step` percent of all heads have gone. A task then takes as many "
        "scoring jobs as there are steps, and a curve more.",
    )
    step: Annotated[Percent, Field(ge=1)] = Field(
        default=10, description="Percent of all heads that go before importance is computed again."
    )

    @property
    def recomputes(self) -> bool:
        """Whether there are curves under recomputed importance."""
        return self.schedule == "recomputed"

    @property
    def levels_with_zero(self) -> list[int]:
        """What is evaluated, ascending."""
        return with_zero(self.levels)

    @property
    def ffn_controls(self) -> list[str]:
        """The control rankings that FFNs have, too."""
        return ffn_controls(sorted(self.controls))


class Joint(Section):
    """Heads and FFNs pruned together (Figure 7); without levels of both there is no grid."""

    heads: Percents = Field(default=list(range(0, 100, 10)), description="Percents of heads; 0 is always there.")
    ffns: Percents = Field(default=list(range(0, 100, 10)), description="Percents of FFNs; 0 is always there.")
    ranking: Literal["aggregate", "task"] = Field(
        default="aggregate",
        description="Rankings of the grid, `aggregate` (the caption of Figure 7) or `task`, its own (released code).",
    )

    @property
    def has_grid(self) -> bool:
        """Whether anything is pruned together."""
        return bool(self.heads and self.ffns)

    @property
    def heads_with_zero(self) -> list[int]:
        """The grid's percents of heads, ascending."""
        return with_zero(self.heads)

    @property
    def ffns_with_zero(self) -> list[int]:
        """The grid's percents of FFNs, ascending."""
        return with_zero(self.ffns)


class Transfer(Section):
    """Tasks under the rankings of the tasks whose head scores correlate most and least with theirs (Figures 9, 16,
    17)."""

    tasks: Tasks | None = Field(
        default=None, description="Which tasks; null for those of copa, winogrande and record that the study has."
    )
    levels: Percents = Field(
        default=[10, 30, 50, 70, 90], min_length=1, description="Percents of heads; 0 is always there."
    )

    @property
    def levels_with_zero(self) -> list[int]:
        """What is evaluated, ascending."""
        return with_zero(self.levels)


class Ablate(Section):
    """Tasks without the strongest induction heads, and without random heads of the same layers beside them; without
    percents there is no ablation."""

    percents: Annotated[list[Annotated[Percent, Field(ge=1)]], *Percents.__metadata__] = Field(
        default=[],
        description="Percents of all heads to ablate, the strongest by prefix matching, by copying and by both.",
    )
    random: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="Random controls per set of ablated heads, each of as many heads of the same layers. That an "
        "effect is larger than each of n controls' has a probability of 1 / (n + 1) by chance.",
    )
    tasks: Annotated[Tasks, Field(min_length=1)] | None = Field(
        default=None, description="Which of `tasks` and `unseen`; null for all of `tasks`."
    )


class Induction(Section):
    """Random sequences for induction scores, Algorithms 1 and 2."""

    sequences: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=100,
        description="Number of random sequences; sequence s has 2 s + 23 tokens, four times. 0 leaves induction out, "
        "which a model needs whose window is too short for them.",
    )
    bos: bool = Field(default=True, description="Put BOS before a sequence, as released.")
    ablate: Ablate = Ablate()


class Copying(Section):
    """Copying scores, Algorithm 2."""

    head_output: Literal["attention", "value"] = Field(
        default="attention",
        description="What a head writes, `attention` (the values that it attends to) or `value` alone (released code).",
    )
    output_bias: bool = Field(
        default=False, description="Add the bias of the attention output to every head (released code)."
    )


class Study(Section):
    """A study of lm-headroom. Every key has a default; keys that begin with `x-` hold anchors and are not read."""

    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    models: Annotated[dict[Name, Model], ModelNames] = Field(
        default={"SmolLM2-135M-Instruct": Model(source=EMBEDDED)},
        min_length=1,
        json_schema_extra={"additionalProperties": False},
        description="The models of the study: name (used in results/) to where it is. Source is `embedded` "
        "(SmolLM2-135M-Instruct from a Python package), a hub name such as facebook/opt-125m, or a local folder. Two "
        "or more are compared in results/comparison/.",
    )
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        default="float32", description="Number format of weights and activations."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`auto` takes all visible GPUs, else the CPU."
    )
    threads: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=2, description="CPU threads of a job that runs the model."
    )
    gpus: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1,
        description="GPUs of a job that runs the model. Jobs beside each other take different ones. A model that is "
        "larger than one GPU needs more, else some of its layers wait in the host's memory, many times as slow.",
    )
    hardware: Text | None = Field(
        default=None,
        description="The GPU that cluster jobs reckon their time limits with, a line of workflow/hardware.yaml; null "
        "for the slowest there. Jobs on CPUs reckon with its line `cpu`.",
    )
    max_hours: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False), AsWritten] | None = Field(
        default=None,
        description="Most hours that a cluster job asks for, such as the limit of the partition; null for no bound. A "
        "job that asks for more than the partition allows waits forever.",
    )
    token_budget: Literal["auto"] | Annotated[Count, Field(ge=16)] = Field(
        default="auto",
        description="Most tokens per batch: `auto` for what the free memory holds, or a number. Halved by itself where "
        "memory runs out. Changes memory and speed, not results.",
    )
    tasks: Tasks = Field(
        default=["arc_easy", "piqa", "copa"],
        min_length=1,
        description="lm-eval tasks of output type multiple_choice or loglikelihood, in the order of the figures.",
    )
    unseen: Tasks = Field(
        default=[],
        description="Tasks that are no part of the aggregate: evaluated under their own ranking and the aggregate's, "
        "which has not seen them (the paper's are mathqa and lambada_openai).",
    )
    prompts: Literal["paper", "harness"] = Field(
        default="paper",
        description="`paper`: the prompts of the harness that the paper used, where they differ from today's lm-eval; "
        "`harness`: those of lm-eval as pinned, mended only where it cannot load a task or inverts its labels.",
    )
    metric: Literal["question", "answer"] = Field(
        default="question",
        description="Accuracy of MultiRC: by `question`, right only if all its answers are judged right (released "
        "code), or by `answer`. Limits on evaluation documents count the same.",
    )
    shots: Shots = Field(default=[0, 1], min_length=1, description="Numbers of few-shot examples.")
    seeds: Seeds = Field(
        default=[1234],
        min_length=1,
        description="Seeds of lm-eval's few-shot sampler; each makes a copy of the matrix.",
    )
    limits: Limits = Limits()
    sample: Literal["first", "shuffled"] = Field(
        default="first", description="Which scoring documents when there are more than the limit."
    )
    add_bos: bool = Field(
        default=False,
        description="Put the BOS token before each prompt. The paper had none, though OPT's tokenizer adds one by "
        "default.",
    )
    data: Data = Data()
    importance: Importance = Importance()
    aggregate: Literal["mean", "mean_normalised", "mean_rank"] = Field(
        default="mean",
        description="Aggregate over tasks, eq. 10: `mean` of raw scores, `mean_normalised` (each task divided by its "
        "sum) or `mean_rank`.",
    )
    ffn: Ffn = Ffn()
    head_oracle: HeadOracle = HeadOracle()
    pruning: Pruning = Pruning()
    margin: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), AsWritten] = Field(
        default=2,
        description="Loss of accuracy that counts as none, in percentage points: what can go is certified to lose less "
        "than this.",
    )
    joint: Joint = Joint()
    transfer: Transfer = Transfer()
    correlation: Literal["spearman", "argsort"] = Field(
        default="spearman",
        description="Statistic that figures show and that picks the rankings of transfer; artifacts hold both. "
        "`spearman` is SRCC, `argsort` the released code's, which is not.",
    )
    induction: Induction = Induction()
    copying: Copying = Copying()

    @model_validator(mode="after")
    def _check_combinations(self) -> Study:
        """Refuse what is right by itself and cannot be together.

        Raises:
            HeadroomError: names the key and what was expected.
        """
        twice = sorted(set(self.tasks) & set(self.unseen))
        if twice:
            raise HeadroomError(f"config key 'unseen': {twice[0]!r} is in 'tasks' too; a task is one or the other")
        transfer = self.transfer.tasks or []
        _check_known(
            "transfer.tasks",
            transfer,
            self.tasks,
            "is not in 'tasks'",
            "; transfer needs its scores and those of other tasks",
        )
        if transfer and len(self.tasks) < 2:
            raise HeadroomError(
                "config key 'transfer.tasks': a single task has no other whose ranking it could be given"
            )
        everything = self.all_tasks
        ablated = self.induction.ablate.tasks or []
        _check_known("induction.ablate.tasks", ablated, everything, "is in neither 'tasks' nor 'unseen'")
        _check_known("head_oracle.tasks", self.head_oracle.tasks, everything, "is not in 'tasks' or 'unseen'")
        if self.induction.ablate.percents and not self.induction.sequences:
            raise HeadroomError(
                "config key 'induction.ablate.percents': without induction sequences no heads are known to ablate; set "
                "induction.sequences to 1 or more, or leave the percents out"
            )
        if self.data.source == "mirror" and not self.data.mirror:
            raise HeadroomError("config key 'data.mirror': data.source is mirror, so name the mirror folder here")
        return self

    def check_folders(self, base: Path = Path(".")) -> None:
        """Refuse folders that are not there or do not hold what they should, where the study is to be run.

        Args:
            base: what relative paths are relative to.

        Raises:
            HeadroomError: names the key and the folder.
        """
        for name, model in self.models.items():
            _check_source(name, model.source, base)
        if self.data.mirror_folder is None:
            return
        for task in self.all_tasks:
            folder = base / self.data.mirror_folder / task
            if not os.path.isdir(folder) or not any(folder.glob("*.parquet")):
                raise HeadroomError(f"config key 'data.mirror': {folder} holds no Parquet files for task {task!r}")

    @property
    def all_tasks(self) -> list[str]:
        """Tasks of the aggregate, then the unseen ones."""
        return [*self.tasks, *self.unseen]

    @property
    def oracle_tasks(self) -> list[str]:
        """Tasks on which heads are removed one at a time: those named, then, with ``others``, the rest of ``tasks``."""
        named = self.head_oracle.tasks
        if self.head_oracle.others is None:
            return list(named)
        return [*named, *(task for task in self.tasks if task not in named)]

    def oracle_heads(self, task: str) -> str | int:
        """How many heads are removed on a task, one at a time: ``all`` or the size of a sample."""
        oracle = self.head_oracle
        return oracle.heads if oracle.others is None or task in oracle.tasks else oracle.others

    @property
    def transfer_tasks(self) -> list[str]:
        """Tasks to be evaluated under other tasks' rankings: those named, else those of the paper that are here."""
        if self.transfer.tasks is not None:
            return list(self.transfer.tasks)
        return [task for task in PAPER_TRANSFER if task in self.tasks] if len(self.tasks) > 1 else []

    @property
    def ablated_tasks(self) -> list[str]:
        """Tasks to be evaluated without induction heads: those named, else all of ``tasks``; none without percents."""
        ablate = self.induction.ablate
        if not ablate.percents:
            return []
        return list(self.tasks if ablate.tasks is None else ablate.tasks)

    @property
    def compared_models(self) -> list[Compared]:
        """The models for the figures that compare them; none where there is one model alone.

        Without a group of its own, a model is grouped with those of the same source; without a step, its revision may
        name one (``step1000``).
        """
        if len(self.models) < 2:
            return []
        sources = {
            name: name if model.source == EMBEDDED else model.source.rstrip("/") for name, model in self.models.items()
        }
        lasts = Counter(source.split("/")[-1] for source in set(sources.values()))
        compared = []
        for name, model in self.models.items():
            named = _STEP.search(model.revision or "")
            step = int(named[1]) if model.step is None and named else model.step
            last = sources[name].split("/")[-1]
            # Folders such as a/final and b/final are two sources.
            group = last if lasts[last] == 1 else sources[name]
            compared.append(Compared(name, model.group or re.sub(r"[^A-Za-z0-9._-]", "_", group), step))
        return compared


def with_zero(percents: Iterable[int]) -> list[int]:
    """Percents, ascending, with the model of which nothing is pruned, which is always evaluated."""
    return sorted({0, *percents})


def _expanded(key: str, path: str) -> Path:
    """A path with the home folder that its `~` stands for."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise HeadroomError(f"config key {key!r}: {path!r} names no home folder; write the whole path") from None


def _check_source(model: str, source: str, base: Path) -> None:
    """Refuse what is neither a folder nor can be a name on the hub."""
    key = f"models.{model}.source"
    is_folder = os.path.isdir(base / _expanded(key, source))
    if not is_folder and re.fullmatch(r"[^/~.][^/]*(/[^/]+)?", source) and re.search(r"--|\.\.", source):
        raise HeadroomError(
            f"config key {key!r}: {source!r} is no folder here, and no name on the hub has '--' or '..' in it"
        )


def _check_known(key: str, tasks: Iterable[str], known: list[str], wrong: str, why: str = "") -> None:
    for task in tasks:
        if task not in known:
            raise HeadroomError(f"config key {key!r}: {task!r} {wrong}{nearest(task, known)}{why}")
