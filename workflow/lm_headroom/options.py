"""How commands declare their options: types with bounds, what is written, and which key of a study an option is.

A command is a function. Its signature holds its options, its docstring their help, and from both come the command line,
the options that a rule passes, those that an artifact records, and what `verify` compares with a study.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from lm_headroom.study.choices import AblationKind, AddBos, Aggregation, Component, Device, Dtype, with_zero
from lm_headroom.study.compared import ComparedModel
from lm_headroom.study.criteria import expert_criteria, task_criteria
from lm_headroom.study.judged import JudgedOutcome
from lm_headroom.study.ranking_names import (
    AGGREGATE,
    EXPERT_CRITERIA,
    ITERATIVE,
    NAMED_CONTROLS,
    OWN,
    REVERSED,
    drawn_with,
    expert_controls,
    ffn_controls,
    head_controls,
)

Command = Callable[..., None]
CONTROLS = f"reversed, random_N, {', '.join(NAMED_CONTROLS[:-1])} or {NAMED_CONTROLS[-1]}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class StudyKey:
    """Says that an option is a key of the study.

    Attributes:
        path: the key, or a property or method of the typed study; a method is given the task.
        recorded: turns a value into what an artifact records, the same for one given and the study's.
        is_fact: it is recorded among what is known of the model or task, and not among the options.
        is_word: a truth value is written as a word, since the option has others, too.
    """

    path: str
    recorded: Callable[[Any], Any] = _plain
    is_fact: bool = False
    is_word: bool = False

    def value(self, study: object, task: str = "") -> Any:
        """The study's value, for a task."""
        value: Any = study
        for name in self.path.split("."):
            value = getattr(value, name)
        return value(task) if callable(value) else value


@dataclass(frozen=True)
class Written:
    """Says that an option names what is written."""

    is_folder: bool = False


def as_typed(default: Any) -> str | None:
    """A default as one types it; None where an option has none, or an empty list."""
    if isinstance(default, list | tuple):
        return " ".join(map(str, default)) or None
    return None if default is None else str(default)


def converter(parse: Callable[[str], Any], finish: Callable[[list[Any]], list[Any]] = list) -> Parameter:
    """How the words of an option become its value; several of them a list, which is then finished."""

    def convert(hint: Any, tokens: Sequence[Any]) -> Any:
        values = [parse(token.value) for token in tokens]
        return finish(values) if get_origin(hint) is Sequence else values[0]

    return Parameter(converter=convert)


def _whole(low: int, high: int | None = None, word: str = "", meaning: str | None = None) -> Callable[[str], Any]:
    """A whole number within bounds, or a word, which has a meaning of its own."""

    def parse(text: str) -> int | str | None:
        if word and text == word:
            return meaning
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            bounds = f"from {low}" + (f" to {high}" if high is not None else "")
            raise ValueError(f"{text!r}: expected a whole number {bounds}" + (f", or {word!r}" if word else ""))
        return value

    return parse


def _ranking_name(text: str) -> str:
    named = (OWN, AGGREGATE, ITERATIVE)
    if text in named or head_controls([text]):
        return text
    raise ValueError(f"{text!r} is no ranking; expected {', '.join(named)}, {CONTROLS}")


def _head_criterion(text: str) -> str:
    if text in task_criteria():
        return text
    raise ValueError(f"{text!r}: expected one of {', '.join(task_criteria())}")


def _ffn_control(text: str) -> str:
    if ffn_controls([text]):
        return text
    known = ", ".join(ffn_controls(NAMED_CONTROLS))
    raise ValueError(f"{text!r} is no control ranking of FFNs; expected {REVERSED}, random_N or one of {known}")


def _expert_criterion(text: str) -> str:
    if text in expert_criteria():
        return text
    raise ValueError(f"{text!r}: expected one of {', '.join(expert_criteria())}")


def _expert_control(text: str) -> str:
    if expert_controls([text]):
        return text
    known = ", ".join(EXPERT_CRITERIA)
    raise ValueError(f"{text!r} is no control ranking of experts; expected {REVERSED}, random_N or one of {known}")


