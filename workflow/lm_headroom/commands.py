"""Commands that are no step of the workflow: to run it, to plan, to look at results, to upload them."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lm_headroom.errors import HeadroomError
from lm_headroom.options import NO_PERMISSIONS, Count, Permissions, Positive
from lm_headroom.study.choices import Dtype
from lm_headroom.workflow_files import ROOT


def run(study: Path, /, *snakemake: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run a study by the workflow that belongs to this package; results go to the working folder.

    Args:
        study: the study file.
        snakemake: targets and options of Snakemake.

    Raises:
        HeadroomError: Snakemake is not installed.

    Example:
        lm-headroom run my-study.yaml --cores 4 --dry-run
    """
    if find_spec("snakemake") is None:
        raise HeadroomError("Snakemake is not installed here: install lm-headroom[workflow]")
    # Rules call `python`, which must be this environment's.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    # A target that follows `--configfile` would be taken for another study.
    words = ["--configfile", str(study), "--snakefile", str(ROOT / "Snakefile"), *snakemake]
    os.execve(sys.executable, [sys.executable, "-m", "snakemake", *words], {**os.environ, "PATH": path})


def plan(
    *,
    source: str,
    study: Path = Path("config.yaml"),
    results: Path = Path("results"),
    hardware: str = "here",
    dtype: Dtype | None = None,
    gpus: Positive | None = None,
    threads: Positive = 2,
    sample: Positive = 64,
) -> None:
    """Estimate memory, operations and hours of the jobs of one model and seed, and how many documents a study needs.

    Args:
        source: a checkpoint folder (no weights needed), a hub name, or a GGUF file.
        study: the study file.
        results: the folder with the study's prompts, and with its results if there are any.
        hardware: a line of workflow/hardware.yaml, or `here`: this machine, measured.
        dtype: number format of weights and activations; the study's if not given.
        gpus: GPUs of a job; the study's if not given.
        threads: CPU threads of this machine, or of the line `cpu`, that the estimate is for.
        sample: documents per prompts file to count tokens on.

    Example:
        lm-headroom plan --source facebook/opt-66b --study workflow/studies/opt-66b.yaml --hardware a100-80gb
    """
    from lm_headroom.planning.workload import hardware_line, prompt_files
    from lm_headroom.tasks.groups import read_with_subtasks

    settings = read_with_subtasks(study)
    prompt_files(settings, results)
    if hardware != "here":
        hardware_line(hardware, settings.dtype)
    # Imports torch, so after whatever is refused without it.
    from lm_headroom.planning.plan import plan as estimate
    from lm_headroom.planning.power import format_power

    print(estimate(source, settings, results, hardware, dtype, gpus, threads, sample))
    print(f"\n{format_power(settings, results)}")


def model(
    source: str,
    /,
    *,
    revision: str | None = None,
    permissions: Permissions = NO_PERMISSIONS,
    dtype: Dtype = "float32",
    explain: bool = False,
) -> None:
    """Print whether a model is served, and where it has its heads and FFNs.

    Args:
        source: a checkpoint folder, a hub name, or a GGUF file.
        revision: branch, tag or commit of a hub name.
        permissions: what the checkpoint may do.
        dtype: number format of the proofs.
        explain: also load its weights, and prove that heads and FFNs can be removed exactly.

    Raises:
        HeadroomError: the model is not served; says why.

    Example:
        lm-headroom model facebook/opt-125m --allow-pickle --explain
    """
    from lm_headroom.engine.explanation import explain as explanation
    from lm_headroom.models.location import allowed_by

    print(explanation(source, revision, allowed_by(permissions), dtype, explain))


def task(
    action: Literal["check"], name: str, /, *, study: Path = Path("config.yaml"), shots: Count | None = None
) -> None:
    """Render a task of a study and print three prompts, its splits, where shots come from, and what is scored.

    Args:
        action: `check`.
        name: a task of the study.
        study: the study file.
        shots: few-shot examples per prompt; the most that the study has if not given.

    Raises:
        HeadroomError: the task cannot be rendered; names the file and row.

    Example:
        lm-headroom task check copa --study config.yaml --shots 2
    """
    from lm_headroom.tasks.check import describe_task
    from lm_headroom.tasks.groups import read_with_subtasks

    asked = read_with_subtasks(study)
    print(describe_task(asked, name, max(asked.shots) if shots is None else shots))


def show(file: Path, /, *, rows: Count = 5) -> None:
    """Print what made an artifact, figure, table or page, and what an artifact holds.

    Args:
        file: any file below results/.
        rows: rows to print.

    Example:
        lm-headroom show results/opt/head_importance/copa/0shot-seed1234.parquet --rows 3
    """
    from lm_headroom.audit.show import describe_file

    print(describe_file(file, rows))


def verify(results: Path, /, *, study: Path | None = None, json: bool = False) -> None:
    """Check that results are intact, made by this code, and made from the inputs that are there.

    Args:
        results: the results folder.
        study: study file: also check that results were made with its options.
        json: print the state of each file as JSON.

    Raises:
        HeadroomError: a file is not sound.

    Example:
        lm-headroom verify results --study config.yaml
    """
    import json as encoder

    from lm_headroom.audit import verify as audit
    from lm_headroom.tasks.groups import read_with_subtasks

    files = audit.verify(results, read_with_subtasks(study, results.parent) if study else None)
    if json:
        states = [{"path": file.path, "state": file.state, "reasons": file.reasons} for file in files]
        print(encoder.dumps({"counts": audit.count(files), "files": states}, indent=1))
    else:
        print("\n".join(audit.report(results, files)))
    if any(file.state != "sound" for file in files):
        raise HeadroomError(f"{results}: verification failed: {audit.summary(files)}")


def status(results: Path = Path("results"), /, *, watch: bool = False, json: bool = False) -> None:
    """Say how far the last run of a study has come: jobs done, running, left and failed, and the time left.

    Args:
        results: the results folder, in the folder where the study was run.
        watch: say it again every five seconds, until the run ends.
        json: print it as JSON, with --watch an object per line.

    Raises:
        HeadroomError: no run has left a log there.

    Example:
        lm-headroom status results --watch
    """
    import json as encoder
    import time

    from lm_headroom.audit.status import as_json, describe_status, read_status

    while True:
        now = read_status(results)
        print(encoder.dumps(as_json(now), indent=None if watch else 1) if json else describe_status(now), flush=True)
        if not watch or now.state != "running":
            return
        time.sleep(5)
        if not json:
            print()


def push(folder: Path, repository: str, /, *, private: bool = False, dry_run: bool = False) -> None:
    """Upload a pruned checkpoint as a model, or results as a data set, to the hub.

    Args:
        folder: a folder that `lm-headroom export-pruned` wrote, or a results folder.
        repository: its name on the hub, owner/name; a new one is created.
        private: create a private repository.
        dry_run: list the files and their size, and upload nothing.

    Raises:
        HeadroomError: the folder is neither, or the hub refuses it.

    Example:
        lm-headroom push results my-name/my-study --dry-run
    """
    from lm_headroom.publishing.push import collect, describe, send

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise HeadroomError(f"{repository!r} is no name of a repository on the hub; give owner/name, such as me/pruned")
    upload = collect(folder, repository)
    print("\n".join(describe(upload, repository)), flush=True)
    if not dry_run:
        print(send(upload, repository, private))
