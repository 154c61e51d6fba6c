"""Rows of a data set as a model that is being evaluated reads them: the one loop over rows.

What :func:`for_rows` promises, every estimate of this package promises: the model is in ``eval()``
mode without gradients and left as it was, like torch's random state; the same seed gives the same
numbers; several processes share the rows and each returns all of them; a quantity that is not a
number is refused. And what all estimates take means the same everywhere:

- ``model``: a :class:`~deeplvm.LatentVariableModel`;
- ``data``: rows, ``data.test`` or ``data.test[:100]``, or named tensors of shape
  ``(rows, *event)``, NaN where an element is missing; names that the model lacks are ignored;
- ``batch_size``: rows at a time, which changes no result;
- ``seed``: with what a row says it decides the row's draws.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from deeplvm.core.draws import Draw
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows, Values, has_nan
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.parallel.processes import processes
from deeplvm.randomness import RowNoise, evaluating, seed_all
from deeplvm.recurrent import Repeated

if TYPE_CHECKING:
    from deeplvm.data.records import Description, Selection

_LOOKED_AT = 1_000  # rows at a time, where it is only looked what is given in them

# rows that are done, and how many there are
OnProgress = Callable[[int, int], None]
Tensors = dict[str, Tensor]
Names = frozenset[str]
# values of a batch, names with NaN, the rows' noise -> quantities of each row, (rows, ...)
Measure = Callable[[Tensors, Names, RowNoise], Tensors]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows, restricted to the names that the model has.

    Attributes:
        source: Named tensors whose first dimension is the rows.
        names: The names that are given to the model.
        missing: Those with missing elements (NaN).
        rows: How many rows there are.
        data_rows: How many rows the names shared by all rows belong to: those of the training
            split, where there is one.
        device: Where the model is.
        dtype: The model's floating type.
        values: What a row of a name's values is.
        lengths: The name of the length of each name whose values are steps, of which those beyond
            it say nothing.
        common: Whether all rows have the same noise, and not each its own.
        keys: Of each row's noise, where rows are by themselves: nothing about a row depends then
            on the others, to the last bit (:func:`by_themselves`); shape ``(rows,)``.
    """

    source: NamedRows
    names: tuple[str, ...]
    missing: frozenset[str]
    rows: int
    data_rows: int
    device: torch.device
    dtype: torch.dtype
    values: Mapping[str, Values]
    lengths: Mapping[str, str] = field(default_factory=dict)
    common: bool = False
    keys: Tensor | None = None

    @property
    def selection(self) -> Selection | None:
        """The rows as a part of a data set, if they are one."""
        return selection_of(self.source)

    @property
    def description(self) -> Description | None:
        """Of the data set, if the rows are of one."""
        return None if self.selection is None else self.selection.description

    @property
    def split(self) -> str | None:
        """Of which split of the data set, if the rows are of one."""
        return None if self.selection is None else self.selection.split

    def __getitem__(self, index: slice | Tensor) -> dict[str, Tensor]:
        """Some rows, on the model's device, reals in its floating type."""
        taken = (
            {n: self.values[n].take(self.source[n], index) for n in self.names}
            if self.selection is None
            else self.selection.batch(index, self.names, self.dtype)
        )
        return {n: self.values[n].change(value, self._ready) for n, value in taken.items()}

    def take(self, index: Tensor) -> Rows:
        """Some of them, by their numbers."""
        source = self[index] if self.selection is None else self.selection[index]
        keys = None if self.keys is None else self.keys[index]
        return replace(self, source=source, rows=len(index), keys=keys)

    def each(self, size: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The first row's number and the values of each batch, in order."""
        for start in range(0, self.rows, size):
            yield start, self[slice(start, start + size)]

    def _ready(self, value: Tensor) -> Tensor:
        # labels are int64 and stay so; bytes and short integers are pixels and counts at rest
        whole = value.dtype == torch.int64 or value.is_complex()
        return value.to(self.device) if whole else value.to(self.device, self.dtype)


def selection_of(source: NamedRows) -> Selection | None:
    """Rows as a part of a data set, if they are one."""
    # by its form: who has tensors of their own does not wait for the readers of files
    return cast("Selection", source) if hasattr(source, "data_rows") else None


def check_rows(source: object) -> None:
    """Refuse what is not named rows.

    Raises:
        TypeError: If it is a whole data set, of which the rows are not said.
    """
    if not isinstance(source, Mapping):
        raise TypeError(
            f"Say which rows: data.test, data.test[:100], or named tensors {{'x': x}}; found a "
            f"{type(source).__name__}."
        )


def redrawn(draw: Mapping[str, Draw] | None) -> tuple[str, ...]:
    """Names that are drawn although the rows may have them, where it is said how they are drawn.

    >>> from deeplvm.core.draws import Enumerated
    >>> redrawn({"y": Enumerated()}), redrawn({"y": Enumerated(only_missing=True)})
    (('y',), ())
    """
    return tuple([n for n, way in (draw or {}).items() if not getattr(way, "only_missing", False)])


def rows_of(
    model: LatentVariableModel, source: NamedRows | Rows, omit: Collection[str] = ()
) -> Rows:
    """What of some rows the model reads.

    A source whose ``common`` is true has one noise for all rows: rows that say the same have the
    same numbers, and rows are compared by the same draws; the error of a mean over rows is then
    not that of independent ones.

    Args:
        model: Its names are taken, the others left.
        source: Rows of a data set, ``data.test`` or ``data.test[:100]``, or named tensors of shape
            ``(rows, *event)``.
        omit: Names that are to be drawn although the rows have them.

    Raises:
        TypeError: If it is a whole data set, of which the rows are not said.
        ValueError: If nothing that the model knows is there, or there are no rows.
    """
    if isinstance(source, Rows):
        kept = tuple([name for name in source.names if name not in omit])
        return replace(source, names=kept, missing=source.missing.intersection(kept))
    check_rows(source)
    names = tuple([name for name in source if name in model.names and name not in omit])
    if not names:
        raise ValueError(
            f"The data have {', '.join(source) or 'nothing'}, of which the model reads none; its "
            f"names are {', '.join(sorted(model.names))}: call one of them as the data do."
        )
    known, values = selection_of(source), {name: model.values(name) for name in names}
    rows = values[names[0]].count(source[names[0]]) if known is None else known.rows
    if rows == 0:
        raise ValueError("There are no rows to evaluate; name another split.")
    missing = [n for n in names if (n in known.missing if known else has_nan(source[n]))]
    like = next(
        (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()),
        torch.zeros(()),
    )
    whole, common = (known.data_rows or rows, known.common) if known else (rows, False)
    holes, place, lengths = frozenset(missing), (like.device, like.dtype), lengths_of(model)
    return Rows(source, names, holes, rows, whole, *place, values, lengths, common)


def lengths_of(model: LatentVariableModel) -> dict[str, str]:
    """The name of the length of each name whose values are steps, in a model of sequences."""
    found: dict[str, str] = {}
    for each in model.modules():
        if isinstance(each, Repeated) and (length := each.length):
            steps = {*each.names, *each.inputs} - {length, *each.outside}
            found |= dict.fromkeys(sorted(steps), length)
    return found


def inside(lengths: Tensor, steps: int | None = None) -> Tensor:
    """Which steps of padded rows are theirs, shape ``(rows, steps)``."""
    longest = int(lengths.max()) if steps is None else steps
    return torch.arange(longest, device=lengths.device) < lengths.long()[:, None]


def unsaid(given: Mapping[str, Tensor], name: str, lengths: Mapping[str, str]) -> Tensor:
    """Which elements of a name say nothing: missing ones, and those of steps beyond a row's end.

    Shape ``(rows, elements)``.
    """
    value, steps = given[name], given.get(lengths.get(name, ""))
    holes = value.isnan().reshape(len(value), -1)
    if steps is None or value.dim() < 2:
        return holes
    beyond = ~inside(steps.flatten(), value.shape[1])
    return holes | beyond.repeat_interleave(value[0, 0].numel(), 1)


def for_rows(
    model: LatentVariableModel,
    source: NamedRows | Rows,
    measure: Measure,
    *,
    batch_size: int,
    seed: int,
    omit: Collection[str] = (),
    apart: bool = False,
    finite: Collection[str] = ("log_px",),
    progress: OnProgress | None = None,
) -> dict[str, Tensor]:
    """Quantities of every row, measured batch by batch in ``eval()`` mode without gradients.

    Several processes share the batches, and each returns all rows.

    Args:
        model: Left as it was, like torch's random state.
        source: Rows of a data set, ``data.test[:100]``, or named tensors ``(rows, *event)``.
        measure: What to do with a batch, given its values, the names with NaN and the rows'
            noise; it may switch gradients on. Quantities called ``"terms/x"`` tell in an error
            whose fault it is.
        batch_size: Rows at a time; no matter for the result, as a row's noise is its own.
        seed: With what a row says it decides the row's draws.
        omit: Names that are left out although the data have them.
        apart: Whether rows are measured apart by what is given in them: a name that p reads is
            left out in the rows in which it is missing, and so is a latent there alone.
        finite: Quantities that may be −inf, but neither NaN nor +inf.
        progress: Told after each batch how many of this process's rows are done, and of how many.

    Raises:
        ValueError: If a number is below one, or a quantity of some row is NaN or +inf.
    """
    at_least(1, batch_size=batch_size)
    rows = rows_of(model, source, omit)
    batch_size = size_of(rows, batch_size)
    group, starts = processes(), range(0, rows.rows, batch_size)
    parts = []
    with evaluation_of(model, seed):
        own, seen = starts[group.part(len(starts))], Counter[int]()
        others = starts[: group.part(len(starts)).start] if rows.keys is None else ()
        for before in others:  # by other processes
            seen.update(_digests(model, rows[slice(before, before + batch_size)]))
        for first in own:
            seed_all(seed + first, rows.device)
            given = rows[slice(first, first + batch_size)]
            count = min(batch_size, rows.rows - first)
            if rows.keys is not None:
                # always so many rows: a sum of reals depends on the size of what is multiplied
                at = torch.arange(first, first + batch_size).clamp(max=rows.rows - 1)
                given = rows[at] if count < batch_size else given
                own_keys = rows.keys[at].to(rows.device)
                noise = RowNoise(str(seed), own_keys, model.shared, steps=bool(rows.lengths))
            elif rows.common:
                keys = torch.zeros(model.rows(given), dtype=torch.int64, device=rows.device)
                noise = RowNoise(str(seed), keys, model.shared, steps=bool(rows.lengths))
            else:
                noise = noise_of(model, given, seed, rows.device, seen)
            kinds = _apart(model, given, rows) if apart else None
            part = _each(kinds, measure, noise) if kinds else measure(given, rows.missing, noise)
            if rows.keys is not None:
                part = {name: value[:count] for name, value in part.items()}
            part["row"] = torch.arange(first, first + count)
            parts.append(part)
            if progress is not None:
                progress(sum([len(each["row"]) for each in parts]), len(own) * batch_size)
            if any([bool(_broken(part[name]).any()) for name in finite if name in part]):
                break  # once a batch: a look waits for the device
    keys = [*parts[0]] if parts else []
    widest = {k: max([len(part[k][0]) for part in parts]) for k in keys if parts[0][k].dim() > 1}
    most = {k: torch.tensor([width]) for k, width in widest.items()}
    most = {k: int(width.max()) for k, width in group.gather(most).items()}
    # each lets its parts go: otherwise everything would be in memory twice
    mine = {key: together([part.pop(key) for part in parts], most.get(key)) for key in keys}
    joined = group.gather(mine)
    row = joined.pop("row")
    for name in finite:
        if name in joined:
            _refuse_broken(name, joined, row)
    return joined


_BY_THEMSELVES = 64  # rows at a time, at most


def size_of(rows: Rows, most: int) -> int:
    """Rows at a time, at most so many; of rows by themselves a power of two, however few.

    There every row takes the same way through the loops of the processor, wherever it stands.
    """
    if rows.keys is None:
        return most
    return 2 ** (min(most, _BY_THEMSELVES).bit_length() - 1)


def by_themselves(
    model: LatentVariableModel,
    source: NamedRows | Rows,
    measure: Callable[[Rows], Mapping[str, Tensor]],
    *,
    omit: Collection[str] = (),
    identifiers: Sequence[object] | None = None,
    apart: bool = False,
    data_rows: int = 0,
) -> dict[str, Tensor]:
    """Quantities of every row that depend on nothing but the row, to the last bit.

    Neither on its place, nor on its company, nor on how many rows there are: files may be cut and
    put together as one likes, on any machine of one kind. A row's noise comes from what it says,
    or from its identifier; batches have one size; rows with holes are measured apart from those
    without. Sequences, which are padded, are alike but for rounding.

    Args:
        model: As of :func:`for_rows`.
        source: The rows.
        measure: Quantities of some rows, whose first dimension is the rows.
        omit: Names that are to be drawn although the rows have them.
        identifiers: Of each row; rows with one identifier have the same noise.
        apart: Whether rows that say the same are told apart by how many came before, as copies
            that are drawn must be.
        data_rows: How many rows the names shared by all rows belong to; those here if left out.

    Returns:
        The quantities by name, on the CPU; where some rows lack one, NaN there.
    """
    rows = rows_of(model, source, omit)
    keys = _keys_of(model, rows, identifiers, apart=apart)
    rows = replace(rows, keys=keys, data_rows=data_rows or rows.data_rows)
    parts: list[tuple[Tensor, Mapping[str, Tensor]]] = []
    for index, missing in _by_holes(rows):
        # one row alone is looked at otherwise than the first of many
        index = index if len(index) > 1 else index.repeat(2)
        every = len(index) == rows.rows and rows.rows > 2
        own = rows if every else rows.take(index)
        found = measure(replace(own, missing=missing))
        parts.append((index, {n: v[: len(index)].cpu() for n, v in found.items()}))
    whole: dict[str, Tensor] = {}
    for index, found in parts:
        for name, value in found.items():
            if name not in whole:
                fill = math.nan if value.is_floating_point() else 0
                whole[name] = value.new_full((rows.rows, *value.shape[1:]), fill)
            whole[name][index] = value
    return whole


def _keys_of(
    model: LatentVariableModel, rows: Rows, identifiers: Sequence[object] | None, *, apart: bool
) -> Tensor:
    """A key for each row's noise."""
    if identifiers is not None:
        keys = [_digest(str(each).encode()) for each in identifiers]
        return torch.tensor(keys, dtype=torch.int64)
    seen, parts = Counter[int](), []
    for _, batch in rows.each(_LOOKED_AT):
        # labels are whole numbers where none is missing in the file
        same = {n: model.values(n).change(v, lambda t: t.to(rows.dtype)) for n, v in batch.items()}
        each = _digests(model, same)
        parts.append(noise_of(model, same, "", rows.device, seen).keys if apart else each)
    return torch.cat([torch.as_tensor(each).cpu() for each in parts])


def _by_holes(rows: Rows) -> list[tuple[Tensor, frozenset[str]]]:
    """Rows that lack elements of the same names, and these."""
    names = sorted(rows.missing)
    if rows.lengths:  # padded to the longest of a batch: alike but for rounding
        return [(torch.arange(rows.rows), rows.missing)]
    if not names:
        return [(torch.arange(rows.rows), frozenset())]
    parts = [
        torch.stack([unsaid(batch, name, rows.lengths).any(1) for name in names], 1).cpu()
        for _, batch in rows.each(_LOOKED_AT)
    ]
    patterns, which = torch.cat(parts).unique(dim=0, return_inverse=True)
    return [
        (
            (which == number).nonzero().flatten(),
            frozenset([name for name, lacks in zip(names, pattern, strict=True) if lacks]),
        )
        for number, pattern in enumerate(patterns.tolist())
    ]


def together(parts: list[Tensor], steps: int | None = None) -> Tensor:
    """Values of some rows after others, with zeros beyond the steps where others have more."""
    steps = steps or max([len(part[0]) for part in parts if part.dim() > 1], default=0)

    def wider(part: Tensor) -> Tensor:
        if part.dim() < 2 or part.shape[1] == steps:
            return part
        more = part.new_zeros(len(part), steps - part.shape[1], *part.shape[2:])
        return torch.cat([part, more], 1)

    return torch.cat([wider(part) for part in parts])


class _Pattern(NamedTuple):
    """Rows of a batch in which the same names are given.

    Attributes:
        rows: Their numbers.
        given: Values of what they have.
        missing: Names of which elements are missing in some of them.
    """

    rows: Tensor
    given: dict[str, Tensor]
    missing: frozenset[str]


def _apart(model: LatentVariableModel, given: dict[str, Tensor], whole: Rows) -> list[_Pattern]:
    """Rows by which of the names that p reads are missing in them, as a whole."""
    missing = whole.missing
    names = [name for name in sorted(missing) if model.reads(name) and name in model.p.names]
    if not names:
        return []
    absent = torch.stack([unsaid(given, name, whole.lengths).all(1) for name in names], 1)
    patterns, which = absent.unique(dim=0, return_inverse=True)
    kinds = []
    for number, pattern in enumerate(patterns.tolist()):
        rows = (which == number).nonzero().flatten()
        out = {name for name, gone in zip(names, pattern, strict=True) if gone}
        own = {n: model.values(n).take(v, rows) for n, v in given.items() if n not in out}
        holes = {n for n in missing if n in own and (n not in names or has_nan(own[n]))}
        kinds.append(_Pattern(rows, own, frozenset(holes)))
    return kinds


def _each(kinds: list[_Pattern], measure: Measure, noise: RowNoise) -> dict[str, Tensor]:
    """Quantities of all rows of a batch, in their order, from those of each kind."""
    parts = [measure(each.given, each.missing, noise.take(each.rows)) for each in kinds]
    order = torch.cat([each.rows for each in kinds]).argsort()
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return {key: value[order.to(value.device)] for key, value in whole.items()}


def noise_of(
    model: LatentVariableModel,
    given: Mapping[str, Any],
    seed: object,
    device: torch.device,
    seen: Counter[int] | None = None,
) -> RowNoise:
    """The noise of some rows, by what each of them says.

    A row's key is a digest of its values under p, so that neither its place nor its company
    matters. Rows that say the same are told apart by how many such rows came before.

    Args:
        model: Whose latents are drawn.
        given: Values of the rows.
        seed: Of the evaluation.
        device: Where the model draws.
        seen: How often each digest came before; counted on.
    """
    seen = Counter() if seen is None else seen
    keys = []
    for digest in _digests(model, given):
        again = f"{digest}/{seen[digest]}".encode()
        keys.append(_digest(again) if seen[digest] else digest)
        seen[digest] += 1
    own = torch.tensor(keys, device=device)
    return RowNoise(str(seed), own, model.shared, steps=bool(lengths_of(model)))


def _digests(model: LatentVariableModel, given: Mapping[str, Any]) -> list[int]:
    # what only q reads (features, the row's number of a refined q) is no part of what is modelled
    names = [name for name in given if name in model.p.names or name in model.p.inputs]
    lengths = lengths_of(model)
    steps = {name: given.get(lengths.get(name, "")) for name in names or given}
    parts = [_bytes_of(given[n], model.values(n), each) for n, each in sorted(steps.items())]
    return [_digest(b"|".join(row)) for row in zip(*parts, strict=True)]


def _digest(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


def _bytes_of(value: Any, values: Values, steps: Tensor | None = None) -> list[bytes]:
    """What a name's value says of each row, up to so many steps."""
    if isinstance(value, Tensor):
        value = value if value.layout == torch.strided else value.to_dense()
        rows = value.detach().cpu().contiguous().numpy()
        if steps is None:
            return [row.tobytes() for row in rows]
        counted = torch.arange(rows.shape[steps.dim()]) < steps.detach().cpu()[..., None]
        return [row[each].tobytes() for row, each in zip(rows, counted.numpy(), strict=True)]
    each = [values.take(value, slice(row, row + 1)) for row in range(values.count(value))]
    return [b"|".join(_tensors_of(row, values)) for row in each]


def _tensors_of(row: Any, values: Values) -> list[bytes]:
    found: list[bytes] = []

    def look(tensor: Tensor) -> Tensor:
        found.extend(_bytes_of(tensor, values))
        return tensor

    values.change(row, look)
    return found or [repr(row).encode()]


@contextmanager
def evaluation_of(model: LatentVariableModel, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients and a seed, where gradients may be switched on."""
    with evaluating(model, seed), torch.inference_mode(mode=False), torch.no_grad():
        yield


def _broken(values: Tensor) -> Tensor:
    """Which rows have a value that is NaN or +inf."""
    return (values.isnan() | values.isposinf()).reshape(len(values), -1).any(1)


def _refuse_broken(name: str, joined: Mapping[str, Tensor], row: Tensor) -> None:
    bad = _broken(joined[name])
    if not bool(bad.any()):
        return
    found = row[bad.cpu()].tolist()
    guilty = [
        key.removeprefix("terms/")
        for key, term in joined.items()
        if key.startswith("terms/") and bool(_broken(term[bad]).any())
    ]
    what = {"log_px": "log p(x)"}.get(name, name.replace("_", " "))
    what = f"log p − log q of {', '.join(guilty)}" if guilty else what
    shown = ", ".join([str(each) for each in found[:5]])
    raise ValueError(
        f"{what} is not a number, or +inf, in {len(found)} rows (rows {shown}"
        f"{', …' if len(found) > 5 else ''}); look at these rows, or at a model that was trained "
        f"until it broke."
    )


def at_random(source: NamedRows, count: int, seed: int = 0) -> NamedRows:
    """So many of some rows, chosen at random, or all of fewer: these stand for all.

    The first need not: files are sorted by date, by class, by who wrote them.
    """
    check_rows(source)
    known = selection_of(source)
    rows = known.rows if known else len(next(iter(source.values())))
    generator = torch.Generator().manual_seed(seed)
    if count >= rows:
        return source
    return taken(source, torch.randperm(rows, generator=generator)[:count])


def taken(source: NamedRows, index: Tensor) -> NamedRows:
    """Some of some rows, by their numbers."""
    if (known := selection_of(source)) is not None:
        return known[index]
    return {name: value[index.to(value.device)] for name, value in source.items()}


def latent_dimensions(model: LatentVariableModel, source: NamedRows | Rows) -> int:
    """How many free numbers the latents of a row have, one at least.

    Raises:
        ValueError: If no latent is continuous, or one is given in some rows alone, has no density
            of its own, or is discrete and its values cannot be listed.
    """
    rows = rows_of(model, source)
    sizes = {}
    with evaluation_of(model, 0):
        for _, given in rows.each(_LOOKED_AT) if any(map(model.reads, rows.missing)) else ():
            for kind in _apart(model, given, rows):
                what = tuple(kind.given)
                if what not in sizes:
                    one = {n: model.values(n).take(v, slice(0, 1)) for n, v in kind.given.items()}
                    sizes[what] = LatentSpace(model, one, kind.missing).size
        if not sizes:
            sizes[rows.names] = LatentSpace(model, rows[slice(0, 1)], rows.missing).size
    if len(set(sizes.values())) > 1:
        some = set.union(*map(set, sizes)) - set.intersection(*map(set, sizes))
        raise ValueError(
            f"{', '.join(sorted(some))}: a continuous latent is given in some rows and missing in "
            f"others, so the latents have {' or '.join(map(str, sorted(set(sizes.values()))))} "
            f"dimensions; ask for these rows apart, or use annealed_importance_sampling."
        )
    if not (size := next(iter(sizes.values()))):
        raise ValueError(
            f"{model.p} has no continuous latent to draw, given {', '.join(rows.names)}; leave "
            f"one out of the data, or use exact_likelihood, which sums over discrete ones."
        )
    return size


def at_least(least: float, **numbers: float | None) -> None:
    """Refuse numbers below the least that makes sense."""
    for name, value in numbers.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is at least {least}, found {value}.")
