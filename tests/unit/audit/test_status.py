"""How far a run has come, from the log that Snakemake writes."""

import json
import os
import time

import pytest
from filelock import FileLock

from lm_headroom.audit.status import read_status
from lm_headroom.cli import main

LOG = """Building DAG of jobs...
Job stats:
job               count
--------------  -------
render_prompts        2
score_heads           3
all                   1
total                 6

Execute 2 jobs...
[Sun Nov 29 14:00:00 2026]
Job 1: Render copa.
[Sun Nov 29 14:00:00 2026]
Job 2: Render piqa.
[Sun Nov 29 14:00:10 2026]
Finished jobid: 1 (Rule: render_prompts)
1 of 6 steps (17%) done
[Sun Nov 29 14:00:10 2026]
Job 3: Score the heads of m on copa. It asks for 900 MB, 20 minutes, 1 cores and 0 GPUs.
[Sun Nov 29 14:00:20 2026]
Finished jobid: 2 (Rule: render_prompts)
2 of 6 steps (33%) done
[Sun Nov 29 14:00:40 2026]
Finished jobid: 3 (Rule: score_heads)
[Sun Nov 29 14:00:40 2026]
Job 4: Score the heads of m on piqa.
"""
FAILED = """[Sun Nov 29 14:00:50 2026]
Error in rule score_heads:
    message: None
    jobid: 4
"""
SUBMITTED_TOGETHER = """[Sun Nov 29 14:00:45 2026] Group job score_m_copa (jobs in lexicogr. order):
    [Sun Nov 29 14:00:45 2026]
    Job 4: Score the heads of m on piqa.
    [Sun Nov 29 14:00:45 2026]
    Job 5: Prune the heads of m on piqa.
"""
FAILED_TOGETHER = """[Sun Nov 29 14:00:50 2026]
    jobs:
        rule score_heads:
            jobid: 4
        rule evaluate_own:
            jobid: 5
    [Sun Nov 29 14:00:50 2026]
    Error in rule score_heads:
        message: None
        jobid: 4
    [Sun Nov 29 14:00:50 2026]
    Error in rule evaluate_own:
        message: None
        jobid: 5
"""
BEGAN = time.mktime(time.strptime("Sun Nov 29 14:00:00 2026"))


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / ".snakemake" / "log"
    folder.mkdir(parents=True)
    (folder / "2026-11-29T140000.000000.snakemake.log").write_text(LOG)
    # A dry run's, which is later.
    later = folder / "2026-11-29T150000.000000.snakemake.log"
    later.write_text("Job stats:\njob    count\n\n")
    os.utime(later, (time.time() + 60, time.time() + 60))
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_a_live_run_says_what_is_done_running_and_left(results):
    with FileLock(results.parent / ".snakemake" / "lm_headroom.lock"):
        status = read_status(results, now=BEGAN + 60)
    assert (status.state, status.planned, status.done, status.left) == ("running", 5, 3, 1)
    (job,) = status.running
    assert (job.job, job.what, job.seconds) == (4, "Score the heads of m on piqa.", 20)
    assert status.rules["render_prompts"] == {"planned": 2, "done": 2, "mean_seconds": 15}
    # Two jobs of 30 seconds each; 60 seconds of work were done in 60.
    assert status.seconds_left == pytest.approx(60)


def test_a_run_that_no_process_works_on_has_stopped(results, capsys):
    status = read_status(results)
    assert (status.state, status.seconds, status.running) == ("stopped", 40, [])
    assert main(["status", str(results)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("stopped: 3 of 5 jobs done, 0 running, 1 left, 0 failed, in 40 s, about 40 s left\n")
    assert "\n  score_heads     1   3             30\n" in text


def test_jobs_that_failed_are_named(results, capsys):
    log = next(results.parent.glob(".snakemake/log/*140000*"))
    log.write_text(LOG + FAILED)
    assert main(["status", str(results), "--json", "--watch"]) == 0, "a run that has ended is not watched"
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["failed"], status["left"]) == ("failed", {"score_heads": 1}, 1)


def test_a_job_that_is_retried_is_at_work_again(results):
    log = next(results.parent.glob(".snakemake/log/*140000*"))
    log.write_text(f"{LOG}{FAILED}\n[Sun Nov 29 14:00:50 2026]\nJob 4: Once more.\n")
    with FileLock(results.parent / ".snakemake" / "lm_headroom.lock"):
        status = read_status(results, now=BEGAN + 60)
    assert (status.state, status.failed) == ("running", {})
    assert (4, "Once more.", 10) in [(job.job, job.what, job.seconds) for job in status.running]


def test_jobs_that_were_submitted_together_are_counted_one_by_one(results):
    log = next(results.parent.glob(".snakemake/log/*140000*"))
    log.write_text(LOG + SUBMITTED_TOGETHER)
    with FileLock(results.parent / ".snakemake" / "lm_headroom.lock"):
        assert [job.job for job in read_status(results, now=BEGAN + 60).running] == [4, 5]
        log.write_text(LOG + SUBMITTED_TOGETHER + FAILED_TOGETHER)
        assert read_status(results, now=BEGAN + 60).failed == {"score_heads": 1, "evaluate_own": 1}
        log.write_text(LOG + SUBMITTED_TOGETHER + FAILED_TOGETHER + SUBMITTED_TOGETHER)
        assert read_status(results, now=BEGAN + 60).failed == {}


def test_without_a_log_it_says_what_is_expected(tmp_path, capsys):
    assert main(["status", str(tmp_path / "results")]) != 0
    assert "no run has left a log in" in capsys.readouterr().err


def test_a_finished_run_of_snakemake_is_read(finished):
    status = read_status(finished.folder / "results")
    assert (status.state, status.left, status.failed) == ("finished", 0, {})
    assert status.done == status.planned == sum(row["done"] for row in status.rules.values()) > 50
