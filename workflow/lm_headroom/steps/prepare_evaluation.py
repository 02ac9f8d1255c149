"""What the evaluating steps share: the model, its documents in batches, and what their artifacts record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lm_headroom.artifacts.model_record import read_record
from lm_headroom.artifacts.prompts import EVALUATION
from lm_headroom.artifacts.provenance import model_provenance
from lm_headroom.engine.loading import LoadedModel, load
from lm_headroom.engine.memory import peak_memory, token_budget
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import open_cache
from lm_headroom.errors import HeadroomError
from lm_headroom.progress import Progress
from lm_headroom.scoring.pruned_evaluation import Evaluation
from lm_headroom.settings import Settings
from lm_headroom.steps.read_prompts import choices, label, rows, task_provenance, tokenise


@dataclass(frozen=True)
class Prepared:
    """An evaluation, ready, and facts about its task and model for the provenance."""

    evaluation: Evaluation
    facts: dict[str, Any]
    label: str

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self.evaluation.loaded

    @property
    def run(self) -> dict[str, Any]:
        """What the run took so far: peak memory, and the tokens per batch that it came to (None: no batch was run)."""
        batches = self.evaluation.batches
        return {**peak_memory(), "token_budget": batches.token_budget if batches.packed else None}

    def expect(self, n_sets: int) -> None:
        """Begin to report progress over so many sets of pruned components."""
        total = len(self.evaluation.documents) * n_sets
        self.evaluation.progress = Progress(self.label, total, "document evaluations")


def prepare(
    step: str,
    model: Path,
    prompts: Path,
    settings: Settings,
    n_sets: int = 0,
    purpose: str = EVALUATION,
    keeps_layers: bool = False,
) -> Prepared:
    """Load a model and the documents of one purpose.

    Args:
        step: what progress lines call it.
        model: the model record.
        prompts: prompts artifact.
        settings: how to run the model.
        n_sets: how many sets of pruned components will be evaluated, for the estimate of the time left.
        purpose: which documents.
        keeps_layers: the inputs of all layers will be kept, which takes memory.
    """
    # Bad prompts are found before minutes of loading.
    table = rows(prompts, purpose)
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    prepared = prepare_documents(step, loaded, prompts, table, settings, keeps_layers)
    prepared.expect(n_sets)
    return prepared


def prepare_documents(
    step: str, loaded: LoadedModel, prompts: Path, table: pa.Table, settings: Settings, keeps_layers: bool = False
) -> Prepared:
    """Rows of ``prompts`` as documents for a model that is loaded; see :func:`prepare`."""
    documents = tokenise(table, loaded, settings.add_bos)
    # Asked for when there is something to compute: both need the weights.
    budget = settings.token_budget or (lambda: token_budget(loaded.model, loaded.device, keeps_layers))
    batches = Batches(documents, budget, lambda: loaded.device)
    # The oracle's module imports all that evaluates.
    cache = open_cache(settings.cache, "scoring.knockout", loaded.record, settings.dtype)
    facts = {**task_provenance(prompts), **model_provenance(loaded.record, settings.dtype)}
    evaluation = Evaluation(loaded, documents, choices(table), batches, cache=cache)
    return Prepared(evaluation, facts, label(step, prompts, loaded.record["name"]))


def expected_ranking(model: Path, prompts: Path, *tasks: str) -> dict[str, Any]:
    """What a ranking for these prompts must be of: the same model, shots and few-shot seed.

    Args:
        model: the model record.
        prompts: prompts artifact.
        tasks: whose ranking will do; where none is named, that of the prompts' task.
    """
    facts = task_provenance(prompts)
    return {
        "model": read_record(model)["digest"],
        "task": frozenset(tasks) or facts.get("task"),
        "shots": facts.get("shots"),
        "seed": facts.get("seed"),
    }


def check_heads(path: Path, ranking: list[tuple[int, int]], loaded: LoadedModel) -> list[tuple[int, int]]:
    """The ranking, if it is one of this model's heads.

    Raises:
        HeadroomError: it ranks the heads of another model.
    """
    shape = loaded.shape
    found = (max(layer for layer, _ in ranking) + 1, max(head for _, head in ranking) + 1)
    if found != (shape.layers, shape.heads):
        raise HeadroomError(
            f"{path}: ranks {found[0]} layers x {found[1]} heads, the model has {shape.layers} x {shape.heads}; "
            "it is a ranking of another model"
        )
    return ranking


def check_ffns(path: Path, ranking: list[int], loaded: LoadedModel) -> list[int]:
    """The ranking, if it is one of this model's FFNs.

    Raises:
        HeadroomError: it ranks the FFNs of another model.
    """
    if len(ranking) != loaded.shape.layers:
        raise HeadroomError(
            f"{path}: ranks {len(ranking)} FFNs, the model has {loaded.shape.layers}; it is a ranking of another model"
        )
    return ranking
