"""Heat maps of codes against factors."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from deeplvm.report.figures.latents import factor_matrix_figure

MATRIX = np.array([[1.25, 0.0], [0.1, 0.5], [0.0, 0.02]])


def test_every_cell_says_its_number() -> None:
    figure = factor_matrix_figure(MATRIX, ["hue & <b>", "scale"], name="z")
    texts = [each.text for each in ElementTree.fromstring(figure).iter() if each.text]
    for value in MATRIX.flat:
        assert f"{value:.2f}" in texts
    assert {"hue & <b>", "scale", "z[2]", "mutual information, nats"} <= set(texts)


def test_large_and_empty_matrices() -> None:
    large = factor_matrix_figure(np.random.default_rng(0).random((100, 5)), list("abcde"), top=1)
    assert "z[96]" in large
    assert "z[97]" not in large
    assert "0.00" in factor_matrix_figure(np.zeros((2, 2)), ["a", "b"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="one column for each of a; found shape"):
        factor_matrix_figure(MATRIX, ["a"])
    with pytest.raises(ValueError, match="finite numbers"):
        factor_matrix_figure(MATRIX * np.nan, ["a", "b"])
