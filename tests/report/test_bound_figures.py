"""Figures of the bound: well-formed, in the page's colours, of results and of their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from markupsafe import Markup

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.evaluation.bound.gaps import inference_gaps
from deeplvm.evaluation.bound.generalisation import GeneralisationGap
from deeplvm.evaluation.bound.rate_distortion import rate_distortion
from deeplvm.evaluation.bound.surgery import elbo_surgery
from deeplvm.networks import MLP
from deeplvm.report.figures import bound


def one_latent() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(3), "x | z": Gaussian(2, MLP(3))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(3, MLP(2))}))


def two_latents() -> LatentVariableModel:
    p = Joint({"a": StandardNormal(2), "b": StandardNormal(1), "x | a, b": Gaussian(2, MLP(3))})
    q = Joint({"a | x": Gaussian(2, MLP(2)), "b | x": Gaussian(1, MLP(2))})
    return LatentVariableModel(p, q)


def generalisation() -> GeneralisationGap:
    gaps = [
        inference_gaps(one_latent(), {"x": torch.randn(n, 2)}, particles=10, steps=1)
        for n in (1, 4)
    ]
    return GeneralisationGap(*gaps)


ROWS = {"x": torch.randn(12, 2)}
FIGURES: dict[str, tuple[Callable[[Any], Markup], Callable[[], Any], tuple[str, ...]]] = {
    "curve": (
        bound.rate_distortion_figure,
        lambda: rate_distortion(one_latent(), ROWS, temperatures=5, particles=3),
        ("β = 1", "−ELBO", "q as it is"),
    ),
    "point": (
        bound.rate_distortion_figure,
        lambda: rate_distortion(one_latent(), ROWS, betas=()),
        ("−ELBO",),
    ),
    "dimensions": (
        bound.surgery_figure,
        lambda: elbo_surgery(one_latent(), ROWS),
        ("dimension of z", "mutual information"),
    ),
    "latents": (bound.surgery_figure, lambda: elbo_surgery(two_latents(), ROWS), (">a<", ">all<")),
    "generalisation": (bound.generalisation_figure, generalisation, ("encoder",)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name: str) -> None:
    draw, make, words = FIGURES[name]
    result = make()
    figure = draw(result)
    ElementTree.fromstring(figure)
    assert figure.startswith("<svg")
    assert "var(--first)" in figure or "var(--second)" in figure
    for word in words:
        assert word in figure
    assert draw(json.loads(json.dumps(result.to_dict()))) == figure


def test_labels_of_the_curve_do_not_lie_on_each_other() -> None:
    plain = rate_distortion(one_latent(), ROWS, temperatures=5, particles=3).to_dict()
    apart = str(bound.rate_distortion_figure(plain))
    for place, point in enumerate(plain["curve"]):
        # all in one place but the first
        for name in ("rate", "distortion"):
            point[name]["value"] = 1.0 + (place == 0)
    together = str(bound.rate_distortion_figure(plain))
    assert together.count("β = ") == 2 < apart.count("β = ")
