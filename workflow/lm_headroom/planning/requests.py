"""What jobs ask a cluster for, where files may not yet say how much they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_headroom.errors import HeadroomError
from lm_headroom.planning.workload import Request, default_request, request_from_files
from lm_headroom.study.config import Study


def request_or_guess(
    rule: str, study: Study, model: str, prompts: str | None, attempt: int, warn: Callable[[str], object]
) -> Request:
    """What a job that runs a model asks for.

    Files that do not say how large they are must not keep a run from starting, which may make them anew: the job gets a
    guess, and says itself what is wrong with them.
    """
    try:
        return request_from_files(rule, study, model, prompts, attempt)
    except HeadroomError as error:
        warn(f"{error}. Until then, cluster jobs ask for a guess of memory and time")
        return default_request(study, attempt)


def get_cpu_memory(wildcards: object, attempt: int) -> int:
    """MB of memory of a job that only reads and writes artifacts, several times what it needs."""
    return int(2000 * 1.5 ** (attempt - 1))


def gpus_of_job(study: Study) -> int:
    """GPUs of a job that runs the model. On the CPU, as many jobs run beside each other as there are cores."""
    return 0 if study.device == "cpu" else study.gpus


def resources_of(rule: str, study: Study, warn: Callable[[str], object]) -> dict[str, Any]:
    """Resources of a rule that runs the model; memory and time grow with the model, the prompts and each attempt.

    Resources, not params: they change speed and memory, and must not rerun anything.
    """

    def request(job_input: Any, attempt: int) -> Request:
        return request_or_guess(rule, study, job_input.model, job_input.get("prompts"), attempt, warn)

    # Snakemake gives each function what its parameters are called.
    def memory(wildcards: object, input: Any, attempt: int) -> int:
        return request(input, attempt).mem_mb

    def minutes(wildcards: object, input: Any, attempt: int) -> int:
        return request(input, attempt).minutes

    gpus = gpus_of_job(study)
    return {
        "gpu": gpus,
        # The same once more, because a limit of GPUs in all, such as the default profile's, lowers `gpu` to itself.
        "gpus_per_job": gpus,
        # Jobs of one submission to a cluster run one after the other (the Snakefile's resource scope).
        "model_jobs": 1,
        "device": study.device,
        "token_budget": study.token_budget,
        "mem_mb": memory,
        "runtime": minutes,
    }
