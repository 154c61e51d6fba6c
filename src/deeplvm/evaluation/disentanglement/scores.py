r"""All scores of disentanglement of one model, on a set with known factors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.data.synthetic.factors import Factors
from deeplvm.evaluation.disentanglement.codes import Array
from deeplvm.evaluation.disentanglement.dci import Predictor, importance_scores, random_forest
from deeplvm.evaluation.disentanglement.factor_vae_score import (
    Encode,
    beta_vae_score,
    codes_of,
    factor_vae_score,
)
from deeplvm.evaluation.disentanglement.irs import interventional_robustness
from deeplvm.evaluation.disentanglement.mig import mutual_information_gap
from deeplvm.evaluation.disentanglement.modularity import explicitness, modularity
from deeplvm.evaluation.disentanglement.sap import attribute_predictability
from deeplvm.evaluation.latents.posterior_means import encode
from deeplvm.inference.rows import rows_of
from deeplvm.randomness import evaluating
from deeplvm.results import Record

_DRAWS = 32  # for the mean of a posterior that has none in closed form


class _Compared(NamedTuple):
    """A code and factors, as every score takes them."""

    code: Encode
    factors: Factors
    codes: Array
    values: Array
    held: dict[str, int]
    predictor: Predictor
    seed: int

    @property
    def unordered(self) -> list[int]:
        """Which factors are classes without order."""
        return [i for i, n in enumerate(self.factors.names) if n in self.factors.unordered]


METRICS: dict[str, Callable[[_Compared], Any]] = {
    "beta_vae_score": lambda c: beta_vae_score(c.code, c.factors, **c.held, seed=c.seed),
    "factor_vae_score": lambda c: factor_vae_score(c.code, c.factors, **c.held, seed=c.seed),
    "mutual_information_gap": lambda c: mutual_information_gap(c.codes, c.values, seed=c.seed),
    "attribute_predictability": lambda c: attribute_predictability(
        c.codes, c.values, unordered=c.unordered, seed=c.seed
    ),
    "importance_scores": lambda c: importance_scores(
        c.codes, c.values, predictor=c.predictor, seed=c.seed
    ),
    "modularity": lambda c: modularity(c.codes, c.values, seed=c.seed),
    "explicitness": lambda c: explicitness(c.codes, c.values, seed=c.seed),
    "interventional_robustness": lambda c: interventional_robustness(
        c.codes, c.values, seed=c.seed
    ),
}
"""Scores by name."""


@dataclass(frozen=True, eq=False)
class Disentanglement(Record):
    """The scores of one encoder.

    Attributes:
        scores: Each metric's own result, by the metric's name.
        factors: Names of the factors.
        dimensions: Dimensions of the code.
        rows: Rows drawn for the metrics on codes and factors.
    """

    scores: dict[str, Any]
    factors: tuple[str, ...]
    dimensions: int
    rows: int

    def __getitem__(self, name: str) -> Any:
        return self.scores[name]

    def __str__(self) -> str:
        lines = [str(score) for score in self.scores.values()]
        last = f"{self.dimensions} dimensions against {', '.join(self.factors)}"
        return "\n".join([*lines, f"{last}; ± one standard error"])


def disentanglement(
    model: LatentVariableModel | Encode,
    factors: Factors,
    *,
    metrics: Collection[str] = tuple(METRICS),
    rows: int = 5_000,
    groups: int = 500,
    group: int = 64,
    predictor: Predictor = random_forest,
    name: str = "x",
    seed: int = 0,
) -> Disentanglement:
    """How far the dimensions of a code are the factors that made the data.

    No score can be had without factors, and none by itself: a high one says that codes and
    factors agree in one way. Challenging Common Assumptions in the Unsupervised Learning of
    Disentangled Representations (Locatello et al., 2019), https://arxiv.org/abs/1811.12359,
    found the metrics to agree in part only, and seeds to matter more than objectives: compare
    models over several training seeds.

    Args:
        model: Its code is the posterior mean of all its latents, side by side, in the order in
            which q draws them; left as it was. Or any function from rows to codes.
        factors: The set.
        metrics: Which, of :data:`METRICS`.
        rows: Rows for those on codes and factors.
        groups: Groups to train on, and as many to test on, for the two that hold factors.
        group: Rows a group.
        predictor: For :func:`~.importance.importance_scores`; a forest here, which is quick where
            factors have many values. ``boosted_trees`` is what the literature reports.
        name: What the model calls the rows.

    Raises:
        ValueError: If there is no such metric, or the model draws no latent.

    Examples:
        >>> grid = Factors(("a", "b"), (4, 5), (2,), lambda v: v.double())
        >>> found = disentanglement(lambda x: x, grid, rows=400, metrics=["modularity"])
        >>> print(found)
        modularity 0.9... (400 rows)
        2 dimensions against a, b; ± one standard error
    """
    unknown = [each for each in metrics if each not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"The metrics are {', '.join(METRICS)}; found {', '.join(unknown)!r}.")
    learnt = isinstance(model, LatentVariableModel)
    code = encoder_of(model, name=name, seed=seed) if learnt else model
    values = factors.sample(rows, torch.Generator().manual_seed(seed))
    codes = codes_of(code, factors, values)
    held = {"group": group, "train": groups, "test": groups}
    both = _Compared(code, factors, codes, values.numpy(), held, predictor, seed)
    scores = {name: score(both) for name, score in METRICS.items() if name in metrics}
    return Disentanglement(scores, factors.names, codes.shape[1], rows)


def encoder_of(model: LatentVariableModel, *, name: str = "x", seed: int = 0) -> Encode:
    """The posterior means of a model's latents as a function of rows.

    A latent whose posterior depends on another, or has no mean in closed form, has the mean over
    some draws; a discrete one counts as its one-hot mean.

    Args:
        name: What the model calls the rows.
        seed: Of the draws, for each call.

    Raises:
        ValueError: When called, if q draws no latent given these rows alone.
    """

    def read(rows: Tensor) -> Array:
        with evaluating(model, seed):
            codes = encode(model, rows_of(model, {name: rows}), _DRAWS).codes
        return np.concatenate(list(codes.values()), 1)

    return read
