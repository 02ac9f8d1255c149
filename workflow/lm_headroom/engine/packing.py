"""Documents as token trees, packed into batches without padding: what is shared is computed once.

The rows of a document (context and continuation, without the last token) are laid out as a tree of tokens, so that
choices share their context and whatever else they begin with. Documents that begin alike, such as the questions on one
paragraph, may share a tree. A batch is one line of trees, end to end:

      columns      |-------- trunk --------|- branches -| |---- trunk ----| ...
      tree 0       The  sky  is  very blue  red           tree 1
      positions    0    1    2   3    4     3             0  1  ...

The trunk is the tree's first row, causal as it stands. Each branch column sees its ancestors.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, zip_longest
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lm_headroom.engine.interventions import Layout, TreeMask
from lm_headroom.engine.resume_cache import digest
from lm_headroom.errors import MORE_MEMORY, HeadroomError

Ints = np.ndarray[Any, np.dtype[np.int64]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class TokenSequence:
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
    """A document's token sequences, one per choice; ``truncated`` is the number of context tokens that were cut."""

    doc_id: int
    sequences: tuple[TokenSequence, ...]
    truncated: int = 0


@dataclass(frozen=True)
class TreeDocument:
    """A document in a tree: its number among all documents, and the number of its first row among all rows."""

    document: Document
    number: int
    first_sequence: int


@dataclass(frozen=True)
class Tree:
    """Rows laid out with what they share once (n columns, R of them in the trunk).

    Attributes:
        members: the documents.
        tokens, positions: [n].
        trunk: R; each of the first R columns follows the one before.
        segments: which unbranched stretch of the tree each column is in, [n].
        ancestors: whether a segment is another or follows it, bool [segment, segment].
        sources: the column that predicts each target token, [T].
        targets: the target tokens, [T].
        sequence_ids: the number, among all sequences, of each target token's sequence, [T].
    """

    members: tuple[TreeDocument, ...]
    tokens: Ints
    positions: Ints
    trunk: int
    segments: Ints
    ancestors: np.ndarray[Any, np.dtype[np.bool_]]
    sources: Ints
    targets: Ints
    sequence_ids: Ints

    @property
    def columns(self) -> int:
        """Tokens that are computed."""
        return len(self.tokens)


def build_prefix_tree(members: Sequence[TreeDocument]) -> Tree:
    """Lay out documents as one tree."""
    rows = [
        (row, member.first_sequence + place)
        for member in members
        for place, row in enumerate(member.document.sequences)
    ]
    # The longest row first: the trunk needs no mask.
    rows.sort(key=lambda pair: -len(pair[0].tokens))
    tokens: list[int] = []
    parents: list[int] = []
    nodes: dict[tuple[int, int], int] = {}
    sources: list[int] = []
    targets: list[int] = []
    numbers: list[int] = []
    for row, number in rows:
        path, at = [], -1
        for token in row.inputs:
            key = (at, token)
            if key not in nodes:
                nodes[key] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = nodes[key]
            path.append(at)
        sources += path[-row.n_target :]
        targets += row.tokens[-row.n_target :]
        numbers += [number] * row.n_target
    above = np.array(parents, dtype=np.int64)
    places = np.arange(len(above))
    breaks = above != places - 1
    trunk = int(breaks.argmax()) if breaks.any() else len(above)
    # A new segment begins where a column does not follow the one before, or is not the only one that does.
    children = np.bincount(above[above >= 0], minlength=len(above))
    starts = breaks | ((above >= 0) & (children[above] > 1))
    starts[:1] = True
    segments = np.cumsum(starts) - 1
    ancestors = np.eye(int(segments[-1]) + 1, dtype=bool)
    # Parents come before their children, so one sweep over the segments gives all depths.
    begins = np.flatnonzero(starts)
    depths = np.zeros(len(begins), dtype=np.int64)
    for segment, first in enumerate(begins):
        parent = above[first]
        if parent >= 0:
            stem = segments[parent]
            ancestors[segment] |= ancestors[stem]
            depths[segment] = depths[stem] + parent - begins[stem] + 1
    positions = depths[segments] + places - begins[segments]
    return Tree(
        tuple(members),
        np.array(tokens, dtype=np.int64),
        positions,
        trunk,
        segments,
        ancestors,
        np.array(sources, dtype=np.int64),
        np.array(targets, dtype=np.int64),
        np.array(numbers, dtype=np.int64),
    )


