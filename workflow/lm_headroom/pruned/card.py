"""The README.md of a pruned checkpoint: front matter for model hubs, and a page for readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lm_headroom.artifacts.catalogue import TAG


def build_card(manifest: Mapping[str, Any]) -> str:
    """Build the page.

    Args:
        manifest: the checkpoint's manifest; see :mod:`lm_headroom.steps.export_pruned`.
    """
    matter = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{matter}---\n\n" + "\n".join(_page(manifest)) + "\n"


def _front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    model = manifest["model"]
    licence = (model.get("origin") or {}).get("licence")
    return {
        # The hub links it: only what came from there.
        **({"base_model": model["source"]} if model.get("source") else {}),
        **({"license": licence.lower()} if licence else {}),
        "library_name": "transformers" if manifest["plain"] else "lm-headroom",
        "pipeline_tag": "text-generation",
        "tags": [TAG, "pruned"],
        "lm-headroom": {
            "base": {name: model.get(name) for name in ("name", "source", "revision", "digest")},
            "pruned": manifest["pruned"],
            "parameters": manifest["parameters"],
            "made_by": {**manifest["made_by"], "code": manifest["code"], "packages": manifest["packages"]},
            "provenance": manifest["lineage"],
        },
    }


def _page(manifest: Mapping[str, Any]) -> Iterator[str]:
    model, parameters = manifest["model"], manifest["parameters"]
    parts = " and ".join(f"{part['percent']}% of its {what}" for what, part in manifest["pruned"].items())
    yield f"# {model['name']} without {parts}"
    yield ""
    yield (
        f"{model['name']} ({model.get('family')}, checkpoint digest `{model['digest'][:16]}`) with its least "
        "important attention heads, feed-forward networks (FFNs) or experts permanently removed, with their weights."
    )
    yield from ("", "| | pruned | of | percent | ranking |", "|---|---|---|---|---|")
    for what, part in manifest["pruned"].items():
        yield f"| {what} | {part['count']} | {part['of']} | {part['percent']} | `{part['ranking']}` |"
    before, after = parameters["before"], parameters["after"]
    yield ""
    if manifest["options"]["ablation"] == "mean" and {"heads", "ffns"} & set(manifest["pruned"]):
        yield "In their place, biases hold what they give on average over the scoring documents."
        yield ""
    yield f"Parameters: {before:,} before, {after:,} after ({(before - after) / before:.1%} removed)."
    yield from _how_to_load(manifest["plain"])
    origin = manifest["made_by"]
    commit = f", commit `{origin['commit']}`" if origin["commit"] else ""
    yield from ("", "## Provenance", "")
    yield f"lm-headroom {origin['version'] or '(version unknown)'}{commit}, code `{manifest['code']}`, from:"
    yield from ("", "| file of the study | SHA-256 | made by |", "|---|---|---|")
    for place, source in manifest["lineage"].items():
        step = f"{source['step']} `{source['code']}`" if "step" in source else "missing or changed since"
        yield f"| {place} | `{source['digest'][:16]}` | {step} |"


def _how_to_load(plain: bool) -> Iterator[str]:
    model = "AutoModelForCausalLM.from_pretrained" if plain else "lm_headroom.load_pruned"
    imports = (
        ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
        if plain
        else ["import lm_headroom", "from transformers import AutoTokenizer"]
    )
    yield from ("", "## Load", "", "```python", *imports, "")
    yield f'model = {model}("FOLDER")  # forward, generate, save_pretrained as any transformers model'
    yield from ('tokenizer = AutoTokenizer.from_pretrained("FOLDER")', "```", "")
    if plain:
        yield "All layers have the same numbers of heads and experts, so that lm-headroom is not needed to load it."
    else:
        yield (
            "`AutoModelForCausalLM.from_pretrained` of transformers loads it only after `import lm_headroom`: layers "
            "differ in heads or experts, or have no FFN, for which the model type `lm_headroom_pruned` stands."
        )
