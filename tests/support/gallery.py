"""The gallery of the documentation: each figure of a study whose values are made up, as small pictures.

``python -m tests.support.gallery`` draws them.
"""

from __future__ import annotations

import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lm_headroom.report.figures import (
    criteria_agreement,
    fig03,
    fig04,
    fig05,
    fig07,
    fig08,
    fig09,
    fig10,
    fig11,
    fig12,
    fig18,
    oracle,
    prunable_share,
    style,
)
from lm_headroom.report.figures.layout import Layout
from lm_headroom.results.matrix import ResultsMatrix
from tests.support.paths import ROOT
from tests.support.small_study import Values, write_study

FOLDER = ROOT / "docs" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"
DPI = 110
LEVELS = tuple(range(0, 100, 10))
TASKS = ("arc_easy", "piqa", "copa", "winogrande", "hellaswag")
HEAD = """# Gallery

Most figures that a study can have, here of made-up numbers: five tasks, a model of 12 layers with 12 heads each. The
widths are those of print, one or two columns (`figures.width`). `python -m tests.support.gallery` draws them anew. Each
study's report says below a figure what it means.
"""


def _right(shots: int, component: str, task: str, ranking: str) -> list[int]:
    """Right answers of 10 per level, which fall as more is pruned; the same in every process."""
    draw = np.random.default_rng(zlib.crc32(f"{shots} {component} {task} {ranking}".encode()))
    levels = 3 if ranking in ("highest_srcc", "lowest_srcc") else len(LEVELS)
    first = 9 if task in ("copa", "arc_easy") else 8
    return [first, *sorted(draw.integers(3, first + 1, levels - 1).tolist(), reverse=True)]


def _lost(task: str) -> list[int]:
    """Right answers of 10 lost without the FFN of each layer: most without the first and the last."""
    return [1 + (len(task) + i) % 3 if i in (0, 11) else (len(task) * i) % 2 for i in range(12)]


def made_up(folder: Path) -> ResultsMatrix:
    """The study, written below a folder."""
    controls = ("magnitude", "random_1", "random_2", "reversed")
    matrix = ResultsMatrix(folder / "results" / "model", TASKS, (0, 5), 7, "spearman", controls, ("mathqa",), ("copa",))
    values = Values(
        shape=(12, 12),
        levels=LEVELS,
        heads=LEVELS,
        ffns=LEVELS,
        right=_right,
        lost=lambda task: [
            1 + (len(task) + layer) % 3 if layer in (0, 11) else (len(task) * layer) % 2 for layer in range(12)
        ],
        joint=lambda task: [[max(1, 9 - i // 2 - j) for j in range(10)] for i in range(10)],
        repeat=8,
    )
    return write_study(replace(matrix, joint=True), values)


def figures(matrix: ResultsMatrix) -> Iterator[tuple[str, str, Layout, Callable[[], Figure]]]:
    """Name, title, layout and drawing of each picture."""
    one = matrix.changed(shots=(0,))
    judged = matrix.changed(margin=2.0)
    ranks, chance = Layout(importance_scale="rank"), Layout(capacity_scale="difference")
    heads, copying = {"component": "heads"}, {"score": "copying"}
    rows: list[tuple[str, str, Any, ResultsMatrix, dict[str, str], Layout]] = [
        ("fig03", "Figure 3: aggregate head importance", fig03, matrix, {}, Layout()),
        ("fig04", "Figure 4: FFN importance", fig04, matrix, {}, Layout()),
        ("fig05", "Figure 5: accuracy with heads pruned", fig05, matrix, heads, Layout()),
        ("fig05_single", "The same in one column, without title", fig05, one, heads, Layout("single", "none")),
        ("fig06", "Figure 6: accuracy with FFNs pruned", fig05, matrix, {"component": "ffns"}, Layout()),
        ("fig07", "Figure 7: heads and FFNs pruned together", fig07, matrix, {}, Layout()),
        ("fig08", "Figures 8 and 15: rank correlation between tasks", fig08, matrix, {}, Layout()),
        ("fig09", "Figures 9, 16 and 17: other tasks' rankings", fig09, one, {}, Layout()),
        ("fig10", "Figure 10: induction heads", fig10, matrix, {}, Layout()),
        ("fig11", "Figure 11: induction capacity retained", fig11, matrix, {}, Layout()),
        ("fig12", "Figures 12 to 14: head importance by task", fig12, one, {}, Layout()),
        ("fig12_rank", "The same by rank (`figures.importance_scale: rank`)", fig12, one, {}, ranks),
        ("fig18", "Figures 18 and 19: capacity by task", fig18, matrix, copying, Layout()),
        ("fig18_chance", "The same beyond chance (`capacity_scale: difference`)", fig18, matrix, copying, chance),
        ("prunable_share", "How much each criterion lets one prune", prunable_share, judged, {}, Layout()),
        ("oracle_ffns", "Gradient scores of FFNs against the oracle", oracle, matrix, {"component": "ffns"}, Layout()),
        ("oracle_heads", "Gradient scores of heads against the oracle", oracle, matrix, heads, Layout()),
        ("criteria_agreement", "Why criteria differ", criteria_agreement, one, {}, Layout()),
    ]  # fmt: skip
    for name, title, module, shown, arguments, layout in rows:
        yield name, title, layout, partial(module.draw.__wrapped__, shown, **arguments)


def picture(layout: Layout, draw: Callable[[], Figure]) -> Image.Image:
    """A figure as a small picture."""
    with style.laid_out(layout):
        figure = draw()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    plt.close(figure)
    return Image.open(content).convert("RGB")


def page() -> str:
    """The page, which shows each picture."""
    listed = figures(ResultsMatrix(Path("results/model"), TASKS, (0, 5), 7))
    return HEAD + "".join(f"\n## {title}\n![{title}](gallery/{name}.png)\n" for name, title, _, _ in listed)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, _, layout, draw in figures(made_up(Path(temporary))):
            picture(layout, draw).quantize(255, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)
    PAGE.write_text(page(), encoding="utf-8")