@dataclass(frozen=True)
class Batch:
    """Trees laid end to end for one forward pass (n columns in all).

    Attributes:
        trees: the trees.
        input_ids, position_ids: [1, n].
        positions: columns where vocabulary logits are needed, [P].
        sources: for each target token, the index into ``positions`` that predicts it, [T].
        targets: the target tokens, [T].
        sequence_ids: the number, among all sequences, of each target token's sequence, [T].
    """

    trees: tuple[Tree, ...]
    input_ids: Tensor
    position_ids: Tensor
    positions: Tensor
    sources: Tensor
    targets: Tensor
    sequence_ids: Tensor

    @property
    def columns(self) -> int:
        """Tokens that are computed."""
        return self.input_ids.shape[1]

    @property
    def members(self) -> list[TreeDocument]:
        """The documents."""
        return [member for tree in self.trees for member in tree.members]

    @property
    def n_documents(self) -> int:
        """How many they are."""
        return len(self.members)

    def layout(self) -> Layout:
        """The attention layout, made anew for each pass: masks of all batches together would fill the memory."""
        trees = tuple(TreeMask(tree.columns, tree.trunk, self._mask(tree)) for tree in self.trees)
        return Layout(trees, self.positions, self.position_ids[0])

    def _mask(self, tree: Tree) -> Tensor | None:
        """Which columns each branch column sees, bool [n - R, n]."""
        if tree.trunk == tree.columns:
            return None
        device = self.input_ids.device
        segments = torch.as_tensor(tree.segments, device=device)
        ancestors = torch.as_tensor(tree.ancestors, device=device)
        visible = ancestors[segments[tree.trunk :]][:, segments]
        return visible & torch.ones_like(visible).tril(tree.trunk)

    def owners(self) -> Tensor:
        """Which of the trees each column is in, [n]."""
        return torch.arange(len(self.trees)).repeat_interleave(torch.tensor([tree.columns for tree in self.trees]))

    def without(self, done: Container[int]) -> Batch | None:
        """The batch without the documents of these numbers; None where none is left."""
        trees = []
        for tree in self.trees:
            left = [member for member in tree.members if member.number not in done]
            if left:
                trees.append(tree if len(left) == len(tree.members) else build_prefix_tree(left))
        if all(a is b for a, b in zip_longest(trees, self.trees)):
            return self
        return assemble(trees, self.input_ids.device) if trees else None

    def halves(self) -> list[Batch]:
        """The same documents in two batches of about half the size; one batch where there is one document."""
        device = self.input_ids.device
        if len(self.trees) > 1:
            ends = np.cumsum([tree.columns for tree in self.trees])
            middle = int(np.abs(ends[:-1] - ends[-1] / 2).argmin()) + 1
            return [assemble(self.trees[:middle], device), assemble(self.trees[middle:], device)]
        members = self.trees[0].members
        if len(members) == 1:
            return [self]
        middle = len(members) // 2
        return [assemble([build_prefix_tree(part)], device) for part in (members[:middle], members[middle:])]


def assemble(trees: Sequence[Tree], device: torch.device | str) -> Batch:
    """Lay trees end to end."""
    starts = np.cumsum([0, *(tree.columns for tree in trees)])[:-1]
    sources = np.concatenate([start + tree.sources for start, tree in zip(starts, trees, strict=True)])
    positions, places = np.unique(sources, return_inverse=True)

    def tensor(values: Ints) -> Tensor:
        return torch.as_tensor(values, device=device)

    return Batch(
        tuple(trees),
        tensor(np.concatenate([tree.tokens for tree in trees]))[None],
        tensor(np.concatenate([tree.positions for tree in trees]))[None],
        tensor(positions),
        tensor(places.astype(np.int64)),
        tensor(np.concatenate([tree.targets for tree in trees])),
        tensor(np.concatenate([tree.sequence_ids for tree in trees])),
    )


