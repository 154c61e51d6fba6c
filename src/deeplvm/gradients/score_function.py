r"""The score-function estimator, and what lowers its variance."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Drawn, Sampled
from deeplvm.core.trace import Site
from deeplvm.gradients.credit import Account, account_of, neutral, over_particles
from deeplvm.gradients.relaxation import relaxation_of
from deeplvm.networks import MLP
from deeplvm.networks.features import out_shape_of
from deeplvm.parallel.statistics import batch_mean


class Baseline(nn.Module):
    """A guess of a particle's log-weight that does not look at its draw; here 0."""

    def guess(self, name: str, log_weight: Tensor, account: Account) -> Tensor:
        """Broadcastable to ``log_weight``, ``(*particles, batch)``, nats."""
        return log_weight.new_zeros(())

    def learn(self, guess: Tensor, log_weight: Tensor) -> Tensor:
        """A value-neutral term whose gradient improves the guess, broadcastable as the guess."""
        return log_weight.new_zeros(())


class RunningMean(Baseline):
    """The mean of log-weights of the steps before.

    Args:
        decay: How much of it a step keeps.
    """

    mean: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0.0 < decay < 1.0:
            raise ValueError(f"RunningMean expects a decay in (0, 1), found {decay}.")
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def guess(self, name: str, log_weight: Tensor, account: Account) -> Tensor:
        """What it was before this step; then it moves."""
        guess = self.mean / self.weight.clamp(min=1e-12)
        if self.training:
            with torch.no_grad():
                new = batch_mean(log_weight.mean()).to(self.mean)
                self.mean.lerp_(new, 1 - self.decay)
                self.weight.lerp_(torch.ones_like(new), 1 - self.decay)
        return guess.to(log_weight)


