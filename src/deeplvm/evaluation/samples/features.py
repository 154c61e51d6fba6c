r"""Features in which draws and data are compared: of a small network trained here, or columns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deeplvm.core.values import NamedRows
from deeplvm.inference.rows import check_rows, selection_of
from deeplvm.networks import MLP, ConvolutionalEncoder
from deeplvm.results import Record, number

if TYPE_CHECKING:
    from deeplvm.data.variable import Variable

_VERSION = 1  # of all that decides the features besides data and seed
_CLASSIFIER, _ROTATIONS, _COLUMNS = "classifier", "rotations", "columns"


@dataclass(frozen=True, eq=False)
class FeatureMap(Record, without="network shape"):
    r"""A fixed map :math:`\phi` from rows to features, and where it came from.

    Distances in different features cannot be compared: two numbers belong side by side only if
    their ``fingerprint`` is the same, and none of them is comparable with published ones, which
    are of an Inception network trained on ImageNet.

    Attributes:
        kind: ``"classifier"`` (penultimate layer of a network that tells the labels apart),
            ``"rotations"`` (of one that tells how an image was turned) or ``"columns"``
            (standardised columns, nothing is learned).
        network: Rows ``(rows, *shape)`` to features ``(rows, dimensions)``.
        shape: Event shape of a row.
        dimensions: Number of features.
        fingerprint: SHA-256 of the kind, the version of the procedure, the seed, the budget and
            the training rows.
        seed: Of the initialisation and the order of rows.
        rows: Training rows that it was learned from.
        accuracy: Share of held-out rows that the network tells right; ``None`` if nothing is
            learned, or nothing was held out. Features of a network near ``chance`` say little.
        accuracy_stderr: Its standard error; ``None`` with it.
        chance: Share of the most frequent class in the held-out rows; ``None`` with them.
    """

    kind: str
    network: nn.Module
    shape: tuple[int, ...]
    dimensions: int
    fingerprint: str
    seed: int
    rows: int
    accuracy: float | None = None
    accuracy_stderr: float | None = None
    chance: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        r""":math:`\phi(x)` in float64 on the CPU, shape ``(rows, dimensions)``.

        Raises:
            ValueError: If rows have another shape, or missing values.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"These features are of rows of shape {self.shape}, found {tuple(x.shape[1:])}."
            )
        complete(x, "the rows")
        with torch.inference_mode():
            parts = [self.network(part.detach().cpu().float()) for part in x.split(CHUNK)]
        return torch.cat(parts).double().clone()

    def __str__(self) -> str:
        mark = f"fingerprint {self.fingerprint[:12]}"
        if self.kind == _COLUMNS:
            return f"features: the {self.dimensions} standardised columns; {mark}"
        task = "the labels apart" if self.kind == _CLASSIFIER else "how an image was turned"
        told = ""
        if self.accuracy is not None and self.accuracy_stderr is not None:
            right = number(100 * self.accuracy, 100 * self.accuracy_stderr, (1, 2))
            chance = 100 * (self.chance or 0.0)
            told = f", right in {right} % of held-out rows (chance {chance:.0f} %)"
        return (
            f"features: {self.dimensions} of a network trained here on {self.rows:,} rows to tell "
            f"{task}{told}; {mark}"
        )


