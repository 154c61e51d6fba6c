"""Rows that are sequences, on the command line: long tables, lines, piano rolls, MIDI."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.cli.console import note
from deeplvm.cli.outputs import PICTURES, FileError, free, given, save_pictures, save_table
from deeplvm.cli.texts import caption_of, captions
from deeplvm.data.ragged import INPUTS
from deeplvm.data.readers.long_tables import TIME_UNITS
from deeplvm.data.tabular import cells_of_file
from deeplvm.inference.rows import inside, lengths_of
from deeplvm.inference.texts import names_of

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Description, Selection
    from deeplvm.data.variable import Variable
    from deeplvm.inference.imputation import Imputation
    from deeplvm.likelihood import Forecast
    from deeplvm.runs.run import Run

MUSIC = (".mid", ".midi")
_KEYS = 88  # of a piano, the lowest of them number 21 of MIDI
_LOWEST = 21
_QUARTER = 480  # ticks
_SECOND = 1_000_000_000  # nanoseconds
_DAY = 86_400 * _SECOND


def length_of(description: Description) -> str | None:
    """The name of the lengths, where rows are sequences and no texts."""
    return None if names_of(description) else counted_by(description)


def counted_by(description: Description) -> str | None:
    """The name of the lengths of rows: of steps, of tokens, or of several texts."""
    return next((v.length for v in description.variables.values() if v.length is not None), None)


def are_several(description: Description) -> bool:
    """Whether a row is several texts."""
    return any([bool(description.variables[name].shape) for name in names_of(description)])


def in_long_form(
    columns: Mapping[str, Any], lengths: Tensor, keys: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Columns of steps, and in front what says which step of which sequence each is.

    Args:
        columns: By name, of all steps of all rows, one row after another.
        lengths: How many steps each row has.
        keys: Columns of a file that say it, an identifier and perhaps an order; by default the
            numbers of sequence and step, both from 0.
    """
    lengths, found = lengths.cpu().long(), dict(keys or {})
    row = torch.arange(len(lengths)).repeat_interleave(lengths)
    step = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths)[row]
    flat = {t: c for n, each in columns.items() for t, c in _columns(n, each).items()}
    if not found:
        found[free("sequence", flat)] = row.numpy()
    if len(found) == 1:
        found[free("step", {**flat, **found})] = step.numpy()
    return {**found, **columns}


def _columns(name: str, each: Any) -> dict[str, Any]:
    return dict(each) if isinstance(each, Mapping) else {name: each}


def keys_of(data: Data) -> dict[str, Any]:
    """Of a long table that was read for a run: the identifier and the order of all steps."""
    asked = (data.options.get("sequence"), data.options.get("order"))
    if asked[0] is None or data.rows("train"):
        return {}
    cells = cells_of_file(data.source, data.description)
    return {str(n): cells[str(n)] for n in asked if cells.get(str(n)) is not None}


def row_keys(data: Data) -> dict[str, Any]:
    """Of a long table that was read for a run: the identifier of each row."""
    keys = keys_of(data)
    begins = offsets_of(data.test[str(length_of(data.description))][:])[:-1] if keys else []
    return {name: np.asarray(each)[begins] for name, each in [*keys.items()][:1]}


def difference_of(description: Description) -> str | None:
    """The input of each step that is the time since the step before."""
    known = description.variables.get(INPUTS)
    given = description.options.get("inputs") or ()
    names = [] if known is None or not description.options.get("order") else known.columns or ()
    return next((name for name in names if name not in given), None)


def drawn_keys(
    data: Callable[[], Data],
    description: Description,
    values: Mapping[str, Tensor],
    lengths: Tensor,
) -> tuple[dict[str, Any], str]:
    """Identifiers and times of drawn rows, called as in the long table that the run was fitted to.

    Times begin where the sequences of the file begin in the middle, and go on by the time
    differences that were given, or by the usual one; where that is not known they are the numbers
    of steps.

    Returns:
        The columns, and what a reader should know of them; nothing where there is no order.
    """
    name, order = description.options.get("sequence"), description.options.get("order")
    if name is None:
        return {}, ""
    here = inside(lengths)
    found = {name: here.nonzero()[:, 0].numpy()}
    if order is None:
        return found, ""
    start, usual, dated = _usual_times(data(), name, order)
    apart, step = difference_of(description), here.nonzero()[:, 1].double().numpy()
    if apart is not None and INPUTS in values:
        place = (description.variables[INPUTS].columns or ()).index(apart)
        unit = {f"{order}_{u}": _DAY / by for u, by in TIME_UNITS}.get(apart, 1.0)
        passed = unit * values[INPUTS][..., place].cpu().double().cumsum(1)[here].numpy()
        how = "goes on by the time differences of training rows"
    elif usual is not None:
        passed, how = usual * step, "goes on by the usual difference"
    else:
        return found | {order: step.astype(np.int64)}, f"{order}: numbers of steps"
    times = _written(passed + start, dated=dated)
    first = _written(np.array([start]), dated=dated)[0]
    return found | {order: times}, f"{order}: begins at {first}, and {how}"


