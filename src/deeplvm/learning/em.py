r"""Expectation maximisation where the posterior is known: linear Gaussian models and mixtures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from deeplvm.conditionals.local import Local, heads_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Draw
from deeplvm.gradients.path_derivatives import StickingTheLanding
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.posterior import first_of
from deeplvm.inference.refinement import check_latents, localised
from deeplvm.inference.rows import Rows, Source, at_least, rows_of
from deeplvm.inference.tempering import Chains
from deeplvm.learning.closed_forms import (
    LinearGaussian,
    MixtureOfGaussians,
    in_units,
    linear_gaussian_of,
    mixture_of,
)
from deeplvm.learning.wake_sleep import of_p, of_q
from deeplvm.objectives import elbo
from deeplvm.randomness import evaluating
from deeplvm.results import Record
from deeplvm.training.step import OptimizerChoice, make_optimizer


@dataclass(frozen=True)
class ExactEM(Record, also="iterations"):
    r"""What exact expectation maximisation did; the model holds what it learned.

    Attributes:
        log_likelihood: Mean :math:`\log p(x)` a row, nats, before the first M-step and after each
            one. It never falls.
        converged: Whether the last step gained less than the tolerance.
        exact_posterior: Whether q is now the exact posterior of a full row, so that the bound of
            such a row is :math:`\log p(x)`.
        rows: How many rows were learned from.
    """

    log_likelihood: tuple[float, ...]
    converged: bool
    exact_posterior: bool
    rows: int

    @property
    def iterations(self) -> int:
        """How many M-steps were made."""
        return len(self.log_likelihood) - 1

    def __str__(self) -> str:
        end = "converged" if self.converged else "not converged: take more iterations"
        return (
            f"exact EM, {self.rows:,} rows: log p(x) {self.log_likelihood[0]:.4f} -> "
            f"{self.log_likelihood[-1]:.4f} nats a row in {self.iterations:,} iterations, {end}"
        )


def exact_em(
    model: LatentVariableModel,
    data: Source | Rows,
    *,
    iterations: int = 500,
    tolerance: float = 1e-7,
    start: Literal["model", "data"] = "model",
    seed: int = 0,
) -> ExactEM:
    r"""Learn p by expectation maximisation with the exact posterior; its likelihood never falls.

    .. math:: q_n(z) = p_\theta(z | x_n), \qquad
              \theta \leftarrow \arg\max_\theta \sum_n E_{q_n}[\log p_\theta(x_n, z)]

    Known posteriors: :math:`x = Wz + b + \varepsilon` with a standard normal z, with one noise
    variance (probabilistic principal components), one for each element (factor analysis) or a
    fixed one; and mixtures of Gaussians with diagonal covariances, ``Categorical(K)`` for y and
    ``Gaussian(D, MLP(K))`` for ``x | y``. Missing elements (NaN) are left out, which is exact.
    Computed in float64, all rows at once; parameters of a float32 model are rounded to it.

    Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977),
    https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; EM Algorithms for PCA and SPCA (Roweis,
    1998), https://papers.nips.cc/paper/1398-em-algorithms-for-pca-and-spca; Mixtures of
    Probabilistic Principal Component Analyzers (Tipping & Bishop, 1999),
    https://doi.org/10.1162/089976699300016728

    Args:
        model: p is changed in place; so is q, where it can be the exact posterior (a full
            Gaussian of a linear map of x). A q of another form is left as it is. For a row with
            missing elements q is not the posterior: refine it there.
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, *event)``, NaN where one is
            missing.
        iterations: M-steps at most.
        tolerance: Stop when a step gains less, nats a row.
        start: ``"model"`` goes on from the parameters as they are; ``"data"`` starts at the mean
            of the data, and a mixture at rows far from one another (k-means++).
        seed: Of the start.

    Raises:
        ValueError: If p is none of these models, or an element of x is never observed.

    Examples:
        >>> import torch
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1), scale="global")})
        >>> model = LatentVariableModel(p, Joint({"z | x": FullCovarianceGaussian(1, MLP(3))}))
        >>> x = torch.randn(100, 1) * torch.tensor([2.0, 1.0, 0.0]) + 0.1 * torch.randn(100, 3)
        >>> learned = exact_em(model, {"x": x})
        >>> learned.log_likelihood[-1] > learned.log_likelihood[0], learned.exact_posterior
        (True, True)
    """
    at_least(1, iterations=iterations)
    if start not in ("model", "data"):
        raise ValueError(f"start is 'model' or 'data', not {start!r}.")
    linear, mixture = linear_gaussian_of(model), mixture_of(model)
    known = linear or mixture
    if known is None:
        raise ValueError(
            f"The posterior of {model.p} is not known in closed form here: exact_em learns a "
            f"StandardNormal with a Gaussian of a linear map (MLP without hidden layers), or a "
            f"Categorical with such a Gaussian. For others use variational_em or fit."
        )
    u, volume = _read(model, data, known.observed, known.likelihood)
    law: _Law = _Linear(linear, u) if linear else _Mixture(mixture, u)  # type: ignore[arg-type]
    if start == "data":
        law.start(seed)
    history = [law.expect() + volume]
    converged = False
    for _ in range(iterations):
        law.maximise()
        history.append(law.expect() + volume)
        converged = history[-1] - history[-2] < tolerance
        if converged:
            break
    exact = linear.write_posterior(model) if linear else False
    return ExactEM(tuple(history), converged, exact, len(u))


class _Law(Protocol):
    """One of the models whose posterior is known, and its data."""

    def start(self, seed: int) -> None:
        """Parameters from the data."""

    def expect(self) -> float:
        """The E-step; mean log-likelihood in standardised units."""
        ...

    def maximise(self) -> None:
        """The M-step."""


class _Linear:
    def __init__(self, model: LinearGaussian, u: Tensor) -> None:
        self.model, self.u = model, u

    def start(self, seed: int) -> None:
        weight, _, variance = self.model.parameters()
        self.model.write(weight, self.u.nanmean(0), variance)

    def expect(self) -> float:
        self.posterior = self.model.posterior(self.u)
        return float(self.posterior.log_px.mean())

    def maximise(self) -> None:
        self.model.maximise(self.u, self.posterior.mean, self.posterior.covariance)


class _Mixture:
    def __init__(self, model: MixtureOfGaussians, u: Tensor) -> None:
        self.model, self.u = model, u

    def start(self, seed: int) -> None:
        self.model.start(self.u, seed)

    def expect(self) -> float:
        self.share, log_px = self.model.responsibilities(self.u)
        return float(log_px.mean())

    def maximise(self) -> None:
        self.model.maximise(self.u, self.share)


def _read(
    model: LatentVariableModel,
    data: Source | Rows,
    name: str,
    likelihood: Any,
) -> tuple[Tensor, float]:
    """The data in standardised units, ``(rows, D)``, and what the units add to ``log p(x)``."""
    taken = rows_of(model, data)
    if name not in taken.names:
        raise ValueError(f"The data have no {name!r} to learn from; they have {taken.names}.")
    x = taken[slice(0, taken.rows)][name]
    u, units = in_units(likelihood, x), likelihood.units
    there = ~u.isnan()
    if not bool(there.any(0).all()):
        raise ValueError(
            f"{int((~there.any(0)).sum())} elements of {name!r} are missing in every row; leave "
            f"them out of the model."
        )
    if units is None:
        return u, 0.0
    log_units = units.std.double().log().flatten().expand(u.shape[1])
    return u, -float((there * log_units).sum(1).mean())


@dataclass(frozen=True, eq=False)
class MonteCarloEM(Record, also="epochs rows", without="latents", means="step_size"):
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

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.step_size)

    def __str__(self) -> str:
        return (
            f"Monte-Carlo EM, {self.rows:,} rows, {self.epochs:,} epochs: log p(x, z) "
            f"{self.log_joint[0]:.4f} -> {self.log_joint[-1]:.4f} nats a row, acceptance "
            f"{self.acceptance[-1]:.2f}"
        )


def monte_carlo_em(
    model: LatentVariableModel,
    data: Source | Rows,
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
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, *event)``, NaN where one is
            missing.
        epochs: Passes over the data.
        batch_size: Rows a step; only their chains move.
        chains: Of each row.
        warmup: Transitions of every chain before the first M-step.
        transitions: Of a chain each time its row is seen.
        steps: Leapfrog steps of a transition.
        learning_rate: Of the M-step, at its start.
        optimizer: As for :func:`~deeplvm.training.fit`.
        teach: Whether q learns the draws; without parameters of its own it does not.
        seed: Same seed, same result.

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
    at_least(
        1, epochs=epochs, batch_size=batch_size, chains=chains, transitions=transitions,
        steps=steps,
    )  # fmt: skip
    at_least(0, warmup=warmup)
    taken = rows_of(model, data)
    count = taken.rows
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
        chains = Chains(space, self.free[:, index], steps)
        chains.size = self.step_size[index]
        probability = chains.move(adapt=True)
        self.free[:, index], self.step_size[index] = chains.point.free, chains.size
        return probability


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


MStep = Literal["auto", "closed form", "gradient"]


@dataclass(frozen=True, eq=False)
class VariationalEM(Record, also="iterations rows", without="model data"):
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

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(next(iter(self.data.values())))

    def __str__(self) -> str:
        return (
            f"variational EM, {self.rows:,} rows: ELBO "
            f"{self.elbo[0]:.4f} -> {self.elbo[-1]:.4f} nats a row in {self.iterations:,} "
            f"iterations, M-step by {self.m_step}"
        )


def variational_em(
    model: LatentVariableModel,
    data: Source | Rows,
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
        data: Rows: ``data.test[:100]``, or named tensors of shape ``(rows, *event)``.
        iterations: E-steps and M-steps.
        steps: Gradient steps of an E-step.
        learning_rate: Of the E-step, at its start.
        particles: Draws per row and step.
        draw: How a latent is drawn; a discrete one is enumerated: ``{"y": Enumerated()}``.
        m_step: ``"closed form"``, ``"gradient"``, or the first where there is one.
        m_steps: Gradient steps of an M-step by gradient, on each batch.
        m_learning_rate: Of these, at the start.
        optimizer: Of these; as for :func:`~deeplvm.training.fit`.
        batch_size: Rows at a time.
        row: What the row's number is called in the local model.
        seed: Same seed, same result.

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
    at_least(
        1, iterations=iterations, steps=steps, particles=particles, m_steps=m_steps,
        batch_size=batch_size,
    )  # fmt: skip
    taken = rows_of(model, data, omit=tuple(draw or ()))
    count = taken.rows
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
        taken: Rows,
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
