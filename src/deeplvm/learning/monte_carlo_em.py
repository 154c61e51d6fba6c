r"""Monte-Carlo expectation maximisation: one persistent Markov chain a row draws its latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deeplvm.evaluation.batches import batches_of, evaluating
from deeplvm.evaluation.numbers import finite
from deeplvm.inference.chains import first_of, scaled
from deeplvm.inference.hamiltonian import adapted, transition
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.model import LatentVariableModel
from deeplvm.training.phases import OptimizerChoice, make_optimizer
from deeplvm.training.wake_sleep import of_p, of_q

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

_GAIN = 0.1  # of the step size's adaptation, at each visit
_TARGET = 0.8  # of the acceptance; with few steps a shorter one that is taken serves best
_JITTER = 0.2


@dataclass(frozen=True, eq=False)
class MonteCarloEM:
    r"""What Monte-Carlo expectation maximisation did; the model holds what it learned.

    Attributes:
        log_joint: Mean of :math:`\log p(x, z)` at the chains' draws in each epoch, nats a row
            (constrained latents as free numbers). No bound on anything: evaluate the model.
        acceptance: Mean Metropolis probability of each epoch.
        latents: Where the chains stand, by name, shape ``(chains, rows, *event)``: draws of the
            posterior of the last parameters, roughly.
        step_size: Of the leapfrog, shape ``(rows,)``.
        taught: Whether q learned the chains' draws.
    """

    log_joint: tuple[float, ...]
    acceptance: tuple[float, ...]
    latents: dict[str, Tensor]
    step_size: Tensor
    taught: bool

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        return len(self.log_joint)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not a number is ``None``."""
        return {
            "log_joint": [finite(each) for each in self.log_joint],
            "acceptance": [finite(each) for each in self.acceptance],
            "step_size": finite(float(self.step_size.mean())),
            "epochs": self.epochs,
            "rows": len(self.step_size),
            "taught": self.taught,
        }

    def __str__(self) -> str:
        return (
            f"Monte-Carlo EM, {len(self.step_size):,} rows, {self.epochs:,} epochs: log p(x, z) "
            f"{self.log_joint[0]:.4f} -> {self.log_joint[-1]:.4f} nats a row, acceptance "
            f"{self.acceptance[-1]:.2f}"
        )


