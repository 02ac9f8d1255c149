"""A task of the user's own in the workflow: the page's study runs, and changed records rerun what depends on them."""

import json
import re
import shutil

import pytest
import yaml

from lm_headroom.artifacts.store import provenance
from tests.support.paths import ROOT
from tests.support.workflow_studies import tiny_study, work

PAGE = (ROOT / "docs" / "own_task.md").read_text()
ROW, KEYS = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("json", "yaml"))
OWN = next(task for task in yaml.safe_load(KEYS)["tasks"] if isinstance(task, dict))
PROMPTS = "prompts/capitals/0shot-seed1234.parquet"
CURVE = "tiny/pruned_eval/heads/capitals/0shot-seed1234/own.parquet"


@pytest.fixture(scope="module")
def example(tmp_path_factory, tokenizer):
    """The page's task beside one of lm-eval, run to its curves."""
    study = tiny_study(tmp_path_factory.mktemp("own") / "study", tokenizer, tasks=[OWN, "arc_easy"])
    write(study, json.loads(ROW))
    study.run("curves")
    return study


def write(study, row):
    rows = [{**row, "question": f"{row['question']} ({i})", "answer": i % 3} for i in range(12)]
    (study.folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_pages_task_runs_beside_one_of_lm_eval(example):
    assert example.result(CURVE).is_file()
    recorded = provenance(example.result(PROMPTS))
    assert {part: counts["count"] for part, counts in recorded["documents"].items()} == {
        "importance": 4, "evaluation": 4,
    }  # fmt: skip
    assert recorded["data"] == {"source": "study"}
    assert example.unsound() == {}
    assert example.planned("curves") == {}


def test_changed_records_rerun_the_task_and_verify_refuses_results_of_the_old_ones(example, tmp_path):
    study = example.copy(tmp_path / "study")
    write(study, {**json.loads(ROW), "question": "Which is the capital?"})
    plan = work(study.planned("curves"))
    assert plan["render_prompts"] == plan["score_heads"] == 1
    assert "capitals.jsonl" in str(study.unsound()[PROMPTS]) or "validation.jsonl" in str(study.unsound()[PROMPTS])
    study.run("curves")
    assert study.unsound() == {}


def test_changed_records_rerun_the_task_where_those_of_snakemake_are_lost(example, tmp_path):
    study = example.copy(tmp_path / "study")
    shutil.rmtree(study.folder / ".snakemake")
    assert study.planned("curves") == {}
    write(study, {**json.loads(ROW), "question": "Which is the capital?"})
    assert study.planned("curves")["render_prompts"] == 1


def test_a_moved_file_reruns_nothing(example, tmp_path):
    study = example.copy(tmp_path / "study")
    (study.folder / "capitals.jsonl").rename(study.folder / "moved.jsonl")
    study.configure(tasks=[{**OWN, "file": "moved.jsonl"}, "arc_easy"])
    assert study.planned("curves") == {}
    assert study.unsound() == {}


def test_a_row_that_is_not_right_stops_the_workflow_before_any_job(example, tmp_path):
    study = example.copy(tmp_path / "study")
    with (study.folder / "capitals.jsonl").open("a") as file:
        file.write(json.dumps({**json.loads(ROW), "answer": 3}) + "\n")
    done = study.snakemake("--dry-run", "--cores", "1", "curves")
    assert done.returncode
    assert "task 'capitals': capitals.jsonl, row 13: 'answer' is 3" in done.stdout
