"""What the evaluating steps share: the model, its documents in batches, and what their artifacts record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.prompts import EVALUATION
from lm_headroom.artifacts.provenance import model_provenance
from lm_headroom.engine.likelihood import tokenise
from lm_headroom.engine.loading import LoadedModel, load
from lm_headroom.engine.memory import peak_memory, token_budget
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import open_cache
from lm_headroom.options import Settings
from lm_headroom.progress import Progress
from lm_headroom.scoring.pruned_evaluation import Evaluation, group_choices
from lm_headroom.tasks.prompt_set import PromptSet, pairs, read_prompts


@dataclass(frozen=True)
class Prepared:
    """An evaluation, ready to run.

    Attributes:
        evaluation: the model and the documents.
        prompts: what the documents were taken from.
        provenance: the task and the model, for the provenance of results.
        label: what progress lines call it.
    """

    evaluation: Evaluation
    prompts: PromptSet
    provenance: dict[str, Any]
    label: str

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self.evaluation.loaded

    @property
    def shape(self) -> tuple[int, int]:
        """Layers of the model, and heads of each."""
        return self.loaded.shape.layers, self.loaded.shape.heads

    @property
    def run_statistics(self) -> dict[str, Any]:
        """Peak memory so far, and tokens per batch (None: no batch was run)."""
        batches = self.evaluation.batches
        return {**peak_memory(), "token_budget": batches.token_budget if batches.packed else None}

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
    settings: Settings,
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
    step: str, loaded: LoadedModel, prompts: PromptSet, purpose: str, settings: Settings, keeps_layers: bool = False
) -> Prepared:
    """Documents for a model that is open; see :func:`prepare`."""
    table = prompts.rows(purpose)
    documents = tokenise(pairs(table), loaded, settings.add_bos)
    # Asked for when there is something to compute: both need the weights.
    budget = settings.token_budget or (lambda: token_budget(loaded.model, loaded.device, keeps_layers))
    batches = Batches(documents, budget, lambda: loaded.device)
    # The oracle's module imports all that evaluates.
    cache = open_cache(settings.cache, "scoring.knockout", loaded.record, settings.dtype)
    provenance = {**prompts.provenance, **model_provenance(loaded.record, settings.dtype)}
    evaluation = Evaluation(loaded, documents, group_choices(table), batches, cache=cache)
    return Prepared(evaluation, prompts, provenance, prompts.label(step, loaded.record["name"]))
