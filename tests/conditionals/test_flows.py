"""Flows from zuko: one pass equals the inverted density; torch's global state is left alone."""

from __future__ import annotations

import subprocess
import sys

import torch

from deeplvm.conditionals.flows import FlowPrior, InverseAutoregressiveFlow
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
    for module in posterior.flow.modules():
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


def test_flow_prior_integrates_to_one() -> None:
    """TB6 on a grid."""
    prior = FlowPrior(2, transforms=2, hidden=(8,))
    axis = torch.linspace(-8, 8, 400)
    grid = torch.cartesian_prod(axis, axis)
    total = prior().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total.item() - 1) < 1e-3


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
