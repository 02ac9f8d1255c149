"""GGUF files as checkpoints: found here or on the hub, checked, and read as plain weights."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lm_headroom.errors import HeadroomError
from lm_headroom.models.checkpoint_files import BIN, SAFETENSORS
from lm_headroom.models.hub import fetch
from lm_headroom.models.sizes import NEUTRAL
from lm_headroom.models.unpacking import as_plain, write_out

GGUF = ".gguf"
_PART = re.compile(r"-[0-9]{5}-of-([0-9]{5})\.gguf$")
_OTHERS = "take another of the model's GGUF files, or the checkpoint that it was made from"


def refuse_unnamed(names: Collection[str], where: Path | str, name: str) -> None:
    """Refuse a checkpoint without weights that transformers loads by name, if it has GGUF files.

    Args:
        names: names of its files.
        where: the folder, or its name on the hub.
        name: the model's name in the study.

    Raises:
        HeadroomError: it has GGUF files; names them.
    """
    files = sorted(file for file in names if file.endswith(GGUF))
    if files and not any(file.endswith((SAFETENSORS, BIN)) for file in names):
        raise HeadroomError(
            f"model {name!r}: {where} holds no weights that transformers loads without a name, but GGUF files "
            f"({_listed(files)}); name one of them, as in 'gguf_file: {files[0]}'"
        )


def find(source: str, revision: str | None, name: str, commits: Sequence[str] = ()) -> tuple[Path, dict[str, str]]:
    """Find a GGUF file here, or fetch it from the hub.

    Args:
        source: its path, or the name of a repository on the hub and below it the file's: ``org/repo/name.gguf``.
        revision: branch, tag or commit on the hub; None for the default branch.
        name: the model's name in the study.
        commits: earlier commits of the revision, in case the hub's cache does not know it.

    Returns:
        The file and, of one from the hub, source, revision (the commit) and gguf_file for the model's record.

    Raises:
        HeadroomError: there is no such file, it is a part of one, or the hub does not give it.
    """
    part = _PART.search(source)
    _refuse_part(source, int(part[1]) if part else 1, name)
    try:
        path = Path(source).expanduser()
        if path.is_file():
            return path.absolute(), {}
        folder = path.parent if path.parent.is_dir() else None
    # There is no such home folder, the name is too long, or a parent folder cannot be entered.
    except (RuntimeError, OSError):
        folder = None
    repository, file = _split(source)
    if folder or not repository:
        there = sorted(path.name for path in folder.glob(f"*{GGUF}")) if folder else []
        raise HeadroomError(
            f"model {name!r}: there is no file {source!r}"
            + (f"; its folder has {_listed(there)}" if there else "")
            + "; correct the path, or name a repository on the hub as the source and the file in it as gguf_file"
        )
    listed: list[str] = []

    def choose(files: Collection[str], _: Path) -> list[str]:
        listed[:] = files
        return [file] if file in listed else []

    snapshot = fetch(repository, revision, choose, lambda *_: None, commits)
    if not (snapshot / file).is_file():
        others = sorted(other for other in listed if other.endswith(GGUF))
        raise HeadroomError(
            f"model {name!r}: {repository!r} has no file {file!r} at commit {snapshot.name}; it has "
            f"{_listed(others) or 'no GGUF file'}: correct gguf_file"
        )
    return snapshot / file, {"source": repository, "revision": snapshot.name, "gguf_file": file}


def _refuse_part(file: Path | str, parts: int, name: str) -> None:
    """Refuse a file that is one of several parts."""
    if parts > 1:
        raise HeadroomError(
            f"model {name!r}: {str(file)!r} is one of {parts} parts of a GGUF file, which transformers reads only "
            "whole; merge them ('llama-gguf-split --merge FIRST_PART WHOLE.gguf' of llama.cpp) and name the whole file"
        )


def _split(source: str) -> tuple[str, str]:
    """Split ``org/repo/name.gguf`` into the repository and the file; two empty texts if no repository can be that."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    parts = source.split("/")
    repository = "/".join(parts[:2])
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return "", ""
    return (repository, "/".join(parts[2:])) if len(parts) > 2 else ("", "")


