"""Draws of the model that are unlike the data, or too much like them."""

from __future__ import annotations

import math

from torch import Tensor

from deeplvm.conditionals import StandardNormal
from deeplvm.data.likelihood_table import LIKELIHOODS
from deeplvm.data.variable import Variable
from deeplvm.diagnosis.remedies import longer, networks, one_of, stopping, untried
from deeplvm.diagnosis.rules.likelihood import refuse_poor_posterior
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import CannotMeasure, Examination
from deeplvm.evaluation.predictive.checks import CORRELATION, CORRELATIONS, Check, PredictiveChecks
from deeplvm.results import finite

_LEVEL = 0.01  # family-wise
_SHARE = 0.1  # by which a share may be off
_RELATIVE = 0.25  # by which anything else may be off, of its own size
_CORRELATION = 0.3  # by which one pair of columns may be off, where all count
_PAIR = 0.12  # by which the worst pair may be off, beyond what chance does
_EACH_CORRELATION = 0.05  # by which all may be
_COVERAGE = 0.05  # by which an interval's coverage may be off


def _checks(seen: Examination) -> PredictiveChecks:
    """The predictive checks, if they can be as clear as is asked for."""
    found = seen.checks
    if 2 / (found.replicates + 1) > _LEVEL:
        raise CannotMeasure(
            f"{found.replicates} replicated data sets give no p-value below "
            f"{2 / (found.replicates + 1):.3g}, and {_LEVEL} is asked for: Effort(replicates="
            f"{round(2 / _LEVEL) - 1}) or more."
        )
    return found


def unlike_data(seen: Examination) -> Verdict | None:
    """Statistics of draws that are clearly and largely other than those of the data."""
    found = [check for check in _checks(seen).found(_LEVEL) if _matters(check)]
    if not found:
        return None
    # a column that is wrong in one statistic is wrong in several: one line each
    columns = {check.column: check for check in reversed(found)}
    shown = [str(check) for check in list(reversed(columns.values()))[:3]]
    more = f"; and {len(columns) - 3} columns more" if len(columns) > 3 else ""
    return Verdict(
        "draws unlike the data",
        f"Draws of the model differ from {seen.unseen} rows: {'; '.join(shown)}{more}.",
        _other_likelihood(seen, found),
        {"columns": list(columns), "statistics": len(found)},
    )


def _matters(check: Check) -> bool:
    """Whether the difference is large, beside being clear."""
    difference = abs(check.observed - check.mean)
    if check.statistic.startswith("share"):
        return difference > _SHARE
    if check.statistic in ("standard deviation", "variance-to-mean ratio"):
        return difference > _RELATIVE * max(abs(check.observed), abs(check.mean))
    if check.statistic == "skewness":
        return difference > 1.0
    return False


def _other_likelihood(seen: Examination, found: list[Check]) -> str:
    """A likelihood that has what the draws lack and that the columns do not have already."""
    named = {check.statistic: check for check in reversed(found)}
    train = f"train longer ({longer(seen)}), or with more latents or units"
    if check := named.get("variance-to-mean ratio"):
        if check.observed < check.mean:
            return (
                f"{check.column} varies less than counts do: if it is a grade or a code, try "
                f"--categories {check.column}."
            )
        if "negative-binomial" not in _column(seen, check)[0].likelihood:
            return "Counts vary more than the likelihood can: try --likelihood negative-binomial."
        return (
            f"{check.column} varies more than the model has learned, though its likelihood could: "
            f"{train}."
        )
    if check := named.get("share of zeros"):
        variable, known = _column(seen, check)
        if variable.likelihood in ("poisson", "negative-binomial"):
            return (
                f"Zeros are values of their own: try --likelihood zero-inflated-"
                f"{variable.likelihood}."
            )
        whole = bool((known == known.round()).all() and (known >= 0).all())
        counts = "try --likelihood negative-binomial, as these are counts, or "
        counts = counts if whole and variable.kind != "counts" else ""
        beside = "put a column that says whether the value is zero beside it"
        return f"Zeros are values of their own: {counts}{beside}."
    if check := named.get("skewness"):
        variable, known = _column(seen, check)
        positive, now = float(known.min()) > 0, variable.likelihood
        ways = ["take their logarithm in the file"] if positive else []
        ways += ["try --likelihood gamma"] if positive and now != "gamma" else []
        ways += ["try --likelihood student-t for heavy tails"] if now != "student-t" else []
        return f"The values are skewed: {', or '.join(ways or [train])}."
    return f"The spread is not learned yet: {train}; or try another --likelihood."


