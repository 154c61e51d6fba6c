"""Normals of correlated elements: events of any shape, expansion, exact marginals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.distributions.utils import _standard_normal

LOG_TWO_PI = math.log(2 * math.pi)


class MultivariateNormal(Distribution, ABC):
    r"""Abstract normal :math:`N(\mu, \Sigma)` over an event of any shape, of d elements in all.

    A member says how it is drawn and what its quadratic form and determinant are; this class adds
    shapes, expansion without copies, and the exact marginal of some of the elements.

    Args:
        loc: the mean, shape ``(*batch, *event)``.
        event_dims: the number of dimensions of the event.
        leading: the batch shape of the other parameters.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's own name)
    has_rsample = True

    def __init__(self, loc: Tensor, event_dims: int, leading: Size) -> None:
        event_at = loc.ndim - event_dims
        batch_shape = torch.broadcast_shapes(loc.shape[:event_at], leading)
        super().__init__(batch_shape, loc.shape[event_at:], validate_args=False)
        self._loc = loc
        self._flat_loc = loc if event_dims == 1 else loc.reshape(*loc.shape[:event_at], -1)

    @abstractmethod
    def root(self) -> Tensor:
        r"""A matrix R with :math:`R R^T = \Sigma`, shape ``(*batch, d, columns)``."""

    @abstractmethod
    def energy(self, offset: Tensor) -> Tensor:
        r""":math:`(x - \mu)^T \Sigma^{-1} (x - \mu)` of offsets ``(*batch, d)``."""

    @abstractmethod
    def log_determinant(self) -> Tensor:
        r""":math:`\log \det \Sigma`, broadcastable to ``batch``."""

    @abstractmethod
    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        """Offsets from the mean ``(*shape, d)``, and their energy where it comes for free."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def loc(self) -> Tensor:
        """The mean, shape ``(*batch, *event)``."""
        return self._loc.expand(self._extended_shape())

    mean = mode = property(lambda self: self.loc)

    @property
    def covariance_matrix(self) -> Tensor:
        r""":math:`\Sigma` of the flattened event, shape ``(*batch, d, d)``."""
        root = self.root()
        elements = self.event_shape.numel()
        return product(root, root.mT).expand(*self.batch_shape, elements, elements)

    @property
    def variance(self) -> Tensor:
        variance = self.root().square().sum(-1)
        return variance.reshape(*variance.shape[:-1], *self.event_shape).expand(
            self._extended_shape()
        )

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> MultivariateNormal:
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__)
        new._batch_shape = Size(batch_shape)
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        offset, _ = self._draw(Size(sample_shape) + self.batch_shape)
        return self._as_event(self._flat_loc + offset)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw ``(*sample, *batch, *event)`` and its log-density ``(*sample, *batch)``, nats."""
        offset, energy = self._draw(Size(sample_shape) + self.batch_shape)
        energy = self.energy(offset) if energy is None else energy
        return self._as_event(self._flat_loc + offset), self._log_density(energy)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self._log_density(self.energy(self._flatten(value) - self._flat_loc))
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def entropy(self) -> Tensor:
        elements = self.event_shape.numel()
        entropy = 0.5 * (self.log_determinant() + elements * (1 + LOG_TWO_PI))
        return entropy.expand(self.batch_shape)

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        r"""Log-density of the observed elements, the others integrated out exactly.

        The rows and columns of the missing elements are replaced by those of the identity, which
        adds nothing to the determinant or, with their offsets zero, to the quadratic form.

        Args:
            value: shape ``(*batch, *event)``; what stands at missing elements is not read.
            observed: which elements are known, same shape.

        Returns:
            Shape ``(*batch,)``, in nats; 0 where nothing is observed. Costs a Cholesky
            factorisation of a d by d matrix a row.
        """
        offset, mask, factor = self._known(value, observed)
        noise = _solve_lower(factor, offset)
        half_log_determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        energy = noise.square().sum(-1) + mask.sum(-1) * LOG_TWO_PI
        return -0.5 * energy - half_log_determinant

    def conditioned(self, value: Tensor, observed: Tensor) -> MultivariateNormal:
        r"""The normal of the elements given those observed, the latter of no variance.

        .. math:: \mu_{m | o} = \mu_m + \Sigma_{mo} \Sigma_{oo}^{-1} (x_o - \mu_o), \quad
                  \Sigma_{m | o} = \Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}

        Args:
            value: shape ``(*batch, *event)``; what stands at missing elements is not read.
            observed: which elements are known, same shape.
        """
        offset, mask, factor = self._known(value, observed)
        lead = torch.broadcast_shapes(factor.shape[:-2], self.batch_shape)
        covariance = self.covariance_matrix
        missing = 1 - mask
        across = covariance * mask.unsqueeze(-1) * missing.unsqueeze(-2)  # (*batch, o, m)
        gain = torch.cholesky_solve(across, factor.expand_as(across))
        loc = self._flat_loc + (gain.mT @ offset.unsqueeze(-1)).squeeze(-1)
        loc = torch.where(mask.bool(), self._flat_loc + offset, loc)
        left = covariance * missing.unsqueeze(-1) * missing.unsqueeze(-2) - across.mT @ gain
        # the least variance that the type can tell keeps the factorisation alive
        least = torch.finfo(left.dtype).eps * covariance.diagonal(dim1=-2, dim2=-1)
        root = torch.linalg.cholesky(left + torch.diag_embed(mask + 8 * least))
        root = root * missing.unsqueeze(-1)
        size = loc.shape[-1]
        event = self._as_event(loc.expand(*lead, size))
        return FullCovarianceNormal(event, root.expand(*lead, size, size), len(self.event_shape))

    def marginals(self) -> Normal:
        """The normal of each element by itself, of batch shape ``(*batch, *event)``."""
        return Normal(self.loc, self.variance.sqrt(), validate_args=False)

    def _known(self, value: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets and ones of what is observed, and the Cholesky factor of its covariance."""
        known = self._flatten(observed)
        offset = torch.where(known, self._flatten(value) - self._flat_loc, 0.0)
        mask = known.to(offset.dtype)
        covariance = self.covariance_matrix * mask.unsqueeze(-1) * mask.unsqueeze(-2)
        return offset, mask, torch.linalg.cholesky(covariance + torch.diag_embed(1 - mask))

    def _log_density(self, energy: Tensor) -> Tensor:
        constant = self.event_shape.numel() * LOG_TWO_PI
        return -0.5 * (energy + self.log_determinant() + constant)

    def _flatten(self, value: Tensor) -> Tensor:
        dims = len(self.event_shape)
        return value if dims == 1 else value.reshape(*value.shape[: value.ndim - dims], -1)

    def _as_event(self, flat: Tensor) -> Tensor:
        if len(self.event_shape) == 1:
            return flat
        return flat.reshape(*flat.shape[:-1], *self.event_shape)

    def _noise(self, shape: Size, elements: int) -> Tensor:
        return _standard_normal(
            Size((*shape, elements)), dtype=self._loc.dtype, device=self._loc.device
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self.batch_shape)}, {tuple(self.event_shape)})"


def product(first: Tensor, second: Tensor) -> Tensor:
    """The matrix product in the dtype of its factors, under autocast too."""
    device = first.device.type
    if not torch.is_autocast_enabled(device):
        return first @ second
    with torch.autocast(device, enabled=False):
        return first @ second


def _solve_lower(factor: Tensor, offset: Tensor) -> Tensor:
    """:math:`L^{-1} x` of vectors, shape ``(*batch, d)``; one factor of many rows stays one."""
    more = offset.dim() + 1 - factor.dim()
    if more <= 0:
        return torch.linalg.solve_triangular(factor, offset.unsqueeze(-1), upper=False).squeeze(-1)
    columns = offset.reshape(-1, *offset.shape[more:]).movedim(0, -1)  # (*own, d, rows)
    solved = torch.linalg.solve_triangular(factor, columns, upper=False).movedim(-1, 0)
    return solved.reshape(*offset.shape[:more], *solved.shape[1:])


class FullCovarianceNormal(MultivariateNormal):
    r"""Normal :math:`x = \mu + L \epsilon`, :math:`\Sigma = L L^T`.

    .. math:: \log p(x) = -\sum_i \tfrac{1}{2} \epsilon_i^2 + \tfrac{1}{2} \log 2 \pi
              + \log L_{ii}

    A draw is scored from its own noise, without solving for it.

    Args:
        loc: the mean, shape ``(*batch, *event)``, of d elements in all.
        factor: L, lower triangular with a positive diagonal, shape ``(*batch, d, d)``.
        event_dims: the number of dimensions of the event.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1,
    https://arxiv.org/abs/1906.02691

    Examples:
        >>> normal = FullCovarianceNormal(
        ...     torch.tensor([0.5, -0.3]), torch.tensor([[0.8, 0.0], [0.4, 0.6]])
        ... )
        >>> print(f"{normal.log_prob(torch.tensor([0.66, -0.82])):.6f}")
        -1.623908
    """

    def __init__(self, loc: Tensor, factor: Tensor, event_dims: int = 1) -> None:
        super().__init__(loc, event_dims, factor.shape[:-2])
        self._factor = factor

    def root(self) -> Tensor:
        return self._factor

    def energy(self, offset: Tensor) -> Tensor:
        return _solve_lower(self._factor, offset).square().sum(-1)

    def log_determinant(self) -> Tensor:
        return 2 * self._factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        noise = self._noise(shape, self.event_shape.numel())
        offset = product(self._factor, noise.unsqueeze(-1)).squeeze(-1)
        return offset, noise.square().sum(-1)


def dense(normal: MultivariateNormal) -> FullCovarianceNormal:
    """The same distribution by the Cholesky factor of its covariance; costs d cubed a row."""
    factor = torch.linalg.cholesky(normal.covariance_matrix)
    return FullCovarianceNormal(normal.loc, factor, len(normal.event_shape))


class LowRankNormal(MultivariateNormal):
    r"""Normal with covariance :math:`\Sigma = W W^T + \mathrm{diag}(\sigma^2)`: factor analysis.

    Scored with the determinant lemma and the Woodbury identity: cost and memory are linear in d.
    With :math:`V = \mathrm{diag}(\sigma)^{-1} W` and :math:`C = I + V^T V` (rank by rank),

    .. math:: \log \det \Sigma = \log \det C + 2 \textstyle\sum_i \log \sigma_i .

    Args:
        loc: the mean, shape ``(*batch, *event)``, of d elements in all.
        factor: W, shape ``(*batch, d, rank)``.
        scale: :math:`\sigma`, shape ``(*batch, d)``.
        event_dims: the number of dimensions of the event.
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, event_dims: int = 1) -> None:
        leading = torch.broadcast_shapes(factor.shape[:-2], scale.shape[:-1])
        super().__init__(loc, event_dims, leading)
        self._factor = factor
        self._scale = scale
        self._whitened = factor / scale.unsqueeze(-1)  # V
        self._inner = _root_of_inner(self._whitened)

    def root(self) -> Tensor:
        scale = torch.diag_embed(self._scale)
        leading = torch.broadcast_shapes(self._factor.shape[:-2], scale.shape[:-2])
        parts = [part.expand(*leading, *part.shape[-2:]) for part in (self._factor, scale)]
        return torch.cat(parts, -1)

    @property
    def variance(self) -> Tensor:
        variance = self._factor.square().sum(-1) + self._scale.square()
        return self._as_event(variance).expand(self._extended_shape())

    def energy(self, offset: Tensor) -> Tensor:
        # min over z of |y - V z|^2 + |z|^2, y the whitened offset: a sum of squares, so it
        # cannot turn negative as y^T y - y^T V C^-1 V^T y does when W is much larger than sigma
        whitened = offset / self._scale
        projected = product(self._whitened.mT, whitened.unsqueeze(-1)).squeeze(-1)
        weights = torch.cholesky_solve(projected.unsqueeze(-1), self._inner_for(projected))
        residual = whitened - product(self._whitened, weights).squeeze(-1)
        return residual.square().sum(-1) + weights.squeeze(-1).square().sum(-1)

    def log_determinant(self) -> Tensor:
        inner = self._inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * (inner + self._scale.log().sum(-1))

    def _inner_for(self, projected: Tensor) -> Tensor:
        rank = projected.shape[-1]
        return self._inner.expand(*projected.shape[:-1], rank, rank)

    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        shared = self._noise(shape, self._factor.shape[-1])
        own = self._noise(shape, self.event_shape.numel())
        return product(self._factor, shared.unsqueeze(-1)).squeeze(-1) + self._scale * own, None


