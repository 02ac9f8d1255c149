"""Knockout (leave-one-out) importance of FFNs (eq. 7 of arXiv 2212.09095) and of heads: the oracle.

Removing an FFN or head does not change the layers below it. Each evaluation therefore restarts from the input of its
layer, kept from the pass of the whole model, which is exact and halves the work on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.metrics import Choices, by_question, mean_and_error
from lm_headroom.analysis.outcomes import answer_key_of, explain_undefined
from lm_headroom.engine.ablation import ZERO, Ablation
from lm_headroom.engine.likelihood import ENTRY, Likelihoods, TokenPredictions, predict_checked, sequence_slices
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.packing import Batch, Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, WorkUnit, digest
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.progress import Progress
from lm_headroom.scoring.pruned_evaluation import Columns, Head, answer_key, by_choice, right_documents
from lm_headroom.study.choices import KnockoutOutcome
from lm_headroom.study.criteria import CRITERIA

Array = np.ndarray[Any, np.dtype[np.float64]]
SAMPLE_SEED = 0
"""Seed of the sample of heads, so that all tasks, shots and studies of a model share one sample."""


@dataclass(frozen=True)
class Knockouts:
    """Likelihoods of the whole model (``dense``), and without each single component (``ablated``)."""

    dense: Likelihoods
    ablated: list[Likelihoods]


class ExpertPlace(NamedTuple):
    """An expert of a layer, both from 0."""

    layer: int
    expert: int


Component = tuple[int, int | None]
"""A component to remove: a head, (layer, head), the FFN of a layer, (layer, None), or an :class:`ExpertPlace`."""


def knock_out_ffns(
    loaded: LoadedModel,
    batches: Batches,
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    ablation: Ablation = ZERO,
) -> Knockouts:
    """Evaluate without each layer's FFN in turn; see :func:`_knock_out`.

    Args:
        loaded: the model.
        batches: the documents; a pass keeps the inputs of all layers for one batch at a time.
        progress: advanced by documents times layers.
        cache: holds finished documents.
        ablation: what a removed FFN gives.
    """
    components: list[Component] = [(layer, None) for layer in range(loaded.shape.layers)]
    return _knock_out(loaded, batches, components, "ffn-oracle", progress, cache, ablation)


def knock_out_heads(
    loaded: LoadedModel,
    batches: Batches,
    heads: Sequence[Head],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    ablation: Ablation = ZERO,
) -> Knockouts:
    """Evaluate without each of some heads in turn; see :func:`_knock_out`.

    Args:
        loaded: the model.
        batches: the documents; a pass keeps the inputs of all layers for one batch at a time.
        heads: the heads to remove; ``ablated`` has their order.
        progress: advanced by documents times heads.
        cache: holds finished documents.
        ablation: what a removed head gives.
    """
    return _knock_out(loaded, batches, heads, "head-oracle", progress, cache, ablation)


def knock_out_experts(
    loaded: LoadedModel,
    batches: Batches,
    experts: Sequence[tuple[int, int]],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
) -> Knockouts:
    """Evaluate without each of some experts in turn; the router chooses among the others (:func:`_knock_out`).

    Args:
        loaded: the model.
        batches: the documents.
        experts: (layer, expert) to remove; ``ablated`` has their order.
        progress: advanced by documents times experts.
        cache: holds finished documents.
    """
    components: list[Component] = [ExpertPlace(*place) for place in experts]
    return _knock_out(loaded, batches, components, "expert-oracle", progress, cache, ZERO)


def component_losses(
    documents: Sequence[Document], choices: Sequence[Choices], knockouts: Knockouts, metric: KnockoutOutcome
) -> Array:
    """What is lost of an outcome without each component, by question, [component, question]; above 0 where worse.

    Raises:
        HeadroomError: the documents do not define the outcome.
    """
    check_metric(documents, choices, metric, "")
    scorer = _Scorer(documents, choices, metric)
    whole = scorer.scores(knockouts.dense)
    return np.stack([whole - scorer.scores(ablated) for ablated in knockouts.ablated])


def ffn_importance_columns(
    documents: Sequence[Document],
    choices: Sequence[Choices],
    knockouts: Knockouts,
    metric: KnockoutOutcome = "accuracy",
) -> Columns:
    """Build the columns of an FFN-importance artifact: one row per layer, outcomes and errors by question.

    Args:
        documents, choices: of the evaluation.
        knockouts: without each FFN.
        metric: the outcome whose loss is the score (eq. 7 has accuracy), which the documents define.
    """
    scorer = _Scorer(documents, choices, metric)
    whole, dense = scorer.right(knockouts.dense), scorer.scores(knockouts.dense)
    shared = {
        "doc_id": list(whole),
        "accuracy_dense": float(np.mean(list(whole.values()))),
        "correct_dense": list(whole.values()),
        "log_likelihoods_dense": by_choice(documents, knockouts.dense),
        **answer_key(documents, choices),
    }
    rows = []
    for layer, ablated in enumerate(knockouts.ablated):
        right = list(scorer.right(ablated).values())
        # Differences of paired outcomes, so that the standard error is that of pairs.
        score, stderr = mean_and_error(dense - scorer.scores(ablated))
        own: dict[str, Any] = {
            "layer": layer,
            "score": score,
            "stderr": stderr,
            "accuracy_ablated": float(np.mean(right)),
        }
        own |= {"correct_ablated": right, "log_likelihoods": by_choice(documents, ablated)}
        rows.append(own | shared)
    return by_column(rows)


def check_metric(
    documents: Sequence[Document], choices: Sequence[Choices], metric: KnockoutOutcome, asked: str = "ffn.metric "
) -> None:
    """Refuse a metric that these documents do not define, before anything is computed.

    Args:
        documents, choices: as :func:`ffn_importance_columns` takes them.
        metric: an outcome.
        asked: what precedes its name where it was asked for.

    Raises:
        HeadroomError: says why, and which metrics may be defined.
    """
    if metric != "accuracy" and not answer_key_of(answer_key(documents, choices)).defines(metric):
        others = " or ".join(f"{asked}{name}" for name in ("accuracy", "loss") if name != metric)
        raise HeadroomError(f"nothing can be ranked by {asked}{metric}: {explain_undefined(metric)}; take {others}")


def check_oracles(documents: Sequence[Document], choices: Sequence[Choices], criteria: Iterable[str]) -> None:
    """The same for the oracles among some criteria.

    Raises:
        HeadroomError: see :func:`check_metric`.
    """
    for name in criteria:
        if name in CRITERIA and (metric := CRITERIA[name].knockout):
            check_metric(documents, choices, metric, name.removesuffix(metric))


class _Scorer:
    """Scores of an outcome by question, from likelihoods."""

    def __init__(self, documents: Sequence[Document], choices: Sequence[Choices], outcome: KnockoutOutcome) -> None:
        self._documents, self._choices, self._outcome = documents, choices, outcome
        self._key = answer_key_of(answer_key(documents, choices))

    def right(self, results: Likelihoods) -> dict[int, bool]:
        """Whether each question is answered right."""
        return by_question(self._choices, right_documents(self._documents, self._choices, results))

    def scores(self, results: Likelihoods) -> Array:
        """Higher is better, [question]."""
        if self._outcome == "accuracy":
            return np.array(list(self.right(results).values()), dtype=float)
        return self._key.scores(self._outcome, results.values)


def sample_heads(shape: HeadLayout, n: int | None) -> list[Head]:
    """Draw a stratified random sample of heads, in order: equally many of each layer, up to one.

    A larger sample contains the smaller ones.

    Args:
        shape: head layout of the model.
        n: size of the sample; None for all heads.
    """
    rng = np.random.default_rng(SAMPLE_SEED)
    n_layers, _ = shape.grid
    layers = rng.permutation(n_layers)
    orders = [rng.permutation(shape.heads) for _ in range(n_layers)]
    n = shape.total if n is None else min(n, shape.total)
    counts = np.full(n_layers, n // n_layers)
    counts[layers[: n % n_layers]] += 1
    return [
        (layer, int(head))
        for layer, order, count in zip(shape.attending, orders, counts, strict=True)
        for head in sorted(order[:count])
    ]


def _by_layer(components: Sequence[Component]) -> dict[int, list[int]]:
    """Places of the components of each layer."""
    places: dict[int, list[int]] = {}
    for place, (layer, _) in enumerate(components):
        places.setdefault(layer, []).append(place)
    return places


@torch.no_grad()
def _knock_out(
    loaded: LoadedModel,
    batches: Batches,
    components: Sequence[Component],
    label: str,
    progress: Progress | None,
    cache: ResumeCache,
    ablation: Ablation,
) -> Knockouts:
    """Evaluate without each of some components in turn.

    Each layer is a work unit, saved after each batch: a small study is a single batch, of a pass per component.

    Args:
        loaded: the model.
        batches: the documents; a pass keeps the inputs of all layers for one batch at a time.
        components: the components to remove; ``ablated`` has their order.
        label: prefix of the units' names.
        progress: advanced by documents times components.
        cache: holds finished documents.
        ablation: what a removed component gives.
    """
    by_layer = _by_layer(components)
    results = Knockouts(Likelihoods(batches.n_sequences), [Likelihoods(batches.n_sequences) for _ in components])

    def knock_out(batch: Batch) -> None:
        numbers = {member.number for member in batch.members}
        with loaded.interventions.layer_inputs() as inputs:
            predictions = predict_checked(loaded, batch)
        dense.add(batch, [predictions])
        for layer, places in sorted(by_layer.items()):
            start = loaded.shape.restart_at(layer)
            _forget_below(start, inputs)
            if numbers <= ablated[layer].unit.done.keys():
                continue
            without = [components[place] for place in places]
            n_added = ablated[layer].add(batch, _predict_without(loaded, batch, without, start, inputs[start]))
            if progress:
                progress.advance(n_added * len(places))

    with ExitStack() as stack:

        def keep(name: str, likelihoods: list[Likelihoods]) -> _KeptLikelihoods:
            layout = {array: (kind, (len(likelihoods),)) for array, (kind, _) in ENTRY.items()}
            unit = stack.enter_context(cache.unit(f"{label}-{name}", batches.keys, layout, batches.sizes))
            return _KeptLikelihoods(likelihoods, unit, batches)

        dense = keep("whole", [results.dense])
        ablated = {}
        for layer, places in by_layer.items():
            name = f"{layer}-{digest([components[place][1] for place in places], *ablation.key)}"
            ablated[layer] = keep(name, [results.ablated[place] for place in places])
        if progress:
            progress.reuse(sum(len(kept.unit.done) * len(kept.likelihoods) for kept in ablated.values()))
        done = frozenset(dense.unit.done).intersection(*(kept.unit.done for kept in ablated.values()))
        if len(done) < len(batches.documents):
            stack.enter_context(loaded.interventions.replacing(ablation.replacements))
            for _ in batches.each(knock_out, done):
                pass
    return results


class _KeptLikelihoods:
    """Likelihoods that one work unit keeps: the whole model's, or those without each component of one layer."""

    def __init__(self, likelihoods: list[Likelihoods], unit: WorkUnit, batches: Batches) -> None:
        self.likelihoods, self.unit, self._batches = likelihoods, unit, batches
        for number in unit.done:
            self._restore(number)

    def _restore(self, number: int) -> None:
        """Set the values of a finished document."""
        entry, rows = self.unit.done[number], self._batches.sequence_slice(number)
        for column, likelihoods in enumerate(self.likelihoods):
            likelihoods.restore(rows, entry["values"][:, column], entry["greedy"][:, column])

    def add(self, batch: Batch, predictions: Sequence[TokenPredictions]) -> int:
        """Add the predictions of a batch, one item per component; return the number of documents that were new."""
        for likelihoods, added in zip(self.likelihoods, predictions, strict=True):
            likelihoods.add(added)
        n_added = 0
        for member in batch.members:
            if member.number in self.unit.done:
                # An interrupted run finished this document in this layer already: its values stay.
                self._restore(member.number)
                continue
            entries = [each.entry(self._batches.sequence_slice(member.number)) for each in self.likelihoods]
            self.unit.add(member.number, **{name: np.stack([entry[name] for entry in entries], 1) for name in ENTRY})
            n_added += 1
        self.unit.save_if_due()
        return n_added


