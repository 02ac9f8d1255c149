"""Scores of questions by a whole and a pruned model, drawn from populations whose mean loss is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Draw = Callable[[np.random.Generator, Any], tuple[Any, Any]]
"""Draws scores with nothing and with something pruned, of a shape; higher is better."""


def probability(drop: float, spread: float) -> Draw:
    """Of the gold choice: normal log odds, which pruning lowers and spreads by a size of each question's own."""

    def draw(rng: np.random.Generator, shape: Any) -> tuple[Any, Any]:
        odds = rng.normal(0.5, 1.8, shape)
        size = np.exp(rng.standard_normal(shape))
        lower = odds - drop * size + spread * size * rng.standard_normal(shape)
        return 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-lower))

    return draw


def rare_losses(share: float, low: float, high: float) -> Draw:
    """A probability that hardly changes, but for a share of questions that lose much."""

    def draw(rng: np.random.Generator, shape: Any) -> tuple[Any, Any]:
        whole = rng.random(shape)
        rare = rng.random(shape) < share
        change = np.where(rare, -rng.uniform(low, high, shape), rng.normal(0, 0.02, shape))
        whole = np.where(rare, np.maximum(whole, high), whole)
        return whole, whole + change

    return draw


def bits_per_byte(drop: float, spread: float, scatter: float, rare: float = 0) -> Draw:
    """Log-normal and negated: they rise by a factor whose logarithm is normal, of a size of each question's own.

    Args:
        drop: mean of that logarithm, for a question of size 1.
        spread: its standard deviation.
        scatter: standard deviation of the logarithm of sizes.
        rare: share of questions that rise by 50 to 100% instead.
    """

    def draw(rng: np.random.Generator, shape: Any) -> tuple[Any, Any]:
        bits = np.exp(rng.normal(0, 0.5, shape))
        size = np.exp(scatter * rng.standard_normal(shape))
        rise = np.clip(size * (drop + spread * rng.standard_normal(shape)), -0.7, 0.7)
        rise = np.where(rng.random(shape) < rare, np.log(rng.uniform(1.5, 2, shape)), rise)
        return -bits, -bits * np.exp(rise)

    return draw


@cache
def mean_loss_of(draw: Draw) -> float:
    """Of the whole population, by two million questions."""
    whole, pruned = draw(np.random.default_rng(99), 2_000_000)
    return float((whole - pruned).mean())
