"""The page: self-contained, escaped, whole for every kind of model and data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, SigmoidTransform, TransformedDistribution

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.flows import InverseAutoregressiveFlow
from deeplvm.data import Data, Selection, likelihood_of, load
from deeplvm.evaluation import Synthetic, evaluate
from deeplvm.networks import MLP
from deeplvm.recipes import (
    conditional_vae,
    draw,
    full_covariance_vae,
    iwae,
    mixture_model,
    nade,
    nvdm,
    semi_supervised_vae,
    vae,
)
from deeplvm.report import report
from deeplvm.report.material import Material

METRICS = [
    {
        "epoch": e,
        "train": {"elbo": -100.0 - 50 / e, "z": -1.0},
        "valid": {"elbo": -101.0 - 50 / e, "z": -1.0},
        "seconds": 0.5,
    }
    for e in range(1, 6)
]


def two_layers(data: Data) -> LatentVariableModel:
    """Bottom-up inference: the divergence of z1 has no closed form."""
    x = data.variables["x"]
    p = Joint(
        {
            "z2": StandardNormal(2),
            "z1 | z2": Gaussian(3, MLP(2, 8)),
            "x | z1": likelihood_of(x, MLP(3, 8)),
        }
    )
    q = Joint({"z1 | x": Gaussian(3, MLP(x.shape, 8)), "z2 | z1": Gaussian(2, MLP(3, 8))})
    return LatentVariableModel(p, q)


def flow_posterior(data: Data) -> LatentVariableModel:
    """A posterior without a mean in closed form."""
    x = data.variables["x"]
    p = Joint({"z": StandardNormal(2), "x | z": likelihood_of(x, MLP(2, 8))})
    flow = InverseAutoregressiveFlow(2, MLP(x.shape, 8), transforms=1)
    return LatentVariableModel(p, Joint({"z | x": flow}))


def no_latents(data: Data) -> LatentVariableModel:
    return LatentVariableModel(Joint({"x": likelihood_of(data)}))


def with_holes(data: Data) -> Data:
    """The same data without labels, some elements missing."""
    variable = dataclasses.replace(data.variables["x"], missing=True)
    rows: dict[str, Any] = {}
    for split in ("train", "valid", "test"):
        tensors = dict(getattr(data, split))
        x = tensors["x"].to(torch.float32)
        holes = torch.where(torch.rand(x.shape) < 0.1, torch.nan, x)
        rows[split] = Selection(tensors | {"x": holes})
    description = dataclasses.replace(data.description, variables={"x": variable}, classes=None)
    return dataclasses.replace(data, description=description, **rows)


CASES: dict[str, tuple[str, Callable[..., LatentVariableModel]]] = {
    "images": ("digits", lambda data: vae(data, latent=3, hidden=(8,))),
    "a label as condition": ("digits", lambda data: conditional_vae(data, latent=2, hidden=(8,))),
    "full covariance": ("digits", lambda data: full_covariance_vae(data, latent=3, hidden=(8,))),
    "two layers": ("digits", two_layers),
    "a flow as posterior": ("digits", flow_posterior),
    "importance weighted": ("digits", iwae),
    "steps of a canvas": ("digits", lambda data: draw(data, steps=2, latent=2, hidden=8)),
    "columns of reals": ("iris", lambda data: vae(data, latent=2, hidden=(8,))),
    "one latent dimension": ("iris", lambda data: vae(data, latent=1, hidden=(8,))),
    "mixed columns": ("wine", lambda data: vae(data, latent=2, hidden=(8,))),
    "no latents": ("iris", no_latents),
}


@pytest.mark.parametrize("name, make", CASES.values(), ids=CASES)
def test_every_kind_of_model_has_a_page(
    name: str, make: Callable[..., LatentVariableModel]
) -> None:
    """Nothing is left out, nothing comes from elsewhere, no script, every figure is described."""
    data = load(name)
    model = make(data)
    evaluation = evaluate(model, data.valid, particles=20)
    page = report(model, data, evaluation, METRICS, recipe="mine", settings={"seed": 0})
    assert "Left out" not in page
    assert_self_contained(page)
    for text in (name, "log p(", "Training", "Samples", f"{data.rows('train'):,} training"):
        assert text in page
    if model.q.names:
        for text in ("Reconstructions", "Traversals", "The latent space", "How far to trust"):
            assert text in page


def test_labels_and_topics_have_a_part_of_their_own() -> None:
    """A reliability diagram with the calibration errors; the first words of each topic."""
    rows = {f"w{i}": np.random.default_rng(i).poisson(2, 60) for i in range(4)}
    labelled = load("iris")
    pages = []
    for data, model in (
        (labelled, semi_supervised_vae(labelled, latent=2, hidden=(4,))),
        (load(rows), nvdm(load(rows), latent=2, hidden=(4,))),
    ):
        evaluation = evaluate(model, data.valid, particles=5)
        page = report(model, data, evaluation)
        assert_self_contained(page)
        pages.append(page)
        if found := evaluation.classification:
            values = sum([each["values"] for each in found["encoder"]["bins"]])
            assert values == found["rows"]
            del found["encoder"]["bins"]  # as versions before wrote it
            assert 'id="labels"' not in report(model, data, evaluation)
    assert "expected calibration error" in pages[0]
    assert all(["w3" in page and "coherence" in page for page in pages[1:]])


def test_missing_elements() -> None:
    """NaN in images is shown as such, and the evaluation leaves it out."""
    data = with_holes(load("digits"))
    model = vae(data, latent=2, hidden=(8,))
    evaluation = evaluate(model, data.valid, particles=5)
    page = report(model, data, evaluation)
    assert "Left out" not in page
    assert_self_contained(page)


def test_a_table_of_all_kinds() -> None:
    """Columns with their names, holes, odd cells, and drawn rows beside real ones."""
    rng = np.random.default_rng(0)
    data = load(
        {
            "pay & tip": np.where(rng.random(240) < 0.5, 0.0, rng.gamma(2, 9, 240).round(2)),
            "plan": np.array([None if u < 0.2 else "basic" for u in rng.random(240)], object),
            "kind": rng.choice(["old", "new"], 240),
            "since": np.datetime64("2020-01-01") + rng.integers(0, 900, 240),
            "visits": np.where(rng.random(240) < 0.3, np.nan, rng.poisson(3, 240)),
        },
        likelihood="mixture",
        categories=("plan",),
    )
    model = mixture_model(data, classes=2)
    evaluation = evaluate(model, data.test, particles=1, synthetic=Synthetic("kind"))
    page = report(model, data, evaluation)
    assert "Left out" not in page
    assert_self_contained(page)
    seen = ("Columns", "of the training rows have no hole", "counts, 32 % missing")
    for text in (*seen, "Odd cells", "risk of singling out", "AUC of kind", "pay &amp; tip"):
        assert text in page


class Elements(HTMLParser):
    """What the page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_self_contained(page: str) -> None:
    parser = Elements()
    parser.feed(page)
    assert parser.open == []
    anchors = {attributes.get("id") for _, attributes in parser.found}
    for tag, attributes in parser.found:
        assert tag not in ("script", "link", "iframe", "object")
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#"))
            if tag == "a" and value:
                assert value[1:] in anchors
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_everything_is_escaped() -> None:
    """Names, notes and labels come from files that anybody may have written."""
    data = load("iris")
    bad = "<script>alert('x')</script>"
    x = dataclasses.replace(data.variables["x"], columns=(bad, "b", "c", "d"))
    description = dataclasses.replace(
        data.description,
        name=bad,
        source=bad,
        split=bad,
        notes=(bad,),
        classes=(bad, "b", "c"),
        variables={"x": x},
    )
    data = dataclasses.replace(data, description=description)
    model = vae(data, latent=2, hidden=(4,))
    evaluation = evaluate(model, data.valid, particles=5)
    page = report(model, data, evaluation, title=bad, recipe=bad, settings={bad: bad})
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert_self_contained(page)


