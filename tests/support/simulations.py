"""How many studies a test of statistics simulates, and which members of a test `make simulations` alone takes."""

import os
from typing import Any

from lm_headroom.analysis.bootstrap import RESAMPLES

IS_WHOLE = os.environ.get("LM_HEADROOM_SIMULATIONS") == "all"


def simulated(whole: int) -> int:
    """All of them in ``make simulations``, a quarter in ``make test``, where they would take minutes.

    Bounds that a test puts on a rate follow from the number, or hold for a quarter, too.
    """
    return whole if IS_WHOLE else whole // 4


def members(always: list[Any], more: list[Any]) -> list[Any]:
    """Parameters of a test: ``more``, which take the same paths as others and seconds each, in ``make simulations``."""
    return [*always, *more] if IS_WHOLE else always


def draw_fewer_resamples(patch: Any) -> None:
    """Draw a quarter of a bootstrap's samples in ``make test``: over hundreds of studies, the rates are the same.

    Args:
        patch: pytest's ``MonkeyPatch``.
    """
    for module in ("analysis.bootstrap", "report.tables.gains"):
        patch.setattr(f"lm_headroom.{module}.RESAMPLES", simulated(RESAMPLES))
