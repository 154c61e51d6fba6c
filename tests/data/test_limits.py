"""What is read is bounded by the memory beforehand, and what is left out is said."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplvm import files
from deeplvm.cli.console import waiting
from deeplvm.data import DataError, load
from deeplvm.files import ROW, WORKING, _group_limits

MIB = 2.0**20


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 MiB."""
    monkeypatch.setattr(files, "memory", lambda: 64 * MIB)
    monkeypatch.setattr("deeplvm.data.sources.memory", lambda: 64 * MIB)


def test_a_csv_that_unpacks_to_much(tmp_path: Path, little: None) -> None:
    """3 KB hold 1.5 million cells, 3 MB of text: each cell takes more when it is a number."""
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"1\n" * 1_500_000))
    with pytest.raises(DataError, match=r"bomb\.csv\.gz, 1,500,000 cells: .* memory here; save"):
        load(tmp_path / "bomb.csv.gz")


def test_an_npz_that_unpacks_to_much(tmp_path: Path, little: None) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((int(40 * MIB // 8), 1)))
    with pytest.raises(DataError, match=r"bomb\.npz, unpacked and loaded: .* save its x as \.npy"):
        load(tmp_path / "bomb.npz")


def test_a_parquet_that_unpacks_to_much(tmp_path: Path, little: None) -> None:
    """A row group is decoded whole, also where rows are read from disk."""
    pd.DataFrame({"a": np.zeros(int(40 * MIB // 8))}).to_parquet(
        tmp_path / "bomb.parquet", row_group_size=10**9
    )
    with pytest.raises(DataError, match=r"bomb\.parquet, a row group of .* smaller row groups"):
        load(tmp_path / "bomb.parquet")
    pd.DataFrame({"a": np.zeros(int(40 * MIB // 8))}).to_parquet(
        tmp_path / "bomb.parquet", row_group_size=10**5
    )
    with pytest.raises(DataError, match=r"bomb, unpacked and loaded: .*--stream"):
        load(tmp_path / "bomb.parquet", stream=False)


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_the_limit_of_addresses_is_seen() -> None:
    program = (
        "ulimit -v 4000000; exec \"$0\" -c 'from deeplvm.files import memory; print(memory())'"
    )
    done = subprocess.run(
        ["bash", "-c", program, sys.executable], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 4000000 * 1024


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_of_nested_groups(tmp_path: Path, version: int) -> None:
    """A group within another has at most what the outer one has; either version is asked."""
    root = tmp_path / "cgroup"
    top = root / "memory" if version == 1 else root
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    inner = top / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / name).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    (top / "outer" / name).write_text("5000000\n")
    (top / name).write_text("7000000\n")
    (tmp_path / "self").write_text(
        "9:cpu,cpuacct:/other\n4:memory:/outer/inner\n" if version == 1 else "0::/outer/inner\n"
    )
    assert min(_group_limits(tmp_path / "self", root)) == 5_000_000


def test_no_groups(tmp_path: Path) -> None:
    assert list(_group_limits(tmp_path / "absent", tmp_path)) == []


def test_the_smallest_limit_decides_what_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1000, 8)))
    size = 1000 * (WORKING * 64 + ROW)
    for room, streamed in ((size - 1, True), (size + 1, False)):
        monkeypatch.setattr("deeplvm.data.sources.memory", lambda room=room: float(room))
        assert load(tmp_path / "x.npy").options["stream"] is streamed


@pytest.mark.parametrize("stream", [False, True])
def test_links_that_lead_nowhere_are_said(tmp_path: Path, *, stream: bool) -> None:
    rng = np.random.default_rng(0)
    for row in range(12):
        Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / f"{row}.png")
    for row in range(12, 16):
        (tmp_path / f"{row}.png").symlink_to(tmp_path / "gone" / f"{row}.png")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-more"
    elsewhere.mkdir()
    (tmp_path / "more").symlink_to(elsewhere)
    notes = load(tmp_path, stream=stream).notes
    assert any("4 left out: links to what is not there" in note for note in notes)
    assert any("1 left out: links to folders" in note for note in notes)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "folder", "digits"])
def test_most_variable_needs_columns_with_names(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).poisson(3.0, (40, 6))
    source: Path | str = tmp_path / name
    if name == "folder":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", values)
    elif name != "digits":
        (np.save if name.endswith("npy") else np.savez)(tmp_path / name, values)
    else:
        source = name
    with pytest.raises(DataError, match=r"--most-variable 2 does not apply: only columns of a"):
        load(source, most_variable=2)


def test_a_wait_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    """A second passes in silence; what takes longer is named."""
    with waiting("reading quick"):
        pass
    assert capsys.readouterr().err == ""
    with waiting("reading slow"):
        time.sleep(1.3)
    assert capsys.readouterr().err == "reading slow\n"


@pytest.mark.parametrize("options", [{"image_size": 4}, {"label": "a"}, {"categories": ("a",)}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_folder_of_arrays_refuses_what_is_for_others(
    tmp_path: Path, options: dict, *, stream: bool
) -> None:
    """Streamed or not, a flag acts or is refused."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(40, 6)))
    with pytest.raises(DataError, match=r"--image-size is for|does not apply"):
        load(tmp_path, stream=stream, **options)


def test_identifiers_of_which_some_read_like_numbers_are_text() -> None:
    names = [f"{place}cafe-0003" for place in range(300)]
    names[::90] = ["1234567e-0003", "7654321e-0003", "1111111e-0003", "2222222e-0003"]
    data = load({"key": names, "a": list(range(150)) * 2, "b": [0.5, 1.0, 2.0] * 100})
    assert "300 different values" in data.description.left["key"]


@pytest.mark.parametrize("stream", [False, True])
def test_words_among_numbers_are_refused_by_row(tmp_path: Path, *, stream: bool) -> None:
    """A column of text that is numbers but for one word is no category."""
    cells = [f"{row / 7:.3f}" for row in range(40)]
    cells[12] = "abc"
    frame = pd.DataFrame({"a": np.arange(40) / 7, "b": cells})
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=10)
    with pytest.raises(DataError, match=r"row 13, column 'b': 'abc' is not a number.*--drop b"):
        load(tmp_path / "a.parquet", stream=stream)


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz"])
def test_what_is_beyond_single_precision_is_refused_by_row(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[7, 0] = 1e39
    if name.endswith("csv"):
        pd.DataFrame(values, columns=["a", "b"]).to_csv(tmp_path / name, index=False)
    else:
        (np.save if name.endswith("npy") else np.savez)(tmp_path / name, values)
    with pytest.raises(DataError, match=r"row 8, .*1e\+39, beyond single precision; correct it"):
        load(tmp_path / name)


def test_a_wide_table_is_read_column_by_column() -> None:
    """The work grows with the columns: four times as many take less than eight times as long.

    A quadratic search takes sixteen times as long; the least of three runs is taken of each.
    """

    def seconds(columns: int) -> float:
        names = [f"a_gene_{number}" for number in range(columns)]
        values = np.random.default_rng(0).normal(size=(6, columns))
        frame = pd.DataFrame(values, columns=names)
        start = time.process_time()
        load(frame)
        return time.process_time() - start

    least = min([seconds(2_000) for _ in range(3)])
    assert any(seconds(8_000) < 8 * least for _ in range(3))
