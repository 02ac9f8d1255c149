"""The sizes of a checkpoint, from its configuration alone: no weights are read."""

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
"""Settings of what a pass returns and how it is computed, which say nothing of the model: passes have their own."""


def read_config(source: Path | str, trust: bool = False, local: bool = True) -> Any:
    """The configuration of a checkpoint, with what a pass returns set as the passes here need it.

    Args:
        source: its folder, or its name on the hub.
        trust: its own code may run.
        local: the hub is not asked.

    Raises:
        OSError, ValueError: transformers cannot read it.
    """
    from transformers import AutoConfig

    # Given to transformers as well, which looks at how they go together while it reads.
    config = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=trust, **NEUTRAL)
    for part in (config, config.get_text_config()):
        for name, value in NEUTRAL.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)
    return config


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
            config,
            attn_implementation=architectures.attention_implementation(config),
            dtype=dtype,
            trust_remote_code=trust,
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
    """Sizes (:func:`lm_headroom.models.architectures.sizes`) of a checkpoint folder's model; trusted code may run.

    Raises:
        HeadroomError: the family is not supported.
        OSError, ValueError: transformers cannot read the configuration.
    """
    return architectures.model_sizes(model_from_config(read_config(path, trust), trust=trust))
