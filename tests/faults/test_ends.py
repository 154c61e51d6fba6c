"""A full disk, a folder that is read only, data that change or have a hole: each ends clearly."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplvm.cli import main

WORDS = (
    "--latent", "2", "--hidden", "4", "--device", "cpu", "--no-compile", "--no-evaluate",
    "--checkpoint-every", "1", "--out", "disk/run",
)  # fmt: skip
Ending = tuple[int, str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float64: None) -> Path:
    """A folder with data; users have float32."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    write(0)
    Path("disk").mkdir()
    return tmp_path


@pytest.fixture
def end(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ending]:
    """A command line's exit code and last line, which is one without a traceback."""

    def run(*words: object) -> Ending:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said.rstrip("\n").split("\n")[-1]

    return run


def write(seed: int) -> None:
    np.save("a.npy", np.random.default_rng(seed).normal(size=(60, 3)))


@pytest.fixture
def mounted() -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory at ``disk``, or change how it is mounted."""
    done = []

    def mount(options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", os.path.abspath("disk")]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a file system")
        done.append(words[-1])

    yield mount
    for path in dict.fromkeys(done):
        subprocess.run(["umount", path], check=True)


def no_half() -> bool:
    """Nothing is half-written."""
    return not [*Path("disk").rglob("*.writing"), *Path("disk").rglob(".*")]


def test_a_disk_that_is_full(end: Any, mounted: Any) -> None:
    mounted("size=80k")
    code, line = end("fit", "a.npy", *WORDS, "--epochs", 3)
    assert code == 2
    assert "cannot be written" in line
    assert "Make room" in line
    assert no_half()
    mounted("remount,size=10m")
    assert end("resume", "disk/run", "--no-evaluate", "--device", "cpu")[0] == 0


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 8])
def test_a_disk_that_becomes_full(end: Any, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, flush = [calls], os.fsync

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, line = end("fit", "a.npy", *WORDS, "--epochs", 3)
    assert code == 2
    assert "disk is full" in line or "cannot be written" in line
    assert no_half()
    begun = Path("disk/run/config.toml").exists()
    words = ("resume", "disk/run", "--no-evaluate") if begun else ("fit", "a.npy", *WORDS)
    assert end(*words)[0] == 0


def test_a_folder_that_is_read_only(end: Any, mounted: Any) -> None:
    mounted("size=10m")
    assert end("fit", "a.npy", *WORDS, "--epochs", 1)[0] == 0
    mounted("remount,ro")
    for words in (
        ("fit", "a.npy", *WORDS[:-1], "disk/other"),
        ("resume", "disk/run", "--epochs", 3),
        ("evaluate", "disk/run", "--particles", 2),
        ("sample", "disk/run", "-o", "disk/a.csv"),
    ):
        code, line = end(*words)
        assert code == 2
        assert "disk/" in line
        assert "ead-only" in line
    assert end("sample", "disk/run", "-o", "a.csv")[0] == 0  # reading needs no more


def test_data_that_change_between_two_parts_of_a_run(end: Any) -> None:
    assert end("fit", "a.npy", *WORDS, "--epochs", 1)[0] == 0
    kept = {path: path.read_bytes() for path in Path("disk").rglob("*.safetensors")}
    write(1)
    code, line = end("resume", "disk/run", "--epochs", 3)
    assert code == 2
    assert "no longer what disk/run was fitted to" in line
    assert kept == {path: path.read_bytes() for path in kept}
    write(0)
    assert end("resume", "disk/run", "--epochs", 3, "--no-evaluate")[0] == 0


def test_row_1_000_000(end: Any) -> None:
    """Infinite is refused by its row, before anything is made; NaN is a missing value."""
    values = np.zeros((1_000_001, 2), dtype=np.float32)
    values[:, :] = np.random.default_rng(0).normal(size=values.shape)
    values[999_999, 1] = np.inf
    np.save("long.npy", values)
    code, line = end("fit", "long.npy", *WORDS)
    assert code == 2
    assert "row 1000000" in line
    assert not any(Path("disk").iterdir())
    values[999_999, 1] = np.nan
    np.save("long.npy", values)
    words = ("--epochs", 1, "--batch-size", 200_000)
    assert end("fit", "long.npy", *WORDS, *words)[0] == 0
    assert '"missing": true' in Path("disk/run/data.json").read_text()
