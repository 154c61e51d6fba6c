r"""What a bound loses, and to what: the family of q, or the encoder that chooses within it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Rows
from deeplvm.likelihood.importance import ImportanceEstimate, importance_sampling
from deeplvm.results import Record, mean_of, shown_plain


@dataclass(frozen=True, eq=False)
class InferenceGaps(
    Record, also="elbo_local elbo approximation amortisation total", without="amortised local"
):
    r"""The two parts of :math:`\log p(x) - L(q)`, nats a row.

    .. math:: \log p(x) - L(q) = \underbrace{\log p(x) - L(q^*)}_{\text{approximation gap}}
              + \underbrace{L(q^*) - L(q)}_{\text{amortisation gap}}

    q* is the best of q's family for each row by itself. A large approximation gap asks for a
    richer family (full covariance, a flow), a large amortisation gap for a larger encoder, or for
    semi-amortised inference.

    Attributes:
        amortised: The estimate with q as the encoder gives it.
        local: The estimate with q* in its place, whose ``log_px`` is the one that counts here.
        steps: Gradient steps that were taken from q to q*.
    """

    amortised: ImportanceEstimate
    local: ImportanceEstimate
    steps: int

    @property
    def log_px(self) -> Tensor:
        r""":math:`\log \hat p(x)`, drawn from q*, shape ``(rows,)``."""
        return self.local.log_px

    @property
    def approximation(self) -> Tensor:
        r""":math:`\log \hat p(x) - L(q^*)`, shape ``(rows,)``."""
        return self.local.log_px - self.local.elbo

    @property
    def amortisation(self) -> Tensor:
        r""":math:`L(q^*) - L(q)`, shape ``(rows,)``."""
        return self.local.elbo - self.amortised.elbo

    @property
    def total(self) -> Tensor:
        r""":math:`\log \hat p(x) - L(q)`, shape ``(rows,)``."""
        return self.local.log_px - self.amortised.elbo

    @property
    def elbo(self) -> Tensor:
        r""":math:`L(q)`, shape ``(rows,)``."""
        return self.amortised.elbo

    @property
    def elbo_local(self) -> Tensor:
        r""":math:`L(q^*)`, shape ``(rows,)``."""
        return self.local.elbo

    def to_dict(self) -> dict[str, Any]:
        """Means over rows with their standard errors, as in ``evaluation.json``."""
        log_px = mean_of(self.log_px) | {"pareto_k_above_0.7": self.local.heavy}
        counts = {"rows": self.local.rows, "particles": self.local.particles}
        return {"log_px": log_px} | super().to_dict() | counts

    def table(self) -> list[tuple[str, str, str]]:
        return gaps_table(self.to_dict())

    def notes(self) -> list[str]:
        return [f"nats a row, ± one standard error over {self.local.rows} rows"]


def inference_gaps(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    particles: int = 5_000,
    steps: int = 300,
    learning_rate: float = 0.05,
    step_particles: int = 16,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> InferenceGaps:
    r"""How much of the bound's loss is the family's, and how much the encoder's.

    q is refined for each row (:func:`deeplvm.inference.refine`), and both posteriors are
    evaluated by importance sampling from the same noise, independent of that of the refinement:
    no number profits from what it was chosen by. What is estimated too low is hidden in a gap:
    :math:`\log \hat p(x)` is a lower bound in expectation, so the approximation gap is at least
    as large as reported; and a refinement that has not arrived makes the amortisation gap too
    small and the approximation gap too large by as much. More steps settle it.

    Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
    https://arxiv.org/abs/1801.03558

    Args:
        particles: Draws per row for the bounds and for log p(x).
        steps: Gradient steps of the refinement.
        learning_rate: Of the refinement, at its start.
        step_particles: Draws per row and step of the refinement.
        draw: How a latent is drawn; a discrete one is enumerated.

    Raises:
        ValueError: If q cannot be refined row by row.

    Examples:
        >>> import torch
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> gaps = inference_gaps(model, {"x": torch.ones(4, 2)}, particles=200)
        >>> parts = gaps.approximation + gaps.amortisation
        >>> torch.allclose(parts, gaps.total), bool(gaps.amortisation.mean() > 0)
        (True, True)
    """
    # here: the functions that refine read rows as those of this package do
    from deeplvm.inference.refinement import refine

    refined = refine(
        model, data, steps=steps, learning_rate=learning_rate, particles=step_particles, draw=draw,
        seed=seed,
    )  # fmt: skip
    amortised, local = [
        importance_sampling(each, refined.data, particles, draw=draw, seed=seed)
        for each in (model, refined.model)
    ]
    return InferenceGaps(amortised, local, steps)


def gaps_table(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of a printed table, from :meth:`InferenceGaps.to_dict`."""
    of = f"{plain['rows']:,} rows"
    approximation = f"log p less the bound of the best q of the family for each row; {of}"
    amortisation = f"what the encoder's q is worse than that one; {of}"
    return [
        ("approximation gap", shown_plain(plain["approximation"]), approximation),
        ("amortisation gap", shown_plain(plain["amortisation"]), amortisation),
    ]
