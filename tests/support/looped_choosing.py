"""The loss of choosing and its products as loops, without the project's engine."""

import numpy as np
import torch

from lm_headroom.models import architectures
from tests.support.tiny_models import tiny_model


def looped_choosing(family, documents, right):
    """Products of heads and FFNs, [document, layer, head] and [document, layer, 1].

    Each choice is a row of its own through transformers' own model, whose activations are caught.
    """
    model = tiny_model(family).requires_grad_(False)
    shape = architectures.head_layout(model)
    caught = []

    def keep(tensor):
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        tensor.retain_grad()
        return tensor

    def catch_heads(layer):
        def hook(module, arguments):
            kept = keep(arguments[0])
            caught.append(("heads", layer, kept))
            return (kept,)

        return hook

    def catch_ffn(layer):
        def hook(module, arguments, output):
            kept = keep(output)
            caught.append(("ffns", layer, kept))
            return kept

        return hook

    for layer, projection in architectures.output_projections(model).items():
        projection.register_forward_pre_hook(catch_heads(layer))
        architectures.ffn_modules(model)[layer][-1].register_forward_hook(catch_ffn(layer))
    products = {
        "heads": np.zeros((len(documents), shape.layers, shape.heads)),
        "ffns": np.zeros((len(documents), shape.layers, 1)),
    }
    for i, (document, golds) in enumerate(zip(documents, right, strict=True)):
        caught.clear()
        likelihoods = []
        for row in document.sequences:
            logits = model(input_ids=torch.tensor([row.tokens[:-1]]), use_cache=False).logits[0].double()
            total = torch.zeros((), dtype=torch.float64)
            for position in range(len(row.tokens) - row.n_target, len(row.tokens)):
                total = total + logits[position - 1].log_softmax(0)[row.tokens[position]]
            likelihoods.append(total)
        probabilities = torch.stack(likelihoods).softmax(0)
        right_probability = sum(p for p, is_right in zip(probabilities, golds, strict=True) if is_right)
        (-torch.log(right_probability)).backward()
        for name, layer, value in caught:
            parts = (value.detach() * value.grad).reshape(-1, value.shape[-1]).sum(dim=0).numpy()
            products[name][i, layer] += parts.reshape(products[name].shape[2], -1).sum(axis=1)
    return products
