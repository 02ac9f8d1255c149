"""Agreement of criteria and linearity of first-order estimates, on numbers worked out by hand."""

import numpy as np
import pytest

from lm_headroom.analysis.criteria_agreement import linearity, lowest, mean_depth, overlap, thirds

RISING = np.arange(20.0).reshape(4, 5)


def test_the_lowest_are_those_pruned_first_and_percents_round_down():
    assert np.argwhere(lowest(RISING, 14)).tolist() == [[0, 0], [0, 1]]
    assert lowest(RISING, 4).sum() == 0


def test_overlaps_of_equal_reversed_and_half_equal_criteria():
    assert overlap(lowest(RISING, 30), lowest(RISING, 30)) == 1
    assert overlap(lowest(RISING, 50), lowest(-RISING, 50)) == 0
    moved = RISING.copy()
    moved[0, :] = 100
    assert overlap(lowest(RISING, 50), lowest(moved, 50)) == 0.5
    assert overlap(lowest(RISING, 4), lowest(RISING, 4)) is None


def test_depth_of_upper_layers_is_1_and_of_none_undefined():
    assert mean_depth(lowest(-RISING, 25)) == 1
    assert mean_depth(lowest(RISING, 25)) == 0
    assert mean_depth(lowest(RISING, 0)) is None


def test_an_exact_estimate_has_slope_1_and_no_gap():
    rise = np.array([0.3, -0.1, 0.2, 0.05])
    exact = linearity(rise, rise)
    assert (exact.pearson, exact.srcc, exact.slope) == pytest.approx((1, 1, 1))
    assert (exact.gap, exact.wrong_sign) == (0, 0)
    half = linearity(-rise / 2, rise)
    assert (half.slope, half.wrong_sign) == pytest.approx((-2, 1))
    assert half.gap == pytest.approx(1.5 * np.abs(rise).mean())


def test_constant_estimates_have_no_correlation():
    assert linearity(np.ones(4), np.arange(4.0))[1:4] == (None, None, None)


def test_thirds_are_by_size_and_part_all():
    values = np.array([-9.0, 1, 2, -3, 8, 7])
    parts = dict(thirds(values))
    assert parts["all"].all()
    assert values[parts["smallest third"]].tolist() == [1, 2]
    assert values[parts["middle third"]].tolist() == [-3, 7]
    assert values[parts["largest third"]].tolist() == [-9, 8]
