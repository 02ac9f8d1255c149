"""Checks of a study's configuration, with messages that name the key. Nothing but what Snakemake brings is imported."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from headroom.compared import Compared
from headroom.errors import HeadroomError, nearest
from headroom.readings import SCORED

RESERVED_TASKS = re.compile(
    rf"aggregate|own|recomputed|reversed|random_\d+|highest_srcc|lowest_srcc|{'|'.join(SCORED)}"
)
RESERVED_MODELS = {"comparison", "matrix", "prompts"}
PAPER_TRANSFER = ("copa", "winogrande", "record")
"""Tasks of Figures 9, 16 and 17."""
_SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "config.schema.yaml"
# Names become folders and wildcards.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Revisions such as step1000, step1000-tokens4B, stage1-step-40000.
_STEP = re.compile(r"(?:^|[-_/])step[-_]?(\d+)(?=$|[-_])")


def check_keys(config: Mapping[str, Any], schema: Mapping[str, Any], where: str = "") -> None:
    """Refuse unknown keys, with the nearest known one.

    Raises:
        HeadroomError: names the first unknown key.
    """
    known = schema.get("properties", {})
    for key, value in config.items():
        path = f"{where}{key}"
        if key not in known:
            if isinstance(schema.get("additionalProperties"), Mapping):
                inner = schema["additionalProperties"]
            else:
                raise HeadroomError(
                    f"config key {path!r} is unknown{nearest(str(key), known)}; known here: {', '.join(sorted(known))}"
                )
        else:
            inner = known[key]
        if isinstance(value, Mapping) and inner.get("type") == "object":
            check_keys(value, inner, f"{path}.")


_TYPES = {
    "array": "a list",
    "object": "keys with values",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}


def check_values(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Refuse values that the schema does not allow.

    Raises:
        HeadroomError: names the first such key, its value, and what was expected.
    """
    from jsonschema import Draft202012Validator

    error = next(Draft202012Validator(schema).iter_errors(config), None)
    if error is None:
        return
    key, inner = "", schema
    for part in error.absolute_path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
        inner = inner.get("properties", {}).get(part) or inner.get("items") or inner.get("additionalProperties") or {}
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        said = f"expected {' or '.join(_TYPES[kind] for kind in kinds)}, got {error.instance!r}"
    elif error.validator == "oneOf":
        said = f"{error.instance!r} is none of what it can be"
    else:
        said = error.message
    about = " ".join(inner.get("description", "").split())
    raise HeadroomError(f"config key {key!r}: {said}" + (f". It is: {about}" if about else ""))