def _forget_below(layer: int, inputs: dict[int, Tensor]) -> None:
    """Free the inputs of layers below one: no later pass begins there."""
    for passed in [number for number in inputs if number < layer]:
        del inputs[passed]


def _predict_without(
    loaded: LoadedModel, batch: Batch, components: Sequence[Component], start: int, hidden: Tensor
) -> list[TokenPredictions]:
    """Predict without each of some components of one layer, from ``hidden``, which enters layer ``start``."""
    predictions = []
    for component in components:
        with loaded.interventions.restart(start, hidden), _without(loaded, component):
            predictions.append(predict_checked(loaded, batch))
    return predictions


def _without(loaded: LoadedModel, component: Component) -> AbstractContextManager[None]:
    """Leave a component out of passes."""
    if isinstance(component, ExpertPlace):
        return loaded.interventions.experts.without([component])
    layer, head = component
    if head is None:
        return loaded.interventions.without_ffns([layer])
    return loaded.interventions.gates(gates_without(loaded.shape, [(layer, head)]))


def gold_losses(documents: Sequence[Document], choices: Sequence[Choices], results: Likelihoods) -> Array:
    """Compute L(y|x) of eq. 8 for each document, in nats: the mean of -log p over the tokens of its first right choice.

    Raises:
        HeadroomError: a document has no right choice.
    """
    losses = []
    for document, choice, (_, rows) in zip(documents, choices, sequence_slices(documents), strict=True):
        if True not in choice.gold:
            raise HeadroomError(f"document {document.doc_id}: no choice is right, so that its loss is not defined")
        gold = choice.gold.index(True)
        losses.append(-results.values[rows][gold] / document.sequences[gold].n_target)
    return np.array(losses)


