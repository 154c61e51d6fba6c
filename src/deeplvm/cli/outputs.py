"""Draws, latents, reconstructions, scores: from a model and rows to named arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.core.draws import Sampled
from deeplvm.core.joint import Factored
from deeplvm.core.trace import Site
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre, has_centre
from deeplvm.inference.rows import Measure, Names, Tensors, for_rows
from deeplvm.inference.temperature import sample_at
from deeplvm.randomness import RowNoise, drawing

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Description, Selection
from pathlib import Path

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.data.variable import Variable
    from deeplvm.runs.run import Run

_ROWS = 500  # at a time
_CHANCE = 1e-3  # of being told of values above all of the data where the model is right


def sampled(
    model: LatentVariableModel,
    description: Description,
    rows: int,
    *,
    seed: int,
    mean: bool | None,
    label: str | None = None,
    masks: Sequence[str] = (),
    temperature: float = 1.0,
    likelihood_temperature: float = 1.0,
    conditions: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Draws of the variables: of p(x | z), or its mean (``None``: if known), at draws of z.

    A model of x given a label gets the labels in turn, or the one label named; one of x and its
    label draws it, or has the one named. They are returned as ``y``. With ``masks``, names of p
    that say which values are there, those are drawn too. Temperatures are those of
    :func:`~deeplvm.inference.sample_at`. ``conditions`` are given (lengths of rows, inputs of
    their steps); of sequences the lengths are returned too, under their name.

    Raises:
        ValueError: If the model has inputs that are not known, other than a label, or there is no
            such label.
    """
    given: dict[str, Any] = dict(conditions or {})
    inputs = [name for name in model.p.inputs if name not in (*model.p.names, *given)]
    if label is not None and "y" not in inputs:
        if "y" not in model.p.names or not description.classes:
            raise ValueError(
                "--label is for a model of x and its label, or of x given it; this one draws x "
                "without it."
            )
        known = model.p.parents("y") if isinstance(model.p, Factored) else ()
        if above := [each.name for each in known]:
            raise ValueError(
                f"--label: this model draws the label from {', '.join(above)}, so that x does not "
                f"follow from it; draw more rows and keep those with the label."
            )
        inputs = ["y"]
    if others := [name for name in inputs if name != "y"]:
        if set(others) == set(description.variables):
            raise ValueError(
                f"This model says of {', '.join(others)} what the label is, and draws none: "
                f"deeplvm score RUN DATA --classes tells the probability of each label."
            )
        raise ValueError(
            f"The model needs {', '.join(others)} to draw from, which only code can give: "
            f"model.sample(given={{{others[0]!r}: ...}})."
        )
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    given = {name: value.to(device) for name, value in given.items()}
    if "y" in inputs:
        classes = description.classes or ()
        if label is not None and label not in classes:
            raise ValueError(f"There is no label {label!r}; there are {', '.join(classes)}.")
        numbers = [classes.index(label)] if label is not None else range(len(classes))
        turns = torch.tensor(list(numbers), device=device)
        given["y"] = turns[torch.arange(rows, device=device) % len(turns)]
    with drawing(seed):
        trace = sample_at(
            model, rows, given, temperature=temperature,
            likelihood_temperature=likelihood_temperature,
        )  # fmt: skip
        names = [name for name in (*description.variables, *masks) if name in trace]
        names += ["y"] if "y" in model.p.names and description.classes else []
        names += [n for n in description.whole if n in trace and n not in given]
        values = {name: _told(trace[name], mean=False if name == "y" else mean) for name in names}
    return {name: value.cpu() for name, value in {**values, **given}.items()}


def _told(site: Site, *, mean: bool | None) -> Tensor:
    """The value of a name, or its mean (``None``: if known)."""
    own = site.distribution
    if own is None or not (has_centre(own) if mean is None else mean):
        return site.value
    return _centre_of(own)


