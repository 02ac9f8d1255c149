"""Resolving a model to a local checkpoint, with a digest of what it is."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from headroom.anatomy import FAMILIES, check_config
from headroom.artifacts.model_record import read_record
from headroom.artifacts.store import ArtifactError, write_json
from headroom.checkpoint_place import PICKLE, REMOTE_CODE, describe_place, is_of_another_source, place_file
from headroom.digest import code_digest
from headroom.errors import HeadroomError
from headroom.hub import fetch

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHTS = ("*.safetensors", "*.bin")
_PLAIN = {"F64", "F32", "F16", "BF16"}
"""Number formats of weights in safetensors; quantised ones are integers or of 8 bits and fewer."""
ORIGIN = "headroom.json"
"""File that headroom puts beside a checkpoint it made, saying what it is."""
_PLAIN_WEIGHTS = "gradients and projections need plain weights: take the checkpoint that it was quantised from"
_DEQUANTISE = {
    "bitsandbytes": ".dequantize() of the loaded model",
    "higgs": ".dequantize() of the loaded model",
    "fp8": "FineGrainedFP8Config(dequantize=True)",
    "mxfp4": "Mxfp4Config(dequantize=True)",
    "compressed-tensors": "CompressedTensorsConfig(dequantize=True)",
}
"""Formats that transformers can turn into plain weights, and by what."""


def resolve(name: str, source: str, revision: str | None, out: Path, allowed: Collection[str] = ()) -> dict[str, Any]:
    """Write ``model.json``, which says what the model is, and beside it where its checkpoint is and how large.

    A record that is there and differs in nothing but where the checkpoint was taken from is left as it is: results made
    from it stay valid.

    Args:
        name: the model's name in the study.
        source: a local folder, or a hub name such as ``facebook/opt-125m``.
        revision: branch, tag or commit on the hub; None for the default branch.
        out: where the record goes.
        allowed: what the checkpoint may do: ``REMOTE_CODE``, ``PICKLE``.

    Raises:
        HeadroomError: the folder is no checkpoint, its family is not supported, its weights are quantised, it would do
            what it may not, or the hub cannot be reached or does not know the name.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        path, commit = folder.resolve(), None
    elif _HUB_NAME.fullmatch(source) and not source.startswith("."):
        path = fetch(
            source,
            revision,
            lambda files: _wanted(files, source, name, allowed),
            lambda folder: _read_config(folder, name, allowed),
            _commit_before(out, source, revision),
        )
        commit = path.name
    else:
        raise HeadroomError(f"model {name!r}: {source!r} is neither a folder nor a hub name such as facebook/opt-125m")
    config = check_checkpoint(path, name, allowed)
    code = own_code(path)
    if code and REMOTE_CODE not in allowed:
        print(
            f"model {name!r}: code of its own ({code[0]}) is not run, but transformers' own for this family; "
            f"{REMOTE_CODE}: true runs it",
            file=sys.stderr,
        )
    used = _used(path, allowed)
    sizes = _sizes(path, name, REMOTE_CODE in used)
    record = {
        "name": name,
        # Where a folder lies says nothing about what is in it.
        "source": source if commit else None,
        "revision": commit,
        "family": config["model_type"],
        "layers": sizes["layers"],
        "heads": sizes["heads"],
        "digest": digest(path, REMOTE_CODE in used),
        "origin": json.loads((path / ORIGIN).read_text(encoding="utf-8")) if (path / ORIGIN).is_file() else None,
        # Only where it makes use of it: for other checkpoints nothing depends on the permission.
        **dict.fromkeys(used, True),
    }
    if not _is_same(out, record):
        write_json(out, record)
    place = describe_place(out, path, source, revision, code_digest("models"), allowed)
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


def _commit_before(out: Path, source: str, revision: str | None) -> list[str]:
    """The commit that this revision stood for when the record was made; none where it is of another source."""
    try:
        commit = read_record(out).get("revision")
    except ArtifactError:
        return []
    return [commit] if commit and not is_of_another_source(out, source, revision) else []


def _used(path: Path, allowed: Collection[str]) -> list[str]:
    """Of what a checkpoint may do, what it does."""
    uses = {REMOTE_CODE: bool(own_code(path)), PICKLE: weight_files(p.name for p in path.iterdir())[0].endswith(".bin")}
    return [permission for permission, does in uses.items() if does and permission in allowed]


def check_checkpoint(path: Path, name: str, allowed: Collection[str] = ()) -> dict[str, Any]:
    """The configuration of a checkpoint folder that is whole and of a supported family; reads no weights.

    Args:
        path: the folder.
        name: the model's name in the study.
        allowed: what the checkpoint may do: ``REMOTE_CODE``, ``PICKLE``.

    Raises:
        HeadroomError: a file is missing or cut short, the family is not supported, the weights are quantised, or it
            would do what it may not.
    """
    config = _read_config(path, name, allowed)
    found = [p.name for p in path.iterdir()]
    weights = weight_files(found)
    if not weights:
        raise HeadroomError(f"model {name!r}: {path} holds no weights ({' or '.join(_WEIGHTS)})")
    _check_pickles(weights, path, name, allowed)
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
    own = _named_code(path / "tokenizer_config.json")
    if own and "tokenizer.json" not in found and REMOTE_CODE not in allowed:
        raise HeadroomError(
            f"model {name!r}: its tokenizer is code in the checkpoint itself ({own[0]}, auto_map in "
            f"tokenizer_config.json), which is not run without {REMOTE_CODE}: true for this model"
        )
    return config


