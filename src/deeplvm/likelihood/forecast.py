r"""Forecasts: what follows the last step of a sequence, :math:`p(x_{T+1:T+H} | x_{1:T})`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Sampled
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site
from deeplvm.core.values import STACKED, NamedRows
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, rows_of
from deeplvm.likelihood.particle_filter import filter_of, parted, taken
from deeplvm.randomness import RowNoise
from deeplvm.unrolled import Unrolled, at_step

LEVELS = (0.05, 0.5, 0.95)
_NUMBERS = 2**14  # particles of all rows together that go through a step at once
_FUTURE = "future/"  # of an input: its values after the last step


@dataclass(frozen=True, eq=False)
class Forecast:
    r"""The steps after the last of each row, by draws of :math:`p(x_{T+1:T+H} | x_{1:T})`.

    Attributes:
        levels: Of the quantiles.
        quantiles: By name, shape ``(levels, rows, horizon, *event)``.
        mode: By name, the most frequent value among the draws, for codes and flags, shape
            ``(rows, horizon, *event)``.
        share: How many of the draws have it, the same shape.
        draws: By name, some of the draws, shape ``(draws, rows, horizon, *event)``.
        ess: Effective number of particles at the last step of each row, shape ``(rows,)``.
        particles: K.
    """

    levels: tuple[float, ...]
    quantiles: dict[str, Tensor]
    mode: dict[str, Tensor]
    share: dict[str, Tensor]
    draws: dict[str, Tensor]
    ess: Tensor
    particles: int

    def __repr__(self) -> str:
        rows, horizon = next(iter(self.mode.values())).shape[:2]
        return f"Forecast({horizon} steps of {rows:,} rows, {self.particles:,} particles)"


def forecast(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    horizon: int,
    *,
    future: Mapping[str, Tensor] | None = None,
    particles: int = 1_000,
    levels: Sequence[float] = LEVELS,
    draws: int = 0,
    seed: int = 0,
) -> Forecast:
    r"""The next steps of each sequence: particles at its last step, each drawn on by p.

    .. math:: p(x_{T+1:T+H} | x_{1:T}) \approx \sum_k W_T^k\, p(x_{T+1:T+H} | m_T^k)

    with m what p remembers of the steps before, and weighted particles of it from a
    :func:`~deeplvm.likelihood.particle_filter`, which draws from q where q goes through the steps,
    and from p elsewhere. Missing elements of the row are left out of the weights.

    Args:
        model, data, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        horizon: H, how many steps.
        future: Values of the inputs of each step after the last, shape ``(rows, horizon,
            *event)`` by name, where p reads any.
        particles: K, of which each draws one future.
        levels: Of the quantiles, each between 0 and 1.
        draws: How many of the futures are returned as well.

    Raises:
        ValueError: As :func:`~deeplvm.likelihood.particle_filter`; or if p has no length, an input
            of the future is not given, or a row is shorter than p remembers.

    Examples:
        >>> from deeplvm import LatentVariableModel, Recurrent
        >>> from deeplvm.conditionals import Gaussian
        >>> from deeplvm.networks import MLP
        >>> p = Recurrent({"x | x[-1]": Gaussian(1, MLP(1))}, start={"x": 1}, length="n")
        >>> rows = {"x": torch.zeros(4, 6, 1), "n": torch.tensor([6, 2, 3, 6])}
        >>> forecast(LatentVariableModel(p), rows, 5).quantiles["x"].shape
        torch.Size([3, 4, 5, 1])
    """
    at_least(1, horizon=horizon, particles=particles)
    at_least(0, draws=draws)
    if draws > particles:
        raise ValueError(f"Each particle draws one future: of {particles} no {draws} are drawn.")
    if wrong := [level for level in levels if not 0.0 < level < 1.0]:
        raise ValueError(f"levels are between 0 and 1, such as 0.05 and 0.95; found {wrong[0]}.")
    begin, _ = filter_of(model, "auto")
    rows = rows_of(model, data)
    recurrent = parted(model.p).recurrent
    if recurrent.length is None:
        raise ValueError(
            f"{recurrent} has no length, so that nothing says where a row ends and its future "
            f"begins: say length='n', and give n."
        )
    inputs = [n for n in recurrent.inputs if n not in (*recurrent.outside, recurrent.length)]
    if absent := [name for name in inputs if name not in (future or {})]:
        raise ValueError(
            f"p reads {', '.join(absent)} at every step: give its values after the last one, "
            f"future={{{absent[0]!r}: ...}}, of shape (rows, horizon, *event)."
        )
    ahead = {f"{_FUTURE}{name}": (future or {})[name] for name in inputs}
    for name, each in ahead.items():
        if each.shape[:2] != (rows.rows, horizon):
            raise ValueError(
                f"{name.removeprefix(_FUTURE)} of the future has shape {tuple(each.shape)}, but "
                f"there are {rows.rows} rows and {horizon} steps."
            )
    scored = [name for name in rows.names if name in recurrent.names]
    if holes := [name for name in scored if name in rows.missing and model.reads(name)]:
        raise ValueError(
            f"Elements of {', '.join(holes)} are missing, and p reads them at later steps; fill "
            f"them in first (impute)."
        )
    furthest = max([-parent.lag for parent in recurrent.remembered], default=0)
    if ahead:
        rows = replace(
            rows,
            source={**rows[slice(0, rows.rows)], **ahead},
            names=(*rows.names, *ahead),
            values={**rows.values, **dict.fromkeys(ahead, STACKED)},
        )

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        given = dict(given)
        later = {name: given.pop(f"{_FUTURE}{name}") for name in inputs}
        ends = given[recurrent.length].long()
        if int(ends.min()) < furthest:
            raise ValueError(
                f"p remembers {furthest} steps, and a row has {int(ends.min())}: leave rows of "
                f"fewer steps out."
            )
        walk = begin(given, missing, particles, noise)
        memory = _Memory(walk.target, furthest, ends)
        for t in range(walk.target.count):
            walk.take(t, 0.5)
            memory.keep(t)
        ess = walk.population.ess
        index = walk.population.resample(2.0, noise.apart("future"))  # every row
        for name, value in later.items():  # with what p remembers of it
            before = ends[:, None] - furthest + torch.arange(furthest, device=ends.device)
            past = given[name][torch.arange(len(ends), device=ends.device)[:, None], before]
            later[name] = torch.cat([past, value.to(past)], 1)
        outside = {
            n: taken(s, index) for n, s in walk.target.sites.items() if n in recurrent.outside
        }
        steps = {recurrent.length: torch.full_like(ends, furthest + horizon)}
        on = Unrolled(
            recurrent, {**outside, **later, **steps}, (particles, len(ends)),
            default=noise.apart("future").of(Sampled()),
        )  # fmt: skip
        on.past = memory.past(index)
        drawn = [on.take(t) for t in range(furthest, furthest + horizon)]
        found: Tensors = {"ess": ess}
        for name in scored:
            whole = torch.stack(
                [each[name].value.expand(particles, len(ends), *each[name].value.shape[2:])
                 for each in drawn], 2,
            )  # fmt: skip
            ranked = whole.sort(0).values
            places = [round(level * (particles - 1)) for level in levels]
            most = ranked.mode(0).values
            found[f"quantiles/{name}"] = ranked[places].movedim(0, 2)  # (rows, horizon, levels)
            found[f"mode/{name}"] = most
            found[f"share/{name}"] = (whole == most).double().mean(0)
            if draws:
                found[f"draws/{name}"] = whole[:draws].movedim(0, 2)
        return found

    size = max(1, _NUMBERS // particles)
    found = for_rows(model, rows, measure, batch_size=size, seed=seed, finite=())
    told: dict[str, Any] = {what: {} for what in ("quantiles", "mode", "share", "draws")}
    for key, value in found.items():
        what, _, name = key.partition("/")
        if name:
            many = what in ("quantiles", "draws")
            told[what][name] = value.movedim(2, 0).cpu() if many else value.cpu()
    return Forecast(tuple(levels), **told, ess=found["ess"].cpu(), particles=particles)


class _Memory:
    """What p remembers at the end of each row.

    Args:
        walk: On its way through p.
        furthest: How many steps back p reads.
        ends: How many steps each row has, shape ``(rows,)``.
    """

    def __init__(self, walk: Unrolled, furthest: int, ends: Tensor) -> None:
        self.walk, self.furthest, self.ends = walk, furthest, ends
        own = [p.name for p in walk.joint.remembered if p.name in walk.joint.names]
        self.names, self.kept = tuple(dict.fromkeys(own)), dict[tuple[int, str], Site]()

    def keep(self, t: int) -> None:
        """Keep the last steps of those rows of which step ``t`` is the last."""
        for back in range(self.furthest if self.names else 0):
            if t - back < 0:
                continue
            for name in self.names:
                known = self.walk.past.get(t - back, {}).get(name)
                site = at_step(self.walk.sites[name], t - back) if known is None else known
                if (before := self.kept.get((back, name))) is not None:
                    site = _where(self.ends == t + 1, site, before)
                self.kept[back, name] = site

    def past(self, index: Tensor) -> dict[int, Mapping[str, Site]]:
        """By step, the last of them being ``furthest - 1``; of chosen particles."""
        found: dict[int, dict[str, Site]] = {t: {} for t in range(self.furthest)}
        for (back, name), site in self.kept.items():
            found[self.furthest - 1 - back][name] = taken(site, index)
        return dict(found)


def _where(rows: Tensor, site: Site, other: Site) -> Site:
    """A site in some rows, and another one in the others."""
    shape = (*site.value.shape[: site.batch_dims], *site.value.shape[site.batch_dims :])
    dims = site.batch_dims
    here = rows.reshape(*[1] * (dims - 1), -1, *[1] * (len(shape) - dims))
    return Site(
        torch.where(here, site.value, other.value.expand(shape)), batch_dims=dims, view=site.view
    )