def lossy(
    model: LatentVariableModel,
    data: Data,
    rows: NamedRows,
    depths: Sequence[int] | None,
    rest: Literal["mean", "draw"],
    *,
    seed: int,
) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]], dict[int, Tensor]]:
    """Originals; by depth the means of x where only so many latents are kept, and their nats.

    Where no mean is known these are draws.
    """
    from deeplvm.inference import lossy_reconstructions

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        found = {f"original//{n}": given[n] for n in data.variables if n in given}
        draw = noise.of(Sampled())
        for each in lossy_reconstructions(
            model, given, depths, rest=rest, default=draw, missing=missing
        ):
            found[f"nats/{each.depth}/"] = each.nats
            for name in [n for n in data.variables if n in given and n in each.trace]:
                site = each.trace[name]
                own = site.distribution
                value = centre(own) if own is not None and has_centre(own) else site.value
                found[f"mean/{each.depth}/{name}"] = value
        return found

    originals: dict[str, Tensor] = {}
    means: dict[int, dict[str, Tensor]] = {}
    nats: dict[int, Tensor] = {}
    for key, value in _measured(model, rows, measure, seed).items():
        what, depth, name = key.split("/")
        if what == "original":
            originals[name] = value
        elif what == "nats":
            nats[int(depth)] = value
        else:
            means.setdefault(int(depth), {})[name] = value
    return originals, means, nats


def differences(
    model: LatentVariableModel, data: Data, rows: Selection, between: Sequence[str], seed: int
) -> dict[str, Any]:
    """How the rates of the rows of one label differ from those of another, a row a column.

    Raises:
        ValueError: If what is modelled are no counts, or there are no rows of a label.
    """
    from deeplvm.evaluation import differential_rates

    kinds = [f"{name} are {each.kind}" for name, each in data.variables.items()]
    classes = data.classes or ()
    if kinds != ["x are counts"]:
        raise ValueError(
            f"--between compares rates of counts x, but {' and '.join(kinds)}; leave it out."
        )
    if "y" not in rows or not classes:
        raise ValueError(
            "--between compares rows by their labels, and these have none: fit with --label."
        )
    groups = []
    for label in between:
        if label not in classes:
            raise ValueError(f"There is no label {label!r}; there are {', '.join(classes)}.")
        places = (rows["y"] == classes.index(label)).nonzero().squeeze(1)
        if not len(places):
            raise ValueError(f"No row here has the label {label!r}; name other DATA or --split.")
        groups.append(rows[places])
    found = differential_rates(model, *groups, seed=seed)
    return {
        "column": np.array(found.names),
        **{
            f"rate_{label}": each.numpy() for label, each in zip(between, found.rates, strict=True)
        },
        "log2_fold_change": found.log_fold_change.numpy(),
        "stderr": found.stderr.numpy(),
        "probability_beyond_1": found.probability.numpy(),
    }


def _measured(
    model: LatentVariableModel, rows: NamedRows, measure: Measure, seed: int, size: int = _ROWS
) -> dict[str, Tensor]:
    found = for_rows(model, rows, measure, batch_size=size, seed=seed, finite=())
    return {name: value.cpu() for name, value in found.items()}


def _centre_of(distribution: Distribution | None) -> Tensor:
    if distribution is None:
        raise ValueError("This variable is unrolled step by step, and has no one distribution.")
    try:
        return centre(distribution)
    except NotImplementedError as error:
        raise ValueError(
            "This likelihood has neither a mean nor a mode that is known, as a flow has none: "
            "draw from the model instead (deeplvm sample)."
        ) from error


TABLES = (".npz", ".csv", ".parquet")
PICTURES = (".png",)
CELLS = (".h5ad",)
# Small images are enlarged until the grid has about this many pixels a side.
_SIDE = 800


class FileError(ValueError):
    """A file cannot be written as asked; the message says which endings can."""


def check_output(path: Path, endings: Sequence[str]) -> str:
    """The ending of a file to be written, before any work is done for it.

    Raises:
        FileError: If the ending is another, or the folder does not exist.
    """
    ending = path.suffix.lower()
    if ending not in endings:
        found = f"ends with {ending!r}" if ending else "has no ending"
        raise FileError(f"{path} {found}; the format is chosen by it: {', '.join(endings)}.")
    check_place(path)
    return ending


