"""What a Snakemake process is for, where its code is, and who else works in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_headroom.audit.invocation import check_profile, is_alone, makes_results
from lm_headroom.checkout import (
    VARIABLE,
    check_job,
    check_places,
    check_writable_for_snakemake,
    is_submitted_alone,
    job_environment,
)
from lm_headroom.errors import HeadroomError
from tests.support.paths import ROOT

WORKFLOW = ROOT / "workflow"


@pytest.mark.parametrize(
    "arguments",
    [
        *("-n", "-np", "-nq all", "--dry-run", "--dryrun fig05 --config tasks=[boolq]", "--lint", "--lint json", "-l"),
        *("--report", "--report r.html", "--summary", "-S", "-D", "--dag", "--dag dot", "--rulegraph", "--filegraph"),
        *("--d3dag", "--list-rules", "--list-target-rules", "--unlock", "--list-changes code", "--archive x.tar.gz"),
        *("--configfile n.yaml -c 2 -n", "--cleanup-metadata results/x", "--delete-all-output"),
    ],
)
def test_these_write_no_results(arguments):
    assert not makes_results(["/bin/snakemake", *arguments.split()])


@pytest.mark.parametrize(
    "arguments",
    ["", "all", "--touch --forceall", "--nolock -c 2", "--configfile n", "-R n", "--report-after-run --report r.html"],
)
def test_these_run_jobs(arguments):
    assert makes_results(["/lib/snakemake/__main__.py", *arguments.split()])


def test_of_another_program_nothing_is_known():
    assert makes_results(["/bin/pytest", "-n", "2"])


@pytest.mark.parametrize("place", ["here/slurm", "here/profiles/slurm", "flow/profiles/slurm"])
def test_a_workflow_profile_is_found_where_snakemake_looks(place, tmp_path):
    (tmp_path / place).mkdir(parents=True)
    command = ["/bin/snakemake", "all", "--workflow-profile", "slurm", "-c", "2"]
    check_profile(command, str(tmp_path / "here"), str(tmp_path / "flow" / "Snakefile"))


@pytest.mark.parametrize("name", ["profiles/slurm", "slrum"])
def test_a_workflow_profile_that_is_not_there_is_refused(name, tmp_path):
    command = ["/bin/snakemake", f"--workflow-profile={name}"]
    with pytest.raises(HeadroomError, match=rf"no workflow profile {name}: expected one of {tmp_path}.*Copy one"):
        check_profile(command, str(tmp_path), str(tmp_path / "flow" / "Snakefile"))


@pytest.mark.parametrize("command", ["/bin/snakemake -n", "/bin/snakemake --workflow-profile none", "/bin/pytest -n 2"])
def test_no_workflow_profile_is_none_to_be_found(command):
    check_profile(command.split(), "/nowhere", "/nowhere/Snakefile")


def test_a_folder_is_held_by_a_live_process_alone(tmp_path):
    folder = tmp_path / ".snakemake"
    (folder / "locks").mkdir(parents=True)
    # What a killed run of Snakemake leaves.
    (folder / "locks" / "0.input.lock").write_text("results/x\n")
    code = (
        "import sys; from pathlib import Path; from lm_headroom.audit.invocation import is_alone\n"
        f"print(is_alone(Path({str(folder)!r})), flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOW)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    first = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert first.stdout.readline() == "True\n"
    assert not is_alone(folder)
    first.kill()
    first.communicate()
    assert is_alone(folder)


@pytest.mark.parametrize("name", ["a:b", ":", "a{x}b", "{", "}", "{{x}}"])
def test_a_checkout_whose_name_is_read_otherwise_is_refused(name, tmp_path):
    with pytest.raises(HeadroomError, match="the checkout's path .* has .* in it.* Move the checkout"):
        check_places(tmp_path / name / "workflow", tmp_path)


def test_a_working_folder_with_braces_is_refused_and_other_names_are_not(tmp_path):
    with pytest.raises(HeadroomError, match=r"the path of the working folder .* Name another with --directory"):
        check_places(WORKFLOW, tmp_path / "a{x}")
    check_places(WORKFLOW, tmp_path / 'it\'s a "b" $(c) `d`; e:f é')


def test_a_read_only_working_folder_is_refused(tmp_path, monkeypatch):
    check_writable_for_snakemake(tmp_path)
    monkeypatch.setattr("lm_headroom.checkout.os.access", lambda path, mode: False)
    with pytest.raises(HeadroomError, match=r"is read-only for you.* with --directory"):
        check_writable_for_snakemake(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    with pytest.raises(HeadroomError, match="is read-only for you"):
        check_writable_for_snakemake(tmp_path)


def test_another_copy_of_the_package_is_refused(tmp_path, monkeypatch):
    with pytest.raises(HeadroomError, match="but Python imports lm-headroom from"):
        check_places(tmp_path / "workflow", tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    check_job()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(HeadroomError, match="but Python imports lm-headroom from"):
        check_job()


def test_a_folder_that_is_called_headroom_is_not_run(tmp_path):
    """``python -m`` would take the package in the folder where a job runs."""
    (tmp_path / "lm_headroom").mkdir()
    (tmp_path / "lm_headroom" / "__main__.py").write_text("print('another')")
    (tmp_path / "lm_headroom" / "__init__.py").write_text("")
    environment = {**os.environ, **job_environment(WORKFLOW, WORKFLOW, tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lm_headroom", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "in-context learning" in done.stdout
    assert Path(environment[VARIABLE]) == WORKFLOW


@pytest.mark.parametrize(
    ("command", "alone"),
    [
        ("snakemake --cores 2 figures", False),
        ("snakemake --snakefile x --target-jobs score_heads:task=copa --allowed-rules score_heads --mode remote", True),
        ("snakemake --target-jobs score_heads:task=copa score_heads:task=piqa --allowed-rules score_heads", False),
        ("snakemake --allowed-rules score_heads --target-jobs score_heads:task=copa", True),
    ],
)
def test_a_job_of_a_cluster_has_none_to_share_a_process_with_unless_it_is_one_of_a_group(command, alone):
    assert is_submitted_alone(command.split()) == alone