def test_without_an_evaluation_it_says_so() -> None:
    data = load("iris")
    page = report(vae(data, latent=2, hidden=(4,)), data)
    assert "The model was not evaluated" in page
    assert "Samples" in page
    assert "nan" not in re.sub(r'data:[^"]*', "", page).lower().replace("nano", "")


def test_a_curve_that_was_still_rising_is_said() -> None:
    data = load("iris")
    metrics = [
        {"epoch": e, "train": {"elbo": -9 + e}, "valid": {"elbo": -9 + e}} for e in range(20)
    ]
    page = report(vae(data, latent=2, hidden=(4,)), data, None, metrics)
    assert "still rising at the last epoch, by 2.00 nats over the last 2 epochs" in page


def test_the_same_page_twice() -> None:
    """Draws are seeded: a report that is written again is the same file."""
    data = load("digits")
    model = vae(data, latent=1, hidden=(4,))
    evaluation = evaluate(model, data.valid, particles=5)
    assert report(model, data, evaluation) == report(model, data, evaluation)


def test_traversals_move_one_dimension() -> None:
    """x along z[1] of a linear model moves along one column, from the row's posterior mean."""
    data = load("iris")
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(4, MLP(2), scale=1.0)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4))}))
    material = Material(model, data)
    use = {"z": {"kl_by_dimension": [0.5, 2.0], "variance_of_posterior_mean": [1.0, 1.0], "kl": 1}}
    traversals = material.traversals(use)
    assert [each.dimension for each in traversals] == [1, 0]
    change = traversals[0].values.diff(dim=0)
    likelihood: Any = p["x"]
    column = likelihood.head.layer.weight[:, 1].detach()
    step = traversals[0].positions.diff()[0]
    assert torch.allclose(change, (step * column).expand_as(change))