def check_place(path: Path) -> None:
    """Refuse to write a file where none can be.

    Raises:
        FileError: If it is a folder, or lies in none.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent} does not exist; make the folder first.")


def refuse_overwriting(output: Path, *sources: str | None) -> None:
    """Refuse an output that is an input, by whatever name, or that lies among its files.

    Raises:
        FileError: With the input.
    """
    for source in sources:
        path = Path(source or "").expanduser()
        if not source:
            continue
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise FileError(f"{output} would lie in the input {source}; name another place.")
        same = output.exists() and path.exists() and output.samefile(path)
        if same or output.resolve() == path.resolve():
            raise FileError(f"{output} would overwrite its own input {source}; name another.")


def cells_given(output: Path, sources: Sequence[str | None], split: str | None) -> Path:
    """The ``.h5ad`` file of which the output is to be a copy with more in it.

    Raises:
        FileError: If none is named, or only some of its rows are meant.
    """
    named = [each for each in sources if each]
    if len(named) != 1 or not named[0].lower().endswith(CELLS) or split is not None:
        raise FileError(
            f"{output} would be a copy of DATA, an .h5ad file, with something for each of its "
            f"rows: name the one file{' and leave out --split' if split else ''}; or write "
            f"{', '.join(TABLES)}."
        )
    return Path(named[0])


def save_latents(source: Path, output: Path, latents: Mapping[str, Any]) -> None:
    """Latents of cells in a copy of their file: ``obsm["X_deeplvm"]``, others with their name."""
    from deeplvm.data.readers.counts import write_cells

    found = {}
    for name, values in latents.items():
        alone = name == "z" or len(latents) == 1
        key = "X_deeplvm" if alone else f"X_deeplvm_{name}"
        found[key] = np.asarray(values).reshape(len(values), -1)
    write_cells(source, output, found)


def save_expression(
    run: Run, model: LatentVariableModel, rows: Selection, output: Path, source: Path, seed: int
) -> None:
    """Means of p(x | z) of cells in a copy of their file, the layer ``deeplvm``."""
    from deeplvm.data.readers.counts import genes_of, write_cells
    from deeplvm.runs.scorer import reconstructions

    genes = {name: place for place, name in enumerate(genes_of(source))}
    titles = run.description.variables["x"].columns or tuple(genes)
    columns = np.array([genes[name] for name in titles])

    def parts() -> Iterator[tuple[Any, Any]]:
        for start in range(0, rows.rows, _ROWS):
            some = rows[start : start + _ROWS]
            _, means, _ = reconstructions(run, model, some, seed=seed)
            yield columns, means["x"].numpy()

    write_cells(source, output, layers={"deeplvm": parts()})


def save_table(
    path: Path,
    arrays: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    names: Mapping[str, Sequence[str]] | None = None,
    *,
    escape: bool = False,
) -> None:
    """Write named arrays of as many rows: as they are (.npz), or as columns (.csv, .parquet).

    Of several processes that work together the first writes.

    Args:
        path: Where; written whole or not at all.
        arrays: Name to array of shape ``(rows, *event)``, or to a table's columns by name; or
            some rows after others of these, each written before the next are asked for.
        names: Names of the columns of an array; others are its name, numbered if several.
        escape: Whether texts that a spreadsheet would run as formulas get a ``'`` in front.
    """
    from deeplvm.files import beside, say
    from deeplvm.parallel.processes import processes

    if not processes().first:
        return
    parts: Iterable[Any] = [arrays] if isinstance(arrays, Mapping) else arrays
    with beside(path) as temporary:
        if path.suffix.lower() == ".npz":
            (whole,) = parts
            with temporary.open("wb") as file:
                np.savez_compressed(file, **_plain(whole))
            return
        frames = (as_frame(part, names) for part in parts)
        if path.suffix.lower() == ".parquet":
            _write_parquet(temporary, frames)
            return
        count = 0
        for number, frame in enumerate(frames):
            safe, own = _without_formulas(frame)
            count += own
            table = safe if escape else frame
            table.to_csv(temporary, index=False, header=not number, mode="a" if number else "w")
        if count and not escape:
            say(
                f"warning: {count:,} texts of {path} begin with =, +, - or @, which a spreadsheet "
                f"runs as formulas; --escape-formulas puts a ' before them"
            )


def _write_parquet(path: Path, frames: Iterable[Any]) -> None:
    """Rows after rows, in the types of the first; where these have nothing, as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if writer is None:
            fields = [
                field.with_type(pa.string()) if pa.types.is_null(field.type) else field
                for field in table.schema
            ]
            schema = pa.schema(fields, table.schema.metadata)
            writer = pq.ParquetWriter(path, schema)
        writer.write_table(table.cast(writer.schema))
    if writer is not None:
        writer.close()


