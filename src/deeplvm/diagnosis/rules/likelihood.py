"""What makes the reported likelihood doubtful, and where the bound loses."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from deeplvm.diagnosis.remedies import longer, networks, one_of, untried
from deeplvm.diagnosis.rules.training import held_out_curve
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import CannotMeasure, Examination
from deeplvm.likelihood.particle_filter import is_chain
from deeplvm.results import Estimate

_LOSS = 1.0  # nats a row that a bound may lose without a word
_UNSETTLED = 0.2  # nats a row below annealing
_SHARE = 0.02  # of the likelihood's size


def unreliable_weights(seen: Examination) -> Verdict | None:
    """A few draws carry all the weight."""
    estimate = seen.estimate(seen.unseen)
    if not estimate.exact and bool(estimate.pareto_k.isnan().all()):
        raise CannotMeasure(f"{estimate.particles} particles are too few for a tail of weights.")
    if estimate.exact or estimate.heavy <= 0.2:
        return None
    better = untried(seen, "--posterior iaf", '--objective "iwae" --particles 8')
    return Verdict(
        "unreliable importance weights",
        f"In {100 * estimate.heavy:.0f} % of the {seen.unseen} rows Pareto k̂ of "
        f"{estimate.particles:,} importance weights is above 0.7: their likelihood is probably "
        f"underestimated.",
        (
            "deeplvm evaluate RUN measures it by a particle filter too."
            if is_chain(seen.model)
            else "Confirm the number with: deeplvm evaluate RUN --ais."
        )
        + (
            f" A posterior that fits better makes the weights even: {' or '.join(better)}."
            if better
            else ""
        ),
        {"share": estimate.heavy, "particles": estimate.particles},
    )


def unsettled_estimate(seen: Examination) -> Verdict | str | None:
    """Importance sampling stays below what annealing finds on the same rows."""
    if seen.estimate(seen.unseen).exact:
        return None
    found = seen.convergence
    gap = found.gap
    if not gap.above(_UNSETTLED, 4):
        return f"{_seen_above(_UNSETTLED, gap)} nats would have been seen"
    return Verdict(
        "likelihood not settled",
        f"{found.verdict} ({found.rows} {seen.unseen} rows.)",
        "Report the annealed number: deeplvm evaluate RUN --ais. More particles come closer "
        "slowly: --particles 50000.",
        {"below": gap.value, "stderr": gap.stderr},
    )


def family_too_narrow(seen: Examination) -> Verdict | str | None:
    """The approximation gap is large: no member of q's family is close to the posterior."""
    gap, large = _loss(seen, seen.gaps.approximation)
    if not large:
        return f"{_seen_above(_least(seen), gap)} nats would have been seen"
    richer = untried(seen, "--posterior full_covariance", "--posterior iaf")
    families = " or ".join(richer)
    return Verdict(
        "posterior family too narrow",
        f"The best q(z | x) of its family for each row still loses {gap} nats a row "
        f"(approximation gap).",
        f"Try a richer family: {families}."
        if families
        else "Try a richer family of q, such as --recipe vae has with --posterior iaf."
        if not seen.takes("posterior")
        else 'Try more transforms, --posterior "iaf(transforms=4)", or in Python a mixture.',
        {"gap": gap.value, "stderr": gap.stderr},
        gap.value,
    )


def encoder_too_weak(seen: Examination) -> Verdict | str | None:
    """The amortisation gap is large: the encoder does not find the best of its family."""
    gap, large = _loss(seen, seen.gaps.amortisation)
    if not large:
        return f"{_seen_above(_least(seen), gap)} nats would have been seen"
    remedies = [*networks(seen, 2.0), longer(seen), *untried(seen, "--phases aggressive")]
    values, bound = held_out_curve(seen.metrics)
    best = float(np.nanmax(values)) if len(values) and not np.isnan(values).all() else math.nan
    now = Estimate.of(seen.estimate(seen.unseen).elbo)
    other = ""
    if bound == "elbo" and best - now.value > max(_least(seen), 4 * now.stderr):
        other = (
            f" In training the bound of held-out rows was {best:.1f}, and is {now} here: the "
            f"encoder reads something else than it learned from, such as columns in another order "
            f"or unit."
        )
    return Verdict(
        "encoder too weak",
        f"Refining q(z | x) for each row by itself wins {gap} nats a row (amortisation "
        f"gap).{other}",
        f"{one_of(remedies)} In Python deeplvm.inference.SemiAmortised refines each row.",
        {"gap": gap.value, "stderr": gap.stderr},
        gap.value,
    )


def refuse_poor_posterior(seen: Examination, nats: float | None, what: str) -> None:
    """Let a rule that reads draws of q say nothing where q itself explains more than it finds.

    Raises:
        CannotMeasure: If q is further from the posterior than so many nats a row.
    """
    try:
        gap, large = _loss(seen, seen.gaps.total)
    except CannotMeasure:
        return
    if large and gap.value > (nats or 0.0):
        raise CannotMeasure(
            f"q(z | x) is {gap} nats a row away from the posterior, which explains more than "
            f"{what}: mend that first."
        )


def _loss(seen: Examination, values: Tensor) -> tuple[Estimate, bool]:
    """A loss of a number a row, and whether it is clear and large.

    Gaps have a long tail to the right and hardly any to the left, so that their mean has a large
    error; the mean of the values cut at their upper quartile is below it and has a small one.
    """
    gap, cut = Estimate.of(values), Estimate.of(values.clamp(max=float(values.quantile(0.75))))
    least = _least(seen)
    return gap, gap.above(least, 4) or cut.above(least, 4)


def _least(seen: Examination) -> float:
    return max(_LOSS, _SHARE * abs(float(seen.gaps.log_px.mean())))


def _seen_above(least: float, gap: Estimate) -> str:
    """What would have been clear and large enough to be told."""
    return f"{max(least, 4 * gap.stderr):.2f}"