def classifier_features(
    x: Tensor,
    labels: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    counts: bool = False,
    seed: int = 0,
) -> FeatureMap:
    r"""The penultimate layer of a small classifier: convolutional for images, else an MLP.

    A fixed budget of at most 500 steps of 100 rows and at most 10 epochs.

    Args:
        x: Training rows, shape ``(rows, *event)``; an event (channels, height, width) is an image.
        labels: Their classes 0, 1, ..., shape ``(rows,)``.
        held_out: Rows and classes on which the accuracy is measured.
        counts: Whether log(1 + x) is what the network sees.
        seed: Same seed, same features.

    Raises:
        ValueError: If there are fewer than two classes, or values are missing.

    Examples:
        >>> x = torch.randn(200, 3)
        >>> features = classifier_features(x, (x[:, 0] > 0).long(), held_out=(x, x[:, 0] > 0))
        >>> features(x).shape, features.accuracy > 0.9
        (torch.Size([200, 64]), True)
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    if len(labels.unique()) < 2:
        raise ValueError(
            "A classifier needs rows of at least two classes; without labels use "
            "rotation_features for images or standardised_columns."
        )
    y = labels.cpu().long()
    held = None if held_out is None else (held_out[0], held_out[1].cpu().long(), 1)

    def told(part: Tensor, index: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
        return part, y[index]

    return _learned(_CLASSIFIER, x, told, classes, held, seed, y, counts=counts)


def rotation_features(x: Tensor, *, held_out: Tensor | None = None, seed: int = 0) -> FeatureMap:
    r"""The penultimate layer of a network that tells by which quarter turn an image was rotated.

    For images without labels: the network, the loss and the cost are those of
    :func:`classifier_features`, and telling the turn asks for the shapes in the image. An
    autoencoder's features would follow the variance of the pixels, and favour models that were
    trained in the same way as it was. An image that is not square is mirrored upside down, left
    to right, or both, instead of turned.

    Unsupervised Representation Learning by Predicting Image Rotations (Gidaris, Singh &
    Komodakis, 2018), https://arxiv.org/abs/1803.07728

    Args:
        x: Training rows, shape ``(rows, channels, height, width)``.
        held_out: Rows on which the accuracy is measured, in all four positions.
        seed: Same seed, same features.

    Raises:
        ValueError: If they are no images, or values are missing.
    """
    if x.dim() != 4:
        raise ValueError(
            f"Only an image (rows, channels, height, width) can be turned, found shape "
            f"{tuple(x.shape)}; use standardised_columns."
        )

    def turned(part: Tensor, _: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        turns = torch.randint(4, (len(part),), generator=generator)
        return _positions(part)[turns, torch.arange(len(part))], turns

    held = None
    if held_out is not None:
        turns = torch.arange(4).repeat_interleave(len(held_out))
        held = _positions(held_out).flatten(0, 1), turns, 4
    return _learned(_ROTATIONS, x, turned, 4, held, seed)


def _learned(
    kind: str,
    x: Tensor,
    task: Task,
    classes: int,
    held_out: tuple[Tensor, Tensor, int] | None,
    seed: int,
    *beside: Tensor,
    counts: bool = False,
) -> FeatureMap:
    """The features of a network that learns a task from some rows, and how well it did."""
    prepared = _prepared(x, "the training rows")
    network, last = network_for(prepared, classes, counts=counts, seed=seed)
    steps = learn(network, last, x, task, seed)
    told = (None, None, None) if held_out is None else accuracy(network, last, *held_out)
    mark, shape = _fingerprint(kind, seed, steps, x, *beside), tuple(x.shape[1:])
    return FeatureMap(kind, network, shape, FEATURES, mark, seed, len(x), *told)


def standardised_columns(
    x: Tensor, variable: Variable | None = None, *, counts: bool = False
) -> FeatureMap:
    r"""The columns themselves, each less its mean over its standard deviation; nothing is learned.

    A category of L values becomes L columns of :math:`1/\sqrt 2` and 0, so that two categories
    are 1 apart. A column that does not vary is left as it is, less its mean.

    Args:
        x: Training rows, shape ``(rows, *event)``.
        variable: What the columns are, so that categories are known.
        counts: Whether log(1 + x) is standardised.

    Raises:
        ValueError: If values are missing.
    """
    values = _prepared(x, "the training rows")
    levels = _levels(variable, values.flatten(1).shape[1])
    network = ScaledColumns(values, levels, counts=counts)
    mark = _fingerprint(_COLUMNS, 0, 0, x)
    width = network.dimensions
    return FeatureMap(_COLUMNS, network, tuple(x.shape[1:]), width, mark, 0, len(x))


def features_of(
    train: NamedRows,
    name: str | None = None,
    *,
    held_out: NamedRows | None = None,
    most: int = 10_000,
    seed: int = 0,
) -> FeatureMap:
    """The features that suit the data: learned from the training rows where that can be done.

    ========================  ==========================================
    data                      features
    ========================  ==========================================
    images with labels        :func:`classifier_features`, convolutional
    images without labels     :func:`rotation_features`
    counts with labels        :func:`classifier_features`, MLP
    everything else           :func:`standardised_columns`
    ========================  ==========================================

    Args:
        train: Rows to learn from: ``data.train``, or named tensors; ``y`` are the labels.
        name: The variable; the first of the data by default.
        held_out: Rows on which the accuracy is measured.
        most: The first so many of either are taken.
        seed: Same seed, same features.

    Raises:
        ValueError: If there is no such variable, or values are missing.
    """
    check_rows(train)
    variables = variables_of(train)
    name = name or next(iter(variables), None) or next((n for n in train if n != "y"), "x")
    if name not in train:
        raise ValueError(f"The training rows have no {name!r}; they have {', '.join(train)}.")
    variable, known = variables.get(name), first_rows(train, most)
    x, labels = known[name], known.get("y")
    labelled = labels is not None and not labels.is_floating_point() and len(labels.unique()) > 1
    counts = variable is not None and variable.kind == "counts"
    image = x.dim() == 4
    held = first_rows(held_out, most) if held_out else {}
    if labels is not None and labelled and (image or counts):
        pair = (held[name], held["y"]) if name in held and "y" in held else None
        return classifier_features(x, labels, held_out=pair, counts=counts, seed=seed)
    if image:
        return rotation_features(x, held_out=held.get(name), seed=seed)
    return standardised_columns(x, variable, counts=counts)


def variables_of(rows: NamedRows) -> Mapping[str, Variable]:
    """What the data say of their variables, by name."""
    known = selection_of(rows)
    return known.description.variables if known and known.description else {}


def first_rows(rows: NamedRows, most: int | None = None) -> dict[str, Tensor]:
    """The first of some rows, widened to a floating type."""
    known = selection_of(rows)
    return known.batch(slice(0, most)) if known else {n: v[:most] for n, v in rows.items()}


def _levels(variable: Variable | None, columns: int) -> list[int | None]:
    """How many values each column that is a category has; ``None`` for numbers."""
    if variable is None:
        return [None] * columns
    named = ("category", "ordinal") if variable.parts else ("category",)
    return [part.levels if part.kind in named else None for part in variable.each]


def _prepared(x: Tensor, what: str) -> Tensor:
    complete(x, what)
    return x.detach().cpu().float()


def _positions(images: Tensor) -> Tensor:
    """Four positions of each image, shape ``(4, rows, channels, height, width)``."""
    if images.shape[-1] == images.shape[-2]:
        return torch.stack([images.rot90(turn, (-2, -1)) for turn in range(4)])
    return torch.stack([images, images.flip(-1), images.flip(-2), images.flip(-2, -1)])


def _fingerprint(kind: str, seed: int, steps: int, *rows: Tensor) -> str:
    digest = hashlib.sha256(f"{_VERSION} {kind} {seed} {steps} {BATCH} {FEATURES}".encode())
    for tensor in rows:
        wide = tensor.detach().cpu()
        wide = wide.float() if wide.is_floating_point() else wide.long()
        digest.update(f" {tuple(wide.shape)} ".encode())
        digest.update(wide.contiguous().numpy().data)
    return digest.hexdigest()


FEATURES = 64
"""Width of the penultimate layer: covariances of it are well estimated from a thousand rows."""
BATCH = 100
_EPOCHS = 10  # at most, so that a small data set is not learned by heart
_STEPS = 500  # at most: about 15 seconds of one core for 28x28 pixels
CHUNK = 1_000
Task = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Of rows, their numbers and a generator: what the network sees, and the right classes."""