def _control(text: str) -> str:
    if text in (REVERSED, *NAMED_CONTROLS) or drawn_with(text) is not None:
        return text
    raise ValueError(f"{text!r} is no control ranking; expected {CONTROLS}")


def _bos(text: str) -> AddBos:
    words: dict[str, AddBos] = {"auto": "auto", "true": True, "false": False}
    if text not in words:
        raise ValueError(f"{text!r}: expected one of {', '.join(words)}")
    return words[text]


def _number_to(high: float, meaning: str) -> Callable[[str], float]:
    """A conversion to a number above 0, to ``high``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if 0 < value <= high:
            return value
        raise ValueError(f"{text!r}: expected {meaning} above 0, to {high}")

    return parse


def _compared(text: str) -> ComparedModel:
    try:
        return ComparedModel.parse(text)
    except ValueError:
        raise ValueError(f"{text!r}: expected NAME, or NAME,group=G or NAME,group=G,step=N") from None


def _judged(text: str) -> JudgedOutcome:
    try:
        return JudgedOutcome.parse(text)
    except ValueError:
        raise ValueError(f"{text!r}: expected an outcome and its margin, such as accuracy=2") from None


OutFile = Annotated[Path, Written()]
OutFolder = Annotated[Path, Written(is_folder=True)]
Count = Annotated[int, converter(_whole(0))]
Positive = Annotated[int, converter(_whole(1))]
StepPercent = Annotated[int, converter(_whole(1, 100))]
Counts = Annotated[Sequence[int], converter(_whole(0))]
Percents = Annotated[Sequence[int], converter(_whole(0, 100))]
Levels = Annotated[Sequence[int], converter(_whole(0, 100), with_zero)]
"""Percents pruned, with 0."""
Limit = Annotated[int | None, converter(_whole(1, word="all"))]
"""A number of documents; None for all."""
HeadCount = Annotated[int | Literal["all"], converter(_whole(1, word="all", meaning="all"))]
TokenBudget = Annotated[int | None, converter(_whole(1, word="auto"))]
RankingNames = Annotated[Sequence[str], converter(_ranking_name)]
HeadCriterion = Annotated[str, converter(_head_criterion)]
FfnControls = Annotated[Sequence[str], converter(_ffn_control), Parameter(consume_multiple=True)]
ExpertCriterion = Annotated[str, converter(_expert_criterion)]
ExpertControls = Annotated[Sequence[str], converter(_expert_control), Parameter(consume_multiple=True)]
Controls = Annotated[Sequence[str], converter(_control), Parameter(consume_multiple=True)]
Models = Annotated[Sequence[ComparedModel], converter(_compared), Parameter(accepts_keys=False, n_tokens=-1)]
Points = Annotated[float | None, converter(_number_to(100, "percentage points"))]
Rate = Annotated[float, converter(_number_to(10, "a learning rate"))]
Judged = Annotated[Sequence[JudgedOutcome], converter(_judged), Parameter(accepts_keys=False, n_tokens=-1)]
Paths = Annotated[Sequence[Path], Parameter(consume_multiple=True)]
Names = Annotated[Sequence[str], Parameter(consume_multiple=True)]
Shown = Annotated[Sequence[Component], Parameter(consume_multiple=True)]
"""Of tasks, of which there may be none."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Permissions:
    """What a checkpoint may do.

    Attributes:
        trust_remote_code: run the checkpoint's own code.
        allow_pickle: read weights from pickles where it has no safetensors.
    """

    trust_remote_code: bool = False
    allow_pickle: bool = False


