"""What is wrong with a study, in a sentence: the key, its value, and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from lm_headroom.errors import nearest
from lm_headroom.study.config import Study
from lm_headroom.study.values import shown

_TYPES = {
    "array": "a list",
    "object": "keys with values",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "is less than the minimum of"),
    "less_than_equal": ("le", "is greater than the maximum of"),
    "greater_than": ("gt", "is not greater than"),
}


def message(error: ValidationError) -> str:
    """The first thing that is wrong, unknown keys before values."""
    errors = error.errors(include_url=False)
    unknown = next((each for each in errors if each["type"] == "extra_forbidden"), None)
    return _unknown_key(unknown["loc"]) if unknown else _wrong_value(errors)


def _unknown_key(place: tuple[int | str, ...]) -> str:
    *above, name = place
    _, _, inner = _described(tuple(above))
    known = _section(inner).get("properties", {})
    key = ".".join(map(str, place))
    return f"config key {key!r} is unknown{nearest(str(name), known)}; known here: {', '.join(sorted(known))}"


def _wrong_value(errors: list[Any]) -> str:
    key, described, inner = _described(errors[0]["loc"])
    # A value that may be of several types has an error for each; a bound says more than a type.
    same = [each for each in errors if _described(each["loc"])[0] == key]
    error = next((each for each in same if each["type"] in _BOUNDS), same[0])
    about = " ".join(described.get("description", "").split())
    return f"config key {key!r}: {_reason(error, inner)}" + (f". About this key: {about}" if about else "")


def _reason(error: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    """What is wrong with a value.

    Args:
        error: pydantic's.
        inner: the value's part of the schema.
    """
    value, kind = error["input"], error["type"]
    if kind in _BOUNDS:
        limit, wrong = _BOUNDS[kind]
        bound = error["ctx"][limit]
        return f"{shown(value)} {wrong} {f'{bound:g}' if isinstance(bound, float) else bound}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "too_short":
        return f"{shown(value)} should be non-empty"
    if kind == "missing":
        return "is not there, and has no default"
    if "enum" in inner:
        return f"{shown(value)} is not one of {inner['enum']}"
    wanted = _wanted(inner)
    quotes = "; put a text in quotes" if "text" in wanted and isinstance(value, bool | int | float) else ""
    return f"expected {wanted}, got {shown(value)}{quotes}"


def _wanted(inner: Mapping[str, Any]) -> str:
    """What a value can be, in words."""
    parts = inner.get("anyOf", [inner])
    if isinstance(inner.get("type"), list):
        parts = [{"type": kind} for kind in inner["type"]]
    return " or ".join(str(part["const"]) if "const" in part else _TYPES[part["type"]] for part in parts)


@cache
def _schema() -> dict[str, Any]:
    return Study.model_json_schema()


def _section(part: dict[str, Any]) -> dict[str, Any]:
    """The section that a part of the schema refers to, also where it may be null; else the part itself."""
    named = next((each["$ref"] for each in (part, *part.get("anyOf", ())) if "$ref" in each), None)
    return _schema()["$defs"][named.split("/")[-1]] if named else part


def _described(place: tuple[int | str, ...]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Dotted key of a place, the part of the schema that describes it, and the part for its value.

    Pydantic's places go on behind the key where a value may be of several types; the schema ends there.
    """
    schema = _schema()
    key, described, inner = "", dict[str, Any](), schema
    for part in place:
        inner = _section(inner)
        # Of a mapping with names of its own, all values are of one kind.
        named = next(iter(inner.get("patternProperties", {}).values()), None)
        entry = inner.get("items") if isinstance(part, int) else inner.get("properties", {}).get(part, named)
        if not entry:
            break
        described = entry if "description" in entry else described
        inner = _section(entry) if "$ref" in entry else entry
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key, described, inner
