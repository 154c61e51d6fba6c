r"""A Gaussian posterior of each row, by regression of log p(x, z) on the terms of a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.distributions import FullCovarianceNormal
from deeplvm.gradients import Draw
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.posterior import first_of
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, redrawn
from deeplvm.randomness import RowNoise

_PILOT = 64  # draws of q that say where to begin, and in which units
_MEASURED = 256  # draws of the bounds before and after
_EACH = 8  # draws of all steps together, a number that is regressed


@dataclass(frozen=True, eq=False)
class Regressed:
    r"""Gaussians of the latents of some rows, as free numbers.

    Attributes:
        mean: Shape ``(rows, D)``, latents one after another; constrained ones as the numbers
            without constraint that they are images of, discrete ones are summed out.
        root: Lower triangular L, the covariance is :math:`L L^T`, ``(rows, D, D)``.
        bound: :math:`E_q[\log p(x, z) - \log q(z)]` of each row, ``(rows,)``, nats.
        bound_stderr: Its Monte-Carlo standard error, ``(rows,)``.
        before: The bound of a Gaussian with the mean and the standard deviations of the model's
            own q, from the same noise, ``(rows,)``.
    """

    mean: Tensor
    root: Tensor
    bound: Tensor
    bound_stderr: Tensor
    before: Tensor

    @property
    def posterior(self) -> FullCovarianceNormal:
        """The Gaussians, batch shape ``(rows,)``."""
        return FullCovarianceNormal(self.mean, self.root)

    @property
    def gain(self) -> Tensor:
        """What regression was worth, nats, shape ``(rows,)``."""
        return self.bound - self.before

    def __repr__(self) -> str:
        return (
            f"Regressed({len(self.gain)} rows: {float(self.before.mean()):.4f} -> "
            f"{float(self.bound.mean()):.4f} nats a row)"
        )


def stochastic_regression(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    steps: int = 200,
    particles: int | None = None,
    draw: Mapping[str, Draw] | None = None,
    batch_size: int = 100,
    seed: int = 0,
) -> Regressed:
    r"""Fit a full Gaussian to the posterior of each row, without its gradient.

    With :math:`\tilde t(z) = (1, z, z z^T)`, of which the logarithm of a Gaussian is a linear
    function, the best q in the sense of :math:`KL(q \| p)` is a fixed point of a regression on
    its own draws:

    .. math:: \eta = E_q[\tilde t \tilde t^T]^{-1} E_q[\tilde t \log p(x, z)]

    Both moments are running means over draws of the q that they make, which forget by
    :math:`1 / \sqrt{S}` a step, and at the end means over the last half of the steps. Where the
    posterior is a Gaussian it is found exactly, as the regression has no residual.

    Fixed-Form Variational Posterior Approximation through Stochastic Linear Regression (Salimans &
    Knowles, 2013), https://doi.org/10.1214/13-BA858

    Args:
        model: Evaluated in ``eval()`` mode, left as it was; its q says where to begin.
        data: Rows: ``data.test[:100]``, or named tensors of shape ``(rows, *event)``.
        steps: S, of which each draws from the q of the steps before.
        particles: Draws per row and step; by default so many that each number of the regression
            has eight.
        draw: How a discrete latent is enumerated, where it is not by ``Enumerated()``.
        batch_size: Rows at a time; no matter for the result.
        seed: Same seed, same result.

    Raises:
        ValueError: If there is no continuous latent, its space is not known, a latent is shared by
            all rows, a number is below one, or the draws are fewer than the numbers regressed.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> found = stochastic_regression(model, {"x": torch.ones(3, 2)})
        >>> bool((found.gain > 0).all()), found.posterior.batch_shape
        (True, torch.Size([3]))
    """
    at_least(2, steps=steps)

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        space = LatentSpace(model, given, missing, draw, noise)
        if not space.size:
            raise ValueError(f"{model.p} has no continuous latent to fit, given the data.")
        return _regressed(space, steps, particles, noise)

    found = for_rows(
        model, data, measure, batch_size=batch_size, seed=seed, omit=redrawn(draw),
        finite=("bound", "before"),
    )  # fmt: skip
    return Regressed(**found)


def _regressed(
    space: LatentSpace, steps: int, particles: int | None, noise: RowNoise
) -> dict[str, Tensor]:
    """Of each row the fields of :class:`Regressed`."""
    size = space.size
    width = 1 + size + size * (size + 1) // 2
    count = math.ceil(_EACH * width / steps) if particles is None else particles
    at_least(1, particles=count)
    if (steps - steps // 2) * count < width:
        raise ValueError(
            f"Gaussians of {size} latents have {width} numbers, more than the draws of half of "
            f"{steps} steps with {count} particles; take more of either."
        )
    pilot = first_of(space, _PILOT)
    centre, scale = pilot.mean(0), pilot.std(0).clamp(min=1e-6)
    rows, like = space.rows, pilot
    unit = torch.eye(size).to(like).expand(rows, -1, -1)
    mean, root = like.new_zeros(rows, size), unit  # in these units

    def log_p(point: Tensor) -> Tensor:
        """Of points in these units ``(particles, rows, D)``, with their volume."""
        return sum(space.log_joint(centre + scale * point)) + scale.log().sum(-1)  # type: ignore[return-value]

    def measured(mean: Tensor, root: Tensor) -> Tensor:
        drawn = noise.apart("measured").normal_like(like.new_empty(_MEASURED, rows, size))
        normal = FullCovarianceNormal(mean, root)
        point = mean + (root @ drawn.unsqueeze(-1)).squeeze(-1)
        return log_p(point) - normal.log_prob(point)

    before = measured(mean, root).mean(0)
    gram = _of_standard_normal(size).to(like).expand(rows, -1, -1)
    start = _natural(mean, root)
    moment = (gram @ start.unsqueeze(-1)).squeeze(-1)
    forget = steps**-0.5
    whole_gram, whole_moment = torch.zeros_like(gram), torch.zeros_like(moment)
    level = before  # the regression has its constant about here, not about 0
    for step in range(steps):
        drawn = noise.normal_like(like.new_empty(count, rows, size))
        point = mean + (root @ drawn.unsqueeze(-1)).squeeze(-1)
        read = _read(point)  # (particles, rows, width)
        target = (log_p(point) - level).unsqueeze(-1)
        new_gram = torch.einsum("krm,krn->rmn", read, read) / count
        new_moment = (read * target).mean(0)
        gram = gram.lerp(new_gram, forget)
        moment = moment.lerp(new_moment, forget)
        if step >= steps // 2:
            whole_gram, whole_moment = whole_gram + new_gram, whole_moment + new_moment
        mean, root = _normal(_solved(gram, moment), mean, root)
    mean, root = _normal(_solved(whole_gram, whole_moment), mean, root)
    terms = measured(mean, root)
    return {
        "mean": centre + scale * mean,
        "root": scale.unsqueeze(-1) * root,
        "bound": terms.mean(0),
        "bound_stderr": terms.std(0) / _MEASURED**0.5,
        "before": before,
    }


def _read(point: Tensor) -> Tensor:
    r""":math:`(1, z, z_i z_j)` with :math:`i \le j`, shape ``(*batch, width)``."""
    first, second = torch.triu_indices(point.shape[-1], point.shape[-1], device=point.device)
    return torch.cat(
        [torch.ones_like(point[..., :1]), point, point[..., first] * point[..., second]], -1
    )


def _of_standard_normal(size: int) -> Tensor:
    r""":math:`E[\tilde t \tilde t^T]` under :math:`N(0, I)`."""
    first, second = torch.triu_indices(size, size)
    same = (first == second).double()
    square = torch.diag(torch.ones(len(first), dtype=torch.float64)) + torch.diag(same)
    square = square + same.unsqueeze(0) * same.unsqueeze(1) * (1 - torch.eye(len(first)))
    whole = torch.eye(1 + size + len(first), dtype=torch.float64)
    whole[1 + size :, 1 + size :] = square
    whole[0, 1 + size :] = whole[1 + size :, 0] = same
    return whole


def _natural(mean: Tensor, root: Tensor) -> Tensor:
    """What the logarithm of a normal is in these terms, its constant aside."""
    precision = torch.cholesky_inverse(root)
    size = mean.shape[-1]
    first, second = torch.triu_indices(size, size, device=mean.device)
    quadratic = -precision[..., first, second] * torch.where(first == second, 0.5, 1.0).to(mean)
    linear = (precision @ mean.unsqueeze(-1)).squeeze(-1)
    return torch.cat([torch.zeros_like(mean[..., :1]), linear, quadratic], -1)


def _normal(natural: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """The normal of natural parameters; where they are none of a normal, what was before."""
    size = mean.shape[-1]
    linear, quadratic = natural[..., 1 : 1 + size], natural[..., 1 + size :]
    first, second = torch.triu_indices(size, size, device=mean.device)
    half = torch.zeros(*mean.shape, size).to(mean)
    half[..., first, second] = -quadratic
    factor, failed = torch.linalg.cholesky_ex(half + half.mT)
    kept = (failed == 0) & factor.isfinite().all(-1).all(-1)
    factor = torch.where(kept[..., None, None], factor, torch.eye(size).to(factor))
    covariance = torch.cholesky_inverse(factor)
    new = (covariance @ linear.unsqueeze(-1)).squeeze(-1)
    lower, failed = torch.linalg.cholesky_ex(covariance)
    kept = kept & (failed == 0) & new.isfinite().all(-1)
    return (
        torch.where(kept.unsqueeze(-1), new, mean),
        torch.where(kept[..., None, None], lower, root),
    )


def _solved(gram: Tensor, moment: Tensor) -> Tensor:
    """The regression, in double precision."""
    solved, _ = torch.linalg.solve_ex(gram.double(), moment.double())
    return solved.to(moment)
