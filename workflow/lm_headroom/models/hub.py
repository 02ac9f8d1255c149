"""Fetch a checkpoint from the hub, or find it in the hub's local cache if the hub cannot be reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from lm_headroom.errors import HeadroomError
from lm_headroom.hub_errors import advise, short, status_of
from lm_headroom.models.checkpoint_files import CONFIG

CONNECTING, ANSWERING = 5.0, 20.0
"""Seconds to wait for a connection to the hub, and for its first answer."""


def fetch(
    source: str,
    revision: str | None,
    choose_files: Callable[[Collection[str], Path], list[str]],
    check: Callable[[Collection[str], Path], object],
    commits: Sequence[str] = (),
) -> Path:
    """Return the folder of a checkpoint, named after its commit, from the hub or else from its local cache.

    Args:
        source: its name on the hub.
        revision: branch, tag or commit; None for the default branch.
        choose_files: takes the names of the checkpoint's files and the folder with configuration and index; returns the
            files to fetch, or none where there are no weights. It may refuse the checkpoint.
        check: takes the same names, and a folder that holds only the configuration, before weights are fetched; it
            may refuse the checkpoint.
        commits: earlier commits of the revision, in case the cache does not know it.

    Raises:
        HeadroomError: the hub cannot be reached, does not know the name or the revision, or does not give the files to
            this user; and they are not in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download

    commit = ""
    try:
        # A single request: the library's own listing retries for half a minute if nobody answers.
        timeout = (CONNECTING, ANSWERING, ANSWERING, ANSWERING)
        info = HfApi().model_info(source, revision=revision, timeout=timeout)
        if not info.sha:
            raise ValueError("it names no commit")
        # All that follows asks for this commit: a branch may move, or the hub fail, from one question to the next.
        commit = info.sha
        files = [file.rfilename for file in info.siblings or []]
        # Weights are many gigabytes; a model that cannot run is refused before.
        small = [CONFIG, "*_config.json", "*.index.json"]
        folder = Path(snapshot_download(source, revision=commit, allow_patterns=small))
        check(files, folder)
        folder = Path(snapshot_download(source, revision=commit, allow_patterns=choose_files(files, folder)))
        _remember(folder, revision)
        return folder
    except HeadroomError:
        raise
    # Wrong names, missing rights, no network, no space: from several libraries, with no base class in common.
    except Exception as error:
        cached = _cached(source, [revision, *commits], choose_files)
        if cached is None:
            raise HeadroomError(_explained(source, revision, _cause(error))) from error
        newer = f"commit {commit}" if commit and commit != cached.name else "it"
        print(
            f"{source}: continuing with commit {cached.name} from the local cache, since the hub did not give {newer} "
            f"({type(_cause(error)).__name__})",
            file=sys.stderr,
        )
        return cached


def _remember(folder: Path, revision: str | None) -> None:
    """Note in the hub's cache which commit a branch or tag names, once all of the commit is there."""
    from huggingface_hub.constants import DEFAULT_REVISION

    name = revision or DEFAULT_REVISION
    if name != folder.name:
        ref = folder.parents[1] / "refs" / name
        # A cache that others fill may be read-only.
        with suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(folder.name)


def _cached(
    source: str, revisions: Sequence[str | None], choose_files: Callable[[Collection[str], Path], list[str]]
) -> Path | None:
    """Return the folder of one of the revisions in the cache, if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for revision in revisions:
        try:
            options = {"revision": revision, "local_files_only": True}
            folder = Path(snapshot_download(source, allow_patterns=[CONFIG], **options))
            patterns = choose_files(_names(source, folder), folder)
            if patterns:
                # Checked again, so that an interrupted download is not taken for a checkpoint.
                return Path(snapshot_download(source, allow_patterns=patterns, **options))
        except LocalEntryNotFoundError:
            continue
    return None


def _names(source: str, folder: Path) -> list[str]:
    """Names of the files of a cached commit: those of the hub where the cache lists them, or else those that are there.

    An interrupted download of another format of weights is thus not taken for the checkpoint.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(source, revision=folder.name)]
    except CachedRepoTreeNotFoundError:
        return [path.name for path in folder.iterdir()]


def _cause(error: BaseException) -> BaseException:
    """The error behind one that only says that the cache lacks a file, too."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _explained(source: str, revision: str | None, error: BaseException) -> str:
    """Explain an error of the hub and its remedy, on one line."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    local = "give a local checkpoint folder as the model's source"
    if isinstance(error, GatedRepoError):
        if status_of(error) == 403:
            return (
                f"model {source!r} is gated on the hub, and the account of this token may not read it: accept the "
                f"terms on the model's page with that account, or give another account's token (HF_TOKEN); or {local}"
            )
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
    advice = advise(error)
    # Only of the client's own: what it reads of an answer is not there.
    if not advice and isinstance(error, KeyError | ValueError | TypeError) and status_of(error) is None:
        advice = "its address (HF_ENDPOINT, if that is set) does not answer as the hub does, as behind a proxy"
    if advice:
        return (
            f"model {source!r} could not be fetched from the hub ({short(error)}), nor is it in its cache here: "
            f"{advice}; or {local}"
        )
    return (
        f"model {source!r}: there is no such folder here, and it could not be fetched from the hub "
        f"({short(error)}), nor is it in the hub's cache here. Without a network, {local}"
    )
