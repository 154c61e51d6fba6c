"""Named data sets: where they lie, where they come from, how they are read.

A set is looked for in each folder of ``$DEEPLVM_DATA`` (several are separated as in ``$PATH``), in
the cache (pooch's, ``deeplvm``), and where Debian installs its ``dataset-*`` packages; then it is
downloaded, if there is a public address with a known checksum.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.data.readers.arrays import read_arrays, read_idx
from deeplvm.data.readers.raw import Array, Raw
from deeplvm.data.records import DataError

SEARCH_VARIABLE = "DEEPLVM_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets")  # where the packages `dataset-*` put their files

_IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip
_AMAT_FILES = tuple(f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test"))
_DRAWN_ROWS = 20_000
_HIVAE = {
    "adult": (32_561, 12), "breast": (699, 10), "wine": (6_497, 13),
    "defaultcredit": (30_000, 24), "letter": (20_000, 17), "spam": (4_601, 58),
}  # fmt: skip


@dataclass(frozen=True)
class Download:
    """Public files with known checksums.

    Attributes:
        address: The folder's URL, with its final slash.
        files: SHA-256 by file name.
    """

    address: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class NamedSet:
    """A data set known by name.

    Attributes:
        name: What the user types.
        what: One line: what it is, and its shape.
        rows: How many rows, by split where the set has its own.
        licence: The licence of the data.
        origin: Where it comes from.
        alternatives: Groups of files, relative to a search folder; the first group that is
            complete is read. Empty for sets that need no files.
        read: From the files found to the arrays.
        download: Public files, if there are any with known checksums.
        without_files: Where a set that needs no files comes from.
    """

    name: str
    what: str
    rows: str
    licence: str
    origin: str
    read: Callable[[tuple[Path, ...]], Raw]
    alternatives: tuple[tuple[str, ...], ...] = ()
    download: Download | None = None
    without_files: str = "inside scikit-learn"


@dataclass(frozen=True)
class DatasetInfo:
    """One line of :func:`datasets`.

    Attributes:
        name: What the user types.
        what: What it is, and its shape.
        rows: How many rows.
        licence: The licence of the data.
        origin: Where it comes from.
        found: Where it lies on this machine; ``None`` if it is not here.
        downloadable: Whether it is fetched by itself when asked for.
    """

    name: str
    what: str
    rows: str
    licence: str
    origin: str
    found: str | None
    downloadable: bool


def datasets() -> tuple[DatasetInfo, ...]:
    """The named data sets, and which of them are on this machine; nothing is loaded."""
    return tuple(
        DatasetInfo(
            name=item.name,
            what=item.what,
            rows=item.rows,
            licence=item.licence,
            origin=item.origin,
            found=_found(item),
            downloadable=item.download is not None,
        )
        for item in NAMED.values()
    )


def read_named(name: str) -> Raw:
    """The arrays of a named set; downloads it if it is not on this machine.

    Raises:
        DataError: If it is neither here nor to be downloaded, or its files are not what they
            should be.
    """
    item = NAMED[name]
    paths = _locate(item)
    if paths is None:
        paths = _fetch(item)
    raw = item.read(paths)
    raw.name = name
    return raw


def close_names(source: str) -> list[str]:
    """Names of data sets that resemble what was typed."""
    return difflib.get_close_matches(source.lower(), NAMED, n=3)


def search_folders() -> tuple[Path, ...]:
    """Where named sets are looked for, in this order."""
    listed = os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)
    return (*(Path(folder).expanduser() for folder in listed if folder), _cache(), DEBIAN_FOLDER)


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("deeplvm"))


def _found(item: NamedSet) -> str | None:
    if not item.alternatives:
        return item.without_files
    paths = _locate(item)
    return None if paths is None else str(paths[0].parent)


def _locate(item: NamedSet) -> tuple[Path, ...] | None:
    if not item.alternatives:
        return ()
    for folder in search_folders():
        for group in item.alternatives:
            paths = tuple(_with_or_without_gz(folder / name) for name in group)
            if all(path is not None for path in paths):
                return tuple(path for path in paths if path is not None)
    return None


def _with_or_without_gz(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _fetch(item: NamedSet) -> tuple[Path, ...]:
    """Download with checksum and progress bar into the cache."""
    by_hand = (
        f"put {' and '.join(item.alternatives[0])} into a folder and set "
        f"{SEARCH_VARIABLE} to that folder"
    )
    if item.download is None:
        raise DataError(
            f"data set {item.name!r} is not on this machine and has no public address with a "
            "known "
            f"checksum (it comes from {item.origin}); {by_hand}."
        )
    import pooch
    from requests import RequestException  # what pooch itself downloads with

    paths = []
    for name, checksum in item.download.files.items():
        downloader: Any = pooch.HTTPDownloader(progressbar=_Progress(name), timeout=60)
        try:
            fetched = pooch.retrieve(
                item.download.address + name,
                known_hash=f"sha256:{checksum}",
                fname=name,
                path=_cache() / item.name,
                downloader=downloader,
            )
        except (RequestException, OSError, ValueError) as problem:
            raise DataError(
                f"data set {item.name!r} could not be downloaded from "
                f"{item.download.address}{name} "
                f"({_short(problem)}); try again with a network, or {by_hand}."
            ) from None
        paths.append(Path(fetched))
    return tuple(paths)


class _Progress:
    """What pooch asks of a progress bar, drawn by rich on standard error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self._bar: Any = None
        self._task: Any = None

    def update(self, size: int) -> None:
        if self._bar is None:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(f"downloading {self.name}", total=self.total or None)
            self._bar.start()
        self._bar.update(self._task, advance=size)

    def reset(self) -> None:
        if self._bar is not None:
            self._bar.reset(self._task)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.total)
            self._bar.stop()


