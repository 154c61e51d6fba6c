"""Rows in, rows out, of a run: for engines that spread tables over processes and machines."""

from __future__ import annotations

import functools
import hashlib
import importlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.draws import Draw, Enumerated, as_measured
from deeplvm.data.records import Description, Selection
from deeplvm.devices import place
from deeplvm.files import beside
from deeplvm.inference import embed, impute
from deeplvm.inference.imputation import Imputation
from deeplvm.inference.missing import By
from deeplvm.inference.reconstruction import reconstructed
from deeplvm.inference.rows import OnProgress, Rows, at_least, by_themselves
from deeplvm.inference.texts import names_of
from deeplvm.likelihood import RowScores, score_rows
from deeplvm.runs.run import Run, RunError, open_run

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel

Verb = Literal["score", "embed", "impute", "reconstruct"]
_ROWS = 50_000  # of a file at a time
_OPTIONS: dict[str, tuple[Verb, ...]] = {
    "particles": ("score", "impute"),
    "by": ("impute",),
    "scales": ("embed",),
}


class Scorer:
    """What a run says of each row of a table, in columns beside its own.

    An object that goes to workers by the path of its run: each opens it once, at its first table.
    What it says of a row depends on nothing but the row, to the last bit: neither on the
    partition, nor on the order, nor on the number of workers, on machines of one kind. It computes
    in one thread, as engines have a worker for each core. ``deeplvm score``, ``embed``,
    ``impute`` and ``reconstruct`` give the same numbers.

    - ``"score"``: ``log_px``, ``log_px_stderr``, ``anomaly``, ``pareto_k``;
    - ``"embed"``: means of the latents, ``z_0``, ``z_1``, …;
    - ``"impute"``: the table's own columns, with what was missing filled in;
    - ``"reconstruct"``: means of :math:`p(x | z)` at a draw of z, ``NAME_reconstructed``.

    Args:
        run: The RUN folder, at a path that all workers have.
        verb: What is said.
        key: A column that names each row: its draws are then decided by it. Otherwise they are by
            what the model reads of the row, so that rows that say the same have the same draws.
        particles: Draws a row, to score (500) and to impute (200).
        by: What is filled in, as of :func:`~deeplvm.inference.impute`.
        scales: To embed: standard deviations too, ``z_sd_0``, …
        seed: Of the draws.
        precision: Of the computation.
        device: Where to compute; numbers of a GPU differ from those of a CPU by rounding.
        trust: Whether to run a recipe that is not of this package.

    Raises:
        ValueError: If there is no such verb, an option is not the verb's, or draws are to be
            filled in without a key.
        RunError: If the run is not finished, or its rows are no rows of a table.

    >>> scorer = Scorer("runs/people")  # doctest: +SKIP
    >>> scorer(pandas.DataFrame({"height": [170.0], "weight": [65.0]}))  # doctest: +SKIP
    """

    def __init__(
        self,
        run: str | Path,
        verb: Verb = "score",
        *,
        key: str | None = None,
        particles: int | None = None,
        by: By | None = None,
        scales: bool = False,
        seed: int = 0,
        precision: Literal["float32", "float64"] = "float32",
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        trust: bool = False,
    ) -> None:
        self.run, self.verb, self.key, self.seed = Path(run).absolute(), verb, key, seed
        self.particles, self.by, self.scales = particles, by, scales
        self.precision, self.device, self.trust = precision, device, trust
        if verb not in get_args(Verb):
            raise ValueError(f"A Scorer can {', '.join(get_args(Verb))}, not {verb!r}.")
        at_least(1, particles=particles)
        for name, verbs in _OPTIONS.items():
            if getattr(self, name) and verb not in verbs:
                raise ValueError(f"{name} is to {' and '.join(verbs)}, not to {verb}.")
        if by == "draw" and key is None:
            raise ValueError(
                "Rows that say the same would be filled with the same draws: name a column that "
                'tells rows apart, key="id".'
            )
        _refuse(open_run(self.run, trust=trust), verb)
        self.digest = _digest(self.run)

    def __call__(self, table: Any) -> Any:
        """The table with more columns, of the same kind.

        Args:
            table: An Arrow table, a data frame of pandas or polars, or a mapping of arrays by
                name; columns that the model does not know are passed through.

        Raises:
            ValueError: If a column is missing, a cell is not what it should be, two rows have
                one key, or a new column has the name of one that is there.
        """
        opened = _opened(self.run, self.digest, self.precision, self.device, self.trust)
        names = _names(table)
        if self.key is not None and self.key not in names:
            raise ValueError(f"There is no column {self.key!r}, the key; add it.")
        with opened.alone():
            count = _count(table)
            rows = opened.read(table, names) if count else opened.example()
            keys = _keys(_cells(table, self.key), self.key) if self.key and count else None
            if self.verb == "impute":
                return self._filled(opened, table, rows, keys)
            new = self._new(opened, rows, keys)
        if taken := sorted({*new} & {*names}):
            raise ValueError(
                f"The table has a column {taken[0]!r} already, which {self.verb} writes; rename "
                f"it."
            )
        return _with_columns(table, new, count)

    def meta(self, table: Any) -> Any:
        """The table that comes of one like this, without rows: its columns and their types."""
        return self(table[:0] if not isinstance(table, Mapping) else _none_of(table))

    def schema(self, schema: Any) -> Any:
        """The Arrow schema that comes of a table with this one."""
        return self(schema.empty_table()).schema

    def file(self, source: str | Path, folder: str | Path) -> Path:
        """Write what comes of one ``.parquet`` file into a folder, under the same name.

        A file that is there already is left as it is, so that work that was broken off goes on
        where it stopped; none is ever half-written.

        Returns:
            Its path.

        Raises:
            ValueError: If that would be the file itself, a cell is not what it should be, or
                two rows have one key.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(folder) / Path(source).name
        if path.resolve() == Path(source).resolve():
            raise ValueError(f"{source} lies in {folder} itself; name another folder.")
        if path.is_file():
            return path
        parts = pq.ParquetFile(source)
        if self.key is not None and self.key in parts.schema_arrow.names:
            _keys(_cells(parts.read([self.key]), self.key), self.key, f"{source}: ")
        schema = self.schema(parts.schema_arrow)
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for batch in parts.iter_batches(_ROWS):
                writer.write_table(self(pa.Table.from_batches([batch])).cast(schema))
        return path

    def __repr__(self) -> str:
        return f"Scorer({str(self.run)!r}, {self.verb!r})"

    def _new(
        self, opened: _Opened, rows: Selection, keys: Sequence[object] | None
    ) -> dict[str, Any]:
        """The new columns of some rows."""
        run, model = opened.run, opened.model
        if self.verb == "score":
            found = scores(
                run, model, rows, self.particles or 500, seed=self.seed, identifiers=keys
            )
            return score_columns(found)
        if self.verb == "embed":
            latents = embeddings(
                run, model, rows, seed=self.seed, scales=self.scales, identifiers=keys
            )
            return {
                title: column
                for name, each in latents.items()
                for title, column in zip(
                    latent_titles(name, each), each.flatten(1).numpy().T, strict=True
                )
            }
        _, means, _ = reconstructions(run, model, rows, seed=self.seed, identifiers=keys)
        return {
            f"{title}_reconstructed": column
            for name, each in means.items()
            for title, column in run.description.variables[name].restored(each, mean=True).items()
        }

    def _filled(
        self, opened: _Opened, table: Any, rows: Selection, keys: Sequence[object] | None
    ) -> Any:
        """The table, with what was missing filled in."""
        run, count = opened.run, _count(table)
        rows = opened.with_label(rows, _names(table))
        found = imputations(
            run, opened.model, rows, by=self.by or "auto", particles=self.particles or 200,
            seed=self.seed, identifiers=keys,
        )  # fmt: skip
        label = run.description.label
        known = dict(run.description.variables) | ({"y": label} if label else {})
        new = {}
        for name, value in found.values.items():
            for at, (title, filled) in enumerate(known[name].restored(value).items()):
                holes = found.missing[name].numpy()
                holes = holes[:, at] if known[name].columns is not None else holes
                if title in _names(table):
                    new[title] = filled[:count], holes[:count]
        columns = {title: _patched(table, title, *each) for title, each in new.items()}
        return _with_columns(table, columns, count)


# --- what is said of rows, whoever reads them


def scores(
    run: Run,
    model: LatentVariableModel,
    rows: Selection,
    particles: int,
    *,
    seed: int = 0,
    identifiers: Sequence[object] | None = None,
    progress: OnProgress | None = None,
) -> RowScores:
    """Log-likelihoods of rows, each by itself."""
    count = particles

    def measure(own: Rows) -> Mapping[str, Tensor]:
        nonlocal count
        own, draw = _as_absent(run, own)
        found = score_rows(
            model, own, particles, draw=draw, completed=_completed(run), seed=seed,
            progress=progress,
        )  # fmt: skip
        count = found.particles
        names = ("log_px", "log_px_stderr", "pareto_k", "holes")
        return {name: getattr(found, name) for name in names}

    found = _each(run, model, rows, measure, identifiers)
    return RowScores(**found, particles=count)


def score_columns(found: RowScores) -> dict[str, Any]:
    """Scores as columns of a table."""
    log_px = found.log_px.numpy()
    return {
        "log_px": log_px,
        "log_px_stderr": found.log_px_stderr.numpy(),
        "anomaly": -log_px,
        "pareto_k": found.pareto_k.numpy(),
    }


def embeddings(
    run: Run,
    model: LatentVariableModel,
    rows: Selection,
    *,
    seed: int = 0,
    scales: bool = False,
    identifiers: Sequence[object] | None = None,
) -> dict[str, Tensor]:
    """Posterior means of the latents of rows, each by itself."""

    def measure(own: Rows) -> Mapping[str, Tensor]:
        return embed(model, _as_absent(run, own)[0], seed=seed, scales=scales)

    return _each(run, model, rows, measure, identifiers)


def latent_titles(name: str, value: Tensor) -> list[str]:
    """Columns of a latent: ``z_0``, ``z_1``."""
    return [f"{name}_{i}" for i in range(value[0].numel())]


def reconstructions(
    run: Run,
    model: LatentVariableModel,
    rows: Selection,
    *,
    seed: int = 0,
    label: str | None = None,
    identifiers: Sequence[object] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """What :func:`~deeplvm.inference.reconstruction.reconstructed` says, of each row by itself."""
    drawn: set[str] = set()

    def measure(own: Rows) -> Mapping[str, Tensor]:
        own, _ = _as_absent(run, own)
        *both, draws = reconstructed(model, run.description, own, seed=seed, label=label)
        drawn.update(draws)
        named = zip(("original", "mean"), both, strict=True)
        return {f"{what}/{name}": v for what, each in named for name, v in each.items()}

    found = _each(run, model, rows, measure, identifiers)
    originals, means = (
        {name.removeprefix(what): each for name, each in found.items() if name.startswith(what)}
        for what in ("original/", "mean/")
    )
    return originals, means, drawn


def imputations(
    run: Run,
    model: LatentVariableModel,
    rows: Selection,
    *,
    by: By = "auto",
    particles: int = 200,
    draws: int = 0,
    level: float | None = None,
    seed: int = 0,
    identifiers: Sequence[object] | None = None,
) -> Imputation:
    """What stands where elements of rows are missing, each row by itself.

    Draws of rows that say the same are told apart by how many such rows came before, unless there
    are identifiers.
    """

    def measure(own: Rows) -> Mapping[str, Tensor]:
        return impute(
            model, own, by=by, particles=particles, draws=draws, level=level,
            draw=_drawn(run, own), completed=_completed(run), seed=seed,
        ).to_columns()  # fmt: skip

    found = _each(run, model, rows, measure, identifiers, apart=by == "draw" or draws > 0)
    return Imputation.of_columns(found, particles)


def _each(
    run: Run,
    model: LatentVariableModel,
    rows: Selection,
    measure: Callable[[Rows], Mapping[str, Tensor]],
    identifiers: Sequence[object] | None,
    *,
    apart: bool = False,
) -> dict[str, Tensor]:
    trained = run.description.rows.get("train", 0)
    return by_themselves(
        model, rows, measure, identifiers=identifiers, apart=apart, data_rows=trained
    )


def _completed(run: Run) -> Literal["auto", True]:
    """An encoder that never saw a hole reads completed rows."""
    return "auto" if run.saw_holes else True


def _drawn(run: Run, own: Rows) -> dict[str, Draw]:
    """How what rows lack is drawn, as :meth:`Run.measured` says of whole data."""
    found: dict[str, Draw] = {}
    for name, way in run.draw.items():
        if name not in own.names:
            found[name] = as_measured(way)
        elif name in own.missing and isinstance(way, Enumerated):
            found[name] = replace(way, only_missing=True)
    return found


def _as_absent(run: Run, own: Rows) -> tuple[Rows, dict[str, Draw]]:
    """Rows without a label that they all lack, as if no row of the file had one."""
    names = tuple([n for n in own.names if n != "y" or n not in own.missing])
    own = replace(own, names=names, missing=own.missing - {"y"}) if names else own
    return own, _drawn(run, own)


# --- the run in a worker


@dataclass(eq=False)
class _Opened:
    run: Run
    model: LatentVariableModel
    lock: Any = field(default_factory=threading.Lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One table at a time, in one thread: sums then have one order."""
        with self.lock:
            before = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(before)

    def read(self, table: Any, names: Sequence[str]) -> Selection:
        """The rows of a table as the run's own were read."""
        description = self.run.description
        label = str(description.options.get("label") or "y")
        wanted = [*(description.columns or description.variables), label]
        there = [each for each in dict.fromkeys(wanted) if each in names]
        if lacking := [each for each in wanted if each not in names and each != label]:
            raise ValueError(
                f"There is no column {lacking[0]!r}, which the model of {self.run.folder} reads; "
                f"the table has {', '.join(names) or 'none'}."
            )
        if description.columns:
            return self.run.read(_some_columns(table, there)).test
        arrays = {name: _array(table, name) for name in there}
        for name, variable in description.variables.items():
            if arrays[name].ndim != 1 + len(variable.shape):
                arrays[name] = arrays[name].reshape(-1, *variable.shape)
        return self.run.read(arrays).test

    def example(self) -> Selection:
        """A row of the smallest values, to see which columns it gets."""
        known = self.run.description
        columns = {
            name: torch.tensor([part.minimum for part in each.each]).reshape(1, *each.shape)
            for name, each in known.variables.items()
        }
        if known.label is not None and "y" in self.model.names:
            columns["y"] = torch.zeros(1, dtype=torch.int64)
        whole = {name: replace(each, missing=False) for name, each in known.variables.items()}
        return Selection(columns, replace(known, variables=whole, unlabelled={}), split="test")

    def with_label(self, rows: Selection, names: Sequence[str]) -> Selection:
        """Rows with their labels, where the table has a column of these and all are missing."""
        label = self.run.description.label
        if label is None or label.name not in names or "y" in rows or "y" not in self.model.names:
            return rows
        columns = {**rows.columns, "y": torch.full((rows.rows,), torch.nan)}
        known: Any = rows.description
        known = replace(known, classes=self.run.description.classes, unlabelled={"test": 1})
        return replace(rows, columns=columns, description=known)


