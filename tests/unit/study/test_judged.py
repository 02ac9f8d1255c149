"""Outcomes with their margins, as text."""

import pytest

from lm_headroom.study.judged import JudgedOutcome
from lm_headroom.study.reading import parse_study


def test_text_and_back():
    judged = parse_study({"margin": 3, "outcomes": ["gold_probability", "loss"]}).judged_outcomes
    assert list(map(str, judged)) == ["accuracy=3", "gold_probability=1", "loss=1"]
    assert [JudgedOutcome.parse(str(one)) for one in judged] == judged
    assert JudgedOutcome.parse("margin=0.01").margin == 0.01


@pytest.mark.parametrize("text", ["accuracy", "accuracy=", "accuracy=0", "accuracy=-2", "accuracy=nan", "acc=2", "=2"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):
        JudgedOutcome.parse(text)
