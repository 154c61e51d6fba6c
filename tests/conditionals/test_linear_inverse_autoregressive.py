"""Linear IAF is a full-covariance Gaussian, and so is a convex combination of several."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeplvm.conditionals import FullCovarianceGaussian
from deeplvm.conditionals.flows import LinearInverseAutoregressiveFlow
from deeplvm.conditionals.flows.linear_inverse_autoregressive import LinearInverseAutoregressive


@pytest.mark.parametrize("components", [1, 4])
def test_it_is_the_full_covariance_gaussian(components: int) -> None:
    """R3.4c, App. A: mean L mu, covariance L diag(sigma^2) L^T, row by row."""
    flow = LinearInverseAutoregressiveFlow(4, nn.Linear(5, 8), components=components)
    nn.init.normal_(flow.head.layer.weight)
    distribution = flow(torch.randn(6, 5))
    (one,) = distribution.transforms
    columns, _ = one.forward(torch.eye(4)[:, None], one.context)  # column j of L for every row
    factor = columns.permute(1, 2, 0)
    assert (factor.triu(1) == 0).all()
    assert (factor.diagonal(dim1=-2, dim2=-1) == 1).all()
    oracle = torch.distributions.MultivariateNormal(
        (factor @ distribution.loc.unsqueeze(-1)).squeeze(-1),
        scale_tril=factor * distribution.scale.unsqueeze(-2),
    )
    z, log_prob = distribution.rsample_and_log_prob(torch.Size((9,)))
    torch.testing.assert_close(log_prob, oracle.log_prob(z), rtol=1e-9, atol=1e-9)
    z = torch.randn(9, 6, 4)
    torch.testing.assert_close(distribution.log_prob(z), oracle.log_prob(z))


def test_every_gaussian_is_reached() -> None:
    """The flow whose numbers are read off a full-covariance Gaussian has its density."""
    gaussian = FullCovarianceGaussian(3)
    nn.init.normal_(gaussian.head.free)
    target = gaussian()
    cholesky = torch.linalg.cholesky(target.covariance_matrix)
    scale = cholesky.diagonal()
    factor = cholesky / scale
    flow = LinearInverseAutoregressiveFlow(3, minimum_scale=0.0)
    loc = torch.linalg.solve_triangular(factor, target.loc.unsqueeze(-1), upper=False).squeeze(-1)
    raw = scale.expm1().log() - torch.log(torch.expm1(torch.ones(())))
    rows, columns = torch.tril_indices(3, 3, -1)
    with torch.no_grad():
        flow.head.free.copy_(torch.cat([loc, raw, factor[rows, columns]]).view_as(flow.head.free))
    z = torch.randn(20, 3)
    torch.testing.assert_close(flow().log_prob(z), target.log_prob(z))


def test_the_combination_is_convex() -> None:
    """Scores of +-infinity in effect pick one matrix; equal scores take the mean."""
    step = LinearInverseAutoregressive(3, components=2)
    first, second = torch.randn(2, 3)
    z = torch.randn(5, 3)
    alone = LinearInverseAutoregressive(3)
    picked, _ = step(z, torch.cat([first, second, torch.tensor([1e4, -1e4])]))
    torch.testing.assert_close(picked, alone(z, first)[0])
    mean, _ = step(z, torch.cat([first, second, torch.zeros(2)]))
    torch.testing.assert_close(mean, alone(z, (first + second) / 2)[0])
