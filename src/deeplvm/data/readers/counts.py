"""Cells: an AnnData object or an .h5ad file -> rows of counts, sparse, with the genes' names."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.data.readers.columns import refuse_absent
from deeplvm.data.readers.source import Array, Facts, Held, codes_of
from deeplvm.data.records import Description
from deeplvm.data.sparse import compressed, is_sparse
from deeplvm.data.variable import DataError
from deeplvm.files import beside, fits

ENDING = ".h5ad"
# What h5py, and reading what is not as it should be, raise.
_DAMAGED = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)


def is_cells(source: Any) -> bool:
    """Whether this is an AnnData object, or has what one has."""
    return all([hasattr(source, name) for name in ("X", "layers", "obs", "var_names")])


def read_cells(
    path: Path, layer: str | None, label: str | None, known: Description | None
) -> Held:
    """The rows of an ``.h5ad`` file; see :func:`held_cells`."""
    with opened(path) as file:
        return held_cells(Stored(file), path.stem, str(path), layer, label, known)


def held_cells(
    cells: Any,
    name: str,
    what: str,
    layer: str | None,
    label: str | None,
    known: Description | None,
) -> Held:
    """Cells as rows: the matrix, or a layer of it, with the genes as columns.

    Whole numbers of at least 0, some above 1, are counts in all columns.

    Args:
        cells: An AnnData object or what is like one: ``X`` and ``layers`` by name, matrices of
            shape ``(cells, genes)``, sparse or not; ``obs``, columns of the cells by name; and
            ``var_names``, the genes.
        name: Short name.
        what: What messages call them.
        layer: Which of the layers; ``None`` for X.
        label: Column of ``obs`` that holds the labels.
        known: Of the data of a finished run, whose genes and labels these must have; its label
            may be absent.

    Raises:
        DataError: If there is no such matrix or label, or these are not like those of the run.
    """
    layers = [str(each) for each in cells.layers]
    if layer is not None and layer not in layers:
        raise DataError(f"{what}: there is no layer {layer!r}; it has {_listed(layers)}.")
    stored = cells.X if layer is None else cells.layers[layer]
    if stored is None:
        raise DataError(f"{what} has no X; say which layer: --layer, of {_listed(layers)}.")
    stored = stored.to_memory() if hasattr(stored, "to_memory") else stored
    values: Any = compressed(stored) if is_sparse(stored) else np.asarray(stored)
    if values.ndim != 2 or values.dtype.kind not in "buif" or not math.prod(values.shape):
        raise DataError(
            f"{what}: a matrix of numbers, cells by genes, is needed; found shape "
            f"{tuple(values.shape)} of {values.dtype}."
        )
    genes, notes = _unique([str(each) for each in cells.var_names])
    numbers = values.data if is_sparse(values) else values
    whole = numbers.dtype.kind != "f" or bool((numbers == np.floor(numbers)).all())
    counts = whole and numbers.min(initial=0) >= 0 and numbers.max(initial=0) > 1
    if not counts and layer is None and layers:
        notes += (f"X holds no counts; of the layers {_listed(layers)} one may: --layer.",)
    if known is not None:
        _refuse_other_genes(genes, known, what)
        label = label if label in list(cells.obs) else None
    labels, names = None, None
    if label is not None:
        refuse_absent(f"{what}, obs", list(cells.obs), [label])
        labels, names, said = codes_of({"all": _texts(cells.obs[label])}, f"{what}, {label}")
        notes += said
        if known is not None and known.classes is not None:
            labels = {"all": _codes_among(labels["all"], names, known.classes, what)}
            names = known.classes
    facts = Facts(
        name,
        names,
        tuple(genes),
        kinds=dict.fromkeys(genes, "counts") if counts else {},
        types=dict.fromkeys(genes, str(values.dtype)),
        notes=(*notes, *((f"of the layer {layer}.",) if layer is not None else ())),
    )
    return Held(facts, {"all": values}, labels)


def write_cells(
    source: Path,
    output: Path,
    obsm: Mapping[str, Array] | None = None,
    layers: Mapping[str, Iterable[tuple[Array, Array]]] | None = None,
) -> None:
    """A copy of an ``.h5ad`` file with more in it; written whole or not at all.

    Args:
        source: The file.
        output: The copy.
        obsm: Numbers of each cell by name, shape ``(cells, dimensions)``.
        layers: Matrices by name, some rows after the others: the places of their columns among
            the genes, and the values. Genes of which there are none are NaN.
    """
    with beside(output) as temporary:
        shutil.copyfile(source, temporary)
        with opened(temporary, "r+") as file:
            for name, values in (obsm or {}).items():
                _put(file, "obsm", name, values.shape)[...] = values
            shape = (len(Stored(file).obs_names), len(Stored(file).var_names))
            for name, parts in (layers or {}).items():
                place, start = _put(file, "layers", name, shape), 0
                for columns, values in parts:
                    whole = np.full((len(values), shape[1]), np.nan, np.float32)
                    whole[:, columns] = values
                    place[start : start + len(values)] = whole
                    start += len(values)


def genes_of(path: Path) -> list[str]:
    """The genes of an ``.h5ad`` file, as the columns of its rows are called."""
    with opened(path) as file:
        return _unique([str(each) for each in Stored(file).var_names])[0]


def _put(file: Any, where: str, name: str, shape: tuple[int, ...]) -> Any:
    """Room for an array in a group of a file, instead of what had its name."""
    group = file.require_group(where)
    if not group.attrs.get("encoding-type"):
        group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    if name in group:
        del group[name]
    found = group.create_dataset(name, shape, np.float32)
    found.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return found


@contextmanager
def opened(path: Path, mode: str = "r") -> Iterator[Any]:
    """An .h5ad file; what is wrong with it is said in one sentence.

    Raises:
        DataError: If h5py is not installed, or the file is damaged or of another kind.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"{path}: .h5ad files are read with h5py, which is not installed: pip install "
            f"'deeplvm[h5ad]'."
        ) from None
    try:
        # what writes it holds a lock of its own, and some file systems have none
        with h5py.File(path, mode, locking=False) as file:
            yield file
    except DataError:
        raise
    except _DAMAGED as problem:
        if mode != "r" and not isinstance(problem, OSError):
            raise  # of what is written into it
        raise DataError(
            f"{path}: this is no readable .h5ad file, or it is damaged ({problem})."
        ) from None


