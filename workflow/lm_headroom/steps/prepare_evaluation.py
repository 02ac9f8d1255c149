"""What the evaluating steps share: the model, its documents in batches, and what their artifacts record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.ordered import Ranking
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.artifacts.provenance import model_provenance
from lm_headroom.engine.ablation import KINDS, ZERO, Ablation
from lm_headroom.engine.likelihood import start_provenance, tokenise
from lm_headroom.engine.loading import LoadedModel, load
from lm_headroom.engine.memory import peak_memory, token_budget
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import ResumeCache, open_cache
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.options import EvaluationSettings, Settings
from lm_headroom.progress import Progress
from lm_headroom.scoring.pruned_evaluation import Evaluation, group_choices
from lm_headroom.study.choices import AblationKind
from lm_headroom.tasks.prompt_set import PromptSet, first_gold, pairs, read_prompts


@dataclass(frozen=True)
class Prepared:
    """An evaluation, ready to run.

    Attributes:
        evaluation: the model and the documents.
        prompts: what the documents were taken from.
        provenance: the task and the model, for the provenance of results.
        label: what progress lines call it.
        ablation_of: gives an ablation by its kind.
    """

    evaluation: Evaluation
    prompts: PromptSet
    provenance: dict[str, Any]
    label: str
    ablation_of: Callable[[AblationKind], Ablation]

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self.evaluation.loaded

    @property
    def shape(self) -> HeadLayout:
        """Head counts of the model."""
        return self.loaded.shape

    def check_fits(self, ranking: Ranking[Any]) -> None:
        """Refuse a ranking of other heads or FFNs than the model has.

        Raises:
            HeadroomError: see :meth:`lm_headroom.artifacts.ordered.Ranking.check_fits`.
        """
        ranking.check_fits(self.shape.grid, self.shape.layers)

    @property
    def run_statistics(self) -> dict[str, Any]:
        """Peak memory so far, and tokens per batch (None: no batch was run)."""
        batches = self.evaluation.batches
        return {**peak_memory(), "token_budget": batches.token_budget if batches.packed else None}

    def ablating(self, kind: AblationKind) -> Evaluation:
        """The evaluation where pruned heads and FFNs give what an ablation of this kind does."""
        if kind == self.evaluation.ablation.kind:
            return self.evaluation
        return self.evaluation.ablating(self.ablation_of(kind))

    def expect(self, n_sets: int) -> None:
        """Begin to report progress over so many sets of pruned components."""
        total = len(self.evaluation.documents) * n_sets
        self.evaluation.progress = Progress(self.label, total, "document evaluations")

    def expected(self, *tasks: str) -> dict[str, Any]:
        """What a ranking for these documents must be of: the same model, shots and few-shot seed.

        Args:
            tasks: whose ranking will do; where none is named, that of the prompts' task.
        """
        cell = self.prompts.provenance
        return {
            "model": self.loaded.record["digest"],
            "task": frozenset(tasks) or cell.get("task"),
            "shots": cell.get("shots"),
            "seed": cell.get("seed"),
        }


def prepare(
    step: str,
    model: Path,
    prompts: Path,
    settings: EvaluationSettings,
    n_sets: int = 0,
    purpose: str = EVALUATION,
    keeps_layers: bool = False,
) -> Prepared:
    """Open a model, whose weights are read when they are first needed, and take the documents of one purpose.

    Args:
        step: what progress lines call it.
        model: the model record.
        prompts: prompts artifact.
        settings: how to run the model.
        n_sets: how many sets of pruned components will be evaluated, for the estimate of the time left.
        purpose: which documents.
        keeps_layers: the inputs of all layers will be kept, which takes memory.
    """
    # Bad prompts are refused before the model is opened.
    prompt_set = read_prompts(prompts)
    prompt_set.rows(purpose)
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    prepared = prepare_documents(step, loaded, prompt_set, purpose, settings, keeps_layers)
    prepared.expect(n_sets)
    return prepared


def prepare_documents(
    step: str,
    loaded: LoadedModel,
    prompts: PromptSet,
    purpose: str,
    settings: EvaluationSettings,
    keeps_layers: bool = False,
) -> Prepared:
    """Documents for a model that is open; see :func:`prepare`."""
    table = prompts.rows(purpose, loaded.chat)
    documents = tokenise(pairs(table), loaded, settings.add_bos)
    # Asked for when there is something to compute: both need the weights.
    budget = settings.token_budget or (lambda: token_budget(loaded.model, loaded.device, keeps_layers=keeps_layers))
    # The oracle's module imports all that evaluates.
    units = open_cache(settings.cache, "scoring.knockout", loaded.record, settings.dtype)
    ablation_of = prepare_ablations(loaded, [prompts], settings, units)
    ablation = ablation_of(settings.ablation)
    batches = Batches(documents, budget, lambda: loaded.device, share=not ablation.by_document)
    provenance = {
        **prompts.provenance,
        **model_provenance(loaded.record, settings.dtype),
        **start_provenance(loaded, settings.add_bos),
    }
    evaluation = Evaluation(loaded, documents, group_choices(table), batches, cache=units, ablation=ablation)
    return Prepared(evaluation, prompts, provenance, prompts.label(step, loaded.record["name"]), ablation_of)


def prepare_ablations(
    loaded: LoadedModel, prompts: Sequence[PromptSet], settings: Settings, units: ResumeCache
) -> Callable[[AblationKind], Ablation]:
    """A function from the kind of an ablation to the ablation, which measures activations when it is first needed.

    Args:
        loaded: the model.
        prompts: whose scoring documents have the activations, each with its first right choice.
        settings: how to run the model.
        units: the resume cache.
    """

    @cache
    def ablation_of(kind: AblationKind) -> Ablation:
        if kind == ZERO.kind:
            return ZERO
        rows = [row for each in prompts for row in pairs(first_gold(each.rows(IMPORTANCE, loaded.chat)))]
        documents = tokenise(rows, loaded, settings.add_bos)
        # Activations of all layers are kept as inputs of layers are.
        budget = settings.token_budget or (lambda: token_budget(loaded.model, loaded.device, keeps_layers=True))
        return KINDS[kind](loaded, documents, budget, units, prompts[0].provenance.get("seed") or 0)

    return ablation_of
