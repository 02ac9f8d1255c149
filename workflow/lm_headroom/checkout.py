"""Ensure that the workflow runs the package of its own checkout, whatever else is installed.

Standard library only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from lm_headroom.errors import HeadroomError

VARIABLE = "LM_HEADROOM_CHECKOUT"
"""Names the workflow's folder to its jobs, which refuse to run from another checkout."""
TARGET_JOBS = "--target-jobs"
"""Snakemake's option for what a submitted job makes: one target, or several of a group."""
WARM = "LM_HEADROOM_WARM"
"""Jobs share warm processes where this variable is 1, as it is unless the user sets another value."""
WARM_SECONDS = "LM_HEADROOM_WARM_SECONDS"
"""Variable: seconds without a job after which a warm process ends."""


def check_places(workflow: Path, working: Path) -> None:
    """Refuse folders whose names other tools would misread, and the package of another copy.

    Args:
        workflow: the folder of the checkout that holds the package.
        working: the working folder, which gets the results.

    Raises:
        HeadroomError: a folder has such a name, or the package that was imported is not the checkout's.
    """
    if ":" in str(workflow):
        raise HeadroomError(
            f"the checkout's path {workflow.parent} has ':' in it, which separates folders in PYTHONPATH: its jobs "
            "could run another copy of lm-headroom. Move the checkout"
        )
    for what, folder, advice in (
        ("checkout's path", workflow.parent, "Move the checkout"),
        ("path of the working folder", working, "Name another with --directory"),
    ):
        if set("{}") & set(str(folder)):
            raise HeadroomError(f"the {what} {folder} has a brace in it, as wildcards of Snakemake have. {advice}")
    check_package(workflow)


def check_writable_for_snakemake(working: Path) -> None:
    """Refuse a working folder where Snakemake cannot write its records, before it fails there with a traceback.

    Args:
        working: the working folder.

    Raises:
        HeadroomError: it is read-only.
    """
    records = working / ".snakemake"
    if not os.access(records if records.is_dir() else working, os.W_OK | os.X_OK):
        raise HeadroomError(
            f"the working folder {working} is read-only for you, and Snakemake keeps its records there. Name a "
            "folder that can be written with --directory, and the study with --configfile"
        )


def check_package(workflow: Path) -> None:
    """Refuse to run another copy of the package than the one in ``workflow``.

    Raises:
        HeadroomError: another copy was imported.
    """
    imported, expected = Path(__file__).resolve().parent, (workflow / "lm_headroom").resolve()
    if imported != expected:
        raise HeadroomError(
            f"the workflow belongs to {expected.parent}, but Python imports lm-headroom from {imported}. Uninstall "
            "that copy, or take it out of PYTHONPATH"
        )


def job_environment(package_folder: Path, workflow: Path, scratch: Path) -> dict[str, str]:
    """Environment variables with which ``python -m lm_headroom`` runs this checkout, whatever folder it starts in.

    A wheel's package lies among others, which are not for a rule with an environment of its own: such jobs import it by
    a link, beside which nothing lies.

    Args:
        package_folder: the folder with the package.
        workflow: the workflow's folder, which is the same in a checkout.
        scratch: a folder that lasts as long as this process.
    """
    folder = package_folder
    if package_folder != workflow:
        folder = scratch / "package"
        folder.mkdir()
        (folder / "lm_headroom").symlink_to(package_folder / "lm_headroom")
    warm = "0" if is_submitted_alone(sys.argv) else os.environ.get(WARM, "1")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", VARIABLE: str(folder), WARM: warm}


def is_submitted_alone(arguments: Sequence[str]) -> bool:
    """Whether this Snakemake runs one job on a cluster's node, which then has no other to share anything with.

    Args:
        arguments: Snakemake's command line.

    Example:
        >>> is_submitted_alone(["snakemake", "--target-jobs", "score_heads:task=copa", "--mode", "remote"])
        True
    """
    if TARGET_JOBS not in arguments:
        return False
    following = arguments[arguments.index(TARGET_JOBS) + 1 :]
    return len(list(takewhile(lambda word: not word.startswith("--"), following))) == 1


def check_job() -> None:
    """Refuse to work for a run of another checkout.

    Raises:
        HeadroomError: a run of another checkout started this process.
    """
    if VARIABLE in os.environ:
        check_package(Path(os.environ[VARIABLE]))


def step(command: str) -> str:
    """The shell's text for a command of lm-headroom, whose output is shown and kept in the rule's log."""
    return f"python -m lm_headroom {command} 2>&1 | tee {{log:q}}"


def model_step(command: str, more: str = "--token-budget {resources.token_budget} --cache {params.cache:q}") -> str:
    """The same of a command that runs a model."""
    machine = "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads}"
    return step(f"{command} --model {{input.model:q}} {{params.options}} {machine} {more}")
