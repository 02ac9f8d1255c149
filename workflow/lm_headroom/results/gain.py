"""What one ranking of heads keeps of an outcome that another loses: the area between their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lm_headroom.analysis.bootstrap import Interval, interval, resample
from lm_headroom.results.curves import Curve, difference, over_levels


def gain(curves: Mapping[str, Curve], others: Mapping[str, Curve], levels: Sequence[int]) -> tuple[float, Interval]:
    """How much better ``others`` score than ``curves``, mean over levels and tasks, and its 95% interval.

    At even distances of levels, the area between the two average curves as a share of their width. Both were measured
    on the same questions, which are resampled within tasks, so that the interval is of paired differences.

    Args:
        curves, others: by task; the same tasks.
        levels: percents that all of them have.

    Raises:
        ArtifactError: two were evaluated on different questions.
    """
    means = [difference(curve, others[task], levels)[0] for task, curve in curves.items()]
    gained = [over_levels(others[task], levels) - over_levels(curve, levels) for task, curve in curves.items()]
    limits = interval(resample(gained))
    return float(np.mean(means)), Interval(float(limits.low), float(limits.high))
