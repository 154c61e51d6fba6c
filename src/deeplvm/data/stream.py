"""Stream: data that stay on disk, read in the order in which they are visited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.ragged import LENGTH, RaggedColumn
from deeplvm.data.readers.source import Array, Places
from deeplvm.data.records import SPLITS, Batch, Columns, Data, Description, Selection, Split
from deeplvm.data.transform import Reader
from deeplvm.data.variable import DataError


class StreamColumn:
    """One name's values in the rows of a split, read when they are asked for.

    Args:
        reader: Of the files.
        places: The rows of the split.
        name: The reader's own, or ``"y"``.
        noisy: Whether values have the noise that is drawn once.
    """

    def __init__(self, reader: Reader, places: Places, name: str, *, noisy: bool = True) -> None:
        self._reader, self._places, self._name, self._noisy = reader, places, name, noisy

    @property
    def shape(self) -> torch.Size:
        """``(rows, *shape)``."""
        event = () if self._name == "y" else self._reader.shape or ()
        return torch.Size((len(self), *event))

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the values rest."""
        if self._name == "y":
            return self._reader.labels or torch.int64
        if self._noisy:
            return self._reader.dtype
        return torch.from_numpy(np.empty(0, self._reader.kind)).dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all rows as they rest."""
        return self.shape.numel() * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any, /) -> Tensor:
        rows, values = read([self._reader], self._places, index)
        if self._noisy and self._name != "y":
            return self._reader.fixed(values[self._name], rows)
        return values[self._name]

    def to(self, device: Any, /) -> Self:
        """Rows are read on the CPU.

        Raises:
            DataError: For another device.
        """
        _refuse_device(device)
        return self


def read(readers: Iterable[Reader], places: Places, index: Any) -> tuple[Array, Batch]:
    """Row numbers in the files, and values at rest, of some rows of a split."""
    if isinstance(index, slice):
        wanted = np.arange(*index.indices(len(places)))
    else:
        wanted = torch.as_tensor(index).cpu().numpy().astype(np.int64)
        if len(wanted) and not -len(places) <= wanted.min() <= wanted.max() < len(places):
            raise IndexError(f"The split has {len(places)} rows; there is none beyond.")
        wanted = np.where(wanted < 0, wanted + len(places), wanted)
    different, back = np.unique(wanted, return_inverse=True)
    rows = places.rows(different)
    values = resting(readers, rows)
    if len(different) == len(wanted) and (np.diff(wanted) > 0).all():
        return rows, values
    order = torch.from_numpy(back)
    return rows[back], {name: value.index_select(0, order) for name, value in values.items()}


def resting(readers: Iterable[Reader], rows: Array, order: Array | None = None) -> Batch:
    """Values at rest of all names, by increasing row numbers; see :meth:`Reader.resting`."""
    found: Batch = {}
    for reader in readers:
        found |= reader.resting(rows, order)
    return found


@dataclass
class _Batch:
    """The batch that :meth:`Stream.order` gave last: row numbers, and values at rest."""

    index: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    values: Mapping[str, Any] = field(default_factory=dict)

    def take(self, wanted: Array) -> dict[str, Any] | None:
        """Values of the batch, or of the part of it that a process has; else ``None``."""
        if not len(wanted) or not self.values:
            return None
        places = np.flatnonzero(self.index == wanted[0])
        if not len(places):
            return None
        part = slice(int(places[0]), int(places[0]) + len(wanted))
        if not np.array_equal(self.index[part], wanted):
            return None
        return _part(self.values, part)


def _part(values: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Some rows of values at rest; of sequences their steps."""
    return {n: v.at(rows) if isinstance(v, RaggedColumn) else v[rows] for n, v in values.items()}


def _joined(first: Any, second: Any) -> Any:
    """Values at rest of some rows and of others after them."""
    if not isinstance(first, RaggedColumn):
        return torch.cat([first, second])
    lengths = torch.cat([first.lengths, second.lengths])
    return RaggedColumn.of(torch.cat([first.values, second.values]), lengths)


