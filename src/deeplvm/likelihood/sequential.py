r"""Sequential Monte Carlo: chains that walk to the posterior, and are resampled on their way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import Names, Rows, Tensors, for_rows, latent_dimensions
from deeplvm.inference.tempering import Start, Temperatures, Walk, checked, keeping
from deeplvm.randomness import RowNoise
from deeplvm.results import RowEstimate

_PILOT_PARTICLES = 32
_REPORTED = (
    "log_px", "log_px_stderr", "ess", "ess_minimum", "resamplings", "acceptance", "temperatures",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PopulationEstimate(
    RowEstimate,
    also="fewest",
    without="ess_minimum",
    means="ess resamplings",
    keys={"fewest": "ess_minimum"},
):
    r"""Log-likelihood of each row by particles that are resampled; nats.

    ``log_px`` is a lower bound in expectation, ``log_px_stderr`` its Monte-Carlo standard error,
    from the first particle that each one descends from. Where few of these are left (``ess`` near
    one) it ends at 1 nat, whatever the error is: compare seeds then, or take more particles.

    Attributes:
        ess: Effective number of first particles that have descendants in the end, shape
            ``(rows,)``; of the weights, where nothing was resampled.
        ess_minimum: The smallest effective number of particles at any step, or temperature,
            shape ``(rows,)``.
        resamplings: How often the row's particles were resampled, shape ``(rows,)``.
        particles: K, of each row.
    """

    ess: Tensor
    ess_minimum: Tensor
    resamplings: Tensor
    particles: int

    @property
    def fewest(self) -> float:
        """Effective particles where they are the fewest, of all rows and steps."""
        return float(self.ess_minimum.min())


@dataclass(frozen=True, eq=False)
class SequentialEstimate(
    PopulationEstimate,
    means="acceptance temperatures",
    least="acceptance",
    keys={"steps": "leapfrog_steps"},
):
    r"""Log-likelihood of each row by sequential Monte Carlo; nats.

    Attributes are those of :class:`PopulationEstimate`, and:

    Attributes:
        acceptance: Mean probability of moving, shape ``(rows,)``; NaN without a transition.
        temperatures: How many densities each row passed, the last counted, shape ``(rows,)``.
        steps: Leapfrog steps a transition.
        adaptive: Whether the temperatures were found by the chains that were counted.
    """

    acceptance: Tensor
    temperatures: Tensor
    steps: int
    adaptive: bool

    def __str__(self) -> str:
        return (
            f"{super().__str__()}, {self.particles:,} chains, "
            f"{float(self.temperatures.double().mean()):.0f} temperatures, resampled "
            f"{float(self.resamplings.mean()):.1f} times; effective first particles "
            f"{float(self.ess.mean()):.1f}, acceptance {float(self.acceptance.nanmean()):.2f}"
        )


def sequential_monte_carlo(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int = 64,
    temperatures: Temperatures | None = None,
    *,
    steps: int = 10,
    start: Start = "prior",
    keep: float = 0.9,
    adaptive: bool = False,
    resample_below: float = 0.5,
    batch_size: int = 100,
    seed: int = 0,
) -> SequentialEstimate:
    r""":math:`\log p(x)` of every row by resampled chains from the prior, or q, to the posterior.

    Along :math:`f_t = f_0^{1 - \beta_t}\, p(x, z)^{\beta_t}`, as in annealed importance sampling,
    particles of normalised weights W are weighted, resampled (systematically, each row by itself)
    where their effective number is small, and moved by a Hamiltonian transition:

    .. math:: \hat p(x) = \prod_t \sum_k W_{t-1}^k\,
              \left(\frac{p(x, z_{t-1}^k)}{f_0(z_{t-1}^k)}\right)^{\beta_t - \beta_{t-1}}

    Resampling takes chains from where they are lost to where they count, so far fewer
    temperatures are needed than without.

    By default a pilot run finds temperatures and step sizes, which stay fixed for the particles
    that count: the mean of :math:`\hat p(x)` is exactly p(x). With ``adaptive`` the particles
    that count find them on their way, which saves the pilot and biases :math:`\hat p(x)` a
    little, by O(1/particles).

    Sequential Monte Carlo Samplers (Del Moral, Doucet & Jasra, 2006),
    https://doi.org/10.1111/j.1467-9868.2006.00553.x; temperatures by the conditional effective
    number of particles from Toward Automatic Model Comparison (Zhou, Johansen & Aston, 2016),
    https://arxiv.org/abs/1303.3123; the standard error from A General Theory of Particle
    Filters in Hidden Markov Models (Chan & Lai, 2013), https://arxiv.org/abs/1312.5114

    Args:
        model, data, batch_size, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        particles: K, chains a row.
        temperatures: How many, spaced by a pilot, or :math:`\beta_1 < \dots < \beta_T = 1`
            themselves; found by ``keep`` if left out.
        steps: Leapfrog steps a transition.
        start: Where chains begin: ``"prior"`` owes nothing to q, ``"posterior"`` needs fewer
            temperatures where q is good.
        keep: How much of the effective number of particles one temperature may leave, in (0, 1);
            nearer to one takes more temperatures.
        adaptive: Whether the particles that count find temperatures and step sizes.
        resample_below: Share of effective particles below which a row is resampled; 0 never.

    Raises:
        ValueError: If no latent is continuous, or an argument is out of its range.

    Examples:
        >>> import torch
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> sequential_monte_carlo(model, {"x": torch.zeros(3, 2)}, 8).log_px.shape
        torch.Size([3])
    """
    betas = checked(start, temperatures, particles=particles, steps=steps)
    if not 0.0 < keep < 1.0:
        raise ValueError(f"keep is between 0 and 1, found {keep}.")
    if adaptive and betas is not None:
        raise ValueError("adaptive finds the temperatures, so give none.")
    latent_dimensions(model, data)

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        walk = Walk(LatentSpace(model, given, missing, noise=noise), start, steps)
        way: Any = keeping(keep)
        if betas is not None:
            way = walk.schedule(betas)
        elif not adaptive:
            _, way = walk.run(_PILOT_PARTICLES, way, "pilot", resample_below=resample_below)
        found, _ = walk.run(particles, way, "walk", resample_below=resample_below)
        return {name: found[name] for name in _REPORTED}

    joined = for_rows(model, data, measure, batch_size=batch_size, seed=seed, apart=True)
    return SequentialEstimate(**joined, particles=particles, steps=steps, adaptive=adaptive)