NO_PERMISSIONS = Permissions()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a command runs a model.

    Attributes:
        model: the model's record, model.json, which `lm-headroom resolve-model` writes.
        dtype: number format of weights and activations.
        device: the device of the model; `auto` takes GPUs if any are visible.
        gpus: GPUs to take, of those that are free.
        threads: CPU threads; torch's choice if not given.
    """

    model: Path
    dtype: Annotated[Dtype, StudyKey("dtype", is_fact=True)] = "float32"
    device: Device = "auto"
    gpus: Count = 1
    threads: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """How a command runs a model on prompts.

    Attributes:
        token_budget: most tokens per batch; `auto` means as many as fit in memory. It changes speed and memory only.
        add_bos: start tokens before each prompt: `auto` for those that the tokenizer puts before a text, `true` for
            BOS, `false` for none.
        cache: folder that keeps finished work units for a later run.
    """

    token_budget: TokenBudget = None
    add_bos: Annotated[
        AddBos, StudyKey("add_bos", is_word=True), converter(_bos), Parameter(n_tokens=1, negative=())
    ] = "auto"
    cache: OutFolder | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """How a command evaluates a model with heads or FFNs removed.

    Attributes:
        ablation: what a removed head or FFN gives: `zero`, its `mean` over the scoring documents, or `resample`, the
            activation at the same position of another scoring document.
    """

    ablation: Annotated[AblationKind, StudyKey("ablation")] = "zero"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Cells:
    """Which results a command reads: those of some tasks with one number of shots and one seed.

    Attributes:
        results: the model's results folder.
        tasks: tasks of the study, in its order.
        shots: number of few-shot examples.
        seed: seed of the few-shot sampler.
    """

    results: Path
    tasks: Annotated[Sequence[str], StudyKey("tasks")]
    shots: Count
    seed: int = 1234


@dataclass(frozen=True, kw_only=True)
class AggregatedCells(Cells):
    """Which results a command reads, and how it aggregates them.

    Attributes:
        aggregate: how scores of several tasks become one.
    """

    aggregate: Annotated[Aggregation, StudyKey("aggregate")] = "mean"


def _metadata(hint: Any) -> Iterator[Any]:
    yield from getattr(hint, "__metadata__", ())
    for inner in get_args(hint):
        yield from _metadata(inner)


def _marked(command: Command, mark: type) -> Iterator[tuple[str, Any]]:
    """Options of a command that are marked, those that it shares with others too, each with its mark."""
    pending = [item for item in get_type_hints(command, include_extras=True).items() if item[0] != "return"]
    while pending:
        name, hint = pending.pop(0)
        if is_dataclass(hint):
            pending += get_type_hints(hint, include_extras=True).items()
        yield from ((name, item) for item in _metadata(hint) if isinstance(item, mark))


@cache
def study_keys(command: Command) -> Mapping[str, StudyKey]:
    """Options of a command that are keys of the study."""
    return dict(_marked(command, StudyKey))


def _value(values: Mapping[str, Any], name: str) -> Any:
    """An option of a command, or of a group of options that it shares with others."""
    groups = (group for group in values.values() if is_dataclass(group) and hasattr(group, name))
    return values[name] if name in values else getattr(next(groups, None), name, None)


def written(command: Command, values: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """What a command is told to write, and whether it is a folder."""
    for name, mark in _marked(command, Written):
        if _value(values, name) is not None:
            yield _value(values, name), mark.is_folder


def recorded_options(command: Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a command as its artifacts record them.

    Args:
        command: the command.
        values: its arguments by name, such as `locals()` of its function at the start.
    """
    keys = study_keys(command)
    return {name: key.recorded(_value(values, name)) for name, key in keys.items() if not key.is_fact}


def command_of(step: str) -> Command:
    """The function that declares a step's command."""
    command: Command = getattr(import_module(f"lm_headroom.steps.{step}"), step)
    return command


def options_of_study(study: object, step: str, task: str = "") -> str:
    """Options of a step's command that a study decides, quoted for the shell.

    One string, because Snakemake compares params as a set of values without their names: two limits that change places
    would be no change.
    """
    words: list[str] = []
    for name, key in study_keys(command_of(step)).items():
        value, option = key.value(study, task), f"--{name.replace('_', '-')}"
        if isinstance(value, bool) and key.is_word:
            words += [option, str(value).lower()]
        elif isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list):
            # The order of tasks is that of figures; where an artifact records values in order, theirs means nothing.
            words += [option, *map(str, value if key.recorded is _plain else sorted(value))]
        else:
            words += [option, "all" if value is None else str(value)]
    return shlex.join(words)
