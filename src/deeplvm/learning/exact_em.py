r"""Expectation maximisation where the posterior is known: linear Gaussian models and mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from deeplvm.evaluation.batches import batches_of
from deeplvm.evaluation.numbers import finite
from deeplvm.learning.gaussian_mixture import MixtureOfGaussians, mixture_of
from deeplvm.learning.linear_gaussian import LinearGaussian, in_units, linear_gaussian_of
from deeplvm.model import LatentVariableModel

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split


@dataclass(frozen=True)
class ExactEM:
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

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not a number is ``None``."""
        return {
            "log_likelihood": [finite(each) for each in self.log_likelihood],
            "iterations": self.iterations,
            "converged": self.converged,
            "exact_posterior": self.exact_posterior,
            "rows": self.rows,
        }

    def __str__(self) -> str:
        end = "converged" if self.converged else "not converged: take more iterations"
        return (
            f"exact EM, {self.rows:,} rows: log p(x) {self.log_likelihood[0]:.4f} -> "
            f"{self.log_likelihood[-1]:.4f} nats a row in {self.iterations:,} iterations, {end}"
        )


def exact_em(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    *,
    iterations: int = 500,
    tolerance: float = 1e-7,
    start: Literal["model", "data"] = "model",
    split: Split = "train",
    rows: int | None = None,
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
        data: Data, or named tensors of shape ``(rows, *event)``, NaN where an element is missing.
        iterations: M-steps at most.
        tolerance: Stop when a step gains less, nats a row.
        start: ``"model"`` goes on from the parameters as they are; ``"data"`` starts at the mean
            of the data, and a mixture at rows far from one another (k-means++).
        split: Which split of Data.
        rows: How many, from the first on; all.
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
    if iterations < 1 or (rows is not None and rows < 2):
        raise ValueError(
            f"iterations is at least 1 and rows at least 2; found {iterations}, {rows}."
        )
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
    u, volume = _read(model, data, known.observed, known.likelihood, split, rows)
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
    data: Data | Mapping[str, Tensor],
    name: str,
    likelihood: Any,
    split: Split,
    rows: int | None,
) -> tuple[Tensor, float]:
    """The data in standardised units, ``(rows, D)``, and what the units add to ``log p(x)``."""
    taken = batches_of(model, data, split)
    if name not in taken.names:
        raise ValueError(f"The data have no {name!r} to learn from; they have {taken.names}.")
    x = taken[slice(0, rows if rows is not None else taken.rows)][name]
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
