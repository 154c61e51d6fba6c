r"""Warm-up of chains: the step size by dual averaging, the scales by what was seen so far."""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST, _LAST = 0.15, 0.1  # of warm-up, in which only the step size is sought
_WINDOW = 25  # draws of the first window of scales; each next one is twice as long


class DualAveraging:
    r"""A step size for each row, whose acceptance tends to a target.

    .. math:: \log \epsilon_{t+1} = \mu - \frac{\sqrt t}{\gamma} \frac{1}{t + t_0}
              \sum_{i \le t} (a^* - a_i)

    with :math:`\gamma = 0.05`, :math:`t_0 = 10`, and at the end the weighted mean of
    :math:`\log \epsilon_t` with weights :math:`t^{-0.75}`.

    The No-U-Turn Sampler (Hoffman & Gelman, 2014), section 3.2, https://arxiv.org/abs/1111.4246

    Args:
        step_size: To begin with, shape ``(rows,)``.
        target: :math:`a^*`.
    """

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: Tensor) -> None:
        """Forget what was seen; larger steps are tried first."""
        self.step_size = step_size
        self.centre = (10.0 * step_size).log()
        self.error = torch.zeros_like(step_size)
        self.mean = torch.zeros_like(step_size)
        self.count = 0

    def update(self, acceptance: Tensor) -> None:
        """Another look: the mean acceptance of each row's chains, shape ``(rows,)``."""
        self.count += 1
        rate = 1.0 / (self.count + 10.0)
        self.error = (1.0 - rate) * self.error + rate * (self.target - acceptance)
        log_size = self.centre - self.count**0.5 / 0.05 * self.error
        weight = self.count**-0.75
        self.mean = weight * log_size + (1.0 - weight) * self.mean
        self.step_size = log_size.exp()

    @property
    def averaged(self) -> Tensor:
        """The step size to keep, shape ``(rows,)``."""
        return self.mean.exp() if self.count else self.step_size


class Spread:
    """Mean and variance of what chains passed through, one of each row and dimension (Welford).

    Args:
        free: The first places, shape ``(chains, rows, D)``, for the shape alone.
    """

    def __init__(self, free: Tensor) -> None:
        self.count, self.mean, self.squares = (
            0,
            torch.zeros_like(free[0]),
            torch.zeros_like(free[0]),
        )

    def add(self, free: Tensor) -> None:
        """One more place of every chain."""
        for each in free:
            self.count += 1
            change = each - self.mean
            self.mean = self.mean + change / self.count
            self.squares = self.squares + change * (each - self.mean)

    def scale(self, before: Tensor) -> Tensor:
        """Standard deviations ``(rows, D)``, drawn a little to those before (as in Stan)."""
        share = self.count / (self.count + 5.0)
        variance = self.squares / max(1, self.count - 1)
        scale = (share * variance + (1.0 - share) * 1e-3 * before.square()).sqrt()
        return torch.where(torch.isfinite(scale) & (scale > 0), scale, before)


def windows(warmup: int) -> tuple[int, list[int]]:
    """After which transition of warm-up scales are looked for, and after which they are renewed.

    >>> windows(300)
    (45, [70, 120, 270])
    """
    last = max(int(_LAST * warmup), min(_WINDOW, warmup // 3))
    start, stop = int(_FIRST * warmup), warmup - last
    ends, length, at = [], _WINDOW, start
    while at + length <= stop:
        # the last window takes what is left, rather than leave a short one
        at = stop if at + 3 * length > stop else at + length
        ends.append(at)
        length *= 2
    return start, ends
