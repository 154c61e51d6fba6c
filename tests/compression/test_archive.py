"""The file: it comes back as it was, is as small as the bound, and nothing else decodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplvm.compression import CompressionError, compress, decompress
from deeplvm.compression.container import Container
from deeplvm.objectives import elbo
from deeplvm.runs.run import Run

SIZES = {"latent": 3, "hidden": (16,)}


def test_a_file_comes_back_and_is_as_small_as_the_bound_says(
    make: Callable[..., Run], bits: Path, tmp_path: Path
) -> None:
    run, archive, back = make(bits, **SIZES), tmp_path / "x.dlvm", tmp_path / "back.npy"
    made = compress(run, str(bits), archive)
    assert made.bytes == archive.stat().st_size
    assert made.bytes <= 1.005 * made.bound + 1000
    # the message alone: one draw of the latents a row, of which another draw stands in the bound
    assert math.isclose(made.message, made.bound, rel_tol=0.1)
    found = decompress(run, archive, back, like=str(bits))
    assert found.same
    assert (found.bytes, found.message) == (made.bytes, made.message)
    assert np.load(back).tobytes() == np.load(bits).tobytes()
    assert np.load(back).dtype == np.uint8
    assert set(found.others) >= {"xz", "bz2"}


def test_another_model_or_ending_is_refused(
    make: Callable[..., Run], bits: Path, tmp_path: Path
) -> None:
    run, archive = make(bits, **SIZES), tmp_path / "x.dlvm"
    compress(run, str(bits), archive)
    with pytest.raises(CompressionError, match=r"made with another model \(recipe vae\)"):
        decompress(make(bits, latent=3, hidden=(17,)), archive)
    with pytest.raises(CompressionError, match=r"holds a \.npy file"):
        decompress(run, archive, tmp_path / "back.csv")
    other = tmp_path / "other.npy"
    np.save(other, 1 - np.load(bits))
    assert decompress(run, archive, like=str(other)).same is False


def test_no_changed_file_is_read(make: Callable[..., Run], bits: Path, tmp_path: Path) -> None:
    archive, changed = tmp_path / "x.dlvm", tmp_path / "changed.dlvm"
    compress(make(bits, **SIZES), str(bits), archive)
    content, draws = archive.read_bytes(), np.random.default_rng(0)
    for way in range(1000):
        own = bytearray(content)
        place = int(draws.integers(len(own)))
        if way % 4 == 0:
            own = own[:place]
        elif way % 4 == 1:
            own[place:place] = bytes([int(draws.integers(256))])
        else:
            own[place] ^= 1 << int(draws.integers(8))
        changed.write_bytes(bytes(own))
        with pytest.raises(CompressionError, match=r"changed\.dlvm"):
            Container.read(changed)


def test_the_bound_of_reals_with_holes_is_that_of_their_cells(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    """A cell holds its width times the density at its middle, where that is nearly even."""
    draws = np.random.default_rng(0)
    x = np.round(draws.normal(size=(80, 4)) * [1, 2, 3, 4] + 5, 2)
    x[draws.random(x.shape) < 0.2] = np.nan
    np.save(tmp_path / "x.npy", x)
    run, archive = make(tmp_path / "x.npy", latent=2, hidden=(8,)), tmp_path / "x.dlvm"
    made = compress(run, str(tmp_path / "x.npy"), archive)
    found = decompress(run, archive, like=str(tmp_path / "x.npy"))
    assert found.same
    assert found.bound == pytest.approx(made.bound)
    evidence = run.model.evidence({"x": torch.from_numpy(x).float()}, particles=50, missing=["x"])
    nats = -float(elbo(evidence).detach().sum()) - (~np.isnan(x)).sum() * np.log(0.01)
    assert made.bound == pytest.approx(nats / np.log(2) / 8, rel=0.05)
    assert made.message < 1.05 * made.bound + 60
    assert "the bound says" in str(made)


def test_rows_that_lack_their_checksum_are_not_written(
    make: Callable[..., Run], bits: Path, tmp_path: Path
) -> None:
    """As where a machine computes otherwise: the container is whole, its rows are others."""
    run, archive = make(bits, **SIZES), tmp_path / "x.dlvm"
    compress(run, str(bits), archive)
    made = Container.read(archive)
    made.header["sums"][0] ^= 1
    made.write(archive)
    with pytest.raises(CompressionError, match=r"have their checksum: it was changed"):
        decompress(run, archive, tmp_path / "back.npy")
    assert not (tmp_path / "back.npy").exists()


def test_values_that_the_model_does_not_have_are_refused(
    make: Callable[..., Run], bits: Path, tmp_path: Path
) -> None:
    grey = tmp_path / "grey.npy"
    np.save(grey, np.load(bits) * 0.5)
    with pytest.raises(ValueError, match=r"grey"):
        compress(make(bits, **SIZES), str(grey), tmp_path / "x.dlvm")
    with pytest.raises(ValueError, match=r"has no train rows: a file is compressed whole"):
        compress(make(bits, **SIZES), str(bits), tmp_path / "x.dlvm", split="train")


def test_bits_under_a_run_that_made_bits_of_grey_values(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    draws, path = np.random.default_rng(0), tmp_path / "bits.npz"
    run = make("digits", latent=2, hidden=(8,), binarize="dynamic")
    bits = draws.integers(0, 2, (30, 8, 8)).astype(np.uint8)
    np.savez(path, x=bits)
    compress(run, str(path), tmp_path / "x.dlvm")
    found = decompress(run, tmp_path / "x.dlvm", tmp_path / "back.npz", like=str(path))
    assert found.same
    with np.load(tmp_path / "back.npz") as back:
        assert back["x"].tobytes() == bits.tobytes()
