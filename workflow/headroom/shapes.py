"""The sizes of a checkpoint, from its configuration alone: no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headroom import anatomy


def model_from_config(config: Any, dtype: Any = None, device: str = "meta") -> Any:
    """A model of random weights, or of none at all on the meta device; ``dtype`` None is the configuration's."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model.eval()


def checkpoint_sizes(path: Path) -> dict[str, int]:
    """Sizes (:func:`headroom.anatomy.sizes`) of the model in a checkpoint folder.

    Raises:
        HeadroomError: the family is not supported.
        OSError, ValueError: transformers cannot read the configuration.
    """
    from transformers import AutoConfig

    return anatomy.sizes(model_from_config(AutoConfig.from_pretrained(path, local_files_only=True)))
