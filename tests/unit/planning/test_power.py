"""What a study's own results say about the documents that it needs."""

import subprocess
import sys
from dataclasses import replace

import pytest

from lm_headroom.planning.power import format_power
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.power import judges_of
from lm_headroom.study.reading import parse_study
from tests.support.small_study import small


def study_of(shots):
    models = {"model": {"source": "there"}, "other": {"source": "there"}}
    return parse_study({"models": models, "tasks": ["piqa", "copa", "record"], "shots": shots, "seeds": [7]})


def test_without_results_it_says_to_run_a_small_study(tmp_path):
    text = format_power(study_of([0]), tmp_path)
    assert text.startswith("Power: no results of this study yet. Run a small one first")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("repeat", [3, 40])
def test_each_outcome_has_its_power_and_the_documents_that_are_missing(tmp_path, repeat):
    results = small(tmp_path, repeat, "scoring")
    settings = study_of([0, 1])
    rows = [line for line in format_power(settings, results.results.parent).splitlines() if line.startswith("| model")]
    # The other model, and one shot, have no results.
    assert len(rows[1:]) == 4
    assert all(" | 0 | " in row for row in rows[1:])
    judged = replace(results, outcomes=tuple(settings.judged_outcomes))
    for component, name in (("heads", "heads"), ("ffns", "FFNs")):
        for judge in judges_of(judged, 0, component, read_chance_levels(judged)):
            title = judge.matrix.outcome.replace("_", " ")
            (row,) = (row for row in rows if f"| model | {name} | 0 | {title}, " in row)
            missing = "enough" if judge.needed <= 10 * repeat else f"about {judge.more}"
            assert row.endswith(f" | {10 * repeat} | {judge.power:.2f} | {missing} |")
            assert (missing == "enough") == (judge.power >= 0.8)


def test_it_starts_without_torch():
    code = "import sys, lm_headroom.planning.power; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
