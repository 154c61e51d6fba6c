"""Figures of samples against data: what is drawn, where, and that it stands in a page."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from deeplvm.evaluation.samples.quality import Neighbours
from deeplvm.report.figures.samples import neighbour_grid, quality_bars


def plain(stderr: float | None) -> dict[str, object]:
    def manifold(value: float) -> dict[str, object]:
        names = ("precision", "recall", "density", "coverage")
        each = {"value": value, "stderr": stderr}
        return {"manifold": dict.fromkeys(names, each)}

    return {"split": "test", "samples": manifold(0.5), "fresh": manifold(0.9)}


@pytest.mark.parametrize("stderr", [0.1, None])
def test_bars(stderr: float | None) -> None:
    markup = quality_bars(plain(stderr))
    ElementTree.fromstring(markup)
    assert markup == quality_bars(plain(stderr))
    for text in ("precision", "coverage", "samples", "test rows", "var(--first)"):
        assert text in markup
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", markup)


def test_neighbours() -> None:
    """Each sample above its neighbours: two groups of three lines."""
    levels = [
        torch.full((4, 1, 2, 2), float(i)) + torch.tensor([0, 0, 0.5, 0.5])[:, None, None, None]
        for i in range(3)
    ]
    shown = Neighbours(levels[0], {"pixels": levels[1], "features": levels[2]}, 2)
    markup = neighbour_grid(shown)
    assert "nearest training row in pixels, then in features" in markup
    found = re.search(r"base64,([^\"]+)", markup)
    assert found is not None
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    assert picture.shape == (6 * 3 + 1 + 3, 2 * 3 + 1, 4)
    tops = [1, 4, 7, 13, 16, 19]  # a wider gap after three lines
    greys = [int(picture[y, 1, 0]) for y in tops]
    expected = [0.0, 1.0, 2.0, 0.5, 1.5, 2.5]
    assert greys == [round(255 * each / 2.5) for each in expected]
    with pytest.raises(ValueError, match="A grid is of images"):
        neighbour_grid(Neighbours(torch.zeros(2, 3), {"columns": torch.zeros(2, 3)}, 1))
