"""LatentVariableModel: a p and a q that agree on names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import (
    Draw,
    Drawn,
    Enumerated,
    Held,
    PartlyGiven,
    Reparameterised,
    Sampled,
    Summed,
    Valuation,
    refuse_credit,
    way_of,
)
from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import (
    Factored,
    Joint,
    NotationError,
    accepts_missing,
    as_site,
    call,
    filled,
    is_joint,
    owner_of,
    shared_of,
)
from deeplvm.core.steps import length_of
from deeplvm.core.trace import Site, Trace
from deeplvm.core.values import STACKED, Values, has_nan


class Draws(TypedDict, total=False):
    """How the latents of some rows are drawn.

    Attributes:
        particles: Draws of every latent per row, a leading dimension; none draws once without one.
        draw: How a latent is drawn, where it is not by reparameterisation.
        default: How all others are drawn.
        missing: Given names with NaN elements. By default the values are looked at, which costs a
            pass over them and cannot be done inside a compiled graph; say it when you know.
    """

    particles: int | None
    draw: Mapping[str, Draw] | None
    default: Draw | None
    missing: Iterable[str] | None


@dataclass(frozen=True)
class _Asked:
    """What one call gives, and how it draws the rest."""

    sites: dict[str, Site]  # of the given names
    holes: frozenset[str]  # those with missing elements
    shape: tuple[int, ...]  # (*particles, batch)
    draw: Mapping[str, Draw]
    default: Draw | None
    rows: int | None  # of the data set


class LatentVariableModel(nn.Module):
    r"""A generative model p(x, z) with its inference model q(z | x).

    Args:
        p: Joint of the observed and the latent names.
        q: Joint that draws the latent names given the observed ones; none for a model whose names
            are all observed, which is then trained by maximum likelihood.

    Raises:
        NotationError: If q draws a name to which p gives no density, or they disagree on which
            names all rows share.

    >>> from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(6, MLP(2, 8))})
    >>> q = Joint({"z | x": Gaussian(2, MLP(6, 8))})
    >>> model = LatentVariableModel(p, q)
    >>> print(p, "·", q)
    p(z) p(x | z) · q(z | x)
    >>> evidence = model.evidence({"x": torch.ones(5, 6)}, particles=3)
    >>> evidence.log_weight.shape
    torch.Size([3, 5])
    """

    def __init__(self, p: nn.Module, q: nn.Module | None = None) -> None:
        super().__init__()
        self.p = cast("Any", p)
        self.q = cast("Any", Joint({}) if q is None else q)
        for joint, letter in ((self.p, "p"), (self.q, "q")):
            if not is_joint(joint):
                raise NotationError(
                    f"{letter} must be a Joint, or a module with `names`, `inputs` and "
                    f"forward(given, batch_shape) -> Trace; this is a {type(joint).__name__}."
                )
            joint.symbol = letter
        if shared_of(self.p) & set(self.q.names) != shared_of(self.q) & set(self.p.names):
            raise NotationError(
                f"p says that all rows share {sorted(shared_of(self.p))}, "
                f"q {sorted(shared_of(self.q))}; both must name the same."
            )
        for name in self.q.names:
            if name not in self.p.names and _is_random(self.q, name):
                raise NotationError(_no_density(name, self.q))
        self._closed_of: dict[tuple[str, ...], frozenset[str]] = {}
        self._named_in_p = frozenset((*self.p.names, *self.p.inputs))
        self._read_by_p = _read(self.p)
        #: Every name of the model, inputs included.
        self.names = self._named_in_p.union(self.q.names, self.q.inputs)
        # Names that follow from where another one has holes. One that q draws is a latent.
        self._of_holes = {
            name: (of, kind)
            for name in sorted(self.names.difference(self.q.names))
            for of, _, kind in (name.rpartition("_"),)
            if kind in ("seen", "observed") and of in self.p.names
            if kind == "observed" or name not in self.p.names
        }
        # Deterministic nodes that p and q share, with the names they follow from: computed once.
        self._follows = _common(self.p, self.q)
        self.common = frozenset(self._follows)

    @property
    def shared(self) -> frozenset[str]:
        """Names that all rows have in common."""
        return shared_of(self.p) | shared_of(self.q)

    @property
    def explains_holes(self) -> frozenset[str]:
        """Names of which p models what elements are missing."""
        return frozenset([of for name, (of, _) in self._of_holes.items() if name in self.p.names])

    @property
    def causes(self) -> frozenset[str]:
        """Latents that follow in p from nothing else, and may be given: a label, say."""
        if not isinstance(self.p, Factored):
            return frozenset()
        both = set(self.p.names).intersection(self.q.names)
        return frozenset([name for name in both if not self.p.parents(name)])

    def reads(self, name: str) -> bool:
        """Whether a conditional of p reads a name's values, so that it must have them in full."""
        return name in self._read_by_p

    def site(
        self, name: str, value: Any, missing: frozenset[str] = frozenset(), *, batch_dims: int = 1
    ) -> Site:
        """A value with the view that networks have of it; a Site stays as it is.

        Args:
            name: Whose it is.
            value: Shape ``(*particles, batch, *event)``.
            missing: Names with NaN elements.
            batch_dims: How many leading dimensions are particles and rows.
        """
        if isinstance(value, Site):
            return value
        joint = next((each for each in (self.p, self.q) if name in each.names), None)
        return as_site(name, value, joint, missing, batch_dims=batch_dims)

    def values(self, name: str) -> Values:
        """What a row of a name's values is, as the conditional that owns it says."""
        owners = [owner_of(joint, name) for joint in (self.p, self.q)]
        return next((own.values for own in owners if hasattr(own, "values")), STACKED)  # type: ignore[union-attr,return-value]

    def rows(self, given: Mapping[str, Any]) -> int:
        """How many rows are given.

        Raises:
            ValueError: If nothing is, or names disagree.
        """
        sites = {name: self.site(name, value) for name, value in given.items()}
        counts = {
            name: site.value.shape[site.batch_dims - 1]
            if isinstance(site.value, Tensor)
            else self.values(name).count(site.value)
            for name, site in sites.items()
            if not isinstance(site.value, Tensor) or site.value.dim() > 0
        }
        if not counts:
            raise ValueError("Nothing is given, so there are no rows; give at least one name.")
        first, *others = counts.values()
        if any([rows != first for rows in others]):  # a graph's number of rows has no hash
            raise ValueError(f"The given values have different numbers of rows: {counts}.")
        return first

    def _sites(
        self, given: Mapping[str, Any], missing: Iterable[str] | None = None
    ) -> tuple[dict[str, Site], frozenset[str]]:
        """The given names as sites, and those of them with missing elements.

        Where a model reads ``x_seen``, x with its holes, or ``x_observed``, 1 where it has none,
        and nobody gives them, they follow from x.
        """
        if missing is None and not torch.compiler.is_compiling():
            missing = [name for name, value in given.items() if has_nan(value)]
        holes = frozenset(missing or ())
        if unknown := set(given) - self.names:
            raise ValueError(
                f"Nothing in the model is called {', '.join([repr(n) for n in sorted(unknown)])}; "
                f"its names are {', '.join(sorted(self.names))}."
            )
        for name, (of, kind) in self._of_holes.items():
            if of in given and name not in given:
                seen = torch.ones_like(given[of]) if of not in holes else ~torch.isnan(given[of])
                given = {**given, name: given[of] if kind == "seen" else seen.to(given[of])}
                holes = holes | {name} if kind == "seen" and of in holes else holes
        return {name: self.site(name, value, holes) for name, value in given.items()}, holes

    def _asked(
        self,
        given: Mapping[str, Any],
        particles: int | None = None,
        draw: Mapping[str, Draw] | None = None,
        default: Draw | None = None,
        missing: Iterable[str] | None = None,
        rows: int | None = None,
    ) -> _Asked:
        sites, holes = self._sites(given, missing)
        batch = self.rows(sites)
        shape = (batch,) if particles is None else (particles, batch)
        return _Asked(sites, holes, shape, draw or {}, default, rows)

    def _known_to_q(self, asked: _Asked) -> tuple[dict[str, Site], dict[str, Draw]]:
        """What q is given, and how it draws: what p reads of a given name, it must have in full.

        Where elements of such a name are missing, q draws them, and them alone.
        """
        known, ways = dict(asked.sites), dict(asked.draw)
        for name in self._read_by_p.intersection(self.q.names, asked.sites):
            if not asked.sites[name].holes:
                continue
            if hasattr(self.q, "repetitions") and len(self.q.repetitions(name)) > 1:
                raise ValueError(
                    f"p reads {name!r}, of which elements are missing (NaN), and q draws it in a "
                    f"repetition inside another, which cannot go around what is given; fill them "
                    f"in first, or leave these rows out."
                )
            way = ways.get(name, asked.default) or Reparameterised()
            ways[name] = PartlyGiven(known.pop(name).value, way)
        return known, ways

    def encode(
        self, given: Mapping[str, Any], *, missing: Iterable[str] | None = None
    ) -> dict[str, Site]:
        """What q computes from the given values alone, to be passed as ``ready`` many times.

        Evaluates every conditional of q whose parents need no draw, once; drawing more particles
        does not repeat it.
        """
        sites = {n: filled(site) for n, site in self._sites(given, missing)[0].items()}
        ready: dict[str, Site] = {}
        if not isinstance(self.q, Joint):
            return ready
        for factor in self.q.order:
            module = self.q.conditional(factor.names[0])
            parents = [
                ready.get(parent.name) or sites.get(parent.name) for parent in factor.parents
            ]
            if is_joint(module) or any([p is None or p.distribution is not None for p in parents]):
                continue
            known = [site for site in parents if site is not None]
            outcome, batch_dims = call(module, known)
            random = isinstance(outcome, Distribution)
            value, distribution = (None, outcome) if random else (outcome, None)
            ready[factor.names[0]] = Site(value, distribution, batch_dims=batch_dims)
        return ready

    def evidence(
        self,
        given: Mapping[str, Any],
        *,
        rows: int | None = None,
        ready: Mapping[str, Site] | None = None,
        **draws: Unpack[Draws],
    ) -> Evidence:
        r"""Draw from q, score with p on the same names, and return the ledger.

        Args:
            given: Observed values and inputs by name, shape ``(batch, *event)``. A missing label
                is left out; a missing element is NaN.
            rows: Number of rows of the data set; needed when names are shared by all rows.
            ready: Result of :meth:`encode` for the same values.
            draws: ``particles``, ``draw``, ``default`` and ``missing``; see :class:`Draws`.

        Raises:
            ValueError: If a name of p is neither given nor drawn by q, q draws one that has no
                density in p, an unknown name is given, or a latent is drawn in a way whose
                gradient only :meth:`estimate` completes.
        """
        if torch.is_grad_enabled():
            refuse_credit({**(draws.get("draw") or {}), "every latent": draws.get("default")})
        return self._evidence(self._asked(given, rows=rows, **draws), ready)

    def estimate(
        self,
        objective: Callable[[Evidence], Tensor],
        given: Mapping[str, Any],
        *,
        rows: int | None = None,
        kl_weight: Tensor | float = 1.0,
        **draws: Unpack[Draws],
    ) -> tuple[Tensor, Evidence]:
        r"""The objective of each row, with the gradient that each latent's estimator gives it.

        For reparameterised latents this is ``objective(evidence(given))``. A latent drawn
        otherwise (see :mod:`deeplvm.gradients`) is credited here, where the objective is known:
        its term changes no value.

        Args:
            objective: Ledger to one value per row, shape ``(batch,)``; higher is better.
            given, rows, draws: As for :meth:`evidence`.
            kl_weight: Weight of the latents' terms, see
                :meth:`~deeplvm.core.evidence.Evidence.temper`.

        Returns:
            The values, shape ``(batch,)``, and the evidence.
        """
        asked = self._asked(given, rows=rows, **draws)
        evidence = self._evidence(asked).temper(kl_weight)
        value = objective(evidence)
        if not torch.is_grad_enabled():
            return value, evidence

        def redraw(ways: Mapping[str, Draw]) -> Evidence:
            # What is held is scored, all steps of a recurrence at once; what is given in some rows
            # has a density in the others alone, which the draw knows.
            held = {
                name: replace(evidence.q[name], value=way.value, seen=None)
                for name, way in ways.items()
                if isinstance(way, Held) and name not in asked.sites
            }
            again = replace(asked, draw=ways, default=None)
            return self._evidence(again, held=held).temper(kl_weight)

        return self._valuation(asked, evidence, objective, value, redraw).settled(), evidence

    def prepare(
        self, given: Mapping[str, Any], *, rows: int | None = None, **draws: Unpack[Draws]
    ) -> dict[str, Draw]:
        """Let estimators make what they learn (the networks of baselines), before an optimiser.

        Some rows are drawn once for it, as by :meth:`evidence`.

        Returns:
            How each latent was drawn.
        """
        with torch.no_grad():
            asked = self._asked(given, rows=rows, **draws)
            evidence = self._evidence(asked)
            nothing = next(iter(evidence.terms.values())).new_zeros(evidence.batch_shape[-1])
            valuation = self._valuation(asked, evidence, lambda _: nothing, nothing, _no_redraw)
        valuation.prepare()
        return dict(valuation.draws)

    def _valuation(
        self,
        asked: _Asked,
        evidence: Evidence,
        objective: Callable[[Evidence], Tensor],
        value: Tensor,
        redraw: Callable[[Mapping[str, Draw]], Evidence],
    ) -> Valuation:
        given = {name: filled(site) for name, site in asked.sites.items()}
        ways = {
            name: way_of(name, evidence.q[name], asked.draw, asked.default)
            for name in evidence.latents
        }
        return Valuation(self.p, self.q, evidence, objective, value, given, redraw, ways)

    def _evidence(
        self,
        asked: _Asked,
        ready: Mapping[str, Site] | None = None,
        held: Mapping[str, Site] | None = None,
    ) -> Evidence:
        known, ways = self._known_to_q(asked)
        held = {n: s for n, s in (held or {}).items() if not isinstance(ways[n], PartlyGiven)}
        q = self.q(
            {**known, **held}, asked.shape, draw=ways, default=asked.default, missing=asked.holes,
            ready=ready,
        )  # fmt: skip
        q.sites.update({name: replace(q[name], drawn=True) for name in held})
        drawn = {name: site for name, site in q.items() if site.drawn}
        explained = {**asked.sites, **drawn}
        summed = {
            name: Summed(way.most)
            for name, way in asked.draw.items()
            if isinstance(way, Enumerated) and name not in explained
        }
        p = self.p(
            {name: site for name, site in explained.items() if name in self._named_in_p},
            q.batch_shape,
            draw=summed,
            default=unexplained,
            missing=asked.holes.difference(drawn),
            ready=self._computed(q, explained),
        )
        return self._ledger(p, q, asked.rows, asked.sites)

    def _computed(self, q: Trace, known: Mapping[str, Site]) -> dict[str, Site]:
        """Deterministic nodes of q that are p's too; not those of missing values."""
        holes = {name for name, site in known.items() if site.holes}
        return {name: q[name] for name, read in self._follows.items() if not read & holes}

    def _ledger(self, p: Trace, q: Trace, rows: int | None, given: Mapping[str, Site]) -> Evidence:
        latents = tuple([name for name, site in q.items() if site.drawn])
        shared = self.shared
        if shared and rows is None:
            raise ValueError(
                f"All rows share {', '.join(sorted(shared))}; say how many rows the data set has: "
                f"evidence(..., rows=N)."
            )
        row_weight = 1.0 if not shared or rows is None else 1.0 / rows
        terms = {}
        for name, site in p.items():
            if site.log_prob is None:
                continue
            term = site.log_prob
            if name in latents:
                log_q = q[name].log_prob
                term = term if log_q is None else term - log_q
            terms[name] = term * row_weight if name in shared else term
        for name in latents:
            if name not in terms:
                raise ValueError(_no_density(name, self.q))
            counted = [length_of(trace[name].distribution) for trace in (p, q)]
            if p[name].distribution is not None and counted[0] != counted[1]:
                raise ValueError(
                    f"p counts {name!r} up to {counted[0] or 'the last step'}, q up to "
                    f"{counted[1] or 'the last step'}, so that what lies beyond would be no "
                    f"density; give both the same length=..."
                )
        return Evidence(
            terms=terms,
            log_measure=q.log_measure,
            p=p,
            q=q,
            latents=latents,
            observed=tuple([name for name in terms if name not in latents]),
            closed=self._closed(latents).difference(given),
            drawn_in={name: _rows_with_holes(given[name]) for name in latents if name in given},
            row_weight=row_weight,
            shared=shared,
        )

    def _closed(self, latents: tuple[str, ...]) -> frozenset[str]:
        """Latents all of whose parents in p are drawn before them in q; the names alone decide."""
        if torch.compiler.is_compiling():  # a constant of the graph: nothing to remember
            return self._find_closed(latents)
        if latents not in self._closed_of:
            self._closed_of[latents] = self._find_closed(latents)
        return self._closed_of[latents]

    def _find_closed(self, latents: tuple[str, ...]) -> frozenset[str]:
        if not all([hasattr(joint, "repetitions") for joint in (self.p, self.q)]):
            return frozenset()

        def closed(index: int, name: str) -> bool:
            parents = self._random_parents(name, latents)
            return all([self._drawn_before(name, *each, latents[:index]) for each in parents])

        return frozenset([name for index, name in enumerate(latents) if closed(index, name)])

    def _drawn_before(
        self, name: str, parent: str, lag: int | None, earlier: tuple[str, ...]
    ) -> bool:
        """Whether q draws what p reads of a parent before it draws the name itself."""
        own, other = self.q.repetitions(name), self.q.repetitions(parent)
        if own != other or lag == 0:
            return parent in earlier
        return lag is not None and len(own) == 1 and own[0].reaches(lag)

    def _random_parents(self, name: str, latents: tuple[str, ...]) -> set[tuple[str, int | None]]:
        """Latent parents of a name in p, seen through computed names; others are given.

        With them the direction in time in which they are read, ``None`` for both.
        """
        found: set[tuple[str, int | None]] = set()
        waiting: list[tuple[str, int | None]] = [(name, 0)]
        seen = set(waiting)
        while waiting:  # a state that reads itself one step before is met twice
            reader, lag = waiting.pop()
            for parent in self.p.parents(reader):
                step = (parent.name, _together(lag, parent.lag))
                if parent.name in latents:
                    found.add(step)
                elif (
                    step not in seen and parent.name in self.p and not _is_random(self.p, step[0])
                ):
                    seen.add(step)
                    waiting.append(step)
        return found

    def posterior(self, given: Mapping[str, Any], **draws: Unpack[Draws]) -> Trace:
        """The trace of q: draws of the latents, with their distributions."""
        asked = self._asked(given, **draws)
        known, ways = self._known_to_q(asked)
        inputs = {n: site for n, site in known.items() if n in self.q.names or n in self.q.inputs}
        return self.q(inputs, asked.shape, draw=ways, default=asked.default, missing=asked.holes)

    @torch.no_grad()
    def sample(self, rows: int | None = None, given: Mapping[str, Any] | None = None) -> Trace:
        """Ancestral draws from p, with what is given held fixed; no gradient.

        Args:
            rows: How many; by default as many as are given.
            given: Values (labels, latents) to condition downstream names on.
        """
        sites, _ = self._sites(given or {}, ())
        shape = (rows,) if rows is not None else (self.rows(sites),)
        return self.p(sites, shape, default=Sampled())

    @torch.no_grad()
    def reconstruct(self, given: Mapping[str, Any], **draws: Unpack[Draws]) -> Trace:
        """Posterior predictive: latents drawn from q given the values, then observed names anew.

        The sites of the returned trace of p carry the distributions, so that
        ``trace["x"].distribution.mean`` is the mean of p(x | z). Inputs stay as they are given,
        and so do :attr:`causes`, such as a label that q draws where it is missing.
        """
        posterior = self.posterior(given, **draws)
        drawn = {
            name: site for name, site in posterior.items() if site.drawn and name in self.p.names
        }
        sites, _ = self._sites(given, draws.get("missing"))
        kept = {*self.p.inputs, *self.causes}
        known = {name: site for name, site in sites.items() if name in kept} | drawn
        ready = self._computed(posterior, known)
        default = draws.get("default") or Sampled()
        return self.p(known, posterior.batch_shape, default=default, ready=ready)

    @property
    def factorisation(self) -> str:
        """Both products in the user's notation, ``p(z) p(x | z) · q(z | x)``."""
        return f"{self.p} · {self.q}" if self.q.names else str(self.p)

    def __repr__(self) -> str:
        lines = [self.factorisation, ""]
        table = list(self.table())
        width = [max([len(row[i]) for row in table]) for i in range(4)]
        lines += [
            "  ".join([cell.ljust(w) for cell, w in zip(row, width, strict=True)]).rstrip()
            for row in table
        ]
        total = sum([p.numel() for p in self.parameters()])
        return "\n".join([*lines, f"{total:,} parameters"])

    def table(self) -> list[tuple[str, str, str, str]]:
        """One row a factor: notation, conditional, shape of an event, number of parameters."""
        return [
            (
                f"{joint.symbol}({factor})",
                type(module).__name__,
                str(tuple(module.event_shape)) if hasattr(module, "event_shape") else "",
                f"{sum([p.numel() for p in module.parameters()]):,}",
            )
            for joint in (self.p, self.q)
            for factor in getattr(joint, "order", [])
            for module in (joint.conditional(factor.names[0]),)
        ]

    def _repr_html_(self) -> str:
        from deeplvm.results import html_table

        total = sum([p.numel() for p in self.parameters()])
        rows = [list(row) for row in self.table()]
        return html_table(
            ["factor", "conditional", "shape", f"parameters ({total:,})"], rows, self.factorisation
        )


