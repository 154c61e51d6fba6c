r"""Stochastic variational inference: natural gradients of parameters with conjugate priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.conditionals.bayesian import ConjugateParameter, ExpectedLogarithm, TopicShares
from deeplvm.core.draws import Draw
from deeplvm.core.model import LatentVariableModel
from deeplvm.objectives import elbo
from deeplvm.parallel.processes import processes
from deeplvm.registry import NonNegative
from deeplvm.training.phases import Phase


def natural_gradients(
    model: LatentVariableModel,
    *,
    delay: NonNegative = 1.0,
    forgetting: NonNegative = 0.7,
    draw: Mapping[str, Draw] | None = None,
) -> list[Phase]:
    r"""Parameters with conjugate priors learn by natural gradients, all others by plain ones.

    Of a batch B of the N rows, with :math:`\eta_0` the prior's natural parameters,

    .. math:: \eta \leftarrow (1 - \rho_s)\, \eta + \rho_s \left(\eta_0 + \frac{N}{|B|}
              \sum_{n \in B} E_q[t(x_n, z_n)]\right), \qquad \rho_s = (s + \tau)^{-\kappa}

    which is a step of length :math:`\rho_s` along the natural gradient of the bound. The
    statistics :math:`E_q[t]` are the gradient of the rows' bound with respect to what the
    conditionals read of a parameter, so that any model of them has this phase. With all rows in a
    batch and ``forgetting=0`` it is coordinate ascent, variational Bayes. Steps converge where
    :math:`\kappa` is above 1/2, and at most 1.

    The ``objective`` of an epoch's record is the mean bound with the parameters' divergence, nats
    a row; ``elbo`` is that of the rows alone, :math:`E_{q(\theta)}[\log p(x | \theta)]` or less.

    Stochastic Variational Inference (Hoffman et al., 2013),
    https://jmlr.org/papers/v14/hoffman13a.html

    Args:
        model: Has conditionals with a :class:`~deeplvm.conditionals.bayesian.ConjugateParameter`.
        delay: :math:`\tau`, which makes first steps shorter.
        forgetting: :math:`\kappa`.
        draw: How latents are drawn: :class:`~deeplvm.conditionals.bayesian.ExpectedLogarithm` for
            shares, ``Enumerated()`` for classes. Shares that q computes from topics are by
            themselves.

    Raises:
        ValueError: If no parameter of the model has a conjugate prior, or the delay is so short
            that a step would be longer than one.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import BayesianMixture
        >>> from deeplvm.training import fit
        >>> _ = torch.manual_seed(0)
        >>> x = torch.cat([torch.randn(40, 1) - 3.0, torch.randn(40, 1) + 3.0])
        >>> mixture = BayesianMixture(1, 6)
        >>> model = LatentVariableModel(Joint({"x": mixture}))
        >>> history = fit(
        ...     model, {"x": x}, phases=natural_gradients(model, forgetting=0.0), epochs=60,
        ...     batch_size=80, quiet=True)
        >>> mixture.weights.mean.round(decimals=1).sort().values.tolist()[-2:]
        [0.5, 0.5]
    """
    if forgetting > 0 and delay < 1:
        raise ValueError(f"delay is at least 1, as no step is longer than one, not {delay}.")
    if not (parts := _conjugate(model)):
        raise ValueError(
            f"No parameter of {model.p} has a conjugate prior: natural_gradients is for "
            f"conditionals such as Topics and BayesianMixture; leave it out."
        )
    step = NaturalGradient(delay, forgetting, draw or _shares(model))
    others = _others(model, parts)
    phases = [Phase(update=step, parameters=_of_conjugate)]
    if others:
        phases.append(Phase(elbo, _of_others, draw=step.draw))
    return phases


class NaturalGradient(nn.Module):
    """The step of all parameters with conjugate priors.

    Args:
        delay, forgetting, draw: As for :func:`natural_gradients`.
    """

    taken: Tensor

    def __init__(self, delay: float, forgetting: float, draw: Mapping[str, Draw]) -> None:
        super().__init__()
        self.delay, self.forgetting, self.draw = delay, forgetting, dict(draw)
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def prepare(
        self, model: LatentVariableModel, take: Callable[[int], Any], rows: int, missing: frozenset
    ) -> None:
        """Told how many rows there are."""
        self.rows, self.missing = rows, missing

    def forward(
        self, model: LatentVariableModel, batch: Mapping[str, Tensor], share: float = 1.0
    ) -> Tensor:
        """Take a step; the bound of each row before it, ``(rows,)``, nats."""
        parts = _conjugate(model)
        with torch.enable_grad(), ExitStack() as stack:
            for part in parts:
                part.held = part.expected(part.natural).detach().requires_grad_()
                stack.callback(setattr, part, "held", None)
            evidence = model.evidence(batch, draw=self.draw, missing=self.missing, rows=self.rows)
            values = elbo(evidence)
            read: list[Any] = [part.held for part in parts]
            statistics = torch.autograd.grad(values.mean(), read)
        length = (float(self.taken) + self.delay) ** -self.forgetting if self.forgetting else 1.0
        with torch.no_grad():
            divergence = torch.stack([part.divergence() for part in parts]).sum()
            for part, each in zip(parts, statistics, strict=True):
                target = part.prior + self.rows * processes().sum(share * each)
                part.natural.lerp_(target, length)
            self.taken += 1
            return values.detach() - (divergence / self.rows).to(values)


def _conjugate(model: nn.Module) -> list[ConjugateParameter]:
    return [part for part in model.modules() if isinstance(part, ConjugateParameter)]


def _of_conjugate(model: LatentVariableModel) -> list[nn.Parameter]:
    return [part.natural for part in _conjugate(model)]


def _of_others(model: LatentVariableModel) -> list[nn.Parameter]:
    return _others(model, _conjugate(model))


def _others(model: nn.Module, parts: list[ConjugateParameter]) -> list[nn.Parameter]:
    own = {id(part.natural) for part in parts}
    return [each for each in model.parameters() if id(each) not in own and each.requires_grad]


def _shares(model: LatentVariableModel) -> dict[str, Draw]:
    """Shares of topics, at the expectation of their logarithm."""
    names = [name for name in model.q.names if isinstance(model.q[name], TopicShares)]
    return {name: ExpectedLogarithm() for name in names}
