"""Figures of the latents: well-formed, in the page's colours, with their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from markupsafe import Markup
from sklearn.neighbors import KNeighborsClassifier

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, OneHot, StandardNormal
from deeplvm.evaluation.latents.aggregate import aggregate_against_prior
from deeplvm.evaluation.latents.prior_holes import holes
from deeplvm.evaluation.latents.probes import probes
from deeplvm.networks import MLP
from deeplvm.report.figures.latents import aggregate_figure, holes_figure, probes_figure


def model(**latents: Any) -> LatentVariableModel:
    """x given nothing but the latents' names; q that does not look at x."""
    p = Joint({**latents, f"x | {', '.join(latents)}": Gaussian(3, MLP(4))})
    z = Gaussian(2, MLP(3))
    return LatentVariableModel(
        p, Joint({"z | x": z} | {n: c for n, c in latents.items() if n != "z"})
    )


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    y = torch.arange(60) % 2
    return {"x": torch.randn(60, 3) + 4 * y[:, None], "y": y}


def compared(data: dict[str, torch.Tensor], name: str, **latents: Any) -> Any:
    found = aggregate_against_prior(
        model(**latents), data, classifiers={"neighbours": KNeighborsClassifier(5)}, permutations=9
    )
    return found.latents[name]


CASES: dict[str, tuple[Callable[..., Markup], Callable[[dict[str, torch.Tensor]], Any]]] = {
    "standard normal": (
        aggregate_figure,
        lambda data: compared(data, "z", z=StandardNormal(2), c=OneHot(2)),
    ),
    "learned prior": (
        aggregate_figure,
        lambda data: compared(data, "z", z=Gaussian(2, scale=0.5), c=OneHot(2)),
    ),
    "one-hot": (
        aggregate_figure,
        lambda data: compared(data, "c", z=StandardNormal(2), c=OneHot(2)),
    ),
    "categories": (
        aggregate_figure,
        lambda data: compared(data, "c", z=StandardNormal(2), c=Categorical(2)),
    ),
    "holes": (
        holes_figure,
        lambda data: holes(model(z=StandardNormal(2), c=OneHot(2)), data, draws=100),
    ),
    "probes": (
        probes_figure,
        lambda data: probes(
            model(z=StandardNormal(2), c=OneHot(2)), data, data, neighbours=(1, 3)
        ),
    ),
}


@pytest.mark.parametrize("draw, compute", CASES.values(), ids=CASES)
def test_every_figure_stands_in_a_page(
    draw: Any, compute: Any, data: dict[str, torch.Tensor]
) -> None:
    found = compute(data)
    figure = draw(found)
    assert isinstance(figure, Markup)
    root = ElementTree.fromstring(str(figure))
    assert root.get("aria-label")
    assert not re.search(r"#(0[1-6])\1\1\b", figure)  # no stand-in is left
    assert "var(--first)" in figure
    assert draw(found) == figure


def test_numbers_are_in_the_figures(data: dict[str, torch.Tensor]) -> None:
    found = holes(model(z=StandardNormal(2), c=OneHot(2)), data, draws=100)
    assert f"{found.hole} of p(z)" in holes_figure(found)
    seen = probes(model(z=StandardNormal(2), c=OneHot(2)), data, data, neighbours=(3,))
    figure = probes_figure(seen)
    assert "z: 3 nearest" in figure
    assert "c: clusters" in figure
    assert "x, 2 principal components: linear" in figure


def test_several_latents_have_no_histogram(data: dict[str, torch.Tensor]) -> None:
    found = aggregate_against_prior(
        model(z=StandardNormal(2), c=OneHot(2)),
        data,
        classifiers={"neighbours": KNeighborsClassifier(5)},
        permutations=9,
    )
    assert found.joint is not None
    with pytest.raises(ValueError, match="z, c are several latents"):
        aggregate_figure(found.joint)
