"""What all measures share: the model, its prompts and tasks, and how a rival's batch size is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import contest
from benchmarks.rivals import Harness
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.engine.loading import LoadedModel, load
from lm_headroom.tasks import prompts
from lm_headroom.tasks.files import TASK_FOLDERS

TASKS = (
    "hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "winogrande", "boolq", "cb", "copa", "wic", "wsc",
    "multirc", "rte", "record",
)  # fmt: skip
LONG = {"record": 4, "multirc": 2, "boolq": 2}
"""Tasks whose documents are long, or have a dozen rows, to what divides their number: none takes most of the time."""
NEAR = 2e-3
"""Nats: how far log-likelihoods in float32 may be from HFLM's."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all measures share.

    Attributes:
        record: the model's ``model.json``.
        records: folder with ``{task}/{split}.parquet``.
        rounds: how often contestants take turns.
        documents: number of shots to documents per task.
        tasks: the tasks.
        batches: HFLM's batch sizes; the fastest one is its contestant.
        pairs_whole: tasks of measure e, and how many documents each.
        documents_pruned: documents per task that the accuracy of pruned checkpoints is measured on.
    """

    record: Path
    records: Path
    rounds: int = 3
    documents: dict[int, int] = field(default_factory=lambda: {0: 8, 1: 4, 5: 4})
    tasks: Sequence[str] = TASKS
    batches: Sequence[int] = (1, 8)
    pairs_whole: dict[str, int] = field(default_factory=lambda: {"copa": 40, "winogrande": 16})
    documents_pruned: int = 48

    @property
    def few_rounds(self) -> int:
        """Rounds of what takes minutes each."""
        return min(self.rounds, 2)

    def loaded(self, dtype: str = "float32") -> LoadedModel:
        """Our model."""
        return load(self.record, dtype, "cpu", torch.get_num_threads())

    def pairs(self, task: str, shots: int, purpose: str = EVALUATION, n: int | None = None) -> list[tuple[Any, ...]]:
        """(doc_id, context, continuation, gold) of real prompts."""
        n = n or self.documents[shots]
        n = max(1, n // LONG.get(task, 1))
        columns, _ = prompts.render(
            task, shots, 1234, str(self.records), n, n, folders=[TASK_FOLDERS / "paper"], metric="answer"
        )
        rows = zip(*(columns[name] for name in ("purpose", "doc_id", "context", "continuation", "gold")), strict=True)
        return [(doc_id, *rest) for kind, doc_id, *rest in rows if kind == purpose]

    def gold(self, task: str, shots: int, n: int | None = None) -> list[tuple[Any, ...]]:
        """(doc_id, context, continuation) of each scoring document's first right choice."""
        rows = self.pairs(task, shots, IMPORTANCE, n)
        return list({row[0]: row[:3] for row in reversed(rows) if row[3]}.values())[::-1]


def best_batch(rival: Harness, pairs: Any, sizes: Sequence[int]) -> int:
    """The size at which HFLM is fastest on these requests."""
    times = contest({str(size): partial(rival.log_likelihoods, pairs, size) for size in sizes}, 1)
    return int(min(times, key=lambda name: times[name].median))
