"""Rankings as they are read: heads, FFNs or experts in pruning order, and the artifact that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from lm_headroom.artifacts.ranking import EXPERT_RANKING, FFN_RANKING, RANKING
from lm_headroom.artifacts.store import ArtifactFile, ArtifactSchema, read_artifact
from lm_headroom.errors import HeadroomError
from lm_headroom.study import choices

Head = tuple[int, int]
"""Layer and head, from 0."""
Component = TypeVar("Component", Head, int)
"""A head or an expert (layer and number, from 0), or the layer of an FFN."""


@dataclass(frozen=True)
class Ranking(Generic[Component]):
    """All heads, FFNs or experts of a model, the first to be pruned first.

    Attributes:
        component: what is ranked.
        order: heads as (layer, head), experts as (layer, expert), or the layers of FFNs.
        artifact: the file that the order was read from.
    """

    component: choices.Component
    order: tuple[Component, ...]
    artifact: ArtifactFile

    def reversed(self) -> Ranking[Component]:
        """The same, the last to be pruned first."""
        return replace(self, order=self.order[::-1])

    def check_fits(self, heads: tuple[int, int], n_ffns: int, experts: tuple[Sequence[int], int] = ((), 0)) -> None:
        """Refuse a ranking of other components than a model has.

        Args:
            heads: layers of the model that have heads, and heads of each.
            n_ffns: FFNs of the model.
            experts: numbers of the layers that have experts, and experts of each.

        Raises:
            HeadroomError: says what the ranking has, and what the model.
        """
        path = self.artifact.path
        if self.component == "heads":
            layers, numbers = zip(*self.order, strict=True)
            check_shape(path, (len(set(layers)), max(numbers) + 1), heads)
        elif self.component == "experts":
            places, number = experts
            if sorted(self.order) != [(layer, expert) for layer in sorted(places) for expert in range(number)]:
                raise HeadroomError(
                    f"{path}: ranks {len(self.order)} experts, the model has {number} in each of {len(places)} layers; "
                    "it is a ranking of another model"
                )
        elif len(self.order) != n_ffns:
            raise HeadroomError(
                f"{path}: ranks {len(self.order)} FFNs, the model has {n_ffns}; it is a ranking of another model"
            )


def check_shape(path: Path, shape: tuple[int, int], expected: tuple[int, int]) -> None:
    """Refuse an artifact of other heads than a model has.

    Args:
        path: the artifact.
        shape: its layers that have heads, and heads of each.
        expected: the model's.

    Raises:
        HeadroomError: says what both have.
    """
    if shape != expected:
        raise HeadroomError(
            f"{path}: ranks {shape[0]} layers x {shape[1]} heads, the model has {expected[0]} x {expected[1]}; "
            "it is a ranking of another model"
        )


def read_ranking(path: Path, kind: ArtifactSchema = RANKING, **expected: Any) -> Ranking[Head]:
    """Read a ranking of heads.

    Args:
        path: the artifact.
        kind: which ranking of heads it must be.
        expected: what its provenance must say (see :func:`lm_headroom.artifacts.store.read_artifact`).

    Raises:
        ArtifactError: it is none, or not the one expected.
    """
    return order_heads(read_artifact(path, kind, **expected))


def order_heads(artifact: ArtifactFile) -> Ranking[Head]:
    """The ranking that an artifact of heads holds."""
    return Ranking("heads", _pairs(artifact, "head"), artifact)


def order_experts(artifact: ArtifactFile) -> Ranking[Head]:
    """The ranking that an artifact of experts holds."""
    return Ranking("experts", _pairs(artifact, "expert"), artifact)


def _pairs(artifact: ArtifactFile, column: str) -> tuple[tuple[int, int], ...]:
    """Layers and the numbers of another column, by rank."""
    columns = (artifact.table.column(name).to_pylist() for name in ("rank", "layer", column))
    return tuple((layer, number) for _, layer, number in sorted(zip(*columns, strict=True)))


def read_any_ranking(path: Path) -> Ranking[Any]:
    """Read a ranking of heads, FFNs or experts; see :func:`read_ranking`."""
    orders: dict[ArtifactSchema, Callable[[ArtifactFile], Ranking[Any]]]
    orders = {RANKING: order_heads, FFN_RANKING: order_ffns, EXPERT_RANKING: order_experts}
    artifact = read_artifact(path, *orders)
    return next(order for kind, order in orders.items() if kind.name == artifact.provenance["kind"])(artifact)


def read_ffn_ranking(path: Path, **expected: Any) -> Ranking[int]:
    """Read a ranking of FFNs; see :func:`read_ranking`."""
    return order_ffns(read_artifact(path, FFN_RANKING, **expected))


def order_ffns(artifact: ArtifactFile) -> Ranking[int]:
    """The ranking that an artifact of FFNs holds."""
    rows = sorted(zip(*(artifact.table.column(name).to_pylist() for name in ("rank", "layer")), strict=True))
    return Ranking("ffns", tuple(layer for _, layer in rows), artifact)
