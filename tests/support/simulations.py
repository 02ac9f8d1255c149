"""How many studies a test of statistics simulates, and which members of a test `make simulations` alone takes."""

import os
from typing import Any

IS_WHOLE = os.environ.get("LM_HEADROOM_SIMULATIONS") == "all"


def simulated(whole: int) -> int:
    """All of them in ``make simulations``, a quarter in ``make test``, where they would take minutes.

    Bounds that a test puts on a rate follow from the number, or hold for a quarter, too.
    """
    return whole if IS_WHOLE else whole // 4


def members(always: list[Any], more: list[Any]) -> list[Any]:
    """Parameters of a test: ``more``, which take the same paths as others and seconds each, in ``make simulations``."""
    return [*always, *more] if IS_WHOLE else always
