"""Write the schema by which editors check a study, and the page of options, from the typed study.

``python -m lm_headroom.study.documentation`` writes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_headroom.study.config import Study
from lm_headroom.study.criteria import CRITERIA

_ROOT = Path(__file__).resolve().parents[3]
SCHEMA, PAGE = _ROOT / "workflow" / "schemas" / "config.schema.json", _ROOT / "docs" / "options.md"
CRITERIA_PAGE = _ROOT / "docs" / "criteria.md"
_CRITERIA_HEAD = """# Criteria that rank heads, FFNs and experts

A criterion gives every head, FFN or expert a score, and those of the lowest scores are pruned first. The paper ranks
heads by `token` or `example` and FFNs by `oracle_accuracy`. Name any other in `pruning.controls` to evaluate it beside
these; the table *Gains over random order* then compares them, questions paired. `importance.criterion` lets one rank in
their place, and [own_ranking.md](own_ranking.md) adds a score of your own. Experts of a mixture have
`experts.criterion` and `experts.controls` instead. `make options` writes this page from
`workflow/lm_headroom/study/criteria.py`.

g_d is the product A . dL/dA of a head's output A (of an FFN its output F, of an expert its output
times the router's weight) and the gradient of the loss L of eq. 9,
summed over the tokens of document d. Removing a head changes the loss by -g_d to first order. No criterion wins
everywhere: absolute products say how much a head matters, signed ones whether it helps, and a first-order sign fails
where the step is large. The empirical Fisher information is not the Hessian's diagonal, but costs no further pass.
`depth` is without the rescaling of arXiv 2507.01900, of which we could read the abstract, but not the formula.

c_d is the same product of the loss of choosing: the cross entropy over a document's answer choices, -log of the sum of
softmax(l)_k over its right choices k. l_k is the log-likelihood of choice k, summed over its tokens and not normalised
by length, as accuracy (`acc`) compares choices. These criteria take a pass over all choices and are computed only where
a study names one of them. They refuse tasks without choices, such as lambada_openai. Where a document has one choice
alone, this loss is zero.

| criterion | ranks | score | unit | gradients | passes | source |
|---|---|---|---|---|---|---|
"""
_HEAD = """# Options of a study

This page describes every key of a study file. `make options` writes it from `workflow/lm_headroom/study/config.py`,
together with the schema by which editors complete and check the keys (the first line of a study file names it). Write
numbers in decimal digits, truth values as `true` or `false`, and names that look like either in quotes. The workflow
ignores keys that begin with `x-`, which may hold YAML anchors.

| key | values | default | meaning |
|---|---|---|---|
"""
_TYPES = {"string": "text", "boolean": "`true` or `false`", "null": "`null`", "object": "keys with values"}


def texts() -> dict[Path, str]:
    """The generated files and what they hold."""
    schema = build_schema()
    rows = "".join(_row(key, part) for key, part in options(schema))
    criteria = "".join(
        f"| `{name}` | {' and '.join(row.components)} | {_cell(row.formula)} | {row.unit} | "
        f"{'yes' if row.needs_gradients else 'no'} | {row.passes} | {row.source} |\n"
        for name, row in CRITERIA.items()
    )
    return {
        SCHEMA: json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
        PAGE: _HEAD + rows,
        CRITERIA_PAGE: _CRITERIA_HEAD + criteria,
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def build_schema() -> dict[str, Any]:
    """The JSON schema of a study, each section written out where it stands."""
    schema = Study.model_json_schema()
    sections = schema.pop("$defs")

    def written_out(part: Any) -> Any:
        if isinstance(part, list):
            return [written_out(item) for item in part]
        if not isinstance(part, dict):
            return part
        part = {**sections[part["$ref"].split("/")[-1]], **part} if "$ref" in part else part
        # Titles are keys once more.
        return {
            key: " ".join(value.split()) if key == "description" and isinstance(value, str) else written_out(value)
            for key, value in part.items()
            if key != "$ref" and not (key == "title" and isinstance(value, str))
        }

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A lm-headroom study",
        **written_out(schema),
    }


def options(schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted key and schema of each option; a model's name is written NAME."""
    for key, part in schema["properties"].items():
        yield f"{above}{key}", part
        if "properties" in part:
            yield from options(part, f"{above}{key}.")
        for named in part.get("patternProperties", {}).values():
            yield from options(named, f"{above}{key}.NAME.")
        # Of two lists of equal entries, the first describes them.
        if "properties" in part.get("items", {}) and key == "tasks":
            yield from options(part["items"], f"{above}{key}[].")


def _row(key: str, part: dict[str, Any]) -> str:
    # A section's default is those of its keys.
    default = f"`{json.dumps(part['default'])}`" if "default" in part and "properties" not in part else ""
    cells = (f"`{key}`", _values(part), default, part["description"])
    return "| " + " | ".join(map(_cell, cells)) + " |\n"


def _values(part: dict[str, Any]) -> str:
    """What a value can be, in words."""
    if "anyOf" in part:
        return " or ".join(_values(each) for each in part["anyOf"])
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if part["type"] == "array":
        items = re.sub(r"\b(number|text)\b", r"\1s", _values(part["items"]), count=1)
        return f"list of {items}" + (", not empty" if part.get("minItems") else "")
    if part["type"] in ("integer", "number"):
        lowest = f"above {part['exclusiveMinimum']:g}" if "exclusiveMinimum" in part else f"from {part['minimum']}"
        return f"{'whole ' * (part['type'] == 'integer')}number {lowest} to {part['maximum']:,.0f}"
    if isinstance(part["type"], list):
        return " or ".join(_TYPES[each] for each in part["type"])
    return _TYPES[part["type"]]


if __name__ == "__main__":
    for path, text in texts().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
