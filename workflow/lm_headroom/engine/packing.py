"""Documents as prefix trees of tokens, packed into batches without padding, so that shared prefixes are computed once.

The sequences of a document (context and continuation, without the last token) form a prefix tree: choices share their
context and every other common prefix. Documents with a common prefix, such as the questions on one paragraph, may share
a tree. A batch is one row of trees, end to end:

      columns      |-------- trunk --------|- branches -| |---- trunk ----| ...
      tree 0       The  sky  is  very blue  red           tree 1
      positions    0    1    2   3    4     3             0  1  ...

The trunk is the tree's first sequence, and is causal. Each branch column attends to its ancestors.
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

from lm_headroom.engine.layout import Layout, TreeMask
from lm_headroom.engine.resume_cache import digest
from lm_headroom.errors import MORE_MEMORY, HeadroomError

Ints = np.ndarray[Any, np.dtype[np.int64]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class TokenSequence:
    """One context with one continuation.

    Attributes:
        tokens: context and continuation.
        n_target: number of tokens, at the end, that are the continuation.
    """

    tokens: tuple[int, ...]
    n_target: int

    @property
    def inputs(self) -> tuple[int, ...]:
        """The model's input: all but the last token."""
        return self.tokens[:-1]


@dataclass(frozen=True)
class Document:
    """A document's token sequences, one per choice; ``truncated`` is the number of context tokens that were cut."""

    doc_id: int
    sequences: tuple[TokenSequence, ...]
    truncated: int = 0


@dataclass(frozen=True)
class TreeDocument:
    """A document in a tree: its number among all documents, and that of its first sequence among all sequences."""

    document: Document
    number: int
    first_sequence: int


