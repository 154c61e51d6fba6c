"""Latents that do too little, or are too few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deeplvm.diagnosis.remedies import one_of, untried
from deeplvm.diagnosis.rules.likelihood import refuse_poor_posterior
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import CannotMeasure, Examination
from deeplvm.evaluation.summary import LITTLE

_SHUFFLES = 20
_MOST_ELEMENTS = 400
_BUSY = 0.5  # nats; a dimension that says more is in full use


def collapse(seen: Examination) -> Verdict | None:
    """A latent that says nothing about a row."""
    still = [name for name, latent in seen.use.items() if latent.collapsed]
    # many dimensions that say very little each may say much together
    dead = [name for name in still if seen.use[name].kl < LITTLE or _says_nothing(seen, name)]
    if not dead:
        return None
    divergence = max([seen.use[name].kl for name in dead])
    remedies = untried(
        seen,
        '--objective "free_bits(minimum=0.5)"',
        '--kl-weight "linear(epochs=20)"',
        "--phases aggressive",
    )
    try:
        nats = _a_row(seen) * left_over(complete(seen.residuals), seen.seed).nats
    except CannotMeasure:
        nats = None
    worth = f" What the elements of x have in common is worth {nats:.1f} nats." if nats else ""
    return Verdict(
        "posterior collapse",
        f"{', '.join(dead)} carries nothing about a row (KL {divergence:.3f} nats, no active "
        f"dimension): its q is the same for every row.{worth}",
        one_of([*remedies, "a weaker network of p"]),
        {"latents": dead, "kl": divergence},
        nats,
    )


def _says_nothing(seen: Examination, name: str) -> bool:
    """Whether the posterior of a latent is the same for every row, though it is not the prior."""
    if (steps := seen.steps(name)) > 1:  # whose rows have no one space of latents
        return seen.use[name].kl < steps * LITTLE / 5
    parts = seen.surgery.parts
    return name in parts and float(parts[name].mutual_information.mean()) < LITTLE / 5


def too_many_latents(seen: Examination) -> Verdict | None:
    """Most dimensions stay at the prior."""
    for name, latent in seen.use.items():
        active = latent.active_units
        if active is None or latent.collapsed or latent.dimensions < 4:
            continue
        if 2 * active <= latent.dimensions:
            remedies = untried(
                seen, '--kl-weight "linear(epochs=20)"', '--objective "free_bits(minimum=0.1)"'
            )
            more = f" If more should be used: {' or '.join(remedies)}." if remedies else ""
            return Verdict(
                "more latents than used",
                f"{active} of the {latent.dimensions} dimensions of {name} are active; the others "
                f"stay at the prior ({latent}).",
                f"{_of_size(seen, name, active)} would do as well.{more}",
                {"latent": name, "active": active, "dimensions": latent.dimensions},
            )
    return None


def too_few_latents(seen: Examination) -> Verdict | str | None:
    """Every dimension is in full use, and what z leaves of x still goes together.

    Given z the elements of x should be independent. The largest eigenvalue of the correlations of
    the residuals is compared with that of residuals shuffled within each element.

    A Rationale and Test for the Number of Factors in Factor Analysis (Horn, 1965),
    https://doi.org/10.1007/BF02289447
    """
    names = [n for n, latent in seen.use.items() if latent.kl_by_dimension is not None]
    busy = [seen.use[name] for name in names]
    if not busy:
        raise CannotMeasure("No latent has a divergence of each dimension.")
    of_steps = max([seen.steps(name) for name in names]) > 1
    least = min([float(seen.use[n].kl_by_dimension.min()) / seen.steps(n) for n in names])  # type: ignore[union-attr]
    if least < _BUSY:
        return None
    left = left_over(complete(seen.residuals), seen.seed)
    if left.largest < 1.3 * left.chance:
        return f"an eigenvalue above {1.3 * left.chance:.1f} would have been seen"
    nats = _a_row(seen) * left.nats
    refuse_poor_posterior(seen, nats, "what z leaves of x")
    dimensions = sum([latent.dimensions for latent in busy])
    return Verdict(
        "too few latents",
        f"All {dimensions} dimensions are in full use ({least:.1f} nats or more "
        f"each{' in a step' if of_steps else ''}), and what "
        f"they leave of x goes together: the largest eigenvalue of its correlations is "
        f"{left.largest:.1f}, by chance {left.chance:.1f}; that is worth about {nats:.1f} "
        f"nats a row.",
        f"Try {_of_size(seen, ' and '.join(names), 2 * dimensions)}.",
        {"eigenvalue": left.largest, "by_chance": left.chance, "least_kl": least},
        nats,
    )


def _a_row(seen: Examination) -> float:
    """How many residuals of an element a row has: of sequences one at each step."""
    return seen.steps(seen.scored[0].name) if seen.scored else 1.0


class LeftOver(NamedTuple):
    r"""What residuals have in common.

    Attributes:
        largest: Eigenvalue of their correlations.
        chance: The same of shuffled residuals, the largest of several.
        nats: What the eigenvalues above that are worth a row if residuals are Gaussian,
            :math:`\tfrac12 \sum_i (\lambda_i - 1 - \log \lambda_i)`, less that of chance.
    """

    largest: float
    chance: float
    nats: float


def left_over(residuals: Tensor, seed: int) -> LeftOver:
    """Of residuals, shape ``(rows, elements)``, as :func:`complete` gives them."""
    generator = torch.Generator().manual_seed(seed)
    values = eigenvalues(residuals)
    shuffles = [eigenvalues(shuffled(residuals, generator))[-1] for _ in range(_SHUFFLES)]
    chance = torch.stack(shuffles).max().clamp(min=1.0)
    above = values[values > chance]

    def worth(each: Tensor) -> Tensor:
        return 0.5 * (each - 1 - each.log())

    nats = float((worth(above) - worth(chance)).sum())
    return LeftOver(float(values[-1]), float(chance), nats)


def _of_size(seen: Examination, name: str, size: int) -> str:
    """A latent of another size: by its flag, where that is about this one alone."""
    if len(seen.use) == 1 and seen.takes("latent"):
        return f"--latent {size}"
    return f"{name} of {size} dimension{'s' * (size != 1)}"


def complete(residuals: Tensor) -> Tensor:
    """Residuals of elements that vary, holes at zero; at most 400 elements, evenly chosen.

    Raises:
        CannotMeasure: If there is nothing to correlate.
    """
    filled = residuals.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    # a likelihood far narrower than its errors: heavy tails would make the eigenvalue a matter
    # of single rows
    filled = filled.clamp(-5.0, 5.0)
    filled = filled[:, filled.std(0) > 1e-3]
    if filled.shape[1] < 3 or len(filled) < 30:
        raise CannotMeasure("Correlations need at least 3 elements that vary, and 30 rows.")
    step = -(-filled.shape[1] // _MOST_ELEMENTS)
    return filled[:, ::step]


def eigenvalues(values: Tensor) -> Tensor:
    """Of the correlation matrix of the columns, the largest last."""
    return torch.linalg.eigvalsh(torch.corrcoef(values.T))


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """Each column in an order of its own."""
    order = torch.rand(values.shape, generator=generator).argsort(0).to(values.device)
    return values.gather(0, order)
