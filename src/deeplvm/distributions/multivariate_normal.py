"""What normals with correlated elements share: events of any shape, expansion, marginals."""

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

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

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
        from deeplvm.distributions.full_covariance_normal import FullCovarianceNormal

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
    """:math:`L^{-1} x` of vectors, shape ``(*batch, d)``."""
    return torch.linalg.solve_triangular(factor, offset.unsqueeze(-1), upper=False).squeeze(-1)
