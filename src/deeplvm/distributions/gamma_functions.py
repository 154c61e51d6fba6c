r"""What densities need of the gamma function, without differences of large logarithms.

:math:`\log \Gamma(n + 1)` of a count of a million is 1.3e7, and single precision leaves one digit
before its point: a log-probability that is written with it is noise. Where counts and
concentrations are large, Stirling's formula and the density's own maximum are subtracted first,
and what remains is of the size of the answer.

Fast and Accurate Computation of Binomial Probabilities (Loader, 2000),
https://www.r-project.org/doc/reports/CLoader-dbinom-2002.pdf
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LARGE = 20.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_rising(start: Tensor, steps: Tensor) -> Tensor:
    r""":math:`\log \Gamma(a + n) - \log \Gamma(a)` for :math:`a > 0`, accurate for large a too.

    The two logarithms cancel for large a: with float32 and a = 1e6 their difference has no
    correct digit. From a = 20 on the difference of Stirling's series is taken term by term.

    Examples:
        >>> log_rising(torch.tensor(1e6), torch.tensor(2.0))  # 2 log(1e6), and a little
        tensor(27.6310)
    """
    large = start > _LARGE
    small = torch.where(large, 1.0, start)
    big = torch.where(large, start, _LARGE)
    end = big + steps
    direct = torch.lgamma(small + steps) - torch.lgamma(small)
    series = (big - 0.5) * torch.log1p(steps / big) + steps * end.log() - steps
    return torch.where(large, series + _series(end) - _series(big), direct)


def stirling_error(a: Tensor) -> Tensor:
    r""":math:`\log \Gamma(a + 1) - ((a + \tfrac12) \log a - a + \tfrac12 \log 2 \pi)`, a > 0.

    Up to 20 from that of n = a + 15, as
    :math:`\Gamma(a + 1) = \Gamma(n + 1) / \prod_{k \le 15} (a + k)`:
    the gradient of a logarithm is cheap, that of ``lgamma`` takes 200 times as long.
    """
    large = a > _LARGE
    small = torch.where(large, 1.0, a)
    start = small * (small + 16)  # (a + k) (a + 16 - k) = a (a + 16) + k (16 - k)
    product = small + 8
    for k in range(1, 8):
        product = product * (start + k * (16 - k))
    end = small + 15
    powers = (end + 0.5) * end.log() - (small + 0.5) * small.log() - product.log()
    return _series(torch.where(large, a, end)) + torch.where(large, 0.0, powers - 15)


def _series(a: Tensor) -> Tensor:
    # log Gamma(a) = (a - 1/2) log a - a + log(2 pi)/2 + 1/(12 a) - 1/(360 a^3) + 1/(1260 a^5) - …
    inverse = a.reciprocal()
    square = inverse.square()
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


def deviance(x: Tensor, mean: Tensor, difference: Tensor) -> Tensor:
    r""":math:`x \log(x / m) + m - x \ge 0`, of size :math:`(x - m)^2 / 2 m` where x is near m.

    Args:
        x: At least 0.
        mean: m > 0.
        difference: x − m, as exactly as it can be had.
    """
    ratio = difference / (x + mean)
    near = ratio.abs() < 0.1
    small = torch.where(near, ratio, 0.0)
    square = small.square()
    # 2 artanh(v) = log((1 + v) / (1 - v)) = log(x / m), its series from v^3 on
    series = torch.zeros_like(square)
    for power in reversed(range(3, 11 if x.dtype == torch.float32 else 19, 2)):
        series = square * (series + 1 / power)
    # where x is 0 too: the gradient of 0 log 0 is no number
    away = torch.where(near | (x == 0), 1.0, x / mean)
    direct = torch.xlogy(x, away) - difference
    return torch.where(near, difference * small + 2 * x * small * series, direct)


def log_poisson(x: Tensor, rate: Tensor) -> Tensor:
    r""":math:`x \log \lambda - \lambda - \log \Gamma(x + 1)`, for any real x at least 0."""
    some = x > 0
    known = torch.where(some, x, 1.0)
    height = 0.5 * known.log() + _HALF_LOG_2PI + stirling_error(known)
    return -deviance(x, rate, x - rate) - torch.where(some, height, 0.0)


def log_binomial(x: Tensor, y: Tensor, share: Tensor, rest: Tensor, difference: Tensor) -> Tensor:
    r""":math:`\log \frac{\Gamma(n + 1)}{\Gamma(x + 1) \Gamma(y + 1)} s^x (1 - s)^y`, n = x + y.

    Args:
        x: Above 0.
        y: At least 0.
        share: s.
        rest: 1 − s, as exactly as it can be had.
        difference: :math:`x - n s`, as exactly as it can be had.
    """
    n = x + y
    some = y > 0
    known = torch.where(some, y, 1.0)
    height = 0.5 * (x * known / n).log() + _HALF_LOG_2PI + stirling_error(known)
    height = torch.where(some, height + stirling_error(x) - stirling_error(n), 0.0)
    return -deviance(x, n * share, difference) - deviance(y, n * rest, -difference) - height
