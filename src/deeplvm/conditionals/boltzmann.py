"""The restricted Boltzmann machine: binary units that depend on each other through hidden ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

from deeplvm.conditionals.heads import Shape, at_least, event_shape_of
from deeplvm.conditionals.normaliser import Normaliser, log_mean_exp, own_generator

_LISTED = 12  # units of the smaller side, up to which Z is summed
_WALKS, _TEMPERATURES = 100, 500  # of annealing, where there are more
_SWEEPS = 200  # of a draw


class RestrictedBoltzmannMachine(nn.Module):
    r"""Binary units, :math:`p(z) = \frac1Z \sum_h e^{b^\top z + c^\top h + z^\top W h}`.

    The hidden h are summed out, :math:`\log p(z) = b^\top z + \sum_j \log(1 + e^{c_j + z^\top
    W_j}) - \log Z`. With at most 12 units on one side Z is summed over them and draws are exact.
    Otherwise:

    * where rows are measured, Z is found by annealing from independent units (500 densities, 100
      walks), and :attr:`normaliser` says its standard error. The mean of the estimate is Z, so
      that of its logarithm is below :math:`\log Z`, and densities are rather too large;
    * in training, the gradient of :math:`\log Z` is that of persistent chains, one sweep a call,
      and its value follows their importance weights from step to step;
    * a draw is 200 sweeps from one of these chains.

    Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002),
    https://doi.org/10.1162/089976602760128018, with: Training restricted Boltzmann machines using
    approximations to the likelihood gradient (Tieleman, 2008),
    https://doi.org/10.1145/1390156.1390290; On the quantitative analysis of deep belief networks
    (Salakhutdinov & Murray, 2008), https://doi.org/10.1145/1390156.1390266; On Tracking The
    Partition Function (Desjardins et al., 2011)

    Args:
        shape: how many units; a larger event is taken as a vector of its elements.
        hidden: how many hidden units.
        chains: how many persistent chains.

    Shape:
        No parents: batch shape ``()``, event ``shape``.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> units = RestrictedBoltzmannMachine(3, hidden=5)()
        >>> print(f"{units.log_prob(units.enumerate_support()).exp().sum():.5f}")
        1.00000
    """

    chains: Tensor
    before: Tensor

    def __init__(self, shape: Shape, *, hidden: int = 200, chains: int = 100) -> None:
        super().__init__()
        owner = "RestrictedBoltzmannMachine"
        self.event_shape = event_shape_of(shape, owner)
        units = self.event_shape.numel()
        at_least(hidden, 1, owner, "hidden")
        at_least(chains, 1, owner, "chains")
        self.weight = nn.Parameter(0.01 * torch.randn(units, hidden))
        self.bias = nn.Parameter(torch.zeros(units))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.summed = min(units, hidden) <= _LISTED
        self.normaliser = None if self.summed else Normaliser()
        if self.normaliser is not None:
            self.register_buffer("chains", torch.rand(chains, units).round())
            # what the chains weighed under the parameters that moved them last
            self.register_buffer("before", self.log_weight(self.chains).detach())
            # the chains are fair coins yet, by whose weights Z of the first parameters is known
            first = log_mean_exp(self.before)[0] + units * math.log(2)
            self.normaliser.value.copy_(first)

    def forward(self) -> BoltzmannDistribution:
        """The distribution, batch shape ``()``."""
        parameters = [self.weight, self.bias, self.hidden_bias]
        if self.normaliser is None:
            log_z = self._log_sum()
        elif self.training:
            log_z = self._followed(self.normaliser)
        else:
            moved = self.chains

            def slope(*parameters: Tensor) -> Tensor:
                return _log_weight(moved, *parameters).mean()

            log_z = self.normaliser(parameters, self._annealed, slope)
        return BoltzmannDistribution(self, log_z)

    def train(self, mode: bool = True) -> RestrictedBoltzmannMachine:  # noqa: FBT001, FBT002 - torch's own
        """Where rows are measured next, Z is measured now: a compiled graph could not."""
        super().train(mode)
        if not mode and self.normaliser is not None:
            self.normaliser.settle([*self.parameters()], self._annealed)
        return self

    def log_weight(self, value: Tensor) -> Tensor:
        r"""The log-density but for :math:`\log Z`, of vectors ``(*lead, units)``."""
        return _log_weight(value, self.weight, self.bias, self.hidden_bias)

    def _log_sum(self) -> Tensor:
        r""":math:`\log Z`, over the smaller side."""
        if len(self.bias) <= len(self.hidden_bias):
            return self.log_weight(every(len(self.bias)).to(self.bias)).logsumexp(0)
        sides = (self.weight.T, self.hidden_bias, self.bias)
        return _log_weight(every(len(self.hidden_bias)).to(self.bias), *sides).logsumexp(0)

    def _followed(self, normaliser: Normaliser) -> Tensor:
        r""":math:`\log Z` by the chains: its change since the last call, and its gradient."""
        with torch.no_grad():
            change, _ = log_mean_exp(self.log_weight(self.chains) - self.before)
            normaliser.value.add_(change)
            # leading ones: nobody takes the draws for those of rows, which processes share out
            moved = self._sweep(self.chains[None, None, None])[0, 0, 0]
            self.before.copy_(self.log_weight(moved))
            self.chains.copy_(moved)
            log_z = normaliser.value.clone()
        found = self.log_weight(moved).mean()
        return log_z + found - found.detach()

    def _sweep(self, value: Tensor) -> Tensor:
        """One step of Gibbs: all hidden units, then all units."""
        hidden = _flip(self.hidden_bias + value @ self.weight)
        return _flip(self.bias + hidden @ self.weight.T)

    @torch.no_grad()
    def _annealed(self) -> tuple[Tensor, Tensor]:
        r""":math:`\log Z` from that of independent units, by annealed walks.

        The densities on the way, at an inverse temperature t, are those of sweeps: :math:`t (b, c,
        W)`, and :math:`(1 - t)` times the log-odds that the chains have.
        """
        self.before.copy_(self.log_weight(self.chains))
        own = own_generator(self.bias)
        base = ((self.chains.sum(0) + 1) / (len(self.chains) + 2)).logit()
        value = _flip(base.expand(_WALKS, -1), own)
        log_weight = value.new_zeros(_WALKS)
        shares = torch.linspace(0, 1, _TEMPERATURES + 1).tolist()
        for last, share in pairwise(shares):
            field = self.hidden_bias + value @ self.weight
            log_weight += (softplus(share * field) - softplus(last * field)).sum(-1)
            log_weight += (share - last) * (value @ (self.bias - base))
            hidden = _flip(share * field, own)
            value = _flip(share * (self.bias + hidden @ self.weight.T) + (1 - share) * base, own)
        known = softplus(base).sum() + len(self.hidden_bias) * math.log(2)
        mean, error = log_mean_exp(log_weight)
        return mean + known, error

    @torch.no_grad()
    def drawn(self, lead: Size) -> Tensor:
        """Draws of shape ``(*lead, units)``: exact where Z is summed, else of many sweeps."""
        if not self.summed:
            uniform = torch.rand(lead, device=self.bias.device)
            value = self.chains[(uniform * len(self.chains)).long()]
            for _ in range(_SWEEPS):
                value = self._sweep(value)
            return value
        few = len(self.bias) <= len(self.hidden_bias)
        sides = (self.weight, self.bias, self.hidden_bias)
        sides = sides if few else (self.weight.T, self.hidden_bias, self.bias)
        states = every(len(sides[1])).to(self.bias)
        limits = _log_weight(states, *sides).softmax(0).cumsum(0)[:-1].contiguous()
        uniform = torch.rand(lead, dtype=limits.dtype, device=limits.device)
        chosen = states[torch.searchsorted(limits, uniform)]
        return chosen if few else _flip(self.bias + chosen @ self.weight.T)

    def extra_repr(self) -> str:
        return f"{tuple(self.event_shape)}, hidden={len(self.hidden_bias)}"


class BoltzmannDistribution(Distribution):
    """That of a :class:`RestrictedBoltzmannMachine`, expanded to any batch shape."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(
        self, owner: RestrictedBoltzmannMachine, log_z: Tensor, batch_shape: Size | None = None
    ) -> None:
        self.owner, self.log_z = owner, log_z
        super().__init__(batch_shape or Size(()), owner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.boolean, len(self.event_shape))

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self.event_shape.numel() <= 16

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 - torch's own
        """All values, ``(2 ** units, *batch, *event)``, of at most 16 units."""
        values = every(self.event_shape.numel()).to(self.log_z)
        values = values.reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> BoltzmannDistribution:
        return BoltzmannDistribution(self.owner, self.log_z, Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of a value, shape ``(*sample, *batch)``, nats."""
        flat = value.reshape(*value.shape[: value.dim() - len(self.event_shape)], -1)
        found = self.owner.log_weight(flat.to(self.log_z)) - self.log_z
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        lead = Size((*sample_shape, *self.batch_shape))
        return self.owner.drawn(lead).reshape(*lead, *self.event_shape)


def every(units: int) -> Tensor:
    """All values of so many binary units, shape ``(2 ** units, units)``."""
    return (torch.arange(2**units)[:, None] >> torch.arange(units)) & 1


def _log_weight(value: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    with torch.autocast(value.device.type, enabled=False):
        return value @ bias + softplus(other + value @ weight).sum(-1)


def _flip(odds: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent units of these log-odds."""
    uniform = torch.rand(odds.shape, generator=generator, dtype=odds.dtype, device=odds.device)
    return (uniform < odds.sigmoid()).to(odds.dtype)