def _without_formulas(frame: Any) -> tuple[Any, int]:
    """A table whose texts no spreadsheet runs, and how many had to be escaped."""
    count = 0

    def harmless(cell: Any) -> Any:
        nonlocal count
        if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
            count += 1
            return f"'{cell}"
        return cell

    numeric = frame.select_dtypes("number").columns
    safe = frame.apply(lambda column: column if column.name in numeric else column.map(harmless))
    return safe.rename(columns=harmless), count


def save_pictures(
    path: Path, images: Tensor, variable: Variable, columns: int | None = None
) -> None:
    """Write images as one grid.

    Args:
        path: Where; written whole or not at all.
        images: Values in the data's own units, shape ``(rows, channels, height, width)``; of other
            than one or three channels the first is shown. Members of a set, an axis more, stand
            side by side.
        variable: What they are: the range that black to white stands for.
        columns: Images in a row of the grid; a square if left out.
    """
    from deeplvm.files import write_atomically
    from deeplvm.report.figures.images import grid_png

    if images.dim() == 5:
        images = images.movedim(1, -2).flatten(-2)
    shown = images if images.shape[1] in (1, 3) else images[:, :1]
    values = shown.detach().cpu().double().numpy()
    grid = grid_png(values, columns=columns, variable=variable, side=_SIDE, opaque=True)
    write_atomically(path, grid)


def as_frame(arrays: Mapping[str, Any], names: Mapping[str, Sequence[str]] | None = None) -> Any:
    """A table with one column an element."""
    import pandas

    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        if isinstance(array, Mapping):
            columns |= array
            continue
        flat = np.asarray(array)
        flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
        titles = (names or {}).get(name) or (
            [name] if flat.shape[1] == 1 else [f"{name}{i}" for i in range(flat.shape[1])]
        )
        columns |= {title: flat[:, i] for i, title in enumerate(titles)}
    return pandas.DataFrame(columns)


def given(
    values: Mapping[str, Any],
    description: Description,
    rows: Any = None,
    *,
    mean: bool = False,
) -> dict[str, Any]:
    """Values of a model as the user's own: columns in their types, labels by their names.

    Args:
        values: By name; ``x_original`` are rows as they were, ``x_depth_2`` lossy ones.
        description: Of the data.
        rows: The rows that were filled in: what is there comes back exactly.
        mean: Whether they are means, not draws.

    Returns:
        By name; of a table an array by the name of each column, of captions their texts.
    """
    from deeplvm.data.readers.text import vocabulary_of
    from deeplvm.inference.texts import captions_of

    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = re.sub(r"_(original|depth_\d+)$", "", name)
        variable = description.variables.get(plain)
        if variable is None:
            label = description.label if name == "y" else None
            found |= {name: value} if label is None else label.restored(value, exact=True)
            continue
        original = name.endswith("_original") and name != plain
        if plain in captions_of(description):
            vocabulary = vocabulary_of(description, plain)
            found[name] = np.array([vocabulary.decode(row) for row in value.tolist()])
            continue
        columns = variable.restored(value, exact=original, mean=mean and not original)
        if rows is not None:  # filled in: what is there stays as it is
            exact = rows.exact(plain)
            there = ~np.isnan(exact.double().numpy())
            for place, (column, own) in enumerate(variable.restored(exact, exact=True).items()):
                seen = there[:, place] if variable.columns is not None else there
                columns[column] = np.where(seen, own, columns[column])
        found[name] = columns if variable.columns is not None else columns[plain]
    return found