def _short(problem: BaseException) -> str:
    text = str(problem).split("\n")[0]
    return text if len(text) < 160 else f"{text[:157]}…"


# ---------------------------------------------------------------------------------------------
# Readers


def _bundled(name: str) -> Callable[[tuple[Path, ...]], Raw]:
    def read(_: tuple[Path, ...]) -> Raw:
        from sklearn import datasets as bundled

        bunch = getattr(bundled, f"load_{name}")()
        values = np.asarray(bunch.data, dtype=np.float64)
        raw = Raw(
            name=name,
            values={"all": values},
            columns=tuple(str(column) for column in bunch.feature_names),
        )
        if hasattr(bunch, "target_names"):
            raw.labels = {"all": np.asarray(bunch.target, dtype=np.int64)}
            raw.classes = tuple(str(label) for label in bunch.target_names)
        if name == "diabetes":
            raw.notes.append("diabetes: the disease progression (a real number) is left out.")
        return raw

    return read


def _digits(_: tuple[Path, ...]) -> Raw:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return Raw(
        name="digits",
        values={"all": bunch.images.astype(np.uint8)[:, None]},
        labels={"all": bunch.target.astype(np.int64)},
        classes=tuple(str(digit) for digit in range(10)),
        levels=17,
        image=True,
    )


def _drawn(name: str) -> Callable[[tuple[Path, ...]], Raw]:
    """Random rows of a set with known factors, labelled by shape; always the same rows."""

    def read(_: tuple[Path, ...]) -> Raw:
        import torch

        from deeplvm.data.synthetic.shapes import shapes3d
        from deeplvm.data.synthetic.sprites import sprites

        factors = {"sprites": sprites, "shapes3d": shapes3d}[name]()
        values = factors.sample(_DRAWN_ROWS, torch.Generator().manual_seed(0))
        return Raw(
            name=name,
            values={"all": factors.draw(values).numpy()},
            labels={"all": values[:, factors.number("shape")].numpy()},
            classes=(factors.values or {})["shape"],
            image=True,
        )

    return read


def _image_pair(classes: tuple[str, ...]) -> Callable[[tuple[Path, ...]], Raw]:
    """60,000 + 10,000 images of 28x28 bytes, from IDX files or one .npz."""

    def read(paths: tuple[Path, ...]) -> Raw:
        if len(paths) == 1:
            arrays = _arrays(paths[0], ("x_train", "y_train", "x_test", "y_test"))
            x_train, y_train, x_test, y_test = arrays.values()
        else:
            x_train, y_train, x_test, y_test = (read_idx(path) for path in paths)
        for what, array, shape in (
            ("training images", x_train, (60_000, 28, 28)),
            ("training labels", y_train, (60_000,)),
            ("test images", x_test, (10_000, 28, 28)),
            ("test labels", y_test, (10_000,)),
        ):
            _expect(paths[0], what, array, shape)
        return Raw(
            name="",
            values={
                "train": x_train[:50_000, None],
                "valid": x_train[50_000:, None],
                "test": x_test[:, None],
            },
            labels={
                "train": y_train[:50_000].astype(np.int64),
                "valid": y_train[50_000:].astype(np.int64),
                "test": y_test.astype(np.int64),
            },
            classes=classes,
            levels=256,
            image=True,
            split="the set's own test rows; of its 60,000 training rows the last 10,000 validate",
        )

    return read