def test_epochs_that_cannot_be_compared_are_not_the_best() -> None:
    """While a KL weight grows, each epoch has a bound of its own; the first may be highest."""
    data = load("iris")
    metrics = [
        {"epoch": e, "valid": {"elbo": -5.0 - e if e < 4 else -9.0 + e / 10}, "comparable": e > 3}
        for e in range(1, 9)
    ]
    page = report(vae(data, latent=2, hidden=(4,)), data, None, metrics)
    assert "The weights of epoch 8, the best held out, were kept." in page
    assert "The first 3 epochs had a bound of their own" in page


def test_two_latent_dimensions_have_a_plane() -> None:
    """x over the plane: to the right z[0] grows, upwards z[1]."""
    data = load("digits")
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian((1, 8, 8), MLP(2), scale=1.0)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP((1, 8, 8)))}))
    plane = Material(model, data).manifold("z", 5).reshape(5, 5, 64)
    weight = model.p["x"].head.layer.weight.detach()
    right, up = plane[2, 3] - plane[2, 2], plane[1, 2] - plane[2, 2]
    assert torch.allclose(right / right.norm(), weight[:, 0] / weight[:, 0].norm())
    assert torch.allclose(up / up.norm(), weight[:, 1] / weight[:, 1].norm())
    page = report(model, data, evaluate(model, data.valid, particles=5))
    assert "The plane of the latent" in page


def test_the_plane_of_a_latent_is_where_its_prior_is() -> None:
    """A learned prior that has moved: the middle of the plane is its own."""
    prior = Gaussian(2, scale=0.1)
    prior.head.start_at(torch.tensor([5.0, -3.0]))
    decoder = Gaussian((1, 8, 8), MLP(2), scale=1.0)
    model = LatentVariableModel(
        Joint({"z": prior, "x | z": decoder}), Joint({"z | x": Gaussian(2, MLP((1, 8, 8)))})
    )
    plane = Material(model, load("digits")).manifold("z", 5)
    middle = decoder(torch.tensor([[5.0, -3.0]])).mean.detach()
    assert torch.allclose(plane[12], middle[0], atol=0.05)


def test_a_likelihood_without_a_mean_is_shown_by_draws() -> None:
    """As a flow has none: the page says that its pictures are draws."""

    class Flow(nn.Module):
        event_shape = torch.Size((1, 8, 8))

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z: torch.Tensor) -> TransformedDistribution:
            loc = z.sum(-1)[..., None, None, None].expand(*z.shape[:-1], 1, 8, 8)
            base = Independent(Normal(loc, self.scale), 3)
            return TransformedDistribution(base, [SigmoidTransform()])

    data = load("digits", likelihood="continuous-bernoulli", dequantize="uniform")
    p = Joint({"z": StandardNormal(2), "x | z": Flow()})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP((1, 8, 8)))}))
    page = report(model, data)
    assert "a draw from p(x | z), which has no known mean" in page
    assert "the mean of p(x | z)" not in page


def test_the_page_of_a_model_without_latents_speaks_of_none() -> None:
    data = load("digits", binarize="static", limit=100)
    model = nade(data, hidden=2)
    drawn = Material(model, data).samples(8, mean=True)
    assert len(drawn.flatten(1).unique(dim=0)) == 8  # equal draws of 64 near-fair bits: never
    page = report(model, data)
    assert "Drawn from the model: a draw from p(x), which has no known mean." in page
    assert "p(x | z)" not in page
    assert "p(z)" not in page
