"""How much of a language model does in-context learning need? docs/python.md has what this package offers in Python."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_headroom.pruned.model import load_pruned
    from lm_headroom.results.frames import load_results
    from lm_headroom.scoring.masked_model import attach, detach, mask, without_ffns
    from lm_headroom.scoring.own_prompts import score_heads

__all__ = ["attach", "detach", "load_pruned", "load_results", "mask", "score_heads", "without_ffns"]

_MODULES = {
    "load_pruned": "pruned.model",
    "load_results": "results.frames",
    "score_heads": "scoring.own_prompts",
    **dict.fromkeys(("attach", "detach", "mask", "without_ffns"), "scoring.masked_model"),
}


def __getattr__(name: str) -> Any:
    # When it is asked for: most of these need torch and transformers, which most of the package starts without.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
