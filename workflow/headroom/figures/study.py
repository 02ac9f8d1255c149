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
        rankings: the rankings evaluated; a results folder may hold others, of earlier studies.
    """

    results: Path
    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seed: int | None = None
    correlation: str = "spearman"
    rankings: tuple[str, ...] = ("own",)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.results.name

    @property
    def controls(self) -> list[str]:
        """The control rankings among them: random ones and the reversed."""
        return [name for name in self.rankings if name == "reversed" or name.startswith("random_")]

    def cell(self, step: str, shots: int, *parts: str) -> Path:
        """A step's folder or file for one shot, without suffix."""
        return self.results.joinpath(step, *parts, f"{shots}shot-seed{self.seed}")
