"""Neural autoregressive and neural spline flows: what is particular to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeplvm.conditionals.flows import NeuralAutoregressiveFlow, NeuralSplineFlow
from deeplvm.conditionals.flows.neural_autoregressive import DeepSigmoidal
from deeplvm.conditionals.flows.spline import MonotonicSpline, Spline
from deeplvm.networks import MLP


def cubic(sigmoids: int, slope: float) -> tuple[DeepSigmoidal, Tensor]:
    r"""A step and raw parameters near :math:`x^3`: its sigmoid is a sum of narrow ones."""
    torch.manual_seed(0)
    step = DeepSigmoidal(1, 0, (), sigmoids=sigmoids)
    centres = torch.linspace(-2, 2, sigmoids)
    height = torch.sigmoid(centres**3)
    weight = height * (1 - height) * (3 * centres**2 + 0.05)
    return step, torch.cat([torch.full((sigmoids,), slope), -slope * centres, weight.log()])


def test_it_is_monotone_and_approximates_a_cubic() -> None:
    """R3.2.2: 24 sigmoids reach x^3 on [-2, 2] to 0.01, from ten times as much."""
    step, raw = cubic(24, 12.0)
    raw.requires_grad_()
    x = torch.linspace(-2, 2, 201)
    optimiser = torch.optim.LBFGS(
        [raw], max_iter=200, history_size=50, line_search_fn="strong_wolfe", tolerance_change=0.0
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (step.bent(x, raw.expand(201, -1))[0] - x**3).square().mean()
        value.backward()
        return value

    before = (step.bent(x, raw.expand(201, -1))[0] - x**3).abs().max()
    optimiser.step(loss)
    after = step.bent(x, raw.expand(201, -1))[0]
    assert before > 0.1
    assert (after - x**3).abs().max() < 0.01
    wide = torch.linspace(-100, 100, 2001)
    assert (step.bent(wide, raw.expand(2001, -1))[0].diff() > 0).all()


def test_a_golden_step() -> None:
    """Two sigmoids by hand: a = (1, 2), b = (0.5, -1), w = (0.25, 0.75), at x = 0.3."""
    step = DeepSigmoidal(1, 0, (), sigmoids=2)
    layer = step.layers[0]
    slopes = torch.tensor([1.0, 2.0])
    raw_slope = torch.log(torch.expm1(slopes - 0.01)) - torch.log(torch.expm1(torch.tensor(0.99)))
    raw_shift = torch.tensor([0.5, -1.0]) - layer.start
    raw = torch.cat([raw_slope, raw_shift, torch.tensor([0.25, 0.75]).log()])
    x = torch.tensor(0.3, requires_grad=True)
    share = 0.25 * torch.sigmoid(x + 0.5) + 0.75 * torch.sigmoid(2 * x - 1)
    expected = 0.999 * torch.logit(share) + 0.001 * x
    after, log_slope = step.bent(x, raw)
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 3])
def test_an_inverse_far_out_and_in_single_precision(layers: int) -> None:
    """Values up to 100 and steep or flat layers: within 1e-11 there and back, 1e-3 in float32.

    A slope is at least 0.001, so that many digits of an inverse are lost at most.
    """
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        step = DeepSigmoidal(1, 0, (), sigmoids=6, layers=layers).to(dtype)
        raw = 3 * torch.randn(50, sum(step.sizes), dtype=dtype)
        value = torch.randn(50, dtype=dtype) * torch.logspace(-2, 2, 50, dtype=dtype)
        there, _ = step.bent(value, raw)
        back = step.straightened(there, raw)
        torch.testing.assert_close(back, value, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_the_inverse_is_the_implicit_one() -> None:
    """By finite differences of the value and of all raw parameters."""
    torch.manual_seed(0)
    step = DeepSigmoidal(1, 0, (), sigmoids=3, layers=2)
    raw = torch.randn(4, sum(step.sizes)).requires_grad_()
    value = torch.randn(4).requires_grad_()
    assert torch.autograd.gradcheck(step.straightened, (value, raw), fast_mode=True)


def test_a_spline_is_the_identity_outside_its_interval_and_at_its_ends() -> None:
    torch.manual_seed(0)
    step = MonotonicSpline(3, 2, (8,), bins=5, bound=2.0)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(torch.randn_like(parameter))
    context = step.prepare(torch.randn(7, 2))
    outside = 2.5 + torch.rand(7, 3)
    for value in (outside, -outside, torch.full((7, 3), 2.0)):
        after, log_det = step(value, context)
        torch.testing.assert_close(after, value, rtol=1e-12, atol=1e-12)
        if value.abs().min() > 2:
            torch.testing.assert_close(log_det, torch.zeros(7))
            torch.testing.assert_close(step.inverse(value, context)[0], value)
    inside = 4 * torch.rand(7, 3) - 2
    assert (step(inside, context)[0] - inside).abs().max() > 0.1
    assert step(inside, context)[0].abs().max() < 2


def test_a_spline_is_inverted_in_single_precision_at_extreme_knots() -> None:
    """Flat pieces beside steep ones, 100,000 of them: all finite; 99 of 100 to 4 digits."""
    torch.manual_seed(0)
    parts = [40 * torch.randn(100_000, size, dtype=torch.float32) for size in (6, 6, 5)]
    spline = Spline(*parts, bound=3.0, slope=MonotonicSpline.least_slope)
    value = 6 * torch.rand(100_000, dtype=torch.float32) - 3
    root = spline._inverse(value)
    assert root.isfinite().all()
    back, log_slope = spline.call_and_ladj(root)
    close = (back - value).abs() < 1e-4 * (1 + log_slope.exp())
    assert close.double().mean() > 0.99


def test_coupling_leaves_the_first_half_to_the_context() -> None:
    """The Jacobian of a coupling step: one half by itself, the other by the first."""
    flow = NeuralSplineFlow(4, MLP(5, 8), transforms=1, hidden=(8,))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    one = flow(torch.randn(1, 5)).transforms[0]
    value = torch.randn(4)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: one.forward(v, one.context[0])[0], value
    )
    assert (jacobian[:2] == jacobian[:2] * torch.eye(2, 4)).all()
    assert (jacobian[2:, :2] != 0).all()
    assert jacobian[2, 3] == jacobian[3, 2] == 0


@pytest.mark.parametrize("family", [NeuralAutoregressiveFlow, NeuralSplineFlow])
def test_one_element_is_a_prior_that_can_have_two_peaks(family: type) -> None:
    """No network, no neighbours: the start must let sigmoids and knots part."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(100) * 0.3 - 1.5, torch.randn(100) * 0.3 + 1.5]).unsqueeze(-1)
    prior = family(1, transforms=1, hidden=(4,))
    optimiser = torch.optim.Adam(prior.parameters(), 0.1)
    for _ in range(60):
        optimiser.zero_grad()
        loss = -prior().log_prob(x).mean()
        loss.backward()
        optimiser.step()
    gaussian = torch.distributions.Normal(x.mean(), x.std()).log_prob(x).mean()
    assert -loss > gaussian + 0.4


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="sigmoids of at least 1"):
        NeuralAutoregressiveFlow(2, sigmoids=0)
    with pytest.raises(ValueError, match="layers of at least 1"):
        NeuralAutoregressiveFlow(2, layers=0)
    with pytest.raises(ValueError, match="bins of at least 2"):
        NeuralSplineFlow(2, bins=1)
    with pytest.raises(ValueError, match="a bound above 0"):
        NeuralSplineFlow(2, bound=0)
