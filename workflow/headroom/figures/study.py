"""The matrix of a study that figures gather over, and where its artifacts are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Study:
    """One model's part of a study.

    Attributes:
        results: the model's results folder.
        tasks, shots: in the order of the figures.
        seed: few-shot seed; None for what does not depend on it.
        correlation: which statistic figures show, ``spearman`` or ``argsort``.
    """

    results: Path
    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seed: int | None = None
    correlation: str = "spearman"

    @property
    def model(self) -> str:
        """The model's name."""
        return self.results.name

    def cell(self, step: str, shots: int, *parts: str) -> Path:
        """A step's folder or file for one shot, without suffix."""
        return self.results.joinpath(step, *parts, f"{shots}shot-seed{self.seed}")
