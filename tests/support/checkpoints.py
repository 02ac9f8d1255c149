"""Checkpoints on disk that no model needs to be made for, and tokenizer files of the hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def checkpoint(folder, weight=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "opt"}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.array([weight])}, folder / "model.safetensors")
    return folder


def write_hub_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer files of facebook/opt-*: GPT-2's, with an automatic BOS and no tokenizer.json."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace", **names})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
