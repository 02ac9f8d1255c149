"""Parts of a dimension, picked and put back in blocks."""

import numpy as np
import pytest
import torch

from lm_headroom.engine.cut_maps import Kept


@pytest.mark.parametrize(
    ("places", "total", "width"),
    [
        ([0, 1, 2, 3, 8, 9, 10, 11], 12, 4),
        ([4, 5, 6, 7], 12, 4),
        ([2, 3, 4, 5], 8, 2),
        ([0, 1, 2, 6, 7, 8, 9, 10, 11], 15, 3),
        ([1, 2, 3], 4, 1),
        ([0, 2, 4], 6, 1),
        (range(6), 6, 6),
    ],
)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_blocks_hold_what_places_do(places, total, width, dim):
    places = torch.tensor(list(places))
    kept = Kept(places, total, "cpu")
    assert kept.width == width
    x = torch.arange(6 * total).reshape(total, 2, 3).movedim(0, dim)
    np.testing.assert_array_equal(kept.pick(x, dim), x.index_select(dim, places))


def test_what_is_spread_lies_in_its_places_between_zeros():
    places = torch.tensor([0, 1, 4, 5])
    narrow = torch.arange(1.0, 25.0).reshape(2, 3, 4)
    expected = torch.zeros(2, 3, 8)
    expected[..., places] = narrow
    np.testing.assert_array_equal(Kept(places, 8, "cpu").spread(narrow), expected)