def _check_pickles(weights: list[str], where: Path | str, name: str, allowed: Collection[str]) -> None:
    """Refuse weights that are pickles, if they may not be."""
    if weights and weights[0].endswith(".bin") and PICKLE not in allowed:
        raise HeadroomError(
            f"model {name!r}: the weights in {where} are pickles ({weights[0]}), which are code; give a revision or a "
            f"copy with safetensors, or set {PICKLE}: true for this model (then torch.load reads them with "
            "weights_only)"
        )


def _check_safetensors(file: Path, name: str) -> None:
    """Refuse a file whose length is not what its header says, or whose weights are quantised."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            for key in weights.keys():  # noqa: SIM118 (no mapping)
                kind = weights.get_slice(key).get_dtype()
                # Masks and positions, which old checkpoints hold too, have other names.
                if key.endswith("weight") and kind not in _PLAIN:
                    raise HeadroomError(f"model {name!r}: {key} in {file} is quantised ({kind}); {_PLAIN_WEIGHTS}")
    except (SafetensorError, OSError) as error:
        raise HeadroomError(
            f"model {name!r}: {file} is not a whole safetensors file ({error}); it is cut short or damaged: fetch the "
            "checkpoint again"
        ) from error


def _read_config(path: Path, name: str, allowed: Collection[str] = ()) -> dict[str, Any]:
    """The configuration of a model that can be run here.

    Raises:
        HeadroomError: there is none, or the model is of another family, is quantised, or needs code that may not run.
    """
    if not (path / "config.json").is_file():
        raise HeadroomError(f"model {name!r}: {path} has no config.json; expected a transformers checkpoint folder")
    config = _read_json(path / "config.json", name)
    family = config.get("model_type")
    _check_code(path, name, family, allowed)
    try:
        check_config(config)
    except HeadroomError as error:
        raise HeadroomError(f"model {name!r}: {error}") from None
    _check_plain(config, name)
    return config


def own_code(path: Path) -> list[str]:
    """What a checkpoint names as code of its own: ``modeling.MyForCausalLM``, or ``owner/name--`` before it."""
    return [code for name in ("config.json", "tokenizer_config.json") for code in _named_code(path / name)]


def _named_code(file: Path) -> list[str]:
    """Code that a configuration names; none where there is no such file."""
    named = (_read_json(file, file.parent.name).get("auto_map") or {}) if file.is_file() else {}
    values = named.values() if isinstance(named, dict) else [named]
    return [part for value in values for part in (value if isinstance(value, list) else [value]) if part]


def _check_code(path: Path, name: str, family: str | None, allowed: Collection[str]) -> None:
    """Refuse a checkpoint that needs code of its own which it may not run, or which is not its own."""
    code = own_code(path)
    if REMOTE_CODE in allowed:
        elsewhere = next((part for part in code if "--" in part), None)
        if elsewhere:
            raise HeadroomError(
                f"model {name!r}: its code is another repository's ({elsewhere}), which no digest of the checkpoint "
                "covers; copy the code beside a local checkpoint and name it without the part before '--'"
            )
    elif family not in FAMILIES and (code := _named_code(path / "config.json")):
        raise HeadroomError(
            f"model {name!r}: its family {family!r} is code in the checkpoint itself ({code[0]}, auto_map in "
            f"config.json), which is not run without {REMOTE_CODE}: true; nor is the family among those that headroom "
            f"knows: {', '.join(sorted(FAMILIES))}"
        )


def _check_plain(config: dict[str, Any], name: str) -> None:
    """Refuse quantised weights."""
    quantised = config.get("quantization_config")
    if not quantised:
        return
    kind = str(quantised.get("quant_method", "of no known method")) if isinstance(quantised, dict) else str(quantised)
    by = _DEQUANTISE.get(kind)
    back = f", or let transformers turn it back ({by}) and save that into a folder" if by else ""
    raise HeadroomError(
        f"model {name!r}: its weights are quantised ({kind}, quantization_config in config.json); "
        f"{_PLAIN_WEIGHTS}{back}"
    )


def _sizes(path: Path, name: str, trust: bool) -> dict[str, int]:
    # Imported late: all else here starts without torch.
    from headroom.shapes import checkpoint_sizes

    try:
        return checkpoint_sizes(path, trust)
    except HeadroomError:
        raise
    # Code of a checkpoint's own raises whatever comes up.
    except Exception as error:
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


def _wanted(files: Iterable[str], source: str, name: str, allowed: Collection[str]) -> list[str]:
    """Patterns of the files of a checkpoint to fetch: small ones and one format of weights; empty without weights.

    Raises:
        HeadroomError: the weights are pickles, and may not be.
    """
    weights = weight_files(file for file in files if "/" not in file)
    _check_pickles(weights, source, name, allowed)
    code = ["*.py"] if REMOTE_CODE in allowed else []
    return [*_SMALL_FILES, *code, *weights] if weights else []


def digest(path: Path, code: bool = False) -> str:
    """SHA-256 over names and contents of a checkpoint's weights, configuration and tokenizer files.

    Args:
        path: the checkpoint folder.
        code: its own code is run, and counts too.
    """
    total = hashlib.sha256()
    weights = set(weight_files(p.name for p in path.iterdir()))
    files = [
        file for file in path.iterdir() if file.name in weights or any(file.match(pattern) for pattern in _SMALL_FILES)
    ]
    for file in sorted([*files, *(path.rglob("*.py") if code else ())]):
        with file.open("rb") as stream:
            name = file.relative_to(path).as_posix()
            total.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
