"""A ranking learned by a mask: gates on heads, or on FFNs, trained with frozen weights while fewer and fewer may open.

Each gate is hard concrete (Louizos et al. 2018, arXiv 1712.01312; on heads Voita et al. 2019, arXiv 1905.09418): with u
uniform, z = clamp(s (ZETA - GAMMA) + GAMMA, 0, 1) and s = sigmoid((log u - log(1 - u) + log_alpha) / BETA), so that
P(z > 0) = sigmoid(log_alpha - BETA log(-GAMMA / ZETA)). In place of a penalty with a weight to tune, one shift of all
log_alphas holds the expected open share exactly at the path's target, which falls from 1 to 0 over the steps. Gates
therefore compete: what is learned is which of them the loss of eq. 9 needs at each sparsity. The score of a component
is the share of the path on which its gate was open; what closed first is pruned first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_headroom.engine.likelihood import check_finite, target_log_probabilities
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Batch, Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, digest
from lm_headroom.progress import Progress
from lm_headroom.scoring.gradient import differentiated
from lm_headroom.study.criteria import HEADS

Array = np.ndarray[Any, np.dtype[np.float64]]
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature of the gates, and the ends to which they are stretched (Louizos et al. 2018)."""
_OFFSET = BETA * math.log(-GAMMA / ZETA)
_WIDEST = 50.0
"""Largest shift of log_alphas; gates beyond it are open or closed in any number format."""


@dataclass(frozen=True)
class Training:
    """How gates are trained.

    Attributes:
        passes: how often each document is used; the cost, in forward and backward passes.
        batch: documents of a step.
        learning_rate: of Adam, on the log_alphas.
        seed: of the gates' noise and the order of documents.
    """

    passes: int
    batch: int
    learning_rate: float
    seed: int

    def steps(self, n_documents: int) -> list[list[int]]:
        """The documents of each step, by number; each pass has an order of its own."""
        orders = (np.random.default_rng([self.seed, 0, n]).permutation(n_documents) for n in range(self.passes))
        n_parts = math.ceil(n_documents / self.batch)
        return [part.tolist() for order in orders for part in np.array_split(order, n_parts)]


