"""Checkpoints whose configuration calls their weights quantised: which are served, and reading them as plain weights.

Those are served that transformers, or torchao, turns back on a CPU into the numbers that the packed ones stand for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lm_headroom.errors import HeadroomError
from lm_headroom.models.checkpoint_files import (
    CONFIG,
    INDEX,
    ORIGIN,
    SAFETENSORS,
    find_weights,
    names_in,
    read_json,
    small_files,
)
from lm_headroom.models.unpacking import as_plain, write_out

KEY = "quantization_config"
"""Key of a configuration that calls its weights quantised."""
TORCHAO, FP8, MXFP4 = "torchao", "fp8", "mxfp4"
WEIGHT_ONLY = frozenset({"FqnToConfig", "Float8WeightOnlyConfig", "Int8WeightOnlyConfig", "IntxWeightOnlyConfig"})
"""Kinds of torchao that round weights alone and can be turned back on a CPU; the first gives modules one of them."""
PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
"""Number formats of plain weights in safetensors; quantised ones are integers or of 8 bits and fewer."""
ORIGINAL = "take the checkpoint that it was quantised from"
PLAIN_WEIGHTS = f"gradients and projections need plain weights: {ORIGINAL}"
_BY_HAND = {
    "bitsandbytes": ".dequantize() of the loaded model",
    "higgs": ".dequantize() of the loaded model",
    "compressed-tensors": "CompressedTensorsConfig(dequantize=True)",
}
"""Formats that transformers turns back with packages or devices that are not there, and the means."""


@dataclass(frozen=True)
class Quantisation:
    """How the weights of a checkpoint are quantised.

    Attributes:
        method: ``torchao``, ``fp8`` or ``mxfp4``.
        kinds: the same with torchao's kinds, for the record.
        stated: what the configuration says of it.
    """

    method: str
    kinds: str
    stated: Mapping[str, Any]

    @property
    def number_formats(self) -> frozenset[str]:
        """Formats that weights may have in its safetensors, beside packed numbers of other names."""
        return PLAIN | {"F8_E4M3"} if self.method == FP8 else PLAIN


def quantisation_of(config: Mapping[str, Any], name: str) -> Quantisation | None:
    """How a checkpoint's weights are quantised; None if they are plain.

    Args:
        config: the checkpoint's configuration.
        name: the model's name in the study.

    Raises:
        HeadroomError: they are quantised in a way that is not served, or torchao is not installed.
    """
    # A model with several parts may state it only for its language model.
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    stated = next((part[KEY] for part in parts if part.get(KEY)), None)
    if not stated:
        return None
    method = str(stated.get("quant_method", "of no known method")) if isinstance(stated, dict) else str(stated)
    kinds = sorted(set(_torchao_kinds(stated))) if method == TORCHAO else []
    described = f"model {name!r}: its weights are quantised ({' '.join([method, *kinds])}, {KEY} in {CONFIG})"
    rounding = [kind for kind in kinds if "Activation" in kind]
    if rounding:
        raise HeadroomError(
            f"{described}, and {rounding[0]} also rounds what its layers are given, so that plain weights would be "
            f"another model: {ORIGINAL}"
        )
    if not (method in (FP8, MXFP4) or (kinds and WEIGHT_ONLY.issuperset(kinds))):
        by = _BY_HAND.get(method)
        back = f", or let transformers turn it back ({by}) and save that into a folder" if by else ""
        raise HeadroomError(f"{described}; {PLAIN_WEIGHTS}{back}")
    if method == TORCHAO and find_spec(TORCHAO) is None:
        raise HeadroomError(
            f"{described}, and torchao, which turns them back, is not installed: pip install torchao, as lm-headroom's "
            f"extra of that name does; or {ORIGINAL}"
        )
    return Quantisation(method, " ".join([method, *kinds]), stated)


def _torchao_kinds(stated: Any) -> Iterator[str]:
    """Yield the kinds that torchao's part of a configuration names, at any depth."""
    if isinstance(stated, dict):
        # A mere name is that of an early version, which is no longer read.
        kind = stated.get("_type", stated.get("quant_type"))
        if isinstance(kind, str) and ("_type" not in stated or kind.endswith("Config")):
            yield kind
        for inner in stated.values():
            yield from _torchao_kinds(inner)