class LowRankPrecisionNormal(MultivariateNormal):
    r"""Normal with precision :math:`\Sigma^{-1} = \mathrm{diag}(\sigma^{-2}) + U U^T`.

    With :math:`V = \mathrm{diag}(\sigma) U`, :math:`C = I + V^T V = L L^T`, a draw is

    .. math:: x = \mu + \sigma \odot (\epsilon - V L^{-T} (L + I)^{-1} V^T \epsilon),

    for any rank: with :math:`K = L^{-T} (L + I)^{-1}`, :math:`K + K^T - K V^T V K^T = C^{-1}`.

    Args:
        loc: the mean, shape ``(*batch, *event)``, of d elements in all.
        factor: U, shape ``(*batch, d, rank)``.
        scale: :math:`\sigma`, shape ``(*batch, d)``.
        event_dims: the number of dimensions of the event.

    Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et
    al., 2014), https://arxiv.org/abs/1401.4082
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, event_dims: int = 1) -> None:
        leading = torch.broadcast_shapes(factor.shape[:-2], scale.shape[:-1])
        super().__init__(loc, event_dims, leading)
        self._scale = scale
        self._whitened = factor * scale.unsqueeze(-1)  # V
        self._inner = _root_of_inner(self._whitened)

    def root(self) -> Tensor:
        elements = self.event_shape.numel()
        identity = torch.eye(elements, dtype=self._scale.dtype, device=self._scale.device)
        return self._scale.unsqueeze(-1) * (identity - self._shrinkage(self._whitened.mT))

    def energy(self, offset: Tensor) -> Tensor:
        whitened = offset / self._scale
        projected = product(self._whitened.mT, whitened.unsqueeze(-1)).squeeze(-1)
        return whitened.square().sum(-1) + projected.square().sum(-1)

    def log_determinant(self) -> Tensor:
        inner = self._inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * (self._scale.log().sum(-1) - inner)

    def _shrinkage(self, projected: Tensor) -> Tensor:
        # V L^-T (L + I)^-1 applied to projections V^T e, shape (*batch, rank, columns)
        rank = self._inner.shape[-1]
        identity = torch.eye(rank, dtype=self._scale.dtype, device=self._scale.device)
        lower = torch.linalg.solve_triangular(self._inner + identity, projected, upper=False)
        upper = torch.linalg.solve_triangular(self._inner.mT, lower, upper=True)
        return product(self._whitened, upper)

    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        noise = self._noise(shape, self.event_shape.numel()).unsqueeze(-1)
        shrunk = self._shrinkage(product(self._whitened.mT, noise))
        return self._scale * (noise - shrunk).squeeze(-1), None


def _root_of_inner(whitened: Tensor) -> Tensor:
    """Cholesky factor of :math:`I + V^T V`, shape ``(*batch, rank, rank)``.

    By a QR factorisation of I stacked on V: it costs the same, cannot fail, and has the digits
    that forming V^T V would lose where V is large.
    """
    rank = whitened.shape[-1]
    identity = torch.eye(rank, dtype=whitened.dtype, device=whitened.device)
    stacked = torch.cat([identity.expand(*whitened.shape[:-2], rank, rank), whitened], -2)
    upper = torch.linalg.qr(stacked).R
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT
