"""Types of a study's values. Each refuses with a sentence; no text holds what a path or a command could misread."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from lm_headroom.errors import nearest
from lm_headroom.study.choices import Outcome
from lm_headroom.study.criteria import expert_criteria, task_criteria
from lm_headroom.study.ranking_names import (
    AGGREGATE,
    ALL_CRITERIA,
    AVERAGE,
    DRAWN,
    EXPERT_CRITERIA,
    HIGHEST,
    ITERATIVE,
    LEARNED,
    LOWEST,
    NAMED_CONTROLS,
    OTHER_DOCUMENTS,
    OWN,
    RANDOM,
    REVERSED,
    expert_controls,
)

LONGEST_NAME, LONGEST_TEXT, LONGEST_PROSE = 100, 4096, 10_000
"""Characters of a name, which becomes a folder, of other text, which may be a path, and of text for a model."""
RESERVED_TASKS = (
    *(AGGREGATE, OWN, ITERATIVE, LEARNED, REVERSED, f"{RANDOM}N", HIGHEST, LOWEST, OTHER_DOCUMENTS, AVERAGE),
    *dict.fromkeys((*NAMED_CONTROLS, *EXPERT_CRITERIA)),
)
"""Folders, rankings and rows of tables that stand where a task's name could; N stands for digits."""
RESERVED_MODELS = ("comparison", "matrix", "prompts")
"""Folders of results that are no model's."""
FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
"""A function of a module, ``module:function``."""
FIELDS = ("model", "task", "shot", "seed")
"""Dimensions of a result that the path of a ranking's file may name in braces."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_RESERVED_TASK = re.compile("|".join(rf"{RANDOM}\d+" if name == f"{RANDOM}N" else name for name in RESERVED_TASKS))
# Snakemake refuses such a wildcard as a loop of rules.
_REPEATED = re.compile(r"(.+)\1{19}\Z")
_CHARACTER = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_GGUF_FILE = rf"(?![-/])(?!(?:.*/)?\.\./){_CHARACTER}+\.gguf"
_CONTROL = rf"{REVERSED}|{DRAWN}|{'|'.join(NAMED_CONTROLS)}"
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories: control characters, halves of characters, separators of lines and paragraphs."""


def _check_name(name: str, what: str, others: str = "") -> str:
    if not re.fullmatch(_NAME, name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{shown(name)} cannot be a {what} here; it must be letters, digits, '.', '_', '-', at most "
            f"{LONGEST_NAME}, the first a letter or digit{others}"
        )
    if _REPEATED.search(name):
        raise ValueError(f"{shown(name)} cannot be a {what} here; its end is the same 20 times, which no path may be")
    return name


def _check_unreserved(names: list[str], what: str) -> None:
    others = f", and not {', '.join(RESERVED_TASKS[:-1])} or {RESERVED_TASKS[-1]}"
    for name in names:
        _check_name(name, what, others)
        if _RESERVED_TASK.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a {what} here; it must be letters, digits, '.', '_', '-'{others}")


def check_tasks(names: list[str]) -> list[str]:
    """Names of tasks.

    Raises:
        ValueError: one cannot be a folder here, or is a ranking's.
    """
    _check_unreserved(names, "task name")
    return names


def _check_rankings(rankings: dict[str, Any]) -> dict[str, Any]:
    _check_unreserved(list(rankings), "ranking name")
    return rankings


def _check_source(source: str) -> str:
    """The source of a ranking: a function, or a file whose fields are dimensions of a result."""
    _check_text(source)
    if FUNCTION.fullmatch(source):
        return source
    if not source.endswith((".parquet", ".csv")):
        raise ValueError(f"{shown(source)} is neither a file (*.parquet or *.csv) nor a function (module:function)")
    outside = re.sub("|".join(rf"\{{{field}\}}" for field in FIELDS), "", source)
    if set("{}") & set(outside):
        raise ValueError(f"{shown(source)} has a brace that opens none of {', '.join(f'{{{f}}}' for f in FIELDS)}")
    return source


def _check_models(models: dict[str, Any]) -> dict[str, Any]:
    others = f", and none of {', '.join(RESERVED_MODELS)}"
    for name in models:
        _check_name(name, "model name", others)
        if name in RESERVED_MODELS:
            raise ValueError(f"{name!r} cannot be a model name here; it must be letters, digits, '.', '_', '-'{others}")
    return models


def _check_controls(names: list[str]) -> list[str]:
    for name in names:
        if not re.fullmatch(_CONTROL, name):
            raise ValueError(
                f"{shown(name)} is no control ranking; expected {REVERSED}, {RANDOM}N with a number N of at most nine "
                f"digits, {', '.join(NAMED_CONTROLS[:-1])} or {NAMED_CONTROLS[-1]}"
                f"{_without_zeros(name)}"
            )
    return names


def _check_expert_controls(names: list[str]) -> list[str]:
    for name in names:
        if not expert_controls([name]):
            raise ValueError(
                f"{shown(name)} is no control ranking of experts; expected {REVERSED}, {RANDOM}N with a number N of at "
                f"most nine digits, {', '.join(EXPERT_CRITERIA[:-1])} or {EXPERT_CRITERIA[-1]}{_without_zeros(name)}"
            )
    return names


def _check_expert_criterion(name: str) -> str:
    if name not in expert_criteria():
        known = expert_criteria()
        raise ValueError(
            f"{shown(name)} does not score experts{nearest(name, known)}; expected one of {', '.join(known)}"
        )
    return name