@functools.lru_cache(maxsize=4)
def _opened(folder: Path, digest: str, precision: str, device: Any, trust: bool) -> _Opened:  # noqa: FBT001
    if _digest(folder) != digest:
        raise RunError(
            f"{folder} is another run here than where the Scorer was made; copy it anew, or make "
            f"the Scorer again."
        )
    run = open_run(folder, trust=trust)
    model = run.model.to(place(device))
    return _Opened(run, model.double() if precision == "float64" else model)


def _digest(folder: Path) -> str:
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(run: Run, verb: Verb) -> None:
    """Refuse a run whose rows are not read one by one."""
    if not run.finished:
        raise RunError(f"{run.folder} is not finished; go on with: deeplvm resume {run.folder}")
    known: Description = run.description
    reasons = {
        "rows are texts": names_of(known),
        "a row is a sequence": known.whole,
        "it is a graph": known.options.get("graph"),
        "a row is a set of rows": known.options.get("members"),
    }
    for why, found in reasons.items():
        if found:
            raise RunError(
                f"{run.folder}: {why}, and a Scorer is of rows of a table; give its files to the "
                f"verb: deeplvm {verb} {run.folder} FILE FILE -o FOLDER"
            )
    for name, variable in known.variables.items():
        noisy = [each.dequantized or each.grey is not None for each in variable.each]
        if any(noisy):
            what = "binarized" if variable.grey is not None else "dequantized"
            raise RunError(
                f"{run.folder}: {name} is {what} by noise that a row has by its place in the "
                f"file; fit on data that are so already, or give whole files to the verb: "
                f"deeplvm {verb} {run.folder} FILE FILE -o FOLDER"
            )


