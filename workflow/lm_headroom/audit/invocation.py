"""What a Snakemake process was started for, and whether another one works in the same folder.

The Snakefile asks while it is parsed, when Snakemake itself does not yet say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from lm_headroom.errors import HeadroomError
from lm_headroom.workflow_files import ROOT

_LOOKING = {
    *("dryrun", "lint", "list_rules", "list_target_rules", "print_compilation", "report", "reporter", "containerize"),
    *("dag", "rulegraph", "filegraph", "d3dag", "summary", "detailed_summary", "archive", "generate_unit_tests"),
    *("list_changes", "list_input_changes", "list_params_changes", "list_untracked", "list_conda_envs", "export_cwl"),
    *("unlock", "cleanup_metadata", "cleanup_shadow", "conda_cleanup_envs", "conda_create_envs_only"),
    *("container_cleanup_images", "delete_all_output", "delete_temp_output"),
}
"""Snakemake's options, as its parser names them, with which it runs no jobs."""


def makes_results(command: Sequence[str]) -> bool:
    """Whether a Snakemake command runs jobs: a dry run, a report or a list of rules writes nothing.

    Args:
        command: ``sys.argv``. That of a program which calls Snakemake as a library says nothing: taken to run jobs.
    """
    arguments = _arguments(command)
    if arguments.get("report_after_run"):
        arguments = {**arguments, "report": None, "reporter": None}
    # An option may be given with an empty value; what is not given is None, False or nothing at all.
    return not any(arguments.get(option) not in (None, False, []) for option in _LOOKING)


def check_profile(command: Sequence[str], started_in: str, snakefile: str) -> None:
    """Refuse a workflow profile that is not there: Snakemake leaves it out without a word, and runs all jobs here.

    Args:
        command: ``sys.argv``.
        started_in: the folder where Snakemake was started.
        snakefile: the main one, beside which Snakemake looks, too.

    Raises:
        HeadroomError: Snakemake finds no profile of this name.
    """
    # The parser takes a tenth of a second, and jobs on a cluster's nodes have no such option.
    asked = any(word.startswith("--workflow-profile") for word in command)
    name = _arguments(command).get("workflow_profile") if asked else None
    if name in (None, "", "none"):
        return
    places = [Path(started_in, name), Path(started_in, "profiles", name), Path(snakefile).parent / "profiles" / name]
    if not any(place.exists() for place in places):
        raise HeadroomError(
            f"there is no workflow profile {name}: expected one of {', '.join(map(str, places))}. Without it, "
            "Snakemake would run all jobs on this machine. Copy one of lm-headroom's here, which are in "
            f"{ROOT / 'profiles'}"
        )


def _arguments(command: Sequence[str]) -> dict[str, Any]:
    """Snakemake's options by their names in its parser; none of another program's command."""
    program = Path(command[0])
    if program.name != "snakemake" and program.parent.name != "snakemake":
        return {}
    from snakemake.cli import get_argument_parser

    return vars(get_argument_parser().parse_known_args(command[1:])[0])


_held: list[int] = []


def is_alone(folder: Path) -> bool:
    """Whether no other live run works in a folder; from now on, this process does.

    The kernel forgets such a lock with the process that holds it, however that ends; Snakemake's own lock files outlive
    a run that was killed.

    Args:
        folder: Snakemake's, ``.snakemake`` in the working folder.
    """
    handle = None
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder / "lm_headroom.lock", os.O_RDWR | os.O_CREAT)
        alone = lock_descriptor(handle, blocking=False)
    except OSError:
        # Read-only, or a file system without such locks: Snakemake's lock files are all that there is.
        with suppress(OSError, TypeError):
            os.close(handle)  # type: ignore[arg-type]
        return not any(folder.glob("locks/*.lock"))
    if alone:
        _held.append(handle)
    else:
        os.close(handle)
    return alone


def is_held(folder: Path) -> bool:
    """Whether a live run works in a folder; this process does not begin to.

    Args:
        folder: Snakemake's, ``.snakemake`` in the working folder.
    """
    lock = folder / "lm_headroom.lock"
    try:
        handle = os.open(lock, os.O_RDWR)
    except OSError:
        return any(folder.glob("locks/*.lock"))
    try:
        return not lock_descriptor(handle, blocking=False)
    except OSError:
        return any(folder.glob("locks/*.lock"))
    finally:
        os.close(handle)