def unexplained(name: str, *_: Any, **__: Any) -> Drawn:
    """The draw of a name of p that nobody gave: there is none, so say what to do."""
    raise ValueError(
        f"p scores {name!r}, which is neither given nor drawn by q; give it, or add "
        f"'{name} | ...' to q."
    )


def _no_redraw(_: Mapping[str, Draw]) -> Evidence:
    raise RuntimeError("An estimator is only being prepared: nothing is drawn again.")


def _together(lag: int | None, other: int) -> int | None:
    """The direction of two lags one after the other, ``None`` if they point to both sides."""
    if lag is None or lag * other < 0:
        return None
    return (lag + other > 0) - (lag + other < 0)


def _no_density(name: str, q: Any) -> str:
    inputs = list(q.inputs) + [n for n in q.names if n != name]
    others = ", ".join(dict.fromkeys(inputs)) or "..."
    return f"q draws {name!r} but p gives it no density; add '{name} | {others}' to p."


def _is_random(joint: Any, name: str) -> bool:
    """Whether a conditional is known to return a distribution, before it is called.

    A conditional says the shape of its event; a network or a deterministic node what it puts out.
    """
    owner = owner_of(joint, name)
    return hasattr(owner, "event_shape") and not hasattr(owner, "out_shape")


def _read(joint: Any) -> frozenset[str]:
    """Names whose values conditionals of a joint read, as far as it says; else all."""
    if not isinstance(joint, Factored):
        return frozenset((*joint.names, *joint.inputs))
    return frozenset(
        [
            parent.name
            for name in joint.names
            if not accepts_missing(owner_of(joint, name))
            for parent in joint.parents(name)
        ]
    )