# --- tables of four kinds


def _is_polars(table: Any) -> bool:
    return type(table).__module__.partition(".")[0] == "polars"


def _is_arrow(table: Any) -> bool:
    return type(table).__module__.partition(".")[0] == "pyarrow"


def _names(table: Any) -> list[str]:
    if _is_arrow(table):
        return list(table.column_names)
    return [str(each) for each in (table if isinstance(table, Mapping) else table.columns)]


def _count(table: Any) -> int:
    if isinstance(table, Mapping):
        return len(next(iter(table.values()), ()))
    return len(table)


def _none_of(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(each)[:0] for name, each in table.items()}


def _cells(table: Any, name: str) -> Any:
    """The cells of a column, as Python has them."""
    if _is_arrow(table):
        return table.column(name).to_pylist()
    return table[name].to_list() if hasattr(table[name], "to_list") else table[name].tolist()


def _keys(cells: Sequence[Any], name: str, where: str = "") -> list[str]:
    """What tells rows apart.

    Raises:
        ValueError: If it does not: a cell is empty, or two say the same.
    """
    import pandas

    if empty := int(pandas.isna(pandas.Series(cells, dtype=object)).sum()):
        raise ValueError(
            f"{where}The key {name!r} is empty in {empty:,} of {len(cells):,} rows; fill it "
            f"in, or leave these rows out."
        )
    keys = [str(each) for each in cells]
    if len(set(keys)) < len(keys):
        key, times = Counter(keys).most_common(1)[0]
        raise ValueError(
            f"{where}{times:,} rows have the key {name} {key!r}, by which rows are told apart; "
            f"name a column whose cells differ, or leave key out."
        )
    return keys


