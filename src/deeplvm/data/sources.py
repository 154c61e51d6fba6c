"""The sources of rows: who knows a file, a folder or a named set, and who opens it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from deeplvm.data.arrays import cells, of_arrays
from deeplvm.data.catalogue import NAMED, close_names, read_named
from deeplvm.data.names import parted
from deeplvm.data.options import Asked, refuse_of_tables
from deeplvm.data.readers.arrays import read_arrays, read_file
from deeplvm.data.readers.columns import refuse_absent
from deeplvm.data.readers.counts import ENDING as CELLS
from deeplvm.data.readers.delimited import read_delimited
from deeplvm.data.readers.images import ENDINGS, lost_links
from deeplvm.data.readers.long_tables import LINES, folder_of_tables, json_lines
from deeplvm.data.readers.shards import ParquetFiles, open_files, pictures_of
from deeplvm.data.readers.source import Facts, room
from deeplvm.data.readers.tables import Frames
from deeplvm.data.readers.text import Texts, captions, cells_of, texts_of_files, tokenised
from deeplvm.data.sequences import Sequences, held_of
from deeplvm.data.tabular import DELIMITED, held_table, narrowed, sequences_of_folder, table_rows
from deeplvm.data.variable import DataError
from deeplvm.files import memory

Streaming = bool | Literal["auto"]


def opened(path: Path, source: str, asked: Asked, stream: Streaming) -> dict[str, Any]:
    """The rows of a file or a folder by name, in memory if they are not to be streamed."""
    options = asked.options
    if stream not in (True, False, "auto"):
        raise DataError(f"--stream {stream}: choose True, False or auto.")
    if not path.exists():
        raise DataError(_not_there(source, path))
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    name = path.name.lower()
    if path.is_file() and options["image_size"] is not None and not options["group"]:
        raise DataError(f"{path}: --image-size is for folders of images only.")
    pictures = _captioned(path, asked)
    texts = texts_of_files(path, *asked) if pictures is None else None
    if stream is True and (pictures is not None or texts is not None):
        raise DataError(
            f"{path}: texts are not streamed: a token takes 4 bytes of memory; leave out "
            f"--stream, and say --limit where that is too much."
        )
    if pictures is not None:
        return pictures
    if texts is not None:
        return tokenised(texts, source, *asked)
    if path.is_dir() or name.endswith((".npy", ".parquet")):
        return _in_shards(path, source, asked, stream)
    if stream is True:
        raise DataError(
            f"{path}: only .npy and .parquet files, folders of them and folders of images can be "
            f"streamed; save it as one of these, or leave out --stream."
        )
    if options["header"] is not None and not name.endswith(DELIMITED):
        raise DataError(
            f"{source}: --header is for delimited text, .csv and the like; leave it out."
        )
    for endings, opens in _FILES.items():
        if name.endswith(endings):
            return opens(path, asked)
    refuse_of_tables(source, options)
    if name.endswith(_IDX):
        return {"x": read_file(path)}
    if name.endswith(ENDINGS):
        raise DataError(f"{path}: this is one image; give the folder that holds the images.")
    raise DataError(
        f"{path}: files that end like this are not supported; save it as .npy, .npz, .csv, .tsv, "
        f".parquet, .jsonl, .h5ad or IDX, or give a folder of images or of .csv files."
    )


def _in_shards(path: Path, source: str, asked: Asked, stream: Streaming) -> dict[str, Any]:
    """The rows of what can stay on disk: .npy, .parquet, folders of these and of images."""
    options = asked.options
    try:
        files = open_files(path, size=options["image_size"])
    except DataError:
        if path.suffix.lower() != ".npy" or path.is_dir() or stream is True:
            raise
        refuse_of_tables(source, options)
        return {"x": read_file(path)}  # also what is stored column by column
    tables = None if files else folder_of_tables(path, header=options["header"])
    if tables is not None:
        if stream is True:
            raise DataError(
                f"{path}: a folder of tables as text is not streamed; leave out --stream, or "
                f"save them as one .parquet file, with a column that says which rows are of "
                f"which (--sequence COLUMN)."
            )
        return sequences_of_folder(*tables, asked)
    if files is None:
        lost = "".join([f"; {each.removesuffix('.')}" for each in lost_links(path, ENDINGS)])
        raise DataError(
            f"{path}: no image in this folder, nor an .npy or .parquet file; looked for "
            f"{', '.join(ENDINGS)}{lost}."
        )
    found = rows_in_files(files, path, source, asked)
    total = sum([room(each) for each in found.values()])
    streamed = total > memory() if stream == "auto" else stream
    steps = [each.steps for each in found.values() if isinstance(each, Sequences)]
    if not all([each.listing for each in steps]):  # which memory holds
        if stream is True:
            raise DataError(
                f"{path}: sequences are streamed where the steps of each lie together, in "
                f"their order; sort the file by {options['sequence']} and the order, or leave "
                f"out --stream."
            )
        streamed = False
    return found if streamed else {name: held_of(each) for name, each in found.items()}


def rows_in_files(files: Any, path: Path, source: str, asked: Asked) -> dict[str, Any]:
    """Of files of columns the columns that are wanted; of others the rows as they are."""
    if isinstance(files, ParquetFiles):
        return table_rows(files, path if path.is_dir() else path.parent, asked)
    if asked.known is None or len(asked.known.variables) == 1:  # otherwise the names tell
        refuse_of_tables(source, asked.options)
    return {"x": files}


def _captioned(path: Path, asked: Asked) -> dict[str, Any] | None:
    """The images whose files a table names as x, and what its text says of each."""
    options, known = asked
    column, name = options["text"], path.name.lower()
    group = (options if known is None else known.options).get("group") or {}
    if column is None or "x" not in group or not name.endswith((*DELIMITED, ".parquet")):
        return None
    if name.endswith(".parquet"):
        frame = pd.read_parquet(path)
    else:
        frame = read_delimited(path, header=options["header"]).cells.to_pandas()
    own = asked.but(group={"x": group["x"]})
    wanted = [each for each in (*group["x"], options["label"]) if each in frame.columns]
    facts = Facts(path.name.split(".")[0])
    table = Frames(facts, {"all": frame[wanted]}, str(path))
    if not pictures_of(table, own.options["group"], known):
        return None
    refuse_absent(str(path), [*frame.columns], [column])
    texts = Texts(facts, {"all": cells_of(frame[column])})
    (x,) = held_table(table, path.parent, own).values()
    return {"x": x, "caption": captions(texts, "caption", str(path), *asked)}


def _delimited(path: Path, asked: Asked) -> dict[str, Any]:
    """Delimited text; columns without names are those of the training data in their order."""
    text = read_delimited(path, header=asked.options["header"])
    facts = Facts(path.name.split(".")[0], notes=text.notes)
    names = None if text.named or asked.known is None else [*asked.known.columns]
    return held_table(Frames(facts, {"all": text.cells}, path.name, names), path.parent, asked)


def _lines(path: Path, asked: Asked) -> dict[str, Any]:
    """JSON lines: a line is a sequence, or, where it has no lists, a row of a table."""
    found, name = json_lines(path), path.name.split(".")[0]
    lists = [each for each in found.values() if isinstance(each, list)]
    if lists:
        lengths = [len(each) for each in lists[0]]
        return of_arrays(found, name, str(path), asked, lengths)
    table = Frames(Facts(name), {"all": pd.DataFrame(found)}, path.name)
    return held_table(table, path.parent, asked)


_IDX = (".idx", ".idx.gz", "ubyte", "ubyte.gz")
#: Who opens a file in memory, by how its name ends.
_FILES: Mapping[tuple[str, ...], Callable[[Path, Asked], dict[str, Any]]] = {
    DELIMITED: _delimited,
    (CELLS,): lambda path, asked: {"x": cells(path, str(path), asked)},
    LINES: _lines,
    (".npz",): lambda path, asked: of_arrays(read_arrays(path), path.stem, str(path), asked),
}


def named_rows(name: str, asked: Asked) -> dict[str, Any]:
    """The rows of a named set."""
    options, known = asked
    found: Any = read_named(name)
    if isinstance(found, Texts):
        return tokenised(found, name, *asked)
    if isinstance(found, dict):
        refuse_of_tables(name, options, named=found["x"].facts)
        return {
            each: captions(own, each, name, *asked) if isinstance(own, Texts) else own
            for each, own in found.items()
        }
    refuse_of_tables(name, options, named=found.facts)
    if found.facts.columns is None:
        return {"x": found}
    found = narrowed(found, name, options)
    other = known is not None and known.source != name
    if other and known is not None and {*(found.facts.columns or ())} != {*known.columns}:
        raise DataError(f"{name}: its columns are not those of the training data {known.name}.")
    return parted(found, options["group"], known, name)


def _not_there(source: str, path: Path) -> str:
    folder = path.parent
    siblings = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = [
        *close_names(source),
        *(str(folder / name) for name in difflib.get_close_matches(path.name, siblings, n=3)),
    ]
    if close:
        return f"{source}: no such file or data set; did you mean {' or '.join(close)}?"
    return (
        f"{source}: no such file, and no data set of this name; `deeplvm datasets` lists the "
        f"named ones: {', '.join(list(NAMED)[:6])}, …"
    )
