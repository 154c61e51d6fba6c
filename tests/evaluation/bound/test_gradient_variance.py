"""The gradient's noise: against closed forms, exact enumeration, and known orders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo, iwae, variance_of_gradient
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.distributions import DiagonalNormal
from deeplvm.gradients import Reparameterised
from deeplvm.gradients.credit import Account
from deeplvm.gradients.path_derivatives import DoublyReparameterised, StickingTheLanding
from deeplvm.gradients.score_function import ScoreFunction
from deeplvm.networks import MLP


class Location(nn.Module):
    """N(loc, 1), with the location free."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.4]))
        self.event_shape = torch.Size([1])

    def forward(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc.expand(len(x), 1), torch.ones(1), 1)


class Around(nn.Module):
    """N(z, 1)."""

    event_shape = torch.Size([1])

    def forward(self, z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(z, torch.ones(1), 1)


def test_norm_and_variance_are_those_of_the_closed_form() -> None:
    r"""The gradient is :math:`x - 2 z + (z - \mu)` by the path of a draw, of 5 rows.

    :math:`g = x - 2 \mu - 2 \epsilon`, and :math:`-\epsilon` less with the score's part of it
    (which the total has not, as q's entropy is constant): mean :math:`x - 2\mu`, variance 4/5.
    Norm and variance within 5 standard errors of 2,000 repeats.
    """
    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Around()}), Joint({"z | x": Location()})
    )
    found = variance_of_gradient(
        model, {"x": torch.ones(5, 1)}, {"plain": Reparameterised()}, repeats=2000
    )["plain", "q"]
    assert found.variance == pytest.approx(4 / 5, abs=5 * (4 / 5) * (2 / 2000) ** 0.5)
    assert found.norm == pytest.approx(0.2, abs=5 * (4 / 5 / 2000) ** 0.5)
    assert found.signal_to_noise == pytest.approx(found.norm / found.variance**0.5)
    assert found.bias is None
    assert found.seconds > 0


def belief_network() -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint({"h": Bernoulli(2), "x | h": Bernoulli(3, MLP(2, 4))})
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.mul_(4.0)  # latents that matter
    return LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(3, 4))}))


@pytest.mark.parametrize("particles", [None, 2])
def test_the_bias_is_told_from_noise(particles: int | None) -> None:
    """Enumeration is exact, the score function unbiased, and one that forgets half is not.

    The bias of an unbiased estimator is within 3 times its noise but for 1 seed in 10,000.
    """
    model, x = belief_network(), {"x": torch.ones(400, 3)}

    class Halved(ScoreFunction):
        """Half of the credit is forgotten."""

        def credit(self, name: str, account: Account) -> Tensor:
            return 0.5 * super().credit(name, account)

    ways = {"score": ScoreFunction(), "halved": Halved()}
    objective = elbo if particles is None else iwae
    found = variance_of_gradient(
        model, x, ways, objective=objective, particles=particles, repeats=60
    )
    for group in ("p", "q"):
        assert found["score", group].bias < 3 * found["score", group].bias_error  # type: ignore[operator]
    assert found["halved", "q"].bias > 5 * found["halved", "q"].bias_error  # type: ignore[operator]
    assert found["halved", "q"].bias == pytest.approx(0.5, abs=0.15)


def test_enumeration_has_neither_bias_nor_noise() -> None:
    found = variance_of_gradient(
        belief_network(), {"x": torch.ones(4, 3)}, {"sum": {"h": Enumerated()}}, repeats=3
    )
    for group in ("p", "q"):
        assert found["sum", group].bias < 1e-12  # type: ignore[operator]
        assert found["sum", group].variance < 1e-24


def test_the_order_of_estimators() -> None:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1, 8))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(3, 8))}))
    ways = {
        "plain": Reparameterised(),
        "sticking": StickingTheLanding(),
        "doubly": DoublyReparameterised(),
    }
    x = torch.randn(64, 3)
    state = torch.get_rng_state()
    before = [each.clone() for each in model.parameters()]
    found = variance_of_gradient(model, {"x": x}, ways, objective=iwae, particles=16, repeats=60)
    of_q = {name: found[name, "q"] for name in ways}
    assert of_q["doubly"].signal_to_noise > 2 * of_q["plain"].signal_to_noise
    assert of_q["sticking"].norm > 3 * of_q["doubly"].norm  # biased for this objective
    # the parameters of p get the same draws and the same gradient
    assert found["doubly", "p"].variance == pytest.approx(found["plain", "p"].variance)
    assert torch.equal(state, torch.get_rng_state())
    assert all([torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)])
    assert all([each.grad is None for each in model.parameters()])


def test_it_prints_and_takes_names() -> None:
    found = variance_of_gradient(
        belief_network(), {"x": torch.ones(4, 3)}, {"VIMCO": "vimco"}, particles=2, repeats=3
    )
    lines = str(found).splitlines()
    assert lines[0].split() == [
        "estimator",
        "of",
        "norm",
        "variance",
        "signal/noise",
        "ms",
        "bias",
    ]
    assert lines[1].startswith("VIMCO")
    assert "3 gradients of the mean of 4 rows, 2 particles a row" in lines[-1]
    assert "(noise " in lines[1]
    assert "<table" in found._repr_html_()
    with pytest.raises(KeyError, match="VIMCO"):
        found["nvil", "q"]
    with pytest.raises(ValueError, match="2 repeats or more"):
        variance_of_gradient(belief_network(), {"x": torch.ones(4, 3)}, {}, repeats=1)
