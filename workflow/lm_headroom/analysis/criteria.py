"""Scores of heads or FFNs by the criteria that follow from their gradient-activation products by document."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    is_small = example <= np.median(example)
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


def depth(layers: int, heads: int = 1) -> Array:
    """Number of layers above each component, [layer, head]."""
    above: Array = np.repeat(np.arange(layers - 1, -1, -1.0)[:, None], heads, axis=1)
    return above
