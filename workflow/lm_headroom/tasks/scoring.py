"""Check that lm-headroom can compute a task's score, and find the right choices as lm-eval does."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from lm_headroom.errors import HeadroomError

ACCURACY = "acc"
COUNTED = (ACCURACY, "acc_norm")
"""Metrics that lm-headroom computes."""
MEANS = ("mean", "nanmean")
"""Aggregations that give the share of right answers."""
_INSTEAD = "lm-headroom counts how often the likeliest choice is a right one; take another task"


def check_scoring(name: str, config: Mapping[str, Any], shots: int) -> list[str]:
    """List the metrics that a task defines beside its accuracy, which are not computed.

    Raises:
        HeadroomError: the task's score is not the share of documents whose likeliest choice is right, or the task does
            not allow shots; names what it defines instead.
    """
    own = config.get("process_results")
    if own is not None:
        raise HeadroomError(
            f"task {name!r} scores answers by a function of its own (process_results: {_named(own)}); {_INSTEAD}"
        )
    for key, what in {"doc_to_image": "pictures", "doc_to_audio": "sounds"}.items():
        if config.get(key):
            raise HeadroomError(f"task {name!r} shows {what} ({key}); lm-headroom's models read text")
    _check_filters(name, config.get("filter_list"))
    if shots and config.get("num_fewshot") == 0:
        raise HeadroomError(
            f"task {name!r} sets num_fewshot: 0, so that lm-eval shows no examples whatever is asked for; give it "
            "shots: [0], or define it anew in a YAML without that line"
        )
    metrics = config.get("metric_list")
    if metrics is None:
        # lm-eval's own defaults hold acc.
        return []
    entries = [entry for entry in metrics if isinstance(entry, Mapping)] if isinstance(metrics, Sequence) else []
    names = [_named(entry.get("metric")) for entry in entries]
    if ACCURACY not in names:
        raise HeadroomError(
            f"task {name!r} does not define the metric acc: metric_list has {', '.join(names) or 'none'}; {_INSTEAD}"
        )
    for entry in entries:
        aggregation = entry.get("aggregation", "mean")
        if entry.get("metric") == ACCURACY and aggregation not in MEANS:
            raise HeadroomError(
                f"task {name!r} aggregates acc by {_named(aggregation)}, not by its mean; take another task"
            )
    return [metric for metric in dict.fromkeys(names) if metric not in COUNTED]


def _check_filters(name: str, filters: Any) -> None:
    for entry in filters or ():
        for step in (entry.get("filter") or ()) if isinstance(entry, Mapping) else ():
            function = step.get("function") if isinstance(step, Mapping) else step
            if function != "take_first":
                raise HeadroomError(
                    f"task {name!r} changes the model's answers before they are scored (filter_list: "
                    f"{_named(function)}); {_INSTEAD}"
                )


def _named(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)


def right_choices(label: Any, choices: Sequence[str]) -> set[int]:
    """Find the numbers of the right choices, as lm-eval reads labels: a number from 0, a text, or a list of these.

    The set is empty for hidden labels (negative, empty or missing) and for labels that name no choice.

    Raises:
        HeadroomError: a label equals the number of choices, so that labels count from 1.
    """
    numbers = (_number(one, choices) for one in (label if isinstance(label, list) else [label]))
    return {number for number in numbers if number is not None}


def _number(label: Any, choices: Sequence[str]) -> int | None:
    if isinstance(label, str):
        return choices.index(label) if label in choices else None
    try:
        # As in lm-eval, True is 1, and NumPy integers are numbers.
        number = operator.index(label)
    except TypeError:
        return None
    if number == len(choices):
        raise HeadroomError(explain_out_of_range(label, choices))
    return number if 0 <= number < len(choices) else None


def explain_out_of_range(label: Any, choices: Sequence[str]) -> str:
    """Explain an error of a label beyond the last choice."""
    last = len(choices) - 1
    return (
        f"the label is {describe_label(label)}, and there are {last + 1} choices, numbered from 0 to {last}; "
        "labels that count from 1 must be lowered by 1 (doc_to_target, process_docs)"
    )


def describe_label(label: Any) -> str:
    """Describe a label and its type, shortened: ``'1' (str)``."""
    text = repr(label)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(label).__name__})"


def check_choices(choices: Any) -> list[str]:
    """Return the choices as a list of texts.

    Raises:
        HeadroomError: they are not texts.
    """
    if not isinstance(choices, (list, tuple)) or not choices:
        raise HeadroomError(f"its choices are {describe_label(choices)}; expected a list of texts")
    for number, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise HeadroomError(f"choice {number} is {describe_label(choice)}; expected text")
    return list(choices)
