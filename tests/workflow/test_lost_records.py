"""Snakemake's records lost or stale: what results say of themselves decides; and looking writes nothing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.tiny_models import tiny_model
from tests.support.workflow_studies import Study, edit, tiny_study

SCORES = "tiny/head_importance/arc_easy/0shot-seed1234.parquet"


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tokenizer) -> Study:
    """A study that has drawn Figure 3. Copy it before changing anything."""
    study = tiny_study(tmp_path_factory.mktemp("scored") / "checkout", tokenizer, tasks=["arc_easy", "piqa"])
    study.run("fig03")
    return study


@pytest.fixture
def study(scored, tmp_path) -> Study:
    """A copy to change."""
    return scored.copy(tmp_path / "copy")


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Times and contents of all files but Snakemake's own and byte code."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file() and not {".snakemake", "__pycache__"} & set(path.parts)
    }


def test_options_that_changed_after_the_records_were_lost(study):
    records = study.folder / ".snakemake"
    shutil.rmtree(records)
    assert study.planned("fig03") == {}
    for changes, first in (
        ({"limits": {"importance": 5, "evaluation": 4}}, "render_prompts"),
        ({"limits": {"importance": 4, "evaluation": 4}, "dtype": "float64"}, "score_heads"),
        ({"dtype": "float32", "importance": {"reduction": "example"}}, "score_heads"),
    ):
        shutil.rmtree(records)
        study.configure(**changes)
        assert study.planned("fig03")[first] == 2, changes
    # Judged once, remembered by a run, and with nothing left of what was other.
    shutil.rmtree(records)
    study.configure(importance={"reduction": "token"})
    assert study.planned("fig03") == {}


def test_code_of_a_step_that_changes_after_results_were_judged_without_records(study):
    shutil.rmtree(study.folder / ".snakemake")
    study.run("fig03")
    assert study.planned("fig03") == {}
    edit(study, "scoring/gradient.py")
    assert study.planned("fig03")["score_heads"] == 2


def test_records_of_a_task_that_change_after_results_were_judged_without_snakemakes(study):
    shutil.rmtree(study.folder / ".snakemake")
    study.run("fig03")
    path = study.folder / "records" / "piqa" / "validation.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    assert study.planned("fig03")["render_prompts"] == 1


def test_results_of_other_options_that_are_copied_over_are_made_again(study):
    scores = study.result(SCORES)
    table = pq.read_table(scores)
    stripped = {
        key: value.replace(b'"criterion": "token"', b'"criterion": "example"')
        for key, value in table.schema.metadata.items()
    }
    assert stripped != table.schema.metadata
    other = study.folder / "other.parquet"
    pq.write_table(table.replace_schema_metadata(stripped), other)
    shutil.copystat(scores, other)
    shutil.copy2(other, scores)
    assert study.planned("fig03")["score_heads"] == 1


def test_linked_results_are_judged_and_a_link_to_nowhere_stops_nothing(study):
    shutil.rmtree(study.folder / ".snakemake")
    study.result("tiny").rename(study.folder / "disk")
    study.result("tiny").symlink_to(study.folder / "disk")
    study.result("notes.md").symlink_to("nowhere.md")
    assert study.planned("fig03") == {}
    study.configure(dtype="float64")
    assert study.planned("fig03")["score_heads"] == 2


def test_looking_writes_nothing_and_a_dry_run_plans_what_a_run_would_do(study):
    shutil.rmtree(study.folder / ".snakemake")
    study.configure(tasks=["arc_easy"])
    before = tree(study.folder)
    assert study.planned("fig03") == {"aggregate_heads": 1, "draw_fig03": 1, "fig03": 1}
    for arguments in (["--lint"], ["--summary"], ["--rulegraph"], ["--list-rules"], ["--report", "../report.html"]):
        study.snakemake(*arguments)
        assert tree(study.folder) == before, arguments


def test_a_stale_lock_does_not_hide_another_model(study):
    locks = study.folder / ".snakemake" / "locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.input.lock").write_text("results/tiny/model.json\n")
    model = tiny_model("opt").float()
    model.get_input_embeddings().weight.data += 1
    shutil.copytree(study.folder / "tiny-opt", study.folder / "other-opt")
    model.save_pretrained(study.folder / "other-opt")
    study.configure(models={"tiny": {"source": "other-opt"}})
    before = tree(study.folder)
    assert study.planned("--nolock", "fig03")["score_heads"] == 2
    assert tree(study.folder) == before
    record = study.result("tiny/model.json").read_bytes()
    done = study.snakemake("--cores", "1", "--nolock", "results/tiny/model.json")
    assert done.returncode == 0, done.stdout
    assert study.result("tiny/model.json").read_bytes() != record
    assert study.planned("--nolock", "fig03")["score_heads"] == 2
