r"""Particles of a batch, chunk by chunk: encoded once, in memory independent of their number.

:func:`plan` looks at the model on one row and decides how many rows and particles go through it
at once, by what the processor's caches hold. :class:`Chunks` then yields the evidence of each
chunk, every draw from its own stream, scored by p as it is or by p compiled
(:mod:`deeplvm.likelihood.compiled`).

An estimator needs no more than the log-weights of a chunk. Importance sampling reads them from the
evidence. Annealed importance sampling would start its chains from the same chunks: the latents of
``evidence.q`` are the first states, ``evidence.terms`` their two ends of the path, further noise
comes from streams of other names, and the log-weights that the chains end with go into the same
sums (:class:`deeplvm.likelihood.importance.Totals`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.devices import keep_freed_memory
from deeplvm.gradients import Draw, Enumerated
from deeplvm.inference.rows import Rows, noise_of, size_of
from deeplvm.objectives.bounds import of_one_particle
from deeplvm.randomness import RowNoise

BLOCK = 16
"""Noise is the same in chunks of a multiple of this many particles; see RowNoise."""

# Numbers in the largest tensor of a chunk. On a CPU 4 MB in float32: a handful of such tensors
# stays in the last cache. Elsewhere 128 MB: what fills an accelerator.
_NUMBERS_ON_CPU = 2**20
_NUMBERS_ELSEWHERE = 2**25
_MOST_ROWS = 512
_NUMBERS_AT_MOST = 2**26


@dataclass(frozen=True)
class Plan:
    """How a model is evaluated: what is drawn, and how much at a time.

    Attributes:
        latents: Names that are drawn or enumerated.
        observed: Names that are scored, those shared by all rows apart.
        exact: Whether nothing is random, so that one particle says all.
        particles: Draws of each row.
        batch_size: Rows at a time.
        chunk: Particles at a time.
    """

    latents: tuple[str, ...]
    observed: tuple[str, ...]
    exact: bool
    particles: int
    batch_size: int
    chunk: int

    @property
    def chunks(self) -> int:
        """Chunks in a batch."""
        return -(-self.particles // self.chunk)


def plan(
    model: LatentVariableModel,
    rows: Rows,
    particles: int,
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    draw: Mapping[str, Draw] | None = None,
) -> Plan:
    """How many rows and particles go through the model at once.

    Args:
        model: Called on the first row, and where nothing is drawn on the first two.
        rows: The rows that are to be evaluated.
        particles: Draws of each row.
        batch_size: Rows at a time; chosen by size if left out.
        chunk: Particles at a time, rounded up to whole blocks; chosen by size if left out.
        draw: How a latent is drawn.
    """
    evidence, sizes = _look(model, rows, draw, 1)
    chosen = draw or {}
    exact = all([isinstance(chosen.get(name), Enumerated) for name in evidence.latents])
    if exact and rows.rows > 1:
        # a table of parameters is no larger for two rows, as a network's output is
        sizes = [b - a for a, b in zip(sizes, _look(model, rows, draw, 2)[1], strict=True)]
    values = [site.value for site in evidence.p.values() if isinstance(site.value, Tensor)]
    sizes += [*[value.numel() for value in values], math.prod(evidence.batch_shape)]
    once = exact or of_one_particle(model)
    wanted = 1 if once else particles
    most = _NUMBERS_ON_CPU if rows.device.type == "cpu" else _NUMBERS_ELSEWHERE
    numbers = max(sizes)
    each = numbers * (1 if once else BLOCK)
    fitting = max(1, min(_MOST_ROWS, most // each))
    alone = rows.keys is not None
    size = batch_size or (size_of(rows, fitting) if alone else _even(rows.rows, fitting))
    step = chunk or max(BLOCK, most // (size * numbers) // BLOCK * BLOCK)
    step = 1 if once else min(-(-step // BLOCK), -(-wanted // BLOCK)) * BLOCK
    observed = tuple(
        [n for n in (*evidence.observed, *evidence.drawn_in) if n not in evidence.shared]
    )
    return Plan(evidence.latents, observed, exact, wanted, size, step)


class Chunks:
    """The evidence of the particles of a batch, a chunk at a time.

    Args:
        model: What is evaluated.
        rows: Where its batches come from.
        plan: How much at a time.
        draw: How a latent is drawn.
    """

    def __init__(
        self, model: LatentVariableModel, rows: Rows, plan: Plan, draw: Mapping[str, Draw] | None
    ) -> None:
        self.model = model
        self.rows = rows
        self.plan = plan
        self.draw = draw
        keep_freed_memory(rows.device)

    def __call__(
        self, given: Mapping[str, Tensor], noise: RowNoise
    ) -> Iterator[tuple[Evidence, int]]:
        """The evidence of each chunk of particles, and how many of them count."""
        ready = self.model.encode(given, missing=self.rows.missing)
        for done in range(0, self.plan.particles, self.plan.chunk):
            used = min(self.plan.chunk, self.plan.particles - done)
            # a whole number of blocks is drawn, and the last ones left: see RowNoise
            drawn = used if self.plan.chunk == 1 else -(-used // BLOCK) * BLOCK
            yield (
                self.model.evidence(
                    given,
                    particles=drawn,
                    draw=noise.at(done).draws(self.model.q.names, self.draw),
                    missing=self.rows.missing,
                    rows=self.rows.data_rows,
                    ready=ready,
                ),
                used,
            )

    def some(self, count: int) -> Iterator[Evidence]:
        """The first chunks of the first batch, from streams of their own, to see their cost."""
        few = replace(self.plan, particles=min(count * self.plan.chunk, self.plan.particles))
        trial = Chunks(self.model, self.rows, few, self.draw)
        given = self.rows[slice(0, self.plan.batch_size)]
        noise = noise_of(self.model, given, "trial", self.rows.device)
        for evidence, _ in trial(given, noise):
            yield evidence


def rows_at_once(
    model: LatentVariableModel, rows: Rows, particles: int, draw: Mapping[str, Draw] | None
) -> int:
    """Of how many rows the largest tensor of so many particles takes some hundred megabytes."""
    _, sizes = _look(model, rows, draw, 1)
    return max(1, _NUMBERS_AT_MOST // (particles * max(sizes, default=1)))


def _even(rows: int, most: int) -> int:
    """The size of batches of at most so many rows, none much smaller than the others."""
    return -(-rows // -(-rows // most))


def _look(
    model: LatentVariableModel, rows: Rows, draw: Mapping[str, Draw] | None, count: int
) -> tuple[Evidence, list[int]]:
    """The evidence of one particle of the first rows, and the sizes of tensors on the way."""
    sizes: list[int] = []

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        sizes.append(output.numel() if isinstance(output, Tensor) else 0)

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(look) for module in leaves]
    try:
        evidence = model.evidence(
            rows[slice(0, count)], particles=1, draw=draw, missing=rows.missing,
            rows=rows.data_rows,
        )  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return evidence, sizes
