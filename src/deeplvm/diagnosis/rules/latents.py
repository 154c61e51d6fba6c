"""Latents that do too little, or are too few."""

from __future__ import annotations

import torch
from torch import Tensor

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
    return Verdict(
        "posterior collapse",
        f"{', '.join(dead)} carries nothing about a row (KL {divergence:.3f} nats, no active "
        f"dimension): its q is the same for every row.",
        'Try --objective "free_bits(minimum=0.5)", a slow rise --kl-weight "linear(epochs=20)", '
        f"--phases aggressive, or a weaker network of p{seen.flag('--hidden')}.",
        {"latents": dead, "kl": divergence},
    )


def _says_nothing(seen: Examination, name: str) -> bool:
    """Whether the posterior of a latent is the same for every row, though it is not the prior."""
    parts = seen.surgery.parts
    return name in parts and float(parts[name].mutual_information.mean()) < LITTLE / 5


def too_many_latents(seen: Examination) -> Verdict | None:
    """Most dimensions stay at the prior."""
    for name, latent in seen.use.items():
        active = latent.active_units
        if active is None or latent.collapsed or latent.dimensions < 4:
            continue
        if 2 * active <= latent.dimensions:
            return Verdict(
                "more latents than used",
                f"{active} of the {latent.dimensions} dimensions of {name} are active; the others "
                f"stay at the prior.",
                f"{_of_size(seen, name, active)} would do as well. If more should be used: "
                f'--kl-weight "linear(epochs=20)" or --objective "free_bits(minimum=0.1)".',
                {"latent": name, "active": active, "dimensions": latent.dimensions},
            )
    return None


def too_few_latents(seen: Examination) -> Verdict | None:
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
    least = min([float(latent.kl_by_dimension.min()) for latent in busy])  # type: ignore[union-attr]
    if least < _BUSY:
        return None
    residuals = complete(seen.residuals)
    found, chance = largest_eigenvalue(residuals), 0.0
    generator = torch.Generator().manual_seed(seen.seed)
    for _ in range(_SHUFFLES):
        chance = max(chance, largest_eigenvalue(shuffled(residuals, generator)))
    if found < 1.3 * chance:
        return None
    dimensions = sum([latent.dimensions for latent in busy])
    return Verdict(
        "too few latents",
        f"All {dimensions} dimensions are in full use ({least:.1f} nats or more each), and what "
        f"they leave of x goes together: the largest eigenvalue of its correlations is "
        f"{found:.1f}, by chance {chance:.1f}.",
        f"Try {_of_size(seen, ' and '.join(names), 2 * dimensions)}.",
        {"eigenvalue": found, "by_chance": chance, "least_kl": least},
    )


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


def largest_eigenvalue(values: Tensor) -> float:
    """Of the correlation matrix of the columns."""
    return float(torch.linalg.eigvalsh(torch.corrcoef(values.T))[-1])


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """Each column in an order of its own."""
    order = torch.rand(values.shape, generator=generator).argsort(0).to(values.device)
    return values.gather(0, order)
