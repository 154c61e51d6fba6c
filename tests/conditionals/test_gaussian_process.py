"""The Gaussian process of a posterior, and the mean field that reads it (R3.2.1)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from torch import Tensor, nn

from deeplvm.conditionals.gaussian import MeanField
from deeplvm.conditionals.gaussian_process import GaussianProcess
from deeplvm.conditionals.heads import positive
from deeplvm.networks import MLP

ROWS, INPUTS, FUNCTIONS, POINTS = 4, 3, 2, 6


def process(network: nn.Module | None = None, *, noise: float = 1e-4) -> GaussianProcess:
    torch.manual_seed(0)
    made = GaussianProcess(FUNCTIONS, INPUTS, network, points=POINTS, noise=noise)
    with torch.no_grad():
        made.lengths.copy_(torch.tensor([-1.5, -1.0, -2.0]))
        made.amplitude.fill_(0.7)
        for parameter in made.head.parameters():
            parameter.normal_()
    return made


def test_it_is_the_posterior_of_a_gaussian_process() -> None:
    """Mean and variance by scikit-learn's exact regression on the variational data, to 1e-9."""
    made = process()
    xi = 1.5 * torch.randn(ROWS, INPUTS)
    found = made(xi)
    amplitude, lengths = made._amplitude(), made._lengths()
    square = float(amplitude.detach()) ** 2
    kernel = ConstantKernel(square) * RBF(lengths.tolist())
    exact: Any = GaussianProcessRegressor(kernel, alpha=made.noise * square, optimizer=None)
    centre, offsets = made.head.free[0, 0].detach(), made.head.free[0, 1:].detach()
    exact.fit(made.locations.detach().numpy(), offsets.numpy())
    mean, spread = exact.predict(xi.numpy(), return_std=True)
    expected = centre + torch.tensor(mean)
    torch.testing.assert_close(found.mean.detach(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.stddev.detach(), torch.tensor(spread), rtol=1e-7, atol=1e-9)


def test_each_row_has_its_functions_and_each_particle_its_input() -> None:
    """One row and one particle at a time give the same as all together."""
    made = process(MLP(5, 7))
    xi, x = torch.randn(8, ROWS, INPUTS), torch.randn(ROWS, 5)
    together = made(xi, x)
    assert together.batch_shape == (8, ROWS)
    one = made(xi[3, 2:3], x[2:3])
    torch.testing.assert_close(together.mean[3, 2:3], one.mean)
    torch.testing.assert_close(together.stddev[3, 2:3], one.stddev)
    assert (together.mean[0, 0] - together.mean[0, 1]).abs().min() > 1e-4
    assert (together.mean - together.mean[0]).abs().max() > 1e-4


def test_at_first_the_functions_of_a_row_are_constant() -> None:
    torch.manual_seed(0)
    made = GaussianProcess(FUNCTIONS, INPUTS, MLP(5, 7), points=POINTS)
    mean = made(torch.randn(8, ROWS, INPUTS), torch.randn(ROWS, 5)).mean
    torch.testing.assert_close(mean, mean[:1].expand_as(mean))
    assert (mean[0, 0] - mean[0, 1]).abs().min() > 1e-4


def test_near_the_data_it_is_sure_and_far_away_it_is_not() -> None:
    made = process()
    amplitude = made._amplitude()
    near, far = made(made.locations), made(made.locations + 100)
    centre, offsets = made.head.free[0, 0], made.head.free[0, 1:]
    torch.testing.assert_close(near.mean, centre + offsets, rtol=0.02, atol=0.02)
    assert (near.stddev < 0.02 * amplitude).all()
    torch.testing.assert_close(far.mean, centre.expand(POINTS, FUNCTIONS))
    torch.testing.assert_close(far.stddev, amplitude.expand(POINTS, FUNCTIONS))


def test_single_precision_keeps_the_variance_positive() -> None:
    """At points that nearly coincide, where the matrix is as ill-conditioned as it can be."""
    made = process().float()
    with torch.no_grad():
        made.locations.mul_(1e-4)
    drawn = made(made.locations)
    least = made._amplitude() * (made.noise / (made.noise + POINTS)) ** 0.5
    assert (drawn.stddev >= least * (1 - 1e-6)).all()
    (drawn.rsample().sum() + drawn.stddev.sum()).backward()
    assert all([bool(p.grad.isfinite().all()) for p in made.parameters() if p.grad is not None])


def test_every_parameter_learns() -> None:
    """Gradients of mean and variance by finite differences, in every parameter and the input."""
    made = process(noise=1e-2)
    xi = torch.randn(ROWS, INPUTS, requires_grad=True)
    names, values = zip(*made.named_parameters(), strict=True)

    def moments(xi: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (xi,))
        return found.mean, found.stddev

    assert torch.autograd.gradcheck(moments, (xi, *values))


def test_a_mean_field_reads_its_parameters() -> None:
    loc, raw = torch.randn(2, 5, 3)
    found = MeanField(3)(torch.cat([loc, raw], -1))
    torch.testing.assert_close(found.mean, loc)
    torch.testing.assert_close(found.stddev, positive(raw, 1e-3))
    assert not list(MeanField(3).parameters())
    with pytest.raises(ValueError, match=r"reads 6 numbers.*found 4"):
        MeanField(3)(torch.zeros(5, 4))


def test_sizes_that_cannot_be_are_said() -> None:
    with pytest.raises(ValueError, match="points of at least 1, found 0"):
        GaussianProcess(2, 2, points=0)
    with pytest.raises(ValueError, match="noise above 0, found 0"):
        GaussianProcess(2, 2, noise=0.0)
    with pytest.raises(ValueError, match="amplitude above 0, found -1"):
        GaussianProcess(2, 2, amplitude=-1.0)
    with pytest.raises(
        TypeError, match=r"first of its parents, 2 wide, found shapes \[\(5, 3\)\]"
    ):
        GaussianProcess(2, 2)(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="features of at least 1"):
        MeanField(0)
