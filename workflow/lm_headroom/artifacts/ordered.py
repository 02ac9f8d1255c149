"""Rankings as they are read: heads or FFNs in the order in which they are pruned, and the artifact that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from lm_headroom.artifacts.ranking import FFN_RANKING, RANKING
from lm_headroom.artifacts.store import ArtifactFile, ArtifactSchema, read_artifact
from lm_headroom.errors import HeadroomError
from lm_headroom.study import choices

Head = tuple[int, int]
"""Layer and head, from 0."""
Component = TypeVar("Component", Head, int)
"""A head, or the layer of an FFN."""


@dataclass(frozen=True)
class Ranking(Generic[Component]):
    """All heads or FFNs of a model, the first to be pruned first.

    Attributes:
        component: what is ranked.
        order: heads as (layer, head), or the layers of FFNs.
        artifact: the file that the order was read from.
    """

    component: choices.Component
    order: tuple[Component, ...]
    artifact: ArtifactFile

    def reversed(self) -> Ranking[Component]:
        """The same, the last to be pruned first."""
        return replace(self, order=self.order[::-1])

    def check_fits(self, heads: tuple[int, int], n_ffns: int) -> None:
        """Refuse a ranking of other components than a model has.

        Args:
            heads: layers of the model that have heads, and heads of each.
            n_ffns: FFNs of the model.

        Raises:
            HeadroomError: says what the ranking has, and what the model.
        """
        path = self.artifact.path
        if self.component == "heads":
            layers, numbers = zip(*self.order, strict=True)
            check_shape(path, (len(set(layers)), max(numbers) + 1), heads)
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
    columns = (artifact.table.column(name).to_pylist() for name in ("rank", "layer", "head"))
    rows = sorted(zip(*columns, strict=True))
    return Ranking("heads", tuple((layer, head) for _, layer, head in rows), artifact)


def read_ffn_ranking(path: Path, **expected: Any) -> Ranking[int]:
    """Read a ranking of FFNs; see :func:`read_ranking`."""
    return order_ffns(read_artifact(path, FFN_RANKING, **expected))


def order_ffns(artifact: ArtifactFile) -> Ranking[int]:
    """The ranking that an artifact of FFNs holds."""
    rows = sorted(zip(*(artifact.table.column(name).to_pylist() for name in ("rank", "layer")), strict=True))
    return Ranking("ffns", tuple(layer for _, layer in rows), artifact)
