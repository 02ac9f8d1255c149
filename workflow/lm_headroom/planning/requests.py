"""What jobs ask a cluster for, where files may not yet say how much they need."""

from __future__ import annotations

from collections.abc import Callable

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


def memory_of_reader(attempt: int) -> int:
    """MB of memory of a job that only reads and writes artifacts, several times what it needs."""
    return int(2000 * 1.5 ** (attempt - 1))