def unpack(source: Path, quantisation: Quantisation, name: str, digest: str, folder: Path) -> None:
    """Write a quantised checkpoint as one of plain weights; its tokenizer's files are copied.

    Args:
        source: the checkpoint, whose own code does not run.
        quantisation: of its weights.
        name: the model's name in the study.
        digest: of its files, for the origin of the plain one.
        folder: where the plain checkpoint goes; what is there is replaced.

    Raises:
        HeadroomError: transformers cannot turn its weights back, or the folder cannot be written.
    """
    origin = {"note": "dequantised from a checkpoint of quantised weights", "sha256": digest}
    read = partial(_read_plain, source, quantisation)
    write_out(source, quantisation.kinds, read, origin, folder, name, ORIGINAL)


def _read_plain(source: Path, quantisation: Quantisation) -> tuple[Any, Callable[[Path], object]]:
    """Read a quantised checkpoint's model as plain weights, and how its tokenizer is written.

    The weights are in float32; in bfloat16 where that holds all of them exactly.
    """
    import torch
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

    method, tensors = quantisation.method, _tensors(source)
    if method == FP8:
        _check_blocks(source, tensors, quantisation.stated.get("weight_block_size") or (0, 0))
    # Four bits and a power of two are exact in bfloat16, of whose numbers this model has many: half the size.
    is_narrow = method == MXFP4 and {kind for kind, _ in tensors.values()} <= {"BF16", "U8"}
    dtype = torch.bfloat16 if is_narrow else torch.float32
    settings = {FP8: FineGrainedFP8Config, MXFP4: Mxfp4Config}
    turned = {"quantization_config": settings[method](dequantize=True)} if method in settings else {}
    read, info = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **turned,
    )
    modules = {weight.rpartition(".")[0] for weight in read.state_dict()}
    stray = next((key for key in sorted(info["unexpected_keys"]) if key.rpartition(".")[0] in modules), None)
    if stray:
        raise HeadroomError(
            f"{source} has {stray}, which transformers does not use when it turns {method} back; {ORIGINAL}"
        )

    def turn_back(value: Any) -> Any:
        plain = _dequantise(value) if method == TORCHAO else value
        # What was not packed keeps its own number format in the model that was read.
        is_plain = plain.is_floating_point() and plain.dtype.itemsize > 1
        return plain.to(torch.promote_types(plain.dtype, dtype)) if is_plain else plain

    return as_plain(read, info["missing_keys"], source, ORIGINAL, turn_back), partial(_copy_tokenizer, source)


def _dequantise(value: Any) -> Any:
    """A weight as torchao's layers multiply by it; others as they are."""
    import torch
    from torchao.quantization import Int8Tensor
    from torchao.utils import TorchAOBaseTensor

    if isinstance(value, Int8Tensor):
        # Scales multiply the product, so that no weight is rounded to the checkpoint's number format.
        return value.dequantize(torch.float32)
    return value.dequantize() if isinstance(value, TorchAOBaseTensor) else value


def _tensors(source: Path) -> dict[str, tuple[str, list[int]]]:
    """Number format and shape of each tensor in a checkpoint's safetensors."""
    from safetensors import safe_open

    weights, tensors = find_weights(names_in(source), read_json(source / CONFIG), source), {}
    for file in weights.files if weights else ():
        if file.endswith(SAFETENSORS):
            with safe_open(source / file, framework="numpy") as content:
                for key in content.keys():  # noqa: SIM118 (no mapping)
                    tensor = content.get_slice(key)
                    tensors[key] = (tensor.get_dtype(), tensor.get_shape())
    return tensors


def _check_blocks(source: Path, tensors: Mapping[str, tuple[str, list[int]]], blocks: Sequence[int]) -> None:
    """Refuse weights in 8 bits whose sides are no whole blocks: transformers would scale blocks of other sizes.

    Args:
        source: the checkpoint.
        tensors: number format and shape of each.
        blocks: rows and columns that share a scale; 0 where the configuration does not say.
    """
    for key, (_, shape) in tensors.items():
        stem = key.removesuffix("weight")
        scales = [tensors[f"{stem}{end}"][1] for end in _SCALES if stem != key and f"{stem}{end}" in tensors]
        if not scales or len(scales[0]) < 2:
            continue
        for side, number, block in zip(shape[-2:], scales[0][-2:], blocks, strict=True):
            if number > 1 and side != number * (block or side // number):
                raise HeadroomError(
                    f"{key} in {source} has a side of {side} in {number} blocks of {block}, and "
                    f"transformers turns back whole blocks only; {ORIGINAL}"
                )


_SCALES = ("weight_scale_inv", "scale", "qscale_weight")
"""Names that transformers knows for the scales of a weight in 8 bits."""


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy all small files of a checkpoint that its model is not read from."""
    for path in small_files(source):
        if path.name not in (CONFIG, ORIGIN) and not path.name.endswith(INDEX):
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
