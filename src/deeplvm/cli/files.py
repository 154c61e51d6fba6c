"""Results as files, in the format that the file's ending names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.data.records import Variable

TABLES = (".npz", ".csv", ".parquet")
PICTURES = (".png",)
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
    if path.is_dir():
        raise FileError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent} does not exist; make the folder first.")
    return ending


def save_table(path: Path, arrays: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
    """Write named arrays of as many rows: as they are (.npz), or as columns (.csv, .parquet).

    Args:
        path: Where; written whole or not at all.
        arrays: Name to array of shape ``(rows, *event)``.
        names: Names of the columns of an array; others are its name, numbered if several.
    """
    from deeplvm.run import beside

    with beside(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as file:
                plain: Any = {name: np.asarray(array) for name, array in arrays.items()}
                np.savez_compressed(file, **plain)
            return
        frame = as_frame(arrays, names)
        if path.suffix.lower() == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)


def save_pictures(
    path: Path, images: Tensor, variable: Variable, columns: int | None = None
) -> None:
    """Write images as one grid.

    Args:
        path: Where; written whole or not at all.
        images: Values in the data's own units, shape ``(rows, channels, height, width)``; of other
            than one or three channels the first is shown.
        variable: What they are: the range that black to white stands for.
        columns: Images in a row of the grid; a square if left out.
    """
    from deeplvm.report.figures import grid_png
    from deeplvm.run import write_atomically

    shown = images if images.shape[1] in (1, 3) else images[:, :1]
    values = shown.detach().cpu().double().numpy()
    grid = grid_png(values, columns=columns, variable=variable, side=_SIDE, opaque=True)
    write_atomically(path, grid)


def as_frame(arrays: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> Any:
    """A table with one column an element."""
    import pandas

    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        flat = np.asarray(array).reshape(len(array), -1)
        titles = names.get(name) or (
            [name] if flat.shape[1] == 1 else [f"{name}{i}" for i in range(flat.shape[1])]
        )
        columns.update({title: flat[:, i] for i, title in enumerate(titles)})
    return pandas.DataFrame(columns)


def in_units(value: Tensor, variable: Variable) -> np.ndarray[Any, Any]:
    """Values as the file had them: levels in its own unit, codes of categories as their names."""
    array = value.detach().cpu().numpy()
    if variable.parts:
        columns = [_part(array[:, i], part) for i, part in enumerate(variable.parts)]
        named = any([column.dtype == object for column in columns])
        return np.stack(columns, 1).astype(object) if named else np.stack(columns, 1)
    return _part(array, variable)


def _part(array: np.ndarray[Any, Any], variable: Variable) -> np.ndarray[Any, Any]:
    if variable.categories is not None:
        codes = np.nan_to_num(array, nan=0).round().astype(int)
        names = np.array(variable.categories, dtype=object)
        return names[codes.clip(0, len(names) - 1)]
    return array * variable.step if variable.step != 1 else array