@dataclass(frozen=True, eq=False, repr=False)
class Stream(Data):
    """Data that stay on disk: columns are read when asked for, training rows ahead of their use.

    Training rows come in the order of :meth:`order`: pieces of 256 KiB of neighbouring rows are
    permuted, 256 of them (64 MiB) are a pool, and the rows of a pool are permuted. So every row
    comes once an epoch; the rows of a piece are scattered over one pool, and which pieces share a
    pool is drawn anew each epoch. A batch of B has on average about B/256 rows of the same piece
    as a given one; in a full permutation it would have B times the piece's share of all rows. If
    all rows fit into one pool, or each row is a file of its own (images), it is a full
    permutation. Of parquet a piece is a row group, and a pool has at least four.

    The pool in use and the one being read in a thread are in memory, 128 MiB in all; of parquet
    twice four row groups, if that is more.

    Of sequences a row is read with all its steps, which lie together in the files; a pool has as
    many rows as would fill it if each had as many steps as they have on average.

    Attributes:
        readers: Of the files, by the name of what they read.
        places: The rows of each split; of sequences their steps.
        plan: Of the order.
        of_rows: Where rows are sequences: their lengths, and perhaps labels, by split.
    """

    readers: Mapping[str, Reader] = field(kw_only=True)
    places: Mapping[Split, Places] = field(kw_only=True)
    plan: Shuffle = field(kw_only=True)
    of_rows: Mapping[Split, Batch] = field(kw_only=True, default_factory=dict)
    _current: _Batch = field(kw_only=True, default_factory=_Batch)

    @classmethod
    def over(
        cls,
        readers: Mapping[str, Reader],
        places: Mapping[Split, Places],
        description: Description,
        *,
        renewed: bool = True,
        of_rows: Mapping[Split, Batch] | None = None,
    ) -> Stream:
        """The stream of rows that are described."""
        beside = of_rows or {}

        def laid(column: Any, part: Split) -> Any:
            return RaggedColumn.of(column, beside[part][LENGTH]) if beside else column

        columns = {name: (reader, name) for name, reader in readers.items()}
        for reader in readers.values():
            columns |= {} if reader.labels is None else {"y": (reader, "y")}
        exact = {
            name: replace(each, kind=np.dtype(np.float64)) if each.kind.kind == "f" else each
            for name, each in readers.items()
        }
        train, valid, test = (
            Selection(
                {
                    name: laid(StreamColumn(reader, places[each], own), each)
                    for name, (reader, own) in columns.items()
                }
                | beside.get(each, {}),
                unrounded={
                    name: laid(StreamColumn(reader, places[each], name, noisy=False), each)
                    for name, reader in exact.items()
                },
            )
            for each in SPLITS
        )
        renewed = renewed and description.options["binarize"] != "static"
        noise = {
            name: replace(each.noise, source=laid(each.noise.source, "train"))
            for name, each in readers.items()
            if each.noise is not None
        }
        return cls(
            description, train, valid, test, noise if renewed else {}, readers=readers,
            places=places, plan=cls.plan_of(readers, places, beside), of_rows=beside,
        )  # fmt: skip

    @staticmethod
    def plan_of(
        readers: Mapping[str, Reader],
        places: Mapping[Split, Places],
        of_rows: Mapping[Split, Batch] | None = None,
    ) -> Shuffle:
        """How the training rows will be shuffled: those of a table by its groups of rows."""
        train = places["train"]
        units = [u for r in readers.values() if (u := r.source.units) is not None]
        fewest = min(units, key=len, default=None)
        cuts = None if fewest is None else train.below(np.asarray(fewest))
        width = sum([each.row_bytes for each in readers.values()])
        if not of_rows:
            return Shuffle.of(len(train), width, cuts)
        lengths = of_rows["train"][LENGTH].numpy()
        ends = np.append(0, np.cumsum(lengths))
        cuts = None if cuts is None else np.searchsorted(ends, cuts)  # where a row begins
        row_bytes = max(1, width * len(train) // max(1, len(lengths)))
        return Shuffle.of(len(lengths), row_bytes, cuts)

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """The rows of each training batch of an epoch, from batch number ``first`` on.

        They depend on the arguments and the number of rows alone. While a pool is used the next
        is read in a thread, which ends with the iteration; what goes wrong there is raised here.

        Args:
            epoch: Its number.
            seed: Of the run.
            batch_size: Rows of a batch; the last has what is left.
            first: Batches that are done already.
        """
        pools = self.plan.pools(epoch, seed)
        done = first * batch_size
        if done >= self.plan.rows:
            return
        number = int(np.searchsorted(pools.starts, done, "right")) - 1
        current = self._current
        index, values = np.zeros(0, np.int64), {}  # what is left of the pool before
        reading = ThreadPoolExecutor(1, thread_name_prefix="deeplvm-stream")
        try:
            coming: Future[dict[str, Any]] | None = reading.submit(
                self._read, pools.visits(number)
            )
            while coming is not None:
                visits, pool = pools.visits(number), coming.result()
                begin = max(0, done - int(pools.starts[number]))
                number += 1
                last = number == len(pools)
                coming = None if last else reading.submit(self._read, pools.visits(number))
                while begin < len(visits):
                    end = begin + batch_size - len(index)
                    index = np.concatenate([index, visits[begin:end]])
                    some = _part(pool, slice(begin, end))
                    if values:
                        some = {name: _joined(values[name], some[name]) for name in some}
                    values, begin = some, end
                    if len(index) == batch_size or (last and end >= len(visits)):
                        current.index, current.values = index, values
                        yield torch.from_numpy(index)
                        index, values = index[:0], {}
                values = {  # of sequences they are copies
                    name: value.clone() if isinstance(value, Tensor) else value
                    for name, value in values.items()
                }
                current.values = some = {}
                del pool  # before the one after the next is read
        finally:
            current.values = {}
            reading.shutdown(cancel_futures=True)

    def batch(
        self,
        rows: Split | Columns,
        index: slice | Tensor | list[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Some rows, widened to the default floating type; labels are int64.

        As :meth:`Data.batch`; without a generator the noise of a row is that of its number in the
        files.
        """
        if not isinstance(rows, str):
            return super().batch(rows, index, generator)
        _ = self[rows]  # an error where there is none of this name
        values, wanted = None, np.zeros(0, np.int64)
        if rows == "train" and not isinstance(index, slice):
            wanted = torch.as_tensor(index).cpu().numpy()
            values = self._current.take(wanted)
        if self.of_rows:
            return (
                super().batch(rows, index, generator)
                if values is None
                else self._padded(wanted, values, generator)
            )
        if values is None:
            file_rows, values = read(self.readers.values(), self.places[rows], index)
        else:
            noisy = any([each.noise for each in self.readers.values()])
            file_rows = self.places[rows].rows(wanted) if noisy else wanted
        found, wide = {}, torch.get_default_dtype()
        for name, reader in self.readers.items():
            if rows == "train" and generator is not None and name in self.renewals:
                found[name] = self.renewals[name].draw(values[name], generator)
            else:
                # a copy: the pool goes on to be used
                found[name] = reader.fixed(values[name], file_rows).to(wide, copy=True)
        return {**found, **({"y": values["y"].clone()} if "y" in values else {})}

    def to(self, device: torch.device | str) -> Self:
        """A stream stays on disk; batches are moved one by one.

        Raises:
            DataError: For another device than the CPU.
        """
        _refuse_device(device)
        return self

    def _padded(
        self, rows: Array, values: Mapping[str, Any], generator: torch.Generator | None
    ) -> Batch:
        """A batch of training rows that are sequences, from their steps at rest."""
        found: Batch = {name: value.clone() for name, value in values.items() if name == LENGTH}
        every, wide = slice(None), torch.get_default_dtype()
        for name, reader in self.readers.items():
            column = values[name]
            if generator is not None and name in self.renewals:
                drawn = self.renewals[name].draw(column[every], generator)
                found[name] = column.cut(drawn, every)
                continue
            if reader.noise is not None:
                steps = reader.fixed(column.values, self.places["train"].rows(self._steps(rows)))
                column = replace(column, values=steps)
            found[name] = column[every].to(wide)
        return {n: found[n] if n in found else values[n].clone() for n in (*found, *values)}

    def _steps(self, rows: Array) -> Array:
        """The training steps of some training rows, one row after another."""
        lengths = self.of_rows["train"][LENGTH].numpy()
        starts = np.append(0, np.cumsum(lengths))[rows]
        before = np.cumsum(lengths[rows]) - lengths[rows]
        return np.arange(int(lengths[rows].sum())) + np.repeat(starts - before, lengths[rows])

    def _read(self, visits: Array) -> dict[str, Any]:
        """Values at rest of the rows of a pool, in the order of the visits."""
        order = np.argsort(visits)
        if self.of_rows:
            rows = visits[order]
            steps = self.places["train"].rows(self._steps(rows))
            of_rows = {name: each[rows] for name, each in self.of_rows["train"].items()}
            back = torch.from_numpy(np.argsort(order))
            found = {
                name: RaggedColumn.of(each, of_rows[LENGTH]).at(back)
                for name, each in resting(self.readers.values(), steps).items()
            }
            return found | {name: each[back] for name, each in of_rows.items()}
        rows = self.places["train"].rows(visits[order])
        return resting(self.readers.values(), rows, order)


def _refuse_device(device: Any) -> None:
    if torch.device(device).type != "cpu":
        raise DataError(
            f"streamed data stay on disk and are read on the CPU, not on {device}; "
            f"move each batch."
        )


# Bytes of rows that are shuffled together, and of rows that are read together. 256 pieces make a
# pool: a batch of 100 then has 0.4 rows that were read with a given one of it.
POOL = 64 << 20
PIECE = POOL // 256
# A pool of row groups has at least so many of them, however large they are.
_FEWEST = 4


@dataclass(frozen=True)
class Shuffle:
    """Pieces of neighbouring rows, and how many of them are shuffled together.

    An epoch is a permutation of the pieces; so many in a row are a pool, and the rows of a pool
    are permuted. All depends on the seed and the number of the epoch alone. Pieces of one row make
    it one permutation of all rows.

    Attributes:
        cuts: The row at which each piece begins, and the number of rows.
        most: Rows of a pool, up to the end of a piece.
        fewest: Pieces of a pool, at least.
    """

    cuts: Array
    most: int
    fewest: int = 1

    @classmethod
    def of(cls, rows: int, row_bytes: int, cuts: Array | None) -> Shuffle:
        """The plan for rows of a size.

        Args:
            rows: How many.
            row_bytes: Bytes of each.
            cuts: Where what is best read at once begins, and the number of rows.
        """
        most = max(1, POOL // row_bytes)
        if cuts is not None:
            return cls(np.unique(cuts), most, _FEWEST)
        piece = max(1, PIECE // row_bytes)
        return cls(np.append(np.arange(0, rows, piece), rows), most)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return int(self.cuts[-1])

    def note(self, row_bytes: int) -> str:
        """How rows come, in words, and a warning where they are mixed badly."""
        if self.rows <= self.most or (np.diff(self.cuts) == 1).all():
            return "streamed from disk; an epoch is one permutation of all rows."
        pieces = len(self.cuts) - 1
        together = len(self.pools(0, 0))
        note = (
            f"streamed from disk; an epoch shuffles {pieces:,} pieces of neighbouring rows, then "
            f"the rows within each of {together:,} pools of them."
        )
        if pieces / together < 16:
            largest = int(np.diff(self.cuts).max())
            note += (
                f" warning: row groups are large (up to {largest:,} rows, "
                f"{largest * row_bytes / 2**20:.0f} MiB), so only {pieces / together:.0f} of them "
                f"are mixed at a time, and so much memory is needed; write smaller ones."
            )
        return note

    def pools(self, epoch: int, seed: int) -> Pools:
        """The pools of an epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.cuts) - 1)
        ends = np.cumsum(np.diff(self.cuts)[order])
        begins, begin = [0], 0
        while begin < len(order):
            before = int(ends[begin - 1]) if begin else 0
            end = int(np.searchsorted(ends, before + self.most, "right"))
            begin = min(max(end, begin + self.fewest), len(order))
            begins.append(begin)
        starts = np.concatenate([[0], ends[np.array(begins[1:]) - 1]])
        return Pools(self.cuts, order, np.array(begins), starts, (seed, epoch))


@dataclass(frozen=True)
class Pools:
    """The pools of an epoch, in order.

    Attributes:
        cuts: Those of the plan.
        order: The pieces as they come.
        begins: The piece with which each pool begins, and their number.
        starts: The visits before each pool, and all visits.
        key: Seed and epoch.
    """

    cuts: Array
    order: Array
    begins: Array
    starts: Array
    key: tuple[int, int]

    def __len__(self) -> int:
        return len(self.begins) - 1

    def rows(self, pool: int) -> Array:
        """The rows of a pool, increasing."""
        pieces = np.sort(self.order[self.begins[pool] : self.begins[pool + 1]])
        sizes = self.cuts[pieces + 1] - self.cuts[pieces]
        shift = np.cumsum(sizes) - sizes
        return np.arange(int(sizes.sum())) + np.repeat(self.cuts[pieces] - shift, sizes)

    def visits(self, pool: int) -> Array:
        """The rows of a pool in the order in which they are visited."""
        return np.random.default_rng([*self.key, pool]).permutation(self.rows(pool))
