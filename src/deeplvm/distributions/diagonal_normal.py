"""Normal distribution with independent elements, drawn and scored in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal, register_kl
from torch.distributions.utils import _sum_rightmost

from deeplvm.core.trace import same_shape

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class DiagonalNormal(Independent):
    r"""Normal :math:`N(\mu, \mathrm{diag}(\sigma^2))` over an event of any shape.

    .. math:: \log p(x) = -\sum_i \tfrac{1}{2} \epsilon_i^2 + \log \sigma_i
              + \tfrac{1}{2} \log 2 \pi, \qquad \epsilon = (x - \mu) / \sigma

    The same law as ``Independent(Normal(loc, scale), event_dims)``, and an instance of
    ``Independent``, but faster: it keeps its parameters unexpanded, and a draw is scored from its
    own noise, without dividing again.

    Args:
        loc: the mean, shape ``(*batch, *event)``.
        scale: the standard deviation (not the variance), broadcastable to ``loc``.
        event_dims: the number of dimensions of the event.
        batch_shape: the batch shape, where it is larger than the parameters'.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Examples:
        >>> posterior = DiagonalNormal(torch.ones(8, 1), torch.tensor(0.5), event_dims=1)
        >>> prior = DiagonalNormal(torch.zeros(1), torch.ones(1), event_dims=1)
        >>> print(f"{torch.distributions.kl_divergence(posterior, prior)[0]:.6f}")
        0.818147
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        event_dims: int,
        batch_shape: Size | None = None,
        *,
        standard: bool = False,
    ) -> None:
        event_at = loc.ndim - event_dims
        event_shape = loc.shape[event_at:]
        if scale.shape[max(scale.ndim - event_dims, 0) :] != event_shape:
            scale = scale.expand(torch.broadcast_shapes(scale.shape, event_shape))
        if batch_shape is None:
            batch_shape = loc.shape[:event_at]
            if scale.ndim > event_dims:
                leading = scale.shape[: scale.ndim - event_dims]
                if leading != batch_shape:
                    batch_shape = torch.broadcast_shapes(batch_shape, leading)
        self._loc = loc
        self._scale = scale
        self._standard = standard  # told by who builds it: no look at the content
        self.reinterpreted_batch_ndims = event_dims
        Distribution.__init__(self, batch_shape, event_shape, validate_args=False)

    @property
    def loc(self) -> Tensor:
        """The mean, shape ``(*batch, *event)``."""
        return self._loc.expand(self._extended_shape())

    @property
    def scale(self) -> Tensor:
        """The standard deviation, shape ``(*batch, *event)``."""
        return self._scale.expand(self._extended_shape())

    @property
    def base_dist(self) -> Normal:
        """The elements, under the name that ``Independent`` gives them."""
        return Normal(self.loc, self.scale, validate_args=False)

    mean = mode = property(lambda self: self.loc)

    @property
    def stddev(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return True

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> DiagonalNormal:
        shape = Size(batch_shape)
        dims = self.reinterpreted_batch_ndims
        return DiagonalNormal(self._loc, self._scale, dims, shape, standard=self._standard)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        noise = self._noise(sample_shape)
        return noise if self._standard else self._loc + self._scale * noise

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw ``(*sample, *batch, *event)`` and its log-density ``(*sample, *batch)``, nats."""
        noise = self._noise(sample_shape)
        log_prob = -0.5 * self._over_event(noise.square()) - self._log_volume()
        return (noise if self._standard else self._loc + self._scale * noise), log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        noise = value if self._standard else (value - self._loc) / self._scale
        log_prob = -0.5 * self._over_event(noise.square()) - self._log_volume()
        if not self.batch_shape or same_shape(log_prob.shape, self.batch_shape):
            return log_prob
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def entropy(self) -> Tensor:
        entropy = self._log_volume() + 0.5 * self.event_shape.numel()
        if isinstance(entropy, float):
            entropy = self._loc.new_full((), entropy)
        return entropy.expand(self.batch_shape)

    def _noise(self, sample_shape: Sequence[int]) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        return torch.randn(shape, dtype=self._loc.dtype, device=self._loc.device)

    def _over_event(self, terms: Tensor) -> Tensor:
        dims = self.reinterpreted_batch_ndims
        return terms.sum(-1) if dims == 1 else _sum_rightmost(terms, dims)

    def _log_volume(self) -> Tensor | float:
        # sum of log sigma_i + log(2 pi) / 2, over the parameters as they are, unexpanded
        constant = self.event_shape.numel() * _HALF_LOG_TWO_PI
        return constant if self._standard else self._over_event(self._scale.log()) + constant

    def __repr__(self) -> str:
        return f"DiagonalNormal({tuple(self.batch_shape)}, {tuple(self.event_shape)})"


def same_event(q: Distribution, p: Distribution) -> None:
    """Refuse a divergence of distributions of different event shapes."""
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"KL(q || p) expects one event shape, found {tuple(q.event_shape)} for q and "
            f"{tuple(p.event_shape)} for p."
        )


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_normals(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    # KL = 1/2 sum (sigma_q^2 + (mu_q - mu_p)^2) / sigma_p^2 - 1 - log(sigma_q^2 / sigma_p^2)
    same_event(q, p)
    if p._standard:
        squares = q._scale.square() + q._loc.square()
    else:
        squares = (q._scale / p._scale).square() + ((q._loc - p._loc) / p._scale).square()
    kl = 0.5 * (q._over_event(squares) - q.event_shape.numel())
    kl = kl + p._log_volume() - q._log_volume()
    return kl.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
