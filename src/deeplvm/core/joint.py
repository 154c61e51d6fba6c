r"""Joint: a product of named conditionals, written as it is read.

:math:`p(x_1, \dots, x_M) = \prod_j p(x_j | Pa(x_j))` (An Introduction to Variational Autoencoders,
Kingma & Welling, 2019, https://arxiv.org/abs/1906.02691, eq. 1.6).
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeGuard, runtime_checkable

from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Draw, Reparameterised
from deeplvm.core.trace import Site, Trace, View, score, sum_right
from deeplvm.core.values import STACKED

_REFERENCE = re.compile(r"([A-Za-z_]\w*)(?:\[([+-][1-9]\d?)\])?")


class NotationError(ValueError):
    """The notation of a joint, or the names in it, do not make a model."""


@dataclass(frozen=True)
class Parent:
    """A name right of the bar.

    Attributes:
        name: Whose value is read.
        lag: -1 for ``name[-1]``, its value one step before; 1 for ``name[+1]``, one step after.
        start: What stands where there is no such step, as far as it can be compared.
    """

    name: str
    lag: int = 0
    start: Hashable = None

    def __str__(self) -> str:
        return f"{self.name}[{self.lag:+d}]" if self.lag else self.name


@dataclass(frozen=True)
class Factor:
    """One entry of a joint: the names it defines and the parents it reads."""

    names: tuple[str, ...]
    parents: tuple[Parent, ...]

    def __str__(self) -> str:
        return self.key if self.parents else ", ".join(self.names)

    @cached_property
    def key(self) -> str:
        """The notation with its bar (``"z |"``), by which a joint keeps its modules.

        Readable in a state dict, and never the name of one of ``ModuleDict``'s own attributes.
        """
        right = ", ".join([str(parent) for parent in self.parents])
        return f"{', '.join(self.names)} | {right}".rstrip()


def parse(notation: str) -> Factor:
    """Read ``"x | y, z[-1]"``: identifiers, one bar, commas, ``[-1]``, ``[+1]``; nothing else.

    Raises:
        NotationError: With the offending text.
    """
    if not isinstance(notation, str):
        raise NotationError(f"A factor is written as text such as 'x | z', not {notation!r}.")
    left, bar, right = notation.partition("|")
    if bar and not right.strip():
        raise NotationError(f"{notation!r} has a bar but no parents; write {left.strip()!r}.")

    def read(text: str, *, lags: bool) -> tuple[Parent, ...]:
        found = []
        for part in text.split(","):
            match = _REFERENCE.fullmatch(part.strip())
            if match is None or (match[2] and not lags):
                raise NotationError(
                    f"{part.strip()!r} in {notation!r} is not a name; write 'x | y, z' with "
                    f"identifiers, one bar and commas ('z[-1]', the step before, and 'z[+1]', the "
                    f"step after, only right of the bar)."
                )
            found.append(Parent(match[1], int(match[2] or 0)))
        if len(set(found)) < len(found):
            raise NotationError(f"{notation!r} names {text.strip()!r} twice.")
        return tuple(found)

    names = tuple([parent.name for parent in read(left, lags=False)])
    return Factor(names, read(right, lags=True) if bar else ())


def in_order(factors: Iterable[Factor]) -> list[Factor]:
    """The factors with every parent before its children; the order written, where that allows.

    Raises:
        NotationError: If they form a cycle, with the names in it.
    """
    owner = {name: factor for factor in factors for name in factor.names}
    ordered: dict[Factor, None] = {}
    for first in owner.values():
        path: dict[Factor, None] = {}  # from the first factor to the one whose parents are met
        waiting = [first]
        while waiting:
            factor = waiting[-1]
            if factor in path or factor in ordered:  # all its parents were met
                ordered[waiting.pop()] = None
                path.pop(factor, None)
                continue
            path[factor] = None
            parents = [owner[p.name] for p in factor.parents if not p.lag and p.name in owner]
            for parent in reversed(parents):
                if parent in path:
                    steps = list(path)
                    loop = [str(step) for step in steps[steps.index(parent) :]]
                    raise NotationError(f"The factors form a cycle: {'; '.join(loop)}.")
                if parent not in ordered:
                    waiting.append(parent)
    return list(ordered)


class Conditional(Protocol):
    """One factor of a joint: any torch module of this form, of this package or not.

    What else one may have, and is asked for where it matters:

    Attributes:
        event_shape: Shape of one value. A module with it and without ``out_shape`` is known to be
            random before it is called.
        out_shape: Shape of what a deterministic node puts out.
        embed: From values to what the networks of other names see of them, dimensions left of the
            event alike; the values themselves, if there is none.
        accepts_missing: Whether it reads parents as they are, NaN where they are missing.
        values: What a row of its values is, if not an entry along the first axis
            (:class:`~deeplvm.core.values.Values`).

    The distribution that it returns may offer ``rsample_and_log_prob()``, a draw and its density
    in one pass, ``observed_log_prob(value, observed)``, the density of some elements alone,
    ``conditioned(value, observed)``, the distribution of the others given these, and
    ``marginals()``, that of each element by itself.
    """

    def forward(self, *parents: Any) -> Distribution | Tensor:
        """A distribution of the value (a random name), or the value itself (a computed one)."""
        ...


@runtime_checkable
class JointLike(Protocol):
    """What p, q and the joints within them are; all that a program written by hand must offer.

    Attributes:
        names: What it gives a density or a value to.
        inputs: What it reads and does not define.

    One may also say which names all rows share (``shared``), what a name reads (it is
    :class:`Factored` then), which conditional owns it (``joint[name]``), and inside which joints
    it repeats (``repetitions(name)``): without, no closed form is taken, no node shared, and every
    term is credited to every latent.
    """

    names: tuple[str, ...]
    inputs: tuple[str, ...]

    def forward(
        self, given: Mapping[str, Any], batch_shape: tuple[int, ...] | None = None, **options: Any
    ) -> Trace:
        """Score what is given, draw the rest; options are those of :meth:`Joint.forward`."""
        ...


@runtime_checkable
class Factored(JointLike, Protocol):
    """A joint that says what its names read."""

    def parents(self, name: str) -> tuple[Parent, ...]:
        """What a name reads."""
        ...


class Joint(nn.Module):
    r"""A product of named conditionals :math:`\prod_j p(x_j | Pa(x_j))`.

    Args:
        factors: ``{"name | parents": conditional}`` in any order. A conditional is any module
            whose ``forward(*parents)`` returns a distribution (a random variable) or a tensor (a
            deterministic node), or another joint that defines all names left of the bar. A name
            that is used but not defined is an *input*.
        shared: Names that all rows have in common (weights, a corpus-level topic): drawn once per
            particle, with a batch dimension of size one.

    Called with what is given, a joint returns a :class:`~deeplvm.core.trace.Trace`: a given name
    is scored, any other is drawn.

    Raises:
        NotationError: If the notation cannot be read, defines a name twice, or forms a cycle.

    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 16))})
    >>> print(p)
    p(z) p(x | z)
    >>> {name: tuple(site.value.shape) for name, site in p({}, batch_shape=(5,)).items()}
    {'z': (5, 2), 'x': (5, 3)}
    """

    def __init__(
        self, factors: Mapping[str, nn.Module], *, shared: Iterable[str] = (), steps: bool = False
    ) -> None:
        super().__init__()
        parsed: dict[Factor, nn.Module] = {}
        self.owner: dict[str, Factor] = {}
        for notation, module in factors.items():
            factor = parse(notation)
            _check(factor, module, steps=steps)
            for name in factor.names:
                if name in self.owner:
                    raise NotationError(
                        f"{name!r} is defined twice: by {str(self.owner[name])!r} "
                        f"and {notation!r}."
                    )
                self.owner[name] = factor
            parsed[factor] = module
        self.order = in_order(parsed)
        self.factors = nn.ModuleDict({factor.key: parsed[factor] for factor in self.order})
        self.names: tuple[str, ...] = tuple([n for factor in self.order for n in factor.names])
        # What the names alone decide is decided here, and not at every call.
        self._plan = [(factor, is_joint(parsed[factor])) for factor in self.order]
        self._nested = frozenset(
            [n for factor, nested in self._plan if nested for n in factor.names]
        )
        used = [parent.name for factor in self.order for parent in factor.parents]
        for module in parsed.values():
            if is_joint(module):
                used += [name for name in module.inputs if name not in used]
        self.inputs: tuple[str, ...] = tuple(
            dict.fromkeys([n for n in used if n not in self.owner])
        )
        self.shared = frozenset(shared)
        self.symbol = "p"
        if unknown := self.shared - set(self.names):
            raise NotationError(
                f"{sorted(unknown)} are said to be shared, but nothing defines them."
            )
        for module in filter(is_joint, parsed.values()):
            inside = shared_of(module)
            if unsaid := self.shared.intersection(module.names) - inside:
                raise NotationError(
                    f"{sorted(unsaid)} are said to be shared, but {module}, which defines them, "
                    f"draws them for each row; say shared=... there."
                )
            self.shared |= inside

    def __getitem__(self, name: str) -> nn.Module:
        """The conditional that owns a name (for a sub-joint, its member's)."""
        if name not in self.owner:
            raise KeyError(f"{self} defines no {name!r}; it defines {', '.join(self.names)}.")
        module: Any = self.conditional(name)
        return module[name] if name in self._nested and hasattr(module, "__getitem__") else module

    def __contains__(self, name: object) -> bool:
        return name in self.owner

    def parents(self, name: str) -> tuple[Parent, ...]:
        """What a name reads: in a sub-joint only what its own factor in there does."""
        module: Any = self.conditional(name)
        outer = self.owner[name].parents
        if name not in self._nested or not isinstance(module, Factored):
            return outer
        known = {parent.name: parent for parent in outer if parent.name not in module.names}
        return tuple(
            [
                parent if parent.lag else known.get(parent.name, parent)
                for parent in module.parents(name)
            ]
        )

    def repetitions(self, name: str) -> tuple[Any, ...]:
        """The joints inside which a name repeats within a row, the outermost first."""
        module: Any = self.conditional(name) if name in self.owner else None
        return module.repetitions(name) if hasattr(module, "repetitions") else ()

    def conditional(self, name: str) -> nn.Module:
        """The module of the factor that defines a name."""
        return self.factors[self.owner[name].key]

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        draw: Mapping[str, Draw] | None = None,
        default: Draw | None = None,
        missing: frozenset[str] = frozenset(),
        ready: Mapping[str, Site] | None = None,
        previous: Mapping[Parent, Site] | None = None,
    ) -> Trace:
        r"""Score what is given, draw the rest.

        Args:
            given: Values by name, tensors of shape ``(batch, *event)`` or Sites of another trace.
            batch_shape: ``(*particles, batch)`` of every draw; by default ``(batch,)``.
            draw: How a name is drawn, where it is not the default.
            default: How all other names are drawn (:class:`~deeplvm.gradients.Reparameterised`).
            missing: Given names that have NaN elements.
            ready: Distributions and deterministic values already computed for the same parents.
            previous: Sites of other steps, for parents written ``name[-1]`` or ``name[+1]``.

        Raises:
            ValueError: If an input is not given, or a deterministic node is.
        """
        default = default or Reparameterised()
        draw, ready = draw or {}, ready or {}
        sites = {name: as_site(name, value, self, missing) for name, value in given.items()}
        if self.symbol == "q":  # an encoder may make of a missing value what it likes
            sites = {name: filled(site) for name, site in sites.items()}
        shape = batch_shape if batch_shape is not None else batch_shape_of(sites)
        trace: dict[str, Site] = {}
        log_measure: Tensor | float = monte_carlo(shape)
        for factor, nested in self._plan:
            module: Any = self.factors[factor.key]
            parents = [
                self._parent(factor, each, trace, sites, previous) for each in factor.parents
            ]
            if nested:
                read = {p.name: site for p, site in zip(factor.parents, parents, strict=True)}
                known = {n: sites[n] for n in (*factor.names, *module.inputs) if n in sites}
                inner = module(
                    read | known, shape, draw=draw, default=default, missing=missing, ready=ready
                )
                trace.update({name: inner[name] for name in factor.names})
                if inner.batch_shape != shape:  # something was enumerated inside
                    log_measure = log_measure + (inner.log_measure - monte_carlo(shape))
                    shape = inner.batch_shape
                continue
            name = factor.names[0]
            own = shape if name not in self.shared else (*shape[:-1], 1)
            way, value = draw.get(name, default), sites.get(name)
            site, shape, weight = self._site(
                name, module, parents, value, own, shape, way, missing, ready.get(name)
            )
            trace[name] = site
            log_measure = log_measure + weight
        return Trace(trace, shape, log_measure)

    def _site(
        self,
        name: str,
        module: nn.Module,
        parents: list[Site],
        given: Site | None,
        own: tuple[int, ...],
        shape: tuple[int, ...],
        draw: Draw,
        missing: frozenset[str],
        ready: Site | None,
    ) -> tuple[Site, tuple[int, ...], Tensor | float]:
        """Evaluate one conditional; score its given value or draw one."""
        if ready is None:
            self._refuse_holes(name, module, parents)
            outcome, batch_dims = call(module, parents)
        else:
            outcome = ready.value if ready.distribution is None else ready.distribution
            batch_dims = ready.batch_dims
        if not isinstance(outcome, Distribution):
            if given is not None:
                raise ValueError(
                    f"{name!r} is computed from its parents, not random, so it cannot be given; "
                    f"leave it out."
                )
            return Site(outcome, batch_dims=batch_dims), shape, 0.0
        if given is not None:
            density = score(name, outcome, given.value, missing=name in missing)
            density = sum_right(density, max(batch_dims, given.batch_dims))
            scored = replace(given, distribution=outcome, log_prob=density, drawn=False)
            return scored, shape, 0.0
        drawn = draw(name, outcome, own, batch_dims)
        site = Site(
            drawn.value,
            outcome,
            drawn.log_prob,
            drawn=True,
            batch_dims=len(drawn.batch_shape),
            view=view_of(module),
        )
        enumerated = drawn.batch_shape[: len(drawn.batch_shape) - len(own)]
        return site, (*enumerated, *shape), drawn.log_measure

    def _refuse_holes(self, name: str, module: nn.Module, parents: list[Site]) -> None:
        """In p, a conditional that reads a missing value would be another model."""
        broken = [at for at, site in enumerate(parents) if site.holes and not site.fill]
        if not broken or accepts_missing(module):
            return
        factor = self.owner[name]
        read = [factor.parents[at] for at in broken]
        raise ValueError(
            f"{self.symbol}({factor}) reads {', '.join([repr(str(each)) for each in read])}, of "
            f"which elements are missing (NaN), so the density of {name!r} is not known in these "
            f"rows: let q draw what is missing (add '{read[0].name} | ...' to q), leave these "
            f"rows out, or fill them in first."
        )

    def _parent(
        self,
        factor: Factor,
        parent: Parent,
        trace: dict[str, Site],
        sites: dict[str, Site],
        previous: Mapping[Parent, Site] | None,
    ) -> Site:
        if parent.lag:
            site = (previous or {}).get(parent)
        else:
            site = trace.get(parent.name) or sites.get(parent.name)
        if site is None:
            raise ValueError(
                f"{self.symbol}({factor}) needs {str(parent)!r}, which nothing defines and nobody "
                f"gave; give it, as in {{{parent.name!r}: tensor}}, or add {parent.name!r} to "
                f"{self.symbol}."
            )
        return site

    def __str__(self) -> str:
        return " ".join([f"{self.symbol}({factor})" for factor in self.order])

    def extra_repr(self) -> str:
        return str(self)


def monte_carlo(batch_shape: tuple[int, ...]) -> float:
    r"""The log-measure :math:`-\log K` of K particles that are drawn."""
    return -math.log(math.prod(batch_shape[:-1])) if batch_shape[:-1] else 0.0


def accepts_missing(module: nn.Module | None) -> bool:
    """Whether a conditional reads values with NaN as they are."""
    return getattr(module, "accepts_missing", False)


def call(module: nn.Module, parents: list[Site]) -> tuple[Any, int]:
    """What a conditional returns for its parents, and how many batch dimensions that has."""
    raw = accepts_missing(module)
    outcome = module(*[site.value if raw else site.features for site in parents])
    return outcome, max([site.batch_dims for site in parents], default=0)


def view_of(module: nn.Module | None) -> View | None:
    """From a value to what other names' networks see: its owner's ``embed``, if it has one."""
    return getattr(module, "embed", None)


def owner_of(joint: Any, name: str) -> nn.Module | None:
    """The conditional that owns a name, if the joint defines it and says so."""
    known = name in joint.names and hasattr(joint, "__getitem__")
    return joint[name] if known else None


def as_site(
    name: str,
    value: Any,
    joint: Any,
    missing: frozenset[str] = frozenset(),
    *,
    batch_dims: int = 1,
) -> Site:
    """A value, or what another joint left of it, as the joint that defines the name sees it.

    ``joint`` is ``None`` where nobody does, so that networks see the value itself.
    """
    view = None if joint is None else view_of(owner_of(joint, name))
    if not isinstance(value, Site):
        return Site(value, batch_dims=batch_dims, view=view, holes=name in missing)
    return value if view is None else replace(value, view=view)