def head_oracle_columns(
    documents: Sequence[Document], choices: Sequence[Choices], heads: Sequence[Head], knockouts: Knockouts
) -> Columns:
    """Build the columns of a head-oracle artifact: one row per head, outcomes and errors by question.

    A question of several documents has the mean of their losses.
    """
    numbers = [document.doc_id if document.question is None else document.question for document in choices]
    questions = {question: place for place, question in enumerate(dict.fromkeys(numbers))}
    question_index = [questions[number] for number in numbers]
    sizes = np.bincount(question_index)
    dense = by_question(choices, right_documents(documents, choices, knockouts.dense))
    whole, losses = np.array(list(dense.values())), gold_losses(documents, choices, knockouts.dense)
    shared = {"log_likelihoods_dense": by_choice(documents, knockouts.dense), **answer_key(documents, choices)}
    rows = []
    for (layer, head), ablated in zip(heads, knockouts.ablated, strict=True):
        right = np.array(list(by_question(choices, right_documents(documents, choices, ablated)).values()))
        rises = np.bincount(question_index, gold_losses(documents, choices, ablated) - losses) / sizes
        lost, stderr = mean_and_error(whole.astype(float) - right)
        rise, rise_stderr = mean_and_error(rises)
        rows.append(
            {
                "layer": layer,
                "head": head,
                "loss_rise": rise,
                "loss_stderr": rise_stderr,
                "loss_rise_even": rises[::2].mean(),
                "loss_rise_odd": rises[1::2].mean(),
                "accuracy_lost": lost,
                "accuracy_stderr": stderr,
                "doc_id": list(dense),
                "loss_rises": rises.tolist(),
                "correct_dense": whole.tolist(),
                "correct_ablated": right.tolist(),
                "log_likelihoods": by_choice(documents, ablated),
                **shared,
            }
        )
    return by_column(rows)
