"""Tiny checkpoints of quantised weights, and the plain weights that they stand for, worked out apart from transformers.

``python -m tests.support.quantised_models FOLDER`` makes those of torchao in a process of its own, since transformers
imports that package as soon as it is there: it unpacks them, and writes what the unpacked and the packed models say.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lm_headroom.engine.likelihood import likelihoods, tokenise
from lm_headroom.engine.loading import load
from lm_headroom.engine.packing import Batches
from lm_headroom.errors import HeadroomError
from lm_headroom.models.resolve import resolve
from tests.support.model_types import randomise, tiny_of_type
from tests.support.tiny_models import SENTENCES

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The eight sizes of a number of four bits (OCP Microscaling Formats); the highest bit is the sign."""
ROWS = [(number, text[:30], text[30:]) for number, text in enumerate(SENTENCES)]
"""Contexts and their continuations."""


def write_fp8(
    folder: Path, tokenizer: Any, kind="llama", block=(16, 16), seed=0, change=None, **stated
) -> dict[str, Any]:
    """A model whose projections are numbers of eight bits, a scale to a block; return the plain weights, by name."""
    weights, plain = _saved(folder, tokenizer, kind, seed), {}
    for name in list(weights):
        if name.endswith("_proj.weight"):
            weights[name], weights[f"{name}_scale_inv"], plain[name] = _in_eight_bits(weights[name], block)
    plain = {name: value for name, value in weights.items() if not name.endswith("_scale_inv")} | plain
    _write(folder, weights, change, {"quant_method": "fp8", "weight_block_size": list(block), **stated})
    return plain


def _in_eight_bits(weight: Any, block: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Packed numbers, scales, and what they stand for, block by block."""
    rows, columns = (range(0, side, size) for side, size in zip(weight.shape, block, strict=True))
    packed, plain = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty(weight.shape)
    scales = torch.empty(len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            part = slice(row, row + block[0]), slice(column, column + block[1])
            scales[i, j] = weight[part].abs().max() / 448
            packed[part] = (weight[part] / scales[i, j]).to(packed.dtype)
            plain[part] = packed[part].float() * scales[i, j]
    return packed, scales, plain


def write_mxfp4(folder: Path, tokenizer: Any, seed=0, change=None) -> dict[str, Any]:
    """A gpt-oss whose experts are numbers of four bits, 32 to a power of two; return the plain weights, by name."""
    weights = {name: value.bfloat16() for name, value in _saved(folder, tokenizer, "gpt_oss", seed).items()}
    plain = dict(weights)
    for name in list(weights):
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = weights.pop(name).shape
            codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), dtype=torch.uint8)
            powers = torch.randint(120, 126, (experts, outputs, inputs // 32), dtype=torch.uint8)
            weights[f"{name}_blocks"], weights[f"{name}_scales"] = codes[..., ::2] | codes[..., 1::2] << 4, powers
            numbers = torch.tensor([sign * size for sign in (1, -1) for size in E2M1])[codes.long()]
            blocks = numbers * 2.0 ** (powers[..., None].double() - 127)
            plain[name] = blocks.reshape(experts, outputs, inputs).transpose(1, 2).contiguous().bfloat16()
    _write(folder, weights, change, {"quant_method": "mxfp4"})
    return plain


def _saved(folder: Path, tokenizer: Any, kind: str, seed: int) -> dict[str, Any]:
    """Save a tiny random model with its tokenizer; return its weights as they are named in the file."""
    from transformers import AutoModelForCausalLM

    config = tiny_of_type(kind).config
    config.update({"vocab_size": 523, "max_position_embeddings": 256, "dtype": "float32"})
    if kind == "gpt_oss":
        config.intermediate_size = 64
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def _write(folder: Path, weights: dict[str, Any], change: Any, stated: dict[str, Any]) -> None:
    if change:
        change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))


def ours(record: Path) -> list[float]:
    """Log-likelihoods of the continuations by a resolved model; loading it has proved its interventions."""
    loaded = load(record, device="cpu")
    assert loaded.interventions.shape.heads == 4
    return likelihoods(loaded, Batches(tokenise(ROWS, loaded, "auto"), 1024)).values.tolist()


def hflm(model: Any, tokenizer: Any) -> list[float]:
    """The same by lm-eval's HFLM over a model of transformers."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=4)
    asked = [Instance("loglikelihood", {}, tuple(texts), number) for number, *texts in ROWS]
    return [value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)]


def main(folder: Path) -> None:
    """Quantise the checkpoint in FOLDER/whole by torchao, resolve what comes of it, and write what both models say."""
    import torchao.quantization as kinds
    from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

    tokenizer = AutoTokenizer.from_pretrained(folder / "whole")
    whole = AutoModelForCausalLM.from_pretrained(folder / "whole", dtype=torch.float32)
    four_bits = kinds.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=kinds.PerGroup(16))
    mixed = {"re:.*down_proj": four_bits, "re:.*_proj": kinds.Float8WeightOnlyConfig()}
    cases = {
        "int8": kinds.Int8WeightOnlyConfig(),
        "mixed": kinds.FqnToConfig(mixed),
        "activations": kinds.Int8DynamicActivationInt8WeightConfig(),
    }
    outcomes: dict[str, Any] = {"whole": hflm(whole, tokenizer)}
    for name, kind in cases.items():
        source, record = folder / name, folder / "results" / name / "model.json"
        packed = AutoModelForCausalLM.from_pretrained(
            folder / "whole", quantization_config=TorchAoConfig(kind), dtype=torch.float32
        )
        packed.save_pretrained(source)
        tokenizer.save_pretrained(source)
        try:
            origin = resolve(name, str(source), None, record)["origin"]
        except HeadroomError as error:
            outcomes[name] = str(error)
            continue
        outcomes[name] = {"origin": origin, "ours": ours(record), "theirs": hflm(packed, tokenizer)}
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
