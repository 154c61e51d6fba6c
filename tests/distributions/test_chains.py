"""Chains of normals: against the one normal that a path is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from deeplvm.distributions.chains import GaussianChain, LinearNormal, conditioned_on, lower

STEPS, SIZE = 4, 2


def chain(seed: int, *, backwards: bool = False) -> GaussianChain:
    torch.manual_seed(seed)
    gain = 0.6 * torch.randn(STEPS, SIZE, SIZE)
    gain[-1 if backwards else 0] = 0.0
    factor = lower(torch.randn(STEPS, SIZE, SIZE + 1))
    return GaussianChain(gain, torch.randn(STEPS, SIZE), factor, backwards=backwards)


def whole(each: GaussianChain) -> MultivariateNormal:
    """The normal of a path, whose steps are affine in their noise."""
    with torch.no_grad():
        noise = torch.cat([torch.zeros(1, STEPS * SIZE), torch.eye(STEPS * SIZE)])
        gain, z = each.gain, torch.zeros(len(noise), STEPS, SIZE)
        pushed = torch.einsum("tij,ntj->nti", each.factor, noise.view(-1, STEPS, SIZE))
        steps = [*range(STEPS)][:: -1 if each.backwards else 1]
        for place, t in enumerate(steps):
            z[:, t] = pushed[:, t] + each.offset[t]
            if place:
                z[:, t] += z[:, steps[place - 1]] @ gain[t].T
        flat = z.flatten(1)
        root = (flat[1:] - flat[0]).T
        return MultivariateNormal(flat[0], root @ root.T)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_chain_is_one_normal(backwards: bool) -> None:
    each = chain(0, backwards=backwards)
    exact = whole(each)
    path, density = each.expand((3, STEPS)).rsample_and_log_prob((2,))
    assert torch.allclose(each.log_prob(path).sum(-1), exact.log_prob(path.flatten(-2)))
    assert torch.allclose(density, each.log_prob(path))
    assert torch.allclose(each.mean.flatten(), exact.mean)
    assert torch.allclose(each.variance.flatten(), exact.variance)
    assert torch.allclose(each.entropy().sum(), exact.entropy())


@pytest.mark.parametrize("backwards", [(False, False), (True, False), (True, True)])
def test_divergences_of_chains_are_those_of_the_normals(backwards: tuple[bool, bool]) -> None:
    q, p = (chain(seed, backwards=way) for seed, way in enumerate(backwards))
    exact = kl_divergence(whole(q), whole(p))
    assert torch.allclose(kl_divergence(q, p).sum(), exact, rtol=1e-9)
    if not p.backwards:
        step = LinearNormal(torch.randn(3, STEPS, SIZE), p.gain, p.offset, p.factor)
        assert torch.allclose(kl_divergence(q, step).sum(-1), exact.expand(3), rtol=1e-9)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_chain_times_potentials_is_the_posterior_of_the_normal(backwards: bool) -> None:
    prior = chain(0, backwards=backwards)
    weight, value = torch.randn(3, STEPS, 3, SIZE), torch.randn(3, STEPS, 3)
    weight[0, 1] = value[0, 1] = 0.0
    posterior, log_z = conditioned_on(prior, weight, value)
    flat = whole(prior)
    for row in range(3):
        wide = torch.block_diag(*weight[row])
        normal = posterior_of(flat, wide, value[row].flatten())
        one = GaussianChain(
            *[each[row] for each in (posterior.gain, posterior.offset, posterior.factor)],
            backwards=not backwards,
        )
        assert torch.allclose(whole(one).mean, normal.mean)
        assert torch.allclose(whole(one).covariance_matrix, normal.covariance_matrix)
        assert torch.allclose(posterior.mean[row].flatten(), normal.mean)
        scale = wide @ flat.covariance_matrix @ wide.T + torch.eye(len(wide))
        evidence = MultivariateNormal(wide @ flat.mean, scale).log_prob(value[row].flatten())
        constant = 0.5 * len(wide) * torch.log(torch.tensor(2 * torch.pi))
        assert torch.allclose(log_z[row].sum(), evidence + constant)


def posterior_of(prior: MultivariateNormal, weight: Tensor, value: Tensor) -> MultivariateNormal:
    precision = prior.precision_matrix + weight.T @ weight
    pull = prior.precision_matrix @ prior.mean + weight.T @ value
    return MultivariateNormal(torch.linalg.solve(precision, pull), precision_matrix=precision)