def _binarized_mnist(paths: tuple[Path, ...]) -> Raw:
    sizes = (50_000, 10_000, 10_000)
    if len(paths) == 1:
        packed = _arrays(paths[0], ("x_train", "x_valid", "x_test"))
        parts = [np.unpackbits(array, axis=1, count=784) for array in packed.values()]
    else:
        parts = []
        for path in paths:
            text = np.frombuffer(path.read_bytes(), dtype=np.uint8)
            if len(text) % (2 * 784) or not np.isin(text[:1568:2], (48, 49)).all():
                raise DataError(f"{path}: expected lines of 784 digits 0 or 1; fetch it again.")
            parts.append(text[::2].reshape(-1, 784) - 48)
    for part, size in zip(parts, sizes, strict=True):
        _expect(paths[0], "images", part, (size, 784))
    splits = ("train", "valid", "test")
    return Raw(
        name="",
        values={
            split: part.reshape(-1, 1, 28, 28) for split, part in zip(splits, parts, strict=True)
        },
        image=True,
        split="the set's own: 50,000 / 10,000 / 10,000",
        notes=["static binarization of MNIST by Larochelle and Murray (2011): one fixed draw."],
    )


def _omniglot(paths: tuple[Path, ...]) -> Raw:
    arrays = _arrays(paths[0], ("x", "character", "drawer"))
    x, drawer = arrays["x"][:, None], arrays["drawer"]
    _expect(paths[0], "images", x, (32_460, 1, 28, 28))
    rows = {"train": drawer < 14, "valid": drawer == 14, "test": drawer >= 15}
    labels = arrays["character"].astype(np.int64)
    return Raw(
        name="",
        values={split: x[chosen] for split, chosen in rows.items()},
        labels={split: labels[chosen] for split, chosen in rows.items()},
        classes=tuple(str(character) for character in range(int(labels.max()) + 1)),
        levels=256,
        image=True,
        split="by drawer: 0-13 train (22,722 rows), 14 validates (1,623), 15-19 test (8,115)",
        notes=[
            (
                "omniglot: area average of the 105x105 originals to 28x28. It is not the file of "
                "the IWAE paper (24,345 / 8,070 rows), so likelihoods are not comparable with "
                "that table."
            )
        ],
    )


def _adult(paths: tuple[Path, ...]) -> Raw:
    from deeplvm.data.readers.tables import from_frames, read_csv

    frames = {"train": read_csv(paths[0]), "test": read_csv(paths[1])}
    raw = from_frames("adult", frames, label="income", drop=(), categories=(), like=None)
    for split, size in (("train", 32_561), ("test", 16_281)):
        _expect(paths[0], f"{split} rows", raw.values[split], (size, 14))
    raw.split = "the set's own test rows"
    return raw


def _hivae(name: str) -> Callable[[tuple[Path, ...]], Raw]:
    def read(paths: tuple[Path, ...]) -> Raw:
        import pandas as pd

        frame = pd.read_csv(paths[0], header=None)
        types = pd.read_csv(paths[1])
        _expect(paths[0], "table", frame.to_numpy(), _HIVAE[name])
        raw = Raw(name="", values={})
        columns, arrays = [], []
        for number, kind in enumerate(types["type"]):
            column = f"{kind}{number}"
            values = frame[number].to_numpy(dtype=np.float64)
            if kind in ("cat", "ordinal"):
                observed = np.unique(values[~np.isnan(values)])
                raw.categories[column] = tuple(f"{value:g}" for value in observed)
                codes = np.searchsorted(observed, np.nan_to_num(values, nan=observed[0]))
                values = np.where(np.isnan(values), np.nan, codes)
            elif kind == "count":
                raw.kinds[column] = "counts"
            columns.append(column)
            arrays.append(values)
        raw.columns = tuple(columns)
        raw.values = {"all": np.stack(arrays, axis=1)}
        raw.notes.append(
            "column types are those of HI-VAE's data_types.csv; its ordinal columns are modelled "
            "as unordered categories, its real and positive ones as what they hold."
        )
        return raw

    return read


