r"""Markov chains of the latents of each row: draws of the exact posterior of a trained model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.diagnostics import (
    bulk_effective_size,
    rank_normalised_split_rhat,
    tail_effective_size,
)
from deeplvm.inference.hmc import TARGET, DualAveraging, Spread, transition, windows
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.nuts import no_u_turn
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, latent_dimensions
from deeplvm.inference.tempering import density
from deeplvm.randomness import RowNoise
from deeplvm.results import Record

Method = Literal["nuts", "hmc"]
_METHODS = ("nuts", "hmc")
_PILOT = 64  # draws of q that say how large each latent is before any chain has moved
_RHAT, _PER_CHAIN = 1.01, 100.0  # Vehtari et al.: R-hat, and effective draws a chain


@dataclass(frozen=True, eq=False)
class PosteriorDraws(
    Record,
    also="rows chains length diverged cut latents warnings",
    without="draws rhat bulk_ess tail_ess divergences longest",
    means="acceptance depth step_size evaluations",
    keys={"length": "draws", "diverged": "divergences", "cut": "cut_at_greatest_depth"},
):
    r"""Draws of :math:`p(z | x)` for each row, and what says whether they are.

    Attributes:
        draws: By name of the latent, shape ``(chains, draws, rows, *event)``.
        rhat: Rank-normalised split :math:`\hat R` by name, shape ``(rows, *event)``.
        bulk_ess: Effective number of draws for the mean, of all chains together, same shape.
        tail_ess: The same for the quantiles of 5 % and 95 %.
        acceptance: Mean Metropolis probability, shape ``(rows,)``.
        divergences: Transitions after warm-up that lost their energy, all chains, ``(rows,)``.
        longest: Transitions cut at the greatest depth, all chains, ``(rows,)``; zero for HMC.
        depth: Mean number of doublings a transition, ``(rows,)``; NaN for HMC.
        step_size: Of the leapfrog, in units of the latents' scales, ``(rows,)``.
        evaluations: Gradients of the log joint density a chain took, warm-up too, ``(rows,)``.
        method: ``"nuts"`` or ``"hmc"``.
        warmup: Transitions before the first draw.
    """

    draws: dict[str, Tensor]
    rhat: dict[str, Tensor]
    bulk_ess: dict[str, Tensor]
    tail_ess: dict[str, Tensor]
    acceptance: Tensor
    divergences: Tensor
    longest: Tensor
    depth: Tensor
    step_size: Tensor
    evaluations: Tensor
    method: Method
    warmup: int

    header: ClassVar = ("latent", "largest R-hat", "fewest effective draws", "in the tails")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.acceptance)

    @property
    def chains(self) -> int:
        """Chains a row."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def length(self) -> int:
        """Draws a chain."""
        return next(iter(self.draws.values())).shape[1]

    def mean(self, name: str) -> Tensor:
        """Posterior mean of a latent, shape ``(rows, *event)``."""
        return self.draws[name].mean((0, 1))

    def mean_stderr(self, name: str) -> Tensor:
        r"""Monte-Carlo standard error of :meth:`mean`, :math:`s / \sqrt{ESS}`, its shape."""
        return self.draws[name].flatten(0, 1).std(0) / self.bulk_ess[name].sqrt()

    @property
    def diverged(self) -> int:
        """Transitions that lost their energy, of all chains and rows."""
        return int(self.divergences.sum())

    @property
    def cut(self) -> int:
        """Transitions cut at the greatest depth, of all chains and rows."""
        return int(self.longest.sum())

    @property
    def latents(self) -> dict[str, dict[str, float]]:
        """Of each latent the numbers of its worst element."""
        return {
            name: {
                "rhat_largest": float(self.rhat[name].max()),
                "bulk_ess_least": float(self.bulk_ess[name].min()),
                "tail_ess_least": float(self.tail_ess[name].min()),
            }
            for name in self.draws
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the chains, and what to do, in words; empty if nothing is."""
        rhat, bulk, tail = [
            torch.cat([value.flatten() for value in each.values()])
            for each in (self.rhat, self.bulk_ess, self.tail_ess)
        ]
        elements, needed = len(rhat), _PER_CHAIN * self.chains
        apart, stuck = int((rhat > _RHAT).sum()), int(rhat.isnan().sum())
        few = max(int((each < needed).sum()) for each in (bulk, tail))
        found = {
            f"{stuck} elements of latents never moved: start again with more warm-up, or look at "
            f"the rows whose acceptance is zero.": stuck,
            f"R-hat is above {_RHAT} for {apart} of {elements} elements of latents (largest "
            f"{float(rhat.nan_to_num(0).max()):.3f}): the chains have not met; take more warm-up "
            f"and draws, and look for several modes.": apart,
            f"{few} of {elements} elements have fewer than {needed:.0f} effective draws, "
            f"{_PER_CHAIN:.0f} a chain: R-hat and errors are rough there; take more draws.": few,
            f"{self.diverged} transitions diverged, in {int((self.divergences > 0).sum())} of "
            f"{self.rows} rows: parts of the posterior that are sharply curved are not visited as "
            f"they should be; raise target acceptance (target=0.95), or write the model so that "
            f"latents are less bound to one another.": self.diverged,
            f"{self.cut} transitions were cut at the greatest depth: right, but slow; raise "
            f"max_depth or take more warm-up.": self.cut,
        }
        return tuple([text for text, count in found.items() if count])

    def heading(self) -> str:
        """How the chains were made, and how they moved."""
        return (
            f"{self.method.upper()}, {self.rows:,} rows, {self.chains} chains of {self.length:,} "
            f"draws after {self.warmup:,} of warm-up; acceptance "
            f"{float(self.acceptance.mean()):.2f}, {float(self.evaluations.mean()):,.0f} "
            f"gradients a chain, {self.diverged} divergences"
        )

    def table(self) -> list[tuple[str, str, str, str]]:
        """Of each latent the numbers of its worst element."""
        return [
            (name, f"{rhat:.3f}", f"{bulk:,.0f}", f"{tail:,.0f}")
            for name, each in self.latents.items()
            for rhat, bulk, tail in [each.values()]
        ]

    def notes(self) -> list[str]:
        """The warnings."""
        return [f"warning: {each}" for each in self.warnings]


def sample_posterior(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    method: Method = "nuts",
    chains: int = 4,
    warmup: int = 500,
    draws: int = 500,
    steps: int = 10,
    target: float = TARGET,
    max_depth: int = 10,
    batch_size: int = 100,
    seed: int = 0,
) -> PosteriorDraws:
    r"""Draws of :math:`p(z | x)` of each row by Hamiltonian or no-U-turn chains, in parallel.

    The gradient is that of the joint density, as
    :math:`\nabla_z \log p(z | x) = \nabla_z \log p(x, z)`. Chains begin at draws of q, where q
    draws all latents, else at draws of the prior. Warm-up finds a step size for each row (dual
    averaging) and a scale for each latent and row (a diagonal mass matrix), with the row's chains
    together; then both stay fixed. Constrained latents move as free numbers, with the Jacobian;
    discrete ones are summed out exactly, and have no draws.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), appendix A.2.3,
    https://arxiv.org/abs/1906.02691; see :func:`~deeplvm.inference.nuts.no_u_turn` and
    :func:`~deeplvm.inference.hmc.transition`.

    Args:
        model, data, batch_size, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        method: ``"nuts"``, whose trajectories end where they turn back, or ``"hmc"`` with a fixed
            number of steps.
        chains: Of each row.
        warmup: Transitions that are thrown away.
        draws: Transitions that are kept.
        steps: Leapfrog steps of a transition of ``"hmc"``.
        target: Acceptance that step sizes aim at.
        max_depth: Doublings of ``"nuts"`` at most.

    Raises:
        ValueError: If there is no continuous latent, one is shared by all rows, or an option makes
            no sense.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> posterior = sample_posterior(model, {"x": torch.zeros(3, 2)}, warmup=50, draws=50)
        >>> posterior.draws["z"].shape
        torch.Size([4, 50, 3, 1])
    """
    _check(
        method, target, chains=chains, warmup=warmup, draws=draws, steps=steps,
        max_depth=max_depth, batch_size=batch_size,
    )  # fmt: skip

    latent_dimensions(model, data)

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        space = LatentSpace(model, given, missing, noise=noise)
        return _run(_Kernel(space, method, steps, max_depth), chains, warmup, draws, target)

    numbers = for_rows(
        model, data, measure, batch_size=batch_size, seed=seed, apart=True, finite=("log_joint",)
    )
    del numbers["log_joint"]
    values = {
        key.removeprefix("draws/"): numbers.pop(key).movedim(0, 2)  # (chains, draws, rows, *event)
        for key in list(numbers)
        if key.startswith("draws/")
    }
    return PosteriorDraws(
        draws=values,
        rhat={name: rank_normalised_split_rhat(value) for name, value in values.items()},
        bulk_ess={name: bulk_effective_size(value) for name, value in values.items()},
        tail_ess={name: tail_effective_size(value) for name, value in values.items()},
        **numbers,
        method=method,
        warmup=warmup,
    )


class _Kernel:
    """A transition of the chains of some rows, in units of the latents' scales.

    Args:
        space: The latents of the rows.
        method: Which transition.
        steps: Of ``"hmc"``.
        max_depth: Of ``"nuts"``.
    """

    def __init__(self, space: LatentSpace, method: Method, steps: int, max_depth: int) -> None:
        self.space, self.method, self.steps, self.max_depth = space, method, steps, max_depth
        self.moves = 0

    def __call__(
        self, free: Tensor, scale: Tensor, step_size: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next free numbers, and ``(chains, rows)`` numbers about the way there."""
        evaluate = density(self.space, scale=scale)
        point = evaluate(free / scale)
        self.moves += 1
        noise = self.space.noise.apart(self.moves)
        if self.method == "nuts":
            visited = no_u_turn(evaluate, point, step_size, self.max_depth, noise)
            ended = visited.depth == self.max_depth
            cut = ended & ~visited.diverged & (visited.evaluations == 2**self.max_depth - 1)
            return visited.point.free * scale, {
                "acceptance": visited.acceptance,
                "divergences": visited.diverged.to(free),
                "longest": cut.to(free),
                "depth": visited.depth,
                "evaluations": visited.evaluations,
            }
        moved = transition(evaluate, point, 1.0, step_size, self.steps, noise)
        zeros = torch.zeros_like(moved.probability)
        return moved.point.free * scale, {
            "acceptance": moved.probability,
            # so much energy was lost that the probability is zero to the last digit
            "divergences": (moved.probability == 0.0).to(free),
            "longest": zeros,
            "depth": zeros + math.nan,
            "evaluations": zeros + self.steps,
        }