def filled(site: Site) -> Site:
    """A given value as an encoder reads it: zeros among the features of what is missing."""
    return replace(site, fill=True) if site.holes else site


def batch_shape_of(sites: Mapping[str, Site]) -> tuple[int, ...]:
    """``(*particles, batch)`` of what is given.

    Raises:
        ValueError: If nothing given says how many rows there are.
    """
    shapes = [
        tuple(site.value.shape[: site.batch_dims])
        if isinstance(site.value, Tensor)
        else (STACKED.count(site.value),)
        for site in sites.values()
    ]
    if not shapes:
        raise ValueError("Nothing is given, so say how many rows to draw: batch_shape=(rows,).")
    return max(shapes, key=len)


def is_joint(module: object) -> TypeGuard[Any]:
    """Whether a module follows a joint's protocol."""
    return isinstance(module, JointLike)


def shared_of(joint: Any) -> frozenset[str]:
    """Names that all rows have in common, as far as a joint says so."""
    return frozenset(getattr(joint, "shared", ()))


def _check(factor: Factor, module: nn.Module, *, steps: bool) -> None:
    if not isinstance(module, nn.Module):
        raise NotationError(
            f"{str(factor)!r} maps to {type(module).__name__}, not to a conditional: a torch "
            f"module whose forward(*parents) returns a distribution or a tensor."
        )
    if not steps and any([parent.lag for parent in factor.parents]):
        raise NotationError(
            f"{str(factor)!r} reads another step, which only Recurrent has; "
            f"use Recurrent({{...}}, start={{...}})."
        )
    if is_joint(module):
        if set(factor.names) != set(module.names):
            raise NotationError(
                f"{str(factor)!r} maps to a joint that defines {', '.join(module.names)}; name "
                f"exactly these left of the bar."
            )
        if len({parent.name for parent in factor.parents}) < len(factor.parents):
            raise NotationError(
                f"{str(factor)!r} maps to a joint and reads one name at two steps, which in there "
                f"would be one name; compute another name from one of them first."
            )
    elif len(factor.names) > 1:
        raise NotationError(
            f"{str(factor)!r} defines {len(factor.names)} names, so it must map to a joint "
            f"(Joint, Plate, Recurrent) that defines them."
        )
