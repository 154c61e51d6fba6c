"""Named sets: found where they lie, checked, and downloaded only with a known checksum."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplvm.data import DataError, datasets, load
from deeplvm.data.catalogue import NAMED
from deeplvm.data.graphs import GraphData
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.data.records import SPLITS

HERE = {item.name for item in datasets() if item.found is not None}
INSIDE = (
    "digits",
    "multi-digits",
    "captioned-digits",
    "sprites",
    "shapes3d",
    "expressions",
    "pendulum",
    "iris",
    "wine",
    "breast-cancer",
    "diabetes",
)
SIZES = {
    "digits": ((1, 8, 8), (1437, 180, 180), "discretized-logistic"),
    "sprites": ((1, 64, 64), (320, 40, 40), "bernoulli"),
    "shapes3d": ((3, 64, 64), (320, 40, 40), "discretized-logistic"),
    "multi-digits": ((1, 20, 20), (320, 40, 40), "discretized-logistic"),
    "captioned-digits": ((1, 28, 28), (160, 20, 20), "discretized-logistic"),
    "multi-mnist": ((1, 50, 50), (320, 40, 40), "discretized-logistic"),
    "mnist": ((1, 28, 28), (50_000, 10_000, 10_000), "discretized-logistic"),
    "binarized-mnist": ((1, 28, 28), (50_000, 10_000, 10_000), "bernoulli"),
    "fashion-mnist": ((1, 28, 28), (50_000, 10_000, 10_000), "discretized-logistic"),
    "omniglot": ((1, 28, 28), (22_722, 1_623, 8_115), "discretized-logistic"),
    "adult": ((14,), (29_305, 3_256, 16_281), "columns"),
    "hivae-adult": ((12,), (26_049, 3_256, 3_256), "columns"),
    "hivae-breast": ((10,), (559, 70, 70), "columns"),
    "hivae-wine": ((13,), (5_197, 650, 650), "columns"),
    "hivae-defaultcredit": ((24,), (24_000, 3_000, 3_000), "columns"),
    "hivae-letter": ((17,), (16_000, 2_000, 2_000), "columns"),
    "hivae-spam": ((58,), (3_681, 460, 460), "columns"),
    "20newsgroups": ((3_072,), (11_214, 100, 7_531), "negative-binomial"),
    "20newsgroups-avitm": ((1_995,), (10_132, 1_126, 7_487), "negative-binomial"),
    "jsb": ((88,), (229, 76, 77), "bernoulli"),
    "nottingham": ((88,), (694, 173, 170), "bernoulli"),
    "pendulum": ((1, 16, 16), (800, 100, 100), "continuous-bernoulli"),
    "expressions": ((), (320, 40, 40), "categorical"),
    "zinc": ((), (220_010, 24_445, 5_000), "categorical"),
    "ptb": ((), (42_068, 3_370, 3_761), "categorical"),
    "pbmc3k": ((1_000,), (2_160, 270, 270), "negative-binomial"),
    "iris": ((4,), (120, 15, 15), "columns"),
    "wine": ((13,), (142, 18, 18), "columns"),
    "breast-cancer": ((30,), (455, 57, 57), "columns"),
    "diabetes": ((10,), (354, 44, 44), "columns"),
}


def needs(name: str) -> object:
    """The name as a parameter; skipped with its reason where the data are not on this machine."""
    marks = [] if name in INSIDE else [pytest.mark.data]
    if name not in HERE:
        marks.append(pytest.mark.skip(reason=f"{name} is not on this machine ($DEEPLVM_DATA)"))
    return pytest.param(name, marks=marks, id=name)


GRAPHS = {"cora": (2_708, 5_278, 1_433), "citeseer": (3_327, 4_552, 3_703)}


def test_every_set_has_its_expectation() -> None:
    assert {*SIZES, *GRAPHS} == set(NAMED)


@pytest.mark.parametrize("name", [needs(name) for name in GRAPHS])
def test_named_graph(name: str) -> None:
    data = load(name)
    assert isinstance(data, GraphData)
    whole = data.graph
    assert (whole.nodes, len(whole.edges), whole.features.shape[1]) == GRAPHS[name]
    assert whole.labels is not None
    assert len(whole.classes or ()) == whole.labels.max() + 1


@pytest.mark.parametrize("name", [needs(name) for name in SIZES])
def test_named_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeplvm.data.catalogue._DRAWN_ROWS", 400)  # of those that are drawn
    shape, rows, likelihood = SIZES[name]
    data = load(name)
    assert data.variables["x"].shape == shape
    assert tuple(data.description.rows.values()) == rows
    assert data.variables["x"].likelihood == likelihood
    assert data.name == name
    batch = data.batch("train", slice(64))
    steps = batch["x"].shape[1:2] if data.description.steps else ()
    assert batch["x"].shape == (64, *steps, *shape)
    if not data.missing:
        assert torch.isfinite(batch["x"]).all()
    if data.classes is not None:
        assert int(data.train["y"].max()) < len(data.classes)


def test_captions_of_test_rows_are_new_of_known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeplvm.data.catalogue._DRAWN_ROWS", 400)
    data = load("captioned-digits")
    words = vocabulary_of(data.description, "caption")
    said = {s: {words.decode(row) for row in data[s]["caption"].tolist()} for s in SPLITS}

    def places(texts: set[str]) -> set[str]:
        return {each.split(" ", 1)[1] for text in texts for each in text.split(" and ")}

    assert not places(said["train"]) & places(said["test"])
    assert not places(said["valid"]) & places(said["test"])
    assert {w for t in said["test"] for w in t.split()} <= {*words.names}


@pytest.mark.data
@pytest.mark.skipif("mnist" not in HERE, reason="mnist is not on this machine ($DEEPLVM_DATA)")
def test_mnist_is_mnist() -> None:
    """The IDX file rebuilt from the rows has the SHA-256 of the original's content."""
    data = load("mnist")
    pixels = torch.cat([data.train["x"], data.valid["x"]]).numpy()
    header = struct.pack(">IIII", 2051, 60_000, 28, 28)
    digest = hashlib.sha256(header + pixels.tobytes()).hexdigest()
    assert digest == "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