@dataclass(frozen=True)
class LearnedMask:
    """What was learned of each head, [layer, head], or FFN, [layer].

    Attributes:
        score: share of the path on which the gate was open: the mean of P(z > 0).
        log_alpha: of the gate in the end, before the shift.
        losses: mean loss of each step's documents behind its gates, [step], nats per token.
    """

    score: Array
    log_alpha: Array
    losses: Array


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of gates."""
    return torch.sigmoid(log_alpha - _OFFSET)


def shifted(log_alpha: Tensor, share: float) -> Tensor:
    """Log_alphas plus the number that makes the mean of P(z > 0) equal to ``share``, by bisection."""
    low, high = -_WIDEST - float(log_alpha.max()), _WIDEST - float(log_alpha.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if open_probability(log_alpha + middle).mean() < share else (low, middle)
    return log_alpha + (low + high) / 2


def sample(log_alpha: Tensor, generator: np.random.Generator) -> Tensor:
    """Draw hard-concrete gates, differentiable by ``log_alpha``."""
    u = torch.as_tensor(generator.uniform(1e-6, 1 - 1e-6, log_alpha.shape))
    s = torch.sigmoid((torch.logit(u) + log_alpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def gate_gradient(
    loaded: LoadedModel,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    gates: Tensor,
) -> tuple[float, Tensor]:
    """Mean loss of documents behind gates, and its gradient with respect to them.

    Args:
        loaded: the model.
        documents: with one sequence each, the gold continuation.
        token_budget: tokens per batch.
        gates: of heads, [layer, head], a row per layer that has heads; or of FFNs, [layer].

    Raises:
        HeadroomError: a loss is not finite; names the document and the layer.
    """
    is_of_heads, leaf, places = gates.ndim == 2, gates.detach().clone(), list(range(len(gates)))
    if is_of_heads and loaded.shape.without_heads:
        places = list(loaded.shape.attending)
        leaf = torch.ones(loaded.shape.layers, loaded.shape.heads, dtype=gates.dtype)
        leaf[places] = gates.detach()
    leaf.requires_grad_()
    n_targets = torch.tensor([document.sequences[0].n_target for document in documents])
    interventions = loaded.interventions

    def differentiate(batch: Batch, checkpointing: bool) -> tuple[float, Tensor]:
        gated = interventions.gates(leaf) if is_of_heads else interventions.ffn_gates(leaf)
        # Layers are recomputed where heads are captured, too; their outputs are not asked for.
        with torch.enable_grad(), gated, interventions.capture(checkpointing):
            log_p = target_log_probabilities(loaded, batch)
            check_finite(loaded, batch, log_p.detach())
            weights = 1 / n_targets[batch.sequence_ids.cpu()].to(log_p)
            loss = -(log_p * weights).sum() / len(documents)
            return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    batches = Batches(documents, token_budget, lambda: loaded.device, share=False)
    parts = [part for _, part in batches.each(lambda batch: differentiated(batch, partial(differentiate, batch)))]
    return sum(loss for loss, _ in parts), torch.stack([gradient for _, gradient in parts]).sum(dim=0)[places]


def learn_mask(
    loaded: LoadedModel,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    component: str,
    training: Training,
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
) -> LearnedMask:
    """Train the gates of heads or FFNs along the path.

    Args:
        loaded: the model.
        documents: scoring documents, one sequence each.
        token_budget: tokens per batch; changes only speed and memory.
        component: heads or ffns.
        training: how gates are trained.
        progress: advanced by documents, once per pass.
        cache: holds the state after each step, so that a killed job goes on where it was.

    Raises:
        HeadroomError: see :func:`gate_gradient`.
    """
    steps = training.steps(len(documents))
    shape = loaded.shape.grid if component == HEADS else (loaded.shape.layers,)
    state = _State(shape, training.learning_rate)
    layout = {**dict.fromkeys(state.arrays, ("f", shape)), "loss": ("f", ())}
    stamp = digest(training, component, [document.sequences for document in documents])
    losses = np.zeros(len(steps))
    with cache.unit(f"learned-mask-{component}", [digest(stamp, n) for n in range(len(steps))], layout) as unit:
        for number, places in enumerate(steps):
            chosen = [documents[place] for place in places]
            if number in unit.done:
                losses[number] = unit.done[number]["loss"][0]
                state.set(number + 1, unit.done[number])
                if progress:
                    progress.reuse(len(chosen))
                continue
            level = shifted(state.log_alpha.detach(), 1 - (number + 0.5) / len(steps)).requires_grad_()
            gates = sample(level, np.random.default_rng([training.seed, 1, number]))
            losses[number], gradient = gate_gradient(loaded, chosen, token_budget, gates)
            (by_level,) = torch.autograd.grad(gates, level, gradient.to(gates))
            state.step(open_probability(level.detach()), by_level, len(steps))
            unit.add(number, loss=losses[number : number + 1], **state.entry())
            unit.save_if_due()
            if progress:
                progress.advance(len(chosen))
    return LearnedMask(state.arrays["opened"].numpy(), state.log_alpha.detach().numpy(), losses)


class _State:
    """What training changes: log_alphas, Adam's moments, and the mean of P(z > 0) over the path so far."""

    def __init__(self, shape: tuple[int, ...], learning_rate: float) -> None:
        self.log_alpha = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.adam = torch.optim.Adam([self.log_alpha], lr=learning_rate)
        self.arrays = {
            name: torch.zeros(shape, dtype=torch.float64) for name in ("log_alpha", "exp_avg", "exp_avg_sq", "opened")
        }
        self.set(0, self.entry())

    def set(self, n_steps: int, entry: Mapping[str, Array]) -> None:
        """Continue from the entry of the resume cache after so many steps."""
        self.arrays = {name: torch.tensor(entry[name][0]) for name in self.arrays}
        self.log_alpha.data.copy_(self.arrays["log_alpha"])
        moments = {name: self.arrays[name] for name in ("exp_avg", "exp_avg_sq")}
        self.adam.state[self.log_alpha] = {"step": torch.tensor(float(n_steps)), **moments}

    def step(self, probability: Tensor, gradient: Tensor, n_steps: int) -> None:
        """Move log_alphas by the gradient with respect to the shifted ones, whose P(z > 0) is ``probability``."""
        # The shift moves with every log_alpha, so that the share stays: what is left is who opens for whom.
        slope = probability * (1 - probability)
        self.log_alpha.grad = gradient - gradient.sum() * slope / slope.sum()
        self.adam.step()
        self.arrays["log_alpha"] = self.log_alpha.detach()
        self.arrays["opened"] = self.arrays["opened"] + probability / n_steps

    def entry(self) -> dict[str, Array]:
        """The state as an entry of the resume cache."""
        return {name: values.numpy()[None].copy() for name, values in self.arrays.items()}
