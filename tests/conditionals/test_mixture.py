"""Mixtures: densities, gradients against quadrature, draws one a component."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import (
    Bernoulli,
    FullCovarianceGaussian,
    Gaussian,
    GaussianMixture,
    Laplace,
    Mixture,
    StandardNormal,
    Stratified,
)
from deeplvm.distributions import NormalMixture
from deeplvm.networks import MLP

LOGITS = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64)


def mixture_of(dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, means and log-scales of three overlapping components."""
    generator = torch.Generator().manual_seed(3)
    loc = 1.5 * torch.randn(3, dims, generator=generator, dtype=torch.float64)
    log_scale = 0.3 * torch.randn(3, dims, generator=generator, dtype=torch.float64)
    return LOGITS.clone(), loc, log_scale


def built(logits: Tensor, loc: Tensor, log_scale: Tensor) -> NormalMixture:
    return NormalMixture(logits, loc, log_scale.exp())


def grid(dims: int, width: float = 14.0, points: int = 561) -> tuple[Tensor, float]:
    axis = torch.linspace(-width, width, points, dtype=torch.float64)
    cell = float(axis[1] - axis[0]) ** dims
    return (axis.unsqueeze(-1) if dims == 1 else torch.cartesian_prod(*[axis] * dims)), cell


def wave(z: Tensor) -> Tensor:
    """A function whose expectation every parameter moves."""
    return torch.sin(1.3 * z[..., 0]) + (z.cumsum(-1) - 0.5).square().sum(-1) * 0.1


