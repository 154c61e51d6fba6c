"""Every figure stands in a page: well-formed, described, repeatable, in its colours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from markupsafe import Markup
from sklearn.neighbors import KNeighborsClassifier

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, OneHot, Poisson, StandardNormal
from deeplvm.evaluation.bound.gaps import inference_gaps
from deeplvm.evaluation.bound.generalisation import GeneralisationGap
from deeplvm.evaluation.bound.rate_distortion import rate_distortion
from deeplvm.evaluation.bound.surgery import elbo_surgery
from deeplvm.evaluation.latents.aggregate import AggregateAgainstPrior, aggregate_against_prior
from deeplvm.evaluation.latents.prior_holes import holes
from deeplvm.evaluation.latents.probes import probes
from deeplvm.evaluation.predictive.calibration import calibration
from deeplvm.evaluation.predictive.checks import predictive_checks
from deeplvm.evaluation.predictive.out_of_distribution import out_of_distribution
from deeplvm.networks import MLP
from deeplvm.report.figures import (
    bound,
    columns,
    latents,
    likelihood,
    predictive,
    samples,
    training,
)
from deeplvm.report.figures.columns import Marginal
from deeplvm.report.figures.style import new_figure, svg

METRICS = [
    {"epoch": e, "train": {"elbo": -100 / e}, "valid": {"elbo": -110 / e}} for e in range(1, 31)
]
CURVE = [
    {"particles": k, "value": -90 + np.log10(k), "stderr": 0.1, "rise": 0.1, "rise_stderr": 0.01}
    for k in (1, 5, 10, 50, 100)
]
POINTS = np.random.default_rng(0).normal(size=(60, 2))
LABELS = np.arange(60) % 3
MATRIX = np.array([[1.25, 0.0], [0.1, 0.5], [0.0, 0.02]])


def of_latents(**parts: Any) -> LatentVariableModel:
    """x given nothing but the latents' names; only the q of z looks at x."""
    p = Joint({**parts, f"x | {', '.join(parts)}": Gaussian(3, MLP(4))})
    own = {name: part for name, part in parts.items() if name != "z"}
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3)), **own}))


def one_latent() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(3), "x | z": Gaussian(2, MLP(3))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(3, MLP(2))}))


def two_latents() -> LatentVariableModel:
    p = Joint({"a": StandardNormal(2), "b": StandardNormal(1), "x | a, b": Gaussian(2, MLP(3))})
    q = Joint({"a | x": Gaussian(2, MLP(2)), "b | x": Gaussian(1, MLP(2))})
    return LatentVariableModel(p, q)


def no_latent(names: str = "xbn") -> LatentVariableModel:
    parts = {"x": Gaussian(2, scale=1.0), "b": Bernoulli(2), "n": Poisson(1, mean=2.0)}
    return LatentVariableModel(Joint({name: parts[name] for name in names}))


