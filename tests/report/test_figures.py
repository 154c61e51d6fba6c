"""Figures: well-formed, in the page's colours; image grids: pixel by pixel."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from deeplvm.data import load
from deeplvm.report.figures import images, latents, likelihood, samples, training

METRICS = [
    {"epoch": e, "train": {"elbo": -100 / e}, "valid": {"elbo": -110 / e}} for e in range(1, 31)
]
CURVE = [
    {"particles": k, "value": -90 + np.log10(k), "stderr": 0.1, "rise": 0.1, "rise_stderr": 0.01}
    for k in (1, 5, 10, 50, 100)
]
POINTS = np.random.default_rng(0).normal(size=(60, 2))
LABELS = np.arange(60) % 3

FIGURES = {
    "curves": lambda: training.training_curves(METRICS, "elbo", 30),
    "curves of one epoch": lambda: training.training_curves(METRICS[:1], "elbo", 1),
    "curves without held-out rows": lambda: training.training_curves(
        [{"epoch": e, "train": {"elbo": -e}} for e in (1, 2)]
    ),
    "particles": lambda: likelihood.particle_curve(CURVE),
    "bars": lambda: latents.dimension_bars("z", [0.1, 2.0, 0.0], [True, True, False], "KL, nats"),
    "many bars": lambda: latents.dimension_bars("z", np.ones(100), [True] * 100, "KL, nats"),
    "map": lambda: latents.latent_map(POINTS, LABELS, ("_a", "b", "<c>"), ("z[0]", "z[1]")),
    "map without labels": lambda: latents.latent_map(POINTS, None, None, ("z[0]", "z[1]")),
    "line": lambda: latents.latent_histogram(POINTS[:, 0], LABELS, ("a", "b", "c"), "z"),
    "marginals": lambda: samples.marginals(
        [
            ("width & <height> ($) in $", POINTS[:, 0], POINTS[:, 1], False),
            ("n", LABELS, LABELS, True),
            ("constant", np.ones(9), POINTS[:, 0], False),
        ]
    ),
    "correlations": lambda: samples.correlations(
        np.where(POINTS > 1.9, np.nan, POINTS), np.ones((60, 2)), ["a", "b"]
    ),
    "recovered": lambda: samples.recovered([("a", POINTS[:, 0], POINTS[:, 1])]),
    "traversals": lambda: latents.column_traversals(
        [("z[0]", np.zeros((11, 3)))], ["a", "b", "c"], ["-", *[""] * 9, "+"]
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_figure_stands_in_a_page(make: object) -> None:
    """Well-formed, described, repeatable, in the page's colours, and without outside addresses."""
    figure = make()  # type: ignore[operator]
    assert isinstance(figure, Markup)
    root = ElementTree.fromstring(str(figure))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert "var(--" in figure
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", str(figure))
    links = re.findall(r'(?:href|src)="([^"]*)"', str(figure))
    assert all([link.startswith(("#", "data:")) for link in links])
    assert make() == figure  # type: ignore[operator]


def test_nothing_global_is_changed() -> None:
    before = dict(mpl.rcParams)
    likelihood.particle_curve(CURVE)
    assert dict(mpl.rcParams) == before


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
