"""Step: prefix-matching scores of all heads of a model."""

from __future__ import annotations

from pathlib import Path

from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.store import write
from headroom.checkpoints import load
from headroom.induction import prefix_matching
from headroom.provenance import describe, model_facts


def run(out: Path, model: Path, sequences: int, bos: bool, dtype: str, device: str, threads: int | None) -> None:
    """Write a prefix-matching artifact."""
    loaded = load(model, dtype, device, threads)
    columns, facts = prefix_matching(loaded, sequences, bos)
    options = {"sequences": sequences, "bos": bos}
    record = describe("steps.score_induction", {}, options, {**model_facts(loaded.record, dtype), **facts})
    write(out, PREFIX_MATCHING, columns, record)
