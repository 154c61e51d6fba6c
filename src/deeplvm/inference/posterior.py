r"""Markov chains of the latents of each row: draws of the exact posterior of a trained model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.inference.diagnostics import (
    bulk_effective_size,
    rank_normalised_split_rhat,
    tail_effective_size,
)
from deeplvm.inference.hmc import TARGET, DualAveraging, Spread, transition, windows
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.nuts import no_u_turn
from deeplvm.inference.rows import Rows, Source, for_rows, latent_dimensions, rows_of
from deeplvm.inference.tempering import density
from deeplvm.randomness import RowNoise
from deeplvm.results import finite

Method = Literal["nuts", "hmc"]
_METHODS = ("nuts", "hmc")
_PILOT = 64  # draws of q that say how large each latent is before any chain has moved
_RHAT, _PER_CHAIN = 1.01, 100.0  # Vehtari et al.: R-hat, and effective draws a chain


@dataclass(frozen=True, eq=False)
class PosteriorDraws:
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
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the chains, and what to do, in words; empty if nothing is."""
        found = []
        stuck = sum([int(each.isnan().sum()) for each in self.rhat.values()])
        if stuck:
            found.append(
                f"{stuck} elements of latents never moved: start again with more warm-up, or look "
                f"at the rows whose acceptance is zero."
            )
        apart, elements = _above(self.rhat, _RHAT)
        if apart:
            worst = max([float(each.nan_to_num(0).max()) for each in self.rhat.values()])
            found.append(
                f"R-hat is above {_RHAT} for {apart} of {elements} elements of latents (largest "
                f"{worst:.3f}): the chains have not met; take more warm-up and draws, and look "
                f"for several modes."
            )
        needed = _PER_CHAIN * self.chains
        few = sum([int((each < needed).sum()) for each in self.bulk_ess.values()])
        few_tail = sum([int((each < needed).sum()) for each in self.tail_ess.values()])
        if few or few_tail:
            found.append(
                f"{max(few, few_tail)} of {elements} elements have fewer than {needed:.0f} "
                f"effective draws, {_PER_CHAIN:.0f} a chain: R-hat and errors are rough there; "
                f"take more draws."
            )
        if bool(self.divergences.any()):
            found.append(
                f"{int(self.divergences.sum())} transitions diverged, in "
                f"{int((self.divergences > 0).sum())} of {self.rows} rows: parts of the posterior "
                f"that are sharply curved are not visited as they should be; raise target "
                f"acceptance (target=0.95), or write the model so that latents are less bound to "
                f"one another."
            )
        if bool(self.longest.any()):
            found.append(
                f"{int(self.longest.sum())} transitions were cut at the greatest depth: right, "
                f"but slow; raise max_depth or take more warm-up."
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not a number is ``None``."""
        return {
            "method": self.method,
            "rows": self.rows,
            "chains": self.chains,
            "draws": self.length,
            "warmup": self.warmup,
            "acceptance": finite(float(self.acceptance.mean())),
            "divergences": int(self.divergences.sum()),
            "cut_at_greatest_depth": int(self.longest.sum()),
            "depth": finite(float(self.depth.mean())),
            "step_size": finite(float(self.step_size.mean())),
            "evaluations": finite(float(self.evaluations.mean())),
            "latents": {
                name: {
                    "rhat_largest": finite(float(self.rhat[name].max())),
                    "bulk_ess_least": finite(float(self.bulk_ess[name].min())),
                    "tail_ess_least": finite(float(self.tail_ess[name].min())),
                }
                for name in self.draws
            },
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        about = (
            f"{self.method.upper()}, {self.rows:,} rows, {self.chains} chains of {self.length:,} "
            f"draws after {self.warmup:,} of warm-up; acceptance "
            f"{float(self.acceptance.mean()):.2f}, {float(self.evaluations.mean()):,.0f} "
            f"gradients a chain, {int(self.divergences.sum())} divergences"
        )
        latents = [
            f"{name}: largest R-hat {float(self.rhat[name].max()):.3f}, fewest effective "
            f"draws {float(self.bulk_ess[name].min()):,.0f} (bulk), "
            f"{float(self.tail_ess[name].min()):,.0f} (tails)"
            for name in self.draws
        ]
        return "\n".join([about, *latents, *[f"warning: {each}" for each in self.warnings]])


def sample_posterior(
    model: LatentVariableModel,
    data: Source | Rows,
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
        model: Evaluated in ``eval()`` mode; left as it was.
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, *event)``, NaN where one is
            missing.
        method: ``"nuts"``, whose trajectories end where they turn back, or ``"hmc"`` with a fixed
            number of steps.
        chains: Of each row.
        warmup: Transitions that are thrown away.
        draws: Transitions that are kept.
        steps: Leapfrog steps of a transition of ``"hmc"``.
        target: Acceptance that step sizes aim at.
        max_depth: Doublings of ``"nuts"`` at most.
        batch_size: Rows at a time.
        seed: Same seed, same draws.

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

    if not latent_dimensions(model, data):
        raise ValueError(
            f"{model.p} has no continuous latent to draw, given "
            f"{', '.join(rows_of(model, data).names)}; leave one out of the data."
        )

    def measure(
        given: dict[str, Tensor], missing: frozenset[str], noise: RowNoise
    ) -> dict[str, Tensor]:
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


def _above(values: Mapping[str, Tensor], limit: float) -> tuple[int, int]:
    """How many elements are above a limit, and how many there are."""
    return (
        sum([int((each > limit).sum()) for each in values.values()]),
        sum([each.numel() for each in values.values()]),
    )


def _check(method: str, target: float, **numbers: int | None) -> None:
    if method not in _METHODS:
        raise ValueError(f"method is 'nuts' or 'hmc', not {method!r}.")
    if not 0.0 < target < 1.0:
        raise ValueError(f"target is an acceptance between 0 and 1, not {target}.")
    for name, value in numbers.items():
        least = {"warmup": 0, "draws": 8, "chains": 2}.get(name, 1)
        if value is not None and value < least:
            raise ValueError(f"{name} is at least {least}, found {value}.")
