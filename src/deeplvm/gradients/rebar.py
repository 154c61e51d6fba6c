"""REBAR: the score-function estimator with a relaxation of the draw as its control variate."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Drawn, Held
from deeplvm.core.trace import sum_right
from deeplvm.gradients.credit import Account, log_weight_at, neutral, over_particles, own_score
from deeplvm.gradients.relaxation import Relaxation, relaxation_at, relaxation_of
from deeplvm.gradients.score_function import Baseline, BesideScore
from deeplvm.networks import MLP
from deeplvm.registry import Positive


@dataclass(frozen=True)
class Relaxed:
    """A relaxed draw at a temperature that has a gradient too."""

    temperature: Tensor

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw between the values."""
        relaxation = relaxation_of(name, distribution, batch_shape, batch_dims)
        value = relaxation.soft(relaxation.perturbed(), self.temperature)
        return Held(value)(name, distribution, batch_shape, batch_dims)


class Control(nn.Module):
    r"""What a control variate learns: its weight, its temperature, and a function of its own.

    Args:
        weight: Of the objective at the relaxed draw.
        temperature: Of the relaxed draw.
        hidden: Widths of the layers of a free function of the perturbed logits and of what the
            latent's conditional reads; ``None`` for no such function.
    """

    def __init__(self, weight: float, temperature: float, hidden: Sequence[int] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.hidden = hidden
        self.free: nn.Sequential | None = None

    def prepare(self, inputs: Sequence[Tensor]) -> None:
        """Make the free function for inputs of these features."""
        if self.hidden is None or self.free is not None:
            return
        like = inputs[0]
        network = MLP(sum([each.shape[-1] for each in inputs]), *self.hidden, activation=nn.Tanh)
        self.free = nn.Sequential(network, nn.Linear(self.hidden[-1], 1))
        self.to(dtype=like.dtype, device=like.device)

    def function(self, name: str, inputs: Sequence[Tensor]) -> Tensor | float:
        """The free function's value, shape ``(*own particles, batch)``, nats."""
        if self.hidden is None:
            return 0.0
        if self.free is None:
            raise ValueError(
                f"The control variate of {name!r} has no network yet: fit makes it, in a loop of "
                f"your own call model.prepare(given, draw=...) before you make the optimiser."
            )
        network, last = self.free
        return last(network(*inputs)).squeeze(-1)


class Rebar(BesideScore):
    r"""The score function where a relaxed draw does not tell, its path where it does.

    With :math:`b = H(z)` the draw of perturbed logits z, :math:`\tilde z \sim p(z | b)`, f the
    objective as a function of the draw, and :math:`c(z) = \eta f(\sigma(z / \tau))`,

    .. math:: ( f(b) - c(\tilde z) ) \nabla \log q(b) + \nabla c(z) - \nabla c(\tilde z).

    z and :math:`\tilde z` share their noise, so that they have one value and two gradients, and a
    latent costs one more evaluation of the model. Unbiased for every objective, every
    :math:`\eta` and :math:`\tau` and any number of particles, for Bernoulli and OneHot latents.
    Latents that q draws later are drawn anew in c: relaxed at the same temperature, or by
    reparameterisation.

    REBAR: Low-variance, unbiased gradient estimates for discrete latent variable models (Tucker,
    Mnih, Maddison, Lawson & Sohl-Dickstein, 2017), https://arxiv.org/abs/1703.07370

    Args:
        baseline: Who guesses the log-weight where the weight of c is not 1; 0 by default.
        weight: :math:`\eta`, where it starts.
        temperature: :math:`\tau`, where it starts.
        learn: Whether both descend the square of the gradient with respect to the logits, whose
            mean is its variance and a constant. It needs second derivatives of the model's
            densities.
        hidden: Widths of a free function in c, see :func:`~deeplvm.gradients.rebar.relax`.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel, elbo
        >>> from deeplvm.conditionals import OneHot, Bernoulli
        >>> p = Joint({"y": OneHot(3), "x | y": Bernoulli(4, MLP(3, 8))})
        >>> q = Joint({"y | x": OneHot(3, MLP(4, 8))})
        >>> way = Rebar()
        >>> value, _ = LatentVariableModel(p, q).estimate(
        ...     elbo, {"x": torch.ones(5, 4)}, draw={"y": way})
        >>> value.mean().backward()
        >>> way.control.weight.grad.shape, way.control.log_temperature.grad.shape
        (torch.Size([]), torch.Size([]))
    """

    def __init__(
        self,
        baseline: Baseline | None = None,
        *,
        weight: float = 1.0,
        temperature: Positive = 0.5,
        learn: bool = True,
        hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__(baseline)
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"Rebar expects a positive temperature, found {temperature}.")
        self.control = Control(weight, temperature, hidden)
        self.own = nn.ModuleDict()
        self.learn = learn
        self.control.requires_grad_(learn)

    def prepare(self, name: str, account: Account) -> None:
        """A baseline and a control variate for a latent of its own, with all their parameters."""
        super().prepare(name, account)
        if name not in self.own:
            control = copy.deepcopy(self.control)
            control.prepare(_inputs(name, account.evidence.q[name].value, account))
            self.own[name] = control

    def credit(self, name: str, account: Account) -> Tensor:
        """The gradient of the logits times the logits, and what the control variate learns."""
        site, dims = account.evidence.q[name], account.log_prob(name).dim()
        guess, learned = self.score.guess(name, account.log_weight(name), account)
        plain = account.signal(name, guess - own_score(name, account))

        relaxation = relaxation_at(name, site)
        control: Any = self.own[name] if name in self.own else self.control  # noqa: SIM401 - a ModuleDict has no get
        gradient = self._gradient(name, account, relaxation, control, plain)
        each = gradient.detach() * neutral(relaxation.logits)
        total = over_particles(sum_right(each, dims))
        if self.learn:
            total = total + _descend(gradient, control, rows=total.numel())
        return total + learned

    def _gradient(
        self, name: str, account: Account, relaxation: Relaxation, control: Control, plain: Tensor
    ) -> Tensor:
        """Of the logits, shape ``(*own particles, batch, *event)``, a function of the control."""
        hard = account.evidence.q[name].value
        perturbed = relaxation.perturbed_given(hard).requires_grad_()
        temperature = control.log_temperature.exp().to(perturbed)
        soft = relaxation.soft(perturbed, temperature)
        weight = log_weight_at(name, soft, account, Relaxed(temperature))
        relaxed = account.signal(name, weight - own_score(name, account))
        free = control.function(name, _inputs(name, perturbed, account))
        variate = control.weight.to(plain) * (plain - relaxed) + free
        (slope,) = torch.autograd.grad(variate.sum(), perturbed, create_graph=self.learn)
        with torch.no_grad():
            score = hard - relaxation.mean()
            path = 1.0 - relaxation.slope_given(hard, perturbed)
        right = [1] * (hard.dim() - plain.dim())
        signal = (plain - variate).reshape(*plain.shape, *right)
        gradient = relaxation.through_softmax(signal * score + slope * path)
        return gradient * account.drawn(name).reshape(*plain.shape, *right)


def _descend(gradient: Tensor, control: Control, rows: int) -> Tensor:
    """A value-neutral term whose ascent lowers the squared gradient of a row.

    It has a gradient for the control variate alone: the squared gradient itself depends on the
    model too, which is not to be moved by it.
    """
    learnt = list(control.parameters())
    found = torch.autograd.grad(gradient.square().sum() / rows, learnt, allow_unused=True)
    terms = [
        (slope * neutral(parameter)).sum()
        for slope, parameter in zip(found, learnt, strict=True)
        if slope is not None
    ]
    return -torch.stack(terms).sum()


def _inputs(name: str, value: Tensor, account: Account) -> list[Tensor]:
    """What the free function reads, each with one dimension of features."""
    dims = account.log_prob(name).dim()
    features = [
        each.features.detach().reshape(*each.features.shape[: each.batch_dims], -1).to(value)
        for each in account.read_by(name)
    ]
    return [value.reshape(*value.shape[:dims], -1), *features]


def relax(
    baseline: Baseline | None = None,
    *,
    hidden: Sequence[int] = (100,),
    weight: float = 1.0,
    temperature: Positive = 0.5,
) -> Rebar:
    r"""REBAR with a network in it: :math:`c(z) = \eta f(\sigma(z / \tau)) + r(z, x)`.

    r reads the perturbed logits and what the latent's conditional reads, and is learned, with
    :math:`\eta` and :math:`\tau`, on the square of the gradient of the logits.
    Unbiased whatever r is. With ``weight=0`` r begins alone.

    Backpropagation through the Void: Optimizing control variates for black-box gradient
    estimation (Grathwohl, Choi, Wu, Roeder & Duvenaud, 2018), https://arxiv.org/abs/1711.00123

    Args:
        baseline: As for :class:`~deeplvm.gradients.rebar.Rebar`.
        hidden: Widths of the layers of r.
        weight: :math:`\eta`, where it starts.
        temperature: :math:`\tau`, where it starts.

    Examples:
        >>> relax(hidden=(50,)).control.hidden
        (50,)
    """
    return Rebar(baseline, weight=weight, temperature=temperature, hidden=hidden)
