"""Sizes of a checkpoint from its configuration, without reading weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from lm_headroom.models import architectures

NEUTRAL = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
    "fusion_config": None,
}
"""Settings of a pass's outputs, which do not describe the model; passes set their own."""


def read_config(folder: Path | str, trust: bool = False) -> Any:
    """Read the configuration of a checkpoint, with neutral settings of a pass's outputs.

    Args:
        folder: the checkpoint.
        trust: whether its own code may run.

    Raises:
        OSError, ValueError: transformers cannot read it.
    """
    from transformers import AutoConfig

    # Passed to transformers, too, which checks their consistency while it reads.
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust, **NEUTRAL)
    for part in (config, config.get_text_config()):
        for name, value in NEUTRAL.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)
    return config


def model_from_config(config: Any, dtype: Any = None, device: str = "meta", trust: bool = False) -> Any:
    """Build a model with random weights, or without weights on the meta device.

    Args:
        config: its configuration.
        dtype: number format; None for the configuration's.
        device: device of its weights.
        trust: whether its own code may run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config,
            attn_implementation=architectures.attention_implementation(config),
            dtype=dtype,
            trust_remote_code=trust,
        )
    return model.eval()


def with_layers(config: Any, n_layers: int) -> Any:
    """Copy a configuration with another number of layers, whose kinds repeat as listed."""
    changed = deepcopy(config)
    text = changed.get_text_config()
    text.num_hidden_layers = n_layers
    for name in ("layer_types", "attention_layers"):
        kinds = getattr(text, name, None)
        if kinds:
            setattr(text, name, [kinds[place % len(kinds)] for place in range(n_layers)])
    return changed


def checkpoint_sizes(path: Path, trust: bool = False) -> dict[str, Any]:
    """Sizes (:func:`lm_headroom.models.architectures.sizes`) of a checkpoint folder's model; trusted code may run.

    Raises:
        HeadroomError: the architecture is not supported.
        OSError, ValueError: transformers cannot read the configuration.
    """
    return architectures.model_sizes(model_from_config(read_config(path, trust), trust=trust))
