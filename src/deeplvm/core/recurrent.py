"""Repetition inside a row: Recurrent unrolls one step with memory, Plate repeats one without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.core.draws import Draw
from deeplvm.core.joint import Joint, NotationError, as_site, batch_shape_of
from deeplvm.core.trace import Site, Trace

Start = int | tuple[int, ...] | Tensor


class Repeated(nn.Module):
    """What Plate and Recurrent share: a joint, repeated along one axis right of the batch.

    The values of its names have shape ``(*particles, batch, repeats, *event)``.

    Args:
        factors: The joint of one repetition.
        outside: Inputs without the repeated axis, the same in every repetition.
        length: Name of an input of shape ``(batch,)``: how many repetitions of each row count.
            What lies beyond is drawn as zeros and does not enter any log-density.
        repeats: How many repetitions to draw when nothing given has the axis.
    """

    def __init__(
        self,
        factors: Mapping[str, nn.Module],
        *,
        outside: Iterable[str] = (),
        length: str | None = None,
        repeats: int | None = None,
        start: Mapping[str, Start] | None = None,
    ) -> None:
        super().__init__()
        self.step = Joint(factors, steps=True)
        self.names = self.step.names
        self.outside = tuple(outside)
        self.length = length
        self.repeats = repeats
        self.inputs = (*self.step.inputs, *([length] if length else []))
        self.shared: frozenset[str] = frozenset()
        self.remembered = tuple(
            dict.fromkeys(
                [
                    parent.name
                    for factor in self.step.order
                    for parent in factor.parents
                    if parent.previous
                ]
            )
        )
        self.start: dict[str, Start] = dict(start or {})
        if unknown := set(self.outside) - set(self.inputs):
            raise NotationError(
                f"{sorted(unknown)} are said to come from outside, but nothing reads them."
            )
        if set(self.remembered) != set(self.start):
            raise NotationError(
                f"start={{...}} must give the first value of exactly the names read as name[-1]: "
                f"{', '.join(self.remembered) or 'none'}; it gives "
                f"{', '.join(self.start) or 'none'}."
            )
        for name, value in self.start.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"start_{name}", value)

    @property
    def symbol(self) -> str:
        """The letter of the joint, p or q."""
        return self.step.symbol

    @symbol.setter
    def symbol(self, letter: str) -> None:
        self.step.symbol = letter

    @property
    def order(self) -> list[Any]:
        """The factors of one repetition, parents first."""
        return self.step.order

    def __getitem__(self, name: str) -> nn.Module:
        return self.step[name]

    def __contains__(self, name: object) -> bool:
        return name in self.step

    def parents(self, name: str) -> tuple[Any, ...]:
        """The parents of a name within one repetition."""
        return self.step.parents(name)

    def __str__(self) -> str:
        index = "t" if self.remembered else "n"
        return f"∏_{index} {self.step}"

    def extra_repr(self) -> str:
        """The factorisation, above the modules."""
        return str(self)

    def _prepare(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None,
        missing: frozenset[str],
    ) -> tuple[dict[str, Site], tuple[int, ...], int, Tensor | None]:
        """Sites of what is given, batch shape, number of repetitions, and mask of the lengths."""
        sites = {name: as_site(name, value, self.step, missing) for name, value in given.items()}
        shape = batch_shape if batch_shape is not None else batch_shape_of(sites)
        lengths = sites.pop(self.length, None) if self.length else None
        counts = {
            name: site.value.shape[site.batch_dims]
            for name, site in sites.items()
            if name not in self.outside and (name in self.step or name in self.step.inputs)
        }
        if len(set(counts.values())) > 1:
            raise ValueError(f"The given sequences have different numbers of steps: {counts}.")
        count = next(iter(counts.values()), self.repeats)
        if count is None:
            raise ValueError(
                f"Nothing given says how many repetitions of {self} to draw; set repeats=N."
            )
        mask = None
        if self.length and lengths is None:
            raise ValueError(
                f"{self} needs the length of each row: give {{{self.length!r}: tensor}}."
            )
        if lengths is not None:
            mask = torch.arange(count, device=lengths.value.device) < lengths.value[..., None]
        return sites, shape, count, mask

    def _inside(self, site: Site, name: str) -> Site:
        """A site as the repeated joint sees it: its axis is one more dimension of the batch."""
        if name in self.outside:
            return replace(
                site,
                value=_unsqueeze(site.value, site.batch_dims),
                features=_unsqueeze(site.features, site.batch_dims),
                batch_dims=site.batch_dims + 1,
            )
        return replace(site, batch_dims=site.batch_dims + 1)

    def parallel(
        self,
        sites: Mapping[str, Site],
        shape: tuple[int, ...],
        count: int,
        mask: Tensor | None,
        *,
        previous: Mapping[str, Site] | None = None,
        ready: Mapping[str, Site] | None = None,
        **options: Any,
    ) -> Trace:
        """All repetitions in one evaluation, possible when nothing remembered is unknown."""
        inside = {name: self._inside(site, name) for name, site in sites.items()}
        known = {name: self._inside(site, name) for name, site in (ready or {}).items()}
        trace = self.step(inside, (*shape, count), previous=previous, ready=known, **options)
        if trace.batch_shape != (*shape, count):
            raise ValueError(f"Values inside {self} cannot be enumerated; draw them another way.")
        return Trace(
            {name: _outside(site, mask) for name, site in trace.items()}, shape, _measure(shape)
        )


class Plate(Repeated):
    r"""A joint repeated in each row, in parallel and without memory: :math:`\prod_n p(\cdot_n)`.

    Members of a set, pixels, words of a bag. Parents named in ``outside`` have no such axis and
    are the same for all members.

    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.networks import MLP
    >>> members = Plate({"x | c": Gaussian(3, MLP(2, 8))}, outside=["c"], repeats=4)
    >>> p = Joint({"c": StandardNormal(2), "x | c": members})
    >>> tuple(p({}, batch_shape=(5,))["x"].value.shape)
    (5, 4, 3)
    """

    def __init__(
        self,
        factors: Mapping[str, nn.Module],
        *,
        outside: Iterable[str] = (),
        length: str | None = None,
        repeats: int | None = None,
    ) -> None:
        super().__init__(factors, outside=outside, length=length, repeats=repeats)

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        missing: frozenset[str] = frozenset(),
        **options: Any,
    ) -> Trace:
        """Score what is given, draw the rest; see :meth:`deeplvm.core.joint.Joint.forward`."""
        sites, shape, count, mask = self._prepare(given, batch_shape, missing)
        return self.parallel(sites, shape, count, mask, missing=missing, **options)


class Recurrent(Repeated):
    r"""A joint of one time step, unrolled: :math:`\prod_t p(\cdot_t | \cdot_{t-1})`.

    ``name[-1]`` is the value of ``name`` one step before; ``start`` says what it is at the first
    step: a size (zeros), a tensor, or a parameter.

    A Recurrent Latent Variable Model for Sequential Data (Chung et al., 2015),
    https://arxiv.org/abs/1506.02216, is one example.

    Where all that is remembered is given or already computed (scoring p after drawing from q), all
    steps are evaluated at once; otherwise a step costs one evaluation of each conditional.

    >>> from deeplvm.conditionals import Gaussian
    >>> from deeplvm.networks import MLP
    >>> chain = Recurrent({"z | z[-1]": Gaussian(2, MLP(2, 8))}, start={"z": 2}, repeats=6)
    >>> tuple(chain({}, batch_shape=(5,))["z"].value.shape)
    (5, 6, 2)
    """

    def __init__(
        self,
        factors: Mapping[str, nn.Module],
        *,
        start: Mapping[str, Start],
        outside: Iterable[str] = (),
        length: str | None = None,
        repeats: int | None = None,
    ) -> None:
        super().__init__(factors, outside=outside, length=length, repeats=repeats, start=start)

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        draw: Mapping[str, Draw] | None = None,
        default: Draw | None = None,
        missing: frozenset[str] = frozenset(),
        ready: Mapping[str, Site] | None = None,
    ) -> Trace:
        """Score what is given, draw the rest; see :meth:`deeplvm.core.joint.Joint.forward`."""
        sites, shape, count, mask = self._prepare(given, batch_shape, missing)
        ready = ready or {}
        options = {"draw": draw, "default": default, "missing": missing}
        first = {name: self._first(name, shape) for name in self.remembered}
        known = {name: ready.get(name) or sites.get(name) for name in self.remembered}
        if all([site is not None for site in known.values()]):
            before = {name: _before(first[name], site) for name, site in known.items() if site}
            return self.parallel(
                sites, shape, count, mask, previous=before, ready=ready, **options
            )

        previous, traces = first, []
        for t in range(count):
            now = {
                name: site if name in self.outside else _at(site, t)
                for name, site in sites.items()
            }
            fixed = {name: _at(site, t) for name, site in ready.items()}
            trace = self.step(now, shape, previous=previous, ready=fixed, **options)
            if trace.batch_shape != shape:
                raise ValueError(
                    f"Values inside {self} cannot be enumerated; draw them another way."
                )
            traces.append(trace)
            previous = {name: trace[name] for name in self.remembered}
        stacked = {name: _stack([trace[name] for trace in traces]) for name in self.names}
        return Trace(
            {name: _outside(site, mask) for name, site in stacked.items()}, shape, _measure(shape)
        )

    def _first(self, name: str, shape: tuple[int, ...]) -> Site:
        start = self.start[name]
        if not isinstance(start, Tensor):
            like = next(iter(self.parameters()), torch.zeros(()))
            size = (start,) if isinstance(start, int) else tuple(start)
            start = torch.zeros(size, dtype=like.dtype, device=like.device)
        value = start.expand(*shape, *start.shape)
        return Site(value, batch_dims=len(shape), features=value)


def _measure(shape: tuple[int, ...]) -> float:
    return -float(torch.tensor(shape[:-1]).prod().log()) if shape[:-1] else 0.0


def _unsqueeze(value: Any, at: int) -> Any:
    return value.unsqueeze(at) if isinstance(value, Tensor) else value


def _at(site: Site, t: int) -> Site:
    return replace(
        site,
        value=site.value.select(site.batch_dims, t),
        features=site.features.select(site.batch_dims, t),
    )


def _before(first: Site, site: Site) -> Site:
    """Values one step before: the start, then all but the last."""
    axis = site.batch_dims

    def shift(start: Tensor, values: Tensor) -> Tensor:
        lead = values.shape[:axis]
        event = start.shape[first.batch_dims :]
        start = start[(0,) * first.batch_dims].expand(*lead, *event)
        return torch.cat(
            [start.unsqueeze(axis), values.narrow(axis, 0, values.shape[axis] - 1)], axis
        )

    return Site(
        shift(first.value, site.value),
        batch_dims=axis + 1,
        features=shift(first.features, site.features),
    )


def _stack(sites: list[Site]) -> Site:
    """Sites of single steps as one, with log-densities still one a step at the right."""
    dims = max([site.batch_dims for site in sites])

    def together(values: list[Any]) -> Any:
        lead = torch.broadcast_shapes(
            *[value.shape[: site.batch_dims] for value, site in zip(values, sites, strict=True)]
        )
        return torch.stack(
            [
                value.expand(*lead, *value.shape[site.batch_dims :])
                for value, site in zip(values, sites, strict=True)
            ],
            dims,
        )

    log_prob = None
    if sites[0].log_prob is not None:
        log_prob = torch.stack(torch.broadcast_tensors(*[site.log_prob for site in sites]), -1)
    return Site(
        together([site.value for site in sites]),
        None,
        log_prob,
        sites[0].drawn,
        dims + 1,
        together([site.features for site in sites]),
    )


def _outside(site: Site, mask: Tensor | None) -> Site:
    """A site as the rest of the model sees it: masked by length, summed over repetitions."""
    value, features, log_prob, distribution = (
        site.value,
        site.features,
        site.log_prob,
        site.distribution,
    )
    if mask is not None:
        if log_prob is not None:
            log_prob = torch.where(mask, log_prob, torch.zeros_like(log_prob))
        value = _masked(value, mask, site.batch_dims)
        features = _masked(features, mask, site.batch_dims)
        distribution = None  # its divergences know nothing of lengths
    if log_prob is not None:
        log_prob = log_prob.sum(-1)
    return Site(value, distribution, log_prob, site.drawn, site.batch_dims - 1, features)


def _masked(value: Any, mask: Tensor, batch_dims: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    spread = mask.reshape(*mask.shape, *[1] * (value.dim() - batch_dims))
    return torch.where(spread, value, torch.zeros_like(value))
