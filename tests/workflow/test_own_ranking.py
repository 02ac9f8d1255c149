"""Rankings of the user's own in the workflow: the page's example runs, and a changed file reruns its own curves."""

import csv
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from lm_headroom.artifacts.custom_ranking import CUSTOM_RANKING
from lm_headroom.artifacts.store import read
from lm_headroom.audit import verify
from lm_headroom.study.reading import read_study
from tests.support.paths import ROOT
from tests.support.workflow_studies import drawn, tiny_study, work

PAGE = (ROOT / "docs" / "own_ranking.md").read_text()
FILES = {name: text for _, name, text in re.findall(r"```(python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)}
MODEL = "SmolLM2-135M"
SHOWN = (
    "curves",
    f"results/{MODEL}/tables/gains-seed1234.csv",
    f"results/{MODEL}/figures/fig05_heads_pruned-seed1234.png",
    f"results/{MODEL}/figures/fig06_ffns_pruned-seed1234.png",
)
FFNS = "layer,score\n0,3\n1,1\n2,2\n"


@pytest.fixture(scope="module")
def example(tmp_path_factory, tokenizer):
    """The page's study on a tiny model and few documents, with a ranking of FFNs beside, run to its tables."""
    written = yaml.safe_load(FILES["own_ranking.yaml"])
    written["rankings"]["upwards"] = {"source": "scores/{task}-{shot}.csv", "component": "ffns"}
    written |= {"models": {MODEL: {"source": "tiny-opt"}}, "tasks": ["arc_easy"], "outcomes": ["accuracy"]}
    written["pruning"] |= {"levels": [0, 50]}
    study = tiny_study(tmp_path_factory.mktemp("own") / "study", tokenizer, **written)
    (study.folder / "my_scores.py").write_text(FILES["my_scores.py"])
    written_for = FILES["write_ranking.py"].replace("30, 9", "3, 4")
    (study.folder / "write_ranking.py").write_text(written_for)
    (study.folder / "scores").mkdir()
    (study.folder / "scores" / "arc_easy-0.csv").write_text(FFNS)
    subprocess.run([sys.executable, "write_ranking.py"], cwd=study.folder, check=True)
    study.run(*SHOWN)
    return study


def gains(study):
    with (study.result(f"{MODEL}/tables/gains-seed1234.csv")).open() as file:
        return {(row["component"], row["ranking"]) for row in csv.DictReader(file) if row["outcome"] == "accuracy"}


def test_the_pages_example_runs_and_its_rankings_stand_beside_the_others(example):
    assert {("heads", name) for name in ("own", "lookback", "middle", "example", "loss_rise")} <= gains(example)
    assert ("ffns", "upwards") in gains(example)
    assert ("ffns", "middle") not in gains(example)
    ranked = read(
        example.result(f"{MODEL}/ranking/ffns_custom/upwards/arc_easy/0shot-seed1234.parquet"), CUSTOM_RANKING
    ).to_pylist()
    assert [(row["layer"], row["head"], row["score"]) for row in ranked] == [(1, None, 1), (2, None, 2), (0, None, 3)]
    assert example.unsound() == {}
    assert example.planned("curves") == {}


def test_a_changed_file_reruns_its_own_curves_and_what_shows_them(example, tmp_path):
    study = example.copy(tmp_path / "study")
    path = study.folder / "middle_first.csv"
    path.write_text(path.read_text().replace("0,0,1.5", "0,0,9"))
    plan = study.planned(*SHOWN)
    assert work(plan) == {"rank_custom": 1, "evaluate_custom": 1}
    assert drawn(plan, all_outcomes=False) == {"draw_fig05", "write_gains"}
    files = verify.verify(study.folder / "results", read_study(study.config_path))
    place = "ranking/heads_custom/middle/arc_easy/0shot-seed1234.parquet"
    assert {file.path.removeprefix(f"{MODEL}/"): file.reasons[0] for file in files if file.path.endswith(place)} == {
        place: "made from another middle_first.csv than is there now"
    }


def test_a_file_that_is_older_than_the_results_is_another_all_the_same(example, tmp_path):
    """As where scores that lay elsewhere are moved to its name, which keeps their time."""
    study = example.copy(tmp_path / "study")
    path = study.folder / "middle_first.csv"
    judged = example.copy(tmp_path / "judged")
    time = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("0,0,1.5", "0,0,9"))
    os.utime(path, ns=(time, time))
    assert work(study.planned("curves")) == {"rank_custom": 1, "evaluate_custom": 1}
    shutil.rmtree(study.folder / ".snakemake")
    assert work(study.planned("curves")) == {"rank_custom": 1, "evaluate_custom": 1}
    # Also after a run without Snakemake's records has found the results sound.
    shutil.rmtree(judged.folder / ".snakemake")
    judged.run("curves")
    shutil.copy2(path, judged.folder / path.name)
    assert work(judged.planned("curves")) == {"rank_custom": 1, "evaluate_custom": 1}


def test_a_changed_function_or_source_reruns_its_own_curves(example, tmp_path):
    study = example.copy(tmp_path / "study")
    path = study.folder / "my_scores.py"
    path.write_text(path.read_text().replace("1 - weights", "2 - weights"))
    assert work(study.planned("curves")) == {"rank_custom": 1, "evaluate_custom": 1}
    (study.folder / "other.csv").write_text((study.folder / "scores" / "arc_easy-0.csv").read_text())
    rankings = {**study.config["rankings"], "upwards": {"source": "other.csv", "component": "ffns"}}
    study.configure(rankings=rankings)
    assert work(study.planned("curves")) == {"rank_custom": 2, "evaluate_custom": 2}
    files = verify.verify(study.folder / "results", read_study(study.config_path))
    reasons = {file.path: file.reasons for file in files if "/upwards/" in file.path}
    assert "made with source scores/arc_easy-0.csv; the study has other.csv" in str(reasons)


def test_a_file_that_is_not_there_is_named_before_any_job(example, tmp_path):
    study = example.copy(tmp_path / "study")
    (study.folder / "middle_first.csv").unlink()
    done = study.snakemake("--dry-run", "--cores", "1", "curves")
    assert done.returncode
    assert "config key 'rankings.middle': middle_first.csv is not there" in done.stdout
