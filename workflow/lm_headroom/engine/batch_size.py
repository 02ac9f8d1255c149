"""What a batch takes: bytes of a token and of logits, and how many tokens fit. No torch."""

from __future__ import annotations

LOGIT_ROWS = 256
"""Positions whose vocabulary logits are computed at once."""
MEMORY_SHARE = 0.5
"""Share of the free memory that a batch is given; what it takes is an estimate."""
MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens beyond which a batch gets no faster."""
MIN_TOKENS = 128
"""Tokens of a batch where memory is short; less would be slow, and an out-of-memory error halves it anyway."""
ITEM_SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""


def bytes_per_token(
    d_model: int, d_mlp: int, layers: int, item_size: int, keeps_layers: bool = False, differentiates: bool = False
) -> int:
    """What a token of a batch takes at most at one time, without weights and logits.

    A pass holds about the inputs and outputs of one layer's maps: the residual, q, k, v and A, and three of the FFN's
    width. The FFN oracle keeps the inputs of all layers; a backward pass keeps what is above, of every layer, and what
    the FFNs add to the residual with its gradient.

    Args:
        d_model: width of the residual.
        d_mlp: width inside the FFN.
        layers: how many layers.
        item_size: bytes of a number.
        keeps_layers: for the FFN oracle.
        differentiates: for a backward pass.
    """
    one_layer = 6 * d_model + 3 * d_mlp
    numbers = (one_layer + 2 * d_model) * layers if differentiates else one_layer + d_model * layers * keeps_layers
    return numbers * item_size


def logit_bytes(vocabulary: int, item_size: int) -> int:
    """What the logits of one chunk of positions take: in the model's numbers, in float32, and their exponentials."""
    return LOGIT_ROWS * vocabulary * (item_size + 8)


def fitting_tokens(free: float, logits: int, per_token: int, device: str, differentiates: bool) -> int:
    """Tokens per batch that ``free`` bytes hold.

    Args:
        free: bytes; infinite where they are not known.
        logits: bytes of one chunk of logits.
        per_token: bytes of a token.
        device: ``cpu`` or ``cuda``.
        differentiates: for a backward pass.
    """
    most = MAX_TOKENS.get(device, MAX_TOKENS["cuda"])
    # A backward pass keeps all layers; half the tokens are as fast.
    most = most // 2 if differentiates else most
    return int(max(MIN_TOKENS, min((MEMORY_SHARE * free - logits) / per_token, most)))
