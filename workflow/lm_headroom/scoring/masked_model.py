"""Heads and FFNs of any loaded model pruned for the length of a ``with`` block, whatever runs in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from lm_headroom.analysis.ranking import count_at
from lm_headroom.engine import attachment
from lm_headroom.engine.interventions import Interventions
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.unembedding import FACTOR
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architectures import INFERRED
from lm_headroom.scoring.ranking_like import order_of

if TYPE_CHECKING:
    import pandas as pd

    RankingLike: TypeAlias = str | Path | pd.DataFrame | Iterable[Any]

REPLACED = ("forward", "_old_forward", "_attn", "lm_headroom_interventions", FACTOR, INFERRED)
"""Attributes of modules that attaching sets; they are in a module's own dictionary only where somebody set them."""
IMPLEMENTATIONS = ("_attn_implementation_internal", "_experts_implementation_internal")
"""Attributes of a configuration that name the functions of attention and of experts."""


class Attachment:
    """A model with interventions attached, and what is pruned from it now.

    Attributes:
        interventions: the model's interventions.
        pruned: heads and FFNs that each block in force prunes, the outermost first.
        kept: whether it stays when nothing is pruned any more, since :func:`attach` was called.
    """

    kept = False

    def __init__(self, model: Any) -> None:
        modules = list(model.modules())
        configs = {id(c): c for module in modules if (c := getattr(module, "config", None)) is not None}
        self._before: list[tuple[dict[str, Any], tuple[str, ...]]] = [
            *((module.__dict__, REPLACED) for module in modules),
            *((config.__dict__, IMPLEMENTATIONS) for config in configs.values()),
        ]
        self._values = [{name: own[name] for name in names if name in own} for own, names in self._before]
        self.pruned: list[tuple[frozenset[tuple[int, int]], frozenset[int]]] = []
        self._in_force = ExitStack()
        try:
            self.interventions: Interventions = attachment.attach(model)
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Give the model back each attribute as it was."""
        for (own, names), values in zip(self._before, self._values, strict=True):
            for name in names:
                own.pop(name, None)
            own.update(values)

    @contextmanager
    def without(self, heads: Iterable[tuple[int, int]] = (), ffns: Iterable[int] = ()) -> Iterator[None]:
        """Prune these heads and FFNs, beside those of the blocks around this one."""
        added = frozenset(heads), frozenset(ffns)
        self.pruned.append(added)
        try:
            self._renew()
            yield
        finally:
            # The last equal one: blocks that end in another order than they began leave the same union.
            del self.pruned[len(self.pruned) - 1 - self.pruned[::-1].index(added)]
            self._renew()

    @contextmanager
    def lending_gates(self) -> Iterator[Tensor | None]:
        """The gates of all blocks, None without any, for passes that set gates of their own, which ends these."""
        try:
            yield self._gates()
        finally:
            self._renew()

    def _gates(self) -> Tensor | None:
        heads = frozenset().union(*(heads for heads, _ in self.pruned))
        return gates_without(self.interventions.shape, heads) if heads else None

    def _renew(self) -> None:
        self._in_force.close()
        ffns = frozenset().union(*(ffns for _, ffns in self.pruned))
        gates = self._gates()
        if gates is not None:
            self._in_force.enter_context(self.interventions.gates(gates))
        if ffns:
            self._in_force.enter_context(self.interventions.without_ffns(ffns))


def attach(model: Any) -> Attachment:
    """Route a model's attention through interventions, and prove on the model that they are exact.

    ``mask`` and ``without_ffns`` attach a model for their block; attaching it first saves the proofs, a few passes over
    12 tokens, in each block. An attached model is attached once.

    Args:
        model: a transformers model of a supported family (docs/models.md), in evaluation mode.

    Raises:
        HeadroomError: it is no such model, it is in training mode, it lacks pruned heads, or interventions on it are
            not exact (see :func:`lm_headroom.engine.attachment.attach`). The model is then as it was.

    Example:
        >>> import lm_headroom
        >>> attached = lm_headroom.attach(model)
        >>> attached.interventions.shape.layers
        3
        >>> lm_headroom.detach(model)
    """
    attached = _attached(model)
    attached.kept = True
    return attached


def _attached(model: Any) -> Attachment:
    """A model's attachment, made where there is none; see :func:`attach`."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config") or not hasattr(model, "base_model"):
        raise HeadroomError(
            f"expected a transformers model, got {type(model).__name__}; of a wrapper, such as lm-eval's HFLM, "
            "pass the model inside it"
        )
    if any(module.training for module in model.modules()):
        raise HeadroomError(
            "the model, or a part of it, is in training mode, where dropout changes each pass; call model.eval() first"
        )
    left = getattr(model.config, "lm_headroom_pruned", {"heads_left": ()})["heads_left"]
    if any(len(heads) < model.config.num_attention_heads for heads in left):
        raise HeadroomError(
            "the model lacks heads that an export has removed for good, so that its layers differ; mask or score the "
            "whole model, or a plain export ('lm-headroom export-pruned --even')"
        )
    known: Attachment | None = model.__dict__.get("lm_headroom_attachment")
    if known is not None:
        return known
    new = Attachment(model)
    model.__dict__["lm_headroom_attachment"] = new
    return new