def _newsgroups(paths: tuple[Path, ...]) -> Raw:
    arrays = _arrays(
        paths[0],
        (
            "vocab",
            *(
                f"{part}_{what}"
                for part in ("tr", "va", "ts")
                for what in ("indptr", "indices", "data")
            ),
        ),
    )
    words = arrays["vocab"]
    values = {
        split: _dense(
            arrays[f"{part}_indptr"], arrays[f"{part}_indices"], arrays[f"{part}_data"], len(words)
        )
        for split, part in (("train", "tr"), ("valid", "va"), ("test", "ts"))
    }
    _expect(paths[0], "training documents", values["train"], (11_214, 3_072))
    return Raw(
        name="",
        values=values,
        columns=tuple(str(word) for word in words),
        kinds=dict.fromkeys((str(word) for word in words), "counts"),
        split="the set's own: 11,214 / 100 / 7,531 documents",
    )


def _pbmc3k(paths: tuple[Path, ...]) -> Raw:
    arrays = _arrays(paths[0], ("indptr", "indices", "data", "shape", "gene_name", "gene_id"))
    genes = int(arrays["shape"][1])
    values = _dense(arrays["indptr"], arrays["indices"], arrays["data"], genes)
    _expect(paths[0], "counts", values, (2_700, 32_738))
    names, repeats = np.unique(arrays["gene_name"], return_counts=True)
    twice = set(names[repeats > 1])
    columns = tuple(
        f"{name} ({identity})" if name in twice else str(name)
        for name, identity in zip(arrays["gene_name"], arrays["gene_id"], strict=True)
    )
    return Raw(
        name="", values={"all": values}, columns=columns, kinds=dict.fromkeys(columns, "counts")
    )


def _dense(indptr: Array, indices: Array, data: Array, width: int) -> Array:
    """Compressed sparse rows as a dense array of the smallest signed type that holds them."""
    largest = int(data.max()) if len(data) else 0
    dense = np.zeros((len(indptr) - 1, width), dtype=np.int16 if largest < 2**15 else np.int32)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    np.add.at(dense, (rows, indices), data.astype(dense.dtype))
    return dense


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    loaded = read_arrays(path)
    absent = [name for name in names if name not in loaded]
    if absent:
        raise DataError(f"{path}: the array {absent[0]} is not there; fetch the file again.")
    return {name: loaded[name] for name in names}


