"""Packed weights, written out as a folder of plain ones: what GGUF files and quantised checkpoints share.

Steps take gradients and multiply by single heads' weights, which packed numbers have not. transformers' own readers
unpack them once, when the model is resolved; the folder beside the model's record then is a checkpoint like others.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.store import write_json
from lm_headroom.errors import HeadroomError
from lm_headroom.models.checkpoint_files import CONFIG, EXPLICIT, ORIGIN, read_json

Reader = Callable[[], tuple[Any, Callable[[Path], object]]]
"""Reads a model of plain weights, and gives a function that writes its tokenizer into a folder."""


def write_out(
    packed: Path, kinds: str, read: Reader, origin: dict[str, str], folder: Path, name: str, advice: str
) -> None:
    """Write packed weights as a checkpoint of plain ones, with its tokenizer.

    The same content gives the same bytes with the same packages, wherever it lies and whatever it is called.

    Args:
        packed: the file or folder that holds them.
        kinds: their types of numbers.
        read: reads them.
        origin: of the checkpoint.
        folder: where the checkpoint goes; what is there is replaced.
        name: the model's name in the study.
        advice: what to do where transformers cannot read them.

    Raises:
        HeadroomError: transformers cannot read them, or the folder cannot be written.
    """
    print(f"model {name!r}: unpacking {packed} ({kinds}) into {folder}", file=sys.stderr)
    try:
        model, write_tokenizer = read()
    except HeadroomError as error:
        raise HeadroomError(f"model {name!r}: {error}") from error
    except MemoryError:
        raise
    # transformers raises arbitrary errors of files that it cannot read.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HeadroomError(
            f"model {name!r}: transformers cannot read {packed} ({type(error).__name__}: {reason}); {advice}"
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    save(model, write_tokenizer, {**origin, "types": kinds}, folder)
    for path in (folder / CONFIG, folder / "generation_config.json"):
        if path.is_file():
            write_json(path, {key: value for key, value in read_json(path).items() if key not in _LEFT_OUT})


_LEFT_OUT = ("transformers_version", EXPLICIT)
"""Keys that a plain checkpoint's configuration has not: another version of transformers that reads the same is no
reason to score the model again, and the file of the packed weights is not there."""


def as_plain(
    read: Any, missing: Sequence[str], packed: Path, advice: str, turn_back: Callable[[Any], Any] = lambda value: value
) -> Any:
    """Build a model that can be saved as plain weights from one that transformers read from packed ones.

    Args:
        read: the model; where it is saved as it is, transformers refuses, or packs it again.
        missing: its weights that are not in the file.
        packed: the file or folder that it was read from.
        advice: what to do where weights are missing.
        turn_back: takes each weight as it was read, and gives its plain numbers.

    Returns:
        The model, in the number format of the widest of its weights; they are shared with ``read``.

    Raises:
        HeadroomError: a weight of the model is not in the file, or is still packed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if missing:
        raise HeadroomError(f"{packed} has no weights for {', '.join(sorted(missing)[:3])}; {advice}")
    weights = {name: turn_back(value) for name, value in read.state_dict().items()}
    kinds = {name: value.dtype for name, value in weights.items()}
    left = next((name for name, kind in kinds.items() if kind.itemsize < 2 and kind != torch.bool), None)
    if left:
        kind = str(kinds[left]).removeprefix("torch.")
        raise HeadroomError(f"{packed}: transformers leaves {left} packed ({kind}); {advice}")
    dtype = max((kind for kind in kinds.values() if kind.is_floating_point), key=lambda kind: kind.itemsize)
    config = read.config
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def save(model: Any, write_tokenizer: Callable[[Path], object], origin: dict[str, str], out: Path) -> None:
    """Write a checkpoint and its origin; files of an earlier one that it also has are replaced.

    Raises:
        HeadroomError: the folder cannot be written.
    """
    from safetensors import SafetensorError

    out.mkdir(parents=True, exist_ok=True)
    # Written beside the target, so that a full disk leaves no partial file there.
    with tempfile.TemporaryDirectory(dir=out.parent) as fresh:
        try:
            model.save_pretrained(fresh)
            write_tokenizer(Path(fresh))
        except (SafetensorError, OSError) as error:
            raise HeadroomError(f"{out} could not be written ({error}); what was there is as it was") from error
        for path in Path(fresh).iterdir():
            path.replace(out / path.name)
    write_json(out / ORIGIN, origin)
