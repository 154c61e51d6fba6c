"""Files of cells: what h5py shows of an .h5ad file, and the file where h5py is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse


class Dataset:
    """What h5py's is to a reader."""

    def __init__(self, values: Any, **attrs: Any) -> None:
        self._values = np.asarray(values)
        text = self._values.dtype.kind in "U"
        self.dtype = np.dtype(object) if text else self._values.dtype
        self.shape, self.attrs = self._values.shape, attrs

    def asstr(self) -> Any:
        return self._values.astype(object)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, values: Any) -> None:
        self._values[index] = values


class Group(dict[str, Any]):
    """What h5py's is to a reader."""

    def __init__(self, kind: str, values: Mapping[str, Any], **attrs: Any) -> None:
        super().__init__(values)
        self.attrs = {"encoding-type": kind, **attrs}

    def require_group(self, name: str) -> Group:
        return self.setdefault(name, Group("", {}))

    def create_dataset(self, name: str, shape: Any, dtype: Any) -> Dataset:
        self[name] = Dataset(np.zeros(shape, dtype))
        return self[name]


def file_of_cells(counts: Any) -> Group:
    """The groups of an .h5ad file as its format has them."""
    rows = sparse.csc_array(counts)
    parts = {name: Dataset(getattr(rows, name)) for name in ("data", "indices", "indptr")}
    codes = Dataset(np.arange(1, len(counts) + 1, dtype=np.int8) % 2)
    batch = Group("categorical", {"codes": codes, "categories": Dataset(["a", "b"])})
    mask = {
        "values": Dataset(np.ones(len(counts), int)),
        "mask": Dataset(np.arange(len(counts)) == 3),
    }
    names = Dataset([f"c{i}" for i in range(len(counts))])
    obs = {"_index": names, "batch": batch, "stage": Group("nullable-integer", mask)}
    genes = Dataset([f"g{i}" for i in range(counts.shape[1])])
    return Group(
        "anndata",
        {
            "X": Dataset(np.log1p(counts)),
            "layers": Group("dict", {"counts": Group("csc_matrix", parts, shape=counts.shape)}),
            "obs": Group("dataframe", obs, _index="_index"),
            "var": Group("dataframe", {"name": genes}, _index=b"name"),
        },
    )


def write(place: Any, what: Any) -> None:
    """The groups as h5py's own."""
    place.attrs.update(what.attrs)
    for name, each in what.items():
        if isinstance(each, Group):
            write(place.create_group(name), each)
        else:
            values = each._values
            place[name] = values.astype(object) if values.dtype.kind == "U" else values
            place[name].attrs.update(each.attrs)