@pytest.mark.parametrize("dims", [1, 2])
@torch.no_grad()
def test_it_is_normalised_and_its_moments_are_those_of_its_density(dims: int) -> None:
    """TB6, on a grid, to 1e-8."""
    mixture = built(*mixture_of(dims))
    points, cell = grid(dims)
    density = mixture.log_prob(points).exp() * cell
    assert abs(density.sum().item() - 1) < 1e-8
    mean = (density.unsqueeze(-1) * points).sum(0)
    torch.testing.assert_close(mixture.mean, mean, rtol=0, atol=1e-8)
    spread = (density.unsqueeze(-1) * (points - mean).square()).sum(0)
    torch.testing.assert_close(mixture.variance, spread, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_gradient_of_an_expectation_is_that_of_quadrature(dims: int) -> None:
    r"""Implicit reparameterisation: :math:`\nabla E_q[f(z)]` of all parameters.

    Within 5 standard errors of 40,000 draws, 21 numbers in all: fails by chance once in 80,000;
    seed fixed. Every standard error is below 0.02, the largest gradients above 0.2.
    """
    parameters = [each.requires_grad_() for each in mixture_of(dims)]
    points, cell = grid(dims)
    exact = (built(*parameters).log_prob(points).exp() * wave(points)).sum() * cell
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    torch.manual_seed(5)
    rows = 40_000
    each = [
        p.detach().expand(rows, *p.shape).clone().requires_grad_() for p in parameters
    ]  # one set of parameters a draw, so that each draw's own gradient is seen
    wave(built(*each).rsample()).sum().backward()
    found = torch.cat([p.grad.flatten(1) for p in each if p.grad is not None], -1)
    error = found.std(0) / math.sqrt(rows)
    assert error.max() < 0.02
    assert expected.abs().max() > 0.2
    assert ((found.mean(0) - expected).abs() < 5 * error + 1e-12).all()


def test_a_draw_moves_as_the_distribution_functions_move() -> None:
    r"""To 1e-9: the directional derivative keeps every conditional distribution function.

    :math:`F_d(z(\theta); \theta)` does not change to first order, by autodiff of z and of F.
    """
    parameters = mixture_of(3)

    def cumulative(z: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        normal = torch.distributions.Normal(loc, log_scale.exp())
        each, found = normal.log_prob(z), []
        for d in range(3):
            share = (logits + each[:, :d].sum(-1)).softmax(-1)
            found.append((share * normal.cdf(z)[:, d]).sum())
        return torch.stack(found)

    def draw(*parameters: Tensor) -> Tensor:
        torch.manual_seed(7)
        return built(*parameters).rsample()

    jacobians = torch.autograd.functional.jacobian(draw, parameters)
    z = draw(*parameters)
    by_z, *by_parameters = torch.autograd.functional.jacobian(cumulative, (z, *parameters))
    for own, moved in zip(by_parameters, jacobians, strict=True):
        total = own.flatten(1) + by_z @ moved.flatten(1)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-9)


def test_gradients_in_the_tails_have_their_digits_in_single_precision() -> None:
    """5 standard deviations out on either side: within 1e-3 of double precision."""
    for sign in (-1.0, 1.0):
        value = torch.tensor([[5.0 * sign, 4.0 * sign]])
        found = []
        for dtype in (torch.float32, torch.float64):
            means = torch.tensor([[0.0, 0.3], [0.4, -0.2]])
            parts = (torch.zeros(2), means, torch.ones(2, 2))
            logits, loc, scale = [each.to(dtype).requires_grad_() for each in parts]
            moved = NormalMixture(logits, loc, scale)._moving(value.to(dtype))
            found.append(torch.autograd.grad(moved.sum(), (logits, loc, scale)))
        for single, double in zip(*found, strict=True):
            torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_draws_come_from_the_density() -> None:
    """Cells of a grid by chance: 4 by 4 frequencies within 5 standard errors of 50,000 draws.

    Fails by chance once in 100,000; seed fixed.
    """
    mixture = built(*mixture_of(2))
    torch.manual_seed(1)
    draws = mixture.sample((50_000,))
    points, cell = grid(2)
    edges = torch.tensor([-1.0, 0.3, 1.6], dtype=torch.float64)
    share = torch.zeros(16, dtype=torch.float64)

    def place(z: Tensor) -> Tensor:
        first, second = torch.bucketize(z.contiguous(), edges).unbind(-1)
        return 4 * first + second

    share.index_add_(0, place(points), mixture.log_prob(points).exp() * cell)
    found = torch.bincount(place(draws), minlength=16) / len(draws)
    # the grid's own error is that of cells cut by an edge
    assert ((found - share).abs() < 5 * (share / len(draws)).sqrt() + 0.01).all()


def test_missing_elements_are_integrated_out() -> None:
    """Of normals, and of components without independent elements."""
    _, loc, log_scale = mixture_of(2)
    mixture = built(LOGITS, loc, log_scale)
    value = torch.tensor([[0.4, math.nan], [0.4, -1.0]], dtype=torch.float64)
    found = mixture.observed_log_prob(value, ~value.isnan())
    first = NormalMixture(LOGITS, loc[:, :1], log_scale.exp()[:, :1])
    torch.testing.assert_close(found[0], first.log_prob(value[:1, :1])[0])
    torch.testing.assert_close(found[1], mixture.log_prob(value[1]))
    torch.manual_seed(0)
    other = Mixture([FullCovarianceGaussian(2), Laplace(2)])()
    axis = torch.linspace(-40, 40, 8001)
    line = torch.stack([torch.full_like(axis, 0.4), axis], -1)
    marginal = (other.log_prob(line).exp().sum() * (axis[1] - axis[0])).log()
    found = other.observed_log_prob(value, ~value.isnan())
    torch.testing.assert_close(found[0], marginal, rtol=1e-4, atol=1e-4)


def bent_posterior(network: nn.Module) -> Mixture:
    torch.manual_seed(0)
    parts = [FullCovarianceGaussian(2, MLP(5, 8, activation=nn.Tanh)) for _ in range(3)]
    return Mixture(parts, network)


Make = Callable[[nn.Module], nn.Module]
MAKES: dict[str, Make] = {
    "Gaussians": lambda n: GaussianMixture(2, n, components=3),
    "any conditionals": bent_posterior,
}


def model_with(make: Make) -> tuple[LatentVariableModel, Tensor]:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(5, MLP(2, 6, activation=nn.Tanh))})
    model = LatentVariableModel(p, Joint({"z | x": make(MLP(5, 8, activation=nn.Tanh))}))
    return model, (torch.rand(3, 5) < 0.5).double()


