import math

import numpy as np
import pytest

from lm_headroom.analysis.metrics import Choices, correct, correct_normalised, mean_and_error


def test_the_first_of_equally_likely_choices_counts():
    choices = Choices(0, (False, True), None)
    assert not correct(choices, np.array([-1.0, -1.0]))
    assert correct(choices, np.array([-1.1, -1.0]))


def test_any_gold_choice_is_right():
    assert correct(Choices(0, (True, True, False), None), np.array([-3.0, -1.0, -2.0]))


def test_normalised_by_characters():
    choices = Choices(0, (True, False), (10, 2))
    assert not correct(choices, np.array([-5.0, -2.0]))
    assert correct_normalised(choices, np.array([-5.0, -2.0]))
    assert correct_normalised(Choices(0, (True, False), None), np.array([-5.0, -2.0])) is None


def test_error_is_lm_evals():
    from lm_eval.api.metrics import mean_stderr

    outcomes = [True, False, True, True, False, True, True]
    mean, error = mean_and_error(outcomes)
    assert mean == pytest.approx(5 / 7)
    assert error == pytest.approx(mean_stderr([float(o) for o in outcomes]))
    assert math.isnan(mean_and_error([True])[1])