def _check_criterion(name: str) -> str:
    if name not in task_criteria():
        known = f"expected one of {', '.join(task_criteria())}"
        if name in ALL_CRITERIA:
            raise ValueError(
                f"{name!r} does not come from the passes of head scores; {known}. Name it in pruning.controls"
            )
        raise ValueError(f"{shown(name)} is no criterion{nearest(name, task_criteria())}; {known}")
    return name


def _without_zeros(name: str) -> str:
    """`` (did you mean random_1?)`` for ``random_01``, which would be the same order once more."""
    number = re.fullmatch(rf"{RANDOM}0+(\d{{1,9}})", name)
    return f" (did you mean {RANDOM}{number[1]}?)" if number else ""


def _check_text(text: str) -> str:
    """Spaces and quotes may be: whoever puts a text into a command quotes it."""
    if not text.strip():
        raise ValueError(f"{text!r} should be non-empty")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{shown(text)} is longer than {LONGEST_TEXT} characters")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        raise ValueError(f"{shown(text)} holds a line break or another control character")
    if text.startswith("-"):
        raise ValueError(f"{shown(text)} begins with '-', as options do; a folder of this name is given as './-...'")
    return text


def _check_gguf_file(file: str) -> str:
    if not re.fullmatch(_GGUF_FILE, _check_text(file)):
        raise ValueError(
            f"{shown(file)} names no GGUF file in a folder or repository; expected a name such as model-q8_0.gguf"
        )
    return file


def _check_prose(text: str) -> str:
    if not text.strip():
        raise ValueError(f"{text!r} should be non-empty")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in re.sub(r"[\n\t]", "", text)):
        raise ValueError(f"{shown(text)} holds a control character other than a line break or a tab")
    return text


def check_unique(values: list[Any]) -> list[Any]:
    """Values of which none is there twice.

    Raises:
        ValueError: one is.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"{shown(values)} has non-unique elements")
    return values


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """The number as it was given: a whole one stays whole in commands and provenance."""
    check(value)
    return value


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _named(what: str) -> Callable[[str], str]:
    return lambda name: _check_name(name, what)


def _text_keys(pattern: str, longest: int) -> dict[str, Any]:
    # For some readers of schemas, `$` alone would also be before a line break at the end.
    return {"pattern": rf"^(?:{pattern})$(?!\n)", "maxLength": longest}


def _text_schema(pattern: str, longest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **_text_keys(pattern, longest)})


_UNIQUE = (AfterValidator(check_unique), Field(json_schema_extra={"uniqueItems": True}))
NAME_KEYS = _text_keys(_NAME, LONGEST_NAME)
"""What a schema says of a text that is a name."""
Name = Annotated[str, _text_schema(_NAME, LONGEST_NAME)]
"""A key or an item; what holds it checks it, and is named where it is refused."""
Text = Annotated[str, AfterValidator(_check_text), _text_schema(rf"(?!-){_CHARACTER}+", LONGEST_TEXT)]
"""A path, a revision: one line that does not begin with a dash."""
Texts = Annotated[list[Text], *_UNIQUE]
GgufFile = Annotated[str, AfterValidator(_check_gguf_file), _text_schema(_GGUF_FILE, LONGEST_TEXT)]
"""A GGUF file below a folder or repository."""
Prose = Annotated[str, AfterValidator(_check_prose), Field(max_length=LONGEST_PROSE)]
"""Lines of text for a model to read."""
Group = Annotated[str, AfterValidator(_named("group")), _text_schema(_NAME, LONGEST_NAME)]
Tasks = Annotated[list[Name], AfterValidator(check_tasks), *_UNIQUE]
ModelNames = AfterValidator(_check_models)
"""Of a mapping whose keys are models' names."""
RankingNames = AfterValidator(_check_rankings)
"""The same of rankings."""
RankingSource = Annotated[str, AfterValidator(_check_source), _text_schema(rf"(?!-){_CHARACTER}+", LONGEST_TEXT)]
"""A file with a ranking, or a function that computes its scores."""
Controls = Annotated[
    list[Annotated[str, _text_schema(_CONTROL, LONGEST_NAME)]], AfterValidator(_check_controls), *_UNIQUE
]
ExpertControls = Annotated[
    list[Annotated[str, _text_schema(rf"{REVERSED}|{DRAWN}|{'|'.join(EXPERT_CRITERIA)}", LONGEST_NAME)]],
    AfterValidator(_check_expert_controls),
    *_UNIQUE,
]
ExpertCriterion = Annotated[
    str, AfterValidator(_check_expert_criterion), WithJsonSchema({"type": "string", "enum": list(expert_criteria())})
]
"""A criterion by which a task's own ranking ranks experts."""
HeadCriterion = Annotated[
    str, AfterValidator(_check_criterion), WithJsonSchema({"type": "string", "enum": list(task_criteria())})
]
"""A criterion by which a task's own ranking ranks heads."""
Percent = Annotated[int, Field(ge=0, le=100)]
Percents = Annotated[list[Percent], *_UNIQUE]
AsWritten = WrapValidator(_as_written)
Shots = Annotated[list[Annotated[int, Field(ge=0, le=1000)]], *_UNIQUE]
Seeds = Annotated[list[Annotated[int, Field(ge=0, le=2**32 - 1)]], *_UNIQUE]
Outcomes = Annotated[list[Outcome], *_UNIQUE]
Margin = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), AsWritten]
Count = Annotated[int, Field(le=10**9)]
"""Of documents, heads, tokens."""
