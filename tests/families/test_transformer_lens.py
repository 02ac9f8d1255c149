"""Prefix matching against TransformerLens, where `make lens` has installed it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from tests.families.cases import CASES
from tests.families.lens import START, TOKENS
from tests.support.paths import ROOT

LENS = Path(os.environ.get("LM_HEADROOM_LENS", ROOT / ".venv" / "lens"))
UNABLE = {
    "opt-350m": "it does not load an OPT with projected embeddings and norms after blocks",
    "falcon-new": "it splits the fused projection as if there were one key-value head",
    "falcon-one-norm": "it expects two norms in each layer",
    "falcon-rw": "it takes the attention that transformers writes out, which adds ALiBi twice",
}
"""Cases that TransformerLens does not load or does not compute as transformers does, and why."""

pytestmark = pytest.mark.skipif(
    not LENS.is_dir(),
    reason=f"TransformerLens is not installed at {LENS}: make lens installs it, where there is an index",
)


@pytest.fixture(scope="module")
def patterns(checkpoint, tmp_path_factory):
    """What TransformerLens's patterns give, by case."""
    out = tmp_path_factory.mktemp("lens") / "scores.npz"
    folders = [str(checkpoint(name).parent / "checkpoint") for name in CASES]
    done = subprocess.run(
        [sys.executable, "-m", "tests.families.lens", str(out), *folders],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "workflow"), str(LENS)]),
            # Nothing may be installed from inside.
            "PIP_NO_INDEX": "1", "UV_OFFLINE": "1",
        },
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.load(out)


def test_nothing_is_installed_on_the_way(patterns):
    """TransformerLens installs torchvision when it misses it, which would bring another torch than the pinned one."""
    assert find_spec("torchvision") is None
    assert version("torch").split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNABLE])
def test_prefix_matching_is_that_of_transformer_lens(patterns, served, name):
    expected = patterns[name]
    assert expected.dtype.kind == "f", str(expected)
    np.testing.assert_allclose(prefix_matching_scores(served(name), TOKENS, START), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", UNABLE)
def test_what_transformer_lens_cannot_is_still_so(patterns, served, name):
    expected = patterns[name]
    same = expected.dtype.kind == "f" and np.allclose(
        prefix_matching_scores(served(name), TOKENS, START), expected, rtol=1e-4, atol=1e-5
    )
    assert not same, f"{name}: {UNABLE[name]}; not any more: compare it, too"
