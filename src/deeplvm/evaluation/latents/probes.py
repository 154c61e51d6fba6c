r"""What simple classifiers read from the latents: linear, nearest-neighbour, and by cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.inference.rows import Rows, rows_of
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Estimate, Record, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeplvm.data.records import Data, Split
import contextlib

from torch.distributions import (
    Bernoulli,
    Categorical,
    OneHotCategorical,
)

from deeplvm.core.trace import Site, base_of
from deeplvm.evaluation.latents.aggregate import is_discrete, latents_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        """Rows of a representation, what reads it, and the score with its error."""
        rows = [("chance", "most frequent label", str(self.chance))]
        for each in self.representations.values():
            title = f"{each.name} ({each.dimensions})" if each.latent else each.name
            rows.append((title, "linear", str(each.linear)))
            rows += [("", _nearest(k), str(score)) for k, score in each.neighbours.items()]
        for each in self.clusterings.values():
            title = f"{each.name} ({each.clusters} clusters)"
            rows.append((title, "clustering accuracy", str(each.accuracy)))
            rows += [("", "NMI", str(each.nmi)), ("", "ARI", str(each.ari))]
        return rows

    def notes(self) -> list[str]:
        """What the scores are of."""
        end = (
            f"accuracy for {self.labels!r} on {self.test_rows:,} rows, learned from "
            f"{self.train_rows:,}; ± one standard error"
        )
        return [end, *([f"q was given {self.labels!r}"] if self.given else [])]


def probes(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    *,
    labels: str = "y",
    split: Split = "test",
    rows: int | None = None,
    train_rows: int | None = 5_000,
    neighbours: Sequence[int] = (1, 5),
    particles: int = 8,
    batch_size: int = 256,
    seed: int = 0,
) -> Probes:
    r"""How much of the labels simple classifiers read from the posterior means.

    Learned from training rows and scored on rows of ``split``: multinomial logistic regression
    on standardised values, whose L2 penalty is chosen by cross-validation on the training rows,
    and the vote of the k nearest (Euclidean, not standardised: it would blow up collapsed
    dimensions). For comparison the same on the values themselves, and on as many principal
    components of them as each latent has dimensions; a missing value is the mean of the training
    rows there. Of a
    discrete latent the probabilities are read; one with a single value a row is also compared
    as a clustering.

    The labels are not shown to q, unless it cannot do without them. Understanding intermediate
    layers using linear classifier probes (Alain & Bengio, 2017),
    https://arxiv.org/abs/1610.01644; Unsupervised Deep Embedding for Clustering Analysis (Xie,
    Girshick & Farhadi, 2016), https://arxiv.org/abs/1511.06335

    Args:
        model: Evaluated in ``eval()`` mode, left as it was.
        data: Data with labels; or named tensors of shape ``(rows, *event)``, of which a random
            half is learned from and the other scored.
        labels: Their name; whole numbers of shape ``(rows,)``.
        split: Which split of Data is scored.
        rows: How many of its rows, from the first on; all.
        train_rows: At most so many training rows, chosen at random; ``None`` for all, which may
            take long.
        neighbours: Numbers k of neighbours.
        particles: Draws a row over which a posterior mean is averaged, where q draws the latent
            from another one or gives no mean.
        batch_size: Rows at a time.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If there are no labels, only one of them, or too few training rows.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(4, MLP(2))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4))}))
        >>> y = torch.arange(200) % 2
        >>> found = probes(model, {"x": torch.randn(200, 4) + 9 * y[:, None], "y": y})
        >>> found.representations["z"].linear.value, found.chance.value < 0.6
        (1.0, True)
    """
    if min(particles, batch_size, *neighbours, train_rows or 1, 1 if rows is None else rows) < 1:
        raise ValueError(
            f"neighbours, particles, batch_size, rows and train_rows are at least 1; found "
            f"{tuple(neighbours)}, {particles}, {batch_size}, {rows}, {train_rows}."
        )
    given = labels in model.q.inputs
    omit = () if given else (labels,)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(data, Mapping):
        _refuse_unlabelled(data, labels, "the data")
        order = torch.randperm(len(data[labels]), generator=generator)
        half = len(order) // 2
        if half < 1:
            raise ValueError(f"{len(order)} row cannot be halved into learned and scored ones.")
        halves = (order[:half].sort().values, order[half:].sort().values)
        sides = [{name: value[i] for name, value in data.items()} for i in halves]
        train, test = (rows_of(model, side, omit) for side in sides)
        y_train, y_test = (side[labels] for side in sides)
    else:
        for each in ("train", split):
            _refuse_unlabelled(getattr(data, each), labels, f"the {each} split of {data.name!r}")
        train, test = (rows_of(model, getattr(data, each), omit) for each in ("train", split))
        y_train, y_test = (getattr(data, each)[labels][:] for each in ("train", split))

    chosen = torch.randperm(train.rows, generator=generator)[:train_rows].sort().values
    scored = torch.arange(test.rows)[:rows]
    (chosen, y_train), (scored, y_test) = (
        _known(y, index, labels) for y, index in ((y_train, chosen), (y_test, scored))
    )
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
        raise ValueError(f"No row of {split!r} has a label {labels!r}: nothing to score.")
    with evaluating(model, seed_of(seed, "probes")):
        learned = encode(model, train, chosen, labels, particles, batch_size)
        shown = encode(model, test, scored, labels, particles, batch_size)

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


def _refuse_unlabelled(columns: Mapping[str, Any], labels: str, where: str) -> None:
    if labels not in columns:
        raise ValueError(
            f"There is no {labels!r} in {where}, which has {', '.join(columns)}: probes need "
            f"labels; name them with labels=..., or load data that have some."
        )


def _known(y: Tensor, index: Tensor, labels: str) -> tuple[Tensor, NDArray[Any]]:
    """The rows of an index that have a label, and their labels."""
    values = y[index.to(y.device)].double().cpu()
    if values.dim() != 1 or bool((values != values.round())[~values.isnan()].any()):
        raise ValueError(
            f"{labels!r} must be whole numbers, one a row; found shape {tuple(y.shape)}, "
            f"{y.dtype}."
        )
    known = ~values.isnan()
    return index[known], values[known].numpy().astype(np.int64)


def _filled(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Holes filled with the means of the training rows; 0 where all are holes."""
    holes = np.isnan(train)
    counts = np.maximum((~holes).sum(0), 1)
    means = np.where(holes, 0.0, train).sum(0) / counts
    return np.where(holes, means, train), np.where(np.isnan(test), means, test)


