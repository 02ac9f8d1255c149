"""Random documents for the engine, and the log-likelihood of a row by a plain forward pass."""

import numpy as np
import torch

from lm_headroom.engine.packing import Document, TokenSequence


def random_documents(rng, n=9, vocabulary=500):
    """Mixed lengths; one- and many-token choices; choices that differ in the context; prefixes of length 0."""
    documents = []
    for i in range(n):
        context = rng.integers(3, vocabulary, rng.integers(2, 30)).tolist()
        if i % 3 == 0:
            targets = [[int(t)] for t in rng.integers(3, vocabulary, 4)]
            rows = [TokenSequence((*context, *t), 1) for t in targets]
        elif i % 3 == 1:
            rows = []
            for length in rng.integers(1, 9, 3):
                target = rng.integers(3, vocabulary, length).tolist()
                rows.append(TokenSequence((*context, *target), int(length)))
        else:
            cut = rng.integers(0, len(context))
            target = rng.integers(3, vocabulary, 4).tolist()
            rows = [TokenSequence((*context[:cut], int(option), *context[cut:], *target), 4) for option in (3, 4)]
        documents.append(Document(100 + i, tuple(rows)))
    return documents


def plain(model, row):
    """Log-likelihood of a row by a forward pass of its own."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.inputs]), use_cache=False).logits[0]
    log_p = torch.log_softmax(logits.double(), -1)[-row.n_target :]
    return float(log_p.gather(1, torch.tensor(row.tokens[-row.n_target :])[:, None]).sum())


def documents(n=7, seed=0):
    rng = np.random.default_rng(seed)
    drawn = []
    for i in range(n):
        n_target = int(rng.integers(1, 6))
        tokens = rng.integers(3, 500, rng.integers(4, 25) + n_target).tolist()
        drawn.append(Document(i, (TokenSequence(tuple(tokens), n_target),)))
    return drawn
