"""Resolving a model to a local checkpoint, with a digest of what it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headroom.anatomy import FAMILIES, check_config
from headroom.artifacts.model_record import read_record
from headroom.artifacts.store import ArtifactError, write_json
from headroom.checkpoint_place import describe_place, place_file
from headroom.digest import code_digest
from headroom.errors import HeadroomError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHTS = ("*.safetensors", "*.bin")
ORIGIN = "headroom.json"
"""File that headroom puts beside a checkpoint it made, saying what it is."""


def resolve(name: str, source: str, revision: str | None, out: Path) -> dict[str, Any]:
    """Write ``model.json``, which says what the model is, and beside it where its checkpoint is and how large.

    A record that is there and differs in nothing but where the checkpoint was taken from is left as it is: results made
    from it stay valid.

    Args:
        name: the model's name in the study.
        source: a local folder, or a hub name such as ``facebook/opt-125m``.
        revision: branch, tag or commit on the hub; None for the default branch.
        out: where the record goes.

    Raises:
        HeadroomError: the folder is no checkpoint, its family is not supported, or the hub cannot be reached or does
            not know the name.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        path, commit = folder.resolve(), None
    elif _HUB_NAME.fullmatch(source) and not source.startswith("."):
        path = _download(name, source, revision)
        commit = path.name
    else:
        raise HeadroomError(f"model {name!r}: {source!r} is neither a folder nor a hub name such as facebook/opt-125m")
    config, sizes = check_checkpoint(path, name), _sizes(path, name)
    record = {
        "name": name,
        # Where a folder lies says nothing about what is in it.
        "source": source if commit else None,
        "revision": commit,
        "family": config["model_type"],
        "layers": sizes["layers"],
        "heads": sizes["heads"],
        "digest": digest(path),
        "origin": json.loads((path / ORIGIN).read_text(encoding="utf-8")) if (path / ORIGIN).is_file() else None,
    }
    if not _is_same(out, record):
        write_json(out, record)
    place = describe_place(out, path, source, revision, code_digest("models"))
    write_json(place_file(out), {**place, "sizes": sizes})
    return record


def _is_same(out: Path, record: dict[str, Any]) -> bool:
    """Whether the record that is there differs in nothing but where its checkpoint was taken from."""
    try:
        found = read_record(out)
    except ArtifactError:
        return False
    apart = dict.fromkeys(("source", "revision"))
    return found | apart == record | apart


def check_checkpoint(path: Path, name: str) -> dict[str, Any]:
    """The configuration of a checkpoint folder that is whole and of a supported family; reads no weights.

    Raises:
        HeadroomError: a file is missing or cut short, or the family is not supported.
    """
    config = _read_config(path, name)
    found = [p.name for p in path.iterdir()]
    weights = weight_files(found)
    if not weights:
        raise HeadroomError(f"model {name!r}: {path} holds no weights ({' or '.join(_WEIGHTS)})")
    for index in path.glob("*.index.json"):
        shards = set(_read_json(index, name).get("weight_map", {}).values())
        missing = sorted(shards - set(found))
        if missing and any(shard in weights for shard in shards):
            raise HeadroomError(
                f"model {name!r}: {path} lacks {missing[0]}, one of {len(shards)} weight files that {index.name} "
                "names; fetch the checkpoint again"
            )
    for file in weights:
        if file.endswith(".safetensors"):
            _check_safetensors(path / file, name)
    if not any(file in found for file in ("tokenizer.json", "tokenizer_config.json")):
        raise HeadroomError(f"model {name!r}: {path} holds no tokenizer (tokenizer.json or tokenizer_config.json)")
    return config


def _check_safetensors(file: Path, name: str) -> None:
    """Refuse a file whose length is not what its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            return
    except (SafetensorError, OSError) as error:
        raise HeadroomError(
            f"model {name!r}: {file} is not a whole safetensors file ({error}); it is cut short or damaged: fetch the "
            "checkpoint again"
        ) from error


def _read_config(path: Path, name: str) -> dict[str, Any]:
    """The configuration of a model that can be run here.

    Raises:
        HeadroomError: there is none, or the model is of another family or needs code of its own.
    """
    if not (path / "config.json").is_file():
        raise HeadroomError(f"model {name!r}: {path} has no config.json; expected a transformers checkpoint folder")
    config = _read_json(path / "config.json", name)
    family = config.get("model_type")
    if family not in FAMILIES and "auto_map" in config:
        raise HeadroomError(
            f"model {name!r}: its family {family!r} is code in the checkpoint itself (auto_map in config.json), which "
            f"headroom does not run; supported families: {', '.join(sorted(FAMILIES))}"
        )
    try:
        check_config(config)
    except HeadroomError as error:
        raise HeadroomError(f"model {name!r}: {error}") from None
    return config


def _sizes(path: Path, name: str) -> dict[str, int]:
    # Imported late: all else here starts without torch.
    from headroom.shapes import checkpoint_sizes

    try:
        return checkpoint_sizes(path)
    except (OSError, ValueError) as error:
        raise HeadroomError(f"model {name!r}: the configuration in {path} is of no use: {error}") from error


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HeadroomError(f"model {name!r}: {path} is no JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(content, dict):
        raise HeadroomError(f"model {name!r}: {path} holds no settings but {type(content).__name__}")
    return content


def weight_files(names: Iterable[str]) -> list[str]:
    """The weight files to use of those in a checkpoint: safetensors where there are any, else PyTorch's."""
    names = list(names)
    for pattern in _WEIGHTS:
        chosen = sorted(n for n in names if Path(n).match(pattern) and n != "training_args.bin")
        if chosen:
            return chosen
    return []


def _download(name: str, source: str, revision: str | None) -> Path:
    """Fetch a checkpoint from the hub: small files and one format of weights, if its family is supported."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(source, revision=revision)
        # Weights are many gigabytes; a family that cannot be run is found before.
        _read_config(Path(snapshot_download(source, revision=revision, allow_patterns=["config.json"])), name)
        patterns = _SMALL_FILES + weight_files(file for file in files if "/" not in file)
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except HeadroomError:
        raise
    # Wrong names, missing rights, no network, no space: from several libraries, with no base class in common.
    except Exception as error:
        raise HeadroomError(
            f"model {source!r}: there is no such folder here, and it could not be fetched from the hub "
            f"({type(error).__name__}: {error}). Without a network, give a local checkpoint folder as the model's "
            "source"
        ) from error


def digest(path: Path) -> str:
    """SHA-256 over names and contents of a checkpoint's weights, configuration and tokenizer files."""
    total = hashlib.sha256()
    weights = set(weight_files(p.name for p in path.iterdir()))
    for file in sorted(path.iterdir()):
        if file.name in weights or any(file.match(pattern) for pattern in _SMALL_FILES):
            with file.open("rb") as stream:
                total.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