def _principal(
    train: NDArray[Any], test: NDArray[Any], dimensions: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.decomposition import PCA

    found: Any = PCA(dimensions, random_state=seed)
    found.fit(train)
    return found.transform(train), found.transform(test)


def _representation(
    name: str,
    latent: bool,  # noqa: FBT001
    values: tuple[NDArray[Any], NDArray[Any]],
    labels: tuple[NDArray[Any], NDArray[Any]],
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


def _clustering(name: str, clusters: NDArray[Any], labels: NDArray[Any], seed: int) -> Clustering:
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


def _share(right: NDArray[Any]) -> Score:
    share = float(right.mean())
    return Score(share, math.sqrt(share * (1.0 - share) / len(right)))


def _nearest(k: int) -> str:
    return "nearest" if k == 1 else f"{k} nearest"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Some rows as the model sees them, float64.

    Attributes:
        codes: Posterior mean of each latent by name, of categories their probabilities, shape
            ``(rows, dimensions)``.
        clusters: The most probable value of each discrete latent with one value a row, shape
            ``(rows,)``.
        names: The observed names.
        values: Their values, shape ``(rows, elements)``.
    """

    codes: dict[str, NDArray[Any]]
    clusters: dict[str, NDArray[Any]]
    names: tuple[str, ...]
    values: NDArray[Any]


def encode(
    model: LatentVariableModel,
    taken: Rows,
    index: Tensor,
    labels: str,
    particles: int,
    batch_size: int,
) -> Encoded:
    """The rows of an index in rising order; call it inside ``evaluating``.

    Args:
        model: Whose q encodes.
        taken: Where the rows are.
        index: Which of them, shape ``(rows,)``.
        labels: A name that is no value to be read from, though q may need it.
        particles: Draws over which means are averaged.
        batch_size: Rows at a time.
    """
    own = tuple([name for name in taken.names if name != labels])
    names = tuple([name for name in own if name in model.p.names]) or own
    codes: dict[str, list[Tensor]] = {}
    clusters: dict[str, list[Tensor]] = {}
    values = []
    for start in range(0, taken.rows, batch_size):
        inside = index[(index >= start) & (index < start + batch_size)] - start
        if not len(inside):
            continue
        batch = taken[slice(start, start + batch_size)]
        given = {name: value[inside.to(value.device)] for name, value in batch.items()}
        values.append(torch.cat([given[n].reshape(len(inside), -1).double() for n in names], 1))
        trace = model.posterior(given, particles=particles, missing=taken.missing)
        for name in latents_of(model, trace):
            code = _mean(trace[name], trace.batch_shape)
            codes.setdefault(name, []).append(code.flatten(1).cpu())
            cluster = _cluster(trace[name], code)
            if cluster is not None:
                clusters.setdefault(name, []).append(cluster.cpu())
    return Encoded(
        {name: torch.cat(each).numpy() for name, each in codes.items()},
        {name: torch.cat(each).numpy() for name, each in clusters.items()},
        names,
        torch.cat(values).cpu().numpy(),
    )


def _mean(site: Site, shape: tuple[int, ...]) -> Tensor:
    """Posterior mean, of categories their probabilities, over the particles: ``(batch, *event)``.

    Given a draw of the latent's parents where the distribution tells it, else of the draws.
    """
    values = site.features if is_discrete(site) else site.value
    event = values.dim() - site.batch_dims
    base = base_of(site.distribution)
    if isinstance(base, Categorical):
        values, event = base.probs, site.value.dim() - site.batch_dims + 1
    elif site.distribution is not None:
        with contextlib.suppress(NotImplementedError, AttributeError):
            mean = site.distribution.mean
            if bool(torch.isfinite(mean).all()):  # a Student-t has no mean at one degree
                values, event = mean, site.value.dim() - site.batch_dims
    lead = values.dim() - event
    full = values.reshape(*[1] * (len(shape) - lead), *values.shape)
    return full.double().expand(*shape, *full.shape[len(shape) :]).mean(0)


def _cluster(site: Site, code: Tensor) -> Tensor | None:
    """The most probable value of a discrete latent with one value a row, shape ``(batch,)``."""
    base = base_of(site.distribution)
    if code.dim() == 2 and isinstance(base, Categorical | OneHotCategorical):
        return code.argmax(-1)
    if code.dim() == 1 and isinstance(base, Bernoulli):
        return (code > 0.5).long()
    return None
