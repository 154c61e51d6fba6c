"""Flows from zuko: one pass equals the inverted density; torch's global state is left alone."""

from __future__ import annotations

import math
import subprocess
import sys

import torch

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Gaussian, flows
from deeplvm.conditionals.flows import InverseAutoregressiveFlow
from deeplvm.distributions.inverse_autoregressive import InverseAutoregressiveNormal
from deeplvm.networks import MLP


def test_one_pass_equals_the_inverted_density() -> None:
    """R2.4.4, to 1e-9 in float64."""
    posterior = InverseAutoregressiveFlow(4, MLP(6, 16), transforms=3)
    distribution = posterior(torch.randn(5, 6)).expand((7, 5))
    z, log_q = distribution.rsample_and_log_prob()
    assert z.shape == (7, 5, 4)
    assert torch.allclose(distribution.log_prob(z), log_q, atol=1e-9)


def test_a_draw_costs_one_pass_a_step() -> None:
    posterior = InverseAutoregressiveFlow(8, MLP(6, 16), transforms=3)
    calls = [0]
    for module in posterior.steps.modules():
        if type(module).__name__ == "MaskedMLP":
            module.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    posterior(torch.randn(5, 6)).rsample_and_log_prob()
    assert calls == [3]


def test_every_parameter_gets_a_gradient_and_context_matters() -> None:
    posterior = InverseAutoregressiveFlow(4, MLP(6, 16))
    x = torch.randn(5, 6, requires_grad=True)
    z, log_q = posterior(x).rsample_and_log_prob()
    (z.square().sum() + log_q.sum()).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all([p.grad is not None for p in posterior.parameters()])


def test_log_determinant_against_autodiff() -> None:
    """TB5: the density of the draw is that of the noise over the Jacobian's determinant."""
    posterior = InverseAutoregressiveFlow(3, MLP(2, 8), transforms=2)
    distribution = posterior(torch.randn(1, 2))

    def draw(noise: torch.Tensor) -> torch.Tensor:
        z = distribution.loc + distribution.scale * noise
        for network in distribution.networks:
            m, s = network(z, distribution.context)
            z = (m + torch.sigmoid(s) * (z - m)).flip(-1)
        return z[0]

    noise = torch.randn(3)
    jacobian = torch.autograd.functional.jacobian(draw, noise)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    expected = expected - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(distribution.log_prob(draw(noise)[None])[0], expected, atol=1e-8)


def test_golden_step() -> None:
    """R3.4: z = (.3, -.8), m = (.3, .5 z1 - .2), s = (1, 1.5 + .1 z1), before the reversal."""

    def network(z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = z[..., 0]
        m = torch.stack([torch.full_like(first, 0.3), 0.5 * first - 0.2], -1)
        return m, torch.stack([torch.ones_like(first), 1.5 + 0.1 * first], -1)

    z = torch.tensor([0.3, -0.8])
    step = InverseAutoregressiveNormal(z, torch.full((2,), 1e-300), torch.zeros(1), [network])
    value, _ = step.rsample_and_log_prob()
    assert torch.allclose(value, torch.tensor([-0.66650474, 0.3]), atol=1e-8)
    gaussian = InverseAutoregressiveNormal(z, torch.ones(2), torch.zeros(1), [network])
    density = gaussian.log_prob(value)
    standard = -math.log(2 * math.pi)  # two elements at their mean
    assert abs(density.item() - (standard + 0.509268899888)) < 1e-8


def test_density_integrates_to_one() -> None:
    """TB6 on a grid."""
    posterior = InverseAutoregressiveFlow(2, MLP(1, 8), transforms=2)
    axis = torch.linspace(-8, 8, 400)
    grid = torch.cartesian_prod(axis, axis)
    density = posterior(torch.zeros(1, 1)).log_prob(grid).exp()
    assert abs((density.sum() * (axis[1] - axis[0]) ** 2).item() - 1) < 1e-3


def test_a_zuko_flow_qualifies_unchanged() -> None:
    """As a prior that is trained in the bound."""
    p = Joint(
        {"z": flows.zuko.flows.MAF(2, hidden_features=(8,)), "x | z": Bernoulli(6, MLP(2, 8))}
    )
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(6, 8))}))
    evidence = model.evidence({"x": torch.ones(5, 6)}, particles=3)
    assert evidence.log_weight.shape == (3, 5)
    elbo(evidence).mean().backward()
    assert all([p.grad is not None for p in model.parameters()])
    assert model.sample(4)["x"].value.shape == (4, 6)


def test_importing_leaves_validation_on() -> None:
    code = (
        "import torch; from torch.distributions import Distribution as D, Normal\n"
        "before = D._validate_args, D.__dict__['arg_constraints']\n"
        "import deeplvm.conditionals.flows\n"
        "assert before == (D._validate_args, D.__dict__['arg_constraints'])\n"
        "try: Normal(0.0, -1.0)\n"
        "except ValueError: pass\n"
        "else: raise SystemExit('Normal accepts a negative scale')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
