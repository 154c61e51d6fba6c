"""What makes the reported likelihood doubtful, and where the bound loses."""

from __future__ import annotations

from deeplvm.core.results import number, stderr_of
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import Examination

_LOSS = 1.0  # nats a row that a bound may lose without a word
_UNSETTLED = 0.2  # nats a row below annealing
_SHARE = 0.02  # of the likelihood's size


def unreliable_weights(seen: Examination) -> Verdict | None:
    """A few draws carry all the weight."""
    estimate = seen.estimate(seen.held_out)
    if estimate.exact or estimate.heavy <= 0.2:
        return None
    return Verdict(
        "unreliable importance weights",
        f"In {100 * estimate.heavy:.0f} % of the {seen.held_out} rows Pareto k̂ of "
        f"{estimate.particles:,} importance weights is above 0.7: their likelihood is probably "
        f"underestimated.",
        f"Confirm the number with: deeplvm evaluate RUN --ais. A posterior that fits better makes "
        f"the weights even: {_richer(seen, 'iaf')}, or --objective iwae --particles 8.",
        {"share": estimate.heavy, "particles": estimate.particles},
    )


def unsettled_estimate(seen: Examination) -> Verdict | None:
    """Importance sampling stays below what annealing finds on the same rows."""
    if seen.estimate(seen.held_out).exact:
        return None
    found = seen.convergence
    gap = found.gap
    if not (gap.value > 4 * gap.stderr and gap.value > _UNSETTLED):
        return None
    return Verdict(
        "likelihood not settled",
        f"{found.verdict} ({found.rows} {seen.held_out} rows.)",
        "Report the annealed number: deeplvm evaluate RUN --ais. More particles come closer "
        "slowly: --particles 50000.",
        {"below": gap.value, "stderr": gap.stderr},
    )


def family_too_narrow(seen: Examination) -> Verdict | None:
    """The approximation gap is large: no member of q's family is close to the posterior."""
    gap = seen.gaps.approximation
    mean, error = float(gap.mean()), stderr_of(gap)
    if not _large(mean, error, float(seen.gaps.log_px.mean())):
        return None
    return Verdict(
        "posterior family too narrow",
        f"The best q(z | x) of its family for each row still loses {number(mean, error)} nats a "
        f"row (approximation gap).",
        f"Try a richer family: {_richer(seen, 'full_covariance', 'iaf')}.",
        {"gap": mean, "stderr": error},
    )


def encoder_too_weak(seen: Examination) -> Verdict | None:
    """The amortisation gap is large: the encoder does not find the best of its family."""
    gap = seen.gaps.amortisation
    mean, error = float(gap.mean()), stderr_of(gap)
    if not _large(mean, error, float(seen.gaps.log_px.mean())):
        return None
    return Verdict(
        "encoder too weak",
        f"Refining q(z | x) for each row by itself wins {number(mean, error)} nats a row "
        f"(amortisation gap).",
        f"Try a larger encoder{seen.flag('--hidden 512 512')}, longer training, or --phases "
        f"aggressive; deeplvm.inference.SemiAmortised refines each row.",
        {"gap": mean, "stderr": error},
    )


def _richer(seen: Examination, *families: str) -> str:
    """Families of q, by their flags; of a recipe that has but one, where there are others."""
    flags = " or ".join([f"--posterior {family}" for family in families])
    return flags if seen.takes("posterior") else f"as --recipe vae has with {flags}"


def _large(mean: float, error: float, log_px: float) -> bool:
    return mean > 4 * error and mean > max(_LOSS, _SHARE * abs(log_px))
