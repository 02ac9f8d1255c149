"""How much of a language model does in-context learning need? docs/python.md has what this package offers in Python."""

import sys
from collections.abc import Sequence
from importlib import import_module, util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
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


_AUTO = "transformers.models.auto.configuration_auto"


class _WithAutoClasses(MetaPathFinder):
    """Lets transformers' Auto classes load pruned checkpoints once they are imported, which takes seconds by itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(fullname)
        if spec is not None:
            _register_after(spec)
        return spec


def _register_after(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    execute = loader.exec_module

    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        import_module(f"{__name__}.pruned.auto_classes")

    loader.exec_module = execute_and_register


if _AUTO in sys.modules:
    import_module(f"{__name__}.pruned.auto_classes")
else:
    sys.meta_path.insert(0, _WithAutoClasses())
