"""What tests of statistics share."""

import pytest

from lm_headroom.analysis.bootstrap import RESAMPLES
from tests.support.simulations import simulated


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a bootstrap's samples in ``make test``: over hundreds of studies, the rates are the same."""
    for module in ("analysis.bootstrap", "report.tables.gains"):
        monkeypatch.setattr(f"lm_headroom.{module}.RESAMPLES", simulated(RESAMPLES))
