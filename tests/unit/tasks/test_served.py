"""docs/tasks.md says of lm-eval's tasks which are served; ``make tasks`` writes it."""

from importlib.metadata import version
from pathlib import Path

import lm_eval
import pytest

from lm_headroom.tasks.files import built_in_yaml
from tests.served.make import PAGE, verdict

TASKS = Path(lm_eval.__file__).parent / "tasks"
REFUSED = {
    "truthfulqa_mc2": "scores answers by a function of its own (process_results: process_results_mc2)",
    "cola": "does not define the metric acc: metric_list has mcc",
    "crows_pairs_english": "scores answers by a function of its own (process_results: process_results)",
}
"""Task to the beginning of what is said of it."""
SERVED = ("mmlu_abstract_algebra", "hellaswag", "arabicmmlu_driving_test", "lambada_openai", "cb", "truthfulqa_mc1")


def rows(section):
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:2] == "| "][
        1:
    ]


def test_the_page_is_of_the_lm_eval_that_is_installed():
    assert f"\nlm-eval {version('lm_eval')} has " in PAGE.read_text(), "make tasks"


def test_the_page_counts_what_it_lists():
    numbers = [int(word) for word in PAGE.read_text().split("\nlm-eval ")[1].split(".\n")[0].split() if word.isdigit()]
    assert numbers == [numbers[1] + numbers[2], sum(int(row[1]) for row in rows("Supported")), numbers[2]]
    assert numbers[2] == sum(row[2].count("`") // 2 for row in rows("Refused"))
    assert numbers[0] > 8000


@pytest.mark.parametrize("name", [*REFUSED, *SERVED])
def test_the_page_says_what_a_study_meets(name):
    result = verdict(name, built_in_yaml(name, TASKS))
    message = [why for folder, why, names in rows("Refused") if f"`{name}`" in names]
    assert message == ([result.refused] if result.refused else [])
    assert result.refused.startswith(REFUSED.get(name, ""))
    assert bool(result.refused) == (name in REFUSED)
    assert result.refused or result.folder in [row[0] for row in rows("Supported")]


def test_a_task_that_lm_eval_shows_no_examples_is_served_without_shots():
    assert not verdict("truthfulqa_mc1", built_in_yaml("truthfulqa_mc1", TASKS)).shots


def test_templates_are_rendered_on_made_up_records():
    assert verdict("mmlu_abstract_algebra", built_in_yaml("mmlu_abstract_algebra", TASKS)).rendered
