"""Reading studies: YAML in which nothing is read otherwise than it looks, several files as one, and the typed study.

Snakemake reads study files, too, with the last of two equal keys and what YAML 1.1 makes of numbers. What the workflow
goes by is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lm_headroom.errors import HeadroomError
from lm_headroom.study.config import Study
from lm_headroom.study.messages import message
from lm_headroom.study.values import shown

IGNORED = "x-"
"""How keys begin that hold nothing but anchors."""
_DEEPEST, _MOST_DIGITS = 20, 100
_TAG = "tag:yaml.org,2002:"
_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date", "null": "null"}
# What all versions of YAML read in one way, as it looks.
_PLAIN = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:0|[1-9][0-9]*)?\.[0-9]*(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
# Text to YAML 1.1, and a number to later versions or to a reader.
_LIKE_NUMBER = (
    r"[-+]?(?:[0-9_,]*[0-9][0-9_,]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?0(?:[bB][01_]+|[oO][0-7_]+|[xX][0-9a-fA-F_]+)|="
)


def read_study(path: Path) -> Study:
    """A study file, with defaults where it is silent.

    Raises:
        HeadroomError: the file is no study; names the first key that is not right.
    """
    return parse_study(read_file(path))


def merge(paths: Iterable[Path], changes: Iterable[str] = ()) -> dict[str, Any]:
    """The keys and values of several files and changes, unchecked, later ones over earlier ones, key by key.

    Args:
        paths: study files.
        changes: ``key=value``, the value in YAML.

    Raises:
        HeadroomError: as :func:`read_file`.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merged(merged, read_file(path))
    for change in changes:
        key, _, value = change.partition("=")
        merged = _merged(merged, {key: load(value, f"--config {key}", key)})
    return merged


def parse_study(values: Mapping[str, Any]) -> Study:
    """The typed study of keys and values; keys that begin with ``x-`` are left out.

    Raises:
        HeadroomError: names the first key that is not right, its value, and what was expected.
    """
    try:
        return Study.model_validate({key: value for key, value in values.items() if not key.startswith(IGNORED)})
    except ValidationError as error:
        raise HeadroomError(message(error)) from None


def read_file(path: Path) -> dict[str, Any]:
    """The keys and values of a study file, unchecked.

    Raises:
        HeadroomError: it is no file, no UTF-8, no YAML, or not keys with values.
    """
    if not path.is_file():
        raise HeadroomError(f"{path}: no such study; workflow/studies holds some")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise HeadroomError(f"{path}: not a study: line {line} is not in UTF-8; save the file as UTF-8") from None
    values = load(text, str(path))
    if values is None:
        raise HeadroomError(f"{path}: not a study: the file is empty; name at least a model or a task")
    if not isinstance(values, dict):
        raise HeadroomError(f"{path}: not a study: expected keys with values, found {type(values).__name__}")
    return values


def load(text: str, where: str, key: str = "") -> Any:
    """The content of a YAML document, each value read as it looks.

    Args:
        text: the document.
        where: what messages begin with.
        key: dotted key that the document is the value of; empty for a whole study.

    Raises:
        HeadroomError: it is no YAML, has a key twice, a key that is no text, a tag, or a value that versions of YAML
            read differently.
    """
    try:
        loader = _Loader(text, where, key)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise HeadroomError(f"{where}: not a study: {at}{problem}") from None
    except yaml.YAMLError as error:
        raise HeadroomError(f"{where}: not a study: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Refuses, while it composes, what could be meant otherwise than it is read."""

    def __init__(self, text: str, where: str, key: str) -> None:
        super().__init__(text)
        self._where = where
        self._keys = [key] if key else []

    def compose_node(self, parent: Any, index: Any) -> Any:
        keyed = isinstance(parent, yaml.MappingNode) and index is not None
        part = str(index.value) if keyed and isinstance(index, yaml.ScalarNode) else f"[{index}]"
        self._keys.append("" if index is None else part)
        event = self.peek_event()
        if len(self._keys) > _DEEPEST:
            self._refuse(event, f"values are nested more than {_DEEPEST} deep")
        if getattr(event, "tag", None):
            self._refuse(event, f"the tag {event.tag.replace(_TAG, '!!')} is not read here; write the value without it")
        self._is_key = isinstance(parent, yaml.MappingNode) and index is None
        node = super().compose_node(parent, index)
        self._keys.pop()
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        kind = node.tag.removeprefix(_TAG)
        if node.style is None and (kind != "merge" or not self._is_key):
            is_text = kind == "str" and not re.fullmatch(_LIKE_NUMBER, node.value)
            if not is_text and not re.fullmatch(_PLAIN.get(kind, "(?!)"), node.value):
                self._refuse(
                    node,
                    f"{shown(node.value)[1:-1]} is {_KINDS.get(kind, 'text')} to YAML 1.1 and may be meant otherwise; "
                    "write a number in decimal digits, true or false, or put a text in quotes",
                )
            if kind == "int" and len(node.value) > _MOST_DIGITS:
                self._refuse(node, f"a number of {len(node.value)} digits; expected {_MOST_DIGITS} at most")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if key.tag != f"{_TAG}str":
                text = shown(key.value)[1:-1] if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self._refuse(key, f"{text} as a key is no text; put it in quotes if it is a name")
            if key.value in seen:
                self._refuse(key, f"the key {shown(key.value)} is there twice; one of them would not count")
            seen.add(key.value)
        return node

    def _refuse(self, place: Any, reason: str) -> None:
        key = re.sub(r"\.?\[", "[", ".".join(filter(None, self._keys)))
        about = f"config key {key!r}: " if key else ""
        raise HeadroomError(f"{self._where}, line {place.start_mark.line + 1}: {about}{reason}")


def _merged(values: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes over values, key by key, as Snakemake merges them."""
    merged = dict(values) if isinstance(values, Mapping) else {}
    for key, value in changes.items():
        merged[key] = _merged(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged
