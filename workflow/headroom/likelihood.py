"""The engine: log-likelihoods of continuations, with the choices of a document branching from their common prefix.

A document's rows (context and continuation, without the last token) are laid out once as their longest common token
prefix followed by what each row adds. Vocabulary logits are computed only at positions that predict a continuation
token, and once where several rows predict from the same position.

      columns:   |---------- prefix, C ----------|---- branches, K ----|
      document 0   The  sky  is  <pad>              very blue | red
      positions    0    1    2    -                 3    4    | 3
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headroom.checkpoints import Loaded
from headroom.errors import HeadroomError
from headroom.seam import Layout

Array = np.ndarray[Any, np.dtype[np.float64]]
LOGIT_ROWS = 256
"""Positions whose vocabulary logits are computed at once."""


@dataclass(frozen=True)
class Row:
    """One context with one continuation.

    Attributes:
        tokens: context and continuation.
        n_target: how many of them, at the end, are the continuation.
    """

    tokens: tuple[int, ...]
    n_target: int

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: all but the last token."""
        return self.tokens[:-1]


@dataclass(frozen=True)
class Document:
    """A document's rows, in the order of its choices; ``truncated`` is the number of context tokens cut away."""

    doc_id: int
    rows: tuple[Row, ...]
    truncated: int = 0


@dataclass(frozen=True)
class Batch:
    """Documents laid out for one forward pass (B documents, C prefix and K branch columns).

    Attributes:
        input_ids, position_ids: [B, C + K].
        layout: the attention layout.
        positions: flat indices into [B * (C + K)] where logits are needed, [P].
        sources: for each target token, the index into ``positions`` that predicts it, [T].
        targets: the target tokens, [T].
        rows: the (global) row number of each target token, [T].
        n_documents: B.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: Layout
    positions: Tensor
    sources: Tensor
    targets: Tensor
    rows: Tensor
    n_documents: int


def encode(pairs: Sequence[tuple[int, str, str]], tokenizer: Any, window: int, add_bos: bool = False) -> list[Document]:
    """Tokenise (doc_id, context, continuation) triples as lm-eval's HFLM does; rows of a document must be adjacent.

    Trailing spaces of a context move to its continuation. Too long documents lose context on the left, once per
    document by its longest row, so that its choices keep one context.

    Args:
        pairs: the triples.
        tokenizer: a transformers tokenizer; no special tokens are added but ``add_bos``.
        window: largest number of input tokens.
        add_bos: put the BOS token (else EOS) before each context.

    Raises:
        HeadroomError: a continuation has no tokens or does not fit the window.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    documents: list[tuple[int, list[tuple[list[int], list[int]]]]] = []
    for doc_id, context, continuation in pairs:
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        prefix = _ids(tokenizer, stripped)
        whole = _ids(tokenizer, stripped + continuation)
        target = whole[len(prefix) :]
        if add_bos or not prefix:
            # An empty context is conditioned on the start token, as HFLM does.
            prefix = [start, *prefix]
        if not target:
            raise HeadroomError(f"document {doc_id}: the continuation {continuation!r} has no tokens of its own")
        if not documents or documents[-1][0] != doc_id:
            documents.append((doc_id, []))
        documents[-1][1].append((prefix, target))
    return [_fit(doc_id, rows, window) for doc_id, rows in documents]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _fit(doc_id: int, rows: list[tuple[list[int], list[int]]], window: int) -> Document:
    excess = max(0, max(len(prefix) + len(target) - 1 for prefix, target in rows) - window)
    if excess >= min(len(prefix) for prefix, _ in rows):
        longest = max(len(target) for _, target in rows)
        raise HeadroomError(
            f"document {doc_id}: a continuation of {longest} tokens leaves no room for its context in the model's "
            f"window of {window} tokens; leave the document out or take a model with a longer window"
        )
    return Document(doc_id, tuple(Row((*p[excess:], *t), len(t)) for p, t in rows), excess)


def common_prefix(rows: Sequence[Row]) -> int:
    """Length of the longest token prefix that all rows' inputs share."""
    shortest = min(len(row.inputs) for row in rows)
    for place in range(shortest):
        if len({row.tokens[place] for row in rows}) > 1:
            return place
    return shortest


def pack(documents: Sequence[Document], token_budget: int, device: torch.device | str = "cpu") -> list[Batch]:
    """Lay documents out in batches of at most ``token_budget`` columns in all (a longer document goes alone).

    Rows are numbered in the order of ``documents``; long documents come first, so that a batch that does not fit
    the memory fails at once.
    """
    first_row = np.cumsum([0, *(len(document.rows) for document in documents)])
    sizes = []
    for document in documents:
        prefix = common_prefix(document.rows)
        sizes.append((prefix, sum(len(row.inputs) - prefix for row in document.rows)))
    order = sorted(range(len(documents)), key=lambda i: (-sum(sizes[i]), -sizes[i][0], i))
    batches: list[Batch] = []
    chosen: list[int] = []
    width = (0, 0)
    for index in order:
        grown = (max(width[0], sizes[index][0]), max(width[1], sizes[index][1]))
        if chosen and sum(grown) * (len(chosen) + 1) > token_budget:
            batches.append(_lay_out([(documents[i], sizes[i][0], int(first_row[i])) for i in chosen], width, device))
            chosen, grown = [], sizes[index]
        chosen.append(index)
        width = grown
    if chosen:
        batches.append(_lay_out([(documents[i], sizes[i][0], int(first_row[i])) for i in chosen], width, device))
    return batches


def _lay_out(members: list[tuple[Document, int, int]], width: tuple[int, int], device: torch.device | str) -> Batch:
    columns_prefix, columns_branch = width
    columns = columns_prefix + columns_branch
    input_ids = np.zeros((len(members), columns), dtype=np.int64)
    position_ids = np.zeros_like(input_ids)
    mask = np.zeros((len(members), 1, columns_branch, columns), dtype=bool)
    # Padding columns attend to themselves: a row of the mask with nothing in it would make NaNs.
    mask[:, :, np.arange(columns_branch), columns_prefix + np.arange(columns_branch)] = True
    needed: dict[int, int] = {}
    sources, targets, rows = [], [], []
    for place, (document, prefix, first_row) in enumerate(members):
        input_ids[place, :prefix] = document.rows[0].tokens[:prefix]
        position_ids[place, :prefix] = np.arange(prefix)
        start = columns_prefix
        for number, row in enumerate(document.rows):
            length = len(row.inputs) - prefix
            end = start + length
            input_ids[place, start:end] = row.inputs[prefix:]
            position_ids[place, start:end] = prefix + np.arange(length)
            branch = slice(start - columns_prefix, end - columns_prefix)
            mask[place, 0, branch, :prefix] = True
            mask[place, 0, branch, start:end] = np.tri(length, dtype=bool)
            for position in range(len(row.inputs) - row.n_target, len(row.inputs)):
                column = position if position < prefix else start + position - prefix
                sources.append(needed.setdefault(place * columns + column, len(needed)))
                targets.append(row.tokens[position + 1])
                rows.append(first_row + number)
            start = end

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(values, device=device)

    return Batch(
        tensor(input_ids),
        tensor(position_ids),
        Layout(columns_prefix, tensor(mask) if columns_branch else None),
        tensor(list(needed)),
        tensor(sources),
        tensor(targets),
        tensor(rows),
        len(members),
    )


def target_log_probabilities(loaded: Loaded, batch: Batch) -> Tensor:
    """log p of each target token, [T], in at least float32. Differentiable where the model's activations are."""
    return predict(loaded, batch)[0]


def predict(loaded: Loaded, batch: Batch) -> tuple[Tensor, Tensor]:
    """log p of each target token, [T], and whether it is the likeliest token at its place, bool [T]."""
    model = loaded.model
    with loaded.seam.layout(batch.layout):
        hidden = model.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
    head = model.get_output_embeddings()
    needed = hidden.reshape(-1, hidden.shape[-1])[batch.positions.to(hidden.device)]
    parts, greedy = [], []
    sources = batch.sources.to(hidden.device)
    # Targets are taken chunk by chunk of their positions, so that [positions, vocabulary] never exists whole.
    order = torch.argsort(sources, stable=True)
    bounds = torch.searchsorted(
        sources[order], torch.arange(0, len(needed) + LOGIT_ROWS, LOGIT_ROWS, device=hidden.device)
    )
    for chunk, start in enumerate(range(0, len(needed), LOGIT_ROWS)):
        logits = head(needed[start : start + LOGIT_ROWS])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        members = order[bounds[chunk] : bounds[chunk + 1]]
        places = sources[members] - start
        targets = batch.targets.to(hidden.device)[members]
        parts.append(logits[places, targets] - torch.logsumexp(logits, dim=-1)[places])
        greedy.append(logits.detach().argmax(dim=-1)[places] == targets)
    back = torch.argsort(order)
    return torch.cat(parts)[back], torch.cat(greedy)[back]


class Likelihoods:
    """Log-likelihoods of rows, filled batch by batch.

    Attributes:
        values: nats, float64 [n_rows].
        greedy: whether greedy decoding gives the row's continuation, bool [n_rows].
    """

    def __init__(self, n_rows: int) -> None:
        self._totals = torch.zeros(n_rows, dtype=torch.float64)
        self._misses = torch.zeros(n_rows, dtype=torch.int64)

    def add(self, loaded: Loaded, batch: Batch) -> None:
        """Run a batch and count its rows in."""
        values, greedy = predict(loaded, batch)
        rows = batch.rows.cpu()
        self._totals.index_add_(0, rows, values.double().cpu())
        self._misses.index_add_(0, rows, (~greedy).long().cpu())

    @property
    def values(self) -> Array:
        """Log-likelihoods.

        Raises:
            HeadroomError: one is not finite; names the row.
        """
        if not torch.isfinite(self._totals).all():
            row = int((~torch.isfinite(self._totals)).nonzero()[0])
            raise HeadroomError(
                f"row {row} of the prompts has log-likelihood {self._totals[row].item()}; the model's numbers "
                "overflow: try dtype float32 or bfloat16"
            )
        result: Array = self._totals.numpy()
        return result

    @property
    def greedy(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Rows that greedy decoding gives."""
        result: np.ndarray[Any, np.dtype[np.bool_]] = (self._misses == 0).numpy()
        return result


@torch.no_grad()
def likelihoods(
    loaded: Loaded,
    batches: Iterable[Batch],
    n_rows: int,
    gates: Tensor | None = None,
    without_ffns: Iterable[int] = (),
) -> Likelihoods:
    """Each row's continuation given its context, with heads gated by ``gates`` and some layers' FFNs left out."""
    found = Likelihoods(n_rows)
    with loaded.seam.gates(gates), loaded.seam.without_ffns(without_ffns):
        for batch in batches:
            found.add(loaded, batch)
    return found


def log_likelihoods(loaded: Loaded, batches: Iterable[Batch], n_rows: int, gates: Tensor | None = None) -> Array:
    """Log-likelihood in nats of each row's continuation given its context, [n_rows].

    Raises:
        HeadroomError: a log-likelihood is not finite; names the row.
    """
    return likelihoods(loaded, batches, n_rows, gates).values


def rows_of(documents: Sequence[Document]) -> Iterator[tuple[int, slice]]:
    """(doc_id, slice of its row numbers) for each document, in order."""
    start = 0
    for document in documents:
        yield document.doc_id, slice(start, start + len(document.rows))
        start += len(document.rows)
