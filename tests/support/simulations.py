"""How many studies a test of statistics simulates."""

import os

IS_WHOLE = os.environ.get("LM_HEADROOM_SIMULATIONS") == "all"


def simulated(whole: int) -> int:
    """All of them in ``make simulations``, a quarter in ``make test``, where they would take minutes.

    Bounds that a test puts on a rate follow from the number, or hold for a quarter, too.
    """
    return whole if IS_WHOLE else whole // 4
