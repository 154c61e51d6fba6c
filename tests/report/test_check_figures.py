"""Figures of checks stand in a page: well-formed, described, repeatable, in its colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import torch
from markupsafe import Markup

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, Poisson
from deeplvm.evaluation.predictive.calibration import calibration
from deeplvm.evaluation.predictive.checks import predictive_checks
from deeplvm.evaluation.predictive.out_of_distribution import out_of_distribution
from deeplvm.report.figures.predictive import calibration_figure, checks_figure, scores_figure


def model(names: str = "xbn") -> LatentVariableModel:
    parts = {"x": Gaussian(2, scale=1.0), "b": Bernoulli(2), "n": Poisson(1, mean=2.0)}
    return LatentVariableModel(Joint({name: parts[name] for name in names}))


def rows(count: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(count, 2),
        "b": (torch.rand(count, 2) < 0.5).double(),
        "n": torch.zeros(count, 1),
    }


def scores() -> Markup:
    train, inside, outside = ({"x": rows(n)["x"] * s} for n, s in ((20, 1), (30, 1), (25, 3)))
    return scores_figure(out_of_distribution(model("x"), inside, outside, train=train))


FIGURES: dict[str, Callable[[], Markup]] = {
    "checks": lambda: checks_figure(predictive_checks(model(), rows(20), replicates=29)),
    "one check": lambda: checks_figure(predictive_checks(model(), rows(20), replicates=29), 1),
    "calibration": lambda: calibration_figure(calibration(model(), rows(80), particles=20)),
    "numbers only": lambda: calibration_figure(
        calibration(model("x"), rows(80), particles=20, names=["x"])
    ),
    "probabilities only": lambda: calibration_figure(
        calibration(model("b"), rows(80), particles=20)
    ),
    "scores": scores,
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_figure_stands_in_a_page(make: Callable[[], Markup]) -> None:
    figure = make()
    assert isinstance(figure, Markup)
    root = ElementTree.fromstring(str(figure))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert "var(--" in figure
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", str(figure))
    assert make() == figure


def test_what_is_told() -> None:
    assert "uniform: p = " in FIGURES["numbers only"]()
    assert "uniform: p = " not in FIGURES["probabilities only"]()
    text = scores()
    assert "likelihood, AUROC" in text
    assert "typicality" in text
    assert "adjusted p = " in FIGURES["one check"]()


def test_many_columns_of_probabilities_are_one_line() -> None:
    """A hundred columns with ten values each: bins of one value are no line to look at."""
    torch.manual_seed(0)
    p = torch.rand(200, 20)
    model = LatentVariableModel(Joint({"x": Bernoulli(20, mean=p.mean(0))}))
    found = calibration(model, {"x": torch.bernoulli(p)}, particles=20)
    figure = str(calibration_figure(found))
    assert "all 20 columns" in figure
    assert "x[3]" not in figure
