"""Fetch a checkpoint from the hub, or find it in the hub's local cache if the hub cannot be reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lm_headroom.errors import HeadroomError

CONNECTING, ANSWERING = 5.0, 20.0
"""Seconds to wait for a connection to the hub, and for its first answer."""


def fetch(
    source: str,
    revision: str | None,
    choose_files: Callable[[Iterable[str], Path], list[str]],
    check: Callable[[Path], object],
    commits: Sequence[str] = (),
) -> Path:
    """Return the folder of a checkpoint, named after its commit, from the hub or else from its local cache.

    Args:
        source: its name on the hub.
        revision: branch, tag or commit; None for the default branch.
        choose_files: takes the names of the checkpoint's files and the folder with configuration and index; returns the
            files to fetch, or none where there are no weights. It may refuse the checkpoint.
        check: called with a folder that holds only the configuration, before weights are fetched; may refuse it.
        commits: earlier commits of the revision, in case the cache does not know it.

    Raises:
        HeadroomError: the hub cannot be reached, does not know the name or the revision, or does not give the files to
            this user; and they are not in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        # A single request: the library's own listing retries for half a minute if nobody answers.
        timeout = (CONNECTING, ANSWERING, ANSWERING, ANSWERING)
        info = HfApi().model_info(source, revision=revision, timeout=timeout)
        files = [file.rfilename for file in info.siblings or []]
        # Weights are many gigabytes; a model that cannot run is refused before.
        small = ["config.json", "*_config.json", "*.index.json"]
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=small))
        check(folder)
        return Path(snapshot_download(source, revision=revision, allow_patterns=choose_files(files, folder)))
    except HeadroomError:
        raise
    # Wrong names, missing rights, no network, no space: from several libraries, with no base class in common.
    except Exception as error:
        cached = _cached(source, [revision, *commits], choose_files)
        if cached is None:
            raise HeadroomError(_explained(source, revision, error)) from error
        print(
            f"{source}: continuing with commit {cached.name} from the local cache, since the hub did not give it "
            f"({type(error).__name__})",
            file=sys.stderr,
        )
        return cached


def _cached(
    source: str, revisions: Sequence[str | None], choose_files: Callable[[Iterable[str], Path], list[str]]
) -> Path | None:
    """Return the folder of one of the revisions in the cache, if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for revision in revisions:
        try:
            options = {"revision": revision, "local_files_only": True}
            folder = Path(snapshot_download(source, allow_patterns=["config.json"], **options))
            patterns = choose_files([path.name for path in folder.iterdir()], folder)
            if patterns:
                # Checked again, so that an interrupted download is not taken for a checkpoint.
                return Path(snapshot_download(source, allow_patterns=patterns, **options))
        except LocalEntryNotFoundError:
            continue
    return None


def _explained(source: str, revision: str | None, error: Exception) -> str:
    """Explain an error of the hub and its remedy."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    local = "give a local checkpoint folder as the model's source"
    if isinstance(error, GatedRepoError):
        return (
            f"model {source!r} is gated on the hub: accept the terms on the model's page, then 'hf auth login' here or "
            f"set HF_TOKEN; or {local}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"model {source!r} has no revision {revision!r} on the hub; correct the model's revision in the study"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model {source!r}: there is no such folder here and no such model on the hub, or it is private: correct "
            f"the name, 'hf auth login' here or set HF_TOKEN; or {local}"
        )
    return (
        f"model {source!r}: there is no such folder here, and it could not be fetched from the hub "
        f"({type(error).__name__}: {error}), nor is it in the hub's cache here. Without a network, {local}"
    )
