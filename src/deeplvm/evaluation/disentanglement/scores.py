r"""All scores of disentanglement of one model, on a set with known factors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from deeplvm.core.model import LatentVariableModel
from deeplvm.data.synthetic.factors import Factors
from deeplvm.evaluation.disentanglement.dci import Predictor, importance_scores, random_forest
from deeplvm.evaluation.disentanglement.factor_vae_score import (
    Encode,
    beta_vae_score,
    codes_of,
    factor_vae_score,
)
from deeplvm.evaluation.disentanglement.irs import interventional_robustness
from deeplvm.evaluation.disentanglement.mig import Array, mutual_information_gap
from deeplvm.evaluation.disentanglement.modularity import explicitness, modularity
from deeplvm.evaluation.disentanglement.sap import attribute_predictability
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
        seed: Same seed, same numbers.

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
    encode = encoder_of(model, name=name, seed=seed) if learnt else model
    values = factors.sample(rows, torch.Generator().manual_seed(seed))
    codes = codes_of(encode, factors, values)
    scores = {
        each: _score(each, encode, factors, codes, values.numpy(), groups, group, predictor, seed)
        for each in METRICS
        if each in metrics
    }
    return Disentanglement(scores, factors.names, codes.shape[1], rows)


def encoder_of(
    model: LatentVariableModel, *, name: str = "x", batch_size: int = 256, seed: int = 0
) -> Encode:
    """The posterior means of a model's latents as a function of rows.

    A latent whose posterior depends on another has the mean given a draw of that one; one without
    a mean in closed form has that of some draws; a discrete one counts as its one-hot mean.

    Args:
        model: Evaluated in ``eval()`` mode, left as it was.
        name: What the model calls the rows.
        batch_size: Rows at a time.
        seed: Of the draws, for each call.

    Raises:
        ValueError: When called, if q draws no latent given these rows alone.
    """

    def encode(rows: Tensor) -> Array:
        batches = rows_of(model, {name: rows})
        with evaluating(model, seed):
            parts = [_means(model, given) for _, given in batches.each(batch_size)]
        return torch.cat(parts).numpy()

    return encode


def _means(model: LatentVariableModel, given: dict[str, Tensor]) -> Tensor:
    rows = len(next(iter(given.values())))
    drawn = [site for site in model.posterior(given).values() if site.drawn]
    parts = [
        mean.expand(rows, *mean.shape[1:]).reshape(rows, -1)
        for site in drawn
        for mean in [_mean(site.value, site.features, site.distribution)]
    ]
    if not parts:
        raise ValueError(
            f"q draws no latent given {', '.join(given)}, so there is no code; give a function "
            f"from rows to codes in place of the model."
        )
    return torch.cat(parts, 1).double().cpu()


def _mean(value: Tensor, features: Tensor, distribution: Distribution | None) -> Tensor:
    if distribution is None:
        return features
    own = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(own, Categorical):
        return own.probs  # of the one-hot code: a category's number has no mean
    try:
        mean = distribution.mean
    except NotImplementedError:
        mean = distribution.sample(torch.Size((_DRAWS,))).double().mean(0)
    finite = bool(torch.isfinite(mean).all())  # a Student-t has no mean at one degree
    return mean if finite else value


def _score(
    metric: str,
    encode: Encode,
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
        "beta_vae_score": lambda: beta_vae_score(encode, factors, **held),
        "factor_vae_score": lambda: factor_vae_score(encode, factors, **held),
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