def unpack(file: Path, name: str, digest: str, folder: Path) -> None:
    """Write a GGUF file as a checkpoint of plain weights in float32, with its tokenizer.

    Args:
        file: the GGUF file.
        name: the model's name in the study.
        digest: SHA-256 of the file, for the checkpoint's origin.
        folder: where the checkpoint goes; what is there is replaced.

    Raises:
        HeadroomError: the file is damaged or a part of another, transformers cannot read its types of numbers, its
            architecture or its tokenizer, or the folder cannot be written.
    """
    reader = _read_header(file, name)

    def read() -> tuple[Any, Callable[[Path], object]]:
        model, tokenizer = read_plain(file)
        left_out = _left_out([tensor.name for tensor in reader.tensors], reader, model)
        if left_out:
            print(
                f"model {name!r}: transformers' reader leaves out {_listed(left_out)} of {file}; the results are those "
                "of the model without",
                file=sys.stderr,
            )
        return model, tokenizer.save_pretrained

    origin = {"note": "dequantised to float32 from a GGUF file", "sha256": digest}
    licence = reader.get_field("general.license")
    if licence:
        origin["licence"] = str(licence.contents())
    types = ", ".join(sorted({tensor.tensor_type.name for tensor in reader.tensors}))
    write_out(file, types, read, origin, folder, name, _OTHERS)


def read_plain(file: Path) -> tuple[Any, Any]:
    """Read a GGUF file's model, in float32, and tokenizer, which can be saved.

    Raises:
        HeadroomError: a weight of the model is not in the file.
        Exception: whatever transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _alone(file) as where:
        read, info = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    return as_plain(read, info["missing_keys"], file, _OTHERS), tokenizer


def read_shape(file: Path) -> tuple[Any, Any]:
    """Read a GGUF file's configuration and tokenizer, without its weights.

    Raises:
        Exception: whatever transformers raises.
    """
    from transformers import AutoConfig, AutoTokenizer

    with _alone(file) as where:
        return AutoConfig.from_pretrained(**where, **NEUTRAL), AutoTokenizer.from_pretrained(**where)


@contextmanager
def _alone(file: Path) -> Iterator[dict[str, str]]:
    """Give transformers a file in a folder of its own, as options: nothing that lies beside the file is read.

    Within, its header is read once, and the names of its tensors are looked up once. transformers does so for model,
    configuration and tokenizer, and for each module, which took longer than reading the weights.
    """
    import gguf

    once: dict[str, Any] = {name: cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    with tempfile.TemporaryDirectory() as folder, patch.multiple(gguf, **once):
        (Path(folder) / f"model{GGUF}").symlink_to(file.resolve())
        yield {"pretrained_model_name_or_path": folder, "gguf_file": f"model{GGUF}"}


def _read_header(file: Path, name: str) -> Any:
    """Read what a file says of its tensors, as gguf's GGUFReader; refuse what transformers cannot read."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGUFReader, dequantize

    try:
        reader = GGUFReader(file)
    # The reader raises arbitrary errors.
    except Exception as error:
        raise HeadroomError(
            f"model {name!r}: {file} cannot be read as GGUF ({type(error).__name__}: {error}): it is cut short or "
            "damaged, or newer than the installed package gguf; fetch it again, or another of the model's files"
        ) from error
    parts = reader.get_field("split.count")
    _refuse_part(file, int(parts.contents()) if parts else 1, name)
    for tensor in reader.tensors:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[tensor.tensor_type][1]), np.uint8), tensor.tensor_type)
        except NotImplementedError:
            raise HeadroomError(
                f"model {name!r}: {tensor.name} in {file} is quantised as {tensor.tensor_type.name}, which "
                f"transformers cannot turn into plain numbers; {_OTHERS}"
            ) from None
    return reader


def _left_out(names: Sequence[str], reader: Any, model: Any) -> list[str]:
    """List the tensors that transformers' reader does not put into the model, such as factors of rotary positions."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    family = reader.get_field("general.architecture").contents()
    processor = TENSOR_PROCESSORS.get(family, TensorProcessor)(config=model.config.to_dict())
    mapped = get_gguf_hf_weights_map(model, processor)
    # Stacked experts are parameters, without a suffix of their own.
    return [name for name in names if name not in mapped and name.removesuffix(".weight") not in mapped]


def _listed(files: Sequence[str]) -> str:
    return ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
