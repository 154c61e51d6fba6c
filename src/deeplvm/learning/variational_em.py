"""Variational expectation maximisation: each row has its own q, and no encoder is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam

from deeplvm.conditionals.local import Local, heads_of
from deeplvm.evaluation.batches import Batches, batches_of, evaluating
from deeplvm.evaluation.numbers import finite
from deeplvm.gradients import Draw
from deeplvm.gradients.sticking import StickingTheLanding
from deeplvm.inference.refinement import check_latents, localised
from deeplvm.learning.linear_gaussian import LinearGaussian, in_units, linear_gaussian_of
from deeplvm.model import LatentVariableModel
from deeplvm.objectives import elbo
from deeplvm.training.phases import OptimizerChoice, make_optimizer
from deeplvm.training.wake_sleep import of_p, of_q

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

MStep = Literal["auto", "closed form", "gradient"]


@dataclass(frozen=True, eq=False)
class VariationalEM:
    r"""What variational expectation maximisation did.

    ``importance_sampling(learned.model, learned.data)`` evaluates the rows that were learned;
    for other rows refine the model's own q, ``refine(model, test)``.

    Attributes:
        model: The same p, and q with a :class:`~deeplvm.conditionals.local.Local` table a row.
        data: The rows, named tensors, with their numbers under ``row``.
        elbo: Mean bound a row, nats, after each E-step, from the draws of its last step.
        m_step: ``"closed form"`` or ``"gradient"``.
    """

    model: LatentVariableModel
    data: dict[str, Tensor]
    elbo: tuple[float, ...]
    m_step: str

    @property
    def iterations(self) -> int:
        """How many E-steps, and M-steps, were made."""
        return len(self.elbo)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not a number is ``None``."""
        return {
            "elbo": [finite(each) for each in self.elbo],
            "iterations": self.iterations,
            "m_step": self.m_step,
            "rows": len(next(iter(self.data.values()))),
        }

    def __str__(self) -> str:
        return (
            f"variational EM, {len(next(iter(self.data.values()))):,} rows: ELBO "
            f"{self.elbo[0]:.4f} -> {self.elbo[-1]:.4f} nats a row in {self.iterations:,} "
            f"iterations, M-step by {self.m_step}"
        )


def variational_em(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    *,
    iterations: int = 100,
    steps: int = 20,
    learning_rate: float = 0.05,
    particles: int = 4,
    draw: Mapping[str, Draw] | None = None,
    m_step: MStep = "auto",
    m_steps: int = 1,
    m_learning_rate: float = 1e-2,
    optimizer: OptimizerChoice = "adam",
    split: Split = "train",
    rows: int | None = None,
    batch_size: int = 1_000,
    row: str = "row",
    seed: int = 0,
) -> VariationalEM:
    r"""Learn p by coordinate ascent on the ELBO: the q of each row, then the parameters of p.

    .. math:: \phi_n \leftarrow \arg\max_\phi L(x_n; \theta, \phi) \quad \text{(E)}, \qquad
              \theta \leftarrow \arg\max_\theta \sum_n L(x_n; \theta, \phi_n) \quad \text{(M)}

    The raw parameters of q are :math:`f(x_n) + \delta_n`: the encoder, as it is, says where a row
    starts, and only :math:`\delta_n` moves, from where it was the iteration before, by Adam with a
    rate that falls to zero in each E-step; with it moves what q takes from no head, such as a
    covariance that all rows share. Draws stick the landing, so that a q that is the
    posterior stays there without noise. Where q can be the posterior, this is exact EM; the more
    steps, the nearer.

    The M-step is in closed form for a linear Gaussian p, from the means and covariances of q, once
    an iteration; else gradient steps after each batch (incremental EM), with a rate that falls
    linearly to zero over the iterations.

    A View of the EM Algorithm that Justifies Incremental, Sparse, and other Variants (Neal &
    Hinton, 1998), https://doi.org/10.1007/978-94-011-5014-9_12; An Introduction to Variational
    Autoencoders (Kingma & Welling, 2019), appendix A.2.2, https://arxiv.org/abs/1906.02691

    Args:
        model: Its p is changed in place, its encoder not; in ``eval()`` mode meanwhile.
        data: Data, or named tensors of shape ``(rows, *event)``.
        iterations: E-steps and M-steps.
        steps: Gradient steps of an E-step.
        learning_rate: Of the E-step, at its start.
        particles: Draws per row and step.
        draw: How a latent is drawn; a discrete one is enumerated: ``{"y": Enumerated()}``.
        m_step: ``"closed form"``, ``"gradient"``, or the first where there is one.
        m_steps: Gradient steps of an M-step by gradient, on each batch.
        m_learning_rate: Of these, at the start.
        optimizer: Of these; as for :func:`~deeplvm.training.fit`.
        split: Which split of Data.
        rows: How many, from the first on; all.
        batch_size: Rows at a time.
        row: What the row's number is called in the local model.
        seed: Same seed, same result; torch's own random state is left as it was.

    Raises:
        ValueError: If q has no parameters that can be made local, or an option makes no sense.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> x = torch.randn(50, 1) * torch.tensor([1.0, 0.5]) + 0.1 * torch.randn(50, 2)
        >>> learned = variational_em(model, {"x": x}, iterations=20)
        >>> learned.elbo[-1] > learned.elbo[0], learned.m_step
        (True, 'gradient')
    """
    numbers = (iterations, steps, particles, m_steps, batch_size, 2 if rows is None else rows)
    if min(numbers) < 1:
        raise ValueError(
            f"iterations, steps, particles, m_steps, batch_size and rows are at least 1; found "
            f"{', '.join(map(str, numbers))}."
        )
    taken = batches_of(model, data, split, omit=tuple(draw or ()))
    count = taken.rows if rows is None else min(rows, taken.rows)
    closed = _closed(model, m_step)
    with evaluating(model, seed), torch.inference_mode(mode=False), torch.enable_grad():
        parts = [
            _Part(model, taken, slice(start, min(start + batch_size, count)), particles, draw, row)
            for start in range(0, count, batch_size)
        ]
        parameters = of_p(model)
        ascent = make_optimizer(optimizer, parameters, m_learning_rate, 0.0)
        rates = [float(group["lr"]) for group in ascent.param_groups]
        history = []
        for iteration in range(iterations):
            total = 0.0
            for group, rate in zip(ascent.param_groups, rates, strict=True):
                group["lr"] = rate * (1.0 - iteration / iterations)
            for part in parts:
                total += part.expect(steps, learning_rate)
                for _ in range(0 if closed else m_steps):
                    _ascend(ascent, parameters, part)
            history.append(total / count)
            if closed:
                _maximise(closed, parts)
    return VariationalEM(
        *_joined(model, parts, count, row), tuple(history), "closed form" if closed else "gradient"
    )


