"""How two criteria agree on what is least important, and where a first-order estimate of the loss fails."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import pearsonr

from lm_headroom.analysis.correlation import srcc
from lm_headroom.analysis.ranking import count_at, rank_heads

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def lowest(scores: Array, percent: int) -> Flags:
    """Which heads, or FFNs, a criterion prunes first: the lowest ``percent`` %, [layer, head]."""
    chosen = np.zeros(scores.shape, dtype=bool)
    for place in rank_heads(scores)[: count_at(percent, scores.size)]:
        chosen[place] = True
    return chosen


def overlap(first: Flags, second: Flags) -> float | None:
    """Share of what one criterion prunes first that the other prunes, too; None where it prunes nothing.

    Example:
        >>> a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [2.0, 3.0]])
        >>> overlap(lowest(a, 50), lowest(b, 50))
        0.5
    """
    return float((first & second).sum() / first.sum()) if first.any() else None


def mean_depth(chosen: Flags) -> float | None:
    """Mean relative depth of the chosen heads, from 0 (first layer) to 1 (last); None where there are none."""
    layers = np.nonzero(chosen)[0]
    return float(layers.mean() / max(1, len(chosen) - 1)) if len(layers) else None


class Linearity(NamedTuple):
    """A first-order estimate of the rise of the loss against the rise itself.

    Attributes:
        components: how many heads, or FFNs.
        pearson, srcc: correlations of estimate and rise; None where one of them is constant.
        slope: of the rise on the estimate, by least squares; 1 where the estimate is exact.
        gap: mean absolute difference, nats.
        rise: mean absolute rise, nats.
        wrong_sign: share whose estimate has another sign than the rise.
    """

    components: int
    pearson: float | None
    srcc: float | None
    slope: float | None
    gap: float
    rise: float
    wrong_sign: float


def linearity(estimate: Array, rise: Array) -> Linearity:
    """Compare estimates and rises of the loss, both [component], nats.

    Example:
        >>> linearity(np.array([0.1, 0.2, -0.1]), np.array([0.2, 0.4, 0.2]))._asdict()["wrong_sign"]
        0.3333333333333333
    """
    varies = len(estimate) > 2 and np.ptp(estimate) > 0 and np.ptp(rise) > 0
    return Linearity(
        len(estimate),
        float(pearsonr(estimate, rise)[0]) if varies else None,
        srcc(estimate, rise)[0] if varies else None,
        float(np.polyfit(estimate, rise, 1)[0]) if varies else None,
        float(np.abs(estimate - rise).mean()),
        float(np.abs(rise).mean()),
        float((np.sign(estimate) != np.sign(rise)).mean()),
    )


def thirds(values: Array) -> list[tuple[str, Flags]]:
    """All components, then the thirds of smallest, middle and largest absolute value; each [component]."""
    order = np.argsort(np.argsort(np.abs(values), kind="stable"), kind="stable")
    third = order * 3 // max(1, len(values))
    return [("all", np.ones(len(values), dtype=bool))] + [
        (name, third == number) for number, name in enumerate(("smallest third", "middle third", "largest third"))
    ]
