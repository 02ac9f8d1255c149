"""``python -m benchmarks.train``: train a small language model on docstrings, and keep checkpoints along training.

It gives a study checkpoints whose training is known from the first step, without a hub: the text is that of the
docstrings of packages that the environment pins, in an order that a seed decides. The model is a LLaMA of 3.1 million
parameters. It learns the language of documentation, not the tasks, on which its accuracy stays at chance; outcomes such
as the bits per byte of right answers tell its checkpoints apart. An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

PACKAGES = ("torch", "transformers", "scipy", "numpy", "pandas", "matplotlib", "snakemake", "datasets", "accelerate")
"""Distributions whose docstrings are read; the lock files say which versions."""
VOCABULARY, CONTEXT, END = 4096, 256, "<|end|>"
KEPT = (0, 32, 64, 128, 256, 512, 1000)
"""Training steps whose checkpoints are kept."""


def docstrings(packages: Sequence[str]) -> Iterator[str]:
    """Docstrings of all modules, classes and functions of installed distributions, each text once.

    Example:
        >>> next(docstrings(["numpy"]))[:20].isascii()
        True
    """
    seen: set[str] = set()
    for package in packages:
        for path in sorted(map(str, importlib.metadata.files(package) or [])):
            if not path.endswith(".py"):
                continue
            place = Path(str(importlib.metadata.distribution(package).locate_file(path)))
            try:
                tree = ast.parse(place.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, FileNotFoundError):
                # Templates and tests of other interpreters are no Python of ours.
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node)
                    if text and len(text) > 80 and text not in seen:
                        seen.add(text)
                        yield inspect.cleandoc(text)


def make_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """Texts end to end, an end token between them, cut into blocks of tokens.

    Attributes:
        tokens: [block, context].
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, context: int, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(texts))
        rows = tokenizer([texts[place] + END for place in order], add_special_tokens=False)["input_ids"]
        flat = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
        self.tokens = torch.from_numpy(flat[: len(flat) // context * context].reshape(-1, context))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[place], "labels": self.tokens[place]}


class KeepAt(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint at some steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a checkpoint where one is kept."""
        control.should_save = state.global_step in self.steps
        return control


def config(vocabulary: int) -> LlamaConfig:
    """Six layers of six heads, in two groups of keys and values."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip


def train(
    out: Path, texts: Sequence[str], kept: Sequence[int] = KEPT, batch: int = 16, context: int = CONTEXT, seed: int = 1,
    bf16: bool = False,
) -> None:  # fmt: skip
    """Train, and keep ``out``/checkpoint-STEP for each step.

    Args:
        out: folder of the checkpoints.
        texts: what to train on.
        kept: steps whose checkpoints are kept; the last one ends training.
        batch: blocks of a step.
        context: tokens of a block.
        seed: of the initial weights and of the order of texts.
        bf16: whether products are computed in bfloat16, which takes half the time on processors with AMX.
    """
    set_seed(seed)
    tokenizer = make_tokenizer(texts)
    model = LlamaForCausalLM(config(len(tokenizer)))
    if 0 in kept:
        model.save_pretrained(out / "checkpoint-0")
        tokenizer.save_pretrained(out / "checkpoint-0")
    arguments = TrainingArguments(
        str(out), max_steps=max(kept), per_device_train_batch_size=batch, learning_rate=2e-3,
        warmup_steps=max(kept) // 20, lr_scheduler_type="cosine", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0,
        logging_steps=50, save_strategy="no", report_to=[], seed=seed, use_cpu=not torch.cuda.is_available(),
        bf16=bf16,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=Blocks(texts, tokenizer, context, seed), processing_class=tokenizer,
        callbacks=[KeepAt(kept)],
    )  # fmt: skip
    last = get_last_checkpoint(str(out))
    trainer.train(resume_from_checkpoint=None if last is None or last.endswith("-0") else last)
    losses = [{name: row[name] for name in ("step", "loss")} for row in trainer.state.log_history if "loss" in row]
    (out / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")


def main() -> None:
    """Train as asked on the command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    p.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    p.add_argument("--steps", type=int, nargs="+", default=KEPT, help="steps to keep; the last one ends training")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true", help="compute products in bfloat16")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    texts = list(docstrings(PACKAGES))
    print(f"{len(texts)} docstrings, {sum(map(len, texts)) / 1e6:.1f} million characters", flush=True)
    train(o.out, texts, o.steps, seed=o.seed, bf16=o.bf16)


if __name__ == "__main__":
    main()