def rows(count: int, wide: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    y, bits = torch.arange(count) % 2, (torch.rand(count, 2) < 0.5).double()
    x = torch.randn(count, wide) + (wide > 2) * 4 * y[:, None]
    return {"x": x, "b": bits, "n": torch.zeros(count, 1), "y": y}


def x_of(count: int, times: float = 1.0) -> dict[str, torch.Tensor]:
    return {"x": times * rows(count)["x"]}


def generalisation() -> GeneralisationGap:
    options: Any = {"particles": 10, "steps": 1}
    return GeneralisationGap(*[inference_gaps(one_latent(), x_of(n), **options) for n in (1, 4)])


def compared(**parts: Any) -> AggregateAgainstPrior:
    nearest = {"neighbours": KNeighborsClassifier(5)}
    return aggregate_against_prior(
        of_latents(**parts), {"x": rows(60, 3)["x"]}, classifiers=nearest, permutations=9
    )


def probed() -> Any:
    data = {name: rows(60, 3)[name] for name in ("x", "y")}
    return probes(of_latents(z=StandardNormal(2), c=OneHot(2)), data, data, neighbours=(1, 3))


def holed() -> Any:
    model = of_latents(z=StandardNormal(2), c=OneHot(2))
    return holes(model, {"x": rows(60, 3)["x"]}, draws=100)


def manifolds(stderr: float | None) -> dict[str, Any]:
    """What :func:`quality_bars` reads of a :class:`SampleQuality`."""
    names = ("precision", "recall", "density", "coverage")
    sides = {"samples": 0.5, "fresh": 0.9}
    return {"split": "test"} | {
        side: {"manifold": {key: {"value": value, "stderr": stderr} for key in names}}
        for side, value in sides.items()
    }


def strange() -> Any:
    return out_of_distribution(no_latent("x"), x_of(30), x_of(25, 3.0), train=x_of(20))


# how it is drawn, what is drawn, words that stand in it
CASES: dict[str, tuple[Callable[[Any], Markup], Callable[[], Any], tuple[str, ...]]] = {
    "curves": (lambda m: training.training_curves(m, "elbo", 30), lambda: METRICS, ()),
    "curves of one epoch": (
        lambda m: training.training_curves(m[:1], "elbo", 1), lambda: METRICS, (),
    ),
    "curves without held-out rows": (
        training.training_curves,
        lambda: [{"epoch": e, "train": {"elbo": -e}} for e in (1, 2)], (),
    ),
    "particles": (likelihood.particle_curve, lambda: CURVE, ()),
    "bars": (
        lambda v: latents.dimension_bars("z", v, [True, True, False], "KL, nats"),
        lambda: [0.1, 2.0, 0.0], (),
    ),
    "many bars": (
        lambda v: latents.dimension_bars("z", v, [True] * 100, "KL, nats"),
        lambda: np.ones(100), (),
    ),
    "map": (
        lambda p: latents.latent_map(p, LABELS, ("_a", "b", "<c>"), ("z[0]", "z[1]")),
        lambda: POINTS, (),
    ),
    "map without labels": (
        lambda p: latents.latent_map(p, None, None, ("z[0]", "z[1]")), lambda: POINTS, (),
    ),
    "line": (
        lambda p: latents.latent_histogram(p, LABELS, ("a", "b", "c"), "z"),
        lambda: POINTS[:, 0], (),
    ),
    "marginals": (
        columns.marginals,
        lambda: [
            Marginal("width & <height> ($) in $", POINTS[:, 0], POINTS[:, 1]),
            Marginal("n", LABELS, LABELS, "whole"),
            Marginal("constant", np.ones(9), POINTS[:, 0], note="gaussian, 9 % missing"),
            Marginal("pay", np.exp(3 * POINTS[:, 0]), np.exp(POINTS[:, 1])),
            Marginal("since", 18_000 + 99 * POINTS[:, 0], 18_000 + POINTS[:, 1], "date"),
            Marginal("city", LABELS, LABELS, "code", [f"_{i} & <co>" for i in range(40)]),
        ], ("2019-", "33 others", "gaussian, 9 % missing"),
    ),
    "missing values": (
        lambda m: columns.hole_patterns(m, ("age", "pay", "whole")),
        lambda: np.arange(60)[:, None] % np.array([2, 3, 61]) == 1, ("age", "50 %"),
    ),
    "synthetic rows": (
        columns.synthetic_columns,
        lambda: {
            "columns": {"age": {k: {"value": 0.9, "stderr": 0.1} for k in ("drawn", "real")}},
            "privacy": {"columns": {"age": {"value": 0.0, "low": -0.1, "high": 0.1}}},
        }, ("age",),
    ),
    "correlations": (
        lambda v: samples.correlations(v, np.ones((60, 2)), ["a", "b"]),
        lambda: np.where(POINTS > 1.9, np.nan, POINTS), (),
    ),
    "recovered": (samples.recovered, lambda: [("a", POINTS[:, 0], POINTS[:, 1])], ()),
    "traversals": (
        lambda c: latents.column_traversals(c, ["a", "b", "c"], ["-", *[""] * 9, "+"]),
        lambda: [("z[0]", np.zeros((11, 3)))], (),
    ),
    "quality": (
        samples.quality_bars, lambda: manifolds(0.1), ("coverage", "samples", "test rows"),
    ),
    "quality without errors": (samples.quality_bars, lambda: manifolds(None), ("precision",)),
    "curve of rate and distortion": (
        bound.rate_distortion_figure,
        lambda: rate_distortion(one_latent(), x_of(12), temperatures=5, particles=3),
        ("β = 1", "−ELBO", "q as it is"),
    ),
    "point of rate and distortion": (
        bound.rate_distortion_figure,
        lambda: rate_distortion(one_latent(), x_of(12), betas=()), ("−ELBO",),
    ),
    "surgery of dimensions": (
        bound.surgery_figure, lambda: elbo_surgery(one_latent(), x_of(12)),
        ("dimension of z", "mutual information"),
    ),
    "surgery of latents": (
        bound.surgery_figure, lambda: elbo_surgery(two_latents(), x_of(12)), (">a<", ">all<"),
    ),
    "generalisation": (bound.generalisation_figure, generalisation, ("encoder",)),
    "standard normal": (
        latents.aggregate_figure,
        lambda: compared(z=StandardNormal(2), c=OneHot(2)).latents["z"], (),
    ),
    "learned prior": (
        latents.aggregate_figure,
        lambda: compared(z=Gaussian(2, scale=0.5), c=OneHot(2)).latents["z"], (),
    ),
    "one-hot": (
        latents.aggregate_figure,
        lambda: compared(z=StandardNormal(2), c=OneHot(2)).latents["c"], (),
    ),
    "categories": (
        latents.aggregate_figure,
        lambda: compared(z=StandardNormal(2), c=Categorical(2)).latents["c"], (),
    ),
    "holes": (latents.holes_figure, holed, ("of p(z)",)),
    "probes": (
        latents.probes_figure, probed,
        ("z: 3 nearest", "c: clusters", "x, 2 principal components: linear"),
    ),
    "checks": (
        predictive.checks_figure,
        lambda: predictive_checks(no_latent(), rows(20), replicates=29), (),
    ),
    "one check": (
        lambda found: predictive.checks_figure(found, 1),
        lambda: predictive_checks(no_latent(), rows(20), replicates=29), ("adjusted p = ",),
    ),
    "calibration": (
        predictive.calibration_figure,
        lambda: calibration(no_latent(), rows(80), particles=20), ("uniform: p = ",),
    ),
    "calibration of numbers": (
        predictive.calibration_figure,
        lambda: calibration(no_latent("x"), rows(80), particles=20, names=["x"]),
        ("uniform: p = ",),
    ),
    "calibration of probabilities": (
        predictive.calibration_figure,
        lambda: calibration(no_latent("b"), rows(80), particles=20), (),
    ),
    "scores": (predictive.scores_figure, strange, ("likelihood, AUROC", "typicality")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_figure_stands_in_a_page(name: str) -> None:
    """Also without outside addresses; those of the bound from a file's plain numbers too."""
    draw, make, words = CASES[name]
    found = make()
    figure = draw(found)
    assert isinstance(figure, Markup)
    root = ElementTree.fromstring(str(figure))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert "var(--" in figure
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", str(figure))  # no stand-in is left
    links = re.findall(r'(?:href|src)="([^"]*)"', str(figure))
    assert all([link.startswith(("#", "data:")) for link in links])
    assert draw(found) == figure
    for word in words:
        assert word in figure
    if draw.__module__ == bound.__name__:
        assert draw(json.loads(json.dumps(found.to_dict()))) == figure


def test_ticks_say_values_and_not_differences_from_an_offset() -> None:
    close = [{**CURVE[0], "particles": 1 + i, "value": -156.03 + 0.01 * i} for i in range(3)]
    assert "−156.0250<" in likelihood.particle_curve(close)


def test_a_narrow_figure_is_not_spread_over_the_page() -> None:
    for width, small in ((2.3, True), (8.0, False)):
        with new_figure(width, 2.0) as (figure, _):
            assert ('class="small"' in svg(figure, "one", "one")) == small


def test_nothing_global_is_changed() -> None:
    before = dict(mpl.rcParams)
    likelihood.particle_curve(CURVE)
    assert dict(mpl.rcParams) == before


def test_labels_of_the_curve_do_not_lie_on_each_other() -> None:
    plain = rate_distortion(one_latent(), x_of(12), temperatures=5, particles=3).to_dict()
    apart = str(bound.rate_distortion_figure(plain))
    for place, point in enumerate(plain["curve"]):
        # all in one place but the first
        for name in ("rate", "distortion"):
            point[name]["value"] = 1.0 + (place == 0)
    together = str(bound.rate_distortion_figure(plain))
    assert together.count("β = ") == 2 < apart.count("β = ")


def test_many_columns_of_probabilities_are_one_line() -> None:
    """A hundred columns with ten values each: bins of one value are no line to look at."""
    torch.manual_seed(0)
    p = torch.rand(200, 20)
    model = LatentVariableModel(Joint({"x": Bernoulli(20, mean=p.mean(0))}))
    found = calibration(model, {"x": torch.bernoulli(p)}, particles=20)
    figure = str(predictive.calibration_figure(found))
    assert "all 20 columns" in figure
    assert "x[3]" not in figure
    assert "uniform: p = " not in figure


def test_several_latents_have_no_histogram() -> None:
    found = compared(z=StandardNormal(2), c=OneHot(2))
    assert found.joint is not None
    with pytest.raises(ValueError, match="z, c are several latents"):
        latents.aggregate_figure(found.joint)


def test_every_cell_of_a_matrix_says_its_number() -> None:
    figure = latents.factor_matrix_figure(MATRIX, ["hue & <b>", "scale"], name="z")
    texts = [each.text for each in ElementTree.fromstring(figure).iter() if each.text]
    for value in MATRIX.flat:
        assert f"{value:.2f}" in texts
    assert {"hue & <b>", "scale", "z[2]", "mutual information, nats"} <= set(texts)
    for matrix, reason in ((MATRIX[:, :1], "one column for each of"), (MATRIX * np.nan, "finite")):
        with pytest.raises(ValueError, match=reason):
            latents.factor_matrix_figure(matrix, ["a", "b"])


def test_large_and_empty_matrices() -> None:
    random = np.random.default_rng(0).random((100, 5))
    large = latents.factor_matrix_figure(random, list("abcde"), top=1)
    assert "z[96]" in large
    assert "z[97]" not in large
    assert "0.00" in latents.factor_matrix_figure(np.zeros((2, 2)), ["a", "b"])