class Learned(Baseline):
    r"""A network's prediction of the log-weight from what q's conditional reads (NVIL).

    It is trained beside the model on :math:`(\log w - b(x))^2`.

    Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014),
    https://arxiv.org/abs/1402.0030

    Args:
        network: Maps the same parents as the latent's conditional to features; by default a
            multilayer perceptron of ``hidden`` units that is made when training begins.
        hidden: Widths of its layers.
    """

    def __init__(
        self, network: nn.Module | None = None, *, hidden: tuple[int, ...] = (100,)
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.event_dims: list[int] | None = None  # of the parents of a network of our own
        self.network: nn.Module | None = None
        if network is not None:
            self._attach(network)

    def _attach(self, network: nn.Module) -> None:
        shape = out_shape_of(network)
        if shape is None or len(shape) != 1:
            raise ValueError(
                "Learned expects a network with a vector of features (out_features); wrap yours "
                "in Features(network, out_shape=...)."
            )
        self.network, self.last = network, nn.Linear(shape[0], 1)

    def prepare(self, sites: list[Site], like: Tensor) -> None:
        """Make the network, where none was given, for these parents, of a tensor's type."""
        if self.network is not None:
            return
        shapes = [each.features.shape[each.batch_dims :] for each in sites]
        self.event_dims = [len(shape) for shape in shapes]
        self._attach(MLP(sum([shape.numel() for shape in shapes]), *self.hidden))
        self.to(dtype=like.dtype, device=like.device)

    def guess(self, name: str, log_weight: Tensor, account: Account) -> Tensor:
        """The prediction, with its gradient."""
        if self.network is None:
            raise ValueError(
                f"The learned baseline of {name!r} has no network yet: fit makes it, in a loop of "
                f"your own give it one, Learned(MLP(...)), so that an optimiser can know it."
            )
        with torch.enable_grad():
            features = [each.features.detach() for each in account.read_by(name)]
            if self.event_dims is not None:
                features = [
                    each.reshape(*each.shape[: each.dim() - dims], -1).to(log_weight)
                    for each, dims in zip(features, self.event_dims, strict=True)
                ]
            return self.last(self.network(*features)).squeeze(-1).to(log_weight)

    def learn(self, guess: Tensor, log_weight: Tensor) -> Tensor:
        """Minus half the squared error, neutral."""
        return neutral(-0.5 * (log_weight - guess).square())


class LeaveOneOut(Baseline):
    """The mean of the other particles' log-weights: VIMCO's geometric mean of their weights.

    Variational Inference for Monte Carlo Objectives (Mnih & Rezende, 2016),
    https://arxiv.org/abs/1602.06725
    """

    def guess(self, name: str, log_weight: Tensor, account: Account) -> Tensor:
        """For each particle of its own, shape ``(*own particles, batch)``."""
        own = account.log_prob(name).shape[:-1]
        count = torch.Size(own).numel()
        if count < 2:
            raise ValueError(
                f"A leave-one-out baseline for {name!r} compares particles, and there is one; "
                f"use particles=2 or more."
            )
        lead = tuple(range(log_weight.dim() - 1 - len(own)))
        measure = account.evidence.log_measure
        if lead and isinstance(measure, Tensor):
            # values enumerated later weigh q(. | this very draw): only their mean tells nothing
            weight = measure.detach().expand(log_weight.shape)
            weight = (weight - weight.logsumexp(lead, keepdim=True)).exp()
            log_weight = (weight * log_weight).sum(lead)
        dims = tuple(range(len(own)))
        return (log_weight.sum(dims, keepdim=True) - log_weight) / (count - 1)


class ScoreFunction(nn.Module):
    r"""Sampled without a path: the gradient is :math:`s\, \nabla_\phi \log q_\phi(z)`.

    The signal s of a draw is what the objective loses when the draw's log-weight is replaced by
    a guess made without looking at it (:meth:`~deeplvm.gradients.credit.Account.signal`):
    unbiased for every objective and every guess, with the less variance the better the guess.

    Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning
    (Williams, 1992), https://doi.org/10.1007/BF00992696

    Args:
        baseline: Who guesses; 0 by default.
        normalise: Divide the signal by its running standard deviation where that exceeds 1
            (NVIL): the direction in expectation is the same, its length is not.
        local: Leave out the terms that do not depend on the latent (Rao-Blackwellisation).

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel, elbo
        >>> from deeplvm.conditionals import Bernoulli
        >>> p = Joint({"h": Bernoulli(3), "x | h": Bernoulli(4, MLP(3, 8))})
        >>> q = Joint({"h | x": Bernoulli(3, MLP(4, 8))})
        >>> way = {"h": ScoreFunction(LeaveOneOut())}
        >>> value, _ = LatentVariableModel(p, q).estimate(
        ...     elbo, {"x": torch.ones(5, 4)}, particles=8, draw=way)
        >>> value.shape
        torch.Size([5])
    """

    spread: Tensor

    def __init__(
        self, baseline: Baseline | None = None, *, normalise: bool = False, local: bool = True
    ) -> None:
        super().__init__()
        self.baseline = Baseline() if baseline is None else baseline
        # one a latent, where this way of drawing serves several
        self.own = nn.ModuleDict()
        self.normalise, self.local = normalise, local
        self.register_buffer("spread", torch.zeros(()))
        self.sampled = Sampled()

    def forward(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw with ``sample``."""
        return self.sampled(name, distribution, batch_shape, batch_dims)

    def prepare(self, name: str, account: Account) -> None:
        """A baseline for a latent of its own, with all its parameters."""
        if name in self.own:
            return
        baseline = copy.deepcopy(self.baseline)
        if isinstance(baseline, Learned):
            baseline.prepare(account.read_by(name), account.value)
        self.own[name] = baseline

    def guess(self, name: str, log_weight: Tensor, account: Account) -> tuple[Tensor, Tensor]:
        """What a latent's baseline guesses of the log-weight, and what improves it.

        Returns:
            The guess, without gradient, broadcastable to ``log_weight``; and a value-neutral term
            per row, shape ``(batch,)``.
        """
        baseline: Any = self.own[name] if name in self.own else self.baseline  # noqa: SIM401 - no get
        guess = baseline.guess(name, log_weight, account)
        learned = baseline.learn(guess, log_weight).expand(log_weight.shape)
        return guess.detach(), account.evidence.expectation(learned)

    account = staticmethod(account_of)

    def credit(self, name: str, account: Account) -> Tensor:
        """The signals times the log-probabilities of the draws, value-neutral."""
        log_weight = account.log_weight(name, local=self.local)
        guess, learned = self.guess(name, log_weight, account)
        signal = account.signal(name, guess, local=self.local)
        if self.normalise:
            signal = signal / self._scale(signal)
        return over_particles(signal * neutral(account.log_prob(name))) + learned

    def _scale(self, signal: Tensor) -> Tensor:
        """The running standard deviation of the signals, at least 1."""
        if self.training:
            with torch.no_grad():
                mean = batch_mean(signal.mean())
                now = batch_mean((signal - mean).square().mean()).sqrt().to(self.spread)
                self.spread.lerp_(now, 0.1)
        return self.spread.clamp(min=1.0).to(signal)


class BesideScore(nn.Module):
    """A way of drawing that has a path for a part of its gradient, and a score for the rest.

    Here for Bernoulli and OneHot latents.

    Args:
        baseline: Who guesses what the path leaves; 0 by default.
    """

    traceable = False  # it takes a gradient on the way, of which no graph can be made

    def __init__(self, baseline: Baseline | None = None) -> None:
        super().__init__()
        self.score = ScoreFunction(baseline)

    def forward(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw with ``sample``."""
        relaxation_of(name, distribution, batch_shape, batch_dims)  # refuses what has none
        return self.score(name, distribution, batch_shape, batch_dims)

    def prepare(self, name: str, account: Account) -> None:
        """A baseline for a latent of its own, with all its parameters."""
        self.score.prepare(name, account)

    account = staticmethod(account_of)
