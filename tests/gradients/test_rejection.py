"""Generalised reparameterisation against the implicit one (R2.9e)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Beta, Dirichlet, Gamma, Gaussian
from deeplvm.gradients import Draw, Reparameterised
from deeplvm.gradients.credit import Objective
from deeplvm.gradients.rejection import GeneralisedReparameterised, augmented_gamma, gamma_of_noise
from deeplvm.gradients.score_function import LeaveOneOut
from deeplvm.recurrent import Plate


@pytest.mark.parametrize("concentration", [0.3, 1.0, 5.0])
def test_the_mean_of_a_gamma_has_the_slope_one(concentration: float) -> None:
    r""":math:`\nabla_a E[z] = 1` (R2.9e), and the second moment's :math:`2a + 1`.

    Within 5 standard errors of 400,000 draws: fails by chance once in a million seeds.
    """
    torch.manual_seed(0)
    for augmentation in (1, 10):
        a = torch.full((200_000,), concentration, requires_grad=True)
        z, log_density = augmented_gamma(a, augmentation)
        for function, truth in ((z, 1.0), (z.square(), 2 * concentration + 1)):
            total = (function + function.detach() * log_density).sum()
            (slope,) = torch.autograd.grad(total, a, retain_graph=True)
            assert (slope.mean() - truth).abs() < 5 * slope.std() / len(a) ** 0.5


@pytest.mark.parametrize("concentration", [0.3, 2.0])
def test_it_is_a_gamma_draw(concentration: float) -> None:
    """Kolmogorov-Smirnov with p-value above 1e-4, which is how often another seed fails."""
    torch.manual_seed(0)
    z, _ = augmented_gamma(torch.full((20_000,), concentration), 3)
    assert stats.kstest(z.numpy(), stats.gamma(concentration).cdf).pvalue > 1e-4


def test_the_density_of_the_noise_is_normalised() -> None:
    """By quadrature over the noise, with the mean of a gamma variable."""
    for a in torch.tensor([1.3, 6.0]):
        noise = torch.linspace(-(9 * a - 3).sqrt().item() + 1e-6, 12, 100_001)
        value, log_density = gamma_of_noise(noise, a)
        assert abs(torch.trapezoid(log_density.exp(), noise) - 1) < 1e-6
        mean = torch.trapezoid(log_density.exp() * value, noise)
        torch.testing.assert_close(mean, a, rtol=1e-6, atol=0)


class Free(nn.Module):
    """A distribution of each row's own parameters: one backward pass gives a gradient a row."""

    def __init__(self, family: Callable[[Tensor], Distribution], rows: int, size: int) -> None:
        super().__init__()
        start = torch.linspace(0.8, 2.5, size)
        self.parameter = nn.Parameter(start.repeat(rows, 1))
        self.event_shape = torch.Size([size])
        self.family = family

    def forward(self, x: Tensor) -> Distribution:
        return self.family(self.parameter)


def gamma(a: Tensor) -> Distribution:
    return torch.distributions.Independent(torch.distributions.Gamma(a, 2.0), 1)


def beta(a: Tensor) -> Distribution:
    return torch.distributions.Independent(torch.distributions.Beta(a, 1.5 * a), 1)


FAMILIES = {
    "gamma": (gamma, lambda: Gamma(2), 2),
    "beta": (beta, lambda: Beta(2), 2),
    "dirichlet": (torch.distributions.Dirichlet, lambda: Dirichlet(3), 3),
}


def gradients(
    name: str, objective: Objective, way: Draw, rows: int, particles: int | None
) -> Tensor:
    torch.manual_seed(0)
    family, prior, size = FAMILIES[name]
    p = Joint({"z": prior(), "x | z": Gaussian(1, nn.Linear(size, 1), scale=0.5)})
    q = Joint({"z | x": Free(family, rows, size)})
    model, x = LatentVariableModel(p, q), torch.ones(rows, 1)
    torch.manual_seed(1)
    value, _ = model.estimate(objective, {"x": x}, particles=particles, draw={"z": way})
    parameter: Any = q["z"].parameter
    return torch.autograd.grad(value.sum(), parameter)[0]


@pytest.mark.parametrize("objective, particles", [(elbo, None), (elbo, 2), (iwae, 2)])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_mean_is_that_of_the_implicit_gradient(
    name: str, objective: Objective, particles: int | None
) -> None:
    """Within 5 standard errors of 40,000 rows: fails by chance once in a million seeds."""
    rows = 40_000
    guess = LeaveOneOut() if particles else None
    found = [
        gradients(name, objective, way, rows, particles)
        for way in (Reparameterised(), GeneralisedReparameterised(3, guess))
    ]
    error = (sum([each.var(0) for each in found]) / rows) ** 0.5
    assert ((found[0].mean(0) - found[1].mean(0)).abs() <= 5 * error).all()


def test_augmentation_lowers_what_the_path_leaves() -> None:
    """The score of the accepted noise, as the noise nears a normal one."""
    torch.manual_seed(0)
    spread = []
    for augmentation in (1, 10):
        a = torch.full((10_000,), 1.0, requires_grad=True)
        _, log_density = augmented_gamma(a, augmentation)
        (score,) = torch.autograd.grad(log_density.sum(), a)
        spread.append(score.var().item())
    assert spread[1] < 0.01 * spread[0]


def test_members_of_a_row() -> None:
    """A plate, against the implicit gradient: 5 standard errors of 40 means, t distributed.

    One of 8 parameters fails by chance once in 5,000 seeds. Unequal lengths are refused.
    """
    torch.manual_seed(0)
    member_p = {"z": Gamma(2), "x | z": Gaussian(1, nn.Linear(2, 1), scale=0.5)}
    member_q = {"z | x": Gamma(2, nn.Linear(1, 2, bias=False))}
    model, x = LatentVariableModel(Plate(member_p), Plate(member_q)), torch.ones(500, 3, 1)
    parameters = list(member_q["z | x"].head.layer.parameters())
    found = []
    for way in (Reparameterised(), GeneralisedReparameterised(3)):
        each = []
        for _ in range(40):
            value, _ = model.estimate(elbo, {"x": x}, default=way)
            grads = torch.autograd.grad(value.mean(), parameters)
            each.append(torch.cat([g.flatten() for g in grads]))
        found.append(torch.stack(each))
    error = ((found[0].var(0) + found[1].var(0)) / 40).sqrt()
    assert ((found[0].mean(0) - found[1].mean(0)).abs() <= 5 * error).all()
    p, q = Plate(member_p, length="n"), Plate(member_q, length="n")
    given = {"x": x, "n": torch.full((500,), 2)}
    with pytest.raises(ValueError, match="unequal lengths"):
        LatentVariableModel(p, q).estimate(elbo, given, default=GeneralisedReparameterised())


def test_other_families_are_refused() -> None:
    with pytest.raises(ValueError, match="'z' is drawn from a Normal"):
        GeneralisedReparameterised()("z", torch.distributions.Normal(0.0, 1.0), (3,), 0)
    with pytest.raises(ValueError, match="augmentation of 1 or more"):
        GeneralisedReparameterised(0)