def _array(table: Any, name: str) -> Any:
    """A column whose cells are arrays, or numbers, as one array."""
    column = table.column(name) if _is_arrow(table) else table[name]
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column
    return np.array([np.asarray(each).tolist() for each in _cells(table, name)])


def _some_columns(table: Any, names: Sequence[str]) -> Any:
    """Some columns, as they are read."""
    import pandas

    if isinstance(table, Mapping):
        return pandas.DataFrame({name: np.asarray(table[name]) for name in names})
    if _is_polars(table):
        return table.select(names).to_arrow()
    return table.select(names) if _is_arrow(table) else table[[*names]]


def _with_columns(table: Any, new: Mapping[str, Any], count: int) -> Any:
    """A table of the same kind with more columns, or others in the place of its own.

    Of these the first ``count`` rows count: those of a table without rows tell their types.
    """
    if isinstance(table, Mapping):
        return {**table, **{name: each[:count] for name, each in new.items()}}
    if not _is_arrow(table) and not _is_polars(table):
        import pandas

        columns = {
            n: pandas.Series(v if np.ndim(v) < 2 else [*map(list, v)]).array[:count]
            for n, v in new.items()
        }
        return table.assign(**columns)
    import pyarrow as pa

    arrow = table if _is_arrow(table) else table.to_arrow()
    for name, value in new.items():
        column = value if isinstance(value, pa.Array | pa.ChunkedArray) else _arrow(value)
        column = column.slice(0, count)
        if name in arrow.column_names:
            arrow = arrow.set_column(arrow.column_names.index(name), name, column)
        else:
            arrow = arrow.append_column(name, column)
    if _is_arrow(table):
        return arrow
    import polars

    return polars.from_arrow(arrow)


