r"""Diffusion: a fixed chain from data to noise, and the chain back that a network learns.

.. math:: z_t = \alpha_t x + \sigma_t \epsilon, \qquad \alpha_t^2 = \sigma(-\gamma_t), \quad
          \sigma_t^2 = \sigma(\gamma_t), \qquad t \in [0, 1]

Between its ends the bound is a sum over T steps, or an integral over t, of which a few terms are
drawn for each row and count for all (a subsampled plate): their expectation is the whole.

Variational Diffusion Models (Kingma, Salimans, Poole & Ho, 2021),
https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Size, Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, constraints
from torch.nn.functional import softplus

from deeplvm.conditionals.heads import (
    MeanAndStd,
    Shape,
    at_least,
    event_shape_of,
    in_units,
    optional_units,
    standardised,
)
from deeplvm.core.draws import Draw, Sampled
from deeplvm.core.trace import Site, Trace
from deeplvm.distributions import DiagonalNormal, DiscretizedLogistic

_NONE = Size()
#: Names of the latents, all of which :class:`Denoising` defines in p but the last.
PLACES, CHAIN, START, END = "t", "z", "z0", "z1"


class Schedule(nn.Module):
    r"""How noise grows: :math:`\gamma(t)`, minus the logarithm of the signal-to-noise ratio.

    From :math:`\gamma_0` to :math:`\gamma_1` it rises along pieces of a line whose heights are
    learned; all of them are, if asked.

    Args:
        first: where :math:`\gamma_0` starts; nearly no noise.
        last: where :math:`\gamma_1` starts; nearly no signal.
        pieces: of the line, each as long in t. One is a straight line.
        learned: whether there is anything to learn.
    """

    first: Tensor
    width: Tensor
    heights: Tensor

    def __init__(
        self, first: float = -9.0, last: float = 5.0, *, pieces: int = 16, learned: bool = True
    ) -> None:
        super().__init__()
        if not first < last:
            raise ValueError(f"A schedule rises, found first={first:g}, last={last:g}.")
        at_least(pieces, 1, "Schedule", "pieces")
        width = torch.tensor(float(last - first))
        numbers = {"first": torch.tensor(float(first)), "width": width.expm1().log()}
        for name, number in numbers.items():  # the width that of a softplus
            if learned:
                self.register_parameter(name, nn.Parameter(number))
            else:
                self.register_buffer(name, number, persistent=False)
        if learned and pieces > 1:
            self.register_parameter("heights", nn.Parameter(torch.zeros(pieces)))
        else:
            self.register_buffer("heights", torch.zeros(pieces), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        r""":math:`\gamma(t)`, same shape."""
        heights = self.heights.softmax(0)
        begins = torch.arange(len(heights), dtype=t.dtype, device=t.device)
        done = (t[..., None] * len(heights) - begins).clamp(0.0, 1.0)
        return self.first + softplus(self.width) * (done * heights).sum(-1)

    def slope(self, t: Tensor) -> Tensor:
        r""":math:`\gamma'(t)`, same shape."""
        heights = self.heights.softmax(0)
        pieces = len(heights)
        begins = torch.arange(pieces, dtype=t.dtype, device=t.device)
        here = (t[..., None] * pieces).floor().clamp(0, pieces - 1) == begins
        return softplus(self.width) * pieces * (here * heights).sum(-1)


class Times(nn.Module):
    r"""Times of the chain for each row, spread evenly: one in each of n parts of [0, 1].

    A time has the density 1 over all, so that its terms count 1/n of the whole. Of a chain of T
    steps it is the end of the step that it falls in, k/T. While rows are measured (``eval``) there
    are more of them, as many as steps or as ``measured``.

    Args:
        steps: T; without it time is continuous.
        times: n while training.
        measured: n of continuous time otherwise.
    """

    def __init__(self, steps: int | None, times: int = 1, measured: int = 8) -> None:
        super().__init__()
        for name, number in (("steps", steps or 1), ("times", times), ("measured", measured)):
            at_least(number, 1, "Times", name)
        self.steps, self.times, self.measured = steps, times, measured
        self.fixed = True
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def event_shape(self) -> Size:
        """N."""
        if self.training:
            return Size((min(self.times, self.steps or self.times),))
        return Size((self.steps or self.measured,))

    def forward(self) -> Evenly:
        return Evenly(self.event_shape[0], self.steps, self.like)


class Evenly(Distribution):
    """What :class:`Times` returns; its log-density is a constant, 0."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = True  # nothing in it is learned

    def __init__(
        self, count: int, steps: int | None, like: Tensor, batch_shape: Size = _NONE
    ) -> None:
        self.count, self.steps, self.like = count, steps, like
        super().__init__(batch_shape, Size((count,)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.unit_interval, 1)

    def expand(self, batch_shape: Any, _instance: object = None) -> Evenly:
        return Evenly(self.count, self.steps, self.like, Size(batch_shape))

    @property
    def mean(self) -> Tensor:
        """The middle of each part."""
        part = torch.arange(self.count, dtype=self.like.dtype, device=self.like.device)
        return ((part + 0.5) / self.count).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """As of continuous time."""
        return self.like.new_full(self._extended_shape(), 1 / (12 * self.count**2))

    def rsample(self, sample_shape: Any = _NONE) -> Tensor:
        shape = self._extended_shape(sample_shape)
        unit = torch.rand(shape, dtype=self.like.dtype, device=self.like.device)
        part = torch.arange(self.count, dtype=self.like.dtype, device=self.like.device)
        time = (part + unit) / self.count
        if self.steps is None:
            return time
        # each part holds as many steps, or more parts than steps share none: see Times
        return ((time * self.steps).floor().clamp(max=self.steps - 1) + 1) / self.steps

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(value.shape[:-1])


class Diffused(nn.Module):
    r"""The chain at some times, given the data: :math:`q(z_t | x) = N(\alpha_t x, \sigma_t^2)`.

    Args:
        shape: the event shape of x.
        schedule: shared by all of the chain.
        at: a time; without it times are a second parent, ``(*particles, batch, n)``, and the event
            is ``(n, *shape)``.
        units: mean and standard deviation of x; the chain is of standardised values.
    """

    accepts_missing = True  # x as it is, not as its likelihood shows it to networks
    fixed = True  # a latent of it carries what it was made to

    def __init__(
        self,
        shape: Shape,
        schedule: Schedule,
        at: float | None = None,
        *,
        units: MeanAndStd | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Diffused")
        self.schedule, self.at = schedule, at
        self.units = optional_units(units, self.event_shape, "Diffused")

    def forward(self, x: Tensor, *times: Tensor) -> DiagonalNormal:
        dims, like = len(self.event_shape), self.schedule.first
        x = standardised(self.units, x.to(like.dtype))
        if self.at is not None:
            gamma = self.schedule(torch.full((), self.at, dtype=like.dtype, device=like.device))
        else:
            (t,) = times
            gamma = self.schedule(t)[(..., *[None] * dims)]
            x, dims = x.unsqueeze(-1 - dims), dims + 1
        loc = (-gamma).sigmoid().sqrt() * x
        return DiagonalNormal(loc, gamma.sigmoid().sqrt(), dims)


class Denoising(nn.Module):
    r"""The chain back, :math:`\prod_s p(z_s | z_t)`: a joint of ``t``, ``z`` and ``z0`` in p.

    A network guesses the noise :math:`\hat\epsilon(z_t; \gamma_t)`, which gives :math:`p(z_s |
    z_t) = q(z_s | z_t, x = \hat x)`. Where q has drawn the chain at some times, the term of ``z``
    is minus the divergence of the step that ends there, in closed form, times the steps that this
    one stands for:

    .. math:: \log p - \log q = -\frac{T}{n} \sum_{t} \tfrac12 (e^{\gamma_t - \gamma_s} - 1)
              \|\epsilon - \hat\epsilon\|^2 \qquad \Bigl(T \to \infty: \;
              -\frac{1}{n} \sum_t \tfrac12 \gamma'_t \|\epsilon - \hat\epsilon\|^2\Bigr)

    The terms of ``t`` and ``z0``, the places where the bound looks at the chain, are 0. Nothing
    given, the chain is drawn from ``z1`` on, a step at a time.

    The ledger's sum is the bound in expectation, and no ratio of densities at the values drawn,
    whose exponential could be averaged: importance-weighted bounds of it have no meaning.

    Args:
        shape: the event shape of x.
        network: :math:`\hat\epsilon`, called with z and the time in which :math:`\gamma` is a
            straight line, of shape ``(*leading)``.
        schedule: the one that q has.
        steps: T, of the bound and of draws; none for the limit.
        draws: steps of a draw where the bound has the limit.
    """

    one_particle = True
    names = (PLACES, CHAIN, START)
    inputs: tuple[str, ...] = (END,)

    def __init__(
        self,
        shape: Shape,
        network: nn.Module,
        schedule: Schedule,
        steps: int | None,
        *,
        draws: int = 200,
    ) -> None:
        super().__init__()
        self.shape = event_shape_of(shape, "Denoising")
        self.network, self.schedule = network, schedule
        self.steps, self.draws = steps, at_least(draws, 1, "Denoising", "draws")
        self.symbol = "p"
        self.label: str | None = None
        self.move: nn.Linear | None = None

    def given(self, label: str, classes: int) -> Self:
        """The chain back given a label too, a one-hot parent of that name.

        A vector of each class moves the z that the network reads, as it would in the first layer.
        """
        made = copy.copy(self)
        made._modules = dict(self._modules)
        made.inputs, made.label = (END, label), label
        made.move = move = nn.Linear(classes, self.shape.numel(), bias=False)
        nn.init.normal_(move.weight, std=0.1)
        return made

    def _moved(self, given: Mapping[str, Any]) -> Tensor | float:
        """By how much the label moves z, ``(batch, *event)``."""
        if self.label is None or self.move is None:
            return 0.0
        return self.move(given[self.label].value).unflatten(-1, self.shape)

    def noise(self, z: Tensor, gamma: Tensor) -> Tensor:
        r""":math:`\hat\epsilon` at z of shape ``(*leading, *event)``, gamma ``(*leading)``."""
        ends = self.schedule(torch.tensor([0.0, 1.0], dtype=gamma.dtype, device=gamma.device))
        return self.network(z, (gamma - ends[0]) / (ends[1] - ends[0])).to(z.dtype)

    def divergences(
        self, z: Tensor, t: Tensor, noise: Tensor, moved: Tensor | float = 0.0
    ) -> Tensor:
        """What the whole chain would cost if every step did as the one that ends at t.

        Args:
            z: The chain there, ``(*leading, *event)``.
            t: ``(*leading)``.
            noise: What made z of x, as z.
            moved: By how much a label moves the z that the network sees.

        Returns:
            Nats, ``(*leading)``.
        """
        gamma = self.schedule(t)
        wrong = (noise - self.noise(z + moved, gamma)).square().flatten(t.dim()).sum(-1)
        if self.steps is None:
            return 0.5 * self.schedule.slope(t) * wrong
        before = self.schedule((t - 1 / self.steps).clamp(min=0.0))
        return 0.5 * self.steps * torch.expm1(gamma - before) * wrong

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        draw: Mapping[str, Draw] | None = None,
        default: Draw | None = None,
        **_: Any,
    ) -> Trace:
        """Score the chain that q drew, or draw one, each of its steps as ``z0`` is to be drawn.

        Raises:
            ValueError: If the chain is not as q drew it.
        """
        end = given[END]
        shape = batch_shape or tuple(end.value.shape[: end.batch_dims])
        if CHAIN not in given:
            way = (draw or {}).get(START, default) or Sampled()
            return self._drawn(given, end.value, shape, way)
        z, t, start = (given[name] for name in (CHAIN, PLACES, START))
        made = z.distribution
        if made is None or not isinstance(z.log_prob, Tensor):
            raise ValueError(
                f"The chain {CHAIN!r} is looked at where q draws it, and has no density in p at "
                f"values from elsewhere."
            )
        noise = (z.value - made.base_dist.loc) / made.base_dist.scale  # type: ignore[attr-defined]
        moved = self._moved(given)
        if isinstance(moved, Tensor):  # the same at all times of a row
            moved = moved.unsqueeze(-1 - len(self.shape))
        cost = self.divergences(z.value, t.value, noise, moved).mean(-1)
        sites = {PLACES: t, CHAIN: replace(z, log_prob=z.log_prob - cost), START: start}
        return Trace(
            {name: replace(site, distribution=None, drawn=False) for name, site in sites.items()},
            shape,
        )

    def _drawn(
        self, given: Mapping[str, Any], z: Tensor, shape: tuple[int, ...], way: Draw
    ) -> Trace:
        """A chain from its end to its start."""
        count = self.steps or self.draws
        dims = len(self.shape)
        z = z.expand(*shape, *self.shape)
        t = torch.linspace(1.0, 0.0, count + 1, dtype=z.dtype, device=z.device)
        gammas = self.schedule(t)
        at, moved = z, self._moved(given)
        for gamma, after in pairwise(gammas) if START not in given else ():
            at = z
            share = -torch.expm1(after - gamma)
            mean = z - share * gamma.sigmoid().sqrt() * self.noise(z + moved, gamma.expand(shape))
            mean = mean * ((-after).sigmoid() / (-gamma).sigmoid()).sqrt()
            step = DiagonalNormal(mean, (after.sigmoid() * share).sqrt(), dims)
            z = way(START, step, shape, len(shape)).value
        nothing, many = z.new_zeros(shape), len(shape)
        places = t[-2].expand(*shape, 1)
        start = given[START].value if START in given else z
        return Trace(
            {
                PLACES: Site(places, log_prob=nothing, drawn=True, batch_dims=many),
                CHAIN: Site(
                    at.unsqueeze(-1 - dims), log_prob=nothing, drawn=True, batch_dims=many
                ),
                START: Site(start, log_prob=nothing, drawn=True, batch_dims=many),
            },
            shape,
        )

    def __str__(self) -> str:
        return f"∏ {self.symbol}(z_s | z_t)"


class Undiffused(nn.Module):
    r"""The data given the start of the chain, where there is nearly no noise left.

    .. math:: p(x | z_0) = N(x;\, z_0 / \alpha_0,\, \sigma_0^2 / \alpha_0^2)

    of standardised values; of levels the logistic with these moments, rounded, and of 0 and 1 what
    Bayes' rule says where both are as likely.

    Args:
        shape: the event shape.
        schedule: the one of the chain.
        units: mean and standard deviation of x, as :class:`Diffused` has them.
        levels: how many whole numbers x can be; 2 for 0 and 1. Reals without it.
    """

    accepts_missing = True

    def __init__(
        self,
        shape: Shape,
        schedule: Schedule,
        *,
        units: MeanAndStd | None = None,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Undiffused")
        self.schedule, self.levels = schedule, levels
        self.units = optional_units(units, self.event_shape, "Undiffused")

    def forward(self, start: Tensor) -> Distribution:
        gamma = self.schedule(torch.zeros((), dtype=start.dtype, device=start.device))
        dims = len(self.event_shape)
        spread = (0.5 * gamma).exp()
        loc, scale = in_units(self.units, start / (-gamma).sigmoid().sqrt(), spread)
        if self.levels is None:
            return DiagonalNormal(loc, scale, dims)
        if self.levels == 2:
            logits = (loc - 0.5) / scale.square()
            return Independent(Bernoulli(logits=logits, validate_args=False), dims)
        half = 0.5 * (self.levels - 1)  # levels go to [-1, 1]
        narrow = (scale / half * (math.sqrt(3.0) / math.pi)).expand(loc.shape)
        elements = DiscretizedLogistic(loc / half - 1.0, narrow, self.levels)
        return Independent(elements, dims, validate_args=False)


class DiffusionStep(nn.Module):
    r"""One step of a fixed chain, :math:`q(z_t | z_{t-1}) = N(\sqrt{1 - \beta}\, z_{t-1}, \beta)`.

    By names, ``{"z1 | x": DiffusionStep(2, 0.1), "z2 | z1": ...}``, the chain is a hierarchy as
    any other: each term of its bound stands in the ledger.

    Deep Unsupervised Learning using Nonequilibrium Thermodynamics (Sohl-Dickstein et al., 2015),
    https://arxiv.org/abs/1503.03585

    Args:
        shape: the event shape.
        rate: :math:`\beta`, above 0 and below 1.
    """

    scale: Tensor

    def __init__(self, shape: Shape, rate: float) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "DiffusionStep")
        if not 0.0 < rate < 1.0:
            raise ValueError(f"DiffusionStep expects a rate between 0 and 1, found {rate:g}.")
        self.keep = math.sqrt(1.0 - rate)
        scale = torch.full(self.event_shape, math.sqrt(rate))
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, before: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.keep * before, self.scale, len(self.event_shape))
