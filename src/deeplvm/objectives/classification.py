"""The bound of a model with labels, and what its classifier earns."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.objectives.bounds import elbo
from deeplvm.registry import Bounds, NonNegative


def semi_supervised_elbo(
    evidence: Evidence,
    weight: NonNegative = 1.0,
    label: str = "y",
    labelled: Annotated[float, Bounds(0, 1)] | None = None,
    share: Annotated[float, Bounds(0, 1)] = 0.0,
) -> Tensor:
    r"""The ELBO, and :math:`\log q(y | x)` of the rows whose label is given, times a weight.

    .. math:: \mathcal J^\alpha = -\sum_{\text{labelled}} \mathcal L(x, y)
              - \sum_{\text{unlabelled}} \mathcal U(x)
              + \alpha\, E_{\text{labelled}} \log q(y | x)

    The bound of a labelled row does not read :math:`q(y | x)`, which would learn from unlabelled
    rows alone. A weight of 0.1 is the paper's :math:`\alpha = 0.1\, N`.

    Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), eq. 9,
    https://arxiv.org/abs/1406.5298

    Args:
        evidence: The ledger of rows with and without a label (NaN), whose q draws the label,
            summed out by ``draw={"y": Enumerated()}`` as a rule.
        weight: Of the mean of :math:`\log q(y | x)` over the rows that have a label, beside the
            mean of the bound over all rows.
        label: The label's name.
        labelled: The share of the rows that have a label; filled in by the training. 1 by itself.
        share: Of the sum of the bounds, that of the rows with a label, where these are fewer: 100
            of 50,000 rows teach p(x | y, z) little of what the labels mean if each counts once.

    Returns:
        One value per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` of a row
        without label; of one with a label it lies below that on ``log p(x, y)``.

    Raises:
        ValueError: If q has no such name, or no density of it.
    """
    bound, drawn = elbo(evidence), evidence.drawn_in.get(label)
    known = 1.0 if labelled is None else labelled
    with_label, without = 1.0, 1.0
    if known < share:
        with_label, without = share / known, (1 - share) / (1 - known)
    if label in evidence.latents and drawn is None:  # no row has its label
        return without * bound
    site = evidence.q.get(label)
    if site is None or site.distribution is None:
        raise ValueError(
            f"q has no density of {label!r}, so there is no classifier to train; add "
            f"'{label} | ...' to q, or ascend the elbo."
        )
    log_q = site.distribution.log_prob(site.value).expand(evidence.batch_shape)
    earned = with_label * bound + weight * evidence.expectation(log_q) / known
    return earned if drawn is None else torch.where(drawn, without * bound, earned)
