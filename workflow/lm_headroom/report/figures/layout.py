"""How figures are laid out: width, title and scales, which a study may choose."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lm_headroom.study.choices import CapacityScale, FigureTitle, FigureWidth, ImportanceScale

WIDTHS: dict[FigureWidth, float] = {"single": 3.03, "double": 6.30}
"""Inches of one column and of the text of a page, those of the ACL's templates: 77 and 160 mm."""


@dataclass(frozen=True)
class Layout:
    """What figures of a study have in common.

    Attributes:
        width: of one column, or of both.
        title: above the panels, or none, where a paper's caption says it.
        importance_scale: scale of the colours of head importance.
        capacity_scale: induction capacity as the share retained, or as its difference to chance.
    """

    width: FigureWidth = "double"
    title: FigureTitle = "above"
    importance_scale: ImportanceScale = "linear"
    capacity_scale: CapacityScale = "retained"

    @property
    def inches(self) -> float:
        """Width of the figure."""
        return WIDTHS[self.width]

    @property
    def options(self) -> dict[str, Any]:
        """For the provenance, under the names of the command's options."""
        return asdict(self)


DEFAULT = Layout()
