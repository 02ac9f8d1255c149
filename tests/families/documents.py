"""Documents and tokens that every family is given."""

import numpy as np

from lm_headroom.engine.packing import Document, TokenSequence

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
