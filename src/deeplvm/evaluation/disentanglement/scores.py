r"""All scores of disentanglement of one model, on a set with known factors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

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

METRICS = (
    "beta_vae_score",
    "factor_vae_score",
    "mutual_information_gap",
    "attribute_predictability",
    "importance_scores",
    "modularity",
    "explicitness",
    "interventional_robustness",
)
_DRAWS = 32  # for the mean of a posterior that has none in closed form


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
    metrics: Collection[str] = METRICS,
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
    scores = {
        each: _score(each, code, factors, codes, values.numpy(), groups, group, predictor, seed)
        for each in METRICS
        if each in metrics
    }
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


def _score(
    metric: str,
    code: Encode,
    factors: Factors,
    codes: Array,
    values: Array,
    groups: int,
    group: int,
    predictor: Predictor,
    seed: int,
) -> Any:
    held = {"group": group, "train": groups, "test": groups, "seed": seed}
    unordered = np.flatnonzero([each in factors.unordered for each in factors.names]).tolist()
    calls: dict[str, Any] = {
        "beta_vae_score": lambda: beta_vae_score(code, factors, **held),
        "factor_vae_score": lambda: factor_vae_score(code, factors, **held),
        "mutual_information_gap": lambda: mutual_information_gap(codes, values, seed=seed),
        "attribute_predictability": lambda: attribute_predictability(
            codes, values, unordered=unordered, seed=seed
        ),
        "importance_scores": lambda: importance_scores(
            codes, values, predictor=predictor, seed=seed
        ),
        "modularity": lambda: modularity(codes, values, seed=seed),
        "explicitness": lambda: explicitness(codes, values, seed=seed),
        "interventional_robustness": lambda: interventional_robustness(codes, values, seed=seed),
    }
    return calls[metric]()
