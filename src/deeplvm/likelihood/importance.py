r"""Importance sampling: an estimate of :math:`\log p(x)` with its errors, in bounded memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw
from deeplvm.inference.diagnostics import TOO_HEAVY, pareto_k, tail_length
from deeplvm.inference.rows import (
    Names,
    OnProgress,
    Rows,
    Tensors,
    at_least,
    for_rows,
    redrawn,
    rows_of,
    unsaid,
)
from deeplvm.likelihood.chunks import Chunks, plan
from deeplvm.likelihood.compiled import Compile, choose
from deeplvm.likelihood.pilot import affordable
from deeplvm.parallel.processes import processes
from deeplvm.randomness import RowNoise, evaluating, seed_of
from deeplvm.results import Estimate, Record, RowEstimate, shown_mean, stderr_of


@dataclass(frozen=True)
class CurvePoint(Estimate):
    r"""The bound :math:`E[L_k]` at one number of particles, mean over rows, nats.

    Attributes:
        particles: k.
        value: Mean over rows of the mean of :math:`L_k` over disjoint groups of k draws.
        stderr: Standard error over rows; NaN for one row.
        rise: How much more than the point before, nats.
        rise_stderr: Standard error of that, from the differences row by row.
    """

    particles: int
    rise: float
    rise_stderr: float


@dataclass(frozen=True, eq=False)
class ImportanceEstimate(
    RowEstimate,
    also="pareto_k_median pareto_k_maximum heavy",
    without="elbo terms pareto_k observed latents compile_seconds shared_stderr",
    means="ess",
    least="ess",
    keys={"pareto_k_median": "pareto_k", "heavy": "pareto_k_above_0.7"},
):
    r"""Log-likelihood of each row, estimated by importance sampling; nats, higher is better.

    With draws :math:`z_k \sim q(z | x)` and :math:`w_k = p(x, z_k) / q(z_k | x)`,
    :math:`\log \hat p(x) = \log \frac{1}{K} \sum_k w_k`. Its expectation is a lower bound on
    :math:`\log p(x)` that rises with K (:attr:`curve`).

    Attributes:
        log_px: :math:`\log \hat p(x)`, shape ``(rows,)``.
        log_px_stderr: Its Monte-Carlo standard error by the delta method, shape ``(rows,)``; it
            means little where ``pareto_k`` is above 0.7. Zero if exact, NaN for one particle.
        elbo: Mean of the log-weights, shape ``(rows,)``.
        terms: For each name of p the mean of ``log p − log q``, shape ``(rows,)``; they sum to
            ``elbo`` (names shared by all rows apart).
        ess: Effective number of draws :math:`(\sum w)^2 / \sum w^2`, shape ``(rows,)``.
        pareto_k: Shape of the tail of the weights, shape ``(rows,)``; NaN where there is none to
            fit.
        particles: K.
        curve: The bound for fewer particles, from the same draws.
        exact: Whether nothing was drawn: no latents, or all of them enumerated.
        observed: Names that were scored.
        latents: Names that were drawn or enumerated.
        compile_seconds: What compiling took; zero where p was not compiled. No part of
            :meth:`to_dict`.
        shared_stderr: Monte-Carlo standard error of the mean over rows that share names.
    """

    elbo: Tensor
    terms: dict[str, Tensor]
    ess: Tensor
    pareto_k: Tensor
    particles: int
    curve: tuple[CurvePoint, ...]
    exact: bool
    observed: tuple[str, ...]
    latents: tuple[str, ...]
    compile_seconds: float = 0.0
    shared_stderr: float | None = None

    @property
    def monte_carlo_stderr(self) -> float:
        r"""The part of ``stderr`` that the draws add.

        Of rows that share names it is the spread over draws of the mean relative weight of all
        rows, :math:`\mathrm{sd}_k\, \tfrac1N \sum_n w_{kn} / \hat p(x_n)` over
        :math:`\sqrt K`; else rows are independent.
        """
        own = super().monte_carlo_stderr
        return own if self.shared_stderr is None else self.shared_stderr

    @property
    def heavy(self) -> float:
        """Share of rows whose ``pareto_k`` is above 0.7: their estimates are unreliable."""
        return float((self.pareto_k > TOO_HEAVY).double().mean())

    @property
    def reconstruction(self) -> Tensor:
        r""":math:`E_q \log p(x | z)`, the terms of the observed names, shape ``(rows,)``."""
        return torch.stack([self.terms[name] for name in self.observed]).sum(0)

    @property
    def pareto_k_median(self) -> float:
        """Of the rows that have a tail; NaN if none has."""
        return float(self.pareto_k.nanmedian())

    @property
    def pareto_k_maximum(self) -> float:
        """The largest; NaN if no row has a tail."""
        known = self.pareto_k[~self.pareto_k.isnan()]
        return float(known.max()) if len(known) else math.nan

    def table(self) -> list[tuple[str, str]]:
        """Rows of name and value."""
        how = "exact" if self.exact else f"{self.particles:,} particles"
        table = [(f"log p(x), {how}", shown_mean(self.log_px)), ("ELBO", shown_mean(self.elbo))]
        if not self.exact:
            table += [
                ("effective particles, mean", f"{float(self.ess.mean()):.1f}"),
                ("rows with Pareto k̂ above 0.7", f"{100 * self.heavy:.1f} %"),
            ]
        if self.compile_seconds:
            table.append(("compiling took", f"{self.compile_seconds:.1f} s"))
        return [*table, ("rows", f"{self.rows:,}")]

    def notes(self) -> list[str]:
        """What the numbers are of."""
        return ["nats a row, ± one standard error over rows"]

    __str__ = Record.__str__


def importance_sampling(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int = 5_000,
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
    compile: Compile = "auto",  # noqa: A002 - the word of torch
    progress: OnProgress | None = None,
) -> ImportanceEstimate:
    r""":math:`\log \hat p(x) = \log \frac{1}{K} \sum_k p(x, z_k) / q(z_k | x)` of every row.

    The encoder runs once a batch; particles are streamed in chunks, so memory does not grow with
    their number. On a CPU the chunk size changes the result by rounding only.

    Several processes (:mod:`deeplvm.parallel.processes`) share the batches, and each returns
    the estimate of all rows, in which every row has the numbers that one process gives it.

    Names shared by all rows are drawn from q and their own terms are left out: the estimate is
    then of the predictive density :math:`\int q(\theta) p(x | \theta) d\theta`.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.6,
    https://arxiv.org/abs/1906.02691

    Args:
        model, data, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        particles: K.
        batch_size: Rows at a time; chosen by what the caches hold if left out. Another one gives
            other draws.
        chunk: Particles at a time, rounded up to a multiple of 16; chosen by what the caches hold
            if left out.
        draw: How a latent is drawn, as in :meth:`LatentVariableModel.evidence`. A name given here
            is drawn even if the data have it: ``{"y": Enumerated()}`` sums over the labels.
        compile: Whether the densities of p are compiled, which changes results by rounding only.
            ``"auto"``: where something is drawn and it would take more than a minute, compiled
            code is tried (some ten seconds) and used if it is a tenth faster; a matter of the
            clock, so say ``True`` or ``False`` where a long evaluation must repeat to the last
            digit.
        progress: Told after each batch how many of the rows are done, and of how many.

    Raises:
        ValueError: If ``particles`` or ``chunk`` is below one, a log-weight is NaN or +inf, or
            ``compile`` is true and there is no compiler.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> q = Joint({"z | x": Gaussian(1, MLP(2))})
        >>> model = LatentVariableModel(p, q)
        >>> estimate = importance_sampling(model, {"x": torch.zeros(3, 2)}, particles=1000)
        >>> bool((estimate.log_px >= estimate.elbo).all()), [p.particles for p in estimate.curve]
        (True, [1, 5, 10, 50, 100, 500, 1000])
    """
    at_least(1, particles=particles, chunk=chunk, batch_size=batch_size)
    rows = rows_of(model, data, omit=redrawn(draw))
    with evaluating(model, seed):
        planned = plan(model, rows, particles, batch_size=batch_size, chunk=chunk, draw=draw)
        chunks = Chunks(model, rows, planned, draw)
        batches = -(-rows.rows // planned.batch_size)
        own = len(range(batches)[processes().part(batches)])
        # where nothing is drawn a row goes through p once, sooner than a compiler is done
        alone = rows.keys is not None  # to the last bit, whatever the clock says
        wanted = False if compile == "auto" and (planned.exact or alone) else compile
        chunks.model, compile_seconds = choose(chunks, wanted, own * planned.chunks)

    together: list[Tensor] = []  # of each batch, the sum over rows of relative weights, (K,)

    @torch.inference_mode()
    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        totals = Totals(planned.particles)
        weights = []
        for evidence, used in chunks(given, noise):
            totals.add(evidence, used)
            if evidence.shared:
                weights.append(totals.last)
        found = totals.result(exact=planned.exact)
        if (nothing := _nothing_observed(model, given, missing, rows.lengths)) is not None:
            for name in found:
                if name.startswith(("log_px", "curve/")):  # the probability of nothing is 1
                    found[name] = torch.where(nothing, 0.0, found[name])
        if weights:  # all rows have the same draws of what they share
            relative = (torch.cat(weights) - found["log_px"]).exp().sum(1)
            together.append(relative)
        return found

    joined = for_rows(
        model, rows, measure, batch_size=planned.batch_size, seed=seed, progress=progress
    )
    # outside inference mode: plain tensors, that anything may be done with
    joined = {key: value.clone() for key, value in joined.items()}
    terms = {key[6:]: value for key, value in joined.items() if key.startswith("terms/")}
    levels = {int(key[6:]): value for key, value in joined.items() if key.startswith("curve/")}
    return ImportanceEstimate(
        **{key: value for key, value in joined.items() if "/" not in key},
        terms=terms,
        particles=planned.particles,
        curve=_curve(levels),
        exact=planned.exact,
        observed=planned.observed,
        latents=planned.latents,
        compile_seconds=compile_seconds,
        shared_stderr=_shared_stderr(together, rows.rows, planned.particles),
    )


def _nothing_observed(
    model: LatentVariableModel,
    given: Mapping[str, Tensor],
    missing: frozenset[str],
    lengths: Mapping[str, str],
) -> Tensor | None:
    """The rows in which every element that p scores is missing; ``None`` where none can be."""
    scored = [name for name in given if name in model.p.names]
    if not scored or not missing.issuperset(scored) or model.explains_holes:
        return None
    empty = [unsaid(given, name, lengths).all(1) for name in scored]
    return torch.stack(empty).all(0)


def _shared_stderr(sums: list[Tensor], rows: int, particles: int) -> float | None:
    """Of the mean over rows, from each batch's sum of relative weights, ``(particles,)``."""
    group = processes()
    if not group.any(bool(sums)):
        return None
    mine = torch.stack(sums).sum(0) if sums else torch.zeros(particles, dtype=torch.float64)
    return stderr_of(group.sum(mine) / rows)


