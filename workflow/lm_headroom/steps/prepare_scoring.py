"""What the steps share that score heads by gradients: the model, its scoring documents, and what results record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.prompts import GREEDY, IMPORTANCE
from lm_headroom.artifacts.provenance import model_provenance
from lm_headroom.engine.likelihood import start_provenance, tokenise
from lm_headroom.engine.loading import LoadedModel, load
from lm_headroom.engine.memory import peak_memory, token_budget
from lm_headroom.engine.packing import Document
from lm_headroom.engine.resume_cache import ResumeCache, open_cache
from lm_headroom.errors import HeadroomError
from lm_headroom.options import Settings
from lm_headroom.progress import Progress
from lm_headroom.tasks.digest import explain_no_choices
from lm_headroom.tasks.prompt_set import PromptSet, first_gold, pairs, read_prompts, right_choices


@dataclass(frozen=True)
class Scoring:
    """A model and its scoring documents, one row each: the first right choice.

    Attributes:
        loaded: the model, whose weights are read when they are first needed.
        prompts: what the documents were taken from.
        documents: tokenised.
        cache: where finished units are kept, and looked for.
        settings: how to run the model.
    """

    loaded: LoadedModel
    prompts: PromptSet
    documents: list[Document]
    cache: ResumeCache
    settings: Settings

    @cached_property
    def _token_budget(self) -> int:
        loaded = self.loaded
        return self.settings.token_budget or token_budget(loaded.model, loaded.device, differentiates=True)

    def token_budget(self) -> int:
        """Tokens per batch; asked for when there is something to compute, since it may need the weights."""
        return self._token_budget

    @cached_property
    def choices(self) -> tuple[list[Document], list[tuple[bool, ...]]]:
        """The scoring documents with a row for each choice, and which choices are right.

        Raises:
            HeadroomError: the task has no choices.
        """
        table = self.prompts.rows(IMPORTANCE, self.loaded.chat)
        if GREEDY in table.column("metric").to_pylist():
            raise HeadroomError(f"the loss of choosing {explain_no_choices(self.prompts.task)}")
        return tokenise(pairs(table), self.loaded, self.settings.add_bos), right_choices(table)

    @property
    def provenance(self) -> dict[str, Any]:
        """The task, the model and the documents, for the provenance of results."""
        return {
            **self.prompts.provenance,
            **model_provenance(self.loaded.record, self.settings.dtype),
            **start_provenance(self.loaded, self.settings.add_bos),
            "n_documents": len(self.documents),
            "n_truncated": sum(document.truncated > 0 for document in self.documents),
        }

    @property
    def run_statistics(self) -> dict[str, Any]:
        """Peak memory so far, and tokens per batch (None: no batch was run)."""
        return {**peak_memory(), "token_budget": self.token_budget() if self.loaded.in_memory else None}

    def progress(self, step: str, n_rounds: int = 1) -> Progress:
        """Progress over the documents, so many times.

        Args:
            step: what its lines call the step.
            n_rounds: how often each document is scored.
        """
        label = self.prompts.label(step, self.loaded.record["name"])
        return Progress(label, n_rounds * len(self.documents), "documents")


def prepare_scoring(model: Path, prompts: Path, settings: Settings) -> Scoring:
    """Open a model and take the scoring documents.

    Args:
        model: the model record.
        prompts: prompts artifact.
        settings: how to run the model.
    """
    # Bad prompts are refused before the model is opened.
    prompt_set = read_prompts(prompts)
    prompt_set.rows(IMPORTANCE)
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    table = first_gold(prompt_set.rows(IMPORTANCE, loaded.chat))
    documents = tokenise(pairs(table), loaded, settings.add_bos)
    # Scores of all heads and the first round of an iterative ranking are the same units.
    cache = open_cache(settings.cache, "scoring.choosing", loaded.record, settings.dtype)
    return Scoring(loaded, prompt_set, documents, cache, settings)
