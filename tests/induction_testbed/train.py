"""Train the induction testbed: a small OPT on repeated random sequences, until it has induction heads that are known.

Run ``python -m tests.induction_testbed.train`` from the repository root; some minutes on one CPU thread. It writes the
checkpoint that the tests load (float16 weights, config, tokenizer) into ``checkpoint/`` beside this file.

Two choices make the circuit the textbook's. Head 1 of layer 1 starts as a previous-token head, its queries and keys
being the positions one step apart: from random weights, models come to look two or three tokens back, and their second
layer then as many past the earlier copy, where it predicts as well but matches no prefix. And of layer 2 only the first
heads are trained, so that it is known which heads the scores must find, and which are others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

CHECKPOINT = Path(__file__).resolve().parent / "checkpoint"
SPECIAL = ["<pad>", "<s>", "</s>"]
BOS = SPECIAL.index("<s>")
WORDS = 253
WINDOW = 256
WIDTH, HEADS = 128, 8
HEAD_WIDTH = WIDTH // HEADS
INDUCTION_HEADS = 3
"""How many heads of layer 2 are trained; the others stay as they were drawn."""
SPREAD = 0.06
"""Standard deviation of the first weights: a bit below 1 / sqrt(WIDTH)."""
SHARPNESS = 5.0
"""Scale of the previous-token head's queries and keys."""
RATE = 3e-3
WARM_UP = 100
GOAL = 0.35
"""Loss that the trained model must reach, nats per word; a leap in one word of ten costs 0.105 by itself."""


class Stage(NamedTuple):
    """A part of the training: its steps, rows per batch, words per row, and words in a row's cycle."""

    steps: int
    rows: int
    words: int
    cycle: int


STAGES = (Stage(900, 32, 128, 30), Stage(300, 16, 255, 60))
LEAP = 0.1
"""Share of words that do not follow their predecessor in the cycle: without them a row is known by heart from any copy,
with them only by what followed the same word."""


def configuration() -> OPTConfig:
    """Two layers, the fewest that can hold induction heads."""
    return OPTConfig(
        vocab_size=len(SPECIAL) + WORDS, hidden_size=WIDTH, ffn_dim=WIDTH, num_hidden_layers=2,
        num_attention_heads=HEADS, max_position_embeddings=WINDOW, word_embed_proj_dim=WIDTH, init_std=SPREAD,
        dropout=0.0, attention_dropout=0.0, layerdrop=0.0, pad_token_id=0, bos_token_id=BOS, eos_token_id=2,
    )  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for every token id, so that texts of such words are token sequences."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )


def frequencies() -> Tensor:
    """Radians per position of the sinusoids that positions start as, from 1 to 0.01, [WIDTH / 2]."""
    return 1 / 100 ** (torch.arange(0, WIDTH, 2) / WIDTH)


@torch.no_grad()
def untrained() -> OPTForCausalLM:
    """The model before training."""
    model = OPTForCausalLM(configuration())
    decoder = model.model.decoder
    positions = decoder.embed_positions.weight
    angles = torch.arange(len(positions))[:, None] * frequencies()[None]
    positions.copy_(SPREAD * 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1))
    look_back(decoder.layers[0].self_attn)
    return model


@torch.no_grad()
def look_back(attention: torch.nn.Module) -> None:
    """Make the first head a previous-token head: its product of query t and key s is a sum of cos(w (t - 1 - s))."""
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[:HEAD_WIDTH], key[:HEAD_WIDTH] = 0, 0
    half = WIDTH // 2
    for pair, place in enumerate(range(0, 4 * HEAD_WIDTH // 2, 4)):
        sine, cosine = frequencies()[place].sin() * SHARPNESS, frequencies()[place].cos() * SHARPNESS
        query[2 * pair, place], query[2 * pair, half + place] = cosine, -sine
        query[2 * pair + 1, place], query[2 * pair + 1, half + place] = sine, cosine
        key[2 * pair, place] = key[2 * pair + 1, half + place] = SHARPNESS


def batch(stage: Stage, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and positions [row, 1 + words], and which words can be known [row, words].

    Each row walks along a cycle of random words of its own, with leaps. A word can be known if it follows in the cycle
    and did so before. Rows start at random positions, so that every learned position is trained.
    """
    rows = torch.arange(stage.rows)
    cycle = torch.rand(stage.rows, WORDS, generator=generator).argsort(dim=1)[:, : stage.cycle] + len(SPECIAL)
    targets = torch.randint(0, stage.cycle, (stage.rows, stage.words), generator=generator)
    leaps = torch.rand(stage.rows, stage.words, generator=generator) < LEAP
    tokens = torch.full((stage.rows, 1 + stage.words), BOS)
    known = torch.zeros(stage.rows, stage.words, dtype=torch.bool)
    walked = torch.zeros(stage.rows, stage.cycle, dtype=torch.bool)
    place = targets[:, 0]
    for word in range(stage.words):
        if word:
            following = (place + 1) % stage.cycle
            step = torch.where(leaps[:, word], targets[:, word], following)
            follows = step == following
            known[:, word] = walked[rows, place] & follows
            walked[rows, place] |= follows
            place = step
        tokens[:, 1 + word] = cycle[rows, place]
    start = torch.randint(0, WINDOW - stage.words, (stage.rows, 1), generator=generator)
    return tokens, start + torch.arange(1 + stage.words), known


def keep_others(model: OPTForCausalLM) -> None:
    """Take the gradients from the heads of layer 2 that are not to be trained."""
    attention, trained = model.model.decoder.layers[1].self_attn, INDUCTION_HEADS * HEAD_WIDTH
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight.grad[trained:] = 0
        projection.bias.grad[trained:] = 0
    attention.out_proj.weight.grad[:, trained:] = 0


def train(seed: int) -> OPTForCausalLM:
    """Train on all stages.

    Raises:
        RuntimeError: the loss is above the goal in the end.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = untrained()
    plan = [stage for stage in STAGES for _ in range(stage.steps)]
    steps = len(plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, 1.0, (steps - step) / (steps / 2))
    )
    recent: list[float] = []
    for number, stage in enumerate(plan, start=1):
        tokens, positions, known = batch(stage, generator)
        logits = model(input_ids=tokens, position_ids=positions).logits[:, :-1]
        loss = cross_entropy(logits[known], tokens[:, 1:][known])
        optimizer.zero_grad()
        loss.backward()
        keep_others(model)
        optimizer.step()
        schedule.step()
        recent = [*recent[-49:], loss.item()]
        if number % 100 == 0:
            print(f"step {number} of {steps}: loss {sum(recent) / len(recent):.4f}", file=sys.stderr, flush=True)
    if sum(recent) / len(recent) > GOAL:
        raise RuntimeError(
            f"the loss is {sum(recent) / len(recent):.3f} nats, above {GOAL}: no induction heads; try another seed"
        )
    return model


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="checkpoint folder (default: the tests' own)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = train(options.seed)
    # Half the size; what rounding changes is far below what the tests look at.
    model.half().save_pretrained(options.out)
    tokenizer().save_pretrained(options.out)


if __name__ == "__main__":
    main()