def impossible(values: Mapping[str, Tensor], description: Description) -> list[str]:
    """Warnings of values of a model where a column of the data has none: incomes below 0.

    And of more values above all of the data than as many new rows would have: of n new among N
    that are like them, k or more are with probability :math:`(n / (n + N))^k` at most.

    Args:
        values: Made by the model, shape ``(rows, columns)`` by name; NaN is none.
        description: Of the data.
    """
    from deeplvm.data.schema import ends_of

    warnings = []
    for name, stored in values.items():
        variable = description.variables.get(name)
        for place, part in enumerate(variable.by_column.values() if variable else ()):
            least, largest = ends_of(part)
            made, above = ~stored[..., place].isnan(), stored[..., place] > part.maximum
            known = description.steps or description.rows
            share = int(made.sum()) / (int(made.sum()) + sum(known.values()))
            if part.kind == "counts" and share ** int(above.sum()) < _CHANCE:
                warnings.append(
                    f"{int(above.sum()):,} of {int(made.sum()):,} values that the model made for "
                    f"column {part.name!r} are above {part.maximum:g}, the largest of the data; "
                    f"bounds = [0, {part.maximum:g}] of it in schema.toml, with likelihood = "
                    f'"mixture", given to fit by --schema, never does that.'
                )
            if part.kind != "real" or least < 0:
                continue
            column, share = stored[..., place], largest <= 1
            count = int(((column < 0) | (column > 1 if share else column < 0)).sum())
            if not count:
                continue
            remedy = (
                f'; likelihood = "mixture" and bounds = [0, {1 if share else "inf"}] of it in '
                f"schema.toml, given to fit by --schema, never does that"
            )
            warnings.append(
                f"{count:,} of {int((~column.isnan()).sum()):,} values that the model made for "
                f"column {part.name!r} are {'outside [0, 1]' if share else 'below 0'}, where the "
                f"data have none{'' if part.likelihood == 'mixture' else remedy}."
            )
    return warnings


def beside_others(
    own: Mapping[str, Any], cells: Mapping[str, Any], rows: Any = slice(None)
) -> dict[str, Any]:
    """Columns of a model among all of its file, in the file's order; last those it has not.

    Args:
        own: Columns by name.
        cells: All columns of the file as they are in it; any of those that are the model's.
        rows: Which rows of the file these are.

    >>> beside_others({"size": [1.5]}, {"id": np.array(["a"]), "size": None})
    {'id': array(['a'], dtype='<U1'), 'size': [1.5]}
    """
    found = {n: own[n] if n in own else column[rows] for n, column in cells.items()}
    return found | {n: column for n, column in own.items() if n not in cells}


def free(name: str, taken: Collection[str]) -> str:
    """The name, with as many ``_`` behind it as no other has."""
    while name in taken:
        name += "_"
    return name


def _plain(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays that need no pickle; a table of numbers is one, of another table each column."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if not isinstance(array, Mapping):
            found[name] = _of_one_type(np.asarray(array))
            continue
        columns = {column: _of_one_type(each) for column, each in array.items()}
        if all([each.dtype.kind in "iuf" for each in columns.values()]):
            found[name] = np.stack(list(columns.values()), 1)
            continue
        suffix = name[1:]  # of x_original
        found |= {f"{column}{suffix}": each for column, each in columns.items()}
    return found


def _of_one_type(array: Any) -> Any:
    if array.dtype != object:
        return array
    known = [each for each in array.ravel() if each is not None]
    if all([isinstance(each, str) for each in known]):
        return np.where(array == None, "", array).astype(str)  # noqa: E711 - element by element
    return array.astype(np.float64)  # None becomes NaN
