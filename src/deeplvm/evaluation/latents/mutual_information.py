r"""Mutual information of a row and its latents under q, by estimators whose bias is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.pairwise import Scores, scores_of
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Rows
from deeplvm.results import Estimate, Record, number, stderr_of

BIAS = {
    "aggregate": "none for the rows as they are; low for what they are drawn from, at most log N",
    "leave_one_out": "high: an upper bound for what the rows are drawn from",
    "stratified": "high for the rows as they are: the logarithm of a noisy aggregate",
    "weighted": "high for the rows as they are, by log of the minibatch to log N",
    "info_nce": "low: a lower bound, at most log of the minibatch",
}


@dataclass(frozen=True)
class InformationEstimate(Estimate):
    r"""One estimator's :math:`I_q(x; z)`, nats.

    Attributes:
        value: Mean over rows.
        stderr: Standard error over rows; NaN for one row. What a row does to the aggregate of the
            others is of second order and not in it.
        bias: In which direction it errs, in words.
    """

    bias: str


@dataclass(frozen=True)
class MutualInformation(Record, also="log_rows saturated"):
    r""":math:`I_q(x; z)` of one latent, or of several together, by every estimator.

    Attributes:
        latents: The latents.
        estimates: By the names of :data:`BIAS`.
        rows: N.
        particles: Draws a row.
        minibatch: Rows in the smallest minibatch.
    """

    latents: tuple[str, ...]
    estimates: dict[str, InformationEstimate]
    rows: int
    particles: int
    minibatch: int

    def __getitem__(self, estimator: str) -> InformationEstimate:
        """By the estimator's name."""
        if estimator not in self.estimates:
            raise KeyError(f"There is no {estimator!r}; there are {', '.join(self.estimates)}.")
        return self.estimates[estimator]

    @property
    def saturated(self) -> bool:
        r"""Whether the aggregate says more than :math:`\log N - 1`: too few rows to tell I."""
        return self["aggregate"].value > math.log(self.rows) - 1.0

    @property
    def log_rows(self) -> float:
        """The most that any estimate here can say."""
        return math.log(self.rows)

    def heading(self) -> str:
        return f"I(x; {', '.join(self.latents)})"

    def table(self) -> list[tuple[str, str, str]]:
        cells = [(name, number(e.value, e.stderr), e.bias) for name, e in self.estimates.items()]
        return [(name, value, f"bias {bias}") for name, value, bias in cells]

    def notes(self) -> list[str]:
        what = (
            f"nats, ± one standard error over {self.rows:,} rows; log N = {self.log_rows:.2f}, "
            f"minibatches of {self.minibatch}"
        )
        more = "log N is nearly reached: more rows would show more information"
        return [what, *([more] if self.saturated else [])]


def mutual_information(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    particles: int = 1,
    minibatch: int = 128,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> dict[str, MutualInformation]:
    r""":math:`I_q(x; z) = E_{x, q(z|x)}[\log q(z|x) - \log q(z)]`, q(z) estimated five ways.

    For a draw z of row n, with N rows, and B in a minibatch:

    - ``aggregate``: :math:`\frac1N \sum_m q(z|x_m)`, the aggregate posterior of the rows. For
      these N rows it is :math:`I_q(n; z)` without bias; for the distribution that they are drawn
      from it is low, at most :math:`\log N`.
    - ``leave_one_out``: :math:`\frac1{N-1} \sum_{m \ne n} q(z|x_m)`, high for that distribution
      (Jensen), so that both together enclose it in expectation.
    - ``info_nce``: the aggregate of a minibatch, which is InfoNCE with the best critic there is,
      :math:`q(z|x)` itself: a lower bound, at most :math:`\log B`.
    - ``stratified`` and ``weighted``: minibatch estimates of the aggregate as in
      :func:`deeplvm.objectives.total_correlation.divergence_parts`. The first is unbiased for
      q(z), so its logarithm makes I too high; the second is too high by :math:`\log B` to
      about :math:`\log N` (exactly where the minibatch is the data set).

    A latent that reads other latents in q has no q(z|x) of its own; it is in the joint one only.

    It costs N² densities a particle, in bounded memory.

    ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman &
    Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf; On
    Variational Bounds of Mutual Information (Poole et al., 2019),
    https://arxiv.org/abs/1905.06922; Isolating Sources of Disentanglement in VAEs (Chen et al.,
    2018), https://arxiv.org/abs/1802.04942; Representation Learning with Contrastive Predictive
    Coding (van den Oord et al., 2018), https://arxiv.org/abs/1807.03748

    Args:
        particles: Draws of every latent a row.
        minibatch: B, at least; rows are put together at random.
        draw: How a latent is drawn; with ``Enumerated()`` nothing is left to chance.

    Returns:
        By the latent's name; where there are several, also by all names, ``"z1, z2"``.

    Raises:
        ValueError: If there are fewer than two rows, no latents, or all rows share a latent.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
        >>> model = LatentVariableModel(p, Joint({"z": Gaussian(2)}))  # q does not look at x
        >>> found = mutual_information(model, {"x": torch.randn(50, 3)})
        >>> abs(found["z"]["aggregate"].value) < 1e-6
        True
    """
    scores = scores_of(
        model, data, particles=particles, minibatch=minibatch, draw=draw,
        seed=seed,
    )  # fmt: skip
    return {key: information_of(scores, key) for key in scores.groups}


def information_of(scores: Scores, key: str) -> MutualInformation:
    """Every estimate of one group of latents."""
    group, rows, batch = scores.groups[key], scores.rows, scores.sizes.double()
    of_batch = torch.logaddexp(group.own, group.near)
    other = ((rows - 1) / (rows * (batch - 1))).log()
    aggregates = {
        "aggregate": group.aggregate,
        "leave_one_out": group.others - math.log(rows - 1),
        "stratified": torch.logaddexp(group.own - math.log(rows), group.near + other),
        "weighted": of_batch - math.log(rows) - batch.log(),
        "info_nce": of_batch - batch.log(),
    }
    estimates = {}
    for name, aggregate in aggregates.items():
        each = scores.mean(group.own - aggregate)
        estimates[name] = InformationEstimate(float(each.mean()), stderr_of(each), BIAS[name])
    smallest = int(scores.sizes.min())
    return MutualInformation(group.latents, estimates, rows, scores.particles, smallest)
