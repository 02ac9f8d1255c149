"""Documents and tokens that every family is given."""

import numpy as np

from lm_headroom.engine.packing import Document, TokenSequence
from tests.support.model_types import VOCABULARY

RNG = np.random.default_rng(0)
TOKENS = RNG.permutation(np.arange(3, 500))[:14].tolist()


def documents(choices=(1, 3)):
    """Documents whose rows share their context, and the first two of them most of it."""
    shared, more, other = (RNG.integers(3, 500, size).tolist() for size in (17, 4, 6))
    documents_ = []
    for number, context in enumerate((shared, shared + more, other)):
        rows = [TokenSequence((*context, *RNG.integers(3, 500, size).tolist()), size) for size in choices]
        documents_.append(Document(number, tuple(rows)))
    return documents_


DOCUMENTS, SINGLE = documents(), documents((2,))


def _in_few_tokens(sizes):
    """The same for the tiny models of all types, whose vocabulary and windows are small."""
    shared, more, other = (RNG.integers(3, VOCABULARY, size).tolist() for size in (9, 3, 5))
    return [
        Document(n, tuple(TokenSequence((*c, *RNG.integers(3, VOCABULARY, k).tolist()), k) for k in sizes))
        for n, c in enumerate((shared, shared + more, other))
    ]


IN_FEW_TOKENS, SINGLE_IN_FEW_TOKENS = _in_few_tokens((1, 3)), _in_few_tokens((2,))
FEW_TOKENS = RNG.permutation(np.arange(3, VOCABULARY))[:6].tolist()
