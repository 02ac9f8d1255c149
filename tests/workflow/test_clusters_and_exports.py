"""What is planned for clusters, for pruned checkpoints and for a second seed, on dry runs of a finished study."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.workflow_studies import edit, work


def test_a_job_takes_the_gpus_of_the_study_whatever_the_limit_of_all(study):
    """The default profile lets one GPU be used at a time; a job of two then runs alone, with two."""
    study.configure(device="auto", gpus=2)
    done = study.snakemake("--dry-run", "--forceall", "--printshellcmds")
    assert done.returncode == 0, done.stdout
    commands = re.findall(r"python -m lm_headroom .*--device .*", done.stdout)
    assert len(commands) > 20
    assert all("--device auto --gpus 2 --threads 1" in command for command in commands)


@pytest.mark.parametrize("profile", ["slurm", "generic"])
def test_profiles_of_clusters_plan_a_study_of_which_nothing_is_made(profile, study):
    """Memory and time are not known before models and prompts are there."""
    plans = []
    for _ in range(2):
        done = study.snakemake("--dry-run", "--forceall", "--workflow-profile", f"profiles/{profile}")
        assert done.returncode == 0, done.stdout
        plans.append(re.search(r"Job stats:\n(.*?)\n\n", done.stdout, re.DOTALL)[1])
        shutil.rmtree(study.folder / "results", ignore_errors=True)
    assert plans[0] == plans[1]
    assert "score_heads" in plans[0]


def test_each_rule_runs_beside_snakemake_or_asks_for_memory_and_time():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    rules = dict(re.findall(r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:\n(.*?)(?=^\S|\Z)", text, re.M | re.S))
    local = {name for name, body in rules.items() if "localrule: True" in body}
    running = {name for name, body in rules.items() if f'model_job("{name}")' in body}
    # One inherits what it asks for.
    small = {name for name, body in rules.items() if "mem_mb=get_cpu_memory" in body} | {"aggregate_ffns"}
    assert sorted([*local, *running, *small]) == sorted(rules)
    # Rules that loops make.
    looped = [body for body in re.findall(r"^    rule:\n(.*?)(?=^ {0,3}\S|\Z)", text, re.M | re.S) if "shell:" in body]
    assert len(looped) == 2
    assert all(("localrule: True" in body) != ("mem_mb=get_cpu_memory" in body) for body in looped)
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())["__variables__"]
    listed = [*profile["single_rules"], *(rule for rules in profile["groups_of_rules"].values() for rule in rules)]
    assert sorted(listed) == sorted(running)


@pytest.mark.parametrize(("chains", "groups"), [(100, 6), (1, 18), (0, 0)])
def test_jobs_of_a_model_and_task_are_submitted_together(chains, groups, study):
    """Three tasks have two submissions each, or one for each chain of jobs."""
    profile = study.folder / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text()
    assert "chains_per_submission: 100\n" in text
    profile.write_text(text.replace("chains_per_submission: 100\n", f"chains_per_submission: {chains}\n"))
    done = study.snakemake("--dry-run", "--forceall", "--workflow-profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout
    submitted = re.findall(r"Group job (score|evaluate)_tiny_(\w+) ", done.stdout)
    assert len(submitted) == groups
    if chains == 100:
        assert len(set(submitted)) == groups, "one of each kind for a task"


def test_a_model_of_unknown_size_keeps_no_run_from_starting(study):
    path = study.result("tiny/.model.json")
    place = json.loads(path.read_text())
    del place["sizes"]
    path.write_text(json.dumps(place))
    done = study.snakemake("--dry-run", "--forceall", "--workflow-profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("results/tiny/model.json: the size of this model is not recorded here") == 1


def test_unknown_hardware_is_named_before_anything_runs(study):
    study.configure(hardware="h200")
    done = study.snakemake("--dry-run", "--cores", "2")
    assert done.returncode == 1
    assert "hardware 'h200' is unknown (did you mean 'h200-141gb'?)" in done.stdout


def test_a_workflow_profile_that_is_not_there_is_named_before_anything_runs(finished):
    done = finished.snakemake("--dry-run", "--workflow-profile", "profiles/slrum")
    assert done.returncode == 1
    assert "there is no workflow profile profiles/slrum: expected one of " in done.stdout


EXPORT = "results/tiny/pruned/{}/1shot-seed1234"
"""A pruned checkpoint's folder, which is made when it is asked for."""


