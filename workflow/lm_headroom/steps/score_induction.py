"""Step: prefix-matching and copying scores of all heads of a model, loaded once."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.engine.loading import load
from lm_headroom.engine.memory import peak_memory
from lm_headroom.engine.resume_cache import open_cache
from lm_headroom.scoring.copying import HeadOutput, copying
from lm_headroom.scoring.prefix_matching import prefix_matching


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
    cache: Path | None,
) -> None:
    """Write ``prefix_matching.parquet`` and ``copying.parquet`` into the folder ``out``."""
    loaded = load(model, dtype, device, threads)
    # Copying first: it needs more distinct tokens, so a vocabulary that is too small is found at once.
    kept = [
        open_cache(cache, module, loaded.record, dtype) for module in ("scoring.copying", "scoring.prefix_matching")
    ]
    copied = copying(loaded, sequences, bos, head_output, output_bias, kept[0])
    matched = prefix_matching(loaded, sequences, bos, kept[1])
    drawn = {"sequences": sequences, "bos": bos}
    judged = {"head_output": head_output, "output_bias": output_bias}
    for kind, (columns, facts), options in ((PREFIX_MATCHING, matched, drawn), (COPYING, copied, drawn | judged)):
        record = build_provenance(
            "steps.score_induction", {}, options, {**model_provenance(loaded.record, dtype), **facts}
        )
        write(out / f"{kind.name}.parquet", kind, columns, record, peak_memory())