def _column(seen: Examination, check: Check) -> tuple[Variable, Tensor]:
    """What the data say of a check's column, and its known values in training rows."""
    variable, values = seen.variable, seen.resting("train")
    if check.column in variable.titles:
        place = variable.titles.index(check.column)
        variable, values = variable.each[place], values[:, place]
    return variable, values[~values.isnan()].double()


def lost_correlations(seen: Examination) -> Verdict | str | None:
    """Columns that go together in the data and not in draws, or the other way round."""
    checks = _checks(seen)
    named = {check.statistic: check for check in checks.checks}
    if CORRELATIONS not in named:
        raise CannotMeasure("There are not two columns of numbers, or far too many.")
    check, columns = named[CORRELATIONS], seen.numbers_a_row
    # both halves of the matrix count, and what chance alone does is taken off
    excess = max(0.0, check.observed**2 - check.mean**2)
    typical = math.sqrt(excess / (columns * (columns - 1)))
    all_off = check.family_wise <= _LEVEL and excess > 2 * _CORRELATION**2
    all_off = all_off and typical > _EACH_CORRELATION
    worst, pair = named.get(CORRELATION), checks.pair
    beyond, power, one = 0.0, 0.0, ""
    if worst is not None and pair is not None:
        beyond = math.sqrt(max(0.0, worst.observed**2 - worst.mean**2))
        power = max(math.hypot(_PAIR, worst.mean), float(worst.replicated.quantile(1 - _LEVEL)))
        one = f" {pair} (p = {worst.family_wise:.2g})."
    pair_off = worst is not None and worst.family_wise <= _LEVEL and beyond > _PAIR
    if not (all_off or pair_off):
        return f"one pair off by {power:.2f} would have been seen" if worst is not None else None
    together = (
        f"The correlations of {columns} columns of {seen.unseen} rows differ from those of draws "
        f"by {typical:.2f} on average (root mean square; as one pair off by "
        f"{math.sqrt(excess / 2):.2f})."
    )
    more = [*networks(seen, 2.0), *(["more latents (--latent)"] if seen.takes("latent") else [])]
    return Verdict(
        "correlations unlike the data",
        together + one if all_off else one.strip(),
        f"{one_of([longer(seen), *more])} See that the latents have not collapsed.",
        {"typical": typical, "one_pair": math.sqrt(excess / 2), "columns": columns},
    )


def miscalibrated(seen: Examination) -> Verdict | None:
    """Predictive intervals that hold more or less often than they say."""
    found = seen.calibration
    if not found.coverage:
        raise CannotMeasure("No column holds numbers, whose intervals could be checked.")
    if found.few_particles > 0.5:
        raise CannotMeasure("The predictions of hidden values have too few effective particles.")
    worst = max(found.coverage, key=lambda each: abs(each.value - each.level))
    off = worst.value - worst.level
    if not (abs(off) > 4 * worst.stderr and abs(off) > _COVERAGE and found.p_value < 1e-3):
        return None
    narrow = off < 0
    how = "too narrow: the model is surer than it may be" if narrow else "too wide"
    return Verdict(
        "miscalibrated predictions",
        f"Intervals of {100 * worst.level:.0f} % for values that were hidden hold in "
        f"{100 * worst.value:.1f} ± {100 * worst.stderr:.1f} % of the cases: they are {how}.",
        one_of(
            [*_tails(seen), *untried(seen, "--weight-decay 1e-4"), *stopping(seen), "more rows"]
        )
        if narrow
        else f"Train longer ({longer(seen)}), or let the scale depend on z (scale='network').",
        {"level": worst.level, "coverage": worst.value, "stderr": worst.stderr},
    )