def with_defaults(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the schema's defaults where it is silent, as Snakemake's validation fills them in."""
    found = dict(config)
    for key, inner in schema.get("properties", {}).items():
        if key not in found and "default" in inner:
            found[key] = deepcopy(inner["default"])
        if isinstance(found.get(key), Mapping) and inner.get("type") == "object":
            found[key] = with_defaults(found[key], inner)
    return found


def read_study(path: Path) -> dict[str, Any]:
    """A study file with the schema's defaults.

    Raises:
        HeadroomError: the file or one of its keys is unknown, or a value is not allowed.
    """
    if not path.is_file():
        raise HeadroomError(f"{path}: no such study; workflow/studies holds some")
    schema = yaml.safe_load(_SCHEMA.read_text(encoding="utf-8"))
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise HeadroomError(f"{path}: not a study: {error}") from error
    if config is None:
        raise HeadroomError(f"{path}: not a study: the file is empty; name at least a model or a task")
    if not isinstance(config, dict):
        raise HeadroomError(f"{path}: not a study: expected keys with values, found {type(config).__name__}")
    check_keys(config, schema)
    check_values(config, schema)
    return with_defaults(config, schema)


def check_study(config: Mapping[str, Any], base: Path = Path(".")) -> None:
    """Refuse names and combinations that a schema does not see.

    Raises:
        HeadroomError: names the key and what was expected.
    """
    everything = [*config["tasks"], *config["unseen"]]
    for task in everything:
        if RESERVED_TASKS.fullmatch(task) or not _NAME.fullmatch(task):
            raise HeadroomError(
                f"config key 'tasks': {task!r} cannot be a task name here; it must be letters, digits, '.', '_', '-', "
                "and not aggregate, own, recomputed, reversed, random_N, highest_srcc, lowest_srcc, "
                f"{' or '.join(SCORED)}"
            )
    twice = sorted({task for task in config["tasks"] if task in config["unseen"]})
    if twice:
        raise HeadroomError(f"config key 'unseen': {twice[0]!r} is in 'tasks' too; a task is one or the other")
    _check_transfer(config)
    for task in config["induction"]["ablate"]["tasks"] or []:
        if task not in everything:
            raise HeadroomError(
                f"config key 'induction.ablate.tasks': {task!r} is in neither 'tasks' nor 'unseen'"
                f"{nearest(task, everything)}"
            )
    for task in config["head_oracle"]["tasks"]:
        if task not in everything:
            raise HeadroomError(
                f"config key 'head_oracle.tasks': {task!r} is not in 'tasks' or 'unseen'{nearest(task, everything)}"
            )
    for model in config["models"]:
        if model in RESERVED_MODELS or not _NAME.fullmatch(model):
            raise HeadroomError(
                f"config key 'models': {model!r} cannot be a model name here; it must be letters, digits, '.', '_', "
                f"'-', and none of {', '.join(sorted(RESERVED_MODELS))}"
            )
    if config["data"]["source"] == "mirror":
        mirror = config["data"].get("mirror")
        if not mirror:
            raise HeadroomError("config key 'data.mirror': data.source is mirror, so name the mirror folder here")
        for task in everything:
            folder = base / mirror / task
            if not any(folder.glob("*.parquet")):
                raise HeadroomError(f"config key 'data.mirror': {folder} holds no Parquet files for task {task!r}")


def _check_transfer(config: Mapping[str, Any]) -> None:
    tasks, chosen = config["tasks"], config["transfer"]["tasks"] or []
    for task in chosen:
        if task not in tasks:
            raise HeadroomError(
                f"config key 'transfer.tasks': {task!r} is not in 'tasks'{nearest(task, tasks)}; "
                "transfer needs its scores and those of other tasks"
            )
    if chosen and len(tasks) < 2:
        raise HeadroomError("config key 'transfer.tasks': a single task has no other whose ranking it could be given")


def transfer_tasks(config: Mapping[str, Any]) -> list[str]:
    """Tasks to be evaluated under other tasks' rankings: those named, else those of the paper that the study has."""
    tasks, chosen = config["tasks"], config["transfer"]["tasks"]
    if chosen is not None:
        return list(chosen)
    return [task for task in PAPER_TRANSFER if task in tasks] if len(tasks) > 1 else []


def oracle_tasks(config: Mapping[str, Any]) -> list[str]:
    """Tasks on which heads are removed one at a time: those named, then, with ``others``, all other of ``tasks``."""
    named = config["head_oracle"]["tasks"]
    if config["head_oracle"]["others"] is None:
        return list(named)
    return [*named, *(task for task in config["tasks"] if task not in named)]


def oracle_heads(config: Mapping[str, Any], task: str) -> str | int:
    """How many heads are removed on a task, one at a time: ``all`` or the size of a sample."""
    oracle = config["head_oracle"]
    found: str | int = oracle["heads"] if oracle["others"] is None or task in oracle["tasks"] else oracle["others"]
    return found


def ablated_tasks(config: Mapping[str, Any]) -> list[str]:
    """Tasks to be evaluated without induction heads: those named, else all of ``tasks``; none without percents."""
    ablate = config["induction"]["ablate"]
    if not ablate["percents"]:
        return []
    return list(config["tasks"] if ablate["tasks"] is None else ablate["tasks"])


def compared_models(config: Mapping[str, Any]) -> list[Compared]:
    """The study's models for the figures that compare them; none where there is one model alone.

    Without a group of its own, a model is grouped with those of the same source; without a step, its revision may name
    one (``step1000``).
    """
    models = config["models"]
    if len(models) < 2:
        return []
    sources = {name: name if m["source"] == "embedded" else m["source"].rstrip("/") for name, m in models.items()}
    lasts = Counter(source.split("/")[-1] for source in set(sources.values()))
    found = []
    for name, model in models.items():
        step = model.get("step")
        named = _STEP.search(model.get("revision") or "")
        if step is None and named:
            step = int(named[1])
        last = sources[name].split("/")[-1]
        # Folders such as a/final and b/final are two sources.
        group = last if lasts[last] == 1 else sources[name]
        found.append(Compared(name, model.get("group") or re.sub(r"[^A-Za-z0-9._-]", "_", group), step))
    return found
