"""What the figures that compare models share: their order on an axis, colours, and lines that join a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lm_headroom.artifacts.comparison import COMPARED_MODELS
from lm_headroom.artifacts.store import ArtifactError, ArtifactSchema, read
from lm_headroom.report.figures import style
from lm_headroom.results.comparison import Comparison

FEW = 2
"""Groups of so many models or fewer have no order of their own to be coloured by."""


@dataclass(frozen=True)
class PlacedModel:
    """A model as figures place it."""

    name: str
    group: str
    step: int | None
    parameters: int | None


@dataclass(frozen=True)
class Axis:
    """Where models stand on the horizontal axis.

    Attributes:
        label: what it shows.
        places: of each model, by name.
        kind: ``step``, ``parameters`` or ``name``.
    """

    label: str
    places: dict[str, float]
    kind: str


def read_models(compared: Comparison) -> list[PlacedModel]:
    """The models of a comparison, in its order.

    Raises:
        ArtifactError: the artifact is of other models.
    """
    path = compared.artifact("models")
    records = {row["model"]: row for row in read(path, COMPARED_MODELS).to_pylist()}
    names = [model.name for model in compared.models]
    if list(records) != names:
        raise ArtifactError(
            f"{path}: made from {', '.join(records)}, expected {', '.join(names)}; delete it and run the workflow again"
        )
    return [PlacedModel(name, *(records[name][key] for key in ("group", "step", "parameters"))) for name in names]


def read_rows(compared: Comparison, what: str, kind: ArtifactSchema) -> list[dict[str, Any]]:
    """Rows of a comparison's artifact.

    Raises:
        ArtifactError: it is of another seed, other models, tasks or shots.
    """
    return list(read(compared.artifact(what), kind, **compared.recorded_options).to_pylist())


def by_group(models: Sequence[PlacedModel]) -> dict[str, list[PlacedModel]]:
    """The models of each group, in order."""
    groups: dict[str, list[PlacedModel]] = {}
    for model in models:
        groups.setdefault(model.group, []).append(model)
    return groups


def axis(models: Sequence[PlacedModel]) -> Axis:
    """By training step or by size, where all models have one that tells those of a group apart; else by name."""
    groups = by_group(models).values()
    for kind, label in (("step", "training step"), ("parameters", "parameters")):
        values = {model.name: getattr(model, kind) for model in models}
        told_apart = all(len({values[model.name] for model in group}) == len(group) for group in groups)
        if None not in values.values() and told_apart and len(set(values.values())) > 1 and len(groups) < len(models):
            return Axis(label, values, kind)
    return Axis("", {model.name: float(i) for i, model in enumerate(models)}, "name")


def set_axis(axes: Axes, scale: Axis) -> None:
    """Scale and ticks of the horizontal axis: logarithmic for steps (from 0 on) and sizes."""
    values = sorted(set(scale.places.values()))
    if scale.kind == "name":
        axes.set_xticks(list(scale.places.values()), list(scale.places), rotation=35, ha="right")
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    if scale.kind == "step":
        positive = [value for value in values if value > 0]
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    else:
        axes.set_xscale("log")
    shown = _apart(values, axes)
    axes.set_xticks(shown, [_short(value) for value in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(scale.label)
    low, high = axes.transData.transform([(values[0], 0), (values[-1], 0)])[:, 0]
    margin = 0.05 * (high - low)
    inverse = axes.transData.inverted()
    axes.set_xlim(*(inverse.transform((place, 0))[0] for place in (low - margin, high + margin)))


def _apart(values: Sequence[float], axes: Axes) -> list[float]:
    """Those of the values whose labels do not run into each other, the first and the last among them."""
    axes.set_xlim(values[0], values[-1])
    places = axes.transAxes.inverted().transform(axes.transData.transform([(value, 0) for value in values]))[:, 0]
    kept = [0]
    for i in range(1, len(values)):
        if places[i] - places[kept[-1]] >= 0.13 and (1 - places[i] >= 0.13 or i == len(values) - 1):
            kept.append(i)
    if kept[-1] != len(values) - 1:
        kept.append(len(values) - 1)
    return [values[i] for i in kept]


def _short(value: float) -> str:
    """``143000`` as ``143k``, ``1.3e9`` as ``1.3B``."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:g}"


def styles(models: Sequence[PlacedModel]) -> dict[str, dict[str, Any]]:
    """Colour and dash per model: a colour per group; within a larger group from dark to light in its order."""
    groups = by_group(models)
    styles: dict[str, dict[str, Any]] = {}
    if len(groups) == 1 and len(models) > FEW:
        # One group alone: the order is what there is to see.
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(models)))
        return {model.name: {"color": shade, "linestyle": "-"} for model, shade in zip(models, shades, strict=True)}
    colours = group_colours(models)
    dashes: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
    for name, group in groups.items():
        looks: list[dict[str, Any]] = [{"color": colours[name], "linestyle": dash} for dash in dashes]
        if len(group) > len(dashes):
            shades = sns.light_palette(colours[name], len(group) + 2, reverse=True)
            looks = [{"color": shade, "linestyle": "-"} for shade in shades]
        styles |= {model.name: look for model, look in zip(group, looks, strict=False)}
    return styles


def group_colours(models: Sequence[PlacedModel]) -> dict[str, Any]:
    """A colour per group, those of tasks in other figures."""
    groups = list(by_group(models))
    return {name: look["color"] for name, look in style.series_styles(groups).items()}


def group_markers(models: Sequence[PlacedModel]) -> dict[str, Any]:
    """A marker per group."""
    groups = list(by_group(models))
    return {name: look["marker"] for name, look in style.series_styles(groups).items()}


def join(
    axes: Axes, models: Sequence[PlacedModel], scale: Axis, values: Mapping[str, float | None], **look: Any
) -> None:
    """A line per group through the values of its models, which may be missing.

    ``look`` may have a ``label`` with ``{}`` for the group.
    """
    colours, markers = group_colours(models), group_markers(models)
    label = look.pop("label", "{}")
    for name, group in by_group(models).items():
        known = sorted((scale.places[m.name], values[m.name]) for m in group if values.get(m.name) is not None)
        plain = {"color": colours[name], "marker": markers[name], "markersize": 5, "linewidth": 1.4}
        x, y = zip(*known, strict=True) if known else ((), ())
        axes.plot(x, y, label=label.format(name), **(plain | look))
