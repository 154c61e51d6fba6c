"""Maximum mean discrepancy: unbiased, by enumeration and in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.objectives import fair_elbo, imq, info_vae, maximum_mean_discrepancy, rbf
from deeplvm.objectives.discrepancy import Kernel


@pytest.mark.parametrize("kernel", [rbf, imq])
def test_unbiased_by_enumeration(kernel: Kernel) -> None:
    """Two laws on three points: the mean over all samples of 2 and 3 is the discrepancy."""
    points = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [2.0, -0.3]])
    first, second = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.6, 0.3, 0.1])
    gram = kernel((points[:, None] - points[None]).square().sum(-1), 4.0)
    exact = (first - second) @ gram @ (first - second)
    mean = torch.zeros(())
    for chosen in itertools.product(range(3), repeat=5):
        a, b = list(chosen[:2]), list(chosen[2:])
        value = maximum_mean_discrepancy(points[a], points[b], kernel)
        mean += first[a].prod() * second[b].prod() * value
    assert torch.allclose(mean, exact, rtol=0, atol=1e-12)
    assert exact > 0.01


@pytest.mark.parametrize("kernel", [rbf, imq])
def test_zero_for_one_law(kernel: Kernel) -> None:
    """R4.5.1c: 300 pairs of samples of one law; 4 standard errors, one seed in 16,000 fails."""
    values = torch.stack(
        [
            maximum_mean_discrepancy(torch.randn(20, 3), torch.randn(20, 3), kernel)
            for _ in range(300)
        ]
    )
    assert values.mean().abs() < 4 * values.std() / math.sqrt(300)
    assert (values < 0).any()


class Around(nn.Module):
    """q(z | x) = N(x, s^2)."""

    event_shape = torch.Size([1])

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x, self.scale), 1)


def around(scale: float) -> LatentVariableModel:
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, MLP(1))})
    return LatentVariableModel(p, Joint({"z | x": Around(scale)}))


@torch.no_grad()
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_of_the_aggregate(shift: float) -> None:
    """x ~ N(m, 1 - s^2), so q(z) = N(m, 1): the closed form, whatever the number of particles.

    300 minibatches, 4 standard errors: one seed in 16,000 fails. Pairs within a row would be
    pairs of q(z|x), and raise the mean by many standard errors.
    """
    model, values, naive = around(0.2), [], []
    for _ in range(300):
        x = shift + math.sqrt(1 - 0.04) * torch.randn(8, 1)
        evidence = model.evidence({"x": x}, particles=4)
        # alpha = 1 and weight 1: only the discrepancy is left beside the reconstruction
        value = elbo(evidence, form="analytic") + evidence.kl("z") - info_vae(evidence, 1.0, 1.0)
        values.append(value.mean())
        assert torch.allclose(value, value[0].expand(8))
        drawn = evidence.q["z"].value.flatten(0, 1)
        naive.append(maximum_mean_discrepancy(drawn, torch.randn(32, 1)))
    # E exp(-d^2 / s) for d ~ N(m, v) is sqrt(s / (s + 2v)) exp(-m^2 / (s + 2v)); here s = v = 2
    exact = 2 * math.sqrt(2 / 6) * (1 - math.exp(-(shift**2) / 6))
    stacked = torch.stack(values)
    error = stacked.std() / math.sqrt(300)
    assert abs(stacked.mean() - exact) < 4 * error
    assert shift != 0.0 or torch.stack(naive).mean() > 6 * error


def test_its_ends() -> None:
    """alpha = 0 with weight 1 is the ELBO; without a divergence q is free of the prior."""
    model = around(0.3)
    evidence = model.evidence({"x": torch.randn(6, 1)}, particles=3)
    assert torch.allclose(info_vae(evidence, 0.0, 1.0), elbo(evidence, form="analytic"))
    one = model.evidence({"x": torch.randn(1, 1)}, particles=3)  # one row has no pairs
    assert torch.allclose(info_vae(one, 1.0, 5.0), one.terms["x"].mean(0))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="two draws of each law, found 1 and 4"):
        maximum_mean_discrepancy(torch.zeros(1, 2), torch.zeros(4, 2))
    evidence = around(0.3).evidence({"x": torch.randn(6, 1)})
    with pytest.raises(ValueError, match="'rbf', 'imq' or a function, not 'linear'"):
        info_vae(evidence, kernel="linear")  # type: ignore[arg-type]
    p = Joint({"y": Categorical(3), "x | y": Gaussian(1, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(1))}))
    with torch.no_grad(), pytest.raises(ValueError, match="not a vector of real numbers"):
        info_vae(model.evidence({"x": torch.randn(6, 1)}))


@pytest.mark.parametrize("groups", [[0, 1, 2] * 4, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3]])
def test_fair_codes_are_alike_over_all_groups(groups: list[int]) -> None:
    """R4.5.1c: the penalty is the sum over groups of two rows or more; the others are left out."""
    p = Joint({"s": Categorical(4), "z": StandardNormal(2), "x | z, s": Gaussian(3, MLP(6, 5))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 5))})).double()
    s = torch.tensor(groups)
    given = {"x": torch.randn(12, 3).double() + s[:, None], "s": s}
    evidence = model.evidence(given, particles=2)
    z = evidence.q["z"].value
    expected = [
        maximum_mean_discrepancy(one[s == k], one[s != k])
        for k in range(4)
        if (s == k).sum() > 1
        for one in z
    ]
    found = elbo(evidence) - fair_elbo(evidence, weight=3.0, group="s")
    torch.testing.assert_close(found, (3.0 / 2 * sum(expected)).expand(12), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="values of 'w', and p has s, z, x"):
        fair_elbo(evidence, group="w")
