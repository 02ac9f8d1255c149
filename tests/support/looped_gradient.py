"""Equations 8 and 9 as loops, without the project's engine."""

import numpy as np
import torch

from lm_headroom.models import architectures
from tests.support.tiny_models import tiny_model


def looped(family, documents):
    """Eq. 8-9 written as loops over examples, heads and tokens, without any of the project's engine.

    The model is transformers' own with its own attention; A is caught where it enters the output projection.
    """
    model = tiny_model(family).requires_grad_(False)
    projections = architectures.output_projections(model)
    shape = architectures.head_layout(model)
    caught = {}

    def catch(layer):
        def hook(module, arguments):
            (entering,) = arguments
            if not entering.requires_grad:
                entering = entering.detach().requires_grad_()
            entering.retain_grad()
            caught[layer] = entering
            return (entering,)

        return hook

    for layer, projection in projections.items():
        projection.register_forward_pre_hook(catch(layer))
    absolute = np.zeros((len(documents), shape.layers, shape.heads))
    signed = np.zeros_like(absolute)
    for i, document in enumerate(documents):
        row = document.sequences[0]
        logits = model(input_ids=torch.tensor([row.tokens[:-1]]), use_cache=False).logits[0].double()
        loss = torch.zeros((), dtype=torch.float64)
        for j in range(row.n_target):
            position = len(row.tokens) - row.n_target + j
            log_p = logits[position - 1] - logits[position - 1].logsumexp(0)
            loss = loss - log_p[row.tokens[position]] / row.n_target
        loss.backward()
        for layer in range(shape.layers):
            a, g = caught[layer].detach()[0], caught[layer].grad[0]
            for head in range(shape.heads):
                part = slice(head * shape.d_head, (head + 1) * shape.d_head)
                for t in range(len(row.tokens) - 1):
                    product = float(a[t, part] @ g[t, part])
                    absolute[i, layer, head] += abs(product)
                    signed[i, layer, head] += product
    return absolute, signed
