"""Householder flow: lengths are kept, and d reflections reach every orthogonal matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeplvm.conditionals.flows import HouseholderFlow
from deeplvm.conditionals.flows.householder import Householder, reflect


def test_length_is_kept_and_twice_is_nothing() -> None:
    z, v = torch.randn(2, 100, 5)
    torch.testing.assert_close(reflect(z, v).norm(dim=-1), z.norm(dim=-1))
    torch.testing.assert_close(reflect(reflect(z, v), v), z)
    torch.testing.assert_close(reflect(v, 3 * v), -v)


def mirrors_of(orthogonal: Tensor) -> list[Tensor]:
    """Normals of the reflections whose product it is, 0 for one that is not needed.

    The j-th takes the j-th column of what is left to the j-th unit vector.
    """
    left, normals = orthogonal.clone(), []
    units = torch.eye(len(orthogonal))
    for j in range(len(orthogonal)):
        v = left[:, j] - units[j]
        v = torch.where(v.norm() < 1e-9, torch.zeros_like(v), v)
        left = reflect(left.T, v).T
        normals.append(v)
    return normals


@pytest.mark.parametrize("determinant", [1.0, -1.0])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_as_many_reflections_as_elements_reach_every_orthogonal_matrix(
    size: int, determinant: float
) -> None:
    matrix, _ = torch.linalg.qr(torch.randn(size, size))
    matrix[:, 0] *= determinant * torch.linalg.det(matrix).sign()
    z = torch.randn(4, size)
    expected = z @ matrix.T
    step = Householder(size)
    for v in reversed(mirrors_of(matrix)):
        z, log_det = step(z, v)
        assert log_det == 0.0
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


def test_density_is_that_of_the_turned_gaussian() -> None:
    flow = HouseholderFlow(3, transforms=3)
    with torch.no_grad():
        flow.head.free.normal_()
    distribution = flow()
    turned = torch.eye(3)
    for transform in distribution.transforms:
        turned, _ = transform.forward(turned, transform.context)
    mean = distribution.loc @ turned
    covariance = turned.T @ torch.diag(distribution.scale.square()) @ turned
    oracle = torch.distributions.MultivariateNormal(mean, covariance)
    z = torch.randn(7, 3)
    torch.testing.assert_close(distribution.log_prob(z), oracle.log_prob(z))