def monte_carlo_em(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    *,
    epochs: int = 200,
    batch_size: int = 100,
    chains: int = 1,
    warmup: int = 20,
    transitions: int = 1,
    steps: int = 5,
    learning_rate: float = 1e-2,
    optimizer: OptimizerChoice = "adam",
    teach: bool = True,
    split: Split = "train",
    rows: int | None = None,
    seed: int = 0,
) -> MonteCarloEM:
    r"""Learn p from draws of its own posterior, that Hamiltonian chains bring, one a row.

    .. math:: z_n \sim p_\theta(z | x_n) \quad \text{(E)}, \qquad
              \theta \leftarrow \theta + \alpha \nabla_\theta \tfrac1M \sum_n
              \log p_\theta(x_n, z_n) \quad \text{(M)}

    A chain goes on where it stood when its row was last seen, so that a transition or two a visit
    are enough while parameters move slowly. Its step size follows its acceptance. No encoder is
    needed; ``teach`` lets q learn the chains' draws all the same,
    :math:`\nabla_\phi \log q_\phi(z_n | x_n)`, which descends :math:`KL(p(z|x) \| q(z|x))`, so
    that the model can be evaluated as any other. Learning rates fall linearly to zero over the
    epochs.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), appendix A.2.3,
    https://arxiv.org/abs/1906.02691; persistent chains: Learning Deep Latent Gaussian Models with
    Markov Chain Monte Carlo (Hoffman, 2017), https://proceedings.mlr.press/v70/hoffman17a.html

    Args:
        model: Changed in place; in ``eval()`` mode meanwhile. Its latents are continuous.
        data: Data, or named tensors of shape ``(rows, *event)``, NaN where an element is missing.
        epochs: Passes over the data.
        batch_size: Rows a step; only their chains move.
        chains: Of each row.
        warmup: Transitions of every chain before the first M-step.
        transitions: Of a chain each time its row is seen.
        steps: Leapfrog steps of a transition.
        learning_rate: Of the M-step, at its start.
        optimizer: As for :func:`~deeplvm.training.fit`.
        teach: Whether q learns the draws; without parameters of its own it does not.
        split: Which split of Data.
        rows: How many, from the first on; all.
        seed: Same seed, same result; torch's own random state is left as it was.

    Raises:
        ValueError: If a latent is discrete or shared by all rows, or a number is below one.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> x = torch.randn(50, 1) * torch.tensor([1.0, 0.5]) + 0.1 * torch.randn(50, 2)
        >>> learned = monte_carlo_em(model, {"x": x}, epochs=8, batch_size=10, learning_rate=0.05)
        >>> learned.log_joint[-1] > learned.log_joint[0], learned.latents["z"].shape
        (True, torch.Size([1, 50, 1]))
    """
    numbers = (epochs, batch_size, chains, transitions, steps, 1 if rows is None else rows)
    if min(numbers) < 1 or warmup < 0:
        raise ValueError(
            f"epochs, batch_size, chains, transitions, steps and rows are at least 1, warmup 0; "
            f"found {', '.join(map(str, numbers))}, {warmup}."
        )
    taken = batches_of(model, data, split)
    count = taken.rows if rows is None else min(rows, taken.rows)
    with evaluating(model, seed), torch.inference_mode(mode=False), torch.enable_grad():
        order = torch.arange(count).split(batch_size)
        spaces = [LatentSpace(model, taken[slice(int(i[0]), int(i[-1]) + 1)], taken.missing)
                  for i in order]  # fmt: skip
        if not spaces[0].size:
            raise ValueError(f"{model.p} has no continuous latent to draw, given the data.")
        with torch.no_grad():
            chain = _Chains(torch.cat([first_of(each, chains) for each in spaces], 1))
            for space, index in zip(spaces, order, strict=True):
                for _ in range(warmup):
                    chain.move(space, index, steps)
        learners = [_Ascent(of_p(model), optimizer, learning_rate)]
        own = [each for each in of_q(model) if each.requires_grad]
        taught = teach and bool(own) and _scores(model, spaces[0])
        if taught:
            learners.append(_Ascent(own, optimizer, learning_rate))
        log_joint, acceptance = [], []
        for epoch in range(epochs):
            total = accepted = 0.0
            for index in torch.randperm(count).split(batch_size):
                space = LatentSpace(model, taken[cast("Any", index)], taken.missing)
                with torch.no_grad():
                    probability = chain.move(space, index, steps)
                    for _ in range(transitions - 1):
                        probability = chain.move(space, index, steps)
                free = chain.free[:, index]
                prior, likelihood = space.log_joint(free)
                value = (prior + likelihood).mean()
                learners[0].step(value, 1.0 - epoch / epochs)
                if taught:
                    learners[1].step(space.log_posterior(free).mean(), 1.0 - epoch / epochs)
                total += value.item() * len(index)
                accepted += float(probability.mean()) * len(index)
            log_joint.append(total / count)
            acceptance.append(accepted / count)
        with torch.no_grad():
            values = [
                space.values(chain.free[:, index])
                for space, index in zip(spaces, order, strict=True)
            ]
    latents = {name: torch.cat([each[name] for each in values], 1) for name in values[0]}
    return MonteCarloEM(
        tuple(log_joint), tuple(acceptance), latents, chain.step_size, bool(taught)
    )


class _Chains:
    """Where the chains of all rows stand.

    Args:
        free: Free numbers, shape ``(chains, rows, D)``.
    """

    def __init__(self, free: Tensor) -> None:
        self.free = free
        start = 0.3 / max(1.0, free.shape[-1] ** 0.25)
        self.step_size = torch.full_like(free[0, :, 0], start)

    def move(self, space: LatentSpace, index: Tensor, steps: int) -> Tensor:
        """One transition of the chains of some rows; the probabilities, ``(chains, batch)``."""
        evaluate = scaled(space, torch.ones_like(self.free[0, 0]))
        size = self.step_size[index]
        jitter = 1.0 + _JITTER * (2.0 * torch.rand_like(size) - 1.0)
        moved = transition(evaluate, evaluate(self.free[:, index]), 1.0, jitter * size, steps)
        self.free[:, index] = moved.point.free
        self.step_size[index] = adapted(size, moved.probability, _TARGET, _GAIN)
        return moved.probability


class _Ascent:
    """Gradient ascent of some parameters, with a rate that falls."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], choice: OptimizerChoice, learning_rate: float
    ) -> None:
        self.parameters = [each for each in parameters if each.requires_grad]
        self.optimizer: Optimizer = make_optimizer(choice, self.parameters, learning_rate, 0.0)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, value: Tensor, factor: float) -> None:
        """Ascend a value, with a share of the learning rate."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        gradients = torch.autograd.grad(value, self.parameters, materialize_grads=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = -gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _scores(model: LatentVariableModel, space: LatentSpace) -> bool:
    """Whether q has a density for every latent that the chains draw."""
    return all([place.name in model.q.names for place in space.places])
