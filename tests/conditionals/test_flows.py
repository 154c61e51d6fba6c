"""What one pass costs and gives; zuko's flows; torch's global state is left alone."""

from __future__ import annotations

import subprocess
import sys

import torch

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Gaussian, flows
from deeplvm.conditionals.flows import InverseAutoregressiveFlow
from deeplvm.conditionals.flows.autoregressive import InverseAutoregressive
from deeplvm.networks import MLP


def test_a_draw_costs_one_pass_a_step() -> None:
    posterior = InverseAutoregressiveFlow(8, MLP(6, 16), transforms=3)
    calls = [0]
    for module in posterior.transforms.modules():
        if type(module).__name__ == "MaskedPerceptron":
            module.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    posterior(torch.randn(5, 6)).rsample_and_log_prob()
    assert calls == [3]


def test_golden_step() -> None:
    """R3.4: z = (.3, -.8), m = (.3, .5 z1 - .2), s = (1, 1.5 + .1 z1)."""

    class Golden(InverseAutoregressive):
        def _gates(
            self, value: torch.Tensor, context: torch.Tensor, weights: object = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            first = value[..., 0]
            m = torch.stack([torch.full_like(first, 0.3), 0.5 * first - 0.2], -1)
            return m, torch.stack([torch.ones_like(first), 1.5 + 0.1 * first], -1)

    step = Golden(2, 0, (4,))
    value, log_det = step(torch.tensor([0.3, -0.8]), torch.zeros(0))
    assert torch.allclose(value, torch.tensor([0.3, -0.66650474]), atol=1e-8)
    assert abs(log_det.item() + 0.509268899888) < 1e-8
    back, again = step.inverse(value, torch.zeros(0))
    assert torch.allclose(back, torch.tensor([0.3, -0.8]), atol=1e-12)
    assert abs(again.item() + 0.509268899888) < 1e-8


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
