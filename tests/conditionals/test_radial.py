"""Radial flow: golden values, the inverse, and a dimension of one."""

from __future__ import annotations

import torch

from deeplvm.conditionals.flows.planar import Radial, radial, radial_inverse


def test_golden_step() -> None:
    z, centre = torch.tensor([0.3, -0.8]), torch.tensor([0.1, 0.2])
    alpha, beta = torch.tensor([1.0]), torch.tensor([0.5])
    value, log_det = radial(z, centre, alpha, beta)
    assert torch.allclose(value, torch.tensor([0.34950976, -1.04754878]), atol=1e-8)
    assert abs(log_det.item() - 0.336793158057) < 1e-12
    back, again = radial_inverse(value, centre, alpha, beta)
    assert torch.allclose(back, z, atol=1e-14)
    assert abs(again.item() - 0.336793158057) < 1e-12


def test_inverse_near_the_constraint_and_far_from_it() -> None:
    """beta from just above -alpha to 1e6 alpha, radii from 1e-6 to 1e6, to 1e-10 of the radius."""
    gain = torch.logspace(-3, 6, 19)[:, None, None]
    alpha = torch.logspace(-2, 2, 9)[:, None]
    beta = alpha * (gain - 1)
    direction = torch.tensor([0.6, -0.8])
    radius = torch.logspace(-6, 6, 25)[:, None, None, None]
    value, log_det = radial(radius * direction, torch.zeros(2), alpha, beta)
    back, again = radial_inverse(value, torch.zeros(2), alpha, beta)
    assert ((back - radius * direction).norm(dim=-1, keepdim=True) < 1e-10 * radius).all()
    torch.testing.assert_close(log_det, again)


def test_the_centre_stays_where_it_is() -> None:
    """With the slope g there in every direction, and a finite gradient."""
    centre = torch.tensor([0.5, -1.0, 2.0])
    context = torch.cat([centre, torch.tensor([0.3, 1.2])]).requires_grad_()
    step = Radial(3)
    value, log_det = step(centre, context)
    _, alpha, beta = step._read(context)
    assert torch.allclose(value, centre)
    assert torch.allclose(log_det, 3 * torch.log1p(beta / alpha).squeeze())
    (value.sum() + log_det).backward()
    assert context.grad is not None
    assert context.grad.isfinite().all()
