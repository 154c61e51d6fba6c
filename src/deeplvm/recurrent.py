"""Repetition inside a row: Recurrent unrolls one step with memory, Plate repeats one without."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.core.draws import Draw, Enumerated, Summed
from deeplvm.core.joint import Joint, NotationError, Parent, is_joint, view_of
from deeplvm.core.trace import Site, Trace
from deeplvm.sums import sum_out
from deeplvm.unrolled import Unrolled

Start = int | tuple[int, ...] | Tensor | str


class Repeated(nn.Module):
    """What Plate and Recurrent share: a joint, repeated along one axis right of the batch.

    The values of its names have shape ``(*particles, batch, repeats, *event)``.

    Args:
        factors: The joint of one repetition.
        outside: Inputs without the repeated axis, the same in every repetition.
        length: Name of an input of shape ``(batch,)``: how many repetitions of each row count.
            What lies beyond is drawn as zeros and does not enter any log-density.
        repeats: How many repetitions to draw when nothing given has the axis.
        start: What stands where there is no step before.
        end: Name and value that end a row, as in ``{"w": 1}``.
    """

    def __init__(
        self,
        factors: Mapping[str, nn.Module],
        *,
        outside: Iterable[str] = (),
        length: str | None = None,
        repeats: int | None = None,
        start: Mapping[str, Start] | None = None,
        end: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.step = Joint(factors, steps=True)
        #: Whether it repeats inside another repetition, whose rows are then of one size.
        self.within = False
        for each in self.step.modules():
            if isinstance(each, Repeated):
                each.within = True
        self.end: str | None
        self.end, self.last = next(iter((end or {}).items()), (None, 0.0))
        self.names = self.step.names
        self.outside = tuple(outside)
        self.length = length
        self.repeats = repeats
        self.inputs = self.step.inputs
        if length and not self.end:
            self.inputs = (*self.inputs, length)
        elif length:
            self.names = (*self.names, length)
        self.shared: frozenset[str] = frozenset()
        if self.step.shared:
            raise NotationError(
                f"{', '.join(sorted(self.step.shared))} cannot be shared by all rows inside a "
                f"repetition; define it outside, and read it with outside=[...]."
            )
        lagged = [parent for factor in self.step.order for parent in factor.parents if parent.lag]
        #: What is read of other steps.
        self.remembered: tuple[Parent, ...] = tuple(dict.fromkeys(lagged))
        self.start: dict[str, Start] = dict(start or {})
        begins = [each for each in self.start.values() if isinstance(each, str)]
        self.inputs = tuple(dict.fromkeys([*self.inputs, *begins]))
        self.outside = tuple(dict.fromkeys([*self.outside, *begins]))
        ways = {parent.lag > 0 for parent in self.remembered if parent.name in self.step}
        if len(ways) > 1:
            raise NotationError(
                f"{self} reads its own names before and after a step, so it can be computed in "
                f"neither direction; write what runs backwards as a Recurrent of its own."
            )
        #: Whether the last step is computed first.
        self.backwards = ways == {True}
        #: Names computed by networks over all steps (:class:`~deeplvm.networks.OverSteps`).
        self.over_steps = frozenset(
            [n for n in self.step.names if hasattr(self.step.conditional(n), "next_step")]
        )
        if self.backwards and self.over_steps:
            raise NotationError(
                f"{self} runs backwards, and a network over its steps forwards; let it read what "
                f"a Recurrent of its own computes."
            )
        if end and (len(end) > 1 or self.end not in self.step or not length or self.backwards):
            raise NotationError(
                f"end={{...}} says which value of one name ends a row of a Recurrent that runs "
                f"forwards, and length='...' how the number of steps is called, as in "
                f"end={{'w': 1}}, length='n'; found end={dict(end)}, length={length!r} in {self}."
            )
        #: States that a cell computes for all steps at once, where its inputs are known.
        self.states: frozenset[Parent] = frozenset(self._states())
        if unknown := set(self.outside) - set(self.inputs):
            raise NotationError(
                f"{sorted(unknown)} are said to come from outside, but nothing reads them."
            )
        read = list(dict.fromkeys([parent.name for parent in self.remembered]))
        if set(read) != set(self.start):
            raise NotationError(
                f"start={{...}} must give the first value of exactly the names read as name[-1]: "
                f"{', '.join(read) or 'none'}; it gives {', '.join(self.start) or 'none'}."
            )
        for name, value in self.start.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"start_{name}", value)
            elif isinstance(value, Tensor):  # it moves with the module
                self.register_buffer(f"start_{name}", value, persistent=False)

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
        return nn.Identity() if self.end and name == self.length else self.step[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def conditional(self, name: str) -> nn.Module:
        """The module of the factor that defines a name."""
        return self.step.conditional(name)

    def parents(self, name: str) -> tuple[Parent, ...]:
        """What a name reads within one repetition, of other steps, and of lengths."""
        if self.end and name == self.length:
            return (Parent(self.end),)
        read = [
            replace(parent, start=self._started(parent.name)) if parent.lag else parent
            for parent in self.step.parents(name)
        ]
        begin = [self.start.get(parent.name) for parent in read if parent.lag]
        begins = [Parent(each) for each in dict.fromkeys(begin) if isinstance(each, str)]
        return (*read, *begins, *([Parent(self.length)] if self.length else []))

    def repetitions(self, name: str) -> tuple[Any, ...]:
        """This joint, and those within in which the name repeats again."""
        return (self, *self.step.repetitions(name))

    def reaches(self, lag: int) -> bool:
        """Whether the step that lies so far away was drawn before a step, or without regard."""
        own = [parent.lag for parent in self.remembered if parent.name in self.step]
        return not own or (lag > 0) == self.backwards

    def _states(self) -> Iterator[Parent]:
        """What nobody but the cell that computes it remembers, and that one of the step before."""
        for factor in self.step.order:
            own = factor.parents[-1:]
            cell = hasattr(self.step.conditional(factor.names[0]), "scan")
            if cell and own and own[0].name in factor.names and abs(own[0].lag) == 1:
                readers = [f for f in self.step.order for p in f.parents if p.lag and p == own[0]]
                lags = {p for p in self.remembered if p.name == own[0].name}
                if readers == [factor] and len(lags) == 1:
                    yield own[0]

    def _started(self, name: str) -> Hashable:
        start = self.start.get(name)  # of a lag of a joint within, that joint says it
        return (type(start), id(start)) if isinstance(start, Tensor) else start

    def __str__(self) -> str:
        index = "t" if self.remembered else "n"
        return f"∏_{index} {self.step}"

    def extra_repr(self) -> str:
        return str(self)

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        draw: Mapping[str, Draw] | None = None,
        **options: Any,
    ) -> Trace:
        """Score what is given, draw the rest; see :meth:`deeplvm.core.joint.Joint.forward`."""
        walk = Unrolled(self, given, batch_shape, **options)
        drawn = {name: way for name, way in (draw or {}).items() if name in self.step}
        drawn = {name: way for name, way in drawn.items() if name not in walk.sites}
        own = {n: way for n, way in drawn.items() if not is_joint(self.step.conditional(n))}
        if summed := {n: way.most for n, way in own.items() if isinstance(way, Summed)}:
            return sum_out(walk, list(summed), min(summed.values()))
        if walk.known and not any([isinstance(way, Enumerated) for way in drawn.values()]):
            return walk.at_once(drawn)
        return walk.step_by_step(drawn)

    def mask(self, given: Mapping[str, Site], count: int) -> Tensor | None:
        """Which repetitions count, shape ``(*particles, batch, repeats)``; none where all do.

        Those up to the length, if that is given, else to the value that ends the row.
        """
        lengths = given.get(self.length or "")
        if lengths is not None:
            steps = torch.arange(count, device=lengths.value.device)
            return steps < lengths.value[..., None]
        ends = given.get(self.end or "")
        if ends is None:
            return None
        there = self.ended(ends.value, ends.batch_dims + 1).long()
        return there.cumsum(-1) == there

    def ended(self, value: Tensor, dims: int) -> Tensor:
        """Where a value of the name that ends a row is the one that does."""
        there = value == self.last
        return there.flatten(dims).all(-1) if there.dim() > dims else there

    def first(self, name: str, shape: tuple[int, ...]) -> Site:
        """What stands for a name where there is no step before (or after)."""
        start: Any = getattr(self, f"start_{name}", self.start[name])
        view = None
        if not isinstance(start, Tensor):
            like = next(iter(self.parameters()), torch.zeros(()))
            size = (start,) if isinstance(start, int) else tuple(start)
            start = torch.zeros(size, dtype=like.dtype, device=like.device)
        elif not start.is_floating_point() and name in self.step:
            view = view_of(self.step[name])  # a value, such as the index of a token
        rows = shape[-1:]  # particles begin where their rows do
        return Site(start.expand(*rows, *start.shape), batch_dims=len(rows), view=view)


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


class Recurrent(Repeated):
    r"""A joint of one time step, unrolled: :math:`\prod_t p(\cdot_t | \cdot_{t-1})`.

    ``name[-1]`` is the value of ``name`` one step before, ``name[-2]`` two, ``name[+1]`` one step
    after: a joint that reads its own names after a step runs backwards in time, from the last step
    (of each row, with ``length``) to the first. Names that are given from elsewhere can be read
    in both directions. ``start`` says what stands where there is no such step: a size (zeros), a
    tensor, or a parameter, as networks see it; an integer tensor is a value, such as a token; a
    text is the name of a value from outside, one a row, such as a state computed of a latent.

    ``end={"w": 1}`` lets the model say itself where a row ends: the first step in which w is 1 is
    the last that counts, and the number of steps is a name that it computes, called by
    ``length``. Sequences are drawn until all have ended, or to ``repeats``; what is given may have
    the length instead of an ``end`` that is binary.

    A Recurrent Latent Variable Model for Sequential Data (Chung et al., 2015),
    https://arxiv.org/abs/1506.02216, is one example.

    Where all that is remembered is given or already computed (scoring p after drawing from q), all
    steps are evaluated at once; otherwise a step costs one evaluation of each conditional. The
    state of a cell that nothing else reads one step before, as in ``{"h | x[-1], h[-1]": GRU(...),
    "x | h": ...}``, is computed for all steps in one call, where its inputs are known. A network
    over all steps (:class:`~deeplvm.networks.OverSteps`) has a memory of its own:
    ``"h | x[-1], z": DilatedConvolutions(...)`` reads x of all earlier steps, in one pass where x
    is given.

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
        end: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            factors, outside=outside, length=length, repeats=repeats, start=start, end=end
        )
