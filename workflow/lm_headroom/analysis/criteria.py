"""Scores of heads or FFNs by the criteria that follow from their gradient-activation products by document."""

from __future__ import annotations

from typing import Any

import numpy as np

from lm_headroom.study.criteria import HIES_ALPHA

Array = np.ndarray[Any, np.dtype[np.float64]]


def signed_criteria(products: Array) -> dict[str, Array]:
    """Scores by every criterion that a component's products g_d decide; see :mod:`lm_headroom.study.criteria`.

    Args:
        products: g_d, the sum over a document's tokens of A_t . dL/dA_t, nats, [document, layer, head]; of FFNs
            [document, layer, 1].

    Returns:
        Criterion to scores, each [layer, head]; lower is pruned first.

    Example:
        >>> scores = signed_criteria(np.array([[[0.2, -1.0]], [[0.0, -3.0]]]))
        >>> {name: values.round(2).tolist() for name, values in scores.items()}["second_order"]
        [[-0.09, 4.5]]
    """
    example, loss_rise, fisher = np.abs(products).mean(axis=0), -products.mean(axis=0), (products**2).mean(axis=0)
    second_order = loss_rise + fisher / 2
    is_small = _has_small_steps(example)
    # Where steps are small, second order may still exceed the largest of them: what is not trusted comes after.
    above = max(0.0, float(second_order[is_small].max() - example[~is_small].min(initial=np.inf)))
    return {
        "example": example,
        "loss_rise": loss_rise,
        "fisher": fisher,
        "second_order": second_order,
        "trusted_loss_rise": np.where(is_small, loss_rise, example),
        "trusted_second_order": np.where(is_small, second_order, example + above),
    }


def document_terms(products: Array, criterion: str) -> Array:
    """What each document adds to one of these criteria, [document, layer, head]; their mean is the score.

    Which steps are small is held fixed, and a constant that `trusted_second_order` adds is left out, so that the spread
    of these terms over documents gives the score's standard error.

    Args:
        products: as for :func:`signed_criteria`.
        criterion: one of its names.
    """
    if criterion.startswith("trusted_"):
        is_small = _has_small_steps(np.abs(products).mean(axis=0))
        untrusted, trusted = (document_terms(products, name) for name in ("example", criterion[len("trusted_") :]))
        return np.where(is_small, trusted, untrusted)
    terms: Array = {
        "example": np.abs(products),
        "loss_rise": -products,
        "fisher": products**2,
        "second_order": products**2 / 2 - products,
    }[criterion]
    return terms


def _has_small_steps(example: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether a component's mean |g_d| is at most the median; a pruned one's is exactly zero and no part of it."""
    acting = example[example > 0]
    small: np.ndarray[Any, np.dtype[np.bool_]] = example <= (np.median(acting) if acting.size else 0)
    return small


def hies(importance: Array, entropy: Array) -> Array:
    """Head Importance-Entropy Score of arXiv 2510.13832, eq. 1, with alpha :data:`HIES_ALPHA`, [..., layer, head].

    Args:
        importance: mean of |g_d|, [..., layer, head].
        entropy: mean of attention entropy over its largest value, [..., layer, head].

    Example:
        >>> hies(np.array([[0.0, 1.0, 4.0]]), np.array([[0.2, 0.6, 0.4]]))
        array([[0.5  , 0.125, 0.75 ]])
    """
    scaled: Array = HIES_ALPHA * _min_max(importance) + (1 - HIES_ALPHA) * (1 - _min_max(entropy))
    return scaled


def _min_max(values: Array) -> Array:
    """Scale [..., layer, head] so that the heads' smallest value is 0 and the largest 1; equal ones are 0."""
    lowest, highest = (bound(axis=(-2, -1), keepdims=True) for bound in (values.min, values.max))
    scaled: Array = (values - lowest) / np.where(highest > lowest, highest - lowest, 1)
    return scaled


def depth(layers: int, heads: int = 1) -> Array:
    """Number of layers with such components above each component, [layer, head]."""
    above: Array = np.repeat(np.arange(layers - 1, -1, -1.0)[:, None], heads, axis=1)
    return above
