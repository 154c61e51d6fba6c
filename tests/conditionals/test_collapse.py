"""Posteriors that cannot collapse: batch-normalised means, a committed divergence, skips."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import (
    BatchNormalisedGaussian,
    Bernoulli,
    CommittedGaussian,
    StandardNormal,
)
from deeplvm.networks import MLP, SkipMLP


class TestBatchNormalised:
    def test_means_have_a_fixed_spread(self) -> None:
        """Mean beta and standard deviation gamma over all particles and rows, to epsilon."""
        posterior = BatchNormalisedGaussian((2, 3), MLP(4, 8), spread=0.7)
        with torch.no_grad():
            posterior.shift.copy_(torch.randn(2, 3))
        for parents in ([torch.randn(50, 4)], [torch.randn(30, 1), torch.randn(4, 30, 3)]):
            loc = posterior(*parents).mean
            rows = loc.reshape(-1, 2, 3)
            assert torch.allclose(rows.mean(0), posterior.shift, atol=1e-12)
            assert torch.allclose(
                rows.std(0, correction=0), torch.full((2, 3), 0.7), rtol=0, atol=2e-3
            )

    def test_divergence_is_bounded_below(self) -> None:
        """1/2 sum (gamma^2 + beta^2), whatever the scales; reached where the scales are 1."""
        prior = StandardNormal(3)()
        x = torch.randn(64, 4)
        for seed in range(5):
            torch.manual_seed(seed)
            posterior = BatchNormalisedGaussian(3, MLP(4, 8), spread=0.5)
            with torch.no_grad():
                posterior.shift.copy_(torch.randn(3))
                posterior.head.layer.weight.mul_(10.0)
            bound = 0.5 * (3 * 0.25 + posterior.shift.square().sum())
            assert kl_divergence(posterior(x), prior).mean() > bound - 1e-3
        fixed = BatchNormalisedGaussian(3, MLP(4, 8), spread=0.5, scale=1.0)
        with torch.no_grad():
            fixed.head.layer.weight.mul_(10.0)
        assert float(kl_divergence(fixed(x), prior).mean().detach()) == pytest.approx(
            0.375, abs=1e-4
        )

    def test_eval_takes_the_running_values(self) -> None:
        """A row's posterior is then its own; momentum 1 keeps the last minibatch's values."""
        posterior = BatchNormalisedGaussian(3, MLP(4, 8), momentum=1.0)
        x = torch.randn(200, 4)
        train = posterior(x).mean
        before = {name: value.clone() for name, value in posterior.named_buffers()}
        posterior.eval()
        whole = posterior(x).mean
        assert torch.allclose(whole, train, atol=0.01)  # variances over n - 1 and over n
        assert torch.allclose(posterior(x[:3]).mean, whole[:3])
        assert all([torch.equal(value, before[n]) for n, value in posterior.named_buffers()])
        posterior.train()
        assert torch.allclose(posterior(x[:1]).mean, whole[:1])  # one row has no spread

    def test_every_parameter_has_a_gradient(self) -> None:
        p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(4, SkipMLP(2, 5, 5))})
        model = LatentVariableModel(p, Joint({"z | x": BatchNormalisedGaussian(2, MLP(4, 5))}))
        evidence = model.evidence({"x": torch.randint(2, (9, 4)).double()}, particles=3)
        evidence.log_weight.sum().backward()
        # the bias before a batch normalisation of the means is the one without effect
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_what_is_refused(self) -> None:
        for options in ({"spread": 0.0}, {"momentum": 0.0}):
            with pytest.raises(ValueError, match="positive spread and a momentum"):
                BatchNormalisedGaussian(2, MLP(4, 5), **options)


class TestCommitted:
    @pytest.mark.parametrize("minimum", [1e-3, 0.1, 1.0, 5.0])
    def test_never_nearer(self, minimum: float) -> None:
        """For raw parameters of any size the divergence of each dimension is at least delta."""
        posterior = CommittedGaussian(7, minimum=minimum)
        for raw in (-1e3, -30.0, -3.0, 0.0, 3.0, 30.0, 1e3):
            with torch.no_grad():
                posterior.head.free[0].fill_(-1e3)  # softplus 0: as near as it can be
                posterior.head.free[1].fill_(raw)
            each = kl_divergence(posterior().base_dist, StandardNormal(7)().base_dist)
            assert (each >= minimum * (1 - 1e-9)).all()
            assert (each <= minimum + 1e-6).all()  # and so near it can be
            posterior.zero_grad()
            posterior().mean.sum().backward()
            assert posterior.head.free.grad.isfinite().all()

    def test_limits_are_roots(self) -> None:
        for minimum in (1e-4, 0.3, 2.0, 20.0):
            for scale in CommittedGaussian(1, minimum=minimum).limits:
                found = 0.5 * (scale**2 - 1) - math.log(scale)
                assert found == pytest.approx(minimum, rel=1e-9)
            low, high = CommittedGaussian(1, minimum=minimum).limits
            assert 0 < low < 1 < high

    def test_starts_at_the_prior_scale_and_learns(self) -> None:
        """A raw 0 is scale 1; every parameter gets a gradient; 32-bit keeps the bound."""
        free = CommittedGaussian(2, minimum=0.2)
        assert torch.allclose(free().stddev, torch.ones(2))
        posterior = CommittedGaussian((2, 2), MLP(4, 5), minimum=0.2)
        value = kl_divergence(posterior(torch.randn(6, 4)), StandardNormal((2, 2))())
        assert (value > 0.8).all()
        value.sum().backward()
        assert all([p.grad.abs().sum() > 0 for p in posterior.parameters()])
        small = posterior.float()(torch.randn(6, 4, dtype=torch.float32))
        prior = StandardNormal((2, 2)).float()()
        assert (kl_divergence(small, prior) > 0.8 - 1e-5).all()

    def test_what_is_refused(self) -> None:
        with pytest.raises(ValueError, match="positive minimum in nats"):
            CommittedGaussian(2, minimum=0.0)


class TestSkip:
    def test_is_its_formula(self) -> None:
        network = SkipMLP(3, 5, 4, activation=nn.Tanh)
        y, z = torch.randn(6, 1), torch.randn(2, 6, 2)
        both = torch.cat([y.expand(2, 6, 1), z], -1)
        first, second = network.layers
        hidden = torch.tanh(first(both))
        hidden = torch.tanh(second(torch.cat([hidden, both], -1)))
        assert torch.equal(network(y, z), torch.cat([hidden, both], -1))
        assert network(y, z).shape[-1] == network.out_features == 7

    def test_a_closed_layer_does_not_lose_the_latent(self) -> None:
        """With all weights on hidden units zero, the output still depends on z; an MLP's not."""
        skip, plain = SkipMLP(2, 5, 5), MLP(2, 5, 5)
        with torch.no_grad():
            skip.layers[1].weight[:, :5].zero_()
            plain.layers[2].weight.zero_()
        z, other = torch.randn(2, 4, 2)
        assert not torch.allclose(skip(z), skip(other))
        assert torch.allclose(plain(z), plain(other))

    def test_what_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one hidden layer"):
            SkipMLP(3)
        with pytest.raises(ValueError, match="SkipMLP expects"):
            SkipMLP(3, 4)(torch.randn(5, 2))
