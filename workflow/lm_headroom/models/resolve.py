"""Resolve a model to a local checkpoint and record a digest of its content."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.model_record import TAKEN_FROM, read_record, write_record
from lm_headroom.artifacts.provenance import versions
from lm_headroom.artifacts.pruned_checkpoint import KIND
from lm_headroom.artifacts.seal import is_unchanged, sealed
from lm_headroom.artifacts.store import WITHOUT_HEADS, ArtifactError, write_json
from lm_headroom.artifacts.turns import USER
from lm_headroom.errors import HeadroomError
from lm_headroom.models import gguf_files, quantised
from lm_headroom.models.architecture import PROBE_TOKENS
from lm_headroom.models.architectures import check_config, is_known
from lm_headroom.models.chat import KEY as CHAT
from lm_headroom.models.chat import Chat, ChatSettings
from lm_headroom.models.checkpoint_files import (
    CONFIG,
    DEFAULTS,
    ORIGIN,
    SAFETENSORS,
    SMALL_FILES,
    TOKENIZER_CONFIG,
    Weights,
    check_index,
    check_tokenizer,
    digest,
    find_weights,
    names_in,
    read_json,
)
from lm_headroom.models.gguf_files import GGUF, refuse_unnamed
from lm_headroom.models.hub import fetch
from lm_headroom.models.location import (
    PACKED,
    PERMISSIONS,
    PICKLE,
    REMOTE_CODE,
    build_location,
    checkpoint_folder,
    describe_packed,
    digest_packed,
    digests_of,
    has_other_source,
    is_written_out,
    location_file,
    other_packed,
    read_location,
    written_out,
)
from lm_headroom.models.sequences import check_window

_TOKENIZERS = {"tokenizer.json", TOKENIZER_CONFIG}
_VOCABULARY = {"vocab.json", "merges.txt"}
_MEASURING = ("torch", "transformers")
"""Packages that the sizes of a checkpoint follow from, beside its files and the code here."""


def resolve(
    name: str,
    source: str,
    revision: str | None,
    out: Path,
    allowed: Collection[str] = (),
    sequences: int = 0,
    bos: bool = True,
    chat: ChatSettings | None = None,
) -> dict[str, Any]:
    """Write ``model.json``, which describes the model, and beside it the location and sizes of its checkpoint.

    An existing record that differs only in the source of the checkpoint is not changed: its results stay valid.

    Args:
        name: the model's name in the study.
        source: a local folder, a hub name such as ``facebook/opt-125m``, or a GGUF file as
            :func:`lm_headroom.models.gguf_files.find` takes it.
        revision: branch, tag or commit on the hub; None for the default branch.
        out: the file of the record.
        allowed: the checkpoint's permissions: ``REMOTE_CODE``, ``PICKLE``.
        sequences: number of induction sequences of the study, which must fit the context window; 0 for none.
        bos: whether a start token precedes them.
        chat: how its chat template is applied; None leaves prompts as they are.

    Raises:
        HeadroomError: the folder is not a checkpoint, its architecture is not supported, its weights are quantised in a
            way that is not served, its context window is too short, its tokenizer has no chat template to apply, it
            lacks a permission, or the hub cannot be reached or does not know the name.
    """
    digests = digests_of(out)
    path, taken_from = _locate(name, source, revision, out, allowed)
    path, packed = _unpack(path, name, source, out, allowed, digests)
    config = check_checkpoint(path, name, allowed)
    _warn_of_own_code(path, name, allowed)
    sizes = _sizes(path, name, REMOTE_CODE in _used_permissions(path, config, allowed))
    # Before the weights are read for their digest.
    if sizes["max_positions"] < PROBE_TOKENS:
        raise HeadroomError(
            f"model {name!r}: its context window holds {sizes['max_positions']} tokens, but each model is checked "
            f"on {PROBE_TOKENS} before it is measured; take a model with a longer context window"
        )
    check_window(name, sizes["max_positions"], sequences, bos)
    record = _build_record(path, name, config, sizes, allowed, digests)
    # Only for the hub: the path of a folder does not identify its content.
    record |= taken_from
    if chat:
        _check_chat(path, name, REMOTE_CODE in allowed, chat)
        record[CHAT] = chat.record()
    if not _is_same(out, record):
        write_record(out, record)
    place = build_location(out, path, source, revision, code_digest("models.resolve"), allowed, record.get(CHAT))
    place |= {**packed, "sizes": sizes, "content": record["digest"], "packages": versions(_MEASURING)}
    write_json(location_file(out), sealed(place))
    digests.keep()
    return record


def _locate(
    name: str, source: str, revision: str | None, out: Path, allowed: Collection[str]
) -> tuple[Path, dict[str, str]]:
    """Find or fetch the checkpoint of a source: its folder or GGUF file, and where on the hub it was taken from."""
    folder = _as_folder(source)
    if folder:
        return folder.resolve(), {}
    commits = _commit_before(out, source, revision)
    if source.endswith(GGUF):
        return gguf_files.find(source, revision, name, commits)
    _check_hub_name(source, name)
    path = fetch(
        source,
        revision,
        lambda files, folder: _fetch_patterns(files, folder, source, name, allowed),
        lambda files, folder: _read_config(folder, name, allowed, files),
        commits,
    )
    return path, {"source": source, "revision": path.name}


def _unpack(
    packed: Path, name: str, source: str, out: Path, allowed: Collection[str], digests: Digests
) -> tuple[Path, dict[str, dict[str, str]]]:
    """Write out the plain weights of a GGUF file or a quantised checkpoint, unless they lie beside the record.

    Returns:
        The checkpoint of plain weights and, for the location, what it was written out from; empty if it was not.
    """
    quantisation = None if packed.is_file() else quantised.quantisation_of(_read_config(packed, name, allowed), name)
    if quantisation:
        check_checkpoint(packed, name, allowed, may_be_packed=True)
    elif not packed.is_file():
        return packed, {}
    content = digest_packed(packed, digests)
    if not is_written_out(out, content, code_digest("models.resolve"), versions(_MEASURING)):
        if quantisation:
            quantised.unpack(packed, quantisation, name, content, written_out(out))
        else:
            gguf_files.unpack(packed, name, content, written_out(out))
    return written_out(out), {PACKED: describe_packed(out, packed, source, content)}


def _build_record(
    path: Path,
    name: str,
    config: dict[str, Any],
    sizes: dict[str, Any],
    allowed: Collection[str],
    digests: Digests,
) -> dict[str, Any]:
    """Build the record of a checkpoint in a folder."""
    used = _used_permissions(path, config, allowed)
    return {
        "name": name,
        "source": None,
        "revision": None,
        "family": config["model_type"],
        "layers": sizes["layers"],
        "heads": sizes["heads"],
        "key_value_heads": sizes["key_value_heads"],
        **{key: sizes[key] for key in (WITHOUT_HEADS,) if key in sizes},
        "digest": digest(path, REMOTE_CODE in used, digests),
        "origin": _read_origin(path, name),
        # Only permissions that the checkpoint uses: nothing depends on the others.
        **dict.fromkeys(used, True),
    }


def check_record(out: Path, record: dict[str, Any], path: Path) -> None:
    """Refuse a record that does not match the content of the checkpoint; reads only files that changed.

    Args:
        out: the record's file.
        record: its content.
        path: the checkpoint.

    Raises:
        HeadroomError: they differ; names the difference.
    """
    digests = digests_of(out)
    content = digest(path, bool(record.get(REMOTE_CODE)), digests)
    check_agrees(out, record, path, {"digest": content, "family": read_json(path / CONFIG).get("model_type")})
    digests.keep()


def check_agrees(out: Path, record: dict[str, Any], path: Path, checkpoint: dict[str, Any]) -> None:
    """Refuse a record that contradicts values of the checkpoint.

    Raises:
        HeadroomError: they differ; names the difference.
    """
    for key, value in checkpoint.items():
        if record.get(key, value) != value:
            raise HeadroomError(
                f"{out}: {key} is {record[key]}, but the checkpoint in {path} has {value}: one of them was changed "
                "after the model was resolved. Run the workflow again: it resolves the model anew, and then makes what "
                "depends on it"
            )


def changes_since(out: Path) -> str | None:
    """Describe how a record differs from the checkpoint on this machine, in one sentence; None if they agree.

    Reads the content of files that changed since the model was resolved, and writes nothing. Imports torch only where
    files, code or packages are others than then. Also returns None if the checkpoint is not on this machine.

    Args:
        out: the record's file.

    Raises:
        ArtifactError: the file is not a record.
    """
    record, place = read_record(out), read_location(out)
    try:
        path = checkpoint_folder(out)
    except HeadroomError:
        return None
    try:
        allowed = [permission for permission in PERMISSIONS if record.get(permission)]
        if _is_as_resolved(record, place, path, digests_of(out)):
            config, sizes = read_json(path / CONFIG), place["sizes"]
        else:
            config = check_checkpoint(path, record["name"], allowed)
            sizes = _sizes(path, record["name"], REMOTE_CODE in allowed)
        rebuilt = _build_record(path, record["name"], config, sizes, allowed, digests_of(out))
        packed = other_packed(out, digests_of(out))
    except HeadroomError as error:
        return str(error)
    if packed:
        return f"the weights beside it were written out from other content than {packed} has now"
    comparable = {key: value for key, value in rebuilt.items() if key not in TAKEN_FROM}
    wrong = next((key for key, value in comparable.items() if record.get(key) != value), None)
    if wrong:
        return f"{wrong} is {record.get(wrong)}, but the checkpoint in {path} has {comparable[wrong]}"
    return None if place.get("sizes", sizes) == sizes else f"the sizes beside it are not those of {path}"


def _is_as_resolved(record: dict[str, Any], place: dict[str, Any], path: Path, digests: Digests) -> bool:
    """Whether this code, with the packages that are installed, checked and measured a checkpoint of this content."""
    by_this_code = place.get("code") == code_digest("models.resolve") and place.get("packages") == versions(_MEASURING)
    return (
        by_this_code
        and is_unchanged(place)
        and place.get("content") == record["digest"] == digest(path, bool(record.get(REMOTE_CODE)), digests)
    )


def _as_folder(source: str) -> Path | None:
    """Return the folder that a source names; None if it names none."""
    try:
        folder = Path(source).expanduser()
        return folder if source and folder.is_dir() else None
    # There is no such home folder, the name is too long, or a parent folder cannot be entered.
    except (RuntimeError, OSError):
        return None


def _check_hub_name(source: str, name: str) -> None:
    """Refuse a source that is not a valid name on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise HeadroomError(
            f"model {name!r}: {source!r} is neither a folder nor a hub name such as facebook/opt-125m ({reason})"
        ) from None


