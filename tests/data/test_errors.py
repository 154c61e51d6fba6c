"""Every bad input ends in one clear line that says what to do next."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deeplvm.data import DataError, load

ROWS = "\n".join(f"{i / 7:.4f},{(i * 37 % 11) / 3:.4f}" for i in range(12))


def text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content_bytes = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(content_bytes)
        return folder / name

    return make


def npy(values: np.ndarray, name: str = "a.npy") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / name, values)
        return folder / name

    return make


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return make


def parquet(frame: pd.DataFrame) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        frame.to_parquet(folder / "a.parquet")
        return folder / "a.parquet"

    return make


def reals(rows: int = 12, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns))


def with_value(value: float, column: int | None = None) -> np.ndarray:
    values = reals()
    if column is None:
        values[4, 1] = value
    else:
        values[:, column] = value
    return values


IDX_HEADER = struct.pack(">BBBB3I", 0, 0, 8, 3, 4, 5, 5)
OBJECTS = np.array([{"a": 1}, None], dtype=object)

CASES = {
    # csv
    "empty file": (text("a.csv", ""), {}, r"the file is empty"),
    "blank file": (text("a.csv", "\n \n"), {}, r"the file is empty"),
    "only a header": (text("a.csv", "a,b\n"), {}, r"header \(a, b\) but no row"),
    "ragged": (text("a.csv", f"a,b\n{ROWS}\n1.5\n"), {}, r"line 14 has 1 cell .* has 2"),
    "ragged longer": (text("a.csv", f"a,b\n1,2,3\n{ROWS}\n"), {}, r"line 2 has 3 cells"),
    "duplicate": (text("a.csv", f"a,a\n{ROWS}\n"), {}, r"two columns are called 'a'"),
    "text in a numeric column": (
        text("a.csv", f"a,b\n{ROWS}\n1.5,abc\n"),
        {},
        r"a\.csv, row 13, column 'b': 'abc' is not a number.*--drop b.*--label b",
    ),
    "free text": (
        text("a.csv", "a,b\n" + "\n".join(f"{i / 7:.4f},name {i}" for i in range(12))),
        {},
        r"column 'b' holds text with 12 different values.*--drop b",
    ),
    "all-NaN column": (
        text("a.csv", "a,b\n" + "\n".join(f"{i / 7:.4f}," for i in range(12))),
        {},
        r"column 'b' has no value in any training row.*--drop b",
    ),
    "constant column": (
        text("a.csv", "a,b\n" + "\n".join(f"{i / 7:.4f},2.5" for i in range(12))),
        {},
        r"column 'b' is always 2.5.*--drop b",
    ),
    "infinite": (
        text("a.csv", f"a,b\n{ROWS}\ninf,1.5\n"),
        {},
        r"a\.csv, row 13, column 'a': the value is infinite",
    ),
    "one row": (text("a.csv", "a,b\n1.5,2.5\n"), {}, r"1 row cannot be split"),
    "two rows": (text("a.csv", "a,b\n1.5,2.5\n3.5,4.5\n"), {}, r"2 rows cannot be split"),
    "not UTF-8": (
        text("a.csv", f"a,b\n{ROWS}\n".encode() + b"\xff\xfe,1"),
        {},
        r"line 14 is not UTF",
    ),
    "binary": (text("a.csv", b"a,b\n\0\0\0,1\n"), {}, r"binary file, not text"),
    "broken gzip": (text("a.csv.gz", b"\x1f\x8b\x08\0garbage"), {}, r"gzip file is damaged"),
    "huge integers": (
        text("a.csv", "a,b\n" + "\n".join(f"{i / 7:.4f},{10**18 + i}" for i in range(12))),
        {},
        r"column 'b' holds whole numbers as large as 1e\+18",
    ),
    "coarse reals": (
        text("a.csv", "a,b\n" + "\n".join(f"{i / 7:.4f},{1e9 + i / 7:.4f}" for i in range(12))),
        {},
        r"column 'b' has mean 1e\+09 but varies.*subtract",
    ),
    "absent label": (text("a.csv", f"aa,b\n{ROWS}\n"), {"label": "a"}, r"did you mean aa\?"),
    "absent drop": (
        text("a.csv", f"aa,b\n{ROWS}\n"),
        {"drop": ("z",)},
        r"no column 'z'; it has aa",
    ),
    "nothing left": (text("a.csv", f"a,b\n{ROWS}\n"), {"drop": ("a", "b")}, r"no column is left"),
    "label without labels": (
        text("a.csv", "a,b\n" + "1,\n2,\n" * 9),
        {"label": "b"},
        r"a\.csv: no row has a label",
    ),
    "label of reals": (
        text("a.csv", f"a,b\n{ROWS}\n"),
        {"label": "a"},
        r"labels must be whole numbers or text",
    ),
    "negative counts": (
        text("a.csv", "a,b\n" + "\n".join(f"{i - 3},{i * 5 % 7}" for i in range(12))),
        {"likelihood": "poisson"},
        r"column 'a': poisson needs whole numbers of at least 0, found whole numbers -3..8",
    ),
    "gaussian on a column of integers": (
        text("a.csv", "a,b\n" + "\n".join(f"{i},{i / 7:.4f}" for i in range(12))),
        {"likelihood": "gaussian"},
        r"column 'a': a Gaussian gives whole numbers 0..11 a density.*--dequantize",
    ),
    "image size of a table": (text("a.csv", f"a,b\n{ROWS}\n"), {"image_size": 8}, r"--image-size"),
    # parquet
    "broken parquet": (text("a.parquet", "nonsense"), {}, r"no readable parquet"),
    "dates": (
        parquet(pd.DataFrame({"a": pd.date_range("2020", periods=12), "b": reals()[:, 0]})),
        {},
        r"column 'a' holds dates",
    ),
    "lists": (
        parquet(pd.DataFrame({"a": [[1, 2]] * 12, "b": reals()[:, 0]})),
        {},
        r"column 'a' holds lists",
    ),
    # arrays
    "objects": (npy(OBJECTS), {}, r"Python objects, which are never opened"),
    "objects in npz": (npz(x=OBJECTS), {}, r"Python objects, which are never opened"),
    "complex": (npy(reals() * 1j), {}, r"complex"),
    "strings": (npy(np.array(["a", "b"])), {}, r"not numbers"),
    "single number": (npy(np.array(1.0)), {}, r"single number"),
    "no rows": (npy(np.zeros((0, 3))), {}, r"no rows"),
    "no columns": (npy(np.zeros((3, 0))), {}, r"no columns"),
    "empty npy": (text("a.npy", ""), {}, r"the file is empty"),
    "broken npy": (text("a.npy", "nonsense"), {}, r"no readable .npy|never opened"),
    "broken npz": (text("a.npz", b"PK\x03\x04nonsense"), {}, r"no readable .npz"),
    "npz of what": (npz(a=reals(), b=reals()[1:]), {}, r"a has \d+, b has \d+ rows"),
    "labels too few": (npz(x=reals(), y=np.arange(5)), {}, r"y has 5 labels for 12 rows"),
    "labels missing": (npz(x=reals(), y=np.full(12, np.nan)), {}, r"no row has a label"),
    "splits of other shapes": (
        npz(x_train=reals(), x_test=reals(columns=4)),
        {},
        r"different shapes",
    ),
    "infinite array": (npy(with_value(np.inf)), {}, r"row 5, element \(1,\).*infinite"),
    "constant array": (npy(with_value(2.5, 1)), {}, r"column 1 is constant.*--drop 1"),
    "silent array": (npy(with_value(np.nan, 1)), {}, r"column 1 has no value.*--drop 1"),
    "label of an array": (npy(reals()), {"label": "a"}, r"--label a does not apply"),
    "drop beyond": (npy(reals()), {"drop": ("7",)}, r"no column 7; the last.*is 2"),
    "drop by name": (npy(reals()), {"drop": ("a",)}, r"--drop a does not apply"),
    "binarize reals": (npy(reals()), {"binarize": "static"}, r"--binarize reads grey values"),
    # IDX
    "not IDX": (text("a-ubyte", "nonsense"), {}, r"no IDX file"),
    "cut IDX": (text("a-ubyte", IDX_HEADER + b"\0" * 7), {}, r"cut short or damaged"),
    "cut IDX header": (text("a-ubyte", IDX_HEADER[:9]), {}, r"within its header"),
    # other
    "unknown ending": (text("a.xyz", "1"), {}, r"not supported; save it as .npy"),
    "one image": (text("a.png", "1"), {}, r"give the folder"),
    "unknown likelihood": (npy(reals()), {"likelihood": "gausian"}, r"did you mean gaussian\?"),
    "unknown binarization": (npy(reals()), {"binarize": "dynamc"}, r"did you mean dynamic\?"),
    "bad split": (npy(reals()), {"split": (0.5, 0.5, 0.5)}, r"sum to 1"),
    "bad limit": (npy(reals()), {"limit": 0}, r"--limit 0"),
    "binarize and dequantize": (
        npy(reals()),
        {"binarize": "static", "dequantize": "uniform"},
        r"choose one",
    ),
    "binarize and gaussian": (
        npy(reals()),
        {"binarize": "static", "likelihood": "gaussian"},
        r"leave out one",
    ),
}


@pytest.mark.parametrize("make, options, match", CASES.values(), ids=list(CASES))
def test_bad_input(
    tmp_path: Path, make: Callable[[Path], Path], options: dict, match: str
) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load(make(tmp_path), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(DataError, match=r"a\.png: the image cannot be read"):
        load(tmp_path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image in this folder"):
        load(tmp_path)


def test_a_missing_file_suggests_close_names(tmp_path: Path) -> None:
    (tmp_path / "measurements.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"did you mean .*measurements\.csv\?"):
        load(tmp_path / "mesurements.csv")
    with pytest.raises(DataError, match=r"did you mean digits"):
        load("digts")
    with pytest.raises(DataError, match=r"deeplvm datasets"):
        load("zzzzzz")


def test_options_that_a_named_set_does_not_take() -> None:
    with pytest.raises(DataError, match="--label y does not apply"):
        load("digits", label="y")
    with pytest.raises(DataError, match="--image-size"):
        load("digits", image_size=8)
    with pytest.raises(DataError, match="no column 'alcool'; did you mean alcohol"):
        load("wine", drop=("alcool",))
