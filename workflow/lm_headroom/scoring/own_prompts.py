"""Head importance on prompts of the user's own, without a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_headroom.artifacts.heads import places
from lm_headroom.engine.likelihood import tokenise
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.memory import token_budget
from lm_headroom.errors import HeadroomError
from lm_headroom.scoring import gradient
from lm_headroom.scoring.masked_model import attached_for_a_block
from lm_headroom.settings import AddBos
from lm_headroom.study.criteria import CHOOSING, task_criteria

if TYPE_CHECKING:
    import pandas as pd


def score_heads(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    criterion: str = "token",
    add_bos: AddBos = "auto",
) -> pd.DataFrame:
    """Score each head on prompts of your own, by one forward and one backward pass over each.

    Within ``mask``, the masked model is scored: heads that it lacks contribute nothing.

    Args:
        model: a transformers model of a supported family, in evaluation mode; it is restored exactly.
        tokenizer: its tokenizer.
        pairs: (context, continuation) texts, two or more: the loss is that of the continuation.
        criterion: what scores heads, of those in docs/criteria.md that a pass decides.
        add_bos: put the BOS token (else EOS) before each context; `auto` puts what the tokenizer itself does.

    Returns:
        A row per head: ``layer``, ``head``, ``score``, ``stderr`` (over pairs), and ``score_even`` and ``score_odd``
        (by every other pair alone). :func:`lm_headroom.mask` takes it as a ranking.

    Raises:
        HeadroomError: pairs are no pairs of texts; the criterion is unknown; FFNs are left out at the moment; or see
            :func:`lm_headroom.engine.likelihood.encode` and :func:`lm_headroom.scoring.gradient.contributions`.

    Example:
        >>> import lm_headroom
        >>> pairs = [("Water boils at one hundred", " degrees"), ("She opened the", " window")]
        >>> scores = lm_headroom.score_heads(model, tokenizer, pairs)
        >>> len(scores), scores.columns[:3].tolist()
        (12, ['layer', 'head', 'score'])
    """
    import pandas as pd

    if criterion in CHOOSING:
        raise HeadroomError(f"criterion {criterion!r} compares answer choices, and a pair has one continuation alone")
    if criterion not in task_criteria():
        raise HeadroomError(f"criterion {criterion!r} is none of {', '.join(task_criteria())}")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise HeadroomError(f"pair {number}: expected (context, continuation), two texts; got {pair!r}")
    with attached_for_a_block(model) as attached, _frozen(model):
        loaded = LoadedModel(tokenizer, {}, model, lambda: model)
        loaded.interventions = attached.interventions
        documents = tokenise([(number, *pair) for number, pair in enumerate(pairs)], loaded, add_bos)
        if any(ffns for _, ffns in attached.pruned):
            raise HeadroomError("without_ffns leaves out FFNs here, which scoring needs; score heads before its block")
        with attached.lending_gates() as gates:
            budget = partial(token_budget, model, loaded.device, differentiates=True)
            products = gradient.contributions(loaded, documents, budget, gates=gates)
        scores = gradient.scores_by(products, criterion)
    columns = {"score": scores.score, "stderr": scores.stderr, "score_even": scores.even, "score_odd": scores.odd}
    return pd.DataFrame(
        {
            **places(loaded.shape.attending, loaded.shape.heads),
            **{name: values.ravel() for name, values in columns.items()},
        }
    )


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Freeze the weights for a block, so that passes keep nothing for their gradients."""
    free = [weight for weight in model.parameters() if weight.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for weight in free:
            weight.requires_grad_(True)
