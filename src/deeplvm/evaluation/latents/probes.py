r"""What simple classifiers read from the latents: linear, nearest-neighbour, and by cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.posterior_means import encode
from deeplvm.inference.rows import at_least, at_random, check_rows, rows_of, taken
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Array, Estimate, Record, number

_INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FOLDS = 3
_RESAMPLES = 100


@dataclass(frozen=True)
class Score(Estimate):
    """A number with its standard error.

    Attributes:
        value: The number.
        stderr: Its standard error over the scored rows.
    """

    def __str__(self) -> str:
        return number(self.value, self.stderr, (3, 6))


@dataclass(frozen=True)
class Representation(Record, without="name"):
    """How well labels are read from one representation of the rows.

    Attributes:
        name: A latent's name, ``"x"`` (raw), or ``"x, 10 principal components"``.
        latent: Whether it is a latent of the model, and not what it is compared with.
        dimensions: Numbers a row.
        linear: Accuracy of multinomial logistic regression.
        inverse_penalty: The strength of its L2 penalty that cross-validation chose, C of
            scikit-learn.
        neighbours: Accuracy of the k nearest neighbours' vote, by k.
    """

    name: str
    latent: bool
    dimensions: int
    linear: Score
    inverse_penalty: float
    neighbours: dict[int, Score]


@dataclass(frozen=True)
class Clustering(Record, without="name"):
    r"""How the most probable values of a discrete latent agree with the labels.

    Attributes:
        name: The latent.
        clusters: Values that occur.
        accuracy: Share of rows told right by the best assignment of one value to each label
            (Hungarian algorithm), found on these rows themselves.
        nmi: Mutual information over the mean of both entropies, 0 to 1.
        ari: Adjusted Rand index: 1 for the same partition, 0 on average for a random one.
    """

    name: str
    clusters: int
    accuracy: Score
    nmi: Score
    ari: Score


@dataclass(frozen=True)
class Probes(Record, keys={"given": "labels_given_to_q"}):
    """What can be read from the latents, and from the data themselves.

    Attributes:
        labels: Name of the labels.
        given: Whether q was given the labels, so that a latent may simply repeat them.
        classes: Labels that occur in the training rows.
        chance: Accuracy of always saying the most frequent label of the training rows.
        representations: Latents and what they are compared with, by name.
        clusterings: Of the discrete latents with one value a row, by name.
        train_rows: Rows that were learned from.
        test_rows: Rows that were scored.
    """

    labels: str
    given: bool
    classes: int
    chance: Score
    representations: dict[str, Representation]
    clusterings: dict[str, Clustering]
    train_rows: int
    test_rows: int

    def table(self) -> list[tuple[str, str, str]]:
        rows = [("chance", "most frequent label", str(self.chance))]
        for each in self.representations.values():
            title = f"{each.name} ({each.dimensions})" if each.latent else each.name
            rows.append((title, "linear", str(each.linear)))
            for k, score in each.neighbours.items():
                rows.append(("", "nearest" if k == 1 else f"{k} nearest", str(score)))
        for each in self.clusterings.values():
            title = f"{each.name} ({each.clusters} clusters)"
            rows.append((title, "clustering accuracy", str(each.accuracy)))
            rows += [("", "NMI", str(each.nmi)), ("", "ARI", str(each.ari))]
        return rows

    def notes(self) -> list[str]:
        end = (
            f"accuracy for {self.labels!r} on {self.test_rows:,} rows, learned from "
            f"{self.train_rows:,}; ± one standard error"
        )
        return [end, *([f"q was given {self.labels!r}"] if self.given else [])]


def probes(
    model: LatentVariableModel,
    train: NamedRows,
    test: NamedRows,
    *,
    labels: str = "y",
    most: int = 5_000,
    neighbours: Sequence[int] = (1, 5),
    particles: int = 8,
    seed: int = 0,
) -> Probes:
    r"""How much of the labels simple classifiers read from the posterior means.

    Multinomial logistic regression on standardised values, whose L2 penalty is chosen by
    cross-validation on the training rows, and the vote of the k nearest (Euclidean, not
    standardised: it would blow up collapsed dimensions). For comparison the same on the values
    themselves, and on as many principal components of them as each latent has dimensions; a
    missing value is the mean of the training rows there. Of a discrete latent the probabilities
    are read; one with a single value a row is also compared as a clustering.

    The labels are not shown to q, unless it cannot do without them. Understanding intermediate
    layers using linear classifier probes (Alain & Bengio, 2017),
    https://arxiv.org/abs/1610.01644; Unsupervised Deep Embedding for Clustering Analysis (Xie,
    Girshick & Farhadi, 2016), https://arxiv.org/abs/1511.06335

    Args:
        train: Rows to learn from, with labels: ``data.train``.
        test: Rows to score.
        labels: Their name; whole numbers of shape ``(rows,)``, NaN where missing.
        most: So many training rows at most, chosen at random: more take long.
        neighbours: Numbers k of neighbours.
        particles: Draws a row over which a posterior mean is averaged, where q draws the latent
            from another one or gives no mean.

    Raises:
        ValueError: If there are no labels, only one of them, or too few training rows.

    Examples:
        >>> import torch
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(4, MLP(2))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4))}))
        >>> y = torch.arange(100) % 2
        >>> train, test = [{"x": torch.randn(100, 4) + 9 * y[:, None], "y": y} for _ in range(2)]
        >>> found = probes(model, train, test)
        >>> found.representations["z"].linear.value, found.chance.value < 0.6
        (1.0, True)
    """
    at_least(1, particles=particles, most=most, neighbours=min(neighbours, default=1))
    given = labels in model.q.inputs
    learned_from, y_train = _labelled(train, labels, "training", most, seed)
    scored, y_test = _labelled(test, labels, "test")
    names, both = np.unique(np.concatenate([y_train, y_test]), return_inverse=True)
    y_train, y_test = both[: len(y_train)], both[len(y_train) :]
    counts = np.sort(np.bincount(y_train, minlength=len(names)))[::-1]
    if len(counts) < 2 or counts[1] < 2 or len(y_train) < max(2 * _FOLDS, *neighbours):
        raise ValueError(
            f"A probe learns from two labels at least, of two rows each, and from no fewer rows "
            f"than neighbours and {2 * _FOLDS}; found {counts.tolist()} rows of each label among "
            f"{len(y_train)} training rows."
        )
    if not len(y_test):
        raise ValueError(f"No test row has a label {labels!r}: nothing to score.")
    with evaluating(model, seed_of(seed, "probes")):
        learned, shown = [
            encode(model, rows_of(model, each, () if given else (labels,)), particles, labels)
            for each in (learned_from, scored)
        ]

    pairs = {name: (code, shown.codes[name]) for name, code in learned.codes.items()}
    raw = _filled(learned.values, shown.values)
    name = ", ".join(learned.names)
    for dimensions in sorted({code.shape[1] for code, _ in pairs.values()}):
        if dimensions < min(raw[0].shape):
            title = f"{name}, {dimensions} principal component{'s' * (dimensions > 1)}"
            pairs[title] = _principal(*raw, dimensions, seed)
    pairs[name] = raw
    return Probes(
        labels,
        given,
        int((counts > 0).sum()),
        _share(y_test == np.bincount(y_train).argmax()),
        {
            key: _representation(key, key in learned.codes, pair, (y_train, y_test), neighbours)
            for key, pair in pairs.items()
        },
        {key: _clustering(key, found, y_test, seed) for key, found in shown.clusters.items()},
        len(y_train),
        len(y_test),
    )


def _labelled(
    source: NamedRows, labels: str, what: str, most: int | None = None, seed: int = 0
) -> tuple[NamedRows, Array]:
    """Rows that have a label, and their labels."""
    check_rows(source)
    if labels not in source:
        raise ValueError(
            f"There is no {labels!r} in the {what} rows, which have {', '.join(source)}: probes "
            f"need labels; name them with labels=..., or load data that have some."
        )
    source = source if most is None else at_random(source, most, seed)
    y = source[labels][:]
    values = y.double().cpu()
    known = ~values.isnan()
    if values.dim() != 1 or bool((values != values.round())[known].any()):
        raise ValueError(
            f"{labels!r} must be whole numbers, one a row; found shape {tuple(y.shape)}, "
            f"{y.dtype}."
        )
    kept = source if bool(known.all()) else taken(source, known.nonzero().flatten())
    return kept, values[known].numpy().astype(np.int64)


def _filled(train: Array, test: Array) -> tuple[Array, Array]:
    """Holes filled with the means of the training rows; 0 where all are holes."""
    holes = np.isnan(train)
    counts = np.maximum((~holes).sum(0), 1)
    means = np.where(holes, 0.0, train).sum(0) / counts
    return np.where(holes, means, train), np.where(np.isnan(test), means, test)


def _principal(train: Array, test: Array, dimensions: int, seed: int) -> tuple[Array, Array]:
    from sklearn.decomposition import PCA

    found: Any = PCA(dimensions, random_state=seed)
    found.fit(train)
    return found.transform(train), found.transform(test)


def _representation(
    name: str,
    latent: bool,  # noqa: FBT001
    values: tuple[Array, Array],
    labels: tuple[Array, Array],
    neighbours: Sequence[int],
) -> Representation:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (train, test), (y_train, y_test) = values, labels
    # rows of one label in turn: every label of two rows is in every training set
    fold: Any = np.empty(len(y_train), dtype=np.int64)
    fold[np.argsort(y_train, kind="stable")] = np.arange(len(y_train)) % _FOLDS
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    penalties = {"logisticregression__C": _INVERSE_PENALTIES}
    search: Any = GridSearchCV(model, penalties, cv=PredefinedSplit(fold))
    search.fit(train, y_train)
    near: dict[int, Any] = {k: KNeighborsClassifier(k) for k in neighbours}
    return Representation(
        name,
        latent,
        train.shape[1],
        _share(search.predict(test) == y_test),
        float(search.best_params_["logisticregression__C"]),
        {k: _share(each.fit(train, y_train).predict(test) == y_test) for k, each in near.items()},
    )


def _clustering(name: str, clusters: Array, labels: Array, seed: int) -> Clustering:
    generator = np.random.default_rng(seed)
    again = [generator.integers(len(labels), size=len(labels)) for _ in range(_RESAMPLES)]
    resampled = np.array([_agreement(clusters[i], labels[i]) for i in again])
    scores = [
        Score(value, float(error))
        for value, error in zip(
            _agreement(clusters, labels), resampled.std(0, ddof=1), strict=True
        )
    ]
    return Clustering(name, len(np.unique(clusters)), *scores)


def _agreement(clusters: Any, labels: Any) -> tuple[float, float, float]:
    """Accuracy of the best assignment, normalised mutual information, adjusted Rand index."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    counts: Any = contingency_matrix(labels, clusters)
    best = counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels)
    return (
        float(best),
        float(normalized_mutual_info_score(labels, clusters)),
        float(adjusted_rand_score(labels, clusters)),
    )


def _share(right: Array) -> Score:
    share = float(right.mean())
    return Score(share, math.sqrt(share * (1.0 - share) / len(right)))
