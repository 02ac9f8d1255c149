"""What few-shot seeds change: variance components of accuracies and head scores, measured on the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import TaskScores, corrected_srcc, noise_ceiling, srcc

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Components:
    """Variance between seeds of a mean over documents, and whose it is; each has the outcomes' leading axes.

    Attributes:
        mean: over seeds and documents.
        total: sample variance over seeds of the mean over the same documents.
        crossed: what of it comes from seeds that move single documents, and shrinks with their number.
        sampling: variance that a seed's mean would have over new documents, mean over seeds.
    """

    mean: Array
    total: Array
    crossed: Array
    sampling: Array

    @property
    def unclipped(self) -> Array:
        """The seed's component, unbiased; may be below 0."""
        return self.total - self.crossed

    @property
    def seed(self) -> Array:
        """The seed's component, what of the variance stays with any number of documents; at least 0."""
        component: Array = np.maximum(self.unclipped, 0)
        return component


def components(outcomes: Array) -> Components:
    """Variance components of a two-way layout without replication, seeds crossed with documents (Searle et al. 1992).

    An outcome is mean + seed + document + rest. Seeds are measured on the same documents, whose effects cancel between
    them; the rest, MS = sum (y_sd - y_s. - y_.d + y_..)^2 / ((S - 1)(D - 1)), does not, and adds MS / D to the variance
    of seeds' means.

    Args:
        outcomes: [..., seed, document], two or more of each; or halves of documents in the place of documents.
    """
    n_seeds, n = outcomes.shape[-2:]
    by_seed = outcomes.mean(axis=-1)
    rest = outcomes - by_seed[..., None] - outcomes.mean(axis=-2, keepdims=True)
    rest += outcomes.mean(axis=(-2, -1), keepdims=True)
    square = (rest**2).sum(axis=(-2, -1)) / ((n_seeds - 1) * (n - 1))
    sampling = outcomes.var(axis=-1, ddof=1).mean(axis=-1) / n
    return Components(by_seed.mean(axis=-1), by_seed.var(axis=-1, ddof=1), square / n, sampling)


def average_components(tasks: Sequence[Array]) -> Components:
    """The same for the average over tasks, whose documents are drawn apart.

    Args:
        tasks: outcomes of each task, [seed, document]; the same seeds.
    """
    each = [components(outcomes) for outcomes in tasks]
    by_seed = np.mean([outcomes.mean(axis=-1) for outcomes in tasks], axis=0)
    crossed, sampling = (
        np.sum([getattr(parts, name) for parts in each], axis=0) / len(each) ** 2 for name in ("crossed", "sampling")
    )
    return Components(by_seed.mean(), by_seed.var(ddof=1), crossed, sampling)


def head_components(scores: Sequence[TaskScores]) -> Components:
    """The same for the scores of heads, each [layer, head]: two halves of documents stand for the documents.

    Args:
        scores: of each seed.
    """
    halves = np.stack([[seed_scores.even, seed_scores.odd] for seed_scores in scores])
    parts = components(np.moveaxis(halves, (0, 1), (-2, -1)))
    whole = np.stack([seed_scores.score for seed_scores in scores])
    return Components(whole.mean(axis=0), whole.var(axis=0, ddof=1), parts.crossed, parts.sampling)


@dataclass(frozen=True)
class SeedAgreement:
    """How seeds' head rankings agree: means over pairs of seeds; None where not defined.

    Attributes:
        srcc: rank correlation.
        ceiling: what noise that is independent between the two would allow.
        corrected: SRCC corrected for noise, over ``n_corrected`` pairs.
        n_pairs: pairs of seeds.
    """

    srcc: float
    ceiling: float | None
    corrected: float | None
    n_corrected: int
    n_pairs: int


def agreement(scores: Sequence[TaskScores], same_documents: bool) -> SeedAgreement:
    """How the rankings of one task and number of shots agree between seeds.

    Args:
        scores: of each seed.
        same_documents: seeds were scored on the same documents in the same order.
    """
    pairs = list(combinations(scores, 2))
    ceilings = [value for a, b in pairs if (value := noise_ceiling(a, b)) is not None]
    corrected = [value for a, b in pairs if (value := corrected_srcc(a, b, same_documents)) is not None]
    return SeedAgreement(
        float(np.mean([srcc(a.score, b.score)[0] for a, b in pairs])),
        float(np.mean(ceilings)) if ceilings else None,
        float(np.mean(corrected)) if corrected else None,
        len(corrected),
        len(pairs),
    )