def _arrow(value: Any) -> Any:
    """An array as a column; of more than one number a row, as lists."""
    import pyarrow as pa

    flat = np.ascontiguousarray(value)
    if flat.ndim < 2:
        return pa.array(flat, from_pandas=flat.dtype == object)
    width = int(np.prod(flat.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), width)


def _patched(table: Any, name: str, filled: Any, holes: Any) -> Any:
    """A column with what was missing filled in, in its own type."""
    if isinstance(table, Mapping):
        column = np.asarray(table[name])
        filled = filled.reshape(column.shape)
        whole = column.dtype.kind in "iu" and filled.dtype.kind == "f"
        found = np.where(holes.reshape(column.shape), filled.astype(object), column.astype(object))
        return found.astype(filled.dtype if whole else column.dtype)
    if not _is_arrow(table) and not _is_polars(table):
        column = table[name]
        whole = column.dtype.kind in "iu" and filled.dtype.kind == "f"
        found = column.astype(object).where(~holes, filled)
        return found.astype(filled.dtype if whole else column.dtype)
    import pyarrow as pa

    if filled.ndim > 1:
        return _arrow(np.where(holes, filled, _array(table, name).reshape(filled.shape)))
    column = table.column(name) if _is_arrow(table) else table[name].to_arrow()
    kind, new = column.type, pa.array(filled, from_pandas=True)
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_null(kind) or (pa.types.is_integer(kind) and pa.types.is_floating(new.type)):
        kind = plain = new.type
    compute: Any = importlib.import_module(
        "pyarrow.compute"
    )  # whose functions no type checker sees
    found = compute.if_else(pa.array(holes), new.cast(plain), column.cast(plain))
    return found if plain == kind else found.dictionary_encode().cast(kind)
