"""Results that are copied, moved or adopted, touched prompts, lost model records, changed checkpoints."""

import os
import random
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.paths import ROOT, environment_of_runs
from tests.support.tiny_models import tiny_model
from tests.support.workflow_studies import work

MODEL_JOBS = {"score_heads": 6, "score_ffns": 4, "evaluate_own": 6, "score_induction": 1}


def test_a_finished_study_is_sound(finished):
    """By ``lm-headroom verify`` with the study's own code, as a user runs it."""
    env = {**os.environ, "PYTHONPATH": str(finished.folder / "workflow")}
    command = [sys.executable, "-m", "lm_headroom", "verify", "results", "--study", finished.config_path.name]
    done = subprocess.run(command, cwd=finished.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = (path.relative_to(finished.folder) for path in finished.result("").rglob("*") if path.is_file())
    count = sum(not any(part.startswith(".") for part in p.parts) for p in paths)
    assert done.stdout == f"results: {count} files: {count} sound\n"


def test_moved_results_stay_valid_and_a_task_added_there_runs(study, tmp_path):
    """Times kept, the old folder gone: first with Snakemake's records, then without."""
    moved = study.copy(tmp_path / "other disk" / "study", records_last=False)
    shutil.rmtree(study.folder)
    assert moved.planned() == {}
    shutil.rmtree(moved.folder / ".snakemake")
    assert moved.planned() == {}
    assert moved.unsound() == {}
    moved.configure(tasks=["arc_easy", "winogrande", "piqa"], shots=[0])
    assert moved.planned()["score_heads"] == 1
    plan = moved.planned("fig12")
    assert plan == {"render_prompts": 1, "score_heads": 1, "draw_fig12": 1, "fig12": 1}
    moved.run("fig12")
    assert moved.planned("fig12") == {}


def forget_times(study, seed=0):
    """What copying without times leaves: times in any order, and no records of Snakemake's."""
    shutil.rmtree(study.folder / ".snakemake")
    paths = [path for path in study.result("").rglob("*") if path.is_file()]
    random.Random(seed).shuffle(paths)
    for number, path in enumerate(paths):
        os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))


def adopt(study):
    """``make adopt`` from the study's checkout, in the environment that runs the tests."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, study.folder)
    # An environment that make takes for made; what it lacks is found where the tests run.
    (study.folder / "environment").mkdir(exist_ok=True)
    (study.folder / "environment" / ".runtime").touch()
    env = environment_of_runs()
    command = ["make", "adopt", f"STUDY={study.config_path.name}", "VENV=environment"]
    return subprocess.run(
        command, cwd=study.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_copy_without_times_is_adopted_and_what_it_lacks_is_made(study):
    """What is missing is not taken for made: the next run makes it, and nothing else."""
    lost = ("correlation/cross_shot/*.parquet", "tables/table1*", "findings/*", "tables/reference*", "index.html")
    for path in [path for pattern in lost for path in study.result("tiny").glob(pattern)]:
        path.unlink()
    pages = ("write_table1", "write_findings", "write_reference", "write_index")
    missing = {"correlate_shots": 1, **dict.fromkeys(pages, 1)}
    forget_times(study)
    assert len(study.planned()) > 5 + len(missing)
    done = adopt(study)
    assert done.returncode == 0, done.stdout
    assert "sound" in done.stdout
    assert "jobs ran" not in done.stdout, "nothing ran: files were touched"
    assert study.planned() == missing
    study.configure(tasks=["arc_easy", "winogrande", "piqa"])
    plan = study.planned("fig03")
    assert (plan["score_heads"], plan["aggregate_heads"], plan["draw_fig03"]) == (2, 2, 1)
    study.configure(tasks=["arc_easy", "winogrande"], importance={"reduction": "example"})
    assert study.planned()["score_heads"] == 6, "params are on record again"


@pytest.mark.parametrize("wrong", ["damaged", "study"])
def test_what_is_not_sound_is_not_adopted(study, wrong):
    if wrong == "damaged":
        path = study.result("tiny/capacity/0shot-seed1234.parquet")
        path.write_bytes(path.read_bytes()[:100])
    else:
        study.configure(pruning={"levels": [0, 50], "controls": ["reversed", "random_1"]})
    forget_times(study)
    times = {path: path.stat().st_mtime_ns for path in study.result("").rglob("*.parquet")}
    done = adopt(study)
    assert done.returncode != 0
    expected = {
        "damaged": "tiny/capacity/0shot-seed1234.parquet\n    not a readable Parquet file",
        "study": "made with levels [0, 5, 50]; the study has [0, 50]",
    }
    assert expected[wrong] in done.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not (study.folder / ".snakemake" / "metadata").exists()


def test_a_touched_prompts_file_of_more_than_a_megabyte_is_no_reason(study):
    """Prompts of random text, which no compression makes small; checksums excuse a touch up to the profile's size."""
    draw = random.Random(0)

    def record(i, split):
        # Long where documents are evaluated, which this target does not do.
        length = 250_000 if split == "validation" else 50
        text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=length))
        return {"goal": f"{i} {text}", "sol1": "push it", "sol2": "wait", "label": i % 2}

    for split in ("train", "validation"):
        path = study.folder / "records" / "piqa" / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist([record(i, split) for i in range(8)]), path)
    study.configure(tasks=["arc_easy", "winogrande", "piqa"], shots=[0])
    target = "results/tiny/ranking/heads/piqa/0shot-seed1234.parquet"
    study.run(target)
    prompts = study.result("prompts/piqa/0shot-seed1234.parquet")
    assert prompts.stat().st_size > 1_000_000
    later = prompts.stat().st_mtime + 1000
    os.utime(prompts, (later, later))
    assert study.planned(target) == {}
    assert study.planned(target, "--max-checksum-file-size", "1000000") == {"score_heads": 1}


