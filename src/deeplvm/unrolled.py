"""A repeated joint laid out step by step, or all steps at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from deeplvm.core.draws import Draw, Held, PartlyGiven
from deeplvm.core.joint import (
    Joint,
    Parent,
    accepts_missing,
    as_site,
    batch_shape_of,
    monte_carlo,
    view_of,
)
from deeplvm.core.steps import Masked, Steps
from deeplvm.core.trace import Site, Trace
from deeplvm.randomness import RowDraw

if TYPE_CHECKING:
    from deeplvm.recurrent import Repeated

_LONGEST = 10_000  # steps of a row that nothing but its own end limits
_PATHS = 4_096  # each is a particle of every row


@dataclass(frozen=True, eq=False)
class FirstState:
    """What a cell finds in the place of its state, where it is to compute all steps at once.

    Attributes:
        value: The state before the first step, shape ``(*particles, batch, state)``.
        mask: Which steps count, ``(*particles, batch, steps)``; none where all do.
        backwards: Whether the last step of each row is computed first.
    """

    value: Tensor
    mask: Tensor | None
    backwards: bool

    def unfold(self, scan: Callable[[Tensor, Tensor], Tensor], given: Tensor) -> Tensor:
        """All states, ``(*particles, batch, steps, state)``.

        Args:
            scan: From inputs ``(rows, steps, features)`` and states before them ``(rows,
                state)`` to all states, forwards.
            given: Inputs of shape ``(*particles, batch, steps, features)``.
        """
        lead, (count, features) = given.shape[:-2], given.shape[-2:]
        lead = torch.broadcast_shapes(lead, self.value.shape[:-1])
        given = given.expand(*lead, count, features)
        if self.backwards:
            given = self._turned(given)
        first = self.value.expand(*lead, self.value.shape[-1])
        states = scan(given.reshape(-1, count, features), first.reshape(-1, first.shape[-1]))
        states = states.reshape(*lead, count, states.shape[-1])
        return self._turned(states) if self.backwards else states

    def _turned(self, values: Tensor) -> Tensor:
        """The steps of each row that count in the opposite order; those beyond stay."""
        if self.mask is None:
            return values.flip(-2)
        places = torch.arange(self.mask.shape[-1], device=values.device)
        places = torch.where(self.mask, self.mask.sum(-1, keepdim=True) - 1 - places, places)
        return values.gather(-2, places.unsqueeze(-1).expand(values.shape))


class Unrolled:
    """One call of a repeated joint: what it was given, and what it remembers on its way.

    Args:
        joint: The joint that is repeated.
        given, batch_shape, missing, ready, default: As for
            :meth:`deeplvm.core.joint.Joint.forward`.
    """

    def __init__(
        self,
        joint: Repeated,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        missing: frozenset[str] = frozenset(),
        ready: Mapping[str, Site] | None = None,
        default: Draw | None = None,
    ) -> None:
        self.joint, self.missing, self.default = joint, missing, default
        sites = {
            name: as_site(name, value, joint.step, missing)
            for name, value in given.items()
            if name in joint.names or name in joint.inputs
        }
        self.shape = batch_shape if batch_shape is not None else batch_shape_of(sites)
        self.length = sites.pop(joint.length, None) if joint.length else None
        self.sites = sites
        self.ready = {n: site for n, site in (ready or {}).items() if n in joint.step}
        self.count = self._count()
        self.implied = False  # whether the length says what the name that ends a row is
        if joint.end and joint.end not in sites and self.length is not None:
            sites |= self._end()
        lengths = {} if self.length is None else {str(joint.length): self.length}
        self.mask = joint.mask(sites | lengths, self.count)
        if self.mask is not None:
            for name, site in sites.items():
                if name not in joint.outside and isinstance(site.value, Tensor):
                    sites[name] = self._padded(site, name)
            self.missing = missing - {n for n, site in sites.items() if not site.holes}
        #: The batch shape and log-measure so far, with the values that steps enumerated.
        self.here, self.log_measure = self.shape, monte_carlo(self.shape)
        self.past: dict[int, Mapping[str, Site]] = {}
        #: Of what is known of all steps: as it is read, one step before, say.
        self.shifted = self.shift_all()
        #: The networks over all steps, as they are where a step follows another, by name.
        self.remembering: dict[str, _Remembering] = {}

    def _padded(self, site: Site, name: str) -> Site:
        """With a value that may occur beyond the lengths, whatever stands there.

        It counts for nothing, but the gradient of a density outside its support is no number.
        """
        mask, dims = self.mask, site.batch_dims
        if mask is None:
            return site
        # what its own conditional takes for nothing, or what stands there in a longer row
        nothing = (
            getattr(self.joint.step[name], "padding", None) if name in self.joint.step else None
        )
        longest = mask.sum(-1).reshape(-1, mask.shape[-2])[0].argmax().unsqueeze(0)

        def pad(value: Tensor) -> Tensor:
            if nothing is not None:
                return where_true(mask, value, torch.full_like(value, nothing), dims + 1)
            one = value.select(dims, 0).index_select(dims - 1, longest).unsqueeze(dims)
            return where_true(mask, value, one, dims + 1)

        site = site.changed(pad)
        return replace(site, holes=site.holes and bool(torch.isnan(site.value).any()))

    def shift_all(self) -> dict[Parent, Site]:
        """What is read of other steps, as far as it is known."""
        return {
            parent: self._shift(parent, site)
            for parent in self.joint.remembered
            if (site := self.ready.get(parent.name) or self.sites.get(parent.name))
        }

    def ends(self) -> Tensor | None:
        """Which step of each row is its last on the way; none where it is that of all."""
        if self.mask is None or self.joint.backwards:
            return None
        return self.mask & ~torch.nn.functional.pad(self.mask, (0, 1))[..., 1:]

    def begins(self) -> Tensor:
        """Which step of each row is its first on the way, broadcastable to ``(batch, steps)``."""
        if self.mask is None or not self.joint.backwards:
            steps = torch.arange(self.count, device=next(iter(self.sites.values())).value.device)
            return steps == self.order[0]
        return self.mask & ~torch.nn.functional.pad(self.mask, (0, 1))[..., 1:]

    def recursion(
        self, log_prob: Tensor, count: int, *, memory: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Of ``(values, values before, *particles, batch, steps)`` the sum over all paths.

        And that over all paths up to each value of each step, ``(values, *particles, batch)``.
        """
        ones = [1] * len(self.shape)
        whole = torch.broadcast_shapes(log_prob.shape, (count, count, *ones, self.count))
        log_prob = log_prob.expand(whole)
        begins = self.begins()
        so_far = torch.full_like(log_prob[:, 0, ..., 0], -math.log(count))
        total = torch.zeros_like(so_far[0])
        messages = {}
        for t in self.order:
            counted = torch.ones_like(begins[..., t]) if self.mask is None else self.mask[..., t]
            fresh = messages[t] = log_prob[:, 0, ..., t]
            if not memory:
                total = total + torch.where(counted, fresh.logsumexp(0), 0.0)
                continue
            moved = (log_prob[..., t] + so_far).logsumexp(1)
            so_far = torch.where(counted, torch.where(begins[..., t], fresh, moved), so_far)
            messages[t] = so_far
        whole = so_far.logsumexp(0) if memory else total
        return whole, [messages[t] for t in range(self.count)]

    @property
    def known(self) -> bool:
        """Whether nothing that is remembered is yet to come, so that steps need no order."""
        states = self.joint.states
        read = self.joint.remembered
        return not self.open and all([each in self.shifted or each in states for each in read])

    @property
    def open(self) -> bool:
        """Whether it is yet to be drawn where rows end."""
        return self.joint.end is not None and self.mask is None

    def _end(self) -> dict[str, Site]:
        """The name that ends a row, where it is binary and so follows from the length."""
        name = str(self.joint.end)
        owner = self.joint.step[name]
        shape = getattr(owner, "event_shape", torch.Size((2,)))
        binary = shape.numel() == 1 and self.joint.last in (0, 1) and view_of(owner) is None
        if self.length is None or not binary:
            return {}
        lengths, like = self.length.value.unsqueeze(-1), next(owner.parameters(), torch.zeros(()))
        here = torch.arange(1, self.count + 1, device=lengths.device) == lengths
        value = (here if self.joint.last else ~here).to(like.dtype).reshape(*here.shape, *shape)
        self.implied = True
        return {name: Site(value, batch_dims=self.length.batch_dims)}

    def first(self, name: str) -> Site:
        """What stands for a name where there is no step before (or after)."""
        start = self.joint.start[name]
        return self.sites[start] if isinstance(start, str) else self.joint.first(name, self.shape)

    def _count(self) -> int:
        joint, lengths = self.joint, self.length
        if joint.length and lengths is None and not joint.end:
            raise ValueError(
                f"{joint} needs the length of each row: give {{{joint.length!r}: tensor}}."
            )
        counts = {
            name: site.value.shape[site.batch_dims]
            for name, site in self.sites.items()
            if name not in joint.outside
        }
        if len(set(counts.values())) > 1:
            raise ValueError(f"The given sequences have different numbers of steps: {counts}.")
        longest = [int(lengths.value.max())] if lengths is not None and not counts else []
        count = next(iter(counts.values()), joint.repeats or next(iter(longest), None))
        self.free = not counts
        if count is None and joint.end and not joint.within:
            return _LONGEST
        if count is None:
            raise ValueError(
                f"Nothing given says how many repetitions of {joint} to draw; set repeats=N."
            )
        if longest and longest[0] > count:
            raise ValueError(
                f"{joint.length!r} asks for {longest[0]} repetitions of {joint}, but repeats="
                f"{count}; leave repeats out, or raise it."
            )
        return count

    def _shift(self, parent: Parent, site: Site) -> Site:
        """What is read of other steps, for every step: the start, where there is none."""
        first = self.first(parent.name)
        axis, count, lag = site.batch_dims, site.value.shape[site.batch_dims], parent.lag

        def shift(start: Tensor, values: Tensor) -> Tensor:
            lead, event = values.shape[:axis], start.shape[first.batch_dims :]
            if event != values.shape[axis + 1 :]:  # a start for networks, and no value
                event, start = values.shape[axis + 1 :], torch.zeros_like(values.select(axis, 0))
            else:
                if not isinstance(self.joint.start[parent.name], str):  # the same in all rows
                    start = start[(0,) * first.batch_dims]
                start = start.expand(*lead, *event).to(values.dtype)
            padding = [start.unsqueeze(axis)] * abs(lag)
            both = [*padding, values] if lag < 0 else [values, *padding]
            moved = torch.cat(both, axis).narrow(axis, max(lag, 0), count)
            if lag < 0 or self.mask is None:
                return moved
            there = torch.nn.functional.pad(self.mask, (0, lag))[..., lag:]
            return where_true(there, moved, start.unsqueeze(axis), axis + 1)

        value, features = shift(first.value, site.value), site.features
        if isinstance(features, Tensor):
            if features.shape[axis + 1 :] != first.features.shape[first.batch_dims :]:
                raise ValueError(
                    f"start gives {parent.name!r} the shape "
                    f"{tuple(first.features.shape[first.batch_dims :])}, but networks see of it "
                    f"{tuple(features.shape[axis + 1 :])}."
                )
            features = shift(first.features, features)
        return Site(value, batch_dims=axis + 1, seen=features, holes=site.holes, fill=site.fill)

    def inside(self, site: Site, name: str) -> Site:
        """A site as the repeated joint sees it: its axis is one more dimension of the batch."""
        if name in self.joint.outside:
            dims = site.batch_dims
            return site.changed(lambda each: _unsqueeze(each, dims), batch_dims=dims + 1)
        return replace(site, batch_dims=site.batch_dims + 1)

    def at_once(self, draw: Mapping[str, Draw] | None = None) -> Trace:
        """All repetitions in one evaluation, possible when nothing remembered is unknown."""
        states = {
            parent: replace(first, value=state, batch_dims=first.batch_dims + 1)
            for parent in self.joint.remembered
            if parent not in self.shifted
            for first in (self.first(parent.name),)
            for state in (FirstState(first.value, self.mask, self.joint.backwards),)
        }
        trace = self.all_steps(self.shape, draw=draw, previous=states)
        if trace.batch_shape != (*self.shape, self.count):
            raise ValueError(
                f"Values inside {self.joint} cannot be enumerated; draw them another way."
            )
        return self.trace({name: self.outside(site) for name, site in trace.items()})

    def trace(self, sites: dict[str, Site]) -> Trace:
        """What a call leaves behind, with the lengths that the joint itself computes."""
        if self.joint.end:
            name, length = self.joint.end, self.length
            support = getattr(sites[name].distribution, "support", None)
            support = getattr(support, "base_constraint", support)
            if self.implied and support is not constraints.boolean:
                raise ValueError(
                    f"The length of a row does not say the values of {name!r}, which is not "
                    f"binary; give {name!r} too."
                )
            if length is None and self.mask is not None:
                length = Site(self.mask.sum(-1), batch_dims=self.mask.dim() - 1)
            if length is not None:
                sites |= {str(self.joint.length): replace(length, drawn=False)}
        return Trace(sites, self.here, self.log_measure)

    def all_steps(
        self,
        shape: tuple[int, ...],
        *,
        draw: Mapping[str, Draw] | None = None,
        more: Mapping[str, Site] | None = None,
        previous: Mapping[Parent, Site] | None = None,
    ) -> Trace:
        """One evaluation of the step for all, whose axis is then the last of the batch."""
        sites = {name: self.inside(site, name) for name, site in self.sites.items()}
        return self.joint.step(
            sites | dict(more or {}),
            (*shape, self.count),
            draw={name: _draw_inside(way) for name, way in (draw or {}).items()},
            default=None if self.default is None else _draw_inside(self.default),
            missing=self.missing,
            ready={name: self.inside(site, name) for name, site in self.ready.items()},
            previous=self.shifted | dict(previous or {}),
        )

    @cached_property
    def one(self) -> Joint:
        """The joint of one step, whose networks over all steps remember those before it."""
        step = self.joint.step
        self.remembering = {
            name: _Remembering(step.conditional(name)) for name in self.joint.over_steps
        }
        factors = {f.key.removesuffix(" |"): f.names[0] for f in step.order}
        modules = {key: step.conditional(name) for key, name in factors.items()}
        known = {k: self.remembering.get(n, modules[k]) for k, n in factors.items()}
        one = Joint(known, steps=True)
        one.symbol = step.symbol
        return one

    def step_by_step(self, draw: Mapping[str, Draw] | None = None) -> Trace:
        """One repetition after another, each with what it remembers.

        The values that are enumerated in each make paths, the product of those of all steps.
        """
        traces: list[Trace] = []
        goes_on: list[Tensor] = []  # after each step
        for t in self.order:
            traces.append(self.take(t, draw=draw))
            if self.open:
                last = traces[-1][str(self.joint.end)]
                here = ~self.joint.ended(last.value, last.batch_dims)
                goes_on.append(goes_on[-1] & here if goes_on else here)
                if self.free and not self.joint.within and not bool(goes_on[-1].any()):
                    break
        if goes_on:
            if len(goes_on) == _LONGEST and bool(goes_on[-1].any()):
                raise ValueError(
                    f"Rows of {self.joint} have not ended after {_LONGEST} steps; set repeats=N "
                    f"to stop there."
                )
            self.mask = torch.stack([torch.ones_like(goes_on[0]), *goes_on[:-1]], -1)
        if self.joint.backwards:
            traces.reverse()
        sites = {
            name: self.outside(_stack([trace[name] for trace in traces]))
            for name in self.joint.step.names
        }
        return self.trace(sites)

    @property
    def order(self) -> range:
        """The steps in the order in which they are taken."""
        return range(self.count)[::-1] if self.joint.backwards else range(self.count)

    def take(
        self,
        t: int,
        *,
        draw: Mapping[str, Draw] | None = None,
        more: Mapping[str, Site] | None = None,
        ready: Mapping[str, Site] | None = None,
    ) -> Trace:
        """Step ``t``, which is remembered; ``more`` and ``ready`` are of that step alone."""
        joint, axis = self.joint, len(self.shape)
        before = self.here
        now = {
            name: site if name in joint.outside else at_step(site, t)
            for name, site in self.sites.items()
        }
        step = self.one if joint.over_steps else joint.step
        trace = step(
            now | dict(more or {}),
            before,
            draw={name: _draw_at(way, t, axis) for name, way in (draw or {}).items()},
            default=self.default,
            missing=self.missing,
            ready={name: at_step(site, t) for name, site in self.ready.items()}
            | dict(ready or {}),
            previous={parent: self._read(parent, t) for parent in joint.remembered},
        )
        if trace.batch_shape != before:  # every value counts, of those that count at all
            self.here = trace.batch_shape
            weight, lead = trace.log_measure - monte_carlo(before), len(self.here) - len(before)
            paths, values = math.prod(self.here[: len(self.here) - axis]), self.here[:lead]
            if paths > _PATHS:
                raise ValueError(
                    f"What is enumerated inside {joint} takes {paths} or more paths through its "
                    f"{self.count} steps, more than {_PATHS}: draw it another way, or "
                    f"leave it out of q, and p sums over the values of each step."
                )
            if self.mask is not None:
                alike = torch.full_like(torch.as_tensor(weight), -math.log(math.prod(values)))
                weight = torch.where(self.mask[..., t], weight, alike)
            self.log_measure = self.log_measure + weight
        kept = {parent.name for parent in joint.remembered if parent not in self.shifted}
        self.past[t] = {name: trace[name] for name in kept}
        furthest = max([abs(parent.lag) for parent in joint.remembered], default=0)
        self.past.pop(t + furthest if joint.backwards else t - furthest, None)
        return trace

    def _read(self, parent: Parent, t: int) -> Site:
        """A value of another step, as step ``t`` reads it."""
        if parent in self.shifted:
            site = self.shifted[parent]
            return at_step(replace(site, batch_dims=site.batch_dims - 1), t)
        first, there = self.first(parent.name), t + parent.lag
        if not 0 <= there < self.count:
            return first
        site = self.past[there][parent.name]
        if parent.lag < 0 or self.mask is None:
            return site
        mask, dims = self.mask[..., there], site.batch_dims  # it begins where each row ends
        same = first.value.shape[first.batch_dims :] == site.value.shape[dims:]
        return replace(
            site,
            value=where_true(mask, site.value, first.value if same else None, dims),
            seen=where_true(mask, site.features, first.features, dims),
        )

    def change(self, of: Callable[[Site], Site]) -> None:
        """Put other particles in the place of all that was drawn so far."""
        self.past = {t: {n: of(site) for n, site in s.items()} for t, s in self.past.items()}
        self.sites |= {name: of(self.sites[name]) for name in self.joint.outside}
        for network in self.remembering.values():
            network.change(of)

    def outside(self, site: Site) -> Site:
        """A site as the rest of the model sees it: masked by length, summed over repetitions."""
        log_prob, distribution = site.log_prob, site.distribution
        if self.mask is not None:
            if log_prob is not None:
                log_prob = torch.where(self.mask, log_prob, torch.zeros_like(log_prob))
            if distribution is not None:
                mask = self.mask.reshape(*self.mask.shape, *[1] * len(_inner(site)))
                distribution = Masked(distribution, mask, str(self.joint.length))
            mask, dims = self.mask, site.batch_dims
            site = site.changed(lambda each: where_true(mask, each, None, dims))
        if log_prob is not None:
            log_prob = log_prob.sum(-1)
        return replace(
            site, distribution=distribution, log_prob=log_prob, batch_dims=site.batch_dims - 1
        )


