"""Linear layers with Gaussian weights, drawn where they act."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.functional import linear

from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.networks.broadcasting import join


class LocallyReparameterisedLinear(nn.Module):
    r"""A linear layer whose weights have a Gaussian posterior; each row draws its own result.

    With independent weights :math:`w_{ij} \sim N(m_{ij}, v_{ij})` and bias
    :math:`b_i \sim N(a_i, c_i)` the result for features x is

    .. math:: y_i \sim N\left(\sum_j m_{ij} x_j + a_i, \; \sum_j v_{ij} x_j^2 + c_i\right),

    so a draw of y for each row and particle stands for a draw of all weights for it. It costs two
    products instead of one weight matrix a row, and the gradient of a minibatch's mean has less
    variance than with one draw of the weights for all its rows, whose errors do not average out.

    Two rows do not see the same weights, so this is for objectives that are a mean over rows of
    one draw each, as the ELBO is. The divergence of the weights is that of the whole data set:
    give :func:`weights_divergence` to ``fit``, which counts it 1/N a row::

        fit(model, data, log_prior=lambda model: -weights_divergence(model))

    Variational Dropout and the Local Reparameterization Trick (Kingma, Salimans & Welling, 2015),
    https://arxiv.org/abs/1506.02557

    Args:
        in_features: the width of all parents together.
        out_features: the width of the result.
        prior_scale: the standard deviation of every weight and bias under its prior, of mean 0.
        initial_scale: the standard deviation of the posterior at first.

    Shape:
        Parents ``(*particles, batch, features_i)`` give ``(*particles, batch, out_features)``.

    Raises:
        ValueError: a scale is not positive, or the widths of the parents do not sum to
            ``in_features``.

    Examples:
        >>> network = nn.Sequential(LocallyReparameterisedLinear(3, 8), nn.ReLU())
        >>> network(torch.ones(5, 3)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        prior_scale: float = 1.0,
        initial_scale: float = 0.05,
    ) -> None:
        super().__init__()
        if not (prior_scale > 0 and initial_scale > 0):
            raise ValueError(
                f"LocallyReparameterisedLinear expects positive scales, found "
                f"prior_scale={prior_scale} and initial_scale={initial_scale}."
            )
        self.in_features, self.out_features = in_features, out_features
        self.prior_scale = prior_scale
        start = nn.Linear(in_features, out_features)
        self.mean = nn.Parameter(start.weight.detach().clone())
        self.bias_mean = nn.Parameter(start.bias.detach().clone())
        level = torch.tensor(initial_scale).log()
        self.log_scale = nn.Parameter(level.expand(out_features, in_features).clone())
        self.bias_log_scale = nn.Parameter(level.expand(out_features).clone())

    def forward(self, *parents: Tensor) -> Tensor:
        """A draw of the result of each row, shape ``(*particles, batch, out_features)``."""
        mean, variance = self.moments(*parents)
        return mean + variance.sqrt() * torch.randn_like(mean)

    def moments(self, *parents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the result, each ``(*particles, batch, out_features)``."""
        x = join(parents, self.in_features, self.mean, type(self).__name__)
        mean = linear(x, self.mean, self.bias_mean)
        scales = (2 * self.log_scale).exp(), (2 * self.bias_log_scale).exp()
        return mean, linear(x.square(), *scales)

    def weights(self) -> tuple[DiagonalNormal, DiagonalNormal]:
        """Posteriors of the weights, event ``(out, in)``, and of the bias, event ``(out,)``."""
        return (
            DiagonalNormal(self.mean, self.log_scale.exp(), 2),
            DiagonalNormal(self.bias_mean, self.bias_log_scale.exp(), 1),
        )

    def divergence(self) -> Tensor:
        """From the weights' posterior to their prior, in nats, a number for the data set."""
        posteriors = self.weights()
        priors = [
            DiagonalNormal(torch.zeros_like(q.loc), torch.full_like(q.loc, self.prior_scale), dims)
            for q, dims in zip(posteriors, (2, 1), strict=True)
        ]
        both = [kl_divergence(q, p) for q, p in zip(posteriors, priors, strict=True)]
        return both[0] + both[1]

    def extra_repr(self) -> str:
        """The widths and the prior."""
        return f"{self.in_features}, {self.out_features}, prior_scale={self.prior_scale}"


def weights_divergence(module: nn.Module) -> Tensor:
    r"""The sum of :math:`KL(q(w) \| p(w))` over all such layers of a module, in nats.

    Raises:
        ValueError: there is no such layer.

    >>> layer = LocallyReparameterisedLinear(3, 2, initial_scale=1.0)
    >>> total = 0.5 * (layer.mean.square().sum() + layer.bias_mean.square().sum())
    >>> bool(torch.isclose(weights_divergence(layer), total))
    True
    """
    layers = [m for m in module.modules() if isinstance(m, LocallyReparameterisedLinear)]
    if not layers:
        raise ValueError(
            f"{type(module).__name__} has no layer with Gaussian weights; make its networks of "
            f"LocallyReparameterisedLinear(...)."
        )
    total = layers[0].divergence()
    for layer in layers[1:]:
        total = total + layer.divergence()
    return total