_PILOT_SECONDS = 30.0


@dataclass(frozen=True)
class Enough:
    """How many particles an importance estimate of some rows needs, by a pilot.

    Attributes:
        particles: How many to take.
        error: What their draws would add to the mean over rows, bias included, nats; NaN where
            only the bound of one particle is one.
        target: What that was to be below, nats.
        seconds: What the estimate of all rows would take.
        most: The budget: no more particles than that were considered.
        exact: Whether nothing is drawn, so that one does for each row.
    """

    particles: int
    error: float
    target: float
    seconds: float
    most: int
    exact: bool = False

    def __str__(self) -> str:
        if self.exact:
            return f"exact log-likelihoods: nothing is drawn; about {self.seconds:.0f} s"
        if math.isnan(self.error):
            return f"the bound of one particle, the only one there is; about {self.seconds:.0f} s"
        short = "" if self.error <= self.target else ", the most that the budget allows"
        return (
            f"{self.particles:,} particles{short}: their draws add about {self.error:.2g} nats to "
            f"the error of the mean ({self.target:.2g} were asked for); about "
            f"{self.seconds:.0f} s"
        )


def enough_particles(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    tolerance: float | None = None,
    share: float = 0.1,
    rows: int = 100,
    pilot: int = 256,
    most: int = 20_000,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> Enough:
    r"""How many particles make the noise of an estimate small beside what rows differ by.

    A pilot of K particles at some rows, chosen at random, tells what one particle adds: with
    :math:`c_n` the relative variance of a weight of row n, the error of the mean over N rows of k
    particles is about :math:`\sqrt{\bar c / (k N) + b^2}`, where the bias :math:`b` is the
    larger of :math:`\bar c / 2k` and what the bound still rises from K/2 to K, times K/k. Where
    weights have a heavy tail it is a guess (``pareto_k`` of the estimate tells).

    Args:
        model: Left as it was.
        data: Rows: ``data.test``, or named tensors of shape ``(rows, *event)``.
        tolerance: The error that is small enough, nats; a share of the standard error over rows
            if left out.
        share: That share.
        rows: Of the pilot, which has fewer where these would take more than half a minute.
        pilot: K, as well.
        most: The budget: particles at most.
        draw: As for :func:`importance_sampling`.
        seed: Of the pilot, whose draws are not those of the estimate.

    Raises:
        ValueError: As :func:`importance_sampling`, or if the tolerance is not above zero.
    """
    at_least(1, rows=rows, pilot=pilot, most=most)
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance is above 0 nats, found {tolerance}.")
    every = rows_of(model, data, omit=redrawn(draw))
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(every.rows, generator=generator)[:rows]
    some = replace(every, source=every[index], rows=len(index))
    few, pilot = affordable(model, some, pilot, _PILOT_SECONDS, draw=draw)
    index = index[:few].sort().values
    some = replace(every, source=every[index], rows=len(index))
    importance_sampling(model, some, 16, draw=draw, compile=False)  # so that the clock is right
    began = time.perf_counter()
    found = importance_sampling(
        model, some, pilot, draw=draw, seed=seed_of(seed, 1), compile=False
    )
    seconds = (time.perf_counter() - began) / (pilot * len(index)) * every.rows
    target = tolerance or share * float(found.log_px.std()) / math.sqrt(every.rows)
    if found.particles == 1 and not found.exact:
        return Enough(1, math.nan, target, pilot * seconds, most)
    if found.exact or not math.isfinite(target):
        seconds = seconds if found.exact else pilot * seconds
        return Enough(1 if found.exact else pilot, 0.0, target, seconds, most, found.exact)
    spread = pilot * float(found.log_px_stderr.square().mean())
    rise = found.curve[-1].value - found.curve[-2].value if len(found.curve) > 1 else 0.0
    left = rise * found.curve[-2].particles / (pilot - found.curve[-2].particles)
    bias = max(spread / (2 * pilot), left, 0.0)

    def error(count: int) -> float:
        return math.sqrt(spread / (count * every.rows) + (bias * pilot / count) ** 2)

    steps = [d * 10**e for e in range(1, 12) for d in (1, 2, 5) if d * 10**e <= most]
    count = next((each for each in steps if error(each) <= target), most)
    return Enough(count, error(count), target, seconds * count, most)


def _curve(levels: Mapping[int, Tensor]) -> tuple[CurvePoint, ...]:
    points: list[CurvePoint] = []
    before: Tensor | None = None
    for particles, values in sorted(levels.items()):
        rise = None if before is None else values - before
        points.append(
            CurvePoint(
                float(values.mean()),
                stderr_of(values),
                particles,
                math.nan if rise is None else float(rise.mean()),
                math.nan if rise is None else stderr_of(rise),
            )
        )
        before = values
    return tuple(points)


# Log-weights wait until there are so many particles, and are then taken in together: the dozen
# small operations that this takes would otherwise follow every chunk.
_TOGETHER = 256


class Totals:
    """Sums over the particles of a batch; nothing here waits for the device.

    Args:
        particles: How many will count.
    """

    def __init__(self, particles: int) -> None:
        self.particles = particles
        self.tail = tail_length(particles) + 1
        self.precision = 0.0  # of the log-weights as they were computed
        self.waiting: list[Tensor] = []  # log-weights not yet taken in, (k, rows) each
        self.last = torch.zeros(())  # those of the last chunk
        self.largest: Tensor | None = None  # (tail, rows), log-weights in falling order
        self.highest: Tensor | None = None  # (rows,), the largest log-weight
        self.sum = self.sum_squares = torch.zeros(())  # of exp(w - highest), (rows,)
        self.terms: dict[str, Tensor] = {}
        self.levels = [_Level(k, ratio) for k, ratio in _group_sizes(particles)]

    def add(self, evidence: Evidence, used: int) -> None:
        """Take one chunk in, of which the first ``used`` particles count."""
        # inside a particle: the sum over enumerated values, whose measure is left when the
        # 1/K of the particles is taken out
        inner = evidence.log_measure + math.log(evidence.batch_shape[-2])
        outer = evidence.particle_dims[:-1]
        log_weight = evidence.log_weight_of_particles()
        self.precision = torch.finfo(log_weight.dtype).eps
        # a copy: what a replayed graph returns is overwritten by the next chunk
        self.last = log_weight[:used].to(torch.float64, copy=True)
        self.waiting.append(self.last)
        for name, term in evidence.terms.items():
            full = term.expand(evidence.batch_shape)
            mean = (inner.exp() * full).sum(outer) if outer and isinstance(inner, Tensor) else full
            total = mean[:used].sum(0, dtype=torch.float64)
            self.terms[name] = self.terms[name] + total if name in self.terms else total
        if sum([len(each) for each in self.waiting]) >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        """Take the waiting log-weights into the sums."""
        if not self.waiting:
            return
        log_weight = self.waiting[0] if len(self.waiting) == 1 else torch.cat(self.waiting)
        self.waiting = []
        self._accumulate(log_weight)
        for level in self.levels:
            log_weight = level.add(log_weight)
            if log_weight.shape[0] == 0:
                break

    def _accumulate(self, log_weight: Tensor) -> None:
        top = log_weight if self.largest is None else torch.cat([self.largest, log_weight])
        self.largest = top.topk(min(self.tail, top.shape[0]), dim=0).values
        before, self.highest = self.highest, self.largest[0]
        anchor = torch.where(self.highest.isneginf(), 0.0, self.highest)
        scaled = (log_weight - anchor).exp()
        fall = 0.0 if before is None else (before - anchor).exp()
        self.sum = self.sum * fall + scaled.sum(0)
        self.sum_squares = self.sum_squares * fall**2 + scaled.square().sum(0)

    def result(self, *, exact: bool) -> dict[str, Tensor]:
        """Quantities of each row, shape ``(rows,)``."""
        self._settle()
        assert self.highest is not None
        assert self.largest is not None
        count = self.particles
        log_px = self.highest + self.sum.log() - math.log(count)
        log_px = torch.where(self.highest.isneginf(), self.highest, log_px)
        ess = self.sum.square() / self.sum_squares
        # Var(w) / (K E[w]^2) = (K sum w^2 / (sum w)^2 - 1) / (K - 1)
        relative = ((count / ess - 1) / (count - 1)).clamp(min=0) if count > 1 else ess * math.nan
        return {
            "log_px": log_px,
            "log_px_stderr": torch.zeros_like(log_px) if exact else relative.sqrt(),
            "elbo": torch.stack(list(self.terms.values())).sum(0) / count,
            "ess": ess,
            "pareto_k": pareto_k(self.largest, precision=self.precision),
            **{f"terms/{name}": total / count for name, total in self.terms.items()},
            **{f"curve/{level.size}": level.mean() for level in self.levels},
            f"curve/{count}": log_px,
        }


class _Level:
    r"""Sum of :math:`L_k` over disjoint groups of k consecutive particles.

    Each level takes the group values of the level before: :math:`L_{50}` is the log-mean-exp of
    five :math:`L_{10}`. What does not fill a group yet is kept.
    """

    def __init__(self, size: int, ratio: int) -> None:
        self.size = size
        self.ratio = ratio
        self.pending: Tensor | None = None
        self.total: Tensor | float = 0.0
        self.groups = 0

    def add(self, values: Tensor) -> Tensor:
        """Group values of shape ``(n, rows)``; returns the groups completed, ``(m, rows)``."""
        if self.ratio > 1:
            if self.pending is not None:
                values = torch.cat([self.pending, values])
            whole = values.shape[0] // self.ratio * self.ratio
            self.pending = values[whole:]
            groups = values[:whole].unflatten(0, (-1, self.ratio)) if whole else values[:0, None]
            values = torch.logsumexp(groups, 1) - math.log(self.ratio)
        self.total = self.total + values.sum(0)
        self.groups += values.shape[0]
        return values

    def mean(self) -> Tensor:
        """Mean of :math:`L_k` over the groups, shape ``(rows,)``."""
        return self.total / self.groups  # type: ignore[return-value]


def _group_sizes(particles: int) -> list[tuple[int, int]]:
    """``(k, k / previous k)`` for k = 1, 5, 10, 50, 100, ... below the number of particles."""
    sizes, size, ratio = [(1, 1)], 5, 5
    while size < particles:
        sizes.append((size, ratio))
        ratio = 7 - ratio  # 5, 2, 5, 2, ...
        size *= ratio
    return sizes
