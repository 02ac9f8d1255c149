"""The gallery shows what figures look like now."""

import numpy as np
import pytest
from PIL import Image

from tests.support import gallery

COMPARED = ("fig03", "fig07", "fig10")
"""Pictures that are drawn again: heatmaps with and without numbers."""


def test_the_page_shows_each_picture():
    assert gallery.PAGE.read_text() == gallery.page()
    pictures = {path.stem for path in gallery.FOLDER.glob("*.png")}
    assert pictures == {
        name for name, *_ in gallery.figures(gallery.ResultsMatrix(gallery.ROOT / "m", ("a",), (0,), 7))
    }
    assert sum(path.stat().st_size for path in gallery.FOLDER.iterdir()) < 2_000_000


def test_pictures_are_those_of_the_figures_now(tmp_path):
    study = gallery.made_up(tmp_path)
    for name, _, layout, draw in gallery.figures(study):
        if name in COMPARED:
            now = np.asarray(gallery.picture(layout, draw), float)
            kept = np.asarray(Image.open(gallery.FOLDER / f"{name}.png").convert("RGB"), float)
            assert now.shape == kept.shape, name
            # Fewer colours and other fonts' edges differ a little; another figure, or another scale, by far more.
            assert np.abs(now - kept).mean() < 4, name


def test_another_figure_is_not_within_the_tolerance():
    a, b = (
        np.asarray(Image.open(gallery.FOLDER / f"{name}.png").convert("RGB"), float) for name in ("fig12", "fig12_rank")
    )
    assert a.shape == b.shape
    assert np.abs(a - b).mean() > 4


@pytest.mark.parametrize("name", ["fig05", "fig05_single"])
def test_pictures_have_the_width_of_their_layout(name):
    inches = 3.03 if name.endswith("single") else 6.30
    assert Image.open(gallery.FOLDER / f"{name}.png").width == pytest.approx(inches * gallery.DPI, abs=1)