@pytest.mark.data
@pytest.mark.skipif(
    "binarized-mnist" not in HERE, reason="binarized-mnist is not on this machine ($DEEPLVM_DATA)"
)
def test_binarized_mnist_is_larochelles() -> None:
    """The text file rebuilt from the test rows has the SHA-256 of the one that is published."""
    pixels = load("binarized-mnist").test["x"].reshape(10_000, 784).numpy()
    text = np.full((10_000, 1568), ord(" "), dtype=np.uint8)
    text[:, ::2] = pixels + ord("0")
    text[:, -1] = ord("\n")
    digest = hashlib.sha256(text.tobytes()).hexdigest()
    assert digest == "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"


def test_the_list_loads_nothing_and_names_everything() -> None:
    listed = {item.name: item for item in datasets()}
    assert listed["digits"].found == "inside scikit-learn"
    assert listed["mnist"].downloadable
    assert not listed["omniglot"].downloadable
    assert all(item.what and item.rows and item.licence and item.origin for item in datasets())


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Only this folder is searched."""
    monkeypatch.setenv("DEEPLVM_DATA", str(tmp_path))
    monkeypatch.setattr("deeplvm.data.catalogue._cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("deeplvm.data.catalogue.DEBIAN_FOLDER", tmp_path / "debian")
    return tmp_path


def test_a_set_without_a_known_checksum_says_where_to_put_it(nowhere: Path) -> None:
    with pytest.raises(DataError, match=r"omniglot28\.npz into a folder and set DEEPLVM_DATA"):
        load("omniglot")


def test_no_network_says_what_to_do(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded.*no route.*DEEPLVM_DATA"):
        load("mnist")


def test_a_download_is_verified(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    asked = {}

    def retrieve(url: str, *, known_hash: str, fname: str, path: Path, **_: object) -> str:
        asked[url.rsplit("/", 1)[1]] = known_hash
        raise ValueError("SHA256 hash of downloaded file does not match the known hash")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DataError, match="does not match"):
        load("fashion-mnist")
    assert asked["train-images-idx3-ubyte.gz"].startswith("sha256:3aede38d")


def test_another_file_of_the_name_is_refused(nowhere: Path) -> None:
    (nowhere / "mnist").mkdir()
    zeros = np.zeros((3, 28, 28), dtype=np.uint8)
    np.savez(
        nowhere / "mnist" / "mnist.npz",
        x_train=zeros,
        y_train=zeros[:, 0, 0],
        x_test=zeros,
        y_test=zeros[:, 0, 0],
    )
    with pytest.raises(DataError, match=r"training images of shape \(60000, 28, 28\), found \(3"):
        load("mnist")
    np.savez(nowhere / "mnist" / "mnist.npz", x_train=zeros)
    with pytest.raises(DataError, match="y_train is not there"):
        load("mnist")


def test_idx_files_are_found_beside_or_below(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = nowhere / "debian" / "fashion-mnist"
    folder.mkdir(parents=True)
    for split, number in (("train", 60_000), ("t10k", 10_000)):
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, number) + bytes(number)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(labels)
        pixels = struct.pack(">BBBB3I", 0, 0, 8, 3, number, 28, 28) + bytes(number * 784)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(pixels)
    found = {item.name: item.found for item in datasets()}
    assert found["fashion-mnist"] == str(folder)
    assert found["mnist"] is None