def test_a_lost_record_is_made_again_and_runs_nothing(study):
    record = study.result("tiny/model.json")
    content = record.read_text()
    record.unlink()
    done = study.snakemake("--dry-run")
    assert "A run makes the record of tiny, which is lost, before it plans" in done.stdout
    assert not record.exists(), "a dry run writes nothing"
    assert "Nothing to be done" in study.run()
    assert record.read_text() == content
    study.configure(tasks=["arc_easy", "winogrande", "piqa"])
    record.unlink()
    study.run("results/tiny/model.json")
    assert record.read_text() == content
    assert work(study.planned())["score_heads"] == 2, "the new task's alone"


def test_a_changed_checkpoint_is_noticed_and_runs_its_jobs(study):
    """In the same run, with the record there or lost: the files of its folder are not those that it was made from."""
    tiny_model("opt", seed=1).float().save_pretrained(study.folder / "tiny-opt")
    for lost in (False, True):
        if lost:
            study.result("tiny/model.json").unlink()
        plan = study.planned()
        assert MODEL_JOBS.items() <= plan.items()
        assert "render_prompts" not in plan


def test_another_source_runs_its_jobs_if_it_is_another_model(study):
    (study.folder / "tiny-opt").rename(study.folder / "moved-opt")
    study.configure(models={"tiny": {"source": "moved-opt"}})
    assert study.planned() == {}, "the same checkpoint"
    shutil.copytree(study.folder / "moved-opt", study.folder / "other-opt")
    tiny_model("opt", seed=1).float().save_pretrained(study.folder / "other-opt")
    study.configure(models={"tiny": {"source": "other-opt"}})
    plan = study.planned()
    assert MODEL_JOBS.items() <= plan.items()
    assert "render_prompts" not in plan


def test_a_checkpoint_that_is_gone_stops_nothing_but_what_needs_it(study, monkeypatch):
    """Figures can be drawn where the model is not; another source that is not there is an error."""
    # A folder that is gone may be the name of a model on the hub.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(study.folder / "tiny-opt")
    done = study.snakemake("--dry-run")
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in done.stdout
    assert "Results of tiny stay as they are, but no job can run it." in done.stdout
    study.configure(models={"tiny": {"source": "nowhere/at/all"}})
    done = study.snakemake("--dry-run")
    assert done.returncode != 0
    assert "'nowhere/at/all' is neither a folder nor a hub name" in done.stdout
    assert "The results of tiny are of another source, or" in done.stdout
    assert "Traceback" not in done.stdout