class _Remembering(nn.Module):
    """A network over all steps, called for one step after another."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.lead = network, torch.Size()
        self.accepts_missing = accepts_missing(network)
        self.memory: dict[str, Tensor] = {}

    def forward(self, *parents: Tensor) -> Tensor:
        """What it puts out at the step that comes next."""
        before = len(self.lead)
        # one that reads values as they are reads numbers, and not their features
        shapes = [p.shape if self.accepts_missing else p.shape[:-1] for p in parents]
        self.lead = torch.broadcast_shapes(self.lead, *shapes)
        for name, value in self.memory.items():
            self.memory[name] = value.expand(*self.lead, *value.shape[before:])
        return self.network.next_step(self.memory, *parents)

    def change(self, of: Callable[[Site], Site]) -> None:
        """Let each particle remember what another one does."""
        for name, value in self.memory.items():
            self.memory[name] = of(Site(value, batch_dims=len(self.lead))).value


def _unsqueeze(value: Any, at: int) -> Any:
    return value.unsqueeze(at) if isinstance(value, Tensor) else value


def at_step(site: Site, t: int) -> Site:
    """The site of one step."""
    return site.changed(lambda each: each.select(site.batch_dims, t))


def _draw_at(draw: Draw, t: int, axis: int) -> Draw:
    """A way of drawing at one step: of values that are there already, those of the step."""
    if isinstance(draw, Held):
        return Held(draw.value.select(axis, t))
    if isinstance(draw, PartlyGiven):
        return PartlyGiven(draw.value.select(1, t), _draw_at(draw.draw, t, axis))
    return draw


def _draw_inside(draw: Draw) -> Draw:
    """A way of drawing all steps at once, whose axis is no particle and no row."""
    if isinstance(draw, PartlyGiven):
        return replace(draw, draw=_draw_inside(draw.draw))
    return replace(draw, right=draw.right + 1) if isinstance(draw, RowDraw) else draw


def _inner(site: Site) -> tuple[int, ...]:
    """The dimensions of a value that are neither of its batch nor of its event."""
    if site.distribution is None or not isinstance(site.value, Tensor):
        return ()
    return tuple(
        site.value.shape[site.batch_dims : site.value.dim() - len(site.distribution.event_shape)]
    )


def _stack(sites: list[Site]) -> Site:
    """Sites of single steps as one, with log-densities still one a step at the right."""
    dims = max([site.batch_dims for site in sites])
    if any([site.value is None for site in sites]):  # summed over within
        return Site(None, batch_dims=dims + 1)

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

    log_prob = distribution = None
    if sites[0].log_prob is not None:
        log_prob = torch.stack(torch.broadcast_tensors(*[site.log_prob for site in sites]), -1)
    steps = [site.distribution for site in sites if site.distribution is not None]
    if steps:
        distribution = Steps(steps, _inner(sites[0]))
    return Site(
        together([site.value for site in sites]),
        distribution,
        log_prob,
        sites[0].drawn,
        dims + 1,
        sites[0].view,
        together([site.features for site in sites]) if sites[0].seen is not None else None,
    )


def where_true(mask: Tensor, value: Any, other: Any, batch_dims: int) -> Any:
    """A value where the mask is true, and elsewhere another one; zeros, if there is none."""
    if not isinstance(value, Tensor):
        return value
    spread = mask.reshape(*mask.shape, *[1] * (value.dim() - batch_dims))
    return torch.where(spread, value, torch.zeros_like(value) if other is None else other)
