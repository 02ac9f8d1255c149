"""Figure 5: accuracy against the share of heads pruned, a line per task, the average in black, a panel per shot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.store import read
from headroom.figures import style
from headroom.figures.study import Study

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Curves:
    """Accuracy curves of one shot: per task and their average, against percent pruned.

    ``stderr`` is the average's standard error: tasks are independent samples of documents.
    """

    percent: Array
    tasks: dict[str, Array]
    average: Array
    stderr: Array


def data(study: Study, ranking: str = "own") -> dict[int, Curves]:
    """Curves per shot under a ranking."""
    found = {}
    for shots in study.shots:
        accuracies, variances = {}, []
        for task in study.tasks:
            table = read(study.cell("pruned_eval", shots, "heads", task) / f"{ranking}.parquet", PRUNED_EVAL)
            percent = table.column("percent").to_numpy()
            accuracies[task] = table.column("accuracy").to_numpy()
            variances.append(table.column("stderr").to_numpy() ** 2)
        average = np.mean(list(accuracies.values()), axis=0)
        found[shots] = Curves(percent, accuracies, average, np.sqrt(np.sum(variances, axis=0)) / len(accuracies))
    return found


def draw(study: Study, out: Path) -> None:
    """Write the figure to ``out``.pdf and ``out``.png."""
    own = data(study)
    others = {name: data(study, name) for name in study.controls}
    styles = style.task_styles(study.tasks)
    figure, axes = style.panels(len(own), width=4.6, height=4.2, share_y=True)
    for ax, (shots, curves) in zip(axes, own.items(), strict=True):
        for task, accuracy in curves.tasks.items():
            ax.plot(curves.percent, 100 * accuracy, label=task, markersize=4, linewidth=1, **styles[task])
        ax.errorbar(
            curves.percent,
            100 * curves.average,
            100 * curves.stderr,
            color="black",
            linewidth=2.2,
            capsize=2,
            label="average ± SE",
        )
        for name, dash in zip(others, ("--", ":", "-.", (0, (1, 4))) * len(others), strict=False):
            control = others[name][shots]
            ax.plot(
                control.percent,
                100 * control.average,
                color="grey",
                linestyle=dash,
                linewidth=1.6,
                label=f"average, {name.replace('_', ' ')}",
            )
        ax.set(title=style.shot_title(shots), xlabel="heads pruned (%)", xlim=(-2, max(curves.percent) + 2))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    figure.suptitle(f"Accuracy with the least important heads pruned, {study.model}")
    style.save(figure, out)