def first_of(space: LatentSpace, particles: int) -> Tensor:
    """Draws of q where it draws every latent, else of the prior, ``(particles, rows, D)``."""
    known = all([place.name in space.model.q.names for place in space.places])
    return space.posterior(particles) if known else space.prior(particles)


def _run(
    kernel: _Kernel, chains: int, warmup: int, draws: int, target: float
) -> dict[str, Tensor]:
    """Numbers of each row, and the draws by name, ``(rows, chains, draws, *event)``."""
    space = kernel.space
    pilot = first_of(space, max(_PILOT, chains))
    free, scale = pilot[:chains], _safe(pilot.std(0))
    start = torch.full_like(scale[:, 0], 0.5 / max(1.0, space.size**0.25))
    sizes, spread = DualAveraging(start, target), Spread(free)
    after, ends = windows(warmup)
    evaluations = torch.zeros_like(start)
    for index in range(1, warmup + 1):
        free, seen = kernel(free, scale, sizes.step_size)
        evaluations = evaluations + seen["evaluations"].mean(0)
        sizes.update(seen["acceptance"].mean(0))
        if ends and after < index <= ends[-1]:
            spread.add(free)
        if index in ends:
            scale, spread = spread.scale(scale), Spread(free)
            sizes.restart(sizes.averaged)
    kept: list[Tensor] = []
    told: list[dict[str, Tensor]] = []
    for _ in range(draws):
        free, seen = kernel(free, scale, sizes.averaged)
        kept.append(free)
        told.append(seen)
    total = {name: torch.stack([each[name] for each in told]) for name in told[0]}
    together = torch.stack(kept, 1)  # (chains, draws, rows, D)
    values = space.values(together.flatten(0, 1))
    return {
        "acceptance": total["acceptance"].mean((0, 1)),
        "divergences": total["divergences"].sum((0, 1)),
        "longest": total["longest"].sum((0, 1)),
        "depth": total["depth"].mean((0, 1)),
        "evaluations": evaluations + total["evaluations"].sum(0).mean(0),
        "step_size": sizes.averaged,
        "log_joint": torch.stack(space.log_joint(free)).sum(0).T,
        **{
            f"draws/{name}": each.unflatten(0, (chains, draws)).movedim(2, 0)
            for name, each in values.items()
        },
    }


def _safe(scale: Tensor) -> Tensor:
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)


def _check(method: str, target: float, **numbers: int | None) -> None:
    if method not in _METHODS:
        raise ValueError(f"method is 'nuts' or 'hmc', not {method!r}.")
    if not 0.0 < target < 1.0:
        raise ValueError(f"target is an acceptance between 0 and 1, not {target}.")
    for name, value in numbers.items():
        at_least({"warmup": 0, "draws": 8, "chains": 2}.get(name, 1), **{name: value})