@pytest.mark.parametrize("make", list(MAKES.values()), ids=list(MAKES))
def test_stratified_draws_give_the_bound(make: Make) -> None:
    r"""The stratified ELBO is unbiased: its mean is :math:`-KL(q \| p(z)) + E[\log p(x | z)]`.

    Within 5 standard errors of the quadrature on a grid; fails by chance once in 600,000 a row.
    """
    model, x = model_with(make)
    points, cell = grid(2, width=8, points=161)
    torch.manual_seed(2)
    with torch.no_grad():
        values = model.evidence({"x": x}, particles=2000, draw={"z": Stratified()})
        assert values.batch_shape == (3, 2000, 3)
        measure = values.log_measure + math.log(2000)
        each = (measure.exp() * values.log_weight).sum(0)
        log_q = model.q["z"](x).log_prob(points.unsqueeze(1))
        log_p = model.p["z"]().log_prob(points).unsqueeze(-1)
        log_p = log_p + model.p["x"](points.unsqueeze(1)).log_prob(x)
        exact = (log_q.exp() * (log_p - log_q)).sum(0) * cell
    torch.testing.assert_close(each.mean(0), elbo(values))
    error = each.std(0) / 2000**0.5
    assert ((each.mean(0) - exact).abs() < 5 * error + 1e-6).all()
    assert (iwae(values) > elbo(values)).all()


def test_stratified_gradients_are_those_of_quadrature() -> None:
    """Of the weights' logits and of the means; 5 standard errors as above."""
    model, x = model_with(MAKES["Gaussians"])
    head = model.q["z"].head.layer.bias
    points, cell = grid(2, width=8, points=161)
    log_q = model.q["z"](x[:1]).log_prob(points.unsqueeze(1))
    log_p = model.p["z"]().log_prob(points).unsqueeze(-1)
    log_p = log_p + model.p["x"](points.unsqueeze(1)).log_prob(x[:1])
    expected = torch.autograd.grad(((log_q.exp() * (log_p - log_q)).sum() * cell), head)[0]
    torch.manual_seed(2)
    found = []
    for _ in range(100):
        bound = elbo(model.evidence({"x": x[:1]}, particles=100, draw={"z": Stratified()}))
        found.append(torch.autograd.grad(bound.sum(), head)[0])
    stacked = torch.stack(found)
    error = stacked.std(0) / 10
    assert ((stacked.mean(0) - expected).abs() < 5 * error + 1e-4).all()
    assert expected[:3].abs().max() > 0.01


def test_a_step_is_one_graph() -> None:
    model, x = model_with(MAKES["Gaussians"])
    for draw in ({}, {"z": Stratified()}):

        def step(x: Tensor, draw: dict = draw) -> Tensor:
            return iwae(model.evidence({"x": x}, particles=2, draw=draw, missing=())).mean()

        torch._dynamo.reset()
        traced = torch.compile(step, fullgraph=True, backend="eager")(x)
        traced.backward()
        assert all([p.grad is not None and p.grad.any() for p in model.parameters()])


def test_two_peaks_need_two_components() -> None:
    """A prior p(z) of two peaks, fitted by scoring: the entropy is reached to 0.03 nat."""
    torch.manual_seed(0)
    peaks = torch.cat([torch.randn(1000) * 0.1 - 1, torch.randn(1000) * 0.1 + 1]).unsqueeze(-1)
    prior = GaussianMixture(1, components=2)
    optimiser = torch.optim.LBFGS(prior.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -prior().log_prob(peaks).mean()
        value.backward()
        return value

    optimiser.step(loss)
    best = math.log(2) + 0.5 * math.log(2 * math.pi * math.e) + math.log(0.1)
    assert abs(loss().item() - best) < 0.03
    assert abs(prior().stddev.item() - peaks.std().item()) < 0.01


def test_what_is_not_a_mixture_is_said() -> None:
    model, x = model_with(lambda n: Gaussian(2, n))
    with pytest.raises(ValueError, match="'z' is drawn from a DiagonalNormal"):
        model.evidence({"x": x}, draw={"z": Stratified()})
    with pytest.raises(ValueError, match=r"one event shape, found \(1,\), \(2,\)"):
        Mixture([StandardNormal(1), StandardNormal(2)])
    with pytest.raises(ValueError, match="components of at least 1"):
        GaussianMixture(2, components=0)
    mixed, x = model_with(MAKES["any conditionals"])
    with pytest.raises(ValueError, match="'z'"):
        mixed.evidence({"x": x})
