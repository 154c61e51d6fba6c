"""A stream gives the rows of its files, each once an epoch, in an order that can go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from deeplvm.cli.app import main
from deeplvm.data import Data, DataError, Description, load
from deeplvm.data import stream as shuffling
from deeplvm.data.loading import reopen
from deeplvm.data.readers.source import Places
from deeplvm.data.records import SPLITS, Split
from deeplvm.data.split import carved
from deeplvm.data.stream import Shuffle, Stream
from deeplvm.data.transform import noise_of
from deeplvm.recipes import vae
from deeplvm.training import Callback, Machine, Optimization, Saving, TrainingInterrupted, fit


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools of 8 KiB, so that a few thousand rows are many of them."""
    monkeypatch.setattr(shuffling, "POOL", 8192)
    monkeypatch.setattr(shuffling, "PIECE", 512)


def stream(source: Path, **options: object) -> Stream:
    found = load(source, stream=True, **options)  # type: ignore[arg-type]
    assert isinstance(found, Stream)
    return found


def rows_of(data: Stream, split: Split) -> np.ndarray:
    """Row numbers in the files."""
    return data.places[split].rows(np.arange(data.rows(split)))


def shards(folder: Path, values: np.ndarray, *cuts: int) -> Path:
    folder.mkdir(parents=True)
    for number, part in enumerate(np.split(values, cuts)):
        np.save(folder / f"{number:03}.npy", part)
    return folder


def parquets(folder: Path, frame: pd.DataFrame, group: int = 50) -> Path:
    folder.mkdir()
    half = len(frame) // 2
    frame[:half].to_parquet(folder / "a.parquet", row_group_size=group)
    frame[half:].to_parquet(folder / "b.parquet", row_group_size=group)
    return folder


def table(rng: np.random.Generator, rows: int = 400) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "height": rng.normal(170, 10, rows).astype(np.float32),
            "children": rng.poisson(2.0, rows),
            "smoker": rng.integers(0, 2, rows).astype(bool),
            "city": rng.choice(["Oslo", "Rome", "Lima"], rows),
            "grade": rng.choice([3, 7, 12], rows),
            "group": rng.choice(["b", "a"], rows),
        }
    )


