"""Upload a pruned checkpoint as a model, or a results folder as a data set, to the hub, in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lm_headroom.artifacts.catalogue import MANIFEST, TAG
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.artifacts.pruned_checkpoint import KIND, digests, export_of, read_manifest
from lm_headroom.audit.verify import CARD, verify
from lm_headroom.errors import HeadroomError, causes, first_of
from lm_headroom.hub_errors import advise, short, status_of
from lm_headroom.publishing.dataset_card import build_dataset_card


@dataclass(frozen=True)
class Upload:
    """What is uploaded.

    Attributes:
        kind: of the repository: ``model`` or ``dataset``.
        files: path in the repository to the file here, or its content.
    """

    kind: str
    files: Mapping[str, Path | bytes]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size
            for name, file in sorted(self.files.items())
        }


def collect(folder: Path, repository: str) -> Upload:
    """Choose the files of a folder that are uploaded.

    Args:
        folder: a pruned checkpoint or a results folder.
        repository: its name on the hub, ``owner/name``.

    Raises:
        HeadroomError: the folder is neither, has been changed, or holds files that are not lm-headroom's.
    """
    if not folder.is_dir():
        raise HeadroomError(f"{folder}: no such folder; expected a pruned checkpoint or a results folder")
    return _checkpoint(folder) if _is_checkpoint(folder) else _results(folder, repository)


def _is_checkpoint(folder: Path) -> bool:
    try:
        return read_object(folder / MANIFEST).get("kind") == KIND
    except (OSError, ValueError):
        return False


def _checkpoint(folder: Path) -> Upload:
    listed, there = read_manifest(folder)["files"], digests(folder)
    del there[MANIFEST]
    wrong = sorted(name for name in {*listed, *there} if listed.get(name) != there.get(name))
    if wrong:
        what = {True: "which is no part of the export", False: "which has changed since, or is gone"}
        raise HeadroomError(
            f"{folder} holds {first_of(wrong)}, {what[wrong[0] not in listed]}: move it away, or export again"
        )
    return Upload("model", {name: folder / name for name in (MANIFEST, *listed)})


def _results(folder: Path, repository: str) -> Upload:
    neither = (
        f"{folder} is neither a pruned checkpoint ('lm-headroom export-pruned' writes {MANIFEST}) nor a results folder "
        "(prompts/ and a folder per model)"
    )
    try:
        judged = verify(folder)
    except HeadroomError as error:
        raise HeadroomError(f"{neither}: {error}") from None
    if not any(file.provenance for file in judged):
        raise HeadroomError(neither)
    files = [file for file in judged if export_of(folder, file.path) is None]
    bad = next((file for file in files if file.state in ("damaged", "unrecognised")), None)
    if bad is not None:
        raise HeadroomError(f"{folder / bad.path} is {bad.state}: {bad.reasons[0]}; move it away, or make it again")
    card = build_dataset_card(repository, files).encode()
    return Upload("dataset", {**{file.path: folder / file.path for file in files}, CARD: card})


def describe(upload: Upload, repository: str) -> Iterator[str]:
    """Lines that name the repository, and the files with their sizes."""
    sizes = upload.sizes()
    what = {"model": "model", "dataset": "data set"}[upload.kind]
    yield f"{len(sizes)} files, {sum(sizes.values()):,} bytes, for the {what} {repository} on the hub:"
    yield from (f"{size:>15,} {name}" for name, size in sizes.items())


def send(upload: Upload, repository: str, private: bool) -> str:
    """Upload in one commit, so that nobody finds a part of it; return the commit's address.

    Files of an earlier upload that would be read with the new ones are deleted.

    Args:
        upload: what is uploaded.
        repository: its name on the hub, ``owner/name``.
        private: whether a new repository is private.

    Raises:
        HeadroomError: there is no token, it may not write there, the repository holds something else, or the hub
            cannot be reached.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise HeadroomError(
            f"{repository}: the hub takes files from accounts only: 'hf auth login' here, or set HF_TOKEN to a token "
            "that may write"
        )
    try:
        return _send(upload, repository, private)
    except HeadroomError:
        raise
    # As for models: from several libraries, with no base class in common.
    except Exception as error:
        raise HeadroomError(_explained(repository, error)) from error


def _send(upload: Upload, repository: str, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    try:
        info: Any = api.repo_info(repository, repo_type=upload.kind)
    except RepositoryNotFoundError:
        api.create_repo(repository, repo_type=upload.kind, private=private, exist_ok=True)
        info = api.repo_info(repository, repo_type=upload.kind)
    names = [file.rfilename for file in info.siblings or []]
    if {*names} - {".gitattributes", CARD} and TAG not in ((info.card_data or {}).get("tags") or []):
        raise HeadroomError(
            f"{repository} on the hub holds {first_of({*names} - {'.gitattributes', CARD})}, which lm-headroom did not "
            "upload; name a new repository"
        )
    suffixes = {PurePosixPath(name).suffix for name in upload.files}
    old = [name for name in names if name not in upload.files and PurePosixPath(name).suffix in suffixes]
    for name in old:
        print(f"{'deleted':>15} {name}")
    added = [
        CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in upload.files.items()
    ]
    operations = [*added, *(CommitOperationDelete(name) for name in old)]
    message = f"Upload {upload.kind} with lm-headroom"
    # Whoever else commits meanwhile is not overwritten.
    done = api.create_commit(
        repository, operations, commit_message=message, repo_type=upload.kind, parent_commit=info.sha
    )
    return done.commit_url


def _explained(repository: str, error: Exception) -> str:
    """Explain an error of the hub and its remedy."""
    errors = list(causes(error))
    advice = next(filter(None, map(advise, errors)), "")
    if any(status_of(each) == 403 for each in errors):
        advice = "this token may not write there: give one that may (HF_TOKEN), or another owner"
    elif any(status_of(each) == 412 for each in errors):
        advice = "somebody else committed meanwhile: look at the repository, then push again"
    # The answer to the commit may be lost, too.
    return f"{repository}: the upload failed ({short(error)}); all of it is on the hub, or nothing" + (
        f": {advice}" if advice else "; without a network, push from a machine that has one"
    )