def complete(x: Tensor, what: str) -> None:
    """Refuse missing values.

    Raises:
        ValueError: If there are any.
    """
    if x.is_floating_point() and bool(x.isnan().any()):
        raise ValueError(
            f"There are missing values (NaN) in {what}, and a draw has none: their distances "
            "would measure the holes. Leave out those rows or columns, or fill them first."
        )


class Scaled(nn.Module):
    """Values less their mean over their standard deviation; of an image, one for all pixels."""

    def __init__(self, x: Tensor, *, counts: bool) -> None:
        super().__init__()
        self.counts = counts
        values = x.log1p() if counts else x
        over = tuple(range(values.dim())) if values.dim() == 4 else 0
        self.register_buffer("mean", values.double().mean(over).to(x))
        spread = values.double().std(over, correction=0)
        self.register_buffer("spread", torch.where(spread > 0, spread, 1.0).to(x))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.log1p() if self.counts else x) - self.mean) / self.spread


class ScaledColumns(nn.Module):
    """Columns scaled one by one, categories as columns of their own."""

    def __init__(self, x: Tensor, levels: list[int | None], *, counts: bool) -> None:
        super().__init__()
        self.levels = levels
        self.plain = [i for i, many in enumerate(levels) if many is None]
        self.scaled = Scaled(x.flatten(1)[:, self.plain], counts=counts)
        self.dimensions = sum([many or 1 for many in levels])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        parts = [self.scaled(flat[:, self.plain])]
        for i, many in enumerate(self.levels):
            if many is not None:
                parts.append((flat[:, i, None] == torch.arange(many)) / math.sqrt(2))
        return torch.cat(parts, 1)


