"""Numbers of the study pages and of the README are those of the tables and findings beside them."""

import csv
import json
import re
from functools import cache

import pytest

from tests.support.paths import ROOT

STUDIES = ROOT / "docs" / "studies"
RESULTS = ("## What came out", "## Your own model")
"""Headings of the README between which results stand."""
NUMBER = r"[-−]?\d+(?:\.\d+)?"
QUOTED = re.compile(rf"({NUMBER})(%?[a-z /%*]*)\(({NUMBER}) to ({NUMBER})\)")
"""A value with its interval, such as ``3.2 points (0.7 to 5.8)``."""
VERDICT = re.compile(r"(?:at least|up to) \d+%(?: \((?:point )?estimate \d+%[^)]*\))?")


def pages():
    """Name and text of each page that quotes results."""
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(STUDIES.glob("*/README.md"))}
    readme = (ROOT / "README.md").read_text()
    return texts | {"README.md": readme[readme.index(RESULTS[0]) : readme.index(RESULTS[1])]}


@cache
def rows():
    """Of each row of each committed table with an interval: its numbers, and the ends of its intervals."""
    read = []
    for path in sorted(STUDIES.glob("*/*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                numbers = {
                    name: float(cell) for name, cell in row.items() if re.fullmatch(rf"{NUMBER}(?:e-?\d+)?", cell)
                }
                ends = [
                    (numbers[name], numbers[other])
                    for name in numbers
                    if name.endswith("low") and (other := f"{name.removesuffix('low')}high") in numbers
                ]
                if ends:
                    read.append((set(numbers.values()), ends))
    return read


@cache
def prose():
    """The committed findings and Markdown tables, spaces made one."""
    return " ".join(
        " ".join(path.read_text() for path in sorted(STUDIES.glob("*/*.md")) if path.name != "README.md").split()
    )


def is_row(*quoted):
    """Whether a row has this value and this interval: as they are, with the other sign, or as shares of 1."""
    texts = [text.replace("−", "-") for text in quoted]
    wanted, digits = [float(text) for text in texts], [len(text.partition(".")[2]) for text in texts]

    def match(number, place):
        return abs(number - wanted[place]) <= 0.5000001 * 10 ** -digits[place]

    for numbers, ends in rows():
        for scale in (1, -1, 100, -100):
            for pair in ends:
                low, high = sorted(scale * end for end in pair)
                if match(low, 1) and match(high, 2) and any(match(scale * number, 0) for number in numbers):
                    return True
    return False


@pytest.mark.parametrize("name", pages())
def test_intervals_are_those_of_a_row_or_of_the_findings(name):
    quoted = QUOTED.findall(" ".join(pages()[name].replace("**", "").split()))
    assert quoted or name.endswith("replication/README.md")
    wrong = [
        f"{value}{unit}({low} to {high})"
        for value, unit, low, high in quoted
        if f"{value}{unit}({low} to {high})" not in prose() and not is_row(value, low, high)
    ]
    assert not wrong


@pytest.mark.parametrize("name", pages())
def test_verdicts_are_those_of_a_table(name):
    assert {text for text in VERDICT.findall(pages()[name]) if text not in prose()} == set()


@pytest.mark.parametrize("name", pages())
def test_quoted_findings_are_findings(name):
    quoted = [line for line in pages()[name].splitlines() if line.startswith("> ")]
    assert {line for line in quoted if line[2:].lstrip("- ") not in prose()} == set()


def test_an_interval_that_no_table_has_is_noticed():
    assert not is_row("123.4", "120.1", "125.9")


def test_losses_of_training_are_those_of_the_run():
    losses = json.loads((STUDIES / "training" / "losses.json").read_text())
    text = (STUDIES / "training" / "README.md").read_text()
    last = max(losses, key=lambda row: row["step"])
    assert f"{last['loss']:.2f}" in text
    assert f"step {last['step']}" in text.lower()
