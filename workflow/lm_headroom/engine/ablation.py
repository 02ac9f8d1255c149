"""What removed heads and FFNs give: zeros, their means over the scoring documents, or another document's activations.

Zeros, as in the paper, take a component's constant part with them, which the layers above expect. The mean keeps it and
removes what depends on the input; a resampled activation also keeps the component's spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lm_headroom.engine.interventions import Replacements
from lm_headroom.engine.layout import Layout
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Batch, Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, digest
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.settings import other_dtype

DONORS = 16
"""Most scoring documents whose activations ``resample`` keeps in memory."""


class Ablation:
    """What removed heads and FFNs give; base of the kinds, and itself the one that gives zeros.

    Attributes:
        kind: its name in a study.
        key: what tells its results from those of zeros in the resume cache.
        by_document: whether it differs by document, so that no two documents may share a tree.
    """

    kind: str = "zero"
    by_document = False
    key: tuple[str, ...] = ()

    @property
    def replacements(self) -> Replacements | None:
        """What takes the place of zeros. The first access runs the model, outside of other interventions."""
        return None


ZERO = Ablation()


class _Measured(Ablation):
    """Of activations of the whole model on scoring documents."""

    def __init__(
        self,
        loaded: LoadedModel,
        documents: Sequence[Document],
        token_budget: int | Callable[[], int],
        cache: ResumeCache = NO_CACHE,
        seed: int = 0,
    ) -> None:
        """Keep what a forward pass needs; none runs yet.

        Args:
            loaded: the model.
            documents: the scoring documents, a sequence each: context and first right choice.
            token_budget: tokens per batch.
            cache: holds what is small.
            seed: draws documents where some are drawn.
        """
        self._loaded, self._documents, self._cache, self._seed = loaded, documents, cache, seed
        # No two documents share a tree, so that each position of each counts once.
        self._batches = Batches(documents, token_budget, lambda: loaded.device, share=False)

    @cached_property
    def key(self) -> tuple[str, ...]:  # type: ignore[override]
        """The kind, and the documents that decide what it gives."""
        return self.kind, digest(self._seed, self._batches.keys)

    def _activations(self, batches: Batches) -> Iterator[tuple[Batch, list[Tensor], list[Tensor]]]:
        """Per batch and layer: A of all positions, [n, head, d_head], and what the FFN adds, [n, d_model]."""
        loaded, shape = self._loaded, self._loaded.shape
        n_layers = range(shape.layers)
        interventions = loaded.interventions

        def run(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
            # The last FFN at all columns, too.
            layout = replace(batch.layout(), needed=None)
            with interventions.layout(layout), interventions.capture() as heads, interventions.capture_ffns() as ffns:
                architectures.body(loaded.model)(
                    input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
                )
            added = [ffns[n].value.flatten(0, -2) for n in n_layers]
            # Layers without heads have none to replace; zeros keep their place, on the device of the layer.
            size = len(added[0]), shape.heads, shape.widest
            return [heads[n].value.flatten(0, -3) if n in heads else added[n].new_zeros(size) for n in n_layers], added

        for batch, (heads, ffns) in batches.each(run):
            if not all(torch.isfinite(values).all() for values in (*heads, *ffns)):
                raise HeadroomError(
                    f"activations on the scoring documents are not finite, so {self.kind} ablation has none to give; "
                    + other_dtype(str(loaded.model.dtype))
                )
            yield batch, heads, ffns


class MeanAblation(_Measured):
    """The mean of a head's A, or of what an FFN adds, over all positions of all scoring documents."""

    kind = "mean"

    @cached_property
    @torch.no_grad()
    def replacements(self) -> Replacements:
        """One row per layer."""
        shape = self._loaded.shape
        d_model = architectures.n_outputs(next(iter(architectures.output_projections(self._loaded.skeleton).values())))
        n_heads = shape.heads * shape.widest
        layout = {"means": ("f", (shape.layers, n_heads + d_model))}
        with self._cache.unit("-".join(self.key), [digest(*self.key)], layout) as unit:
            if not unit.complete:
                unit.add(0, means=self._measure()[None])
            means = torch.from_numpy(unit.done[0]["means"][0])
        heads = [
            row[: shape.heads * width].unflatten(0, (shape.heads, width))[None]
            for row, width in zip(means, map(self._width_of, range(shape.layers)), strict=True)
        ]
        return Replacements(heads, means[:, None, n_heads:].unbind())

    def _width_of(self, layer: int) -> int:
        """Width of a layer's heads; that of the widest where it has none, whose place zeros keep."""
        shape = self._loaded.shape
        return shape.d_head_of(layer) if layer in shape.attending else shape.widest

    def _measure(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Means of each layer's heads and FFN, [layer, head * widest d_head + d_model], zeros behind narrow heads."""
        total, shape = torch.zeros(()), self._loaded.shape
        for _, heads, ffns in self._activations(self._batches):
            layers = [
                (functional.pad(a.flatten(1), (0, shape.heads * shape.widest - a[0].numel())), f)
                for a, f in zip(heads, ffns, strict=True)
            ]
            total = total + torch.stack([torch.cat(both, dim=1).double().sum(dim=0).cpu() for both in layers])
        means: np.ndarray[Any, np.dtype[np.float64]] = (total / self._batches.columns).numpy()
        return means


class ResampleAblation(_Measured):
    """The activation at the same position of another scoring document, the donor, drawn for each document.

    The donor is one of at most :data:`DONORS` documents; neither the seed's draw of these nor a document's own depends
    on what else is evaluated. Where a document is longer, position p takes position p mod n of a donor of n tokens.
    """

    kind = "resample"
    by_document = True

    @cached_property
    def donors(self) -> list[Document]:
        """The scoring documents that others take activations from."""
        order = np.random.default_rng(self._seed).permutation(len(self._documents))
        return [self._documents[number] for number in order[:DONORS]]

    def donor(self, document: Document) -> int:
        """The number of a document's donor among the donors.

        Raises:
            HeadroomError: all scoring documents that may be donors are this one.
        """
        others = [n for n, donor in enumerate(self.donors) if donor.sequences[0] not in document.sequences]
        if not others:
            raise HeadroomError(
                f"document {document.doc_id}: resample ablation takes activations of another scoring document, and "
                "there is none; raise limits.importance, or set ablation to mean or zero"
            )
        return others[int(digest(self._seed, document.sequences), 16) % len(others)]

    @cached_property
    @torch.no_grad()
    def replacements(self) -> Replacements:
        """The donors end to end, a row per position."""
        batches = Batches(self.donors, self._batches.token_budget, lambda: self._loaded.device, share=False)
        starts = np.cumsum([0, *(len(donor.sequences[0].inputs) for donor in self.donors)])
        values: list[list[Tensor]] = []
        for batch, heads, ffns in self._activations(batches):
            rows = torch.cat([torch.arange(*starts[m.number : m.number + 2]) for m in batch.members])
            for which, both in enumerate((heads, ffns)):
                if len(values) <= which:
                    values.append([x.new_empty(int(starts[-1]), *x.shape[1:], device="cpu") for x in both])
                for kept, new in zip(values[which], both, strict=True):
                    kept[rows] = new.cpu()

        def rows_of(layout: Layout) -> Tensor:
            positions = torch.arange(layout.columns) if layout.positions is None else layout.positions.cpu()
            parts = positions.split([tree.columns for tree in layout.trees])
            rows = []
            for document, places in zip(layout.documents, parts, strict=True):
                start, end = starts[self.donor(document) :][:2]
                rows.append(int(start) + places % int(end - start))
            return torch.cat(rows)

        return Replacements(values[0], values[1], rows_of)


KINDS: dict[str, type[_Measured]] = {"mean": MeanAblation, "resample": ResampleAblation}
"""The kinds that need activations."""