def network_for(
    x: Tensor, classes: int, *, counts: bool, seed: int
) -> tuple[nn.Module, nn.Linear]:
    """Rows to features, and features to scores of the classes; float32 whatever the default."""
    shape = tuple(x.shape[1:])
    with torch.random.fork_rng(devices=[]):  # the layers draw weights, which are replaced below
        body: nn.Module = (
            ConvolutionalEncoder(shape, (16, 32), FEATURES, activation=nn.ReLU)
            if len(shape) == 3
            else MLP(shape or 1, 128, FEATURES)
        )
        last = nn.Linear(FEATURES, classes)
    generator = torch.Generator().manual_seed(seed)
    body, last = body.float(), last.float()
    for layer in [*body.modules(), last]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(Scaled(x, counts=counts), body), last


def learn(network: nn.Module, last: nn.Linear, x: Tensor, task: Task, seed: int) -> int:
    """Cross entropy of what ``task`` makes of each batch; the number of steps."""
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, len(x))
    steps = min(_STEPS, _EPOCHS * (len(x) // size))
    parameters = [*network.parameters(), *last.parameters()]
    with torch.inference_mode(mode=False), torch.enable_grad():
        adam = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(x), generator=generator)
            index, order = order[:size], order[size:]
            rows, classes = task(x[index].detach().cpu().float(), index, generator)
            adam.zero_grad()
            cross_entropy(last(network(rows)), classes).backward()
            adam.step()
            rates.step()
    network.requires_grad_(requires_grad=False).eval()
    return steps


def accuracy(
    network: nn.Module, last: nn.Linear, x: Tensor, classes: Tensor, groups: int
) -> tuple[float, float, float]:
    """Share that is right, its error over rows (each row in ``groups`` positions), and chance."""
    complete(x, "the held-out rows")
    with torch.inference_mode():
        parts = [last(network(part.cpu().float())).argmax(1) for part in x.split(CHUNK)]
    right = (torch.cat(parts) == classes).double().reshape(groups, -1).mean(0)
    error = float(right.std() / math.sqrt(len(right))) if len(right) > 1 else math.nan
    return float(right.mean()), error, float(classes.bincount().max() / len(classes))