class Batches:
    """Documents in batches that fit the memory."""

    def __init__(
        self,
        documents: Sequence[Document],
        token_budget: int | Callable[[], int],
        device: torch.device | str | Callable[[], torch.device] = "cpu",
        share: bool = True,
    ) -> None:
        """Pack documents, when they are first asked for.

        Args:
            documents: the documents; rows are numbered in their order.
            token_budget: tokens per batch; changes nothing but speed and memory.
            device: where the tensors go. This and the budget may be functions, called when documents are packed: both
                need the model's weights in memory.
            share: let documents that begin alike share a tree.
        """
        self.documents = documents
        self._sources = token_budget, device, share

    @cached_property
    def token_budget(self) -> int:
        """Most tokens of a batch (a tree that is larger goes alone); smaller after an out-of-memory error."""
        budget = self._sources[0]
        return budget if isinstance(budget, int) else budget()

    @property
    def packed(self) -> bool:
        """Whether any batch has been asked for."""
        return "_batches" in self.__dict__

    @cached_property
    def _batches(self) -> list[Batch]:
        _, device, share = self._sources
        place = device() if callable(device) else device
        first = self.first_sequences
        members = [TreeDocument(document, n, first[n]) for n, document in enumerate(self.documents)]
        groups = _group_by_prefix(members, self.token_budget) if share else [[member] for member in members]
        # Large ones first, so that a batch that does not fit the memory fails at once.
        trees = sorted(
            (build_prefix_tree(group) for group in groups), key=lambda tree: (-tree.columns, tree.members[0].number)
        )
        batches: list[Batch] = []
        chosen: list[Tree] = []
        size = 0
        for tree in trees:
            if chosen and size + tree.columns > self.token_budget:
                batches.append(assemble(chosen, place))
                chosen, size = [], 0
            chosen.append(tree)
            size += tree.columns
        if chosen:
            batches.append(assemble(chosen, place))
        return batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def n_sequences(self) -> int:
        """Rows of all documents."""
        return self.first_sequences[-1]

    @cached_property
    def first_sequences(self) -> list[int]:
        """Number of each document's first row; last, the number of rows."""
        return [0, *accumulate(self.sizes)]

    @property
    def sizes(self) -> list[int]:
        """Number of rows of each document."""
        return [len(document.sequences) for document in self.documents]

    @cached_property
    def keys(self) -> list[str]:
        """A digest of each document's tokens."""
        return [digest(document.sequences) for document in self.documents]

    @property
    def columns(self) -> int:
        """Tokens that are computed in all."""
        return sum(batch.columns for batch in self._batches)

    def sequence_slice(self, number: int) -> slice:
        """The numbers of a document's sequences."""
        return slice(self.first_sequences[number], self.first_sequences[number + 1])

    def each(self, work: Callable[[Batch], Result], done: Container[int] = ()) -> Iterator[tuple[Batch, Result]]:
        """Do ``work`` on each batch; where one does not fit the memory, on its halves, and on smaller ones from then.

        Args:
            work: must leave nothing behind when it fails.
            done: numbers of documents that are left out, as their results are known.

        Raises:
            HeadroomError: one document alone does not fit; names it.
        """
        waiting, fitting = deque(self._batches), []
        while waiting:
            batch = waiting.popleft()
            if batch.columns > self.token_budget and len(halves := batch.halves()) > 1:
                waiting.extendleft(reversed(halves))
                continue
            rest = batch.without(done)
            if rest is None:
                fitting.append(batch)
                continue
            try:
                result = work(rest)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                failed = True
            else:
                failed = False
            if failed:
                # Outside the except clause, so that the failed pass's tensors are not kept alive by its traceback.
                self._shrink(rest)
                # Larger than the budget now, so that its halves are next.
                waiting.appendleft(batch)
                continue
            fitting.append(batch)
            yield rest, result
        self._batches = fitting

    def _shrink(self, batch: Batch) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halves = batch.halves()
        if len(halves) == 1:
            raise HeadroomError(
                f"document {batch.members[0].document.doc_id} ({batch.columns} tokens) does not fit in memory on its "
                f"own; {MORE_MEMORY}"
            )
        # Smaller than what failed, even where halves share all that they hold.
        self.token_budget = min(max(half.columns for half in halves), batch.columns - 1)
        print(
            f"out of memory at {batch.columns} tokens; continuing with {self.token_budget} at a time", file=sys.stderr
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is lacking; torch's CPU allocator has no error of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _group_by_prefix(members: Sequence[TreeDocument], token_budget: int) -> list[list[TreeDocument]]:
    """Documents grouped by what they begin with, each group with at most ``token_budget`` tokens.

    A document joins the one before it, in the order of the tokens, where it brings fewer tokens than it shares: its
    linear maps get cheaper by more than its attention gets dearer, since a branch is held against its whole tree.
    """
    ordered = sorted(members, key=lambda member: member.document.sequences[0].tokens)
    groups: list[list[TreeDocument]] = []
    size = 0
    for member in ordered:
        own = _document_size(member.document)
        if groups:
            shared = common_prefix([groups[-1][-1].document.sequences[0], member.document.sequences[0]])
            if 2 * shared >= own and size + own - shared <= token_budget:
                groups[-1].append(member)
                size += own - shared
                continue
        groups.append([member])
        size = own
    return groups


def _document_size(document: Document) -> int:
    """Tokens of a document's rows, with what all of them begin with once."""
    prefix = common_prefix(document.sequences)
    return prefix + sum(len(row.inputs) - prefix for row in document.sequences)


def common_prefix(rows: Sequence[TokenSequence]) -> int:
    """Length of the longest token prefix that all rows' inputs share."""
    first, last = min(row.inputs for row in rows), max(row.inputs for row in rows)
    for place, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return place
    return min(len(first), len(last))
