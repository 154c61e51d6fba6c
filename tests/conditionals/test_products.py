"""Products and mixtures of experts against grids and exact posteriors of two views."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    Gaussian,
    GaussianMixture,
    MixtureOfExperts,
    PrecisionWeighted,
    ProductOfExperts,
    StandardNormal,
)
from deeplvm.conditionals.mixture import Stratified
from deeplvm.networks import MLP


def product_of(count: int = 3) -> ProductOfExperts:
    torch.manual_seed(0)
    experts = [Gaussian(2, MLP(4, 8, activation=nn.Tanh)) for _ in range(count)]
    return ProductOfExperts(experts, prior=Gaussian(2))


@torch.no_grad()
def test_it_is_the_product_of_densities_normalised_on_a_grid() -> None:
    product = product_of()
    parents = [2 * torch.randn(5, 4) for _ in range(3)]
    parents[1][2] = math.nan  # absent in one row
    parents[2][3, :2] = math.nan  # seen in part
    axis = torch.linspace(-12, 12, 601)
    points = torch.cartesian_prod(axis, axis).unsqueeze(1)
    log_density = product.prior().log_prob(points).expand(-1, 5).clone()
    for index, (expert, parent) in enumerate(zip(product.experts, parents, strict=True)):
        term = expert(parent.nan_to_num(0.0)).log_prob(points)
        log_density += torch.where((torch.arange(5) == 2) & (index == 1), 0.0, term)
    cell = (axis[1] - axis[0]) ** 2
    expected = log_density - log_density.logsumexp(0) - cell.log()
    near = expected > -20
    torch.testing.assert_close(
        product(*parents).log_prob(points)[near], expected[near], rtol=1e-9, atol=1e-9
    )


def test_two_factors_are_precision_weighted_and_none_is_the_prior() -> None:
    product = product_of(1)
    two = PrecisionWeighted(product.prior, product.experts[0], first_parents=0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(product(x).loc, two(x).loc)
    absent = product(torch.full((5, 4), math.nan))
    torch.testing.assert_close(absent.loc, product.prior().loc.expand(5, 2))
    torch.testing.assert_close(absent.scale, product.prior().scale.expand(5, 2))


def test_two_views_of_a_linear_gaussian_model_are_exact() -> None:
    r"""TB1 with :math:`x_i = W_i z + b_i + s_i \varepsilon`, columns of W_i orthogonal.

    With each expert proportional to p(x_i | z) the log-weight is log p(x1, x2) whatever z is,
    and log p(x1) where x2 is absent: to 1e-12.
    """
    torch.manual_seed(0)
    widths, noise = (4, 3), (0.7, 1.3)
    loadings = [
        torch.linalg.qr(torch.randn(width, 2))[0] * torch.tensor([1.5, 0.4]) for width in widths
    ]
    offsets = [torch.randn(width) for width in widths]
    likelihoods, experts = [], []
    for width, w, b, s in zip(widths, loadings, offsets, noise, strict=True):
        likelihood = Gaussian(width, MLP(2), scale=s)
        likelihood.head.layer.weight.data = w.clone()
        likelihood.head.layer.bias.data = b.clone()
        likelihoods.append(likelihood)
        gram = w.square().sum(0)  # diagonal, as the columns are orthogonal
        expert = nn.Linear(width, 2)
        expert.weight.data = w.T / gram.unsqueeze(-1)
        expert.bias.data = -expert.weight.data @ b
        experts.append(FixedScale(expert, s * gram.rsqrt()))
    p = Joint({"z": StandardNormal(2), "x1 | z": likelihoods[0], "x2 | z": likelihoods[1]})
    model = LatentVariableModel(p, Joint({"z | x1, x2": ProductOfExperts(experts)}))
    x1, x2 = torch.randn(6, 4), torch.randn(6, 3)
    x2[3:] = math.nan
    weight = model.evidence({"x1": x1, "x2": x2}, particles=5).log_weight
    joint = torch.cat(loadings)
    variances = torch.tensor([noise[0] ** 2] * 4 + [noise[1] ** 2] * 3)
    marginal = torch.distributions.MultivariateNormal(
        torch.cat(offsets), joint @ joint.T + variances.diag()
    )
    both = marginal.log_prob(torch.cat([x1, x2], -1)[:3])
    one = torch.distributions.MultivariateNormal(
        offsets[0], marginal.covariance_matrix[:4, :4]
    ).log_prob(x1[3:])
    expected = torch.cat([both, one]).expand(5, 6)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


class FixedScale(nn.Module):
    """A normal whose mean is linear in the parent and whose scale is given."""

    def __init__(self, mean: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.event_shape = torch.Size((2,))
        self.mean, self.scale = mean, scale

    def forward(self, parent: Tensor) -> torch.distributions.Independent:
        mean = self.mean(parent)
        normal = torch.distributions.Normal(mean, self.scale.expand_as(mean))
        return torch.distributions.Independent(normal, 1)


def mixed(count: int) -> LatentVariableModel:
    r"""z normal, x_i = z + s_i \varepsilon, and experts that are the exact p(z | x_i)."""
    noise = torch.tensor([1.0, 0.5])[:count]
    p: dict[str, nn.Module] = {"z": StandardNormal(2)}
    experts = []
    for at, s in enumerate(noise, 1):
        likelihood, mean = Gaussian(2, MLP(2), scale=float(s)), nn.Linear(2, 2)
        for layer, slope in ((likelihood.head.layer, torch.eye(2)), (mean, torch.eye(2))):
            layer.weight.data, layer.bias.data = slope.clone(), torch.zeros(2)
        mean.weight.data /= 1 + s**2
        p[f"x{at} | z"] = likelihood
        experts.append(FixedScale(mean, s / (1 + s**2).sqrt()))
    parents = ", ".join([f"x{at}" for at in range(1, count + 1)])
    return LatentVariableModel(Joint(p), Joint({f"z | {parents}": MixtureOfExperts(experts)}))


def test_a_mixture_of_one_expert_is_that_expert_and_lacks_names_exactly() -> None:
    """The weight is log p(x1) whatever z is, with one view and where the other is absent."""
    torch.manual_seed(0)
    x = torch.randn(4, 2)
    expected = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1).expand(5, 4)
    found = mixed(1).evidence({"x1": x}, particles=5).log_weight
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    given = {"x1": x, "x2": torch.full((4, 2), math.nan)}
    found = mixed(2).evidence(given, particles=5).log_weight
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    nothing = {name: torch.full((4, 2), math.nan) for name in given}
    found = mixed(2).evidence(nothing, particles=5).log_weight
    torch.testing.assert_close(found, torch.zeros(5, 4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("draw", [{}, {"z": Stratified()}])
def test_the_bound_of_a_mixture_of_experts_is_of_the_exact_likelihood(draw: dict) -> None:
    """Both views: importance sampling meets log p(x1, x2) and the bound is below it.

    The mean of 20,000 weights is off by more than 5 standard errors in one run of a million.
    """
    torch.manual_seed(0)
    model, x = mixed(2), {"x1": torch.tensor([[0.3, -1.0]]), "x2": torch.tensor([[0.9, 0.2]])}
    covariance = torch.tensor([[2.0, 1.0], [1.0, 1.25]])
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), covariance)
    exact = exact.log_prob(torch.stack([x["x1"], x["x2"]], -1)).sum()
    found = model.evidence(x, particles=20_000, draw=draw)
    ratio = (found.log_weight - exact).exp()
    measure = found.log_measure if torch.is_tensor(found.log_measure) else -math.log(20_000)
    weight = torch.as_tensor(measure).exp().expand_as(ratio)
    estimate = (weight * ratio).sum()
    strata = ratio.reshape(-1, 20_000)
    shares = weight.reshape(strata.shape).sum(-1)
    error = (shares.square() * strata.var(-1) / 20_000).sum().sqrt()
    assert abs(estimate - 1) < 5 * error < 0.1
    bound = elbo(found)
    assert bound.isfinite().all()
    assert bound.item() < exact


def test_every_expert_of_a_mixture_learns_where_some_lack_their_parent() -> None:
    torch.manual_seed(0)
    experts = [Gaussian(2, MLP(4, 6)), Gaussian(2, MLP(4, 6))]
    x1, x2 = torch.randn(3, 4), torch.randn(3, 4)
    x1[0] = x2[1] = math.nan
    q_z = MixtureOfExperts(experts)(x1, x2)
    z = q_z.rsample((50,))
    (q_z.log_prob(z) + z.square().sum(-1)).mean().backward()
    for expert in experts:
        grads = [p.grad for p in expert.parameters()]
        assert all([g is not None and g.isfinite().all() and g.any() for g in grads])


def test_views_show_categories_and_units_and_a_step_is_one_graph() -> None:
    """A label and a vector, either absent somewhere; gradients stay finite and reach all."""
    torch.manual_seed(0)
    units = (torch.tensor(50.0), torch.tensor(10.0))
    label, vector = Categorical(3, MLP(2, 6)), Gaussian(4, MLP(2, 6), units=units)
    p = Joint({"z": StandardNormal(2), "y | z": label, "x | z": vector})
    experts = [Gaussian(2, MLP(3, 6)), Gaussian(2, MLP(4, 6))]
    q = Joint({"z | y, x": ProductOfExperts(experts, views=[label.embed, vector.embed])})
    model = LatentVariableModel(p, q)
    y, x = torch.tensor([0.0, 2.0, math.nan]), 50 + 10 * torch.randn(3, 4)
    x[1] = math.nan
    q_z = model.posterior({"y": y, "x": x})["z"].distribution
    alone = PrecisionWeighted(StandardNormal(2), experts[1], first_parents=0)
    assert q_z is not None
    torch.testing.assert_close(q_z.mean[2], alone((x[2:] - 50) / 10).mean[0])
    alone = PrecisionWeighted(StandardNormal(2), experts[0], first_parents=0)
    torch.testing.assert_close(q_z.mean[1], alone(torch.tensor([[0.0, 0.0, 1.0]])).mean[0])

    def step(y: Tensor, x: Tensor) -> Tensor:
        return elbo(model.evidence({"y": y, "x": x}, missing=("x", "y"))).mean()

    torch._dynamo.reset()
    torch.compile(step, fullgraph=True, backend="eager")(y, x).backward()
    assert all([p.grad is not None and p.grad.isfinite().all() for p in model.parameters()])
    assert all([p.grad is not None and p.grad.any() for p in q.parameters()])


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(TypeError, match=r"3 experts.*found 2; a missing one is given as NaN"):
        product_of()(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="one event shape, found no expert"):
        ProductOfExperts([])
    with pytest.raises(ValueError, match="a view for each of its 1 experts"):
        ProductOfExperts([Gaussian(2, MLP(4))], views=[])
    with pytest.raises(TypeError, match=r"an expert to return independent normals.*NormalMixture"):
        ProductOfExperts([GaussianMixture(2, MLP(4))])(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="an expert to return independent normals"):
        ProductOfExperts([Bernoulli(2, MLP(4))])(torch.zeros(3, 4))