def _expect(path: Path, what: str, array: Array, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        raise DataError(
            f"{path}: expected {what} of shape {shape}, found {tuple(array.shape)}; this is "
            f"another file of that name, or a damaged one: fetch it again."
        )


# ---------------------------------------------------------------------------------------------
# The sets

_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_SETS = (
    NamedSet(
        name="digits",
        what="handwritten digits, 1x8x8 levels 0..16, labelled",
        rows="1,797",
        licence="CC BY 4.0",
        origin="UCI optdigits, in scikit-learn",
        read=_digits,
    ),
    NamedSet(
        name="sprites",
        what="shapes of known scale, angle and place, 1x64x64 bits, labelled by shape",
        rows=f"{_DRAWN_ROWS:,}, random ones of 737,280",
        licence="Apache 2.0",
        origin="drawn by deeplvm, with the factors of dSprites (Matthey et al., 2017)",
        read=_drawn("sprites"),
        without_files="drawn when asked for",
    ),
    NamedSet(
        name="shapes3d",
        what="solids of known hues, scale and angle, 3x64x64 8-bit levels, labelled by shape",
        rows=f"{_DRAWN_ROWS:,}, random ones of 480,000",
        licence="Apache 2.0",
        origin="drawn by deeplvm, with the factors of 3D Shapes (Burgess and Kim, 2018)",
        read=_drawn("shapes3d"),
        without_files="drawn when asked for",
    ),
    NamedSet(
        name="mnist",
        what="handwritten digits, 1x28x28 8-bit levels, labelled",
        rows="50,000 / 10,000 / 10,000",
        licence="no formal one",
        origin="LeCun, Cortes and Burges (1998)",
        read=_image_pair(tuple(str(digit) for digit in range(10))),
        alternatives=(
            ("mnist/mnist.npz",),
            tuple(f"mnist/{name}" for name in _IDX_FILES),
            tuple(f"MNIST/raw/{name}" for name in _IDX_FILES),  # torchvision's own layout
        ),
        download=Download(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            {
                "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",  # noqa: E501
                "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",  # noqa: E501
                "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",  # noqa: E501
                "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",  # noqa: E501
            },
        ),
    ),
    NamedSet(
        name="binarized-mnist",
        what="MNIST in one fixed binarization, 1x28x28 bits, no labels",
        rows="50,000 / 10,000 / 10,000",
        licence="no formal one",
        origin="Larochelle and Murray (2011)",
        read=_binarized_mnist,
        alternatives=(
            ("binarized_mnist/binarized_mnist.npz",),
            ("binarized-mnist/binarized_mnist.npz",),
            tuple(f"binarized-mnist/{name}" for name in _AMAT_FILES),
            tuple(f"binarized_mnist/{name}" for name in _AMAT_FILES),
        ),
        download=Download(
            "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
            {
                "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",  # noqa: E501
                "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",  # noqa: E501
                "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",  # noqa: E501
            },
        ),
    ),
    NamedSet(
        name="fashion-mnist",
        what="articles of clothing, 1x28x28 8-bit levels, labelled",
        rows="50,000 / 10,000 / 10,000",
        licence="MIT",
        origin="Xiao, Rasul and Vollgraf (2017); Debian package dataset-fashion-mnist",
        read=_image_pair(_CLOTHES),
        alternatives=(
            tuple(f"fashion-mnist/{name}" for name in _IDX_FILES),
            tuple(f"fashion_mnist/{name}" for name in _IDX_FILES),
            tuple(f"FashionMNIST/raw/{name}" for name in _IDX_FILES),
        ),
        download=Download(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            {
                "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",  # noqa: E501
                "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",  # noqa: E501
                "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",  # noqa: E501
                "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",  # noqa: E501
            },
        ),
    ),
    NamedSet(
        name="omniglot",
        what="handwritten characters, 1x28x28 8-bit levels, labelled by character",
        rows="22,722 / 1,623 / 8,115",
        licence="MIT",
        origin="Lake, Salakhutdinov and Tenenbaum (2015), area average to 28x28",
        read=_omniglot,
        alternatives=(("omniglot/omniglot28.npz",),),
    ),
    NamedSet(
        name="adult",
        what="census, 14 mixed columns with holes, labelled by income",
        rows="32,561 / 16,281",
        licence="CC BY 4.0",
        origin="UCI Adult",
        read=_adult,
        alternatives=(("adult/adult_train.csv", "adult/adult_test.csv"),),
    ),
    *(
        NamedSet(
            name=f"hivae-{name}",
            what=f"table of the HI-VAE paper, {columns} columns of declared types",
            rows=f"{rows:,}",
            licence="CC BY 4.0",
            origin="Nazabal et al. (2020), from UCI",
            read=_hivae(name),
            alternatives=((f"hivae/{name}/data.csv", f"hivae/{name}/data_types.csv"),),
        )
        for name, (rows, columns) in _HIVAE.items()
    ),
    NamedSet(
        name="20newsgroups",
        what="word counts of documents, 3,072 words",
        rows="11,214 / 100 / 7,531",
        licence="the posts' own",
        origin="20 Newsgroups, as in Dieng, Ruiz and Blei (2020)",
        read=_newsgroups,
        alternatives=(("20newsgroups/20ng_bow.npz",),),
    ),
    NamedSet(
        name="pbmc3k",
        what="molecule counts of blood cells, 32,738 genes (the 1,000 most variable by default)",
        rows="2,700",
        licence="CC BY 4.0",
        origin="10x Genomics",
        read=_pbmc3k,
        alternatives=(("pbmc3k/pbmc3k_raw_counts.npz",),),
    ),
    NamedSet(
        name="iris",
        what="flowers, 4 real columns, labelled",
        rows="150",
        licence="CC BY 4.0",
        origin="Fisher (1936), in scikit-learn",
        read=_bundled("iris"),
    ),
    NamedSet(
        name="wine",
        what="wines, 13 mixed columns, labelled",
        rows="178",
        licence="CC BY 4.0",
        origin="UCI, in scikit-learn",
        read=_bundled("wine"),
    ),
    NamedSet(
        name="breast-cancer",
        what="cell nuclei, 30 real columns, labelled",
        rows="569",
        licence="CC BY 4.0",
        origin="UCI, in scikit-learn",
        read=_bundled("breast_cancer"),
    ),
    NamedSet(
        name="diabetes",
        what="patients, 10 columns",
        rows="442",
        licence="as scikit-learn's",
        origin="Efron et al. (2004), in scikit-learn",
        read=_bundled("diabetes"),
    ),
)

NAMED: dict[str, NamedSet] = {item.name: item for item in _SETS}
