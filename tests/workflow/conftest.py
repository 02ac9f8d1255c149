"""Copies of the study that has run to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.workflow_studies import Study


@pytest.fixture
def study(finished: Study, tmp_path: Path) -> Study:
    """A copy of the finished study to change."""
    return finished.copy(tmp_path / "copy")
