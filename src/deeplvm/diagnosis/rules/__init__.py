"""The rules of a diagnosis: each finds one fault, or says nothing."""

from collections.abc import Callable

from deeplvm.diagnosis.rules import data, latents, likelihood, samples, training
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import Examination

Rule = Callable[[Examination], Verdict | str | None]

# Told in this order where nothing else decides it; see deeplvm.diagnosis.verdict.ranked.
RULES: tuple[Rule, ...] = (
    data.shifted_rows,
    data.impossible_rows,
    data.constant_columns,
    data.few_values,
    data.repeated_rows,
    data.scale_at_its_floor,
    training.unstable,
    training.still_rising,
    training.over_fitting,
    latents.collapse,
    latents.too_many_latents,
    latents.too_few_latents,
    likelihood.unreliable_weights,
    likelihood.unsettled_estimate,
    likelihood.family_too_narrow,
    likelihood.encoder_too_weak,
    samples.encoder_over_fits,
    samples.hollow_prior,
    samples.unlike_data,
    samples.lost_correlations,
    samples.miscalibrated,
    samples.copies,
)

__all__ = ["RULES", "Rule"]
