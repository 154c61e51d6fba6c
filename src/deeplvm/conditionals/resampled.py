"""A prior that accepts some of the draws of a standard normal, by a learned probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.func import functional_call
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.heads import Head, Shape, at_least, event_shape_of
from deeplvm.conditionals.normaliser import Normaliser, log_mean_exp, own_generator
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.networks.mlp import MLP

_MEASURED = 2**14  # draws by which Z is known where rows are measured
_LEAST = -60.0  # of log Z, below which (1 - Z)^T is 1 to the last digit


class Resampled(nn.Module):
    r"""A standard normal :math:`\pi` whose draws are accepted with probability :math:`a(z)`.

    Of at most T draws the first that is accepted is taken, or else the last:

    .. math:: p(z) = \pi(z) \left[ \frac{a(z)}{Z} (1 - (1 - Z)^{T-1}) + (1 - Z)^{T-1} \right],
              \qquad Z = \int \pi(z)\, a(z)\, dz

    a is a network with a sigmoid. Z is estimated by draws of :math:`\pi`: in training by new ones
    at each call, whose gradient is the estimate's; otherwise by 16,384 that are always the same,
    and then :attr:`normaliser` says how far off its logarithm may be. That is an error of the
    density which all rows have in common. A density costs one pass of the network, a draw T.

    Args:
        shape: the event shape.
        hidden: widths of the network's hidden layers.
        truncation: T.
        samples: how many draws estimate Z in a step of training.

    Shape:
        No parents: batch shape ``()``, event ``shape``.

    Resampled Priors for Variational Autoencoders (Bauer & Mnih, 2019),
    https://arxiv.org/abs/1810.11428

    Examples:
        >>> prior = Resampled(2, hidden=(8,)).eval()
        >>> prior().sample((3,)).shape
        torch.Size([3, 2])
        >>> prior.normaliser.estimate.stderr < 0.01
        True
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: Sequence[int] = (100, 100),
        truncation: int = 100,
        samples: int = 1024,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Resampled")
        self.truncation = at_least(truncation, 1, "Resampled", "truncation")
        self.samples = at_least(samples, 2, "Resampled", "samples")
        network = MLP(self.event_shape.numel(), *hidden, activation=nn.Tanh)
        self.head = Head(network, Size(()), 1, "Resampled")
        self.normaliser = Normaliser()
        # not saved: they only carry the dtype and the device that the module was moved to
        self.register_buffer("loc", torch.zeros(self.event_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.event_shape), persistent=False)

    def forward(self) -> ResampledNormal:
        """The distribution, batch shape ``()``."""
        if self.training:
            log_z, _ = log_mean_exp(self.log_acceptance(self._proposals(self.samples)))
        else:
            named = dict(self.head.named_parameters())

            def slope(*parameters: Tensor) -> Tensor:
                values = dict(zip(named, parameters, strict=True))
                raw = functional_call(self.head, values, (self._flat(self._fixed()),))
                return log_mean_exp(logsigmoid(raw.squeeze(-1)))[0]

            log_z = self.normaliser([*named.values()], self._measured, slope)
        return ResampledNormal(self, log_z)

    def train(self, mode: bool = True) -> Resampled:  # noqa: FBT001, FBT002 - torch's own
        """Where rows are measured next, Z is measured now: a compiled graph could not."""
        super().train(mode)
        if not mode:
            self.normaliser.settle([*self.head.parameters()], self._measured)
        return self

    def log_acceptance(self, value: Tensor) -> Tensor:
        r""":math:`\log a` of values ``(*lead, *event)``, shape ``(*lead,)``."""
        return logsigmoid(self.head(self._flat(value)).squeeze(-1))

    def _measured(self) -> tuple[Tensor, Tensor]:
        return log_mean_exp(self.log_acceptance(self._fixed()))

    def _fixed(self) -> Tensor:
        generator = own_generator(self.loc)
        return self._proposals(_MEASURED, generator)

    def _proposals(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        # leading ones: nobody takes the draws for those of rows, which processes share out
        shape = (1, 1, 1, number, *self.event_shape)
        like = {"dtype": self.loc.dtype, "device": self.loc.device}
        return torch.randn(shape, generator=generator, **like)[0, 0, 0]  # type: ignore[arg-type]

    def _flat(self, value: Tensor) -> Tensor:
        return value.reshape(*value.shape[: value.dim() - len(self.event_shape)], -1)

    def extra_repr(self) -> str:
        return f"{tuple(self.event_shape)}, truncation={self.truncation}"


class ResampledNormal(Distribution):
    """The distribution of :class:`Resampled`, of batch shape ``()`` or that it was expanded to."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(self, owner: Resampled, log_z: Tensor, batch_shape: Size | None = None) -> None:
        self.owner, self.log_z = owner, log_z
        super().__init__(batch_shape or Size(()), owner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> ResampledNormal:
        return ResampledNormal(self.owner, self.log_z, Size(batch_shape))

    @property
    def _proposal(self) -> DiagonalNormal:
        owner = self.owner
        return DiagonalNormal(owner.loc, owner.scale, len(self.event_shape), standard=True)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        log_z = self.log_z.clamp(_LEAST, -1e-6)
        rejected = torch.log(-torch.expm1(log_z))  # log (1 - Z)
        tail = (self.owner.truncation - 1) * rejected
        accepted = self.owner.log_acceptance(value)
        if self.owner.truncation > 1:
            some = torch.log(-torch.expm1(tail)) - log_z  # log (1 - (1 - Z)^(T-1)) / Z
            accepted = torch.logaddexp(accepted + some, tail)
        else:
            accepted = torch.zeros_like(accepted)
        found = self._proposal.log_prob(value) + accepted
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        lead = Size((*sample_shape, *self.batch_shape))
        proposal = self._proposal.expand(lead)
        with torch.no_grad():
            value = proposal.sample()
            taken = torch.zeros(lead, dtype=torch.bool, device=value.device)
            for _ in range(self.owner.truncation - 1):
                odds = self.owner.log_acceptance(value)
                taken = taken | (torch.rand_like(odds).log() < odds)
                at = taken.reshape(*lead, *[1] * len(self.event_shape))
                value = torch.where(at, value, proposal.sample())
        return value
