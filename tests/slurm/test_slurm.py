"""A small study on a real Slurm of our own: cancelled, resumed, with failing jobs, on nodes without a network."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest

from lm_headroom.audit.status import read_status
from tests.slurm.cluster import GPU_TYPE, Cluster, Unavailable, install, table
from tests.support.cluster_studies import ClusterStudy, end, wait_for
from tests.support.paths import ROOT
from tests.support.workflow_studies import same_artifacts

SLURM = ("--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "1")
# Jobs of a model and task in one submission, whose name Snakemake makes of the group and its rules.
SCORING, EVALUATING = "score_tiny_arc_easy_evaluate_own_score_ffns_score_heads", "evaluate_tiny_arc_easy_evaluate_joint"
TARGETS = ("importance", "curves", "fig10")
"""What is submitted in each way, and one of the figures, which are drawn beside Snakemake."""
MODEL_RULES = {SCORING, EVALUATING, "score_induction"}
CPU_RULES = {"aggregate_heads", "aggregate_ffns"}
FAULTS = """\
case "$3" in
  score-heads | score-ffns) once failure && { echo 'the disk of this node is gone' >&2; exit 1; };;
  score-induction) once sleep && exec sleep 600;;
  aggregate-ffns) once memory && exec python -c 'import time; x = b"x" * 3_000_000_000; time.sleep(60)';;
esac
"""

long = pytest.mark.skipif(os.environ.get("LM_HEADROOM_SLURM") != "long", reason="long: `make slurm` runs it")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A private Slurm with a node, two GPUs and two partitions."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        install()
        cluster.start()
    except Unavailable as error:
        cluster.stop()
        pytest.skip(f"no Slurm: {error}")
    yield cluster
    cluster.stop()


def megabytes(text):
    """Of Slurm's ``1952M`` or ``5.50G``, which are MiB and GiB."""
    number, unit = re.fullmatch(r"([\d.]+)([MG])", text).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def minutes(text):
    hours, minutes, seconds = map(int, text.split(":"))
    return 60 * hours + minutes + seconds / 60


def prepared(study, faults=FAULTS):
    """Nodes, and the profile as a user changes it; with faults, a limit of a minute for the job that runs over it."""
    profile = study.folder / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text().replace('gpu_type: ""', f"gpu_type: {GPU_TYPE}")
    if faults:
        limit = "      ?if rule == 'score_induction':\n        runtime: attempt\n"
        assert text.count("      ?if gpu_type:\n") == 1
        text = text.replace("      ?if gpu_type:\n", limit + "      ?if gpu_type:\n")
    profile.write_text(text)
    study.nodes(faults)
    return study


def test_a_study_through_slurm(cluster, cluster_study):
    study = prepared(cluster_study)
    # Cancelled in the middle of jobs: none is left, and what the local rules made is.
    first = study.start(*SLURM, *TARGETS)
    wait_for((study.notes / "calls").is_file, 1200, first)
    assert read_status(study.result("")).state == "running"
    end(first, signal.SIGINT)
    assert read_status(study.result("")).state in ("failed", "stopped")
    wait_for(lambda: not cluster.running(), 300)
    cancelled = cluster.history()
    assert cancelled
    assert {entry.state for entry in cancelled} <= {"CANCELLED", "FAILED"}
    assert study.result("tiny/model.json").is_file()
    # Resumed, to the end. A cancelled job may have had its fault, which is therefore given anew.
    for fault in ("failure", "sleep", "memory"):
        if (study.notes / fault).is_dir():
            (study.notes / fault).rmdir()
    process = study.start(*SLURM, *TARGETS)
    printed = process.communicate(timeout=4200)[0]
    assert process.returncode == 0, printed
    status = read_status(study.result(""))
    assert (status.state, status.done, status.left) == ("finished", status.planned, 0)
    wait_for(lambda: not cluster.running(), 300)
    jobs = cluster.history()[len(cancelled) :]
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "slurm-history.md").write_text(table(cancelled + jobs))
    assert study.planned(*TARGETS) == {}
    assert not list(study.folder.rglob("*.partial"))

    # What runs where: the model on GPUs, artifacts on the CPU partition, all else beside Snakemake.
    assert {entry.rule for entry in jobs} == MODEL_RULES | CPU_RULES
    for entry in jobs:
        on_gpu = entry.rule in MODEL_RULES
        assert (entry.partition, entry.gpus) == (("gpu", f"gpu:{GPU_TYPE}:1") if on_gpu else ("cpu", "")), entry
        assert entry.cpus == "1", entry
    done = [entry for entry in jobs if entry.state == "COMPLETED"]
    assert sorted(entry.rule for entry in done) == sorted(MODEL_RULES | CPU_RULES)

    # Each failed once, and was given more.
    failed = {entry.rule: entry for entry in jobs if entry.state != "COMPLETED"}
    again = {rule: next(e for e in done if e.rule == rule and int(e.job) > int(failed[rule].job)) for rule in failed}
    assert {rule: entry.state for rule, entry in failed.items()} == {
        SCORING: "FAILED",
        "score_induction": "TIMEOUT",
        "aggregate_ffns": "FAILED",
    }
    (log,) = study.folder.glob(f".snakemake/slurm_logs/rule_aggregate_ffns/*/{failed['aggregate_ffns'].job}.log")
    assert "Exceeded job memory limit" in log.read_text()
    for rule, entry in failed.items():
        assert megabytes(again[rule].memory) == pytest.approx(1.5 * megabytes(entry.memory), rel=0.01), rule
    # The times of its three jobs, each in whole minutes.
    assert minutes(again[SCORING].limit) == pytest.approx(2 * minutes(failed[SCORING].limit), abs=4)
    assert (failed["score_induction"].limit, again["score_induction"].limit) == ("00:01:00", "00:02:00")

    # Nodes had no network, and jobs that run the model a GPU.
    calls = study.calls()
    assert {command for command, *_ in calls} >= {
        "score-heads",
        "evaluate-pruned",
        "evaluate-joint",
        "score-induction",
        "aggregate-heads",
    }
    assert os.readlink("/proc/self/ns/net") not in {network for *_, network in calls}
    assert {gpu for command, gpu, _ in calls if command == "aggregate-heads"} == {":"}
    assert {gpu for command, gpu, _ in calls if command == "evaluate-pruned"} <= {"0:", "1:"}


@long
def test_killed_snakemake_leaves_jobs_that_do_no_harm(cluster, cluster_study):
    """What docs/cluster.md says to do after kill -9: look, unlock, run again."""
    study = prepared(cluster_study, faults="")
    before = len(cluster.history())
    first = study.start(*SLURM)
    wait_for((study.notes / "calls").is_file, 1200, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    # Jobs go on, and end well, though nobody looks.
    wait_for(lambda: not cluster.running(), 1200)
    left = cluster.history()[before:]
    assert "COMPLETED" in {entry.state for entry in left}
    done = study.start(*SLURM)
    printed = done.communicate(timeout=600)[0]
    assert done.returncode == 1
    assert "LockException" in printed
    assert study.snakemake("--unlock").returncode == 0
    again = study.start(*SLURM)
    printed = again.communicate(timeout=5000)[0]
    assert again.returncode == 0, printed
    assert study.planned() == {}


@long
def test_a_larger_study_through_slurm_is_that_of_one_machine(cluster, finished, tmp_path):
    study = ClusterStudy(finished.copy(tmp_path / "copy").folder)
    shutil.rmtree(study.result("tiny"))
    shutil.rmtree(study.folder / ".snakemake")
    study.configure(device="auto", gpus=2)
    prepared(study, faults="")
    before = len(cluster.history())
    process = study.start(*SLURM)
    printed = process.communicate(timeout=15000)[0]
    assert process.returncode == 0, printed
    jobs = cluster.history()[before:]
    assert {entry.state for entry in jobs} == {"COMPLETED"}
    assert {entry.gpus for entry in jobs if entry.partition == "gpu"} == {f"gpu:{GPU_TYPE}:2"}
    assert {gpus for command, gpus, _ in study.calls() if command == "evaluate-pruned"} == {"0,1:"}
    assert same_artifacts(finished, study) > 50
