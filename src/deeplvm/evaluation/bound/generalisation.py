r"""What held-out rows lose against training rows: the decoder's part, and the encoder's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.bound.gaps import InferenceGaps, inference_gaps
from deeplvm.gradients import Draw
from deeplvm.results import Estimate, Record, stderr_of

LARGE = 0.1  # nats a row; a smaller gap is not called over-fitting, however certain it is


@dataclass(frozen=True)
class Gap(Estimate):
    """A difference between training rows and held-out rows, nats a row; positive is a loss.

    Attributes:
        value: The difference of means.
        stderr: Its standard error, from the spread over the rows of both; NaN for one row.
    """

    @property
    def overfits(self) -> bool:
        """Whether it is above two standard errors and above :data:`LARGE`."""
        return self.above(LARGE)


@dataclass(frozen=True, eq=False)
class GeneralisationGap(
    Record,
    also="total decoder family encoder encoder_overfits decoder_overfits verdict",
    keys={"total": "elbo"},
):
    r"""The three parts of :math:`L(\text{train}) - L(\text{test})`, which they sum to.

    .. math:: L = \log p(x) - (\log p(x) - L(q^*)) - (L(q^*) - L(q))

    Attributes:
        train: The inference gaps of training rows.
        test: Those of held-out rows.
    """

    train: InferenceGaps
    test: InferenceGaps

    @property
    def total(self) -> Gap:
        r""":math:`L(\text{train}) - L(\text{test})`."""
        return _difference(self.train, self.test, lambda gaps: gaps.amortised.elbo)

    @property
    def decoder(self) -> Gap:
        r""":math:`\log \hat p(\text{train}) - \log \hat p(\text{test})`."""
        return _difference(self.train, self.test, lambda gaps: gaps.log_px)

    @property
    def family(self) -> Gap:
        """Approximation gap, test less train: no network's fault."""
        return _difference(self.test, self.train, lambda gaps: gaps.approximation)

    @property
    def encoder(self) -> Gap:
        """Amortisation gap, test less train: what the encoder says worse of rows it never saw."""
        return _difference(self.test, self.train, lambda gaps: gaps.amortisation)

    @property
    def verdict(self) -> str:
        """What over-fits, in words."""
        encoder, decoder = self.encoder, self.decoder
        if math.isnan(encoder.stderr):
            return "one row a split says nothing of over-fitting: give more rows"
        if encoder.overfits and not decoder.overfits:
            return (
                f"the encoder alone over-fits: held-out rows lose {encoder} nats by its answers, "
                f"and the decoder explains them as well as training rows; refine q, or stop the "
                f"encoder earlier, train it on draws of p, or make it smaller"
            )
        if encoder.overfits:
            return (
                f"both over-fit: the encoder loses {encoder} nats on held-out rows, the decoder "
                f"{decoder}"
            )
        if decoder.overfits:
            return (
                f"the decoder over-fits, or the splits differ: it loses {decoder} nats on "
                f"held-out rows; the encoder does not over-fit"
            )
        return "no over-fitting is seen, in the encoder or in the decoder"

    @property
    def encoder_overfits(self) -> bool:
        """Whether the encoder loses clearly and much more on held-out rows."""
        return self.encoder.overfits

    @property
    def decoder_overfits(self) -> bool:
        """Whether the decoder does."""
        return self.decoder.overfits

    def table(self) -> list[tuple[str, str, str]]:
        return [
            ("ELBO", str(self.total), "training rows less held-out rows, the sum of the rest"),
            ("decoder", str(self.decoder), "log p, training rows less held-out rows"),
            ("family of q", str(self.family), "approximation gap, held-out less training rows"),
            ("encoder", str(self.encoder), "amortisation gap, held-out less training rows"),
        ]

    def notes(self) -> list[str]:
        rows = f"{self.train.local.rows} training and {self.test.local.rows} held-out rows"
        return [f"nats a row, ± one standard error over {rows}", self.verdict]


def generalisation_gap(
    model: LatentVariableModel,
    train: NamedRows,
    test: NamedRows,
    *,
    particles: int = 1_000,
    steps: int = 300,
    learning_rate: float = 0.05,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> GeneralisationGap:
    r"""How much of the bound's loss on held-out rows is the encoder's, and how much the decoder's.

    The bound of both splits is taken apart by :func:`~deeplvm.evaluation.bound.gaps.
    inference_gaps`, with q refined row by row, and the parts are compared:

    .. math:: L(\text{train}) - L(\text{test}) = \Delta \log \hat p
              + \Delta(\text{approximation}) + \Delta(\text{amortisation})

    An encoder can over-fit while the decoder does not. What it loses is then no fault of the
    model, and a refined q has it back. A refinement that has not arrived hides part of it.

    Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
    https://arxiv.org/abs/1801.03558; Generalization Gap in Amortized Inference (Zhang, Hayes &
    Barber, 2022), https://arxiv.org/abs/2205.11640; On the Quantitative Analysis of Decoder-Based
    Generative Models (Wu et al., 2017), https://arxiv.org/abs/1611.04273

    Args:
        train: Training rows, such as ``data.train[:200]``.
        test: Held-out rows.
        particles: Draws a row for the bounds and for log p(x).
        steps: Gradient steps of the refinement.
        learning_rate: Of the refinement, at its start.
        draw: How a latent is drawn; a discrete one is enumerated.

    Raises:
        ValueError: If there are no rows, or q cannot be refined.
    """

    def gaps(rows: NamedRows) -> InferenceGaps:
        return inference_gaps(
            model, rows, particles=particles, steps=steps, learning_rate=learning_rate, draw=draw,
            seed=seed,
        )  # fmt: skip

    return GeneralisationGap(gaps(train), gaps(test))


def _difference(
    first: InferenceGaps, second: InferenceGaps, part: Callable[[InferenceGaps], Tensor]
) -> Gap:
    one, other = part(first).double(), part(second).double()
    return Gap(float(one.mean() - other.mean()), math.hypot(stderr_of(one), stderr_of(other)))
