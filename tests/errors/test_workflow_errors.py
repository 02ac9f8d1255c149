"""Bad input that Snakemake meets: each case is a row of docs/errors.md."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.store import read
from tests.errors.page import Outcome, check, snapshot
from tests.support.paths import ROOT, SNAKEMAKE, environment_of_runs


def planned(folder, config):
    """A dry run of a study in a folder with results: what is refused before any job starts changes none of them."""
    kept = folder / "results" / "prompts" / "piqa" / "0shot-seed1234.parquet"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"what was there")
    (folder / "study.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    before = snapshot(folder / "results")
    done = subprocess.run(
        [*SNAKEMAKE, "-s", ROOT / "Snakefile", "--directory", folder, "-n",
         "--configfile", folder / "study.yaml"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
    )  # fmt: skip
    assert snapshot(folder / "results") == before
    return Outcome(done.returncode, done.stdout)


WRONG = {
    "a misspelt key": {"shot": [0]},
    "an unknown key within another": {"limits": {"evaluations": 3}},
    "a value of the wrong type": {"shots": "zero"},
    "an empty list": {"tasks": []},
    "a negative level": {"pruning": {"levels": [0, -10]}},
    "a level above 100": {"joint": {"ffns": [0, 110]}},
    "a task twice": {"tasks": ["piqa", "piqa"]},
    "a task in both lists": {"tasks": ["piqa", "copa"], "unseen": ["piqa"]},
    "a key twice": "shots: [0]\nshots: [1]\n",
    "a whole number with a point": "limits: {evaluation: 1.0e+2}\n",
    "a source that is no name on the hub": {"models": {"m": {"source": "a--b"}}},
    "a home folder that is not there": {"data": {"source": "mirror", "mirror": "~nobody-has-this-name/x"}},
    "a number format that does not exist": {"dtype": "int8"},
    "a criterion that does not exist": {"importance": {"criterion": "loss_rice"}},
    "a criterion that ranks no task": {"importance": {"criterion": "magnitude"}},
    "a criterion of choosing for a task without choices": {
        "tasks": ["copa"],
        "unseen": ["lambada_openai"],
        "pruning": {"controls": ["choosing_second_order"]},
    },
    "a criterion that scores no experts": {"experts": {"criterion": "magnitude"}},
    "a control ranking of experts that does not exist": {"experts": {"controls": ["copying"]}},
    "an ablation that does not exist": {"ablation": "median"},
    "the own ranking under the study's ablation twice": {"ablation": "mean", "pruning": {"controls": ["own_mean"]}},
    "an oracle that does not remove all heads": {
        "tasks": ["copa"],
        "head_oracle": {"tasks": ["copa"], "heads": 9},
        "pruning": {"controls": ["oracle_loss"]},
    },
    "a ranking of your own under a criterion's name": {"rankings": {"fisher": "mine.csv"}},
    "a ranking of your own under a task's name": {"tasks": ["piqa"], "rankings": {"piqa": "mine.csv"}},
    "a ranking of your own that is neither file nor function": {"rankings": {"mine": "mine.txt"}},
    "a ranking of your own with an unknown field": {"rankings": {"mine": "{taks}.csv"}},
    "a ranking of your own that is not there": {"tasks": ["piqa"], "rankings": {"mine": "mine.csv"}},
    "a learned mask of what is no component": {"learned_mask": {"components": ["head"]}},
    "a learned mask without passes": {"learned_mask": {"passes": 0}},
    "a task whose records are not embedded": {"tasks": ["copa", "rte"]},
    "a mirror without a task": {"tasks": ["piqa"], "data": {"source": "mirror", "mirror": "records"}},
}
"""Situation to a study that has it: its keys, or its text where that is what is wrong."""
TWO_RUNS = "two runs in one folder at once"
CASES = {*WRONG, TWO_RUNS}


@pytest.mark.parametrize("situation", WRONG)
def test_a_study_that_cannot_be_right_is_refused_before_any_job(situation, tmp_path):
    check(situation, planned(tmp_path, WRONG[situation]))


def test_a_second_run_is_refused_and_leaves_the_first_alone(study):
    """Its study has another task, which must not reach the first one's files."""
    prompts = study.result("prompts/winogrande/1shot-seed1234.parquet")
    prompts.unlink()
    tasks = study.result("matrix/tasks.txt").read_text()
    other = study.config | {"tasks": ["arc_easy", "winogrande", "piqa"]}
    (study.folder / "other.yaml").write_text(yaml.safe_dump(other))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "prompts", "--configfile"]
    env = environment_of_runs()
    pipes = {"cwd": study.folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": env}
    first = subprocess.Popen([*command, "study.yaml"], **pipes)
    locks = study.folder / ".snakemake" / "locks"
    while not list(locks.glob("*.lock")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    # Held, so that it is not over before the second has come.
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run([*command, "other.yaml"], **pipes)
    first.send_signal(signal.SIGCONT)
    check(TWO_RUNS, Outcome(second.returncode, second.stdout))
    assert study.result("matrix/tasks.txt").read_text() == tasks
    printed, _ = first.communicate()
    assert first.returncode == 0, printed
    assert read(prompts, PROMPTS).num_rows


def test_a_job_that_refuses_its_input_says_why(study):
    """Scores of one task in the place of another's: the log of the failed job is printed, and nothing is drawn."""
    scores = study.result("tiny/head_importance")
    shutil.copyfile(scores / "arc_easy" / "0shot-seed1234.parquet", scores / "winogrande" / "0shot-seed1234.parquet")
    done = study.snakemake("--cores", "1", "fig03")
    assert done.returncode == 1
    message = (
        "winogrande/0shot-seed1234.parquet: made from task arc_easy, expected winogrande; it does not belong in this"
    )
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_a_model_that_cannot_be_run_is_refused_when_it_is_resolved(study):
    config = study.folder / "tiny-opt" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "xglm"}))
    study.result("tiny/model.json").unlink()
    done = study.snakemake("--cores", "1", "results/tiny/model.json")
    assert done.returncode == 1
    assert "model 'tiny': model family 'xglm' is not supported: its attention does not go through" in done.stdout
