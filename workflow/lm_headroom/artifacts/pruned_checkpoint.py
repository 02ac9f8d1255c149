"""A pruned checkpoint: a folder of transformers' files, and the manifest that says what made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.catalogue import MANIFEST, PRUNED
from lm_headroom.artifacts.entries import entries
from lm_headroom.artifacts.json_object import read_bytes
from lm_headroom.artifacts.seal import KEY as SEAL
from lm_headroom.artifacts.seal import is_unchanged
from lm_headroom.artifacts.store import ArtifactError, UnrecognisedError, file_digest, parse_provenance, place_of
from lm_headroom.errors import HeadroomError

KIND = "pruned_checkpoint"
MODEL_TYPE = "lm_headroom_pruned"
"""Model type of one that is no plain checkpoint. Without lm-headroom transformers does not know and refuses it."""


def export_of(results: Path, name: str) -> Path | None:
    """The pruned checkpoint that a file of a results folder, by its path below that, is part of; None for others."""
    place = "/".join(name.split("/")[: PRUNED.count("/") + 1])
    return results / place if place != name and place_of(results / place, PRUNED) == place else None


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder and the folders in it, by its path below; hidden files are Snakemake's.

    Raises:
        ArtifactError: something there cannot be read as a file; names it.
    """
    known = {}
    for entry in sorted(entries(folder), key=lambda entry: entry.path):
        if entry.problem:
            raise ArtifactError(f"{folder / entry.path}: {entry.problem}; move it away")
        known[entry.path] = file_digest(folder / entry.path)
    return known


def read_manifest(folder: Path) -> dict[str, Any]:
    """What made a pruned checkpoint.

    Raises:
        ArtifactError: the folder holds none, or it has been changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: no {MANIFEST} there; expected a folder that 'lm-headroom export-pruned' made")
    try:
        manifest = parse_provenance(path, read_bytes(path))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})") from error
    if not is_unchanged(manifest):
        raise ArtifactError(f"{path}: it has changed since it was written; delete the folder and export again")
    if manifest.get("kind") != KIND or not isinstance(manifest.get("files"), dict):
        raise UnrecognisedError(f"{path}: not of a pruned checkpoint")
    return {key: value for key, value in manifest.items() if key != SEAL}


def read_file_provenance(path: Path, folder: Path) -> dict[str, Any]:
    """What made a file of a pruned checkpoint, with the file's own place.

    Args:
        path: the file.
        folder: the checkpoint.

    Raises:
        ArtifactError: the checkpoint's manifest is missing, does not know the file, or knows it with other content.
    """
    manifest, name = read_manifest(folder), path.relative_to(folder).as_posix()
    if name != MANIFEST:
        known = manifest["files"].get(name)
        if known is None:
            raise UnrecognisedError(f"{path}: {MANIFEST} of this checkpoint does not list this file")
        if known != file_digest(path):
            raise ArtifactError(f"{path}: it has changed since it was written; delete the folder and export again")
    place = manifest.get("place")
    return {**manifest, "place": f"{place}/{name}" if place else None}


def check_target(out: Path) -> None:
    """Refuse a folder with files that an export may not replace.

    Raises:
        HeadroomError: it is no older export, or holds more than that.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        known = {MANIFEST, *read_manifest(out)["files"]}
    except ArtifactError:
        raise HeadroomError(
            f"{out} is not empty, and no export of lm-headroom's that could be replaced; name a new folder"
        ) from None
    others = sorted(entry.path for entry in entries(out) if entry.path not in known)
    if others:
        raise HeadroomError(
            f"{out} holds {others[0]}, which is no part of the export there; move it away, or name a new folder"
        )
