"""Mixtures of discretised logistics of single elements and of the channels of a pixel (R1.4)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from deeplvm.distributions import CoupledLogisticMixture, DiscretizedLogisticMixture

LEVELS = 6
EVERY = torch.cartesian_prod(*[torch.arange(float(LEVELS))] * 3)  # of one pixel


def pixel(
    levels: int = LEVELS, *, batch: tuple[int, ...] = (), scale: float = 0.1
) -> CoupledLogisticMixture:
    """One pixel of three channels, of two components."""
    torch.manual_seed(0)
    return CoupledLogisticMixture(
        torch.randn(*batch, 2),
        0.4 * torch.randn(*batch, 2, 3),
        scale * (1 + torch.rand(*batch, 2, 3)),
        torch.randn(*batch, 2, 3).tanh(),
        levels,
        pixel_dims=0,
    )


def by_hand(
    x: np.ndarray, logits: np.ndarray, mu: np.ndarray, s: np.ndarray, a: np.ndarray
) -> float:
    """The probability of one pixel (r, g, b), levels 0 .. 255, as PixelCNN++ says in words."""
    u = x / 127.5 - 1
    total = 0.0
    for k, weight in enumerate(np.exp(logits) / np.exp(logits).sum()):
        means = (
            mu[k, 0],
            mu[k, 1] + a[k, 0] * u[0],
            mu[k, 2] + a[k, 1] * u[0] + a[k, 2] * u[1],
        )
        for c, mean in enumerate(means):
            upper = 1.0 if x[c] == 255 else expit((u[c] + 1 / 255 - mean) / s[k, c])
            lower = 0.0 if x[c] == 0 else expit((u[c] - 1 / 255 - mean) / s[k, c])
            weight *= upper - lower
        total += weight
    return math.log(total)


@pytest.mark.parametrize("x", [(0, 12, 255), (128, 128, 128), (255, 0, 200), (3, 250, 1)])
def test_a_pixel_is_that_of_pixelcnn_plus_plus(x: tuple[int, ...]) -> None:
    d = pixel(256)
    hand = by_hand(
        np.array(x), d.log_weights.numpy(), d.loc.numpy(), d.scale.numpy(), d.coefficients.numpy()
    )
    assert d.log_prob(torch.tensor(x)).item() == pytest.approx(hand, rel=1e-10)


def test_all_colours_sum_to_one() -> None:
    d = pixel(batch=(2,))
    total = d.log_prob(EVERY[:, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("there", list(itertools.product([True, False], repeat=3)))
def test_missing_channels_are_summed_out(there: tuple[bool, ...]) -> None:
    """Exact in every pattern but two gaps, which are refused; what is left is the conditional."""
    d, observed = pixel(), torch.tensor(there)
    value = torch.tensor([4.0, 1.0, 5.0])
    holes = torch.where(observed, value, torch.nan)
    if there == (False, False, True):
        with pytest.raises(ValueError, match="Two channels of a pixel"):
            d.observed_log_prob(holes, observed)
        return
    same = (~observed | (value == EVERY)).all(-1)
    joint = d.log_prob(EVERY)[same]
    found = d.observed_log_prob(holes, observed)
    torch.testing.assert_close(found, joint.logsumexp(0))
    rest = d.conditioned(holes, observed)
    torch.testing.assert_close(rest.log_prob(EVERY[same]), joint - found)
    # counts of draws within 5 standard errors: fails by chance once in 1e4; seed fixed
    torch.manual_seed(1)
    drawn = rest.sample((4000,))
    counts = (drawn[:, None] == EVERY[same]).all(-1).double().mean(0)
    exact = (joint - found).exp()
    assert counts.sum().item() == pytest.approx(1)
    assert ((counts - exact).abs() <= 5 * (exact / 4000).sqrt() + 1e-3).all()


def test_missing_channels_of_some_pixels_of_images() -> None:
    """Whole pixels, last channels and a gap beside each other, under particles."""
    torch.manual_seed(3)
    image = (2, 4, 2, 3)  # two particles of four rows of 2x3
    shape = (*image[:2], 2, 3, *image[2:])
    d = CoupledLogisticMixture(
        torch.randn(*image[:2], 2, *image[2:]), torch.randn(shape) / 2,
        0.2 + torch.rand(shape), torch.randn(shape).tanh(), LEVELS,
    )  # fmt: skip
    value = torch.randint(LEVELS, (4, 3, 2, 3)).double()
    value[0, :, 0, 0] = torch.nan
    value[1, 2, 1, 1] = torch.nan
    value[2, 0, 1, 2] = value[3, 1, 0, 1] = torch.nan
    found = d.observed_log_prob(value, ~value.isnan())
    each = torch.zeros(2, 4)
    for i, j, h, w in itertools.product(range(2), range(4), range(2), range(3)):
        parts = (d.log_weights, d.loc, d.scale, d.coefficients)
        weights, loc, scale, pairs = [part[i, j, ..., h, w] for part in parts]
        one = CoupledLogisticMixture(weights, loc, scale, pairs, LEVELS, 0)
        x = value[j, :, h, w]
        each[i, j] += one.observed_log_prob(x, ~x.isnan())
    torch.testing.assert_close(found, each)
    drawn = d.conditioned(value, ~value.isnan()).sample()
    assert drawn.isfinite().all()
    assert (drawn == value)[(~value.isnan()).expand(drawn.shape)].all()


def test_moments_are_those_of_all_colours() -> None:
    """Means over points: within a percent of the range; standard deviations within two."""
    d = pixel(batch=(20,), scale=0.15)
    probability = d.log_prob(EVERY[:, None]).exp()[..., None]
    mean = (probability * EVERY[:, None]).sum(0)
    deviation = ((probability * EVERY[:, None].square()).sum(0) - mean.square()).sqrt()
    assert (d.mean - mean).abs().max() < 0.01 * (LEVELS - 1)
    assert (d.variance.sqrt() - deviation).abs().max() < 0.02 * (LEVELS - 1)


def test_of_one_component_and_one_channel_it_is_the_mixture() -> None:
    torch.manual_seed(0)
    logits, loc, scale = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4)
    mixture = DiscretizedLogisticMixture(logits, loc, scale, 9)
    coupled = CoupledLogisticMixture(
        logits, loc[..., None], scale[..., None], torch.zeros(3, 4, 0), 9, 0
    )
    levels = torch.arange(9.0)[:, None].expand(9, 3)
    torch.testing.assert_close(coupled.log_prob(levels[..., None]), mixture.log_prob(levels))
    table = mixture.log_prob(levels)
    torch.testing.assert_close(table.exp().sum(0), torch.ones(3), rtol=0, atol=1e-12)
    torch.testing.assert_close(mixture.mean, (table.exp() * levels).sum(0))
    assert torch.equal(mixture.mode, table.argmax(0).double())


@pytest.mark.parametrize("scale", [1e-3, 0.02, 1.0])
def test_single_precision_at_256_levels(scale: float) -> None:
    """A few hundred-thousandths of a nat, and a thousandth at scales of an eighth of a level."""
    d = pixel(256, batch=(500,), scale=scale)
    value = d.sample()
    parts: list[Tensor] = [d.log_weights, d.loc, d.scale, d.coefficients]
    weights, loc, scales, pairs = [part.float() for part in parts]
    single = CoupledLogisticMixture(weights, loc, scales, pairs, 256, 0)
    error = (single.log_prob(value.float()).double() - d.log_prob(value)).abs()
    assert error.max() < (1e-3 if scale < 0.01 else 3e-5)