def detach(model: Any) -> None:
    """Restore a model exactly as it was before :func:`attach`; a model that is not attached stays as it is.

    Raises:
        HeadroomError: heads or FFNs of it are pruned at the moment.

    Example:
        >>> import lm_headroom
        >>> lm_headroom.detach(model)
    """
    attached: Attachment | None = model.__dict__.get("lm_headroom_attachment")
    if attached is None:
        return
    if attached.pruned:
        raise HeadroomError("the model is masked; leave the blocks of mask and without_ffns before detaching it")
    del model.__dict__["lm_headroom_attachment"]
    attached.restore()


@contextmanager
def mask(model: Any, ranking: RankingLike, percent: int) -> Iterator[Attachment]:
    """Prune the first heads of a ranking for the length of a block.

    ``generate``, lm-eval's ``simple_evaluate`` and loops of your own run in it as always. In a block within a block,
    the heads of both are pruned. When the outermost block ends, by an exception too, the model is restored exactly,
    unless :func:`attach` was called. The model may be trained in it, and weights may change in it, though not through
    their ``.data``, where torch counts no change.

    Args:
        model: a transformers model of a supported family.
        ranking: all heads, the least important first: a results file's path (or a CSV or Parquet file with columns
            layer, head and rank or score), a pandas frame with these columns, or a list of (layer, head). Lower scores
            are pruned first; ties go by layer, then head.
        percent: of the model's heads, 0 to 100. It rounds down: 30 percent of 12 heads are 3.

    Raises:
        HeadroomError: the ranking is none, of another model, or too short; percent is out of range; or the model cannot
            be attached.

    Example:
        >>> import lm_headroom
        >>> ranking = [(layer, head) for layer in range(3) for head in range(4)]
        >>> with lm_headroom.mask(model, ranking, 30):
        ...     print(model(ids).logits.shape)
        torch.Size([1, 4, 523])
    """
    with attached_for_a_block(model) as attached:
        shape = attached.interventions.shape
        order = order_of(ranking, (shape.layers, shape.heads), shape.without_heads)
        with attached.without(heads=_first(order, percent, shape.total, "heads")):
            yield attached


@contextmanager
def without_ffns(model: Any, ranking: RankingLike, percent: int | None = None) -> Iterator[Attachment]:
    """Skip FFNs for the length of a block; the residual stream passes them by. See :func:`mask`.

    Args:
        model: a transformers model of a supported family.
        ranking: layers, the least important FFN first: a list of layers, or a file or frame with columns layer and
            rank or score.
        percent: of the model's FFNs, 0 to 100, rounded down; None for all layers of a list.

    Raises:
        HeadroomError: as :func:`mask`; or there is no percent, and the ranking is no list.

    Example:
        >>> import lm_headroom
        >>> with lm_headroom.without_ffns(model, [1]):
        ...     print(model(ids).logits.shape[:2])
        torch.Size([1, 4])
    """
    if percent is None:
        if not isinstance(ranking, list | tuple | set | frozenset | range):
            raise HeadroomError("without a percent, expected a list of layers; give the percent of FFNs to leave out")
        # All are left out, so that a set's order does not matter.
        ranking = list(ranking)
    with attached_for_a_block(model) as attached:
        layers = attached.interventions.shape.layers
        order = order_of(ranking, (layers,))
        chosen = order if percent is None else _first(order, percent, layers, "FFNs")
        with attached.without(ffns=[layer for (layer,) in chosen]):
            yield attached


@contextmanager
def attached_for_a_block(model: Any) -> Iterator[Attachment]:
    """Attach a model, and detach it after its last block unless :func:`attach` was called."""
    attached = _attached(model)
    try:
        yield attached
    finally:
        if not attached.kept and not attached.pruned:
            detach(model)


def _first(order: Sequence[Any], percent: int, total: int, components: str) -> Sequence[Any]:
    """The part of an order that is pruned at a percent of all components of the model."""
    try:
        whole = -1 if isinstance(percent, bool) else index(percent)
    except TypeError:
        whole = -1
    if not 0 <= whole <= 100:
        raise HeadroomError(f"percent is {percent!r}; expected a whole number from 0 to 100")
    count = count_at(whole, total)
    if count > len(order):
        raise HeadroomError(f"the ranking has {len(order)} of {total} {components}; {percent} percent are {count}")
    return order[:count]
