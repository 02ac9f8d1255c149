"""Step: FFN importance on the documents that the study does not rank by, and the curve under that ranking.

Its difference from the study's own curve is the selection bias of judging on the documents that ranked the FFNs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.options import EvaluationSettings, Levels, OutFile, StudyKey, recorded_options
from lm_headroom.study.choices import ACCURACY, LEVELS, KnockoutOutcome, Selection, with_zero

OTHER: dict[Selection, Selection] = {"evaluation": "scoring", "scoring": "evaluation"}


def select_ffns(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    metric: Annotated[KnockoutOutcome, StudyKey("ffn.metric")] = ACCURACY,
    selection: Annotated[Selection, StudyKey("ffn.selection", OTHER.get)] = "scoring",
    levels: Annotated[Levels, StudyKey("pruning.levels", with_zero)] = LEVELS,
    out: OutFile,
    curve: OutFile,
) -> None:
    """Score FFNs on the documents that a study does not rank by, and measure that ranking's accuracy curve.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        metric: the outcome whose loss without an FFN is its score; accuracy in the paper.
        selection: the study's own documents; the others score here.
        levels: percents of FFNs pruned, of that curve; 0 is always evaluated.
        out: the FFN-selection artifact.
        curve: the accuracy curve, measured on the evaluation documents as the study's own.

    Example:
        lm-headroom select-ffns --model results/opt/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --out selection.parquet --curve other_documents.parquet
    """
    from lm_headroom.steps.score_ffns import Record, score_and_measure

    options = recorded_options(select_ffns, locals())
    record = Record("steps.select_ffns", FFN_SELECTION, options)
    score_and_measure(settings, prompts, metric, OTHER[selection], levels, record, out, None, curve)
