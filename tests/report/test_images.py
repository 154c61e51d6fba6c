"""Image grids: pixel by pixel."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from deeplvm.data import load
from deeplvm.evaluation.samples.quality import Neighbours
from deeplvm.report.figures import images
from deeplvm.report.figures.samples import neighbour_grid


def test_a_grid_has_the_pixels() -> None:
    digits = load("digits")
    x = digits.batch("train", slice(5))["x"].numpy()
    png = images.grid_png(x, columns=3, variable=digits.variables["x"])
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert picture.shape == (2 * 9 + 1, 3 * 9 + 1, 4)
    assert np.array_equal(picture[1:9, 1:9, 0], np.round(255 * x[0, 0] / 16))
    assert picture[0, 0, 3] == 0  # transparent between images
    assert picture[-3, -3, 3] == 0  # and where there is none
    colours = np.asarray(
        Image.open(io.BytesIO(images.grid_png(np.zeros((1, 3, 2, 2)), columns=1)))
    )
    assert colours.shape == (4, 4, 4)


def test_missing_pixels_are_red() -> None:
    x = np.zeros((1, 1, 2, 2))
    x[0, 0, 0, 0] = np.nan
    picture = np.asarray(Image.open(io.BytesIO(images.grid_png(x, columns=1))))
    assert picture[1, 1, 0] > 150 > picture[1, 1, 1]


def test_a_grid_of_its_own() -> None:
    grey = np.zeros((10, 1, 4, 4))
    grey[1] = 1.0
    picture = Image.open(io.BytesIO(images.grid_png(grey, side=800, opaque=True)))
    assert picture.mode == "L"
    width, height = picture.size
    assert 700 < height <= 800
    assert width / 16 == height / 21 == 38  # 10 images: 3 across, 4 down, each pixel enlarged
    values = np.asarray(picture)[::38, ::38]
    assert (values[0] == 255).all()  # white between images
    assert (values[1:5, 1:5] == 0).all()
    assert (values[-3, 6:] == 255).all()  # and where there is none
    grey[0, 0, 0, 0] = np.nan
    for pictures in (grey, np.zeros((2, 3, 4, 4))):
        assert Image.open(io.BytesIO(images.grid_png(pictures, opaque=True))).mode == "RGB"


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found shape \(5, 4\)"):
        images.grid_png(np.zeros((5, 4)), columns=2)


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
