"""The sizes of a checkpoint, from its configuration alone: no weights are read."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from headroom import anatomy


def model_from_config(config: Any, dtype: Any = None, device: str = "meta", trust: bool = False) -> Any:
    """A model of random weights, or of none at all on the meta device.

    Args:
        config: its configuration.
        dtype: number format; None for the configuration's.
        device: where its weights are.
        trust: its own code may run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation=anatomy.implementation(config), dtype=dtype, trust_remote_code=trust
        )
    return model.eval()


def with_layers(config: Any, n_layers: int) -> Any:
    """A configuration of so many layers, whatever kinds of layers it lists."""
    changed = deepcopy(config)
    text = changed.get_text_config()
    text.num_hidden_layers = n_layers
    for name in ("layer_types", "attention_layers"):
        kinds = getattr(text, name, None)
        if kinds:
            setattr(text, name, [kinds[place % len(kinds)] for place in range(n_layers)])
    return changed


def checkpoint_sizes(path: Path, trust: bool = False) -> dict[str, int]:
    """Sizes (:func:`headroom.anatomy.sizes`) of the model in a checkpoint folder, whose code may run if it is trusted.

    Raises:
        HeadroomError: the family is not supported.
        OSError, ValueError: transformers cannot read the configuration.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=trust)
    return anatomy.sizes(model_from_config(config, trust=trust))
