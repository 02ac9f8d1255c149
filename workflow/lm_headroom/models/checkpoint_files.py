"""Find the files that determine what a checkpoint computes: those that transformers reads when it loads the folder.

Weights are looked up by name in transformers' order. All small files (configuration and tokenizer) count, since the
tokenizer's class determines which of them it reads. Checkpoints that would make transformers read other files are
refused. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.errors import HeadroomError

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
ORIGIN = "lm_headroom.json"
"""File that lm-headroom writes beside a checkpoint it made, with its origin."""
EXPLICIT = "transformers_weights"
"""Configuration key that names the weights."""
SAFETENSORS, BIN, INDEX = ".safetensors", ".bin", ".index.json"
DEFAULTS = (f"model{SAFETENSORS}", f"model{SAFETENSORS}{INDEX}", f"pytorch_model{BIN}", f"pytorch_model{BIN}{INDEX}")
"""Where transformers looks for weights, in this order."""
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.codes", "*.spm", "*.tiktoken", "*.tokenizer")
TEMPLATES = "additional_chat_templates"
_ADAPTER = "adapter_config.json"
# Weights of torch's distributed checkpointing, which transformers prefers to all others.
_DISTRIBUTED = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors.*", re.DOTALL)


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Attributes:
        main: the file that transformers looks for: the weights, or their index.
        files: the files that hold weights, in order.
    """

    main: str
    files: tuple[str, ...]

    @property
    def pickles(self) -> bool:
        """Whether the weights are pickles, which can execute code."""
        return not all(file.endswith(SAFETENSORS) for file in self.files)


def find_weights(names: Collection[str], config: Mapping[str, Any], folder: Path) -> Weights | None:
    """Find the weights that transformers loads from a checkpoint; None if there are none.

    Args:
        names: names of the files at the top of the checkpoint.
        config: its configuration.
        folder: the folder of its index, if any; the weights need not be there.

    Raises:
        HeadroomError: transformers would load an adapter, a distributed checkpoint, or files of another folder or
            format; or the index is invalid.
    """
    _check_alternatives(names)
    main = _main_file(names, config)
    if main is None:
        return None
    return Weights(main, _shards(folder / main) if main.endswith(INDEX) else (main,))


def _main_file(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    _check_nested(config)
    named = config.get(EXPLICIT)
    if named is None:
        return next((name for name in DEFAULTS if name in names), None)
    if not _is_plain_name(named) or not named.endswith((SAFETENSORS, SAFETENSORS + INDEX)):
        raise HeadroomError(
            f"{EXPLICIT} in {CONFIG} is {_short(named)}; expected the name of a file in the same folder that ends with "
            f"{SAFETENSORS} or {SAFETENSORS}{INDEX}. Put the weights there, or remove the key"
        )
    if named not in names:
        raise HeadroomError(f"the checkpoint lacks {named}, which {EXPLICIT} in {CONFIG} names; fetch it again")
    return str(named)


def _check_nested(config: Mapping[str, Any]) -> None:
    """Refuse keys that name weights, or redirect transformers, in places that only transformers reads."""
    # Only these two keys make transformers read another file or key than the named one.
    for key in ("configuration_files", "attribute_map"):
        if config.get(key):
            raise HeadroomError(
                f"{CONFIG} has {key}, so that transformers would read another configuration than this file; write the "
                f"one that counts into {CONFIG} and remove the key"
            )
    for key, inner in config.items():
        if isinstance(inner, Mapping) and EXPLICIT in inner:
            raise HeadroomError(f"{EXPLICIT} stands in {key} of {CONFIG}; it may stand at the top alone")


def _check_alternatives(names: Collection[str]) -> None:
    """Refuse files that transformers loads instead of the weights or on top of them."""
    if _ADAPTER in names:
        raise HeadroomError(
            f"it has {_ADAPTER}: an adapter, which transformers adds to the model where the package peft is installed "
            "and leaves out where it is not; merge it (merge_and_unload of peft) and save the whole model, or remove "
            "that file to measure the model without it"
        )
    distributed = next((name for name in sorted(names) if _DISTRIBUTED.match(name)), None)
    if distributed:
        raise HeadroomError(
            f"it has {distributed}, of a distributed checkpoint, which transformers takes before all other weights; "
            f"load it and save it as plain weights ({DEFAULTS[0]})"
        )


def _shards(index: Path) -> tuple[str, ...]:
    """List the files that an index names, which must be in its folder and of its format.

    Raises:
        HeadroomError: it is not an index, or names other files.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise HeadroomError(f"{index} has no weight_map of parameters to files; fetch the checkpoint again")
    suffix = SAFETENSORS if index.name.endswith(SAFETENSORS + INDEX) else BIN
    for parameter, file in places.items():
        if not _is_plain_name(file) or not file.endswith(suffix):
            raise HeadroomError(
                f"{index} says that {_short(parameter)} is in {_short(file)}; expected the name of a *{suffix} file in "
                "the same folder. Put the weights there and correct the index"
            )
    return tuple(sorted(set(places.values())))


def check_index(index: Path) -> None:
    """Refuse an index that transformers cannot read, though it names its files.

    Raises:
        HeadroomError: it has no metadata.
    """
    if not isinstance(read_json(index).get("metadata"), dict):
        raise HeadroomError(f'{index} has no "metadata", which transformers needs; add "metadata": {{}}')


def _is_plain_name(name: Any) -> bool:
    """Whether ``name`` is a file of the folder itself; a backslash separates paths on other systems."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0\n")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        HeadroomError: the file is not one; names it.
    """
    try:
        return read_object(path)
    except ValueError as error:
        raise HeadroomError(f"{path} is not a JSON object of settings ({error}); fetch the checkpoint again") from error
    except OSError as error:
        raise HeadroomError(f"{path} cannot be read ({error.strerror or error})") from error


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer whose configuration names files of another folder.

    Raises:
        HeadroomError: it does, or the configuration is invalid.
    """
    path = folder / TOKENIZER_CONFIG
    versions = read_json(path).get("fast_tokenizer_files", []) if path.is_file() else []
    for name in versions if isinstance(versions, list) else [versions]:
        if not _is_plain_name(name):
            raise HeadroomError(
                f"{path} has {_short(name)} among its fast_tokenizer_files; expected names of files in the same folder"
            )