class _Part:
    """Some rows with their tables, kept from iteration to iteration."""

    def __init__(
        self,
        model: LatentVariableModel,
        taken: Batches,
        index: slice,
        particles: int,
        draw: Mapping[str, Draw] | None,
        row: str,
    ) -> None:
        self.data = taken[index]
        count = index.stop - index.start
        self.model = localised(model, count, row).eval()
        self.given = self.data | {row: torch.arange(count, device=taken.device)}
        self.moved = [*tables_of(self.model), *common_of(model)]
        self.options: dict[str, Any] = {"missing": taken.missing, "rows": taken.data_rows}
        with torch.no_grad():
            evidence = self.model.evidence(self.given, draw=draw, **self.options)
            check_latents(self.model.q, evidence)
        sticking = {name: StickingTheLanding() for name in evidence.latents}
        self.options |= {"draw": sticking | dict(draw or {}), "particles": particles}

    def bound(self) -> Tensor:
        """The ELBO of each row, from fresh draws, shape ``(batch,)``."""
        value, _ = self.model.estimate(elbo, self.given, **self.options)
        return value

    def expect(self, steps: int, learning_rate: float) -> float:
        """Ascend in q; the sum of the bounds of the last step."""
        optimizer = Adam(self.moved, lr=learning_rate)
        total = torch.zeros(())
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            total = self.bound().sum()
            gradients = torch.autograd.grad(total, self.moved, materialize_grads=True)
            for parameter, gradient in zip(self.moved, gradients, strict=True):
                parameter.grad = -gradient
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.item()

    @torch.no_grad()
    def moments(self, latent: str) -> tuple[Tensor, Tensor]:
        """Means ``(batch, K)`` and covariances ``(batch, K, K)`` of q, float64."""
        normal: Any = self.model.posterior(self.given, missing=self.options["missing"])[
            latent
        ].distribution
        full = hasattr(normal, "covariance_matrix")
        covariance = normal.covariance_matrix if full else torch.diag_embed(normal.variance)
        covariance = covariance.double().expand(*normal.mean.shape, normal.mean.shape[-1])
        return normal.mean.double(), covariance


def tables_of(model: LatentVariableModel) -> list[nn.Parameter]:
    """The local parameters of a localised model, each ``(rows, *raw_shape)``."""
    factors: Any = model.q.factors.values()
    return [table for part in factors if isinstance(part, Local) for table in part.corrections]


def common_of(model: LatentVariableModel) -> list[nn.Parameter]:
    """What q takes from no head, such as a covariance that all rows share."""
    amortised = {each for head in heads_of(model.q) for each in head.parameters()}
    return [each for each in of_q(model) if each not in amortised and each.requires_grad]


def _closed(model: LatentVariableModel, m_step: MStep) -> LinearGaussian | None:
    """The linear model whose M-step is to be taken in closed form, if any."""
    if m_step not in ("auto", "closed form", "gradient"):
        raise ValueError(f"m_step is 'auto', 'closed form' or 'gradient', not {m_step!r}.")
    linear = None if m_step == "gradient" else linear_gaussian_of(model)
    if linear is None and m_step == "closed form":
        raise ValueError(
            f"The M-step of {model.p} has no closed form here: that is for a StandardNormal with "
            f"a Gaussian of a linear map; take m_step='gradient'."
        )
    return linear


def _maximise(linear: LinearGaussian, parts: list[_Part]) -> None:
    u = torch.cat([in_units(linear.likelihood, part.data[linear.observed]) for part in parts])
    means, covariances = zip(*[part.moments(linear.latent) for part in parts], strict=True)
    linear.maximise(u, torch.cat(means), torch.cat(covariances))


def _ascend(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], part: _Part) -> None:
    """One gradient step of p on the mean bound of some rows."""
    value = part.bound().mean()
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = -gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _joined(
    model: LatentVariableModel, parts: list[_Part], count: int, row: str
) -> tuple[LatentVariableModel, dict[str, Tensor]]:
    """One local model of all rows, and their data."""
    whole = localised(model, count, row)
    with torch.no_grad():
        for index, table in enumerate(tables_of(whole)):
            table.copy_(torch.cat([tables_of(part.model)[index] for part in parts]))
    data = {name: torch.cat([part.data[name] for part in parts]) for name in parts[0].data}
    device = tables_of(whole)[0].device
    return whole, data | {row: torch.arange(count, device=device)}
