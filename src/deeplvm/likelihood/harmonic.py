r"""The harmonic-type estimator of :math:`p(x)`: posterior draws, and a density fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.diagnostics import rhat
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, latent_dimensions
from deeplvm.inference.tempering import Chains
from deeplvm.randomness import RowNoise
from deeplvm.results import RowEstimate

_DIMENSIONS = 5  # "if the dimensionality of the sampled space is low (less than 5 dimensions)"

# draws (n, rows, D) -> a density of each row, batch shape (rows,), event shape (D,)
Fit = Callable[[Tensor], Distribution]


@dataclass(frozen=True, eq=False)
class HarmonicEstimate(
    RowEstimate,
    also="largest apart",
    without="r_hat",
    means="ess acceptance",
    least="ess acceptance",
    keys={"largest": "r_hat_maximum", "apart": "r_hat_above_1.05"},
):
    r"""Log-likelihood of each row by the harmonic-type estimator; nats.

    ``log_px`` is an *upper* bound in expectation where the chains have arrived;
    ``log_px_stderr`` is its Monte-Carlo standard error, from the spread of the chains' means.

    Attributes:
        ess: Number of independent draws with the same error, shape ``(rows,)``.
        r_hat: :math:`\hat R` of the chains, the largest of any dimension, shape ``(rows,)``;
            above 1.05 they have not met, and the estimate is of a part of the posterior.
        acceptance: Mean probability of moving, shape ``(rows,)``.
        chains: Chains a row whose draws are averaged; as many gave the fit.
        draws: Draws a chain.
        dimensions: D, of the latents together.
    """

    ess: Tensor
    r_hat: Tensor
    acceptance: Tensor
    chains: int
    draws: int
    dimensions: int

    @property
    def apart(self) -> float:
        """Share of rows whose ``r_hat`` is above 1.05."""
        return float((self.r_hat > 1.05).double().mean())

    @property
    def largest(self) -> float:
        """The largest ``r_hat``."""
        return float(self.r_hat.max())

    def __str__(self) -> str:
        return (
            f"{super().__str__()}, {self.chains} chains of {self.draws} posterior draws, "
            f"{float(self.ess.mean()):.0f} effective; acceptance "
            f"{float(self.acceptance.mean()):.2f}, {100 * self.apart:.1f} % of rows with R̂ above "
            f"1.05"
        )


def fitted_normal(draws: Tensor) -> Distribution:
    """A Gaussian with the mean and the full covariance of the draws ``(n, rows, D)``."""
    mean = draws.mean(0)
    apart = draws - mean
    covariance = torch.einsum("nrd,nre->rde", apart, apart) / (len(draws) - 1)
    return MultivariateNormal(mean, covariance)


@dataclass(frozen=True)
class FittedMixture:
    """A mixture of Gaussians of full covariance, by expectation maximisation for each row.

    For posteriors that are bent or have several modes; scikit-learn's ``GaussianMixture``.

    Attributes:
        components: How many Gaussians.
    """

    components: int = 3

    def __call__(self, draws: Tensor) -> Distribution:
        """The mixture of each row for draws ``(n, rows, D)``."""
        from sklearn.mixture import GaussianMixture

        fits = []
        for row in draws.detach().cpu().numpy().transpose(1, 0, 2):
            scale = row.std(0)
            mixture = GaussianMixture(self.components, random_state=0).fit(row / scale)
            fits.append(
                (
                    np.log(np.asarray(mixture.weights_)),
                    mixture.means_ * scale,
                    mixture.covariances_ * np.outer(scale, scale),
                )
            )
        logits, means, covariances = [
            torch.as_tensor(np.stack(each)).to(draws) for each in zip(*fits, strict=True)
        ]
        return MixtureSameFamily(
            Categorical(logits=logits), MultivariateNormal(means, covariances)
        )


def harmonic_likelihood(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    chains: int = 32,
    draws: int = 100,
    *,
    fit: Fit = fitted_normal,
    steps: int = 5,
    warmup: int = 100,
    batch_size: int = 100,
    seed: int = 0,
) -> HarmonicEstimate:
    r""":math:`1 / \hat p(x) = \frac1L \sum_l \hat q(z_l) / (p(z_l)\, p(x | z_l))`.

    The :math:`z_l` are draws of the posterior by Hamiltonian Monte Carlo, :math:`\hat q` is a
    density that was fitted to other draws of it, by chains of their own. The mean in brackets
    estimates :math:`1 / p(x)` for every density :math:`\hat q`. Its variance is finite only where
    :math:`\hat q` has no heavier tails than the posterior, and it grows quickly with the
    dimensions: five at most. Chains start from q, and must all have arrived (``r_hat``); a mode
    that none of them meets is missed, and the estimate is too low by its share.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix D,
    https://arxiv.org/abs/1312.6114

    Args:
        model, data, batch_size, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        chains: Chains whose draws are averaged; as many more give the fit.
        draws: Draws a chain, so that L is ``chains * draws``.
        fit: Draws ``(n, rows, D)`` of the free numbers to a density of each row, batch shape
            ``(rows,)`` and event shape ``(D,)``: :func:`fitted_normal`, or
            :class:`FittedMixture` for several modes.
        steps: Leapfrog steps a transition.
        warmup: Transitions before draws are kept, in which the step size is found.

    Raises:
        ValueError: If the latents have more than five dimensions or none that is continuous, a
            number is too small, or the chains of a row did not move.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> harmonic_likelihood(model, {"x": torch.zeros(3, 2)}, 8, 20).log_px.shape
        torch.Size([3])
    """
    at_least(2, chains=chains, draws=draws)
    at_least(1, steps=steps, warmup=warmup)
    dimensions = latent_dimensions(model, data)
    if dimensions > _DIMENSIONS:
        raise ValueError(
            f"The harmonic estimator is for at most {_DIMENSIONS} latent dimensions, and the "
            f"latents have {dimensions}: use importance_sampling, or where its weights are too "
            f"uneven annealed_importance_sampling or sequential_monte_carlo."
        )

    def evaluate(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        space = LatentSpace(model, given, missing, noise=noise)
        free, log_joint, acceptance = _walked(space, 2 * chains, draws, steps, warmup)
        _refuse_still(free)
        density = fit(free[:, chains:].flatten(0, 1))
        log_ratio = density.log_prob(free[:, :chains]) - log_joint[:, :chains]  # (N, C, rows)
        return _summed(log_ratio) | {
            "r_hat": rhat(free.transpose(0, 1)).amax(-1),
            "acceptance": acceptance,
        }

    joined = for_rows(model, data, evaluate, batch_size=batch_size, seed=seed, apart=True)
    return HarmonicEstimate(**joined, chains=chains, draws=draws, dimensions=dimensions)


def _walked(
    space: LatentSpace, number: int, draws: int, steps: int, warmup: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior draws ``(draws, chains, rows, D)``, their log-joint, and acceptance, float64."""
    chains = Chains(space, space.posterior(number), steps)
    # at first each chain has its own step size, so that one far out, where slopes are steep, gets
    # back; then one a row, that leaves the posterior as it is
    chains.size = chains.size.expand_as(chains.point.end).clone()
    for _ in range(warmup // 2):
        chains.move(adapt=True)
    chains.size = chains.size.median(0).values
    for _ in range(warmup - warmup // 2):
        chains.move(adapt=True)
    kept, accepted = [], []
    for _ in range(draws):
        accepted.append(chains.move().double().mean(0))
        kept.append((chains.point.free.double(), chains.point.end.double()))
    free, log_joint = [torch.stack(each) for each in zip(*kept, strict=True)]
    return free, log_joint, torch.stack(accepted).mean(0)


def _refuse_still(free: Tensor) -> None:
    still = (free == free[0]).all(-1).all(0).all(0)
    if bool(still.any()):
        raise ValueError(
            f"The chains of {int(still.sum())} rows of a batch did not move, the first of them "
            f"row {int(still.nonzero()[0])} of it; take more warm-up, or use "
            f"importance_sampling."
        )


def _summed(log_ratio: Tensor) -> dict[str, Tensor]:
    r"""The estimate from :math:`\log \hat q - \log p`, ``(draws, chains, rows)``."""
    draws, chains = log_ratio.shape[:2]
    log_mean = log_ratio.logsumexp((0, 1)) - math.log(draws * chains)
    ratio = (log_ratio - log_mean).exp()
    error = ratio.mean(0).std(0) / math.sqrt(chains)
    # equal ratios, of a fit that is the posterior itself, say nothing of the draws' number
    ess = ratio.flatten(0, 1).var(0) / error.square()
    most = float(draws * chains)
    return {
        "log_px": -log_mean,
        "log_px_stderr": error,
        "ess": torch.nan_to_num(ess, nan=most).clamp(max=most),
    }
