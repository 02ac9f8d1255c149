"""Memory of a batch: bytes per token and per chunk of logits, and how many tokens fit. No torch."""

from __future__ import annotations

LOGIT_ROWS = 256
"""Positions whose vocabulary logits are computed at once."""
MEMORY_SHARE = 0.5
"""Share of the free memory that a batch may take; its need is an estimate."""
MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens beyond which larger batches are no faster, by device."""
MIN_TOKENS = 128
"""Tokens of a batch when memory is short; fewer would be slow, and an out-of-memory error halves the batch anyway."""
ITEM_SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by dtype."""


def bytes_per_token(
    d_model: int, d_mlp: int, layers: int, item_size: int, keeps_layers: bool = False, differentiates: bool = False
) -> int:
    """Estimate the peak memory of one token of a batch, without weights and logits.

    A forward pass holds about the inputs and outputs of one layer's linear maps: the residual, q, k, v and A (six times
    d_model) and three times d_mlp. The FFN oracle also keeps the inputs of all layers. A backward pass keeps all this
    for every layer, and the FFNs' outputs with their gradients.

    Args:
        d_model: width of the residual stream.
        d_mlp: width inside the FFN.
        layers: number of layers.
        item_size: bytes of a number.
        keeps_layers: whether the pass keeps the inputs of all layers (FFN and head oracle).
        differentiates: whether there is a backward pass.
    """
    one_layer = 6 * d_model + 3 * d_mlp
    numbers = (one_layer + 2 * d_model) * layers if differentiates else one_layer + d_model * layers * keeps_layers
    return numbers * item_size


def logit_bytes(vocabulary: int, item_size: int) -> int:
    """Bytes of the logits of one chunk of positions: in the model's dtype, in float32, and their exponentials."""
    return LOGIT_ROWS * vocabulary * (item_size + 8)


def fitting_tokens(free: float, logits: int, per_token: int, device: str, differentiates: bool) -> int:
    """Compute how many tokens per batch fit into ``free`` bytes.

    Args:
        free: bytes; infinity if unknown.
        logits: bytes of one chunk of logits.
        per_token: bytes of a token.
        device: ``cpu`` or ``cuda``.
        differentiates: whether there is a backward pass.
    """
    most = MAX_TOKENS.get(device, MAX_TOKENS["cuda"])
    # A backward pass keeps all layers; half as many tokens are as fast.
    most = most // 2 if differentiates else most
    return int(max(MIN_TOKENS, min((MEMORY_SHARE * free - logits) / per_token, most)))
