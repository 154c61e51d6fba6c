"""Planar flow: golden values, the constraint, the inverse and where it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from deeplvm.conditionals.flows import (
    LinearInverseAutoregressiveFlow,
    PlanarFlow,
    RadialFlow,
    SylvesterFlow,
)
from deeplvm.conditionals.flows.flow import Flow
from deeplvm.conditionals.flows.planar import NO_STEP, invertible_direction, planar, planar_inverse
from deeplvm.conditionals.flows.vectors import solve_tanh_equation
from deeplvm.conditionals.posteriors import known
from deeplvm.networks import MLP, Features


def test_golden_step() -> None:
    z, u, w = torch.tensor([0.3, -0.8]), torch.tensor([0.7, -0.4]), torch.tensor([1.2, 0.5])
    value, log_det = planar(z, u, w, torch.tensor([0.1]))
    assert torch.allclose(value, torch.tensor([0.34194967, -0.82397124]), atol=1e-8)
    assert abs(log_det.item() - 0.493293745591) < 1e-12
    back, again = planar_inverse(value, u, w, torch.tensor([0.1]))
    assert torch.allclose(back, z, atol=1e-14)
    assert abs(again.item() - 0.493293745591) < 1e-12


def test_golden_constraint() -> None:
    w = torch.tensor([1.2, 0.5])
    u = invertible_direction(torch.tensor([-2.0, -1.0]), w)
    assert torch.allclose(u, torch.tensor([-0.61285483, -0.42202285]), atol=1e-8)
    assert abs((w * u).sum().item() - (math.log1p(math.exp(-2.9)) - 1)) < 1e-12


def test_constraint_holds_for_every_u_and_w() -> None:
    """Of every length, and for a w of zero too."""
    u, w = 10.0 ** torch.randint(-6, 4, (2, 2000, 1)) * torch.randn(2, 2000, 3)
    w[0] = 0.0
    bounded = invertible_direction(u, w, NO_STEP)
    assert bounded.isfinite().all()
    assert ((w * bounded).sum(-1) > -1).all()


@pytest.mark.parametrize("largest", [1e-4, 1.0, 1e4, 1e8])
def test_scalar_equation_is_solved_for_every_target_and_strength(largest: float) -> None:
    r"""The residual of :math:`s + c \tanh(s) = t`, relative to its terms, from both sides."""
    strength = torch.cat(
        [torch.logspace(-6, 0, 61) * largest, -1 + torch.logspace(-6, 0, 61)]
    ).unsqueeze(-1)
    size = torch.cat([torch.zeros(1), torch.logspace(-12, 9, 300)])
    near = strength.abs() * torch.tensor([0.99, 1 - 1e-6, 1.0, 1 + 1e-6])
    target = torch.cat([size.expand(122, -1), -size.expand(122, -1), near, -near], -1)
    s = solve_tanh_equation(target, strength)
    residual = s + strength * s.tanh() - target
    assert (residual.abs() <= 1e-15 + 1e-15 * (target.abs() + strength.abs())).all()


def test_gradient_of_the_root_is_that_of_the_implicit_function() -> None:
    target, strength = torch.tensor([-3.0, 0.2, 5.0]), torch.tensor([-0.99, 0.5, 7.0])
    leaves = (target.requires_grad_(), strength.requires_grad_())
    assert torch.autograd.gradcheck(solve_tanh_equation, leaves)


def test_a_map_of_features_gives_raw_numbers_of_a_row() -> None:
    """Four steps have 36 raw numbers, nine for each pixel: they are not one filter's."""
    network = Features(nn.Conv2d(1, 3, 3, padding=1), out_shape=(3, 2, 2))
    flow = PlanarFlow((1, 2, 2), network, transforms=4)
    assert flow(torch.randn(5, 1, 2, 2)).rsample().shape == (5, 1, 2, 2)


@pytest.mark.parametrize(
    "family",
    [
        PlanarFlow,
        RadialFlow,
        LinearInverseAutoregressiveFlow,
        SylvesterFlow,
        partial(SylvesterFlow, kind="householder"),
        partial(SylvesterFlow, kind="triangular"),
    ],
)
def test_it_starts_as_the_identity(family: Callable[..., Flow]) -> None:
    """Exactly without a network; with one, within a quarter of a value's length on average."""
    value = torch.randn(64, 6)
    for flow, most in ((family(6), 1e-12), (family(6, MLP(5, 50)), 0.25)):
        moved = value
        for transform in flow(*([torch.randn(64, 5)] if most > 0.1 else [])).transforms:
            moved, _ = transform.forward(moved, transform.context)
        assert ((moved - value).norm(dim=-1) / value.norm(dim=-1)).mean() < most
        assert moved.isfinite().all()


STEPPED = ["planar", "radial", "sylvester", "householder", "nice", "real_nvp"]
STEPPED += ["maf", "iaf", "naf", "nsf"]


@pytest.mark.parametrize("family", STEPPED)
def test_no_step_at_all_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"[Ff]low expects transforms of at least 1, found 0"):
        known()[family](3, transforms=0)
