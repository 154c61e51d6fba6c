"""Objectives that hold a divergence or a distortion: capacity, free bits per row, multipliers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Evidence, Joint, LatentVariableModel, beta_elbo, elbo, free_bits
from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.objectives import Constrained, GrowingCapacity, SoftFreeBits


class Fixed(nn.Module):
    """q(z | x) = N(x, 1): the divergence of dimension i is x_i^2 / 2."""

    event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x, 1.0), 1)


def with_divergences(*divergences: float) -> tuple[Evidence, Tensor]:
    """Rows whose divergence has these values in dimension 0, and none in dimension 1."""
    means = torch.tensor(divergences).mul(2).sqrt()
    x = torch.stack([means, torch.zeros_like(means)], 1).requires_grad_()
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": Fixed()})).evidence({"x": x}), x


def cost(evidence: Evidence, value: Tensor) -> Tensor:
    """What the objective takes off the reconstruction, per row."""
    return evidence.terms["x"] - value


class TestCapacity:
    def test_is_the_distance_of_the_mean(self) -> None:
        """Burgess et al.: beta |mean KL - C|; from below the gradient raises the divergence."""
        evidence, x = with_divergences(0.5, 1.5)  # mean 1
        for capacity in (0.0, 0.4, 1.0, 3.0):
            found = cost(evidence, beta_elbo(evidence, 10.0, capacity))
            assert torch.allclose(found, torch.full((2,), 10 * abs(1 - capacity)))
        for capacity, sign in ((0.4, 1.0), (3.0, -1.0)):
            total = cost(evidence, beta_elbo(evidence, 10.0, capacity)).sum()
            (gradient,) = torch.autograd.grad(total, x, retain_graph=True)
            assert torch.allclose(gradient[:, 0], sign * 10 * x[:, 0].detach())

    def test_none_is_beta_and_zero_is_its_mean(self) -> None:
        evidence, _ = with_divergences(0.5, 1.5)
        analytic = elbo(evidence.temper(4.0), form="analytic")
        assert torch.allclose(beta_elbo(evidence, 4.0, 0.0).mean(), analytic.mean())

    def test_kl_weight_multiplies_beta(self) -> None:
        """Warm-up goes on under a weight: 0 leaves the reconstruction."""
        evidence, _ = with_divergences(0.5, 1.5)
        for options in ((4.0,), (4.0, 0.7)):
            zero = beta_elbo(evidence.temper(0.0), *options)
            assert torch.allclose(zero, evidence.terms["x"])
        assert torch.allclose(beta_elbo(evidence.temper(0.5), 4.0), beta_elbo(evidence, 2.0))

    def test_grows_to_its_end(self) -> None:
        evidence, _ = with_divergences(0.5, 1.5)
        objective = GrowingCapacity(2.0, steps=4, beta=10.0)
        found = [float(cost(evidence, objective(evidence)).mean().detach()) for _ in range(6)]
        assert found == pytest.approx([10, 5, 0, 5, 10, 10], abs=1e-9)
        with pytest.raises(ValueError, match="positive number of steps"):
            GrowingCapacity(2.0, steps=0)


class TestFreeBitsPerRow:
    @pytest.mark.parametrize("groups", ["variable", "dimension"])
    def test_has_the_mean_outside(self, groups: str) -> None:
        """Rows with divergences 0 and 2 lambda cost lambda and 2 lambda."""
        evidence, _ = with_divergences(0.0, 1.4)
        value = free_bits(evidence, 0.7, groups=groups, per="row")  # type: ignore[arg-type]
        extra = 0.7 if groups == "dimension" else 0.0  # of the second dimension
        assert torch.allclose(cost(evidence, value), torch.tensor([0.7, 1.4]) + extra)

    def test_below_the_minimum_a_row_has_no_gradient(self) -> None:
        evidence, x = with_divergences(0.3, 1.4)
        total = cost(evidence, free_bits(evidence, 0.7, per="row")).sum()
        (gradient,) = torch.autograd.grad(total, x)
        assert (gradient[0] == 0).all()
        assert gradient[1, 0] != 0

    def test_zero_is_the_elbo_row_by_row(self) -> None:
        evidence, _ = with_divergences(0.3, 1.4)
        value = free_bits(evidence, 0.0, per="row")
        assert torch.allclose(value, elbo(evidence, form="analytic"))

    def test_by_name(self) -> None:
        p = {"z": StandardNormal(2), "y | z": Gaussian(2, MLP(2)), "x | y": Gaussian(3, MLP(2))}
        q = {"z | x": Gaussian(2, MLP(3)), "y | x, z": Gaussian(2, MLP(5))}
        model = LatentVariableModel(Joint(p), Joint(q))
        evidence = model.evidence({"x": torch.randn(4, 3)}, particles=3)
        value = free_bits(evidence, {"y": 50.0}, per="row")
        expected = evidence.terms["x"].mean(0) - evidence.kl("z") - 50.0
        assert torch.allclose(value, expected)
        with pytest.raises(ValueError, match="'w' is given a minimum"):
            free_bits(evidence, {"w": 1.0})
        with pytest.raises(ValueError, match="'batch' or 'row', not 'datum'"):
            free_bits(evidence, 1.0, per="datum")  # type: ignore[arg-type]


class TestSoftFreeBits:
    def test_moves_by_its_tolerance(self) -> None:
        """Below the target down, above (1 + eps) of it up to 1, in between not at all."""
        objective = SoftFreeBits({"z": 1.0}, tolerance=0.1)
        low, near, high = [with_divergences(each)[0] for each in (0.5, 1.05, 2.0)]
        weights = []
        for evidence in (low, low, near, high, high, high):
            value = objective(evidence)
            weights.append(float(objective.weights["z"]))
            # the weight of this step is the one that counts
            assert float(cost(evidence, value).detach()) == pytest.approx(
                weights[-1] * float(evidence.kl("z").detach())
            )
        up = 0.81 * 1.1
        assert weights == pytest.approx([0.9, 0.81, 0.81, up, up * 1.1, 1.0])

    def test_each_dimension_has_its_own(self) -> None:
        evidence, _ = with_divergences(2.0)
        objective = SoftFreeBits({"z": [1.0, 1.0]}, tolerance=0.1)
        objective(evidence)
        assert objective.weights["z"].tolist() == pytest.approx([1.0, 0.9])

    def test_holds_a_divergence_that_would_vanish(self) -> None:
        """A decoder of noise 2 uses 0.1 nats by the ELBO; held at 1 it uses 1, within 10 %."""
        torch.manual_seed(0)
        p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, MLP(1), scale=2.0)})
        model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(1))}))
        objective = SoftFreeBits({"z": 1.0}, tolerance=0.02)
        used = trained(model, objective, torch.randn(128, 1))[-50:]
        assert 0.9 < sum([float(each.kl("z").mean().detach()) for each in used]) / 50 < 1.15
        assert float(objective.weights["z"]) < 0.5

    def test_what_is_refused(self) -> None:
        evidence, _ = with_divergences(1.0)
        for targets, said in (({}, "expects a target by name"), ({"z": -1.0}, "must be positive")):
            with pytest.raises(ValueError, match=said):
                SoftFreeBits(targets)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'w' is given a minimum"):
            SoftFreeBits({"w": 1.0})(evidence)
        with pytest.raises(ValueError, match=r"dimensions of shape \(2,\), its targets \(3,\)"):
            SoftFreeBits({"z": [1.0, 1.0, 1.0]})(evidence)
        full = LatentVariableModel(
            Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))}),
            Joint({"z | x": FullCovarianceGaussian(2, MLP(2))}),
        )
        assert SoftFreeBits({"z": 1.0})(full.evidence({"x": torch.randn(3, 2)})).shape == (3,)


class TestConstrained:
    def test_moves_by_the_moving_mean(self) -> None:
        """mu <- mu exp(r (d - D)), d the moving mean that begins at the first minibatch."""
        objective = Constrained(
            1.0, distortion=lambda e: e.terms["x"] * 0 + next(given), decay=0.5, rate=0.1
        )
        evidence, _ = with_divergences(0.4, 0.4)
        values = [3.0, 1.0, 100.0]
        given = iter(values)
        mean, multiplier = 3.0, 1.0
        for index, distortion in enumerate(values):
            found = objective(evidence)
            expected = -0.4 - multiplier * (distortion - 1.0)
            assert torch.allclose(found, torch.full((2,), expected))
            mean = mean if index == 0 else 0.5 * (mean + distortion)
            multiplier *= math.exp(min(0.1 * (mean - 1.0), 1.0))
            assert float(objective.multiplier) == pytest.approx(multiplier)

    def test_with_multiplier_one_it_is_the_elbo_and_a_constant(self) -> None:
        evidence, _ = with_divergences(0.4, 1.4)
        value = Constrained(7.0).eval()(evidence)
        assert torch.allclose(value, elbo(evidence, form="analytic") + 7.0)

    @pytest.mark.parametrize("most", [1.0, 1.35])
    def test_meets_its_constraint(self, most: float) -> None:
        """A decoder of noise 0.7: the ELBO's distortion is in between, and each is met."""
        torch.manual_seed(0)
        p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, MLP(1), scale=0.7)})
        model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(1))}))
        objective = Constrained(most, decay=0.5, rate=0.02)
        used = trained(model, objective, torch.randn(128, 1))[-50:]
        distortion = sum([float(-each.terms["x"].mean().detach()) for each in used]) / 50
        assert distortion == pytest.approx(most, abs=0.03)
        assert (objective.multiplier > 1) == (most < 1.2)

    def test_what_is_refused(self) -> None:
        with pytest.raises(ValueError, match="decay in"):
            Constrained(1.0, decay=1.0)


def trained(model: LatentVariableModel, objective: nn.Module, x: Tensor) -> list[Evidence]:
    """500 steps of Adam on all rows; the ledgers."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    seen = []
    for _ in range(500):
        evidence = model.evidence({"x": x}, missing=())
        optimizer.zero_grad()
        (-objective(evidence).mean()).backward()
        optimizer.step()
        seen.append(evidence)
    return seen
