"""Keys of a study as options of the command line."""

from __future__ import annotations

import shlex

from lm_headroom.study.config import Study

OPTIONS = {
    "limits.importance": "--limit-importance",
    "limits.evaluation": "--limit-evaluation",
    "importance.reduction": "--reduction",
    "importance.last_layer_tokens": "--last-layer-tokens",
    "pruning.levels": "--levels",
    "transfer.levels": "--levels",
    "ffn.selection": "--selection",
    "induction.sequences": "--sequences",
    "induction.bos": "--bos",
    "induction.ablate.percents": "--percents",
    "induction.ablate.random": "--random",
    "copying.head_output": "--head-output",
    "copying.output_bias": "--output-bias",
}
"""Keys whose options have other names."""


def command_options(study: Study, *keys: str) -> str:
    """Keys of a study as options, in one string, quoted for the shell.

    One string, because Snakemake compares params as a set of values without their names: two limits that change places
    would be no change.
    """
    words: list[str] = []
    for key in keys:
        value: object = study
        for part in key.split("."):
            value = getattr(value, part)
        option = OPTIONS.get(key, f"--{key.replace('_', '-').replace('.', '-')}")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [option, *map(str, sorted(value))]
        else:
            words += [option, "all" if value is None else str(value)]
    return shlex.join(words)