@dataclass(frozen=True)
class Tree:
    """Sequences as a prefix tree (n columns, R of them in the trunk).

    Attributes:
        members: the documents.
        tokens, positions: [n].
        trunk: R; each of the first R columns follows the one before.
        segments: the unbranched segment of the tree that each column is in, [n].
        ancestors: whether a segment equals or descends from another, bool [segment, segment].
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
        """Number of tokens to compute."""
        return len(self.tokens)


def build_prefix_tree(members: Sequence[TreeDocument]) -> Tree:
    """Build the prefix tree of documents."""
    rows = [
        (row, member.first_sequence + place)
        for member in members
        for place, row in enumerate(member.document.sequences)
    ]
    # The longest sequence first: the trunk needs no mask.
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
    # A segment begins at each column that does not follow the previous one or has siblings.
    children = np.bincount(above[above >= 0], minlength=len(above))
    starts = breaks | ((above >= 0) & (children[above] > 1))
    starts[:1] = True
    segments = np.cumsum(starts) - 1
    ancestors = np.eye(int(segments[-1]) + 1, dtype=bool)
    # Parents precede their children, so one pass over the segments gives all depths.
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
        """Number of tokens to compute."""
        return self.input_ids.shape[1]

    @property
    def members(self) -> list[TreeDocument]:
        """The documents."""
        return [member for tree in self.trees for member in tree.members]

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.members)

    def layout(self) -> Layout:
        """Build the attention layout; it is built for each pass, since masks of all batches would fill the memory."""
        trees = tuple(TreeMask(tree.columns, tree.trunk, self._mask(tree)) for tree in self.trees)
        # Where replacements differ by document, each has a tree of its own.
        documents = tuple(tree.members[0].document for tree in self.trees)
        return Layout(trees, self.positions, self.position_ids[0], documents)

    def _mask(self, tree: Tree) -> Tensor | None:
        """Mark the columns that each branch column attends to, bool [n - R, n]."""
        if tree.trunk == tree.columns:
            return None
        device = self.input_ids.device
        segments = torch.as_tensor(tree.segments, device=device)
        ancestors = torch.as_tensor(tree.ancestors, device=device)
        visible = ancestors[segments[tree.trunk :]][:, segments]
        return visible & torch.ones_like(visible).tril(tree.trunk)

    def owners(self) -> Tensor:
        """The index of each column's tree, [n]."""
        return torch.arange(len(self.trees)).repeat_interleave(torch.tensor([tree.columns for tree in self.trees]))

    def without(self, done: Container[int]) -> Batch | None:
        """Remove the documents with these numbers; None if none remains."""
        trees = []
        for tree in self.trees:
            left = [member for member in tree.members if member.number not in done]
            if left:
                trees.append(tree if len(left) == len(tree.members) else build_prefix_tree(left))
        if all(a is b for a, b in zip_longest(trees, self.trees)):
            return self
        return assemble(trees, self.input_ids.device) if trees else None

    def halves(self) -> list[Batch]:
        """Split into two batches of about half the size; a single document stays one batch."""
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
    """Lay trees end to end as one batch."""
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
    """Documents in batches that fit into memory."""

    def __init__(
        self,
        documents: Sequence[Document],
        token_budget: int | Callable[[], int],
        device: torch.device | str | Callable[[], torch.device] = "cpu",
        share: bool = True,
    ) -> None:
        """Pack documents into batches when these are first used.

        Args:
            documents: the documents; sequences are numbered in their order.
            token_budget: tokens per batch; changes only speed and memory.
            device: device of the tensors. Device and token budget may be functions, which are called when documents
                are packed, since both need the model's weights in memory.
            share: whether documents with a common prefix share a tree.
        """
        self.documents = documents
        self._sources = token_budget, device, share

    @cached_property
    def token_budget(self) -> int:
        """Maximal tokens of a batch; a larger tree is a batch of its own. An out-of-memory error lowers it."""
        budget = self._sources[0]
        return budget if isinstance(budget, int) else budget()

    @property
    def packed(self) -> bool:
        """Whether the documents have been packed."""
        return "_batches" in self.__dict__

    @cached_property
    def _batches(self) -> list[Batch]:
        _, device, share = self._sources
        place = device() if callable(device) else device
        first = self.first_sequences
        members = [TreeDocument(document, n, first[n]) for n, document in enumerate(self.documents)]
        groups = _group_by_prefix(members, self.token_budget) if share else [[member] for member in members]
        # Large trees first, so that a batch that does not fit into memory fails at once.
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
        """Number of sequences of all documents."""
        return self.first_sequences[-1]

    @cached_property
    def first_sequences(self) -> list[int]:
        """Number of each document's first sequence; the last item is the number of all sequences."""
        return [0, *accumulate(self.sizes)]

    @property
    def sizes(self) -> list[int]:
        """Number of sequences of each document."""
        return [len(document.sequences) for document in self.documents]

    @cached_property
    def keys(self) -> list[str]:
        """A digest of each document's tokens."""
        return [digest(document.sequences) for document in self.documents]

    @property
    def columns(self) -> int:
        """Number of tokens to compute in all batches."""
        return sum(batch.columns for batch in self._batches)

    def sequence_slice(self, number: int) -> slice:
        """The numbers of a document's sequences."""
        return slice(self.first_sequences[number], self.first_sequences[number + 1])

    def each(self, work: Callable[[Batch], Result], done: Container[int] = ()) -> Iterator[tuple[Batch, Result]]:
        """Do ``work`` on each batch. If one does not fit into memory, continue with halves and smaller batches.

        Args:
            work: must leave nothing behind when it fails.
            done: numbers of documents whose results are known, which are left out.

        Raises:
            HeadroomError: a single document does not fit into memory; names it.
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
                # It now exceeds the token budget, so that its halves are next.
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
        # Smaller than the failed batch, even if its halves share all their tokens.
        self.token_budget = min(max(half.columns for half in halves), batch.columns - 1)
        print(
            f"out of memory at {batch.columns} tokens; continuing with {self.token_budget} at a time", file=sys.stderr
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch's CPU allocator has no error class of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _group_by_prefix(members: Sequence[TreeDocument], token_budget: int) -> list[list[TreeDocument]]:
    """Group documents by common prefix, with at most ``token_budget`` tokens per group.

    In the order of their tokens, a document joins the previous one if it adds fewer tokens than it shares: its linear
    maps then save more than its attention costs, since a branch is computed against its whole tree.
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
    """Count the tokens of a document's sequences, with their common prefix once."""
    prefix = common_prefix(document.sequences)
    return prefix + sum(len(row.inputs) - prefix for row in document.sequences)


def common_prefix(rows: Sequence[TokenSequence]) -> int:
    """Length of the longest prefix that the inputs of all sequences share."""
    first, last = min(row.inputs for row in rows), max(row.inputs for row in rows)
    for place, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return place
    return min(len(first), len(last))
