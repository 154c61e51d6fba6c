"""Named data sets: where they lie, where they come from, how they are read.

A set is looked for in each folder of ``$DEEPLVM_DATA`` (several are separated as in ``$PATH``), in
the cache (pooch's, ``deeplvm``), and where Debian installs its ``dataset-*`` packages; then it is
downloaded, if there is a public address with a known checksum.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.data.ragged import INPUTS
from deeplvm.data.readers.arrays import read_arrays, read_idx
from deeplvm.data.readers.graphs import Graph, of_arrays
from deeplvm.data.readers.source import Array, Facts, Held
from deeplvm.data.readers.text import Texts, read_lines
from deeplvm.data.records import SPLITS
from deeplvm.data.sequences import Sequences, folded
from deeplvm.data.sparse import compressed
from deeplvm.data.variable import DataError

SEARCH_VARIABLE = "DEEPLVM_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets")  # where the packages `dataset-*` put their files

_DRAWN_ROWS = 20_000
GRAPH = "graph"  # what named.toml calls the way in which a graph is read


@dataclass(frozen=True)
class NamedSet:
    """A data set known by name: a table of ``named.toml``.

    Attributes:
        name: What the user types.
        what: One line: what it is, and its shape.
        rows: How many rows, by split where the set has its own.
        licence: The licence of the data.
        origin: Where it comes from.
        read: The name of the function that makes rows of the files.
        files: Groups of files, relative to a search folder; the first group that is complete is
            read. Empty for sets that need no files.
        address: The folder's URL, with its final slash, of public files.
        sha256: Their checksums by name; empty where none is to be downloaded.
        without_files: Where a set that needs no files comes from.
        classes: Names of its labels.
        shape: Rows and columns that a table must have; nodes and edges of a graph.
        of: The set of whose rows its own are made, from whose files.
    """

    name: str
    what: str
    rows: str
    licence: str
    origin: str
    read: str
    files: Sequence[Sequence[str]] = ()
    address: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    without_files: str = ""
    classes: Sequence[str] = ()
    shape: Sequence[int] = ()
    of: str = ""


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
            downloadable=bool(_stored(item).sha256),
        )
        for item in NAMED.values()
    )


def read_named(name: str) -> Held | Sequences | Texts | dict[str, Any]:
    """The arrays of a named set; downloads it if it is not on this machine.

    Raises:
        DataError: If it is neither here nor to be downloaded, or its files are not what they
            should be.
    """
    item = NAMED[name]
    read: Callable[[NamedSet, tuple[Path, ...]], Any] = globals()[f"_{item.read}"]
    return read(item, files_of(item))


def files_of(item: NamedSet) -> tuple[Path, ...]:
    """The files of a named set; downloads them if they are not on this machine.

    Raises:
        DataError: If they are neither here nor to be downloaded.
    """
    stored = _stored(item)
    paths = _locate(stored)
    return _fetch(stored) if paths is None else paths


def named_graph(name: str) -> Graph | None:
    """The graph of a named set; none where the set is no graph.

    Raises:
        DataError: If its file is not here, or not what it should be.
    """
    item = NAMED.get(name)
    if item is None or item.read != GRAPH:
        return None
    (path,) = files_of(item)
    graph = of_arrays(read_arrays(path), item.name, str(path))
    _expect(path, "nodes and edges", np.empty((graph.nodes, len(graph.edges))), tuple(item.shape))
    return replace(graph, classes=tuple(item.classes))


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


def _stored(item: NamedSet) -> NamedSet:
    """The set whose files it takes."""
    return NAMED[item.of] if item.of else item


def _found(item: NamedSet) -> str | None:
    item = _stored(item)
    if not item.files:
        return item.without_files
    paths = _locate(item)
    return None if paths is None else str(paths[0].parent)


def _locate(item: NamedSet) -> tuple[Path, ...] | None:
    if not item.files:
        return ()
    for folder in search_folders():
        for group in item.files:
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
        f"put {' and '.join(item.files[0])} into a folder and set {SEARCH_VARIABLE} to that folder"
    )
    if not item.sha256:
        raise DataError(
            f"data set {item.name!r} is not on this machine and has no public address with a "
            f"known checksum (it comes from {item.origin}); {by_hand}."
        )
    import pooch
    from requests import RequestException  # what pooch itself downloads with

    paths = []
    for name, checksum in item.sha256.items():
        downloader: Any = pooch.HTTPDownloader(progressbar=_Bar(name), timeout=60)
        try:
            fetched = pooch.retrieve(
                item.address + name,
                known_hash=f"sha256:{checksum}",
                fname=name,
                path=_cache() / item.name,
                downloader=downloader,
            )
        except (RequestException, OSError, ValueError) as problem:
            raise DataError(
                f"data set {item.name!r} could not be downloaded from "
                f"{item.address}{name} "
                f"({_short(problem)}); try again with a network, or {by_hand}."
            ) from None
        paths.append(Path(fetched))
    return tuple(paths)


class _Bar:
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


# --- what makes rows of the files; named.toml calls them without their underscore


def _bundled(item: NamedSet, _: tuple[Path, ...]) -> Held:
    from sklearn import datasets as bundled

    bunch = getattr(bundled, f"load_{item.name.replace('-', '_')}")()
    columns = tuple(str(column) for column in bunch.feature_names)
    left_out = "diabetes: the disease progression (a real number) is left out."
    notes = (left_out,) if item.name == "diabetes" else ()
    labels, classes = {}, None
    if hasattr(bunch, "target_names"):
        labels = {"all": np.asarray(bunch.target, dtype=np.int64)}
        classes = tuple(str(label) for label in bunch.target_names)
    facts = Facts(item.name, classes, columns, notes=notes)
    return Held(facts, {"all": np.asarray(bunch.data, dtype=np.float64)}, labels)


def _digits(item: NamedSet, _: tuple[Path, ...]) -> Held:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    classes = tuple(str(digit) for digit in range(10))
    return Held(
        Facts(item.name, classes, levels=17, image=True),
        {"all": bunch.images.astype(np.uint8)[:, None]},
        {"all": bunch.target.astype(np.int64)},
    )


def _drawn(item: NamedSet, _: tuple[Path, ...]) -> Held:
    """Random rows of a set with known factors, labelled by shape; always the same rows."""
    import torch

    from deeplvm.data.synthetic.shapes import shapes3d
    from deeplvm.data.synthetic.sprites import sprites

    factors = {"sprites": sprites, "shapes3d": shapes3d}[item.name]()
    values = factors.sample(_DRAWN_ROWS, torch.Generator().manual_seed(0))
    return Held(
        Facts(item.name, (factors.values or {})["shape"], image=True),
        {"all": factors.draw(values).numpy()},
        {"all": values[:, factors.number("shape")].numpy()},
    )


def _scattered(item: NamedSet, _: tuple[Path, ...]) -> Held:
    """Scenes of none to two of another set's pictures, labelled by their number."""
    from deeplvm.data.synthetic.scenes import scattered

    generator = np.random.default_rng(0)
    held: Any = read_named(item.of)
    pictures, side = held.values[:, 0], 50
    ends = np.cumsum([len(held.parts[split]) for split in SPLITS if split in held.parts])[:-1]
    if item.of == "digits":  # which has no split: a picture of its own must not be in several
        pictures, side, ends = generator.permutation(pictures), 20, np.array([1_437, 1_617])
    parts = dict(zip(SPLITS, np.split(pictures, ends), strict=True))
    rows = {"train": 8 * _DRAWN_ROWS // 10, "valid": _DRAWN_ROWS // 10, "test": _DRAWN_ROWS // 10}
    made = {
        split: scattered(each, rows[split], side, 2, generator) for split, each in parts.items()
    }
    words = f"each of its own pictures of {item.of}: {', '.join(map(str, rows.values()))} rows"
    return Held(
        Facts(item.name, ("0", "1", "2"), levels=held.facts.levels, image=True, split=words),
        {split: scenes for split, (scenes, _) in made.items()},
        {split: counts for split, (_, counts) in made.items()},
    )


def _captioned(item: NamedSet, _: tuple[Path, ...]) -> dict[str, Any]:
    """Digits in the corners of pictures, and what a caption says; always the same rows."""
    from deeplvm.data.synthetic.captions import captioned

    held: Any = read_named(item.of)
    generator, side = np.random.default_rng(0), 28
    order, ends = generator.permutation(held.total), np.array([1_437, 1_617])
    rows = {"train": 8 * _DRAWN_ROWS // 20, "valid": _DRAWN_ROWS // 20, "test": _DRAWN_ROWS // 20}
    made = {
        split: captioned(
            held.values[own, 0], held.labels[own], rows[split], side, generator,
            apart=split == "test",
        )
        for split, own in zip(SPLITS, np.split(order, ends), strict=True)
    }  # fmt: skip
    words = (
        f"each of its own pictures of {item.of}, {item.rows} rows; in test rows digits are in "
        f"corners where no training row has them"
    )
    facts = Facts(item.name, levels=held.facts.levels, image=True, split=words)
    return {
        "x": Held(facts, {split: pictures for split, (pictures, _) in made.items()}),
        "caption": Texts(
            Facts(item.name, split=words), {split: said for split, (_, said) in made.items()}
        ),
    }


def _image_pair(item: NamedSet, paths: tuple[Path, ...]) -> Held:
    """60,000 + 10,000 images of 28x28 bytes, from IDX files or one .npz."""
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
    y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
    words = "the set's own test rows; of its 60,000 training rows the last 10,000 validate"
    return Held(
        Facts(item.name, tuple(item.classes), levels=256, image=True, split=words),
        {
            "train": x_train[:50_000, None],
            "valid": x_train[50_000:, None],
            "test": x_test[:, None],
        },
        {"train": y_train[:50_000], "valid": y_train[50_000:], "test": y_test},
    )


def _binarized_mnist(item: NamedSet, paths: tuple[Path, ...]) -> Held:
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
    note = "static binarization of MNIST by Larochelle and Murray (2011): one fixed draw."
    words = "the set's own: 50,000 / 10,000 / 10,000"
    facts = Facts(item.name, image=True, split=words, notes=(note,))
    images = [part.reshape(-1, 1, 28, 28) for part in parts]
    return Held(facts, dict(zip(SPLITS, images, strict=True)))


def _omniglot(item: NamedSet, paths: tuple[Path, ...]) -> Held:
    arrays = _arrays(paths[0], ("x", "character", "drawer"))
    x, drawer = arrays["x"][:, None], arrays["drawer"]
    _expect(paths[0], "images", x, (32_460, 1, 28, 28))
    rows = {"train": drawer < 14, "valid": drawer == 14, "test": drawer >= 15}
    labels = arrays["character"].astype(np.int64)
    note = (
        "omniglot: area average of the 105x105 originals to 28x28. It is not the file of the IWAE "
        "paper (24,345 / 8,070 rows), so likelihoods are not comparable with that table."
    )
    facts = Facts(
        item.name,
        tuple(str(character) for character in range(int(labels.max()) + 1)),
        levels=256,
        image=True,
        split="by drawer: 0-13 train (22,722 rows), 14 validates (1,623), 15-19 test (8,115)",
        notes=(note,),
    )
    return Held(
        facts,
        {split: x[chosen] for split, chosen in rows.items()},
        {split: labels[chosen] for split, chosen in rows.items()},
    )


def _adult(item: NamedSet, paths: tuple[Path, ...]) -> Held:
    from deeplvm.data.readers.columns import open_table
    from deeplvm.data.readers.delimited import read_delimited
    from deeplvm.data.readers.tables import Frames

    frames = {"train": read_delimited(paths[0]).cells, "test": read_delimited(paths[1]).cells}
    for (split, frame), size in zip(frames.items(), (32_561, 16_281), strict=True):
        _expect(paths[0], f"{split} rows", frame, (size, 15))
    facts = Facts(item.name, split="the set's own test rows")
    table = Frames(facts, frames, item.name)
    return Held.of(open_table(table, label="income", drop=(), categories=(), known=None))


def _hivae(item: NamedSet, paths: tuple[Path, ...]) -> Held:
    import pandas as pd

    frame = pd.read_csv(paths[0], header=None)
    types = pd.read_csv(paths[1])
    _expect(paths[0], "table", frame, tuple(item.shape))
    categories, kinds = {}, {}
    columns, arrays = [], []
    for number, kind in enumerate(types["type"]):
        column = f"{kind}{number}"
        values = frame[number].to_numpy(dtype=np.float64)
        if kind in ("cat", "ordinal"):
            observed = np.unique(values[~np.isnan(values)])
            categories[column] = tuple(f"{value:g}" for value in observed)
            codes = np.searchsorted(observed, np.nan_to_num(values, nan=observed[0]))
            values = np.where(np.isnan(values), np.nan, codes)
        elif kind == "count":
            kinds[column] = "counts"
        columns.append(column)
        arrays.append(values)
    note = (
        "column types are those of HI-VAE's data_types.csv; its ordinal columns are modelled as "
        "unordered categories, its real and positive ones as what they hold."
    )
    facts = Facts(item.name, None, tuple(columns), categories, kinds, notes=(note,))
    return Held(facts, {"all": np.stack(arrays, axis=1)})


def _newsgroups(item: NamedSet, paths: tuple[Path, ...]) -> Held:
    parts = {"train": "tr", "valid": "va", "test": "ts"}
    if "avitm" in item.name:
        parts = {"train": "train", "test": "test"}
    names = [f"{part}_{w}" for part in parts.values() for w in ("indptr", "indices", "data")]
    arrays = _arrays(paths[0], ("vocab", *names))
    columns = tuple(str(word) for word in arrays["vocab"])
    values = {
        split: _compressed(
            arrays[f"{part}_indptr"],
            arrays[f"{part}_indices"],
            arrays[f"{part}_data"],
            len(columns),
        )
        for split, part in parts.items()
    }
    _expect(paths[0], "training documents", values["train"], tuple(item.shape))
    words = f"the set's own: {item.rows} documents"
    kinds = dict.fromkeys(columns, "counts")
    return Held(Facts(item.name, columns=columns, kinds=kinds, split=words), values)


def _treebank(item: NamedSet, paths: tuple[Path, ...]) -> Texts:
    """Sentences, a line each, of which rare words are ``<unk>`` and numbers N."""
    rows: dict[str, list[str]] = {
        split: read_lines(path) for split, path in zip(SPLITS, paths, strict=True)
    }
    many = tuple(map(int, item.rows.replace(",", "").split(" / ")))
    _expect(paths[0], "sentences", np.broadcast_to(0, [*map(len, rows.values())]), many)
    return Texts(Facts(item.name, split=f"the set's own: {item.rows} sentences"), rows)


def _zinc(item: NamedSet, paths: tuple[Path, ...]) -> Texts:
    """Molecules, a line each, in the split of the junction tree autoencoder."""
    lines, places = read_lines(paths[0]), _arrays(paths[1], ("test", "valid"))
    _expect(paths[0], "molecules", np.broadcast_to(0, len(lines)), (249_455,))
    split = np.full(len(lines), "train")
    for part, chosen in places.items():
        split[chosen] = part
    rows: dict[str, list[str]] = {
        part: [line.split()[0] for line, own in zip(lines, split, strict=True) if own == part]
        for part in SPLITS
    }
    words = f"that of the junction tree autoencoder (Jin et al., 2018): {item.rows}"
    return Texts(Facts(item.name, split=words, tokens="smiles"), rows)


def _expressions(item: NamedSet, _: tuple[Path, ...]) -> Texts:
    """Random functions of x; always the same rows."""
    from deeplvm.data.synthetic.expressions import expressions

    return Texts(Facts(item.name), {"all": expressions(_DRAWN_ROWS)})


def _polyphonic(item: NamedSet, paths: tuple[Path, ...]) -> Sequences:
    """Pieces of music: which of the 88 keys of a piano sound in each step."""
    arrays = _arrays(paths[0], tuple([f"{s}{end}" for s in SPLITS for end in ("", "_len")]))
    lengths = {split: arrays[f"{split}_len"] for split in SPLITS}
    keys: dict[str, Array] = {
        split: np.unpackbits(arrays[split], axis=1, count=88) for split in SPLITS
    }
    pieces, many = item.rows.split(" / "), tuple([len(each) for each in lengths.values()])
    _expect(paths[0], "pieces", np.zeros(many), tuple(map(int, pieces)))
    words = f"the set's own: {item.rows} pieces"
    steps = Held(Facts(item.name, split=words), keys)
    return folded({"x": steps}, lengths, {}, str(paths[0]))["x"].told()


def _pendulum(item: NamedSet, _: tuple[Path, ...]) -> dict[str, Sequences]:
    """A pendulum under random torques, which are given; always the same rows."""
    from deeplvm.data.synthetic.pendulum import swings

    values, torques = swings(1_000, 20, np.random.default_rng(0))[:2]
    lengths = {"all": np.full(len(values), values.shape[1])}
    steps = {
        name: Held(Facts(item.name, image=name == "x"), {"all": each.reshape(-1, *each.shape[2:])})
        for name, each in (("x", values), (INPUTS, torques))
    }
    return folded(steps, lengths, {}, item.name)


def _pbmc3k(item: NamedSet, paths: tuple[Path, ...]) -> Held:
    arrays = _arrays(paths[0], ("indptr", "indices", "data", "shape", "gene_name", "gene_id"))
    genes = int(arrays["shape"][1])
    values = _compressed(arrays["indptr"], arrays["indices"], arrays["data"], genes)
    _expect(paths[0], "counts", values, (2_700, 32_738))
    names, repeats = np.unique(arrays["gene_name"], return_counts=True)
    twice = set(names[repeats > 1])
    columns = tuple(
        f"{name} ({identity})" if name in twice else str(name)
        for name, identity in zip(arrays["gene_name"], arrays["gene_id"], strict=True)
    )
    kinds = dict.fromkeys(columns, "counts")
    return Held(Facts(item.name, columns=columns, kinds=kinds), {"all": values})


def _compressed(indptr: Array, indices: Array, data: Array, width: int) -> Any:
    """Compressed sparse rows in the smallest signed type that holds their counts."""
    from scipy import sparse

    kind = np.int16 if data.max(initial=0) < 2**15 else np.int32
    parts = (data.astype(kind), indices, indptr)
    return compressed(sparse.csr_array(parts, shape=(len(indptr) - 1, width)))


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    loaded = read_arrays(path)
    absent = [name for name in names if name not in loaded]
    if absent:
        raise DataError(f"{path}: the array {absent[0]} is not there; fetch the file again.")
    return {name: loaded[name] for name in names}


def _expect(path: Path, what: str, array: Any, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        raise DataError(
            f"{path}: expected {what} of shape {shape}, found {tuple(array.shape)}; this is "
            f"another file of that name, or a damaged one: fetch it again."
        )


NAMED: dict[str, NamedSet] = {
    name: NamedSet(name, **entry)
    for name, entry in tomllib.loads(
        resources.files("deeplvm.data").joinpath("named.toml").read_text(encoding="utf-8")
    ).items()
}
