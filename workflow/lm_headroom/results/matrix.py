"""The matrix of a study that figures gather over, and where its artifacts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.catalogue import file_of
from lm_headroom.artifacts.model_record import NAME, read_record
from lm_headroom.artifacts.store import ArtifactFile, ArtifactSchema, digest_of, read_artifact
from lm_headroom.settings import MARGIN
from lm_headroom.study.choices import ACCURACY, Component, Outcome, Statistic
from lm_headroom.study.judged import JudgedOutcome
from lm_headroom.study.ranking_names import ABLATED_OWN, AVERAGE, ffn_controls, head_controls

COMPONENTS: dict[Component, str] = {"heads": "heads", "ffns": "FFNs"}
"""What every decoder can lose, and what figures and findings call it."""
NAMES: dict[Component, str] = {**COMPONENTS, "experts": "experts"}
"""The same of all that can be pruned."""
ONE_PARTNER = "highest_and_lowest_srcc"
"""What stands for both where they are one task: there is no other, or all correlate alike."""


@dataclass(frozen=True)
class ResultsMatrix:
    """One model's part of a study.

    Attributes:
        results: the model's results folder.
        tasks, shots: in the order of the figures.
        seed: few-shot seed; None for what does not depend on it.
        correlation: which statistic figures show, ``spearman`` or ``argsort``.
        controls: control rankings evaluated beside the own one: ``random_N``, ``reversed``,
            and the columns of :data:`lm_headroom.study.ranking_names.CRITERIA`.
        unseen: tasks that are evaluated, but are no part of the aggregate.
        transfer: tasks that are also evaluated under the rankings of other tasks.
        joint: whether heads and FFNs were also pruned together.
        iterative: whether heads were also pruned by iterative re-scoring.
        margin: loss that counts as none, in percentage points; None for what does not depend on it.
        ablated: tasks that are also evaluated without induction heads.
        selection_bias: whether FFNs were also ranked by other documents, and that ranking's curve measured.
        without_induction: whether heads have no induction scores.
        outcome: what evaluations are judged by.
        outcomes: the same where there are several; ``judges`` has a matrix of each.
        custom_heads, custom_ffns: further rankings of heads alone and of FFNs alone: the user's own, and oracles
            that heads lack.
        experts: rankings under which experts were evaluated, the own one first; empty where they were not.
        only: components to show; empty for all that were pruned.
    """

    results: Path
    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seed: int | None = None
    correlation: Statistic = "spearman"
    controls: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    joint: bool = False
    iterative: bool = False
    margin: float | None = None
    ablated: tuple[str, ...] = ()
    selection_bias: bool = False
    without_induction: bool = False
    outcome: Outcome = ACCURACY
    outcomes: tuple[JudgedOutcome, ...] = ()
    custom_heads: tuple[str, ...] = ()
    custom_ffns: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    only: tuple[Component, ...] = ()

    @property
    def components(self) -> tuple[Component, ...]:
        """What was pruned, and is to be shown."""
        pruned: tuple[Component, ...] = (*COMPONENTS, "experts") if self.experts else tuple(COMPONENTS)
        return tuple(component for component in pruned if not self.only or component in self.only)

    @property
    def averages(self) -> tuple[str, ...]:
        """What tables show of all tasks together; nothing of a single one, which would be shown twice."""
        return (AVERAGE,) if len(self.tasks) > 1 else ()

    def beside_own(self, component: Component) -> list[str]:
        """Rankings of a component that were evaluated beside the own one: controls and the user's own."""
        if component == "experts":
            return list(self.experts[1:])
        if component == "heads":
            return [*head_controls(self.controls), *self.custom_heads]
        return [*ffn_controls(self.controls), *self.custom_ffns]

    def other_orders(self, component: Component) -> list[str]:
        """Those of them that prune in another order than the own one, under the same ablation."""
        return [name for name in self.beside_own(component) if name not in ABLATED_OWN]

    @property
    def model(self) -> str:
        """The model's name."""
        return self.results.name

    @property
    def options(self) -> dict[str, Any]:
        """What is shown, for the provenance; what the study does not have is left out."""
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        # Where results lie says nothing about them.
        del options["results"]
        if self.outcome == ACCURACY:
            del options["outcome"]
        options["outcomes"] = list(map(str, self.outcomes))
        # A seed of 0 is one.
        return {name: value for name, value in options.items() if value not in (None, []) and value is not False}

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """The record of the model whose results these are; None where there is none. It is read once."""
        path = self.results / NAME
        return read_record(path) if path.is_file() else None

    @property
    def digest(self) -> str | None:
        """The model's digest; None where no record says it."""
        return self.record["digest"] if self.record else None

    def read_record(self) -> dict[str, Any]:
        """The same, which must be there.

        Raises:
            ArtifactError: there is none.
        """
        return self.record or read_record(self.results / NAME)

    def changed(self, **fields: Any) -> ResultsMatrix:
        """Another part of the same model's results: this one with other fields."""
        other = replace(self, **fields)
        vars(other)["record"] = self.record
        return other

    @property
    def judges(self) -> list[ResultsMatrix]:
        """The same results, judged by each outcome in turn; by accuracy where none is named."""
        judged = self.outcomes or (JudgedOutcome(self.outcome, self.margin or MARGIN),)
        return [self.changed(outcome=one.outcome, margin=one.margin, outcomes=()) for one in judged]

    @property
    def by_accuracy(self) -> ResultsMatrix:
        """The same results, judged by accuracy, which every task defines."""
        return self.changed(outcome=ACCURACY, margin=None, outcomes=())

    def read_all(
        self, kind: ArtifactSchema, paths: Mapping[str, Path], shots: int, **expected: Any
    ) -> dict[str, ArtifactFile]:
        """Artifacts of several tasks, all of one model: without its record, of the model that the first is of.

        Args:
            kind: what they must be.
            paths: task (or ``aggregate``) to its artifact.
            shots: of all of them.
            expected: what else their provenance must say.

        Raises:
            ArtifactError: one is missing, damaged, or of another model, task, shot or seed.
        """
        artifacts: dict[str, ArtifactFile] = {}
        for task, path in paths.items():
            first = next(iter(artifacts.values()), None)
            model = self.digest or (digest_of(first.provenance) if first else None)
            artifacts[task] = read_artifact(path, kind, **(self.expected(shots, task) | expected | {"model": model}))
        return artifacts

    def expected(self, shots: int | None = None, task: str | None = None, ranking: str | None = None) -> dict[str, Any]:
        """What an artifact of this study must be of (see :func:`lm_headroom.artifacts.store.read`)."""
        return {"model": self.digest, "seed": self.seed, "shots": shots, "task": task, "ranking": ranking}

    def path(self, artifact: str, shots: int | None = None, **dimensions: str) -> Path:
        """Where an artifact of this matrix is.

        Args:
            artifact: its name in the catalogue.
            shots: number of few-shot examples, where it is one of its dimensions.
            dimensions: its other dimensions, such as the task.
        """
        return file_of(self.results, artifact, shot=shots, seed=self.seed, **dimensions)

    def curve(self, task: str, shots: int, ranking: str = "own", component: Component = "heads") -> Path:
        """A task's accuracy curve under a ranking."""
        return self.path("pruned_eval", shots, component=component, task=task, ranking=ranking)
