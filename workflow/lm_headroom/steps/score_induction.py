"""Step: prefix-matching and copying scores of all heads of a model, loaded once."""

from __future__ import annotations

from typing import Annotated

from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import ModelSettings, OutFolder, Positive, StudyKey, recorded_options
from lm_headroom.study.choices import HeadOutput


def score_induction(
    *,
    settings: ModelSettings,
    sequences: Annotated[Positive, StudyKey("induction.sequences")] = 100,
    bos: Annotated[bool, StudyKey("induction.bos")] = True,
    head_output: Annotated[HeadOutput, StudyKey("copying.head_output")] = "attention",
    output_bias: Annotated[bool, StudyKey("copying.output_bias")] = False,
    cache: OutFolder | None = None,
    out: OutFolder,
) -> None:
    """Score every head by prefix matching and copying (Algorithms 1 and 2).

    Args:
        settings: how to run the model.
        sequences: number of random sequences.
        bos: put BOS before each sequence.
        head_output: what copying takes as a head's output: the values it attends to, or the value at its own position.
        output_bias: add the output projection's bias to every head's output.
        cache: folder that keeps finished work units for a later run.
        out: folder for prefix_matching.parquet and copying.parquet.

    Example:
        lm-headroom score-induction --model results/opt/model.json --sequences 20 --out induction
    """
    from lm_headroom.engine.loading import load
    from lm_headroom.engine.memory import peak_memory
    from lm_headroom.engine.resume_cache import open_cache
    from lm_headroom.scoring.copying import copying
    from lm_headroom.scoring.prefix_matching import prefix_matching

    options = recorded_options(score_induction, locals())
    loaded = load(settings.model, settings.dtype, settings.device, settings.threads)
    # Copying first: it needs more distinct tokens, so a vocabulary that is too small is found at once.
    modules = ("scoring.copying", "scoring.prefix_matching")
    kept = [open_cache(cache, module, loaded.record, settings.dtype) for module in modules]
    copied = copying(loaded, sequences, bos, head_output, output_bias, kept[0])
    matched = prefix_matching(loaded, sequences, bos, kept[1])
    drawn = {name: options[name] for name in ("sequences", "bos")}
    for kind, (columns, details), used in ((PREFIX_MATCHING, matched, drawn), (COPYING, copied, options)):
        record = build_provenance(
            "steps.score_induction", {}, used, {**model_provenance(loaded.record, settings.dtype), **details}
        )
        write(out / f"{kind.name}.parquet", kind, columns, record, peak_memory())
