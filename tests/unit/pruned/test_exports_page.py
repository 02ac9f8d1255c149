"""docs/models.md says which model types can be exported, and how; ``make models`` writes it."""

import re

import pytest

from tests.served.exports import BEGIN, OWN, PLAIN, Exports, exports, served
from tests.served.models import END, PAGE

EXPECTED = {
    "llama": Exports(PLAIN, OWN),
    "opt": Exports(OWN, OWN),
    "mixtral": Exports(PLAIN, OWN, PLAIN, OWN),
    "olmo2": Exports(*["one norm covers the queries or keys of all heads"] * 2),
    "granite_swa": Exports(PLAIN, "lm-headroom's attention has no sinks"),
}


def rows():
    """Situation to the types without heads and without experts that the page says it of."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    cells = [line.strip("|").split("|") for line in text.splitlines()[2:]]
    return {verdict.strip(): [set(re.findall("`([^`]+)`", cell)) for cell in columns] for verdict, *columns in cells}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_page_says_what_a_type_is_tried_to_be(name):
    one = exports(name)
    assert one == EXPECTED[name]
    (verdict,) = [verdict for verdict, (heads, _) in rows().items() if name in heads]
    if one.even == PLAIN:
        assert verdict.startswith("a plain checkpoint where layers keep as many")
    assert verdict.endswith(
        {OWN: "classes where layers differ" if one.even == PLAIN else "alone"}.get(one.uneven, one.uneven)
    )


def test_the_page_has_each_type_once_and_those_with_experts_once_more():
    without_heads, without_experts = ([name for columns in rows().values() for name in columns[i]] for i in (0, 1))
    assert len(without_heads) == len(set(without_heads)) > 90
    assert len(without_experts) == len(set(without_experts)) > 20
    assert set(without_experts) < set(without_heads) <= set(served())
