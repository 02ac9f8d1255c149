"""What transformers' Auto classes find under the model type of pruned checkpoints. Needs no torch until it is asked.

:mod:`lm_headroom` imports this module as soon as somebody imports transformers' own.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from lm_headroom.artifacts.pruned_checkpoint import MODEL_TYPE


class AutoPrunedConfig(PreTrainedConfig):
    """Stands for the configurations of all families' pruned models."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration of the family's pruned models that a ``config.json`` holds."""
        from lm_headroom.pruned.model import parse_config

        return parse_config(config_dict, kwargs.get("name_or_path") or "this pruned checkpoint", **kwargs)


AutoConfig.register(MODEL_TYPE, AutoPrunedConfig, exist_ok=True)