def test_a_pruned_checkpoint_is_one_job(finished):
    levels = (
        "aggregate/heads50-ffns34", "winogrande/heads0-ffns100", "lambada_openai/heads90-ffns0",
        "aggregate/heads50-ffns0-even", "winogrande/heads50-ffns34-even",
    )  # fmt: skip
    assert finished.planned(*map(EXPORT.format, levels)) == {"export_pruned": len(levels)}


@pytest.mark.parametrize(
    "levels", ["aggregate/heads101-ffns0", "piqa/heads50-ffns0", "winogrande/heads50-ffns0-experts25"]
)
def test_a_pruned_checkpoint_that_cannot_be_is_no_target(finished, levels):
    """Not by the pattern of such names, which has a test of its own, or of no task or no experts of the study."""
    done = finished.snakemake("--dry-run", "--cores", "1", EXPORT.format(levels))
    assert done.returncode == 1
    assert "MissingRuleException" in done.stdout or "MissingInputException" in done.stdout


def test_a_pruned_checkpoint_needs_the_rankings_that_prune_it_and_no_other(study):
    for component in ("heads", "ffns"):
        shutil.rmtree(study.result(f"tiny/ranking/{component}"))
    assert study.planned(EXPORT.format("winogrande/heads50-ffns0")) == {"score_heads": 1, "export_pruned": 1}
    assert study.planned(EXPORT.format("winogrande/heads0-ffns50")) == {"score_ffns": 1, "export_pruned": 1}


def test_an_even_checkpoint_is_another_target_and_prunes_as_many_in_each_layer(study):
    target = EXPORT.format("aggregate/heads60-ffns0-even")
    study.run(target)
    manifest = json.loads((study.folder / target / "lm_headroom.json").read_text())
    # Of three layers of four heads, whole rounds: 60% are 7, of which 6 are pruned.
    assert (manifest["even"], manifest["pruned"]["heads"]["count"]) == (True, 6)
    left = json.loads((study.folder / target / "config.json").read_text())["heads_left"]
    assert [len(heads) for heads in left] == [2, 2, 2]
    assert study.planned(target) == {}
    assert study.planned(EXPORT.format("aggregate/heads60-ffns0")) == {"export_pruned": 1}


def test_a_pruned_checkpoint_is_made_once_and_again_when_it_would_be_another(study):
    target = EXPORT.format("aggregate/heads50-ffns34")
    study.run(target)
    assert study.planned(target) == {}
    assert study.planned() == {}
    done = subprocess.run(
        [sys.executable, "-m", "lm_headroom", "verify", study.result("")], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(study.folder / "workflow")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert (study.folder / target / "README.md").read_text().count("steps.score_heads `") == 2, "a task each"
    edit(study, "scoring/copying.py")
    assert study.planned(target) == {}
    records, kept = study.folder / ".snakemake", study.folder / "kept"
    records.rename(kept)
    assert study.planned(target) == {}
    edit(study, "pruned/model.py")
    assert study.planned(target) == {"export_pruned": 1}, "the manifest says so where Snakemake's records are lost"
    shutil.rmtree(records)
    kept.rename(records)
    assert study.planned(target) == {"export_pruned": 1}
    # A failed job leaves no half of a checkpoint, and Snakemake no whole one.
    (study.folder / "tiny-opt" / "model.safetensors").write_bytes(b"damaged")
    assert study.snakemake("--cores", "1", target).returncode == 1
    assert not (study.folder / target).exists()


def test_a_second_seed_makes_a_copy_of_the_matrix_and_what_seeds_change(study):
    study.configure(seeds=[1234, 7])
    plan = study.planned()
    assert {name: plan[name] for name in ("average_seeds", "write_seeds", "write_findings")} == {
        "average_seeds": 1, "write_seeds": 1, "write_findings": 1,
    }  # fmt: skip
    assert work(plan) == {
        "render_prompts": 6, "score_heads": 6, "score_ffns": 4, "aggregate_heads": 2, "aggregate_ffns": 2,
        "evaluate_own": 6, "evaluate_joint": 4, "evaluate_aggregate": 2, "evaluate_transfer": 2, "correlate_tasks": 2,
        "correlate_shots": 1, "retain_capacity": 2, "average_seeds": 1,
        "correlate_oracle": 1,
    }  # fmt: skip
    assert study.result("matrix/seeds.txt").read_text() == "1234\n", "a dry run writes nothing"
    study.run("results/tiny/model.json")
    assert study.result("matrix/seeds.txt").read_text() == "1234\n7\n"
