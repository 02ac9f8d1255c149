"""Step: prefix-matching and copying scores of all heads of a model, loaded once."""

from __future__ import annotations

from pathlib import Path

from headroom.artifacts.copying import COPYING
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.store import write
from headroom.checkpoints import load
from headroom.copying import HeadOutput, copying
from headroom.induction import prefix_matching
from headroom.memory import peak
from headroom.parts import parts_of
from headroom.provenance import describe, model_facts


def run(
    out: Path,
    model: Path,
    sequences: int,
    bos: bool,
    head_output: HeadOutput,
    output_bias: bool,
    dtype: str,
    device: str,
    threads: int | None,
    parts: Path | None,
) -> None:
    """Write ``prefix_matching.parquet`` and ``copying.parquet`` into the folder ``out``."""
    loaded = load(model, dtype, device, threads)
    # Copying first: it needs more distinct tokens, so a vocabulary that is too small is found at once.
    kept = [parts_of(parts, module, loaded.record, dtype) for module in ("copying", "induction")]
    copied = copying(loaded, sequences, bos, head_output, output_bias, kept[0])
    matched = prefix_matching(loaded, sequences, bos, kept[1])
    drawn = {"sequences": sequences, "bos": bos}
    judged = {"head_output": head_output, "output_bias": output_bias}
    for kind, (columns, facts), options in ((PREFIX_MATCHING, matched, drawn), (COPYING, copied, drawn | judged)):
        record = describe("steps.score_induction", {}, options, {**model_facts(loaded.record, dtype), **facts})
        write(out / f"{kind.name}.parquet", kind, columns, record, peak())
