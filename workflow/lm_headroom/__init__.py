"""How much of a language model does in-context learning need? ``lm_headroom.load_pruned`` loads exported
checkpoints."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_headroom.pruned.model import load_pruned

__all__ = ["load_pruned"]


def __getattr__(name: str) -> Any:
    # When it is asked for: it needs torch and transformers, which most of the package starts without.
    if name == "load_pruned":
        from lm_headroom.pruned.model import load_pruned

        return load_pruned
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