@contextmanager
def _naming_model(name: str, path: Path | str) -> Iterator[None]:
    """Add the model's name to errors about a checkpoint's files."""
    try:
        yield
    except HeadroomError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise HeadroomError(f"model {name!r}: {message}") from error


def _read_origin(path: Path, name: str) -> dict[str, Any] | None:
    """Read the origin of a checkpoint that lm-headroom made; None for others."""
    file = path / ORIGIN
    if not file.is_file():
        return None
    with _naming_model(name, path):
        origin = read_json(file)
    if origin.get("kind") == KIND:
        # An export that transformers loads: the manifest says more, and its digest is part of the checkpoint's.
        return {"kind": KIND, "pruned_from": str((origin.get("model") or {}).get("digest"))}
    wrong = next((key for key, value in origin.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise HeadroomError(
            f"model {name!r}: {file}: {wrong!r} is {type(origin[wrong]).__name__}, expected text; the file says where "
            "a checkpoint came from: mend or remove it"
        )
    return origin


def _is_same(out: Path, record: dict[str, Any]) -> bool:
    """Whether the existing record differs at most in the source of its checkpoint."""
    try:
        existing = read_record(out)
    except ArtifactError:
        return False
    apart = dict.fromkeys(TAKEN_FROM)
    return existing | apart == record | apart


def _commit_before(out: Path, source: str, revision: str | None) -> list[str]:
    """The commit of this revision when the record was made; empty if the record has another source."""
    try:
        commit = read_record(out).get("revision")
    except ArtifactError:
        return []
    return [commit] if commit and not has_other_source(out, source, revision) else []


def _used_permissions(path: Path, config: dict[str, Any], allowed: Collection[str]) -> list[str]:
    """List the permissions that a checkpoint has and uses."""
    weights = find_weights(names_in(path), config, path)
    uses = {REMOTE_CODE: bool(own_code(path)), PICKLE: weights is not None and weights.pickles}
    return [permission for permission, does in uses.items() if does and permission in allowed]


def check_checkpoint(
    path: Path, name: str, allowed: Collection[str] = (), may_be_packed: bool = False
) -> dict[str, Any]:
    """Check that a checkpoint folder is complete and supported, without reading weights; return its configuration.

    Args:
        path: the folder.
        name: the model's name in the study.
        allowed: the checkpoint's permissions: ``REMOTE_CODE``, ``PICKLE``.
        may_be_packed: whether its weights may be quantised in a way that is served.

    Raises:
        HeadroomError: a file is missing or cut short, the architecture is not supported, the weights are quantised, or
            the checkpoint lacks a permission.
    """
    config = _read_config(path, name, allowed)
    quantisation = quantised.quantisation_of(config, name)
    if quantisation and not may_be_packed:
        raise HeadroomError(
            f"model {name!r}: the weights in {path} are quantised ({quantisation.kinds}), and not those that were "
            "unpacked when the model was resolved: run the workflow again"
        )
    formats = quantisation.number_formats if quantisation else quantised.PLAIN
    names = names_in(path)
    with _naming_model(name, path):
        weights = find_weights(names, config, path)
        check_tokenizer(path)
    if not weights:
        refuse_unnamed(names, path, name)
        raise HeadroomError(
            f"model {name!r}: {path} holds no weights that transformers loads ({' or '.join(DEFAULTS)})"
        )
    _check_pickles(weights, path, name, allowed)
    missing = [file for file in weights.files if file not in names]
    if missing:
        raise HeadroomError(
            f"model {name!r}: {path} lacks {missing[0]}, one of {len(weights.files)} weight files that {weights.main} "
            "names; fetch the checkpoint again"
        )
    if weights.main not in weights.files:
        with _naming_model(name, path):
            check_index(path / weights.main)
    for file in weights.files:
        if file.endswith(SAFETENSORS):
            _check_safetensors(path / file, name, formats)
    if not (_TOKENIZERS & set(names) or set(names) >= _VOCABULARY or any(file.endswith(".model") for file in names)):
        raise HeadroomError(
            f"model {name!r}: {path} holds no tokenizer ({' or '.join(sorted(_TOKENIZERS))}, *.model, or "
            f"{' with '.join(sorted(_VOCABULARY, reverse=True))})"
        )
    own = _named_code(path / TOKENIZER_CONFIG)
    if own and "tokenizer.json" not in names and REMOTE_CODE not in allowed:
        raise HeadroomError(
            f"model {name!r}: its tokenizer is code in the checkpoint itself ({own[0]}, auto_map in "
            f"tokenizer_config.json), which is not run without {REMOTE_CODE}: true for this model"
        )
    return config


def _check_pickles(weights: Weights, where: Path | str, name: str, allowed: Collection[str]) -> None:
    """Refuse weights that are pickles, unless they are allowed."""
    if weights.pickles and PICKLE not in allowed:
        raise HeadroomError(
            f"model {name!r}: the weights in {where} are pickles ({weights.files[0]}), which are code; give a revision "
            f"or a copy with safetensors, or set {PICKLE}: true for this model (then torch.load reads them with "
            "weights_only)"
        )


def _check_safetensors(file: Path, name: str, formats: Collection[str]) -> None:
    """Refuse a file whose length contradicts its header, or whose weights have other number formats."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            for key in weights.keys():  # noqa: SIM118 (no mapping)
                kind = weights.get_slice(key).get_dtype()
                # Masks and positions, which old checkpoints also hold, have other names.
                if key.endswith("weight") and kind not in formats:
                    raise HeadroomError(
                        f"model {name!r}: {key} in {file} is quantised ({kind}); {quantised.PLAIN_WEIGHTS}"
                    )
    except (SafetensorError, OSError) as error:
        raise HeadroomError(
            f"model {name!r}: {file} is not a whole safetensors file ({error}); it is cut short or damaged: fetch the "
            "checkpoint again"
        ) from error


def _read_config(
    path: Path, name: str, allowed: Collection[str] = (), names: Collection[str] | None = None
) -> dict[str, Any]:
    """Read and check the configuration of a supported model.

    Args:
        path: the checkpoint.
        name: the model's name in the study.
        allowed: the checkpoint's permissions.
        names: names of all its files; None for those of the folder.

    Raises:
        HeadroomError: there is none, or the architecture is not supported, the weights are quantised in a way that is
            not served, or the model needs code that may not run.
    """
    if not (path / CONFIG).is_file():
        refuse_unnamed(names_in(path) if names is None else names, path if names is None else "its repository", name)
        raise HeadroomError(f"model {name!r}: {path} has no {CONFIG}; expected a transformers checkpoint folder")
    with _naming_model(name, path):
        config = read_json(path / CONFIG)
        family = config.get("model_type")
        if family is not None and not isinstance(family, str):
            raise HeadroomError(f"{path / CONFIG}: model_type is {type(family).__name__}, expected text")
    _check_code(path, name, family, allowed)
    if not is_known(family) and not (REMOTE_CODE in allowed and _named_code(path / CONFIG)):
        raise HeadroomError(
            f"model {name!r}: its family {family!r} is no causal language model of the installed transformers; "
            "docs/models.md lists those that are served"
        )
    try:
        check_config(config)
    except HeadroomError as error:
        raise HeadroomError(f"model {name!r}: {error}") from None
    quantisation = quantised.quantisation_of(config, name)
    if quantisation and REMOTE_CODE in allowed and own_code(path):
        raise HeadroomError(
            f"model {name!r}: its weights are quantised ({quantisation.kinds}), and code of its own "
            f"({own_code(path)[0]}) is not run to unpack them: {quantised.ORIGINAL}, or leave out {REMOTE_CODE}"
        )
    return config


def own_code(path: Path) -> list[str]:
    """List the code that a checkpoint names as its own: ``modeling.MyForCausalLM``, or ``owner/name--`` before it."""
    return [code for name in (CONFIG, TOKENIZER_CONFIG) for code in _named_code(path / name)]


def _named_code(file: Path) -> list[str]:
    """List the code that a configuration names; empty if there is no such file."""
    named = (read_json(file).get("auto_map") or {}) if file.is_file() else {}
    values = named.values() if isinstance(named, dict) else [named]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value]) if part]
    wrong = next((part for part in parts if not isinstance(part, str)), None)
    if wrong is not None:
        raise HeadroomError(f"{file}: auto_map names {type(wrong).__name__} as code, expected text")
    return parts


def _warn_of_own_code(path: Path, name: str, allowed: Collection[str]) -> None:
    """Say that a checkpoint's own code is not run, where it has some and may not run it."""
    code = own_code(path)
    if code and REMOTE_CODE not in allowed:
        print(
            f"model {name!r}: code of its own ({code[0]}) is not run, but transformers' own for this family; "
            f"{REMOTE_CODE}: true runs it",
            file=sys.stderr,
        )


def _check_code(path: Path, name: str, family: str | None, allowed: Collection[str]) -> None:
    """Refuse a checkpoint that needs code which may not run, or which belongs to another repository."""
    with _naming_model(name, path):
        code = own_code(path)
    if REMOTE_CODE in allowed:
        elsewhere = next((part for part in code if "--" in part), None)
        if elsewhere:
            raise HeadroomError(
                f"model {name!r}: its code is another repository's ({elsewhere}), which no digest of the checkpoint "
                "covers; copy the code beside a local checkpoint and name it without the part before '--'"
            )
    elif (code := _named_code(path / CONFIG)) and not is_known(family):
        raise HeadroomError(
            f"model {name!r}: its family {family!r} is code in the checkpoint itself ({code[0]}, auto_map in "
            f"config.json), which is not run without {REMOTE_CODE}: true"
        )


def _sizes(path: Path, name: str, trust: bool) -> dict[str, Any]:
    # Imported here: everything else in this module works without torch.
    from lm_headroom.models.sizes import checkpoint_sizes

    try:
        return checkpoint_sizes(path, trust)
    except HeadroomError as error:
        raise HeadroomError(f"model {name!r}: {error}") from None
    # A checkpoint's own code may raise anything.
    except Exception as error:
        raise HeadroomError(f"model {name!r}: the configuration in {path} cannot be used: {error}") from error


def _check_chat(path: Path, name: str, trust: bool, settings: ChatSettings) -> None:
    """Refuse a model whose chat template cannot be applied."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust)
        with _naming_model(name, path):
            Chat(tokenizer, settings).render([{"role": USER, "text": "text", "delimiter": ""}])
    except HeadroomError:
        raise
    # transformers, a template and a tokenizer's own code may raise anything.
    except Exception as error:
        raise HeadroomError(f"model {name!r}: the chat template in {path} cannot be applied: {error}") from error
    if "strftime_now" in str(tokenizer.chat_template):
        print(f"model {name!r}: its chat template writes today's date into prompts", file=sys.stderr)


def _fetch_patterns(
    files: Collection[str], folder: Path, source: str, name: str, allowed: Collection[str]
) -> list[str]:
    """List patterns of the files to fetch: small files and weights; empty if there are no weights.

    Args:
        files: names of the checkpoint's files.
        folder: folder with the fetched configuration and index.

    Raises:
        HeadroomError: the weights are pickles, which are not allowed; or see
            :func:`lm_headroom.models.checkpoint_files.find_weights`.
    """
    with _naming_model(name, source):
        weights = find_weights([file for file in files if "/" not in file], read_json(folder / CONFIG), folder)
    if not weights:
        refuse_unnamed(files, source, name)
        return []
    _check_pickles(weights, source, name, allowed)
    code = ["*.py"] if REMOTE_CODE in allowed else []
    return [*SMALL_FILES, *code, *weights.files]