def images(folder: Path, rng: np.random.Generator, number: int = 40, mode: str = "L") -> Path:
    for row in range(number):
        path = folder / ("cat" if row % 2 else "dog") / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (6, 5) if mode == "L" else (6, 5, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return folder


class TestSplit:
    """Every row is in one split, and a row is found without a list of rows."""

    @pytest.mark.parametrize("rows", [3, 10, 999, 1000, 1001, 2500, 12345])
    @pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.49, 0.01), (0.1, 0.2, 0.7)])
    def test_every_row_is_in_one(self, rows: int, fractions: tuple[float, ...]) -> None:
        whole = Places([(5, 5 + rows // 2), (1000 + rows, 1000 + rows + rows - rows // 2)])
        parts = list(carved("data", whole, fractions, seed=3).values())
        each = [part.rows(np.arange(len(part))) for part in parts]
        assert all((np.diff(found) > 0).all() for found in each)
        assert (np.sort(np.concatenate(each)) == whole.rows(np.arange(rows))).all()
        assert all(len(part) for part in parts)

    def test_shares_are_those_asked_for(self) -> None:
        parts = carved("data", Places([(0, 100_000)]), (0.7, 0.25, 0.05), seed=0).values()
        assert [len(part) for part in parts] == [70_000, 25_000, 5_000]

    def test_below_counts(self) -> None:
        for part in carved("data", Places([(0, 2500)]), (0.8, 0.1, 0.1), seed=0).values():
            found = part.below(np.arange(2501))
            inside = np.isin(np.arange(2500), part.rows(np.arange(len(part))))
            assert (found == np.concatenate([[0], np.cumsum(inside)])).all()

    def test_the_seed_decides(self) -> None:
        whole = Places([(0, 2500)])
        one, same, other = (
            carved("data", whole, (0.8, 0.1, 0.1), seed)["test"] for seed in (0, 0, 1)
        )
        places = np.arange(250)
        assert (one.rows(places) == same.rows(places)).all()
        assert (one.rows(places) != other.rows(places)).any()

    def test_too_few_rows(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((2, 3)))
        with pytest.raises(DataError, match="2 rows cannot be split"):
            stream(tmp_path / "x.npy")


class TestValues:
    """The rows are those of the files, and the description is that of the same rows in memory."""

    @pytest.mark.parametrize(
        "dtype", [np.float32, np.float64, np.uint8, np.int16, np.float16, ">f4"]
    )
    def test_npy(self, tmp_path: Path, rng: np.random.Generator, dtype: type) -> None:
        x = rng.integers(0, 200, (500, 6)).astype(dtype)
        x += 0 if np.dtype(dtype).kind in "iu" else np.dtype(dtype).type(0.5)
        data = stream(shards(tmp_path / "x", x, 100, 101, 350))
        for split in SPLITS:
            expected = x[rows_of(data, split)].astype(np.float64)
            assert (data.batch(split, slice(None))["x"].numpy() == expected).all()
            some = torch.tensor([5, 2, 2, 0])
            assert (data.batch(split, some)["x"].numpy() == expected[some]).all()
            assert (getattr(data, split)["x"][some].numpy() == expected[some]).all()

    def test_it_is_what_memory_would_hold(self, tmp_path: Path, rng: np.random.Generator) -> None:
        x = rng.random((300, 8, 8)).astype(np.float32).round(2)
        folder = tmp_path / "x"
        data = stream(shards(folder / "train", x[:200], 50).parent)
        for split, part in (("valid", x[200:250]), ("test", x[250:])):
            shards(folder / split, part, 10)
        data, whole = stream(folder), load(folder, stream=False)
        assert type(whole) is Data
        assert data.split == whole.split == "the folders test, train, valid"
        for split in SPLITS:
            assert torch.equal(
                data.batch(split, slice(None))["x"], whole.batch(split, slice(None))["x"]
            )
        ours, theirs = data.variables["x"].to_dict(), whole.variables["x"].to_dict()
        assert np.allclose(ours.pop("mean"), theirs.pop("mean"), rtol=1e-12)
        assert np.allclose(ours.pop("std"), theirs.pop("std"), rtol=1e-12)
        assert ours == theirs
        assert data.notes[:-1] == whole.notes
        assert data.nbytes == whole.nbytes

    def test_splits_that_are_absent_are_carved(
        self, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        x = rng.random((100, 3))
        shards(tmp_path / "x" / "train", x[:80])
        shards(tmp_path / "x" / "test", x[80:])
        data = stream(tmp_path / "x")
        assert [data.rows(split) for split in SPLITS] == [72, 8, 20]
        assert "10% of the training rows each (seed 0) are valid rows" in data.split
        pooled = stream(tmp_path / "x", split=(0.5, 0.25, 0.25))
        assert [pooled.rows(split) for split in SPLITS] == [50, 25, 25]

    @pytest.mark.parametrize("binarize", ["static", "dynamic"])
    def test_binarization(self, tmp_path: Path, rng: np.random.Generator, binarize: str) -> None:
        x = rng.integers(0, 256, (400, 1, 4, 4)).astype(np.uint8)
        data = stream(shards(tmp_path / "x", x, 150), binarize=binarize)
        assert data.variables["x"].kind == "binary"
        assert data.variables["x"].grey == 255
        once, again = (data.batch("test", slice(None))["x"] for _ in range(2))
        assert torch.equal(once, again)
        assert torch.equal(once[3:5], data.batch("test", [3, 4])["x"])
        assert set(once.unique().tolist()) == {0.0, 1.0}
        first = data.batch("train", slice(None), torch.Generator().manual_seed(0))["x"]
        second = data.batch("train", slice(None), torch.Generator().manual_seed(1))["x"]
        assert torch.equal(first, second) == (binarize == "static")
        # 6,400 draws: six standard errors, a chance of 2e-9
        fixed = torch.cat([data.batch(split, slice(None))["x"] for split in SPLITS])
        assert abs(float(fixed.mean()) - x.mean() / 255) < 6 * 0.5 / 80
        assert np.allclose(data.variables["x"].mean, data.train["x"][:].double().mean(0))

    def test_dequantization(self, tmp_path: Path, rng: np.random.Generator) -> None:
        x = rng.integers(-30, 30, (400, 3))
        data = stream(shards(tmp_path / "x", x), dequantize="uniform")
        values = data.batch("valid", slice(None))["x"].numpy()
        assert (np.floor(values) == x[rows_of(data, "valid")]).all()
        assert data.variables["x"].dequantized
        drawn = data.batch("train", slice(None), torch.Generator().manual_seed(0))["x"].numpy()
        assert (np.floor(drawn) == x[rows_of(data, "train")]).all()
        assert (drawn != data.batch("train", slice(None))["x"].numpy()).all()

    def test_noise_is_uniform_and_of_the_row(self) -> None:
        noise = noise_of(1, np.arange(2000), 5)
        assert float(noise.min()) >= 0
        assert float(noise.max()) < 1
        assert abs(float(noise.mean()) - 0.5) < 6 * 0.29 / 100  # six standard errors
        correlations = np.corrcoef(noise.numpy().T) - np.eye(5)
        assert np.abs(correlations).max() < 6 / np.sqrt(2000)
        assert (noise != noise_of(2, np.arange(2000), 5)).any()

    def test_limit_and_drop(self, tmp_path: Path, rng: np.random.Generator) -> None:
        x = rng.normal(size=(1500, 4))
        data = stream(shards(tmp_path / "x", x), limit=50, drop=["1"])
        assert [data.rows(split) for split in SPLITS] == [50, 50, 50]
        expected = x[rows_of(data, "train")][:, [0, 2, 3]].astype(np.float32)
        assert (data.batch("train", slice(None))["x"].numpy() == expected).all()

    def test_parquet(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = table(rng)
        folder = parquets(tmp_path / "people", frame)
        options = {"label": "group", "categories": ["grade"]}
        data, whole = stream(folder, **options), load(folder, stream=False, **options)
        assert data.classes == whole.classes == ("a", "b")
        ours, theirs = data.variables["x"], whole.variables["x"]
        kinds = [(part.name, part.kind, part.likelihood, part.categories) for part in ours.parts]
        assert kinds == [(p.name, p.kind, p.likelihood, p.categories) for p in theirs.parts]
        assert ours.parts[3].categories == ("Lima", "Oslo", "Rome")
        assert ours.parts[4].categories == ("3", "7", "12")
        every = load(folder, stream=False, **options, like=whole.description).batch(
            "test", slice(None)
        )
        for split in SPLITS:
            batch, rows = data.batch(split, slice(None)), rows_of(data, split)
            assert torch.equal(batch["x"], every["x"][torch.from_numpy(rows)])
            assert torch.equal(batch["y"], every["y"][torch.from_numpy(rows)])

    def test_parquet_with_holes(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = table(rng)
        frame.loc[7, "height"] = np.nan
        frame.loc[9, "city"] = None
        data = stream(parquets(tmp_path / "people", frame))
        assert data.missing == {"x"}
        assert sum(data.missing_values(split) for split in SPLITS) == 2
        assert any("a.parquet, row 8, column 'height'" in note for note in data.notes)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_images(self, tmp_path: Path, rng: np.random.Generator, mode: str) -> None:
        folder = images(tmp_path / "pets", rng, mode=mode)
        data, whole = stream(folder), load(folder, stream=False)
        assert data.classes == whole.classes == ("cat", "dog")
        assert data.variables["x"].shape == whole.variables["x"].shape
        every = load(folder, stream=False, like=whole.description).batch("test", slice(None))
        for split in SPLITS:
            batch, rows = data.batch(split, slice(None)), torch.from_numpy(rows_of(data, split))
            assert torch.equal(batch["x"], every["x"][rows])
            assert torch.equal(batch["y"], every["y"][rows])
        assert (np.diff(data.plan.cuts) == 1).all()  # a full permutation

    def test_grey_images_in_colour(self, tmp_path: Path, rng: np.random.Generator) -> None:
        for row in range(10):
            grey = rng.integers(0, 256, (4, 4, 1), dtype=np.uint8).repeat(3, 2)
            Image.fromarray(grey).save(tmp_path / f"{row}.png")
        assert stream(tmp_path).variables["x"].shape == (1, 4, 4)

    def test_like(self, tmp_path: Path, rng: np.random.Generator) -> None:
        x = rng.poisson(3.0, (300, 5))
        data = stream(shards(tmp_path / "x", x[:200]))
        other = stream(shards(tmp_path / "new", x[200:], 40), like=data.description)
        assert (other.rows("train"), other.rows("test")) == (0, 100)
        assert (other.batch("test", slice(None))["x"].numpy() == x[200:]).all()
        wrong = shards(tmp_path / "wrong", x[200:] - 10)
        with pytest.raises(DataError, match="the model was fitted to whole numbers of at least 0"):
            stream(wrong, like=data.description)


class TestOrder:
    """Every row once an epoch, in an order that only the arguments decide."""

    @pytest.fixture
    def data(self, tmp_path: Path, rng: np.random.Generator, small: None) -> Stream:
        return stream(shards(tmp_path / "x", rng.normal(size=(3000, 4)).astype(np.float32), 1234))

    def test_every_row_once(self, data: Stream) -> None:
        assert len(data.plan.pools(1, 0)) > 3
        batches = list(data.order(1, 0, 64))
        assert [len(index) for index in batches] == [64] * 37 + [32]
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(2400))

    def test_it_goes_on_from_any_batch(self, data: Stream) -> None:
        whole = list(data.order(2, 7, 50))
        for first in range(len(whole) + 1):
            rest = list(data.order(2, 7, 50, first))
            assert len(rest) == len(whole) - first
            assert all(map(torch.equal, rest, whole[first:]))

    def test_epochs_and_seeds_differ(self, data: Stream) -> None:
        orders = [torch.cat(list(data.order(e, s, 64))) for e, s in [(1, 0), (2, 0), (1, 1)]]
        assert not torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])
        assert torch.equal(orders[0], torch.cat(list(data.order(1, 0, 64))))

    @pytest.mark.parametrize("batch_size", [1, 64, 1000, 5000])
    def test_batches_are_the_rows(self, data: Stream, batch_size: int) -> None:
        direct = data.train["x"][:]
        for index in list(data.order(1, 0, 64))[:3]:  # nothing at hand: read from the files
            assert torch.equal(data.batch("train", index)["x"], direct[index].double())
        for count, index in enumerate(data.order(1, 0, batch_size)):
            if count % 7 == 0 or batch_size > 64:
                assert torch.equal(data.batch("train", index)["x"], direct[index].double())

    def test_batches_and_their_parts_are_at_hand(
        self, data: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process of several asks for its part of each batch; no file is read for it."""
        direct = data.train["x"][:].double()

        def refuse(*_: object) -> None:
            raise AssertionError("a file was read")

        monkeypatch.setattr("deeplvm.data.stream.read", refuse)
        for index in data.order(1, 0, 100):
            for part in (index, index[:50], index[50:], index[:1]):
                assert torch.equal(data.batch("train", part)["x"], direct[part])

    def test_a_batch_is_a_copy(self, data: Stream) -> None:
        index = next(data.order(1, 0, 100))
        data.batch("train", index)["x"].zero_()
        assert data.batch("train", index)["x"].abs().sum() > 0

    def test_pools_mix_pieces(self) -> None:
        """A batch has about B/256 rows of the piece of a given row, not B."""
        plan = Shuffle.of(1_000_000, 784, None)
        pools = plan.pools(1, 0)
        visits = pools.visits(0)[:100_00].reshape(-1, 100)
        pieces = np.searchsorted(plan.cuts, visits, "right")
        same = (pieces[:, :, None] == pieces[:, None, :]).sum((1, 2)) - 100
        assert abs(same.mean() / 100 - 99 / 256) < 0.05
        assert len(pools) == pytest.approx(1_000_000 * 784 / shuffling.POOL, abs=1)

    def test_small_data_are_one_permutation(self) -> None:
        assert len(Shuffle.of(1000, 4, None).pools(1, 0)) == 1

    def test_row_groups_are_pieces(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = pd.DataFrame(rng.normal(size=(1000, 3)), columns=list("abc"))
        data = stream(parquets(tmp_path / "t", frame, group=100))
        assert len(data.plan.cuts) == 11
        batches = list(data.order(1, 0, 30))
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(800))

    def test_large_row_groups_are_warned_of(
        self, tmp_path: Path, rng: np.random.Generator, small: None
    ) -> None:
        frame = pd.DataFrame(rng.normal(size=(4000, 3)), columns=list("abc"))
        data = stream(parquets(tmp_path / "t", frame, group=250))
        assert any("so only 4 of them are mixed at a time" in note for note in data.notes)


class TestReadingAhead:
    """One thread reads ahead; it ends with the iteration, and its errors are raised."""

    @pytest.fixture
    def folder(self, tmp_path: Path, rng: np.random.Generator, small: None) -> Path:
        return shards(tmp_path / "x", rng.normal(size=(3000, 4)).astype(np.float32), 1500)

    def threads(self) -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("deeplvm-stream")]

    def test_it_ends(self, folder: Path) -> None:
        data = stream(folder)
        batches: Iterator[torch.Tensor] = data.order(1, 0, 10)
        next(batches)
        assert self.threads()
        for _ in batches:
            pass
        assert not self.threads()
        batches = data.order(1, 0, 10)
        next(batches)
        del batches  # an iteration that is left ends it too
        assert not self.threads()

    def changes(self, folder: Path, change: str) -> None:
        path = folder / "001.npy"
        if change == "removed":
            path.unlink()
        elif change == "cut short":
            os.truncate(path, path.stat().st_size - 100)
        else:
            state = path.stat()
            with path.open("r+b") as file:
                file.seek(500)
                file.write(b"\x01\x02\x03\x04")
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))

    @pytest.mark.parametrize(
        "change, match",
        [
            ("removed", "001.npy: the file was there when the data were first read, and is gone"),
            ("cut short", "001.npy: the file has changed since it was first read"),
            ("written to", "001.npy: the file has changed since it was first read"),
        ],
    )
    def test_a_file_changes(self, folder: Path, change: str, match: str) -> None:
        data = stream(folder)
        batches = data.order(1, 0, 10)
        next(batches)
        self.changes(folder, change)
        with pytest.raises(DataError, match=match):
            for _ in batches:
                pass
        assert not self.threads()
        with pytest.raises(DataError, match=match):
            data.batch("test", slice(None))

    def test_an_image_changes(self, tmp_path: Path, rng: np.random.Generator) -> None:
        data = stream(images(tmp_path / "pets", rng))
        everything = load(tmp_path / "pets", stream=True, like=data.description)
        (tmp_path / "pets" / "cat" / "001.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"001\.png: the file has changed"):
            everything.batch("test", slice(None))

    def test_a_table_changes(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = table(rng)
        data = stream(parquets(tmp_path / "people", frame))
        frame[:10].to_parquet(tmp_path / "people" / "b.parquet")
        with pytest.raises(DataError, match=r"b\.parquet: the file has changed"):
            list(data.order(1, 0, 10))


class TestErrors:
    """One line that names the file, the row and what to do."""

    @pytest.mark.parametrize("value, kept", [(np.inf, False), (-np.inf, False), (np.nan, True)])
    def test_an_unusual_value(
        self, tmp_path: Path, rng: np.random.Generator, value: float, kept: bool
    ) -> None:
        x = rng.normal(size=(1_000_500, 2)).astype(np.float32)
        x[999_999, 1] = value
        folder = shards(tmp_path / "x", x, 300_000)
        where = r"001\.npy, row 700000, element \(1,\)"
        if kept:
            data = stream(folder)
            assert data.missing == {"x"}
            assert sum(data.missing_values(split) for split in SPLITS) == 1
            assert any("row 700000, element (1,)" in note for note in data.notes)
            return
        with pytest.raises(DataError, match=where + ": the value is infinite; correct it"):
            stream(folder)

    def test_an_infinite_cell(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = table(rng)
        frame.loc[250, "height"] = np.inf
        with pytest.raises(DataError, match=r"b\.parquet, row 51, column 'height': the value is"):
            stream(parquets(tmp_path / "people", frame))

    def test_a_row_without_a_label(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = table(rng)
        frame.loc[203, "group"] = None
        folder = parquets(tmp_path / "people", frame)
        data, held = stream(folder, label="group"), load(folder, label="group", stream=False)
        for each in (data, held, reopen(data.description)):
            assert each is not None
            assert each.missing == {"y"}
            assert sum(each.description.unlabelled.values()) == 1
            assert sum(int(each.batch(s, slice(None))["y"].isnan().sum()) for s in SPLITS) == 1
            assert {getattr(each, split)["y"].dtype for split in SPLITS} == {torch.float32}

    def test_what_cannot_be_streamed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(DataError, match=r"only \.npy and \.parquet files.* can be streamed"):
            load(path, stream=True)
        with pytest.raises(DataError, match="a named data set is not streamed"):
            load("digits", stream=True)
        (tmp_path / "nothing").mkdir()
        with pytest.raises(DataError, match="no image in this folder, nor an"):
            stream(tmp_path / "nothing")
        with pytest.raises(DataError, match="no such file"):
            load(tmp_path / "absent.npy", stream=True)

    @pytest.mark.parametrize(
        "write, match",
        [
            (lambda p: np.save(p / "b.npy", np.ones((5, 3))), "all files of a folder need one"),
            (lambda p: np.save(p / "b.npy", np.ones((5, 2), "f4")), "all files of a folder need"),
            (lambda p: (p / "b.npy").write_bytes(b"no array"), "b.npy: this is no readable .npy"),
            (lambda p: (p / "b.npy").write_bytes(b""), "b.npy: the file is empty"),
            (
                lambda p: np.save(p / "b.npy", np.ones((5, 2)).T.copy().T),
                "stored column by column",
            ),
            (lambda p: pd.DataFrame({"a": [1]}).to_parquet(p / "b.parquet"), "several kinds"),
        ],
    )
    def test_files_that_do_not_go_together(self, tmp_path: Path, write, match: str) -> None:
        np.save(tmp_path / "a.npy", np.ones((5, 2)))
        write(tmp_path)
        for streamed in (True, False):
            with pytest.raises(DataError, match=match):
                load(tmp_path, stream=streamed)

    @pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
    def test_damaged_files(self, tmp_path: Path, rng: np.random.Generator, name: str) -> None:
        """Sixty files with a few bytes changed or cut off: read, or refused in one line."""
        path = tmp_path / name
        if name == "x.npy":
            np.save(path, rng.normal(size=(60, 3)))
        else:
            table(rng, 60).to_parquet(path, row_group_size=20)
        good, refused = path.read_bytes(), 0
        for number in range(60):
            damaged = bytearray(good)
            for place in rng.integers(0, min(len(good), 400 * (1 + number % 2)), 3):
                damaged[place] = int(rng.integers(0, 256))
            path.write_bytes(
                damaged[: int(rng.integers(len(good)))] if number % 5 == 0 else damaged
            )
            try:
                data = stream(path)
                list(data.order(1, 0, 10))
            except DataError:
                refused += 1
        assert refused > 10

    def test_it_stays_on_the_cpu(self, tmp_path: Path, rng: np.random.Generator) -> None:
        data = stream(shards(tmp_path / "x", rng.random((30, 2))))
        assert data.to("cpu") is data
        with pytest.raises(DataError, match="read on the CPU, not on meta"):
            data.to("meta")


class TestAuto:
    """What would take more than a third of the memory is streamed."""

    @pytest.mark.parametrize("kind", ["npy", "parquet", "images"])
    def test_size_decides(
        self, tmp_path: Path, rng: np.random.Generator, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "data"
        if kind == "npy":
            shards(folder, rng.random((100, 9)), 40)
        elif kind == "parquet":
            parquets(folder, table(rng))
        else:
            images(folder, rng)
        assert not isinstance(load(folder), Stream)
        monkeypatch.setattr("deeplvm.data.sources.memory", lambda: 3000.0)
        assert isinstance(load(folder), Stream)
        assert load(folder).options["stream"] is True
        assert not isinstance(load(folder, stream=False), Stream)


class TestReopen:
    """What is known of files that are as they were is not looked at again."""

    CASES: ClassVar = {
        "npy": ({}, lambda path, rng: shards(path, rng.normal(size=(300, 5)), 100)),
        "drop": ({"drop": ["2"]}, lambda path, rng: shards(path, rng.normal(size=(300, 5)))),
        "binarized": (
            {"binarize": "dynamic"},
            lambda path, rng: shards(path, rng.integers(0, 256, (300, 4, 4)).astype(np.uint8)),
        ),
        "rounded": ({}, lambda path, rng: shards(path, rng.integers(0, 256, (300, 5)) / 255)),
        "noise": (
            {"dequantize": "uniform"},
            lambda path, rng: shards(path, rng.integers(-9, 9, (300, 5))),
        ),
        "parquet": (
            {"label": "group", "categories": ["grade"]},
            lambda path, rng: parquets(path, table(rng)),
        ),
        "images": ({}, lambda path, rng: images(path, rng, mode="RGB")),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_it_is_the_same(self, tmp_path: Path, rng: np.random.Generator, case: str) -> None:
        options, make = self.CASES[case]
        data = stream(make(tmp_path / "x", rng), **options)
        again = reopen(Description.from_dict(json.loads(json.dumps(data.to_dict()))))
        assert again is not None
        assert again.to_dict() == data.to_dict()
        assert again.renewals.keys() == data.renewals.keys()
        for split in SPLITS:
            ours, theirs = (each.batch(split, slice(None)) for each in (again, data))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        ours, theirs = (
            each.batch("train", slice(9), torch.Generator().manual_seed(0))["x"]
            for each in (again, data)
        )
        assert torch.equal(ours, theirs)
        assert all(map(torch.equal, again.order(1, 0, 32), data.order(1, 0, 32)))

    def test_other_files_are_looked_at(self, tmp_path: Path, rng: np.random.Generator) -> None:
        data = stream(shards(tmp_path / "x", rng.normal(size=(300, 5)), 100))
        np.save(tmp_path / "x" / "new.npy", rng.normal(size=(3, 5)))
        assert reopen(data.description) is None


class TestFit:
    """Training on a stream is training."""

    def test_it_learns(self, tmp_path: Path, rng: np.random.Generator, small: None) -> None:
        x = rng.normal(size=(2000, 1)) @ np.ones((1, 4)) + 0.1 * rng.normal(size=(2000, 4))
        data = stream(shards(tmp_path / "x", x.astype(np.float32), 250))
        model = vae(data, latent=1, hidden=(16,))
        history = fit(
            model, data, epochs=5, optimization=Optimization(learning_rate=1e-2), quiet=True
        )
        assert history.values()[-1] > history.values()[0]

    def test_it_goes_on_in_mid_epoch(
        self, tmp_path: Path, rng: np.random.Generator, small: None
    ) -> None:
        """Stopped after 20 batches of the second epoch, in the middle of a pool."""

        class Stop(Callback):
            def step_ended(self, step: int, objective: object) -> None:
                if step == 52:
                    signal.raise_signal(signal.SIGTERM)

        x = rng.normal(size=(2000, 4)).astype(np.float32)
        data = stream(shards(tmp_path / "x", x, 250))
        options = {"epochs": 2, "batch_size": 50, "quiet": True, "machine": Machine("cpu")}
        models = []
        for parts in (False, True):
            torch.manual_seed(0)
            models.append(vae(data, latent=1, hidden=(8,)))
            if parts:
                with pytest.raises(TrainingInterrupted):
                    fit(
                        models[1],
                        data,
                        saving=Saving(folder=tmp_path / "run"),
                        callbacks=[Stop()],
                        **options,
                    )
                torch.manual_seed(1)
                models[1] = vae(data, latent=1, hidden=(8,))
                fit(
                    models[1], data, saving=Saving(folder=tmp_path / "run", resume=True), **options
                )
            else:
                fit(models[0], data, **options)
        ours, theirs = (model.state_dict() for model in models)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_a_run_goes_on_bit_for_bit(self, tmp_path: Path, rng: np.random.Generator) -> None:
        x = rng.integers(0, 256, (300, 1, 4, 4)).astype(np.uint8)
        folder = shards(tmp_path / "x", x, 100)
        words = [str(folder), "--stream", "--hidden", "8", "--latent", "2", "--no-evaluate"]
        words += ["--binarize", "dynamic", "--device", "cpu", "--batch-size", "32"]
        assert main(["fit", *words, "--epochs", "3", "--out", str(tmp_path / "whole")]) == 0
        assert main(["fit", *words, "--epochs", "1", "--out", str(tmp_path / "parts")]) == 0
        assert main(["resume", str(tmp_path / "parts"), "--epochs", "3", "--no-evaluate"]) == 0
        files = [tmp_path / name / "model.safetensors" for name in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
        for verb in ("evaluate", "embed", "score"):
            out = [] if verb == "evaluate" else ["-o", str(tmp_path / f"{verb}.npz")]
            assert main([verb, str(tmp_path / "whole"), *out]) == 0
        assert (
            main(["score", str(tmp_path / "whole"), str(folder), "-o", str(tmp_path / "s.csv")])
            == 0
        )
        assert len(pd.read_csv(tmp_path / "s.csv")) == 300

    def test_holes_are_filled(self, tmp_path: Path, rng: np.random.Generator) -> None:
        frame = table(rng).drop(columns=["grade"])
        frame.loc[7, "height"] = np.nan
        folder, run = parquets(tmp_path / "people", frame), str(tmp_path / "run")
        words = ["--stream", "--hidden", "8", "--epochs", "1", "--no-evaluate", "--out", run]
        assert main(["fit", str(folder), *words]) == 0
        filled = tmp_path / "filled.csv"
        assert main(["impute", run, str(folder), "-o", str(filled)]) == 0
        assert not pd.read_csv(filled).isna().any().any()

    def test_memory_stays(self, tmp_path: Path) -> None:
        """A process that reads 96 MiB with pools of 2 MiB grows by less than a third of it."""
        folder = tmp_path / "x"
        folder.mkdir()
        for number in range(6):
            np.save(folder / f"{number}.npy", np.full((4096, 1024), number / 7, np.float32))
        program = textwrap.dedent("""
            import resource, sys
            from deeplvm.data import load, stream as shuffling
            shuffling.POOL, shuffling.PIECE = 2 << 20, 1 << 15
            options = {"stream": True, "likelihood": "laplace"}
            load(sys.argv[1], limit=100, **options)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            data = load(sys.argv[1], **options)
            for index in data.order(1, 0, 100):
                data.batch("train", index)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """)
        words = [sys.executable, "-c", program, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 32 * 1024
