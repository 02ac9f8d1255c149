"""Step: FFN importance on the other documents than the study ranks by, and the curve under that ranking.

Beside the study's own it says how optimistic curves are that are measured on the documents which ranked the FFNs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.settings import Settings
from lm_headroom.steps import score_ffns
from lm_headroom.steps.score_ffns import Selection

OTHER: dict[Selection, Selection] = {"evaluation": "scoring", "scoring": "evaluation"}


def run(
    out: Path,
    curve: Path,
    model: Path,
    prompts: Path,
    selection: Selection,
    levels: Sequence[int],
    settings: Settings,
) -> None:
    """Write an FFN-selection artifact, and the curve under its ranking.

    Args:
        out, curve: the artifacts.
        model, prompts: what is evaluated.
        selection: the study's; the other one scores here.
        levels: percents of FFNs of the curve, which is measured on the evaluation documents as the study's own.
        settings: how to run the model.
    """
    other = OTHER[selection]
    score_ffns.run(out, None, curve, model, prompts, other, levels, settings, FFN_SELECTION, "steps.select_ffns")
