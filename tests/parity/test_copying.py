"""Copying on the embedded model, against Algorithm 2 with the softmax of its whole vocabulary."""

import numpy as np
import pytest

from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.prefix_matching import ranked_vocabulary, sequence, start_token
from tests.support.looped_copying import VARIANTS, looped

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("variant", VARIANTS[::2], ids=lambda v: v["head_output"])
def test_two_layers_equal_the_loops(smollm2, variant):
    ranked, _ = ranked_vocabulary(smollm2.tokenizer)
    start, _ = start_token(smollm2.tokenizer)
    tokens = sequence(ranked, 1)
    scores = copying_scores(smollm2, tokens, start, **variant)
    assert scores.shape == (30, 9)
    expected = looped(smollm2.model, tokens, start, **variant, n_layers=2)
    np.testing.assert_allclose(scores[:2], expected, rtol=0, atol=1e-6)
    assert scores.std() > 0.01