def names_in(folder: Path) -> list[str]:
    """List the names of regular files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def code_files(folder: Path) -> list[Path]:
    """List Python files at any depth, also behind links; transformers imports helpers from sub-folders."""
    paths, visited = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folder_stat = os.stat(place)
        if (folder_stat.st_dev, folder_stat.st_ino) in visited:
            folders.clear()
            continue
        visited.add((folder_stat.st_dev, folder_stat.st_ino))
        paths += [Path(place, name) for name in files if name.endswith(".py")]
    return sorted(path for path in paths if path.is_file())


def small_files(folder: Path) -> list[Path]:
    """List the files of configuration, tokenizer and templates."""
    paths = [folder / name for name in names_in(folder)]
    templates = (folder / TEMPLATES).glob("*.jinja")
    small = (path for path in paths if any(path.match(pattern) for pattern in SMALL_FILES))
    return sorted([*small, *(path for path in templates if path.is_file())])


def deciding_files(folder: Path, code: bool = False) -> list[Path]:
    """List the files that determine what a checkpoint computes, in order.

    Args:
        folder: the checkpoint.
        code: whether its own code runs and therefore counts.

    Raises:
        HeadroomError: see :func:`find_weights`.
    """
    weights = find_weights(names_in(folder), read_json(folder / CONFIG), folder)
    large = [folder / name for name in weights.files] if weights else []
    return sorted({*large, *small_files(folder), *(code_files(folder) if code else ())})


def digest(folder: Path, code: bool = False, digests: Digests | None = None) -> str:
    """Compute the SHA-256 of names and contents of the files that determine what a checkpoint computes.

    Args:
        folder: the checkpoint.
        code: whether its own code runs and therefore counts.
        digests: known digests of files; None reads all files.

    Raises:
        HeadroomError: a file cannot be read; or see :func:`find_weights`.
    """
    digests = digests or Digests()
    total = hashlib.sha256()
    for path in deciding_files(folder, code):
        total.update(
            f"{path.relative_to(folder).as_posix()} {digests.digest_file(path)}\n".encode(errors="surrogateescape")
        )
    return total.hexdigest()


def file_states(folder: Path, code: bool = False) -> Iterator[list[Any]]:
    """Yield name, size, times (of modification and change) and inode of each file that may count, as lists for JSON.

    These are more files than :func:`deciding_files`, and none is opened: a new weight file may be the one that counts.
    """
    paths = [*(folder / name for name in names_in(folder)), *(folder / TEMPLATES).glob("*.jinja")]
    for path in sorted({*paths, *(code_files(folder) if code else ())}):
        stat = path.stat()
        yield [
            path.relative_to(folder).as_posix(),
            *(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino),
        ]
