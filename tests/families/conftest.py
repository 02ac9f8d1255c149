"""Checkpoints of the families on disk, and the models of lm-headroom and of transformers that are read from them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.families.cases import CASES, Case, reference, save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """The record of a case's checkpoint, which is made when it is first asked for."""
    from lm_headroom.models.resolve import resolve

    root = tmp_path_factory.mktemp("families")

    def checkpoint_folder(name: str) -> Path:
        record = root / name / "model.json"
        if not record.is_file():
            resolve(name, str(save(CASES[name], root / name / "checkpoint", tokenizer)), None, record)
        return record

    return checkpoint_folder


@pytest.fixture(scope="session")
def served(checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """lm-headroom's model of a case, in float64; one for all tests, which leave it as it was."""
    from lm_headroom.engine.loading import load

    kept: dict[str, Any] = {}

    def loaded(name: str) -> Any:
        if name not in kept:
            kept[name] = load(checkpoint(name), dtype="float64", device="cpu")
            # Its attention is routed from the start, whichever test is first.
            assert kept[name].interventions.shape == kept[name].shape
        return kept[name]

    return loaded


@pytest.fixture(scope="session")
def plain(checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """transformers' own model of a case, a copy for each test, which may change it: loading takes six times as long."""
    load_once = cache(lambda name: reference(checkpoint(name).parent / "checkpoint"))
    return lambda name: deepcopy(load_once(name))


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    """Each case in turn."""
    return str(request.param)


@pytest.fixture
def case(name: str) -> Case:
    """Its description."""
    return CASES[name]
