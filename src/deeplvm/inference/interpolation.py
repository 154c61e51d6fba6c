"""Codes on the way from that of one row to that of another, and what is decoded from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from deeplvm.core.draws import Drawn
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace, base_of, expand_to
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre
from deeplvm.distributions.transformed import TransformedDraw
from deeplvm.distributions.von_mises_fisher import UNIT_SPHERE
from deeplvm.inference.latent_space import bijection_of
from deeplvm.inference.rows import at_least, evaluation_of, lengths_of, rows_of

_DRAWS = 64  # for the mean of a posterior that has none in closed form
_PARALLEL = 1e-6  # of an angle, below which an arc is a line


@dataclass(frozen=True)
class AtMiddle:
    """A draw that is none: the mean; the mode of classes and directions, whose mean is none.

    Attributes:
        draws: Of what has neither in closed form, such as a flow: the mean of so many draws.
    """

    draws: int = 1

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """The middle, which has no density of its own here."""
        own = expand_to(distribution, batch_shape, batch_dims)
        support = own.support
        apart = support is UNIT_SPHERE or (support is not None and support.is_discrete)
        try:
            value = own.mode if apart else centre(own)
        except NotImplementedError:
            value = own.sample(torch.Size((self.draws,)))
            value = value.mean(0) if value.is_floating_point() else value[0]
        return Drawn(value, value.new_zeros(batch_shape), batch_shape, 0.0)


@dataclass(frozen=True)
class _FromNoise:
    """What a flow makes of given noise."""

    noise: Tensor

    def __call__(
        self, name: str, distribution: Any, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        flow: Any = expand_to(distribution, batch_shape, batch_dims)
        value = flow.of_noise(self.noise)[0]
        return Drawn(value, value.new_zeros(batch_shape), batch_shape, 0.0)


@dataclass(frozen=True, eq=False)
class Between:
    """Codes from that of one row to that of another.

    Attributes:
        codes: By name of the latent, shape ``(points, *event)``; of a flow without latents the
            noise that it makes x of, by x.
        known: What p is given beside them, labels and lengths, in the same form.
        turned: Names among codes and known values that cannot be in between: they are those of
            the first row up to the middle, and then those of the second.
        steps: Of sequences with latents of each step, how many of them both have, where others are
            left out; else ``None``.
        noise: Names among the codes that are the noise of a flow.
    """

    codes: Mapping[str, Tensor]
    known: Mapping[str, Tensor]
    turned: tuple[str, ...]
    steps: int | None
    noise: frozenset[str] = frozenset()


def codes_between(
    model: LatentVariableModel,
    first: NamedRows,
    second: NamedRows,
    *,
    points: int = 8,
    spherical: bool = False,
    seed: int = 0,
) -> Between:
    r"""Codes on the line, or the arc, from that of one row to that of another.

    .. math:: z_s = (1 - s)\, z_0 + s\, z_1 \qquad \text{or} \qquad
              z_s = \frac{\sin((1 - s)\Omega)\, z_0 + \sin(s\Omega)\, z_1}{\sin\Omega}

    with s from 0 to 1, :math:`z_0, z_1` the means of q(z | x) and :math:`\Omega` the angle between
    them. In many dimensions the middle of a line is nearer to 0 than draws of a normal prior are,
    and that of the arc is not. Latents with a constraint (a rate above zero, shares that sum to
    one) move as free numbers; on a sphere they move along the arc. Of a flow without latents the
    noise moves that it makes x of.

    Sampling Generative Networks (White, 2016), https://arxiv.org/abs/1609.04468

    Args:
        model: With a continuous latent of each row, or of each step of a sequence.
        first, second: One row each.
        points: How many, both ends among them.
        spherical: The arc instead of the line.
        seed: Of the draws for means that are not known.

    Raises:
        ValueError: If there are fewer than two points, or no such latent, or p makes nothing of
            it.

    >>> from deeplvm import Joint
    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, torch.nn.Linear(1, 1))})
    >>> q = Joint({"z | x": Gaussian(1, torch.nn.Linear(1, 1))})
    >>> model = LatentVariableModel(p, q)
    >>> between = codes_between(model, {"x": torch.zeros(1, 1)}, {"x": torch.ones(1, 1)}, points=5)
    >>> between.codes["z"].diff(dim=0).std(0) < 1e-6
    tensor([True])
    >>> decoded(model, between)["x"].value.shape
    torch.Size([5, 1])
    """
    at_least(2, points=points)
    with evaluation_of(model, seed):
        ends = [_end(model, each) for each in (first, second)]
    names = [name for name in ends[0].latents if name in ends[1].latents]
    _refuse_without(model, ends[0], names)
    steps = [{s.shape[1] for n, s in e.latents.items() if n in e.of_steps} for e in ends]
    most = min([min(each) for each in steps], default=0) if all(steps) else None
    cut = most is not None and steps[0] != steps[1]
    share = torch.linspace(0, 1, points, dtype=torch.float64)
    codes, known, turned = dict[str, Tensor](), dict[str, Tensor](), list[str]()
    for name in names:
        a, b = [each.at(name, each.latents[name], most) for each in ends]
        space = ends[0].spaces[name]
        if space is None:
            turned += [] if torch.equal(a, b) else [name]
            codes[name] = _turned(a, b, share)
        elif space is UNIT_SPHERE:
            codes[name] = _arc(a, b, share)
        else:
            way = _arc if spherical else _line
            codes[name] = space(way(space.inv(a), space.inv(b), share))
    for name, value in ends[0].known.items():
        a, b = [each.at(name, each.known[name], most) for each in ends]
        if name in ends[0].lengths:
            a, b = (a, b) if most is None else (a.clamp(max=most), b.clamp(max=most))
            known[name] = _line(a.double(), b.double(), share).round().to(value.dtype)
        elif value.is_floating_point():
            known[name] = _line(a, b, share)
        else:
            turned += [] if torch.equal(a, b) else [name]
            known[name] = _turned(a, b, share)
    return Between(codes, known, tuple(turned), most if cut else None, ends[0].flows)


def decoded(model: LatentVariableModel, between: Between, *, seed: int = 0) -> Trace:
    """The trace of p at codes between two rows: what follows from them is at its mean or mode.

    Of what has neither, such as pixels that follow from each other, the value is a draw.
    """
    noise = {name: _FromNoise(between.codes[name]) for name in between.noise}
    codes = {name: each for name, each in between.codes.items() if name not in noise}
    rows = len(next(iter(between.codes.values())))
    with evaluation_of(model, seed):
        given = {n: model.site(n, value) for n, value in {**between.known, **codes}.items()}
        return model.p(given, (rows,), draw=noise, default=AtMiddle())


@dataclass(frozen=True, eq=False)
class _End:
    """One row: its latents, what p is given beside them, and which of these are of its steps."""

    latents: dict[str, Tensor]
    spaces: dict[str, Any]  # a bijection from free numbers, the sphere, or None where discrete
    known: dict[str, Tensor]
    followed: list[str]  # observed names that follow from the latents
    flows: frozenset[str]  # latents that are the noise of one
    of_steps: frozenset[str]
    lengths: frozenset[str]

    def at(self, name: str, value: Tensor, steps: int | None) -> Tensor:
        """A value up to so many steps."""
        return value[:, :steps] if steps is not None and name in self.of_steps else value


def _end(model: LatentVariableModel, source: NamedRows) -> _End:
    rows = rows_of(model, source)
    if rows.rows != 1:
        raise ValueError(f"A walk begins and ends at one row each, not at {rows.rows}.")
    given: dict[str, Any] = rows[slice(0, 1)]
    gone = [n for n in rows.missing if model.reads(n) and bool(given[n].isnan().all())]
    given = {name: value for name, value in given.items() if name not in gone}
    missing = rows.missing.intersection(given)
    evidence = model.evidence(given, default=AtMiddle(_DRAWS), missing=missing)
    drawn = {n: s for n, s in evidence.q.items() if s.drawn and n in model.p.names}
    flows = _noise_of(evidence.p, drawn)
    latents = {n: flows.get(n, site.value) for n, site in drawn.items()} | flows
    spaces = {n: None if n in flows else _space(n, site) for n, site in drawn.items()}
    spaces |= {name: bijection_of(name, constraints.real) for name in flows}
    lengths = lengths_of(model)
    known = {n: v for n, v in given.items() if n in model.p.inputs or n in model.causes}
    followed = [n for n in rows.names if n in model.p.names and n not in (*known, "y")]
    of_steps, counts = frozenset(lengths), frozenset(lengths.values())
    return _End(latents, spaces, known, followed, frozenset(flows), of_steps, counts)


def _noise_of(trace: Trace, latents: Collection[str]) -> dict[str, Tensor]:
    """The noise of a flow that makes x itself, or the number in whose cell x lies."""
    seen = [s for n, s in trace.items() if n not in latents and s.distribution is not None]
    in_cells = any([getattr(base_of(s.distribution), "in_cells", False) for s in seen])
    return {
        name: own.noise_of(site.value)[0]
        for name, site, own in [(n, s, s.distribution) for n, s in trace.items()]
        if isinstance(own, TransformedDraw) and (in_cells or name not in latents)
    }


def _space(name: str, site: Site) -> Any:
    if site.distribution is None:  # moved by steps of its own
        return bijection_of(name, constraints.real)
    support = base_of(site.distribution).support
    if support is UNIT_SPHERE:
        return support
    support = site.distribution.support
    return None if support is None or support.is_discrete else bijection_of(name, support)


def _refuse_without(model: LatentVariableModel, end: _End, names: list[str]) -> None:
    if not [name for name in names if end.spaces[name] is not None]:
        discrete = f"; {', '.join(names)} have no values in between" if names else ""
        raise ValueError(
            f"Between two rows their codes move, and {model.p} has no continuous "
            f"latents{discrete}."
        )
    if not end.followed:
        raise ValueError(
            f"Between two rows their codes move, and of these p makes no row, but what is given: "
            f"{model.p}; score tells what it says of rows."
        )


def _weights(share: Tensor, like: Tensor) -> Tensor:
    return share.to(like).reshape(-1, *[1] * (like.dim() - 1))


def _line(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(a, b, _weights(share, a))


def _arc(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Along the great circle, lengths in between; a line where there is no angle."""
    first, second = [each.flatten().double() for each in (a, b)]
    cosine = torch.dot(first, second) / (first.norm() * second.norm())
    angle = float(cosine.clamp(-1, 1).arccos())
    if not _PARALLEL < angle < torch.pi - _PARALLEL:
        return _line(a, b, share)
    s = _weights(share, a.double())
    return (((1 - s) * angle).sin() * a + (s * angle).sin() * b).div(
        torch.tensor(angle).sin()
    ).to(a)  # fmt: skip


def _turned(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    both = torch.stack([a[0], b[0]])
    return both[(share > 0.5).long().to(a.device)]
