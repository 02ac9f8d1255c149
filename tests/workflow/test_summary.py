"""What a run says at its end, and while it is interrupted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

from lm_headroom.checkout import WARM
from tests.support.paths import environment_of_runs

CELL = "0shot-seed1234"


def test_a_run_ends_with_what_ran_what_failed_why_and_how_to_go_on(study):
    study.result("tiny/figures/fig10_induction.png").unlink()
    study.result(f"tiny/capacity/{CELL}.parquet").unlink()
    # Damaged without Snakemake's knowledge, which goes by times.
    ranking = study.result(f"tiny/ranking/heads/aggregate/{CELL}.parquet")
    content, times = ranking.read_bytes(), (ranking.stat().st_atime_ns, ranking.stat().st_mtime_ns)
    ranking.write_bytes(b"PAR1 no more")
    os.utime(ranking, ns=times)
    done = study.snakemake("--cores", "2")
    assert done.returncode == 1
    text = done.stdout[done.stdout.index("\nlm-headroom: ") :]
    # Figures 11, 18 and 19, the findings and the first page show what failed.
    assert re.match(r"\nlm-headroom: 1 job ran, \d\d were up to date, 1 failed, 5 did not run, in \d+ s\n", text), text
    assert re.search(r"\n  draw_fig10 +1 +\d+ s +\d+ s\n", text)
    assert f"\nFailed\n  retain_capacity: results/tiny/capacity/{CELL}.parquet\n" in text
    assert f"    log: logs/tiny/retain_capacity/{CELL}.log\n" in text
    path = f"results/tiny/ranking/heads/aggregate/{CELL}.parquet"
    message = f"lm-headroom retain-capacity: error: {path}: not a readable Parquet file"
    assert f"    {message}" in text
    assert "\nResume with\n  snakemake --configfile study.yaml --cores 2\n" in text
    # The command that it names goes on, and says less when all is well.
    ranking.write_bytes(content)
    os.utime(ranking, ns=times)
    text = study.run()
    text = text[text.index("\nlm-headroom: ") :]
    assert re.match(r"\nlm-headroom: 6 jobs ran, \d\d were up to date, in ", text)
    assert "Failed" not in text
    assert "Resume" not in text
    text = study.run()
    assert "Nothing to be done" in text
    assert "lm-headroom: " not in text


def test_a_dry_run_says_nothing_of_the_kind(study):
    study.result("tiny/figures/fig10_induction.png").unlink()
    assert "were up to date" not in study.snakemake("--dry-run").stdout
    assert "were up to date" not in study.snakemake("--touch").stdout


def test_an_interrupted_run_says_what_was_running(study):
    """Ctrl-C, which the terminal sends to all processes of the foreground."""
    study.result("tiny/induction/copying.parquet").unlink()
    # Finished units would make the job short.
    shutil.rmtree(study.result("tiny/.cache/induction"))
    command = [sys.executable, "-m", "snakemake", "--configfile", "study.yaml", "--cores", "1"]
    # Cold, a job takes seconds to import torch; a warm one may have ended.
    env = environment_of_runs() | {WARM: "0"}
    run = subprocess.Popen(
        command, cwd=study.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # Tests that run in the background ignore the signal, and what they start would inherit that.
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    output = ""
    for line in run.stdout:
        output += line
        if "Score prefix matching and copying" in line:
            break
    time.sleep(1)
    os.killpg(run.pid, signal.SIGINT)
    output += run.communicate(timeout=1200)[0]
    assert run.returncode != 0
    text = output[output.index("\nlm-headroom: ") :]
    assert re.match(r"\nlm-headroom: 0 jobs ran, \d+ were up to date, 1 were interrupted, \d+ did not run", text), (
        output
    )
    assert "\nInterrupted\n  score_induction: results/tiny/induction/prefix_matching.parquet and 1 more\n" in text
    assert "\nResume with\n  snakemake --configfile study.yaml --cores 1\n" in text
    assert study.planned("induction")["score_induction"] == 1, "nothing is locked or left half-done"