def _rows_with_holes(site: Site) -> Tensor:
    """Whether something is missing in a row, shape ``(batch,)``."""
    holes = torch.isnan(site.value)
    return holes.flatten(1).any(-1) if holes.dim() > 1 else holes


def _common(p: Any, q: Any) -> dict[str, frozenset[str]]:
    """Computed names whose module, parents and parents' values are the same in p and q.

    With the random names and inputs that each follows from.
    """
    if not all([isinstance(joint, Factored) for joint in (p, q)]):
        return {}
    names = [name for name in q.names if name in p.names and _same_factor(p, q, name)]
    while True:
        same = set(names)
        kept = [
            name
            for name in names
            if all([each.name in same or _same_value(p, q, each.name) for each in p.parents(name)])
        ]
        if len(kept) == len(names):
            break
        names = kept
    follows: dict[str, frozenset[str]] = {}
    for name in names:  # parents first
        read = [parent.name for parent in p.parents(name)]
        follows[name] = frozenset().union(*[follows.get(each, {each}) for each in read])
    return {name: read for name, read in follows.items() if not _is_random(q, name)}


def _same_factor(p: Any, q: Any, name: str) -> bool:
    own = owner_of(p, name)
    return own is not None and own is owner_of(q, name) and p.parents(name) == q.parents(name)


def _same_value(p: Any, q: Any, name: str) -> bool:
    """Whether p's value of a name is q's: it is given, or drawn by q."""
    return _is_random(p, name) if name in p.names else name not in q.names or _is_random(q, name)