def _tails(seen: Examination) -> list[str]:
    """A likelihood of heavier tails, where the columns' own has light ones."""
    known = {each.likelihood for each in (seen.variable, *seen.variable.parts)} & set(LIKELIHOODS)
    heavier = {LIKELIHOODS[each].heavier for each in known} - {""}
    return [f"--likelihood {each}" for each in sorted(heavier)]


def hollow_prior(seen: Examination) -> Verdict | None:
    """Much of the prior lies where no posterior is: samples decode what was never learned."""
    found = seen.holes
    share = found.uncovered if found.uncovered is not None else found.hole
    if not (share.value > share.expected + 4 * share.stderr and share.value > 0.15):
        return None
    try:
        nats = max(0.0, float(seen.surgery.joint.marginal.mean()))
    except CannotMeasure:
        nats = None
    refuse_poor_posterior(seen, nats, "what lies between them and the prior")
    fewer = ["fewer latents (--latent)"] if seen.takes("latent") else []
    plain = [name for name in seen.use if isinstance(seen.model.p[name], StandardNormal)]
    learned = [
        "to learn the prior (--prior maf)"
        if seen.takes("prior")
        else f'to learn the prior: in Python, {{"{name}": MaskedAutoregressiveFlow('
        f"{seen.use[name].dimensions})}} in place of StandardNormal"
        for name in plain[:1]
    ]
    return Verdict(
        "holes in the prior",
        f"{share} of the prior's draws lie where the posteriors of the training rows hardly are "
        f"({100 * share.expected:g} % would be right), so many samples decode latents that the "
        f"decoder has never seen.",
        one_of([f"longer training ({longer(seen)})", *fewer, *learned]),
        share.to_dict(),
        nats,
    )


def copies(seen: Examination) -> Verdict | None:
    """Samples that are training rows over again."""
    found = seen.copying
    copied = found.exact - found.exact_fresh > 0.05
    near = not math.isnan(found.p_value) and found.p_value < 1e-4 and found.ratio.value < 0.8
    close = found.close.value > 0.05 + 6 * found.close.stderr and found.close.value > 0.2
    if found.exact_fresh > 0.05:  # values that repeat by themselves: most distances are 0
        near = close = False
    if not (copied or near or close):
        return None
    return Verdict(
        "memorised rows",
        f"Samples lie nearer to training rows than new rows do: {found}.",
        one_of(
            [
                *networks(seen, 0.5),
                *untried(seen, "--weight-decay 1e-4"),
                *stopping(seen),
                "more rows",
            ]
        )
        + " Do not publish samples if rows are private.",
        {"ratio": finite(found.ratio.value), "close": found.close.value, "exact": found.exact},
    )


def encoder_over_fits(seen: Examination) -> Verdict | str | None:
    """The encoder is worse on rows that it never saw, the decoder is not."""
    gap = seen.generalisation.encoder
    if not gap.above(0.5, 4):
        return f"a loss of {max(0.5, 4 * gap.stderr):.2f} nats would have been seen"
    remedies = [*stopping(seen), *untried(seen, "--phases reweighted_wake_sleep")]
    return Verdict(
        "encoder over-fits",
        f"The encoder loses {gap} nats a row more on {seen.unseen} rows than on training rows.",
        one_of([*remedies, "a smaller encoder", "deeplvm.inference.SemiAmortised"])
        + " Reweighted wake-sleep trains q on draws of p.",
        gap.to_dict(),
        gap.value,
    )
