"""Poisson distribution that keeps its digits at large counts."""

from __future__ import annotations

from torch import Tensor, distributions

from deeplvm.distributions.gamma_functions import log_poisson


class Poisson(distributions.Poisson):
    r"""Counts of mean and variance :math:`\lambda`, :math:`p(x) = \lambda^x e^{-\lambda} / x!`.

    torch's law; its log-probability at a mean of 1e6 is wrong by up to 3 nats in single precision.

    Examples:
        >>> import torch
        >>> Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6))  # -log(2 pi 1e6) / 2
        tensor(-7.8267)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_poisson(value.to(self.rate.dtype), self.rate)
