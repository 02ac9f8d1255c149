"""Step: accuracy curve of one task, shot and seed with FFNs pruned under its own ranking (Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headroom.artifacts.ffns import read_ffn_ranking
from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.store import write
from headroom.provenance import describe
from headroom.settings import Settings
from headroom.steps.prepare_evaluation import check_ffns, prepare


def run(out: Path, model: Path, prompts: Path, ranking: Path, levels: Sequence[int], settings: Settings) -> None:
    """Write a pruned-evaluation artifact of FFNs."""
    layers = read_ffn_ranking(ranking)
    prepared = prepare("prune-ffns", model, prompts, settings, len(levels))
    check_ffns(ranking, layers, prepared.loaded)
    options = {"levels": list(levels), "add_bos": settings.add_bos}
    inputs = {"prompts": prompts, "ranking": ranking}
    record = describe("steps.evaluate_ffns", inputs, options, {**prepared.facts, "ranking": out.stem})
    write(out, PRUNED_EVAL, prepared.evaluation.ffn_curve(layers, levels), record)