class Stored:
    """The parts of an .h5ad file, read when they are asked for.

    The format: https://anndata.readthedocs.io/en/latest/fileformat-prose.html

    Args:
        file: An open file of h5py, or what is like one.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        for name in ("obs", "var"):
            if name not in file or hasattr(file[name], "dtype"):
                raise DataError(
                    f"{_name(file)}: {name} is not there as a table; the file was written by an "
                    f"anndata before 0.7, or by something else: read and write it with a newer."
                )

    @property
    def X(self) -> Any:
        """The matrix, if there is one."""
        return _element(self._file["X"]) if "X" in self._file else None

    @property
    def layers(self) -> Mapping[str, Any]:
        """The other matrices."""
        return _Lazy(self._file["layers"]) if "layers" in self._file else {}

    @property
    def obs(self) -> Mapping[str, Any]:
        """Columns of the cells."""
        return _Lazy(self._file["obs"])

    @property
    def var_names(self) -> Any:
        """Names of the genes."""
        return self._index("var")

    @property
    def obs_names(self) -> Any:
        """Names of the cells."""
        return self._index("obs")

    def _index(self, name: str) -> Any:
        table = self._file[name]
        return _element(table[_text(table.attrs["_index"])])


class _Lazy(Mapping[str, Any]):
    """Elements of a group by name, read when they are asked for."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __getitem__(self, name: str) -> Any:
        return _element(self._group[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._group.keys())

    def __len__(self) -> int:
        return len(self._group)


def _element(item: Any) -> Any:
    """What a dataset or a group of an .h5ad file holds, by its encoding."""
    kind = _text(item.attrs.get("encoding-type", ""))
    if "categories" in item.attrs:
        raise DataError(
            f"{_name(item)}: its categories are as an anndata before 0.8 wrote them: read and "
            f"write the file with a newer."
        )
    if hasattr(item, "dtype"):
        fits(item.dtype.itemsize * math.prod(item.shape), _name(item), DataError)
        return item.asstr()[...] if item.dtype.kind in "OS" else item[...]
    if kind in ("csr_matrix", "csc_matrix"):
        from scipy import sparse

        parts = [item[name] for name in ("data", "indices", "indptr")]
        size = sum([each.dtype.itemsize * math.prod(each.shape) for each in parts])
        fits(2 * size, _name(item), DataError)  # one copy in order
        made = sparse.csr_array if kind == "csr_matrix" else sparse.csc_array
        shape = tuple([int(each) for each in item.attrs["shape"]])
        return made(tuple([each[...] for each in parts]), shape=shape)
    if kind == "categorical":
        categories = _element(item["categories"])
        return np.array([*categories, None], object)[item["codes"][...]]  # −1 is missing
    if kind.startswith("nullable-"):
        return np.where(item["mask"][...], None, item["values"][...].astype(object))
    raise DataError(f"{_name(item)}: what is encoded as {kind or 'nothing known'} is not read.")


def _texts(column: Any) -> Array:
    """Labels as numbers or texts, an empty one where it is missing."""
    values = np.asarray(column)
    if values.dtype.kind in "buif":
        return values
    missing = np.array([each is None or each != each for each in values])  # NaN is not itself
    return np.where(missing, "", values.astype(str))


def _refuse_other_genes(genes: Sequence[str], known: Description, what: str) -> None:
    wanted, there = known.variables["x"].columns, set(genes)
    if absent := [gene for gene in wanted or () if gene not in there]:
        raise DataError(
            f"{what}: the gene {absent[0]!r} of the training data is not there ({len(absent)} "
            f"absent in all); add what is absent, as zeros where it was not counted."
        )


def _codes_among(codes: Array, names: Sequence[str], classes: Sequence[str], what: str) -> Array:
    """Codes of labels as the training data have them."""
    if unknown := [name for name in names if name not in classes]:
        raise DataError(
            f"{what}: {unknown[0]!r} is none of the labels of the training data, which are "
            f"{_listed(list(classes))}."
        )
    known = np.array([*[classes.index(name) for name in names], -1], np.int64)
    return known[codes]  # −1 is missing


def _unique(names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Names of which none is there twice, those that were with -1, -2, ... behind."""
    seen: dict[str, int] = {}
    known, found = set(names), []
    for name in names:
        new, number = name, seen.get(name, 0)
        while number and (new := f"{name}-{number}") in known:
            number += 1
        seen[name] = number + 1
        known.add(new)
        found.append(new)
    changed = sum([old != new for old, new in zip(names, found, strict=True)])
    said = f"{changed} genes have the name of one before them, and got -1, -2, … behind."
    return found, (said,) if changed else ()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _name(item: Any) -> str:
    file = getattr(getattr(item, "file", None), "filename", "an .h5ad file")
    return f"{file}, {str(getattr(item, 'name', '')).lstrip('/') or 'the root'}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