def _usual_times(data: Data, name: str, order: str) -> tuple[float, float | None, bool]:
    """Where sequences begin, what lies between their steps, and whether times are dates."""
    import pandas as pd

    cells = cells_of_file(data.source, data.description)
    times, dated = _times(cells[order]) if cells.get(order) is not None else (None, False)
    if times is None:
        return 0.0, None, False
    each = pd.Series(times).groupby(np.asarray(cells[name]), sort=False)
    start, usual = each.min().median(), each.diff().median()
    return float(start), None if np.isnan(usual) else float(usual), dated


def given_lengths(data: Description, rows: int, seed: int, steps: int | None) -> Tensor:
    """How many steps each row to be drawn has: as those of the training rows, or so many."""
    if steps is not None:
        return torch.full((rows,), steps)
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(len(data.lengths), (rows,), generator=generator)
    return torch.tensor(data.lengths)[place]


def given_inputs(data: Data, rows: int, seed: int, steps: int | None) -> dict[str, Tensor]:
    """Lengths and inputs of training rows, chosen at random, to draw others with.

    Raises:
        ValueError: If none has so many steps.
    """
    length = str(length_of(data.description))
    lengths = data.train[length][:]
    known = (lengths >= (steps or 1)).nonzero().flatten()
    if not len(known):
        raise ValueError(
            f"--steps {steps}: the model reads {INPUTS} of every step, and no training row has it "
            f"of so many; the longest has {int(lengths.max())}."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = known[torch.randint(len(known), (rows,), generator=generator)]
    found = data.train.batch(chosen, [length, INPUTS])
    if steps is not None:
        found = {length: torch.full((rows,), steps), INPUTS: found[INPUTS][:, :steps]}
    return found


def conditions_of(
    opened: Run,
    model: LatentVariableModel,
    rows: int,
    seed: int,
    steps: int | None = None,
    said: str | None = None,
) -> dict[str, Tensor] | None:
    """What rows are drawn given: lengths, inputs of sequences, what is said of pictures.

    Raises:
        ValueError: If steps are asked for, and the model draws itself where a row ends; or if
            there are no such words.
    """
    if (caption := caption_of(opened.description, model)) is not None:
        return captions(opened, caption, said, rows, seed)
    length = counted_by(opened.description)
    if length is None:
        return None
    if INPUTS in model.p.inputs:
        return given_inputs(opened.data, rows, seed, steps)
    if length not in model.p.inputs:
        if steps is not None:
            raise ValueError("--steps: this model draws where a row ends; leave it out.")
        return None
    return {length: given_lengths(opened.description, rows, seed, steps)}


def codes(
    model: LatentVariableModel,
    values: dict[str, Tensor],
    rows: Selection,
    *,
    steps: bool,
    scales: bool,
) -> dict[str, Any] | None:
    """Latents of all steps; or ``None``, and in their place their means over the steps of a row.

    Raises:
        ValueError: If steps are asked for and no latent has any, or standard deviations of means
            over steps.
    """
    lengths, length = lengths_of(model), None if rows.description is None else (
        length_of(rows.description)
    )  # fmt: skip
    of_steps = [n for n in values if n.removesuffix("_sd").removesuffix("_noise") in lengths]
    if length is None or not (of_steps or steps):
        return None
    if not of_steps:
        raise ValueError(
            f"--steps writes latents of each step, and {', '.join(values)} are of the whole row; "
            f"leave it out."
        )
    if scales and not steps:
        raise ValueError(
            "--scales are the deviations of the latents of a step; say --steps too, or leave it "
            "out: without --steps a code is the mean over steps."
        )
    count = rows[length][:].cpu()
    here = inside(count)
    if not steps:
        for name in of_steps:
            value = values[name]
            mask = here.reshape(*here.shape, *[1] * (value.dim() - 2))
            total = torch.where(mask, value, 0.0).sum(1)
            values[name] = total / count.reshape(-1, *[1] * (value.dim() - 2))
        return None
    return {
        name: (each[here] if name in of_steps else each.repeat_interleave(count.long(), 0)).numpy()
        for name, each in values.items()
    }


def save_steps(
    output: Path,
    steps: Mapping[str, Any],
    lengths: Tensor,
    names: Mapping[str, Any],
    keys: Mapping[str, Any],
    *,
    escape: bool,
) -> None:
    """Arrays of all steps of all rows, one after another: with offsets, or in long form."""
    if output.suffix.lower() == ".npz":
        save_table(output, {**steps, "offsets": offsets_of(lengths)})
    else:
        save_table(output, in_long_form(steps, lengths, keys), names, escape=escape)


def offsets_of(lengths: Tensor) -> Any:
    """The step at which each row begins, and the number of steps."""
    return np.concatenate([[0], lengths.cpu().long().cumsum(0).numpy()])


def save_sequences(
    output: Path,
    values: Mapping[str, Tensor],
    lengths: Tensor,
    description: Description,
    *,
    mean: bool = False,
    escape: bool = False,
    keys: Mapping[str, Any] | None = None,
) -> None:
    """Padded rows as a long table, as steps with offsets (.npz), a picture or music.

    Args:
        output: Where; the ending says which.
        values: By name, shape ``(rows, steps, *event)``; of what is of the whole row ``(rows,)``.
        lengths: How many steps each row has.
        description: Of the data.
        mean: Whether they are means.
        escape: As for :func:`~deeplvm.cli.outputs.save_table`.
        keys: As for :func:`in_long_form`.
    """
    ending = output.suffix.lower()
    if ending in MUSIC:
        save_music(output, values, lengths, description)
        return
    if ending in PICTURES:
        save_picture(output, values, lengths, description)
        return
    here = inside(lengths)
    flat = {n: v[here] if v.dim() > 1 else v for n, v in values.items()}
    whole = {n: v for n, v in flat.items() if values[n].dim() == 1}
    steps = {n: v for n, v in flat.items() if n not in whole}
    columns = given(steps, description, mean=mean)
    apart = difference_of(description)
    if isinstance(known := columns.get(INPUTS), dict) and apart in known:
        others = {n: each for n, each in known.items() if n != apart}
        columns = {n: each for n, each in columns.items() if n != INPUTS}
        columns |= {INPUTS: others} if others else {}
    of_rows = given(whole, description)
    if ending == ".npz":
        save_table(output, {**columns, **of_rows, "offsets": offsets_of(lengths)})
        return
    count = lengths.cpu().long()
    of_rows = {n: np.repeat(np.asarray(each), count.numpy()) for n, each in of_rows.items()}
    save_table(output, in_long_form({**columns, **of_rows}, lengths, keys), escape=escape)


def save_reconstructions(
    opened: Run,
    source: Data,
    passed: Selection,
    originals: Mapping[str, Tensor],
    means: dict[str, Tensor],
    output: Path,
    *,
    escape: bool,
) -> None:
    """Reconstructions of sequences: the original above each, or steps."""
    lengths = passed[str(length_of(opened.description))][:].cpu()
    if output.suffix.lower() in PICTURES:
        both = {n: torch.stack([originals[n], each], 1).flatten(0, 1) for n, each in means.items()}
        save_sequences(output, both, lengths.repeat_interleave(2), opened.description)
        note(f"{output}: {len(lengths)} rows, the original above each")
        return
    if output.suffix.lower() == ".npz":
        means |= {f"{name}_original": passed.exact(name) for name in originals}
    keys = {name: each[: int(lengths.sum())] for name, each in keys_of(source).items()}
    save_sequences(output, means, lengths, opened.description, mean=True, escape=escape, keys=keys)
    note(f"{output}: {len(lengths)} rows, {int(lengths.sum()):,} steps in all")


@dataclass(frozen=True, eq=False)
class StepsOf:
    """Some of all steps of some rows, as if they were rows of a table.

    Attributes:
        selection: The rows.
        here: Which steps of the padded rows are theirs.
        number: Which of these.
    """

    selection: Selection
    here: Tensor
    number: Tensor

    @property
    def rows(self) -> int:
        """How many steps these are."""
        return len(self.number)

    def __getitem__(self, some: slice) -> StepsOf:
        return replace(self, number=self.number[some])

    def exact(self, name: str) -> Tensor:
        """A column as it was given."""
        return self.selection.exact(name)[self.here][self.number]


def of_steps(found: Imputation, here: Tensor) -> Imputation:
    """What was filled in, of all steps one after another as of rows of a table."""
    row = here.nonzero()[:, 0]
    flat: dict[str, Any] = {
        what: {n: v[here] for n, v in getattr(found, what).items() if v.dim() > 1}
        for what in ("values", "missing", "lower", "upper", "probability")
    }
    draws = {n: v[:, here] for n, v in found.draws.items() if v.dim() > 2}
    ess, pareto_k = found.ess[row], found.pareto_k[row]
    return replace(found, **flat, draws=draws, ess=ess, pareto_k=pareto_k)


def future_inputs(data: Data, inputs: Sequence[str], horizon: int) -> dict[str, Tensor]:
    """What p reads of the steps to come, where that is but the time since the step before.

    Raises:
        ValueError: If it is something else.
    """
    if not inputs:
        return {}
    known = data.variables[INPUTS]
    given = [n for n in known.titles if n in (data.options.get("inputs") or ())]
    if given or len(known.titles) != 1:
        raise ValueError(
            f"--horizon: the model reads {', '.join(given or known.titles)} of every step, which "
            f"is not known of steps to come: add these steps to the file, with all but that left "
            f"empty, and leave --horizon out."
        )
    length = str(known.length)
    values, lengths = data.test[INPUTS][:].double(), data.test[length][:]
    later = inside(lengths)
    later[:, 0] = False
    gaps = torch.where(later[..., None], values, torch.nan)
    usual = gaps.nanmedian(1, keepdim=True).values  # (rows, 1, 1)
    usual = torch.where(usual.isnan(), gaps.flatten().nanmedian(), usual).nan_to_num(0.0)
    return {INPUTS: usual.expand(-1, horizon, -1).to(torch.get_default_dtype())}


def future_keys(keys: Mapping[str, Any], lengths: Tensor, horizon: int) -> dict[str, Any]:
    """The identifier of each row, ``horizon`` times, and times that go on as before.

    Args:
        keys: As :func:`keys_of` has them; none where rows are called by their numbers.
        lengths: How many steps each row has.
        horizon: How many steps are to come.
    """
    ends = lengths.cpu().long().cumsum(0).numpy()
    starts = np.concatenate([[0], ends[:-1]])
    ahead = np.tile(np.arange(1, horizon + 1), len(ends))
    if not keys:
        steps = np.repeat(ends - starts, horizon) + ahead - 1
        return {"sequence": np.repeat(np.arange(len(ends)), horizon), "step": steps}
    name, *order = keys
    found = {name: np.repeat(np.asarray(keys[name])[ends - 1], horizon)}
    times, dated = (None, False) if not order else _times(keys[order[0]])
    if times is None:
        return found | {"ahead": ahead}
    gaps = [np.diff(times[a:b]) for a, b in zip(starts, ends, strict=True)]
    every = np.median(np.concatenate(gaps)) if any(len(each) for each in gaps) else times[:1] * 0
    usual = np.array([np.median(each) if len(each) else every for each in gaps]).flatten()
    later = np.repeat(times[ends - 1], horizon) + ahead * np.repeat(usual, horizon)
    return found | {order[0]: _written(later, dated=dated)}


def _written(times: Any, *, dated: bool) -> Any:
    """Times as a file has them: dates to the second, whole numbers, or six digits."""
    if dated:
        import pandas as pd

        dates = (times / _SECOND).round().astype(np.int64) * _SECOND
        return pd.Series(dates.astype("datetime64[ns]")).astype(str).to_numpy()
    whole = (times == times.round()).all()
    return times.astype(np.int64) if whole else times.round(6)


def _times(cells: Any) -> tuple[Any, bool]:
    """A column of numbers, or of dates as nanoseconds, and whether it is of dates."""
    import pandas as pd

    column = pd.Series(cells)
    numbers = pd.to_numeric(column, errors="coerce")
    if not numbers.isna().any():
        return numbers.to_numpy(np.float64), False
    dates = pd.to_datetime(column, errors="coerce")
    if dates.isna().any():
        return None, False
    return dates.astype("datetime64[ns]").astype(np.int64).to_numpy(np.float64), True


def future_columns(found: Forecast, description: Description) -> dict[str, Any]:
    """Quantiles of numbers, and the most probable of codes, of all steps to come."""
    columns: dict[str, Any] = {}
    for name, quantiles in found.quantiles.items():
        variable = description.variables[name]
        flat = quantiles.flatten(1, 2)  # (levels, steps, *event)
        each = [_restored(variable, one) for one in flat]
        mode = _restored(variable, found.mode[name].flatten(0, 1))
        share = found.share[name].flatten(0, 1).reshape(len(flat[0]), -1)
        parts = dict(zip(variable.titles, variable.each, strict=True))
        for place, (title, part) in enumerate(parts.items()):
            if part.kind in ("category", "ordinal", "binary"):
                columns[title] = mode[title]
                columns[f"{title}_probability"] = share[:, place].numpy()
                continue
            for level, one in zip(found.levels, each, strict=True):
                columns[f"{title}_{level:g}"] = one[title]
    return columns


def _restored(variable: Variable, values: Tensor) -> dict[str, Any]:
    """A column for each element, as the data have it."""
    found = variable.restored(values)
    if variable.columns is not None:
        return found
    flat = np.asarray(found[variable.name]).reshape(len(values), -1)
    return {title: flat[:, i] for i, title in enumerate(variable.titles)}


def shown(description: Description) -> Variable:
    """The variable that pictures are of: the first that is modelled."""
    return next(v for n, v in description.variables.items() if n != INPUTS)


def is_roll(variable: Variable) -> bool:
    """Whether steps are keys that are down or up."""
    return variable.kind == "binary" and len(variable.shape) == 1 and variable.elements > 1


def save_picture(
    output: Path, values: Mapping[str, Tensor], lengths: Tensor, description: Description
) -> None:
    """Frames side by side, piano rolls below one another, or lines of each column."""
    from deeplvm.files import write_atomically
    from deeplvm.report.figures.sequences import lines_png, rolls_png

    variable = shown(description)
    value = values[variable.name].cpu()
    if variable.is_image:
        save_pictures(output, value.masked_fill(~inside(lengths)[:, :, None, None, None], 0.0),
                      variable, 1)  # fmt: skip
    elif is_roll(variable):
        write_atomically(output, rolls_png(value.numpy(), lengths.tolist()))
    else:
        write_atomically(output, lines_png(value.numpy(), lengths.tolist(), variable))


def save_music(
    output: Path, values: Mapping[str, Tensor], lengths: Tensor, description: Description
) -> None:
    """The notes of all rows, one row after another, as a MIDI file; a step is a quarter note.

    Raises:
        FileError: If steps are not 88 keys.
    """
    from deeplvm.files import write_atomically

    variable = shown(description)
    if variable.shape != (_KEYS,) or variable.kind != "binary":
        raise FileError(
            f"{output} would be music, whose steps are {_KEYS} keys of a piano, 0 or 1, but the "
            f"data are {variable}; write .csv, .parquet, .npz or .png."
        )
    pieces = [row[:steps] > 0.5 for row, steps in
              zip(values[variable.name].cpu(), lengths.tolist(), strict=True)]  # fmt: skip
    rest = torch.zeros(4, _KEYS, dtype=torch.bool)
    joined = torch.cat([part for piece in pieces for part in (piece, rest)])
    write_atomically(output, midi(joined.numpy()))


def midi(roll: Any, *, ticks: int = _QUARTER, microseconds: int = 500_000) -> bytes:
    """Notes as a standard MIDI file of one track; a key that stays down is one note.

    Args:
        roll: Which keys are down, shape ``(steps, 88)``.
        ticks: Of a step; a quarter note has 480.
        microseconds: Of a quarter note.

    >>> midi(np.eye(1, 88, 39, dtype=bool))[22:].hex(" ")  # key 39 is middle C, number 60
    '00 ff 51 03 07 a1 20 00 90 3c 50 83 60 80 3c 00 00 ff 2f 00'
    """
    events = b"\x00\xff\x51\x03" + microseconds.to_bytes(3, "big")
    down, waited = np.zeros(roll.shape[1], bool), 0
    for keys in (*np.asarray(roll, bool), np.zeros(roll.shape[1], bool)):
        for status, strength, changed in ((0x80, 0, down & ~keys), (0x90, 80, keys & ~down)):
            for key in np.flatnonzero(changed):
                events += _delta(waited) + bytes([status, _LOWEST + int(key), strength])
                waited = 0
        down, waited = keys, waited + ticks
    track = events + b"\x00\xff\x2f\x00"
    head = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, _QUARTER)
    return head + struct.pack(">4sI", b"MTrk", len(track)) + track


def _delta(ticks: int) -> bytes:
    """A number in sevens of bits, all but the last with the highest bit set."""
    found = [ticks & 0x7F]
    while ticks := ticks >> 7:
        found.append(0x80 | (ticks & 0x7F))
    return bytes(reversed(found))
