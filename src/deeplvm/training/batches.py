"""Batches: named tensors by row numbers, from tensors in memory or from a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import STACKED, NamedRows, Values, has_nan
from deeplvm.devices import dtype_of
from deeplvm.randomness import seed_of
from deeplvm.training.cells import hidden, hideable, some_hidden

TrainingSplit = Literal["train", "valid"]
# The part of a GPU's free memory that data may take; beyond it, batches are brought one by one.
_MOST_OF_THE_GPU = 0.4
_TOGETHER = 32  # batches whose rows are sorted by their length
LABEL = "y"


class Dataset(Protocol):
    """What training needs of a data set: :class:`deeplvm.data.Data` is one."""

    @property
    def missing(self) -> frozenset[str]:
        """Names with NaN elements."""
        ...

    def rows(self, split: TrainingSplit, /) -> int:
        """Number of rows of ``"train"`` or ``"valid"``."""
        ...

    def batch(
        self, split: TrainingSplit, index: Tensor, /, generator: Generator | None = None
    ) -> dict[str, Any]:
        """Named values of some rows; the generator draws what is renewed at every visit."""
        ...


@runtime_checkable
class Ordered(Dataset, Protocol):
    """A source that says in which order its rows are best visited: one that streams from disk."""

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """The row numbers of each training batch of an epoch, from batch number ``first`` on.

        A pure function of its arguments, so that a run goes on in the middle of an epoch.
        """
        ...


@runtime_checkable
class Movable(Dataset, Protocol):
    """A source that a GPU may hold."""

    @property
    def nbytes(self) -> int:
        """Bytes in which its rows rest."""
        ...

    def to(self, device: torch.device, /) -> Dataset:
        """The same rows there."""
        ...


class Tensors:
    """Tensors in memory as a source.

    Args:
        train: Named tensors of the same number of rows.
        valid: The held-out rows, with the same names; none.
        missing: Names with NaN elements; by default they are looked at, once.
        values: What a row of a name's values is, where they are not stacked along an axis.

    Raises:
        ValueError: If there are no rows, or names disagree on their number.
    """

    def __init__(
        self,
        train: NamedRows,
        valid: NamedRows | None = None,
        missing: Iterable[str] | None = None,
        values: Mapping[str, Values] | None = None,
    ) -> None:
        self.values = {name: (values or {}).get(name, STACKED) for name in train}
        read = {"train": train, "valid": valid or {}}
        self.splits = {split: self._read(rows, split) for split, rows in read.items()}
        if not self.splits["train"]:
            raise ValueError("There is nothing to learn from: give named tensors, {'x': tensor}.")
        if valid is not None and (absent := set(train) - set(valid)):
            raise ValueError(
                f"The held-out rows lack {', '.join(sorted(absent))}, which training has."
            )
        holes = [
            name
            for tensors in self.splits.values()
            for name, value in tensors.items()
            if has_nan(value)
        ]
        self.missing = frozenset(holes if missing is None else missing)

    def rows(self, split: TrainingSplit) -> int:
        """Number of rows; 0 for a split that is not there."""
        name, value = next(iter(self.splits[split].items()), (None, ()))
        return self.values[name].count(value) if name in self.values else 0

    def batch(
        self, split: TrainingSplit, index: Tensor, generator: Generator | None = None
    ) -> dict[str, Tensor]:
        """The rows of an index, shape ``(batch,)``."""
        return {n: self.values[n].take(value, index) for n, value in self.splits[split].items()}

    def to(self, names: Iterable[str], device: torch.device, dtype: torch.dtype) -> Tensors:
        """The same rows where the model is, once and not per batch; only names that it knows."""
        moved = object.__new__(Tensors)
        moved.missing, moved.values = self.missing, self.values
        moved.splits = {
            split: {
                name: self.values[name].change(value, lambda each: place(each, device, dtype))
                for name, value in tensors.items()
                if name in names
            }
            for split, tensors in self.splits.items()
        }
        return moved

    def _read(self, rows: NamedRows, split: str) -> dict[str, Any]:
        tensors = {}
        for name, value in rows.items():
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(np.array(value))
            own = self.values.setdefault(name, STACKED)
            stacked = isinstance(value, tuple) or (isinstance(value, Tensor) and value.dim() > 0)
            if own is STACKED and not stacked:
                raise ValueError(
                    f"{name!r} of the {split} data must be a tensor whose first axis is the rows, "
                    f"not {type(value).__name__}."
                )
            tensors[name] = value
        counts = {n: self.values[n].count(value) for n, value in tensors.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"The {split} data have different numbers of rows: {counts}.")
        return tensors


class Batches:
    """Batches of a source as the model wants them: its names, its device, its precision.

    Names that the model does not know (labels of a plain VAE) are left out. Of training rows with
    a generator elements are hidden, those of ``hidden`` names, a share of up to ``hide`` in a row,
    and of a share ``hide_names`` of the rows whole names.
    Where some rows lack their label y, ``labelled`` is the share of a batch that has one.

    Raises:
        ValueError: If the source has no rows, or no name that the model knows.
    """

    def __init__(
        self,
        source: Dataset,
        names: frozenset[str],
        device: torch.device,
        dtype: torch.dtype,
        hide: float = 0.0,
        hideable: Callable[[Iterable[str]], tuple[str, ...]] = tuple,
        labelled: float = 0.0,
        hide_names: float = 0.0,
    ) -> None:
        if source.rows("train") == 0:
            raise ValueError("The training data have no rows.")
        some = source.batch("train", torch.arange(1))
        self.names = tuple([name for name in some if name in names])
        if not self.names:
            raise ValueError(
                f"The data are called {', '.join(some)}, but the model knows only "
                f"{', '.join(sorted(names))}; rename the data or the model's names."
            )
        self.ready = isinstance(source, Tensors)
        self.place = torch.device("cpu")  # where row numbers are looked up
        self.source: Any = source
        if isinstance(source, Tensors):
            self.source, self.place = source.to(self.names, device, dtype), device
        elif device.type == "cuda" and isinstance(source, Movable) and _fits(source, device):
            self.source, self.place = source.to(device), device
        self.device, self.dtype = device, dtype
        real = [
            n for n in self.names if isinstance(some[n], Tensor) and some[n].is_floating_point()
        ]
        described = getattr(source, "description", None) is not None
        # labels of which some are missing are reals, and yet no values
        self.real = tuple([name for name in real if not described or name != LABEL])
        self.hide, self.hide_names = hide, hide_names
        self.hidden = hideable(self.real) if hide or hide_names else ()
        self.missing = (source.missing & names).union(self.hidden)
        self.balance: Balance | None = None
        if labelled and LABEL in self.missing:
            self.balance = Balance.of(self._given(LABEL), labelled, source)

    def rows(self, split: TrainingSplit, stream: str | None = None) -> int:
        """Number of rows of a split; there is one stream only."""
        if stream is not None:
            raise ValueError(
                f"A phase asks for the stream {stream!r}, and the data have no streams; give "
                f"Streams({{{stream!r}: …}}), or leave out stream."
            )
        return self.source.rows(split)

    @property
    def measured_rows(self) -> int:
        """Training rows that may be measured."""
        return self.rows("train")

    @property
    def varies(self) -> bool:
        """Whether batches differ in shape: their rows are sequences of different lengths."""
        lengths = getattr(getattr(self.source, "description", None), "lengths", ())
        return len(set(lengths)) > 1

    def share_given(self, split: TrainingSplit, name: str) -> float:
        """The share of the rows of a split in which a name is given; 1 if it has no rows."""
        if name not in self.missing or not self.rows(split):
            return 1.0
        known = getattr(self.source, "description", None)
        if name == LABEL and known is not None and known.unlabelled:
            return 1 - known.unlabelled.get(split, 0) / max(1, known.rows[split])
        return float(self._given(name, split).double().mean())

    def _given(self, name: str, split: TrainingSplit = "train") -> Tensor:
        """In which rows a name is given, shape ``(rows,)``."""
        rows = torch.arange(self.rows(split), device=self.place)
        values = self.source.batch(split, rows)[name]
        return ~values.isnan().reshape(len(rows), -1).any(1).cpu()

    def of_stream(
        self, stream: str | None, batch: dict[str, Any], index: Tensor
    ) -> tuple[dict[str, Any], Tensor]:
        """Values by name, and their row numbers."""
        return batch, index if index.dim() == 1 else index[:, 0]

    def first(self, n: int) -> Tensor:
        """Training rows to look at before training: the first n."""
        return torch.arange(min(n, self.rows("train")))

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """The row numbers of each training batch of an epoch, from batch number ``first`` on.

        The source's own order, or one permutation of all rows, of sequences with batches of rows
        of similar length; it depends on the arguments alone.
        """
        if isinstance(self.source, Ordered):
            return self.source.order(epoch, seed, batch_size, first)
        if self.balance is not None:
            return self.balance.order(epoch, seed, batch_size, first, self.place)
        generator = Generator().manual_seed(seed_of(seed, epoch))
        permutation = torch.randperm(self.rows("train"), generator=generator)
        if self.varies:
            permutation = alike(permutation, self._lengths, batch_size, generator)
        return iter(permutation.to(self.place).split(batch_size)[first:])

    @property
    def _lengths(self) -> Tensor:
        """How many steps each training row has."""
        (name,) = self.source.description.whole
        return self.source.train[name].cpu()

    def __call__(
        self,
        split: TrainingSplit,
        index: Tensor,
        generator: Generator | None = None,
        *,
        whole: Tensor | None = None,
    ) -> dict[str, Any]:
        """Values by name, shape ``(batch, *event)``; the generator is of a visit in training.

        Where these are one process's rows of a ``whole`` batch, sequences are padded as there, so
        that a step has the noise that it has with one process.
        """
        if self.ready:
            batch = self.source.batch(split, index.to(self.device))
        else:
            batch = self.source.batch(split, index.to(self.place), generator)
            batch = {name: place(batch[name], self.device, self.dtype) for name in self.names}
        if whole is not None and len(whole) > len(index):
            batch = self._padded(batch, split, whole)
        if not self.hidden or generator is None:
            return batch
        if self.hide_names:
            batch = some_hidden(batch, self.hidden, self.hide_names, generator)
        return hidden(batch, self.hidden, self.hide, generator) if self.hide else batch

    def _padded(
        self, batch: dict[str, Any], split: TrainingSplit, whole: Tensor
    ) -> dict[str, Any]:
        """Sequences with zeros up to the longest row of a larger batch."""
        known = getattr(getattr(self.source, "description", None), "variables", {})
        found = dict(batch)
        for name in [n for n in batch if n in known and known[n].length is not None]:
            value, lengths = batch[name], self.source[split][known[name].length]
            more = int(lengths[whole.cpu()].max()) - value.shape[1]
            zeros = value.new_zeros(len(value), more, *value.shape[2:])
            found[name] = torch.cat([value, zeros], 1)
        return found


def alike(rows: Tensor, lengths: Tensor, batch_size: int, generator: Generator) -> Tensor:
    """Row numbers in an order in which a batch has rows of similar length, and so little padding.

    Of so many batches the rows are sorted by length, and these batches come in a random order.
    Which rows come is as before; the last batch, if it is not full, has the rows that it had.

    >>> rows, lengths = torch.tensor([3, 0, 2, 1, 4]), torch.tensor([9, 1, 8, 2, 5])
    >>> alike(rows, lengths, 2, Generator().manual_seed(0)).tolist()
    [1, 3, 2, 0, 4]
    """
    full = len(rows) // batch_size * batch_size
    batches = list[Tensor]()
    for pool in rows[:full].split(_TOGETHER * batch_size):
        batches += pool[lengths[pool].argsort(stable=True)].split(batch_size)
    order = torch.randperm(len(batches), generator=generator).tolist()
    return torch.cat([*[batches[place] for place in order], rows[full:]])


@dataclass(frozen=True, eq=False)
class Balance:
    r"""Batches with a share of labelled rows, more or fewer than the data have.

    Rows of either kind are permuted and taken in turn, as often as needed. Those that come too
    often count less: a batch's weighted mean has the expectation of the plain one.

    Attributes:
        kinds: Numbers of the rows with a label, and of those without.
        share: Of the rows of a batch that have one.
    """

    kinds: tuple[Tensor, Tensor]
    share: float

    @classmethod
    def of(cls, given: Tensor, share: float, source: Any) -> Balance | None:
        """That of rows of which some are labelled; none where all are, or no row is.

        Raises:
            ValueError: If the source has an order of its own.
        """
        if isinstance(source, Ordered):
            raise ValueError(
                "labelled puts rows with a label into each batch, and these data have an order of "
                "their own (rows on disk, or with weights); leave it out."
            )
        kinds = given.nonzero().flatten(), (~given).nonzero().flatten()
        return cls(kinds, share) if min(map(len, kinds)) else None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(map(len, self.kinds))

    def weights(self, evidence: Any) -> Tensor:
        """What each row of a batch counts, shape ``(batch,)``."""
        unlabelled = evidence.drawn_in.get(LABEL)
        if unlabelled is None:  # q does not draw it
            unlabelled = evidence.p[LABEL].value.isnan()
        labelled = len(self.kinds[0]) / self.rows
        return torch.where(unlabelled, (1 - labelled) / (1 - self.share), labelled / self.share)

    def order(
        self, epoch: int, seed: int, batch_size: int, first: int, device: torch.device
    ) -> Iterator[Tensor]:
        """The row numbers of each training batch, as :meth:`Batches.order`."""
        passes: dict[int, tuple[int, Tensor]] = {}
        for start in range(first * batch_size, self.rows, batch_size):
            begin = (epoch - 1) * self.rows + start
            end = begin + min(batch_size, self.rows - start)
            labelled = range(math.floor(self.share * begin), math.floor(self.share * end))
            others = range(begin - labelled.start, end - labelled.stop)
            parts = [
                kind[visited(number, len(kind), seed, visits, passes)]
                for number, (kind, visits) in enumerate(
                    zip(self.kinds, (labelled, others), strict=True)
                )
            ]
            yield torch.cat(parts).to(device)


def visited(
    number: int, rows: int, seed: int, visits: range, passes: dict[int, tuple[int, Tensor]]
) -> Tensor:
    """Which rows some visits are of, counted from the first epoch on; each pass is permuted.

    Args:
        number: Of the rows among several that are visited, each in an order of its own.
        rows: How many there are.
        seed: Of the orders.
        visits: Which.
        passes: The latest pass of each, remembered.
    """
    found, at = [torch.zeros(0, dtype=torch.int64)], visits.start
    while at < visits.stop:
        again, offset = divmod(at, rows)
        if passes.get(number, (-1,))[0] != again:
            generator = Generator().manual_seed(seed_of(seed, number, again))
            passes[number] = (again, torch.randperm(rows, generator=generator))
        found.append(passes[number][1][offset : offset + visits.stop - at])
        at += len(found[-1])
    return torch.cat(found)


class Streams:
    """Several sources in one training: a step takes a batch of each, by the source's name.

    Labelled and unlabelled rows, say, of unequal numbers. A phase reads one of them by its
    ``stream``; the function ``evidence`` of a phase without is given all, name to batch. A source
    that has fewer rows than an epoch begins again in a new order, one that has more goes on where
    the epoch before ended; which rows come together depends on seed and epoch alone.

    Args:
        sources: Name to named tensors, or to a data set in memory.
        epoch: Whose rows make an epoch; those of the longest by default.
        measured: Whose rows are measured after each epoch; those of the first by default. Held-out
            rows are its own (``valid`` of :func:`~deeplvm.training.fit` for named tensors).

    Raises:
        ValueError: If there are no sources, or none of that name.

    >>> few, many = {"x": torch.zeros(2, 1), "y": torch.zeros(2)}, {"x": torch.ones(3, 1)}
    >>> streams = Streams({"labelled": few, "unlabelled": many})
    >>> streams.epoch, streams.measured
    ('unlabelled', 'labelled')
    """

    def __init__(
        self,
        sources: Mapping[str, Dataset | NamedRows],
        *,
        epoch: str | None = None,
        measured: str | None = None,
    ) -> None:
        if not sources:
            raise ValueError("Streams have no sources; give {'labelled': …, 'unlabelled': …}.")
        self.sources = dict(sources)
        counts = {
            name: Tensors(each).rows("train") if isinstance(each, Mapping) else each.rows("train")
            for name, each in sources.items()
        }
        self.epoch = epoch or max(counts, key=lambda name: counts[name])
        self.measured = measured or next(iter(sources))
        for option, name in (("epoch", self.epoch), ("measured", self.measured)):
            if name not in sources:
                raise ValueError(f"{option}={name!r} is none of the streams {', '.join(sources)}.")

    def refuse(self, read: Sequence[Any]) -> None:
        """Refuse phases that read no stream in particular, nor all of them by a function.

        Raises:
            ValueError: With what to write.
        """
        if None in read:
            raise ValueError(
                f"Phase {1 + read.index(None)} does not say which stream it reads: give "
                f"phases=[Phase(stream=…)] with one of {', '.join(self.sources)}, or evidence=, a "
                f"function of the model and of all batches by name."
            )


class StreamBatches:
    """Batches of several streams; a batch's index has a column for each, ``(batch, streams)``.

    With an index of one dimension they are batches of the stream that is measured.
    """

    balance: Balance | None = None  # each stream has its own share of a batch

    def __init__(self, streams: Streams, batches: Mapping[str, Batches]) -> None:
        self.streams, self.batches = streams, dict(batches)
        self.measured = self.batches[streams.measured]
        self.device, self.real = self.measured.device, self.measured.real
        self.missing = frozenset[str]().union(*[each.missing for each in self.batches.values()])
        self.names = tuple(
            dict.fromkeys([n for each in self.batches.values() for n in each.names])
        )
        self.orders: dict[int, tuple[int, Tensor]] = {}  # of each stream the latest, with its pass

    def rows(self, split: TrainingSplit, stream: str | None = None) -> int:
        """Rows of a stream; of no certain one those of an epoch, or those that are held out."""
        if stream is not None and stream not in self.batches:
            raise ValueError(
                f"There is no stream {stream!r}; there are {', '.join(self.batches)}."
            )
        main = self.streams.epoch if split == "train" else self.streams.measured
        return self.batches[stream or main].rows(split)

    @property
    def measured_rows(self) -> int:
        """Training rows that may be measured."""
        return self.measured.rows("train")

    @property
    def varies(self) -> bool:
        """Whether batches of any stream differ in shape."""
        return any([each.varies for each in self.batches.values()])

    def share_given(self, split: TrainingSplit, name: str) -> float:
        """Each stream is a mean over its own rows."""
        return 1.0

    def of_stream(
        self, stream: str | None, batch: dict[str, Any], index: Tensor
    ) -> tuple[dict[str, Any], Tensor]:
        """Values by name of one stream, and their row numbers; of the measured one if of none."""
        chosen = stream or self.streams.measured
        return batch[chosen], index[:, [*self.batches].index(chosen)]

    def first(self, n: int) -> Tensor:
        """Training rows to look at before training: the first of each stream."""
        n = min([n, *[each.rows("train") for each in self.batches.values()]])
        return torch.arange(n).unsqueeze(-1).expand(n, len(self.batches))

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """The row numbers of each batch of an epoch, from batch number ``first`` on."""
        rows = self.rows("train")
        for start in range(first * batch_size, rows, batch_size):
            visits = range((epoch - 1) * rows + start, (epoch - 1) * rows + rows)[:batch_size]
            columns = [
                visited(number, each.rows("train"), seed, visits, self.orders)
                for number, each in enumerate(self.batches.values())
            ]
            yield torch.stack(columns, -1)

    def __call__(
        self,
        split: TrainingSplit,
        index: Tensor,
        generator: Generator | None = None,
        *,
        whole: Tensor | None = None,
    ) -> dict[str, Any]:
        """Batches by stream, or of the stream that is measured."""
        if index.dim() == 1:
            return self.measured(split, index, generator, whole=whole)
        every = [None] * index.shape[1] if whole is None else whole.unbind(-1)
        parts = zip(self.batches.items(), index.unbind(-1), every, strict=True)
        return {n: each(split, rows, generator, whole=all_) for (n, each), rows, all_ in parts}


class ByFactor:
    """Batches in which one factor varies and the others stay as they are.

    Deep Convolutional Inverse Graphics Network (Kulkarni et al., 2015),
    https://arxiv.org/abs/1503.03167. Each batch draws a factor and a row, and takes rows that
    agree with it in all other factors, ``batch_size`` of them or all that there are; as many
    batches as cover the rows once are an epoch. Which factor varies is in the batch under
    ``name``, for a conditional that reads it (``"z | x, factor"``), shape ``(batch,)``; it is -1
    where rows are measured, and all may vary.

    Args:
        train: Named tensors.
        factors: Levels of each factor, shape ``(rows, factors)``.
        valid: Held-out rows, with the same names; none.
        name: Under which a batch says what varies.

    Raises:
        ValueError: If no two rows differ in one factor alone, or the shapes do not fit.
    """

    def __init__(
        self,
        train: NamedRows,
        factors: Tensor,
        valid: NamedRows | None = None,
        *,
        name: str = "factor",
    ) -> None:
        self.tensors, self.name = Tensors(train, valid), name
        self.missing = self.tensors.missing
        if factors.dim() != 2 or len(factors) != self.rows("train"):
            raise ValueError(
                f"factors are to be of shape ({self.rows('train')}, factors), one row for each of "
                f"the data; found {tuple(factors.shape)}."
            )
        self.groups = []  # of each factor that varies: group of each row, rows that have company
        for number in range(factors.shape[1]):
            others = torch.cat([factors[:, :number], factors[:, number + 1 :]], 1)
            _, group, sizes = torch.unique(others, dim=0, return_inverse=True, return_counts=True)
            if len(rows := (sizes[group] > 1).nonzero().squeeze(-1)):
                self.groups.append((number, group, rows))
        if not self.groups:
            raise ValueError(
                "No two rows differ in one factor alone, so nothing can vary by itself."
            )

    def rows(self, split: TrainingSplit) -> int:
        """Number of rows."""
        return self.tensors.rows(split)

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """Row and factor that varies, shape ``(batch, 2)``, from batch number ``first`` on."""
        generator = Generator().manual_seed(seed_of(seed, epoch))

        def drawn(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        for number in range(-(-self.rows("train") // batch_size)):
            factor, group, rows = self.groups[drawn(len(self.groups))]
            alike = (group == group[rows[drawn(len(rows))]]).nonzero().squeeze(-1)
            index = alike[torch.randperm(len(alike), generator=generator)[:batch_size]]
            if number >= first:
                yield torch.stack([index, torch.full_like(index, factor)], -1)

    def batch(
        self, split: TrainingSplit, index: Tensor, generator: Generator | None = None
    ) -> dict[str, Tensor]:
        """The rows of an index, and which factor varies."""
        rows, factor = (
            index.unbind(-1) if index.dim() == 2 else (index, torch.full_like(index, -1))
        )
        return {**self.tensors.batch(split, rows, generator), self.name: factor}


AnyBatches = Batches | StreamBatches


def batches_of(
    model: LatentVariableModel,
    data: Dataset | Streams | NamedRows,
    valid: NamedRows | None,
    missing: Sequence[str] | None,
    device: torch.device,
    hide: float = 0.0,
    labelled: float = 0.0,
    hide_names: float = 0.0,
) -> AnyBatches:
    """Batches of whatever ``fit`` was given.

    Raises:
        ValueError: If a share is none, or there is nothing to hide, or to balance.
    """
    if not 0.0 <= labelled < 1.0:
        raise ValueError(f"labelled is a share of a batch in [0, 1), such as 0.5, not {labelled}.")
    if labelled and (isinstance(data, Streams) or LABEL not in model.names):
        why = "streams have their own" if isinstance(data, Streams) else "the model has no label y"
        raise ValueError(f"labelled says how many rows of a batch have a label, and {why}.")
    if not 0.0 <= hide < 1.0:
        raise ValueError(f"hide is a share of a row's values in [0, 1), such as 0.5, not {hide}.")
    if not 0.0 <= hide_names <= 1.0:
        raise ValueError(f"hide_names is a share of the rows, such as 0.5, not {hide_names}.")

    def one(data: Dataset | NamedRows, valid: NamedRows | None) -> Batches:
        if isinstance(data, Mapping):
            data = Tensors(data, valid, missing, {name: model.values(name) for name in data})
        elif valid is not None or missing is not None:
            raise ValueError(
                "A data set has its own held-out rows and knows what is missing; leave out valid= "
                "and missing=, which belong to named tensors."
            )
        names = partial(hideable, model)
        batches = Batches(
            data, model.names, device, dtype_of(model), hide, names, labelled, hide_names
        )
        if hide_names and len(batches.hidden) < 2:
            raise ValueError(
                f"hide_names hides some of several names that p scores and does not read, and "
                f"these data have {', '.join(batches.hidden) or 'none'}; leave it out."
            )
        if hide and not batches.hidden:
            raise ValueError(
                "hide hides real values that p scores and does not read, and these data have "
                "none; leave it out."
            )
        return batches

    if not isinstance(data, Streams):
        return one(data, valid)
    measured = data.measured
    each = {name: one(s, valid if name == measured else None) for name, s in data.sources.items()}
    if ordered := [name for name, one in each.items() if isinstance(one.source, Ordered)]:
        raise ValueError(f"{ordered[0]!r} has an order of its own, which streams cannot follow.")
    return StreamBatches(data, each)


def _fits(source: Movable, device: torch.device) -> bool:
    """Whether a data set can lie on the GPU whole, as the bytes it rests in."""
    free, _ = torch.cuda.mem_get_info(device)
    return not isinstance(source, Ordered) and source.nbytes <= _MOST_OF_THE_GPU * free


def place(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A value on the device, floating-point tensors in the model's precision."""
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else value.dtype, non_blocking=True)
