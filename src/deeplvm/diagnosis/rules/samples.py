"""Draws of the model that are unlike the data, or too much like them."""

from __future__ import annotations

import math

from deeplvm.core.results import finite
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import CannotMeasure, Examination
from deeplvm.evaluation.predictive.checks import CORRELATIONS, Check

_LEVEL = 0.01  # family-wise
_SHARE = 0.1  # by which a share may be off
_RELATIVE = 0.25  # by which anything else may be off, of its own size
_CORRELATION = 0.3  # by which one pair of columns may be off
_EACH_CORRELATION = 0.05  # by which all may be
_COVERAGE = 0.05  # by which an interval's coverage may be off


def unlike_data(seen: Examination) -> Verdict | None:
    """Statistics of draws that are clearly and largely other than those of the data."""
    found = [check for check in seen.checks.found(_LEVEL) if _matters(check)]
    if not found:
        return None
    # a column that is wrong in one statistic is wrong in several: one line each
    columns = {check.column: check for check in reversed(found)}
    shown = [str(check) for check in list(reversed(columns.values()))[:3]]
    more = f"; and {len(columns) - 3} columns more" if len(columns) > 3 else ""
    return Verdict(
        "draws unlike the data",
        f"Draws of the model differ from {seen.held_out} rows: {'; '.join(shown)}{more}.",
        _other_likelihood(found),
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


def _other_likelihood(found: list[Check]) -> str:
    named = {check.statistic: check for check in reversed(found)}
    if "variance-to-mean ratio" in named:
        check = named["variance-to-mean ratio"]
        if check.observed > check.mean:
            return "Counts vary more than the likelihood can: try --likelihood negative-binomial."
        return (
            f"{check.column} varies less than counts do: if it is a grade or a code, try "
            f"--categories {check.column}."
        )
    if "share of zeros" in named:
        return (
            "Zeros are values of their own: try --likelihood poisson or negative-binomial for "
            "counts, or a column that says whether the value is zero beside it."
        )
    if "skewness" in named:
        return (
            "The values are skewed: take their logarithm in the file, or try --likelihood gamma "
            "for positive ones, student-t for heavy tails."
        )
    return "Try another --likelihood, or train longer: the spread is not learned yet."


def lost_correlations(seen: Examination) -> Verdict | None:
    """Columns that go together in the data and not in draws, or the other way round."""
    found = [check for check in seen.checks.checks if check.statistic == CORRELATIONS]
    if not found:
        raise CannotMeasure("There are not two columns of numbers, or far too many.")
    (check,) = found
    columns = seen.numbers_a_row
    # both halves of the matrix count, and what chance alone does is taken off
    excess = max(0.0, check.observed**2 - check.mean**2)
    typical = math.sqrt(excess / (columns * (columns - 1)))
    clear = check.family_wise <= _LEVEL
    if not (clear and excess > 2 * _CORRELATION**2 and typical > _EACH_CORRELATION):
        return None
    return Verdict(
        "correlations unlike the data",
        f"The correlations of {columns} columns of {seen.held_out} rows differ from those of "
        f"draws by {typical:.2f} on average (root mean square; as one pair off by "
        f"{math.sqrt(excess / 2):.2f}).",
        f"Train longer, or with more units{seen.flag('--hidden')} or latents"
        f"{seen.flag('--latent')}; see that the latents have not collapsed.",
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
        "Try a likelihood with heavier tails (--likelihood student-t), weight decay, or earlier "
        "stopping (--patience 10)."
        if narrow
        else "Train longer, or let the scale depend on z (scale='network').",
        {"level": worst.level, "coverage": worst.value, "stderr": worst.stderr},
    )


def hollow_prior(seen: Examination) -> Verdict | None:
    """Much of the prior lies where no posterior is: samples decode what was never learned."""
    found = seen.holes
    share = found.uncovered if found.uncovered is not None else found.hole
    if not (share.value > share.expected + 4 * share.stderr and share.value > 0.15):
        return None
    return Verdict(
        "holes in the prior",
        f"{share} of the prior's draws lie where the posteriors of the training rows hardly are "
        f"({100 * share.expected:g} % would be right), so many samples decode latents that the "
        f"decoder has never seen.",
        f"Train longer, use fewer latents{seen.flag('--latent')}, or learn the prior: in Python, "
        '{"z": MaskedAutoregressiveFlow(16)} in place of StandardNormal.',
        share.to_dict(),
    )


def copies(seen: Examination) -> Verdict | None:
    """Samples that are training rows over again."""
    found = seen.copying
    copied = found.exact - found.exact_fresh > 0.05
    near = not math.isnan(found.p_value) and found.p_value < 1e-4 and found.ratio < 0.8
    close = found.close > 0.05 + 6 * found.close_stderr and found.close > 0.2
    if found.exact_fresh > 0.05:  # values that repeat by themselves: most distances are 0
        near = close = False
    if not (copied or near or close):
        return None
    return Verdict(
        "memorised rows",
        f"Samples lie nearer to training rows than new rows do: {found}.",
        f"Try fewer units{seen.flag('--hidden')}, --weight-decay 1e-4, earlier stopping "
        f"(--patience 10), or more rows; do not publish samples if rows are private.",
        {"ratio": finite(found.ratio), "close": found.close, "exact": found.exact},
    )


def encoder_over_fits(seen: Examination) -> Verdict | None:
    """The encoder is worse on rows that it never saw, the decoder is not."""
    gap = seen.generalisation.encoder
    if not (gap.value > 4 * gap.stderr and gap.value > 0.5):
        return None
    return Verdict(
        "encoder over-fits",
        f"The encoder loses {gap} nats a row more on {seen.held_out} rows than on training rows.",
        "Try a smaller encoder, --patience 10, --phases reweighted_wake_sleep (which trains q on "
        "draws of p), or deeplvm.inference.SemiAmortised.",
        gap.to_dict(),
    )
