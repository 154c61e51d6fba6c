"""Texts -> rows of tokens: a file a line, a folder of files, a column of a table."""

from __future__ import annotations

import codecs
import json
import lzma
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deeplvm.data.options import refuse_of_tables
from deeplvm.data.ragged import LENGTH
from deeplvm.data.readers.arrays import labels_of, parts_of
from deeplvm.data.readers.columns import refuse_absent
from deeplvm.data.readers.delimited import is_number, read_delimited
from deeplvm.data.readers.images import ENDINGS as IMAGES
from deeplvm.data.readers.source import Array, Facts, Held, Source, codes_of
from deeplvm.data.records import SPLITS, Description
from deeplvm.data.sequences import Sequences
from deeplvm.data.split import divide, limited
from deeplvm.data.tokens import (
    COUNTED,
    END,
    GRAMMAR_FILE,
    SCHEMES,
    SPECIAL,
    TOKENIZER_FILE,
    UNKNOWN,
    Vocabulary,
    scheme_of,
)
from deeplvm.data.variable import DataError, listed
from deeplvm.files import fits, gunzip, read_whole

_SMILES = (".smi", ".smi.gz", ".smi.xz")  # a molecule a line, and perhaps its name
ENDINGS = (".txt", ".txt.gz", ".txt.xz", *_SMILES)
_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
#: Options that texts have, and no other data.
OPTIONS = ("tokens", "vocabulary", "minimum_count", "lower", "text")
_LOOKED_AT = 20  # lines that tell a text from a table
_LONG = 20  # times the mean: a row that all others in its batch are padded to
_OBJECT = 60  # bytes that a line takes beside its characters


def is_text(path: Path) -> bool:
    """Whether a .txt file is lines of text, and no table: not numbers, not cells in columns."""
    lines = [line for line in _decoded(path).split("\n") if line.strip()][:_LOOKED_AT]
    words = [line.replace(",", " ").replace(";", " ").split() for line in lines]
    headed = len(words) > 1 and len(words[0]) == len(words[1])
    if all([all(map(is_number, each)) for each in words[1 if headed else 0 :]]):
        return False
    cells = [{line.count(each) for line in lines} for each in ("\t", ";", "|", ",")]
    return not any([len(each) == 1 and each != {0} for each in cells]) or len(lines) == 1


def is_texts(values: Any) -> bool:
    """Whether this is a list of texts."""
    listed = isinstance(values, list | tuple | np.ndarray) or hasattr(values, "to_list")
    return (
        listed
        and getattr(values, "ndim", 1) == 1
        and len(values) > 0
        and all([isinstance(each, str) or each is None for each in values])
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a file.

    Raises:
        DataError: If it is no text in UTF-8, with the line.
    """
    lines = [line.removesuffix("\r") for line in _decoded(path).split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


def files_of(folder: Path) -> list[Path]:
    """The text files of a folder and of its subfolders, in order."""
    return sorted([path for path in folder.rglob("*") if path.name.lower().endswith(ENDINGS)])


Row = str | tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Texts as they were read, a row each.

    Attributes:
        facts: What the source says of them.
        rows: By part, ``"all"`` where there is no split: a text, or a tuple of several, such as
            the turns of a dialogue; what is empty is left out later.
        labels: One a row, by part.
        where: The place of a row in words, by its part and number.
        beside: Numbers of each row by the name that they have in the model, as columns of a table.
    """

    facts: Facts
    rows: Mapping[str, Sequence[Row | None]]
    labels: Mapping[str, Sequence[Any]] | None = None
    where: Callable[[str, int], str] | None = None
    beside: Mapping[str, Mapping[str, pd.DataFrame]] = field(default_factory=dict)


def read_texts(path: Path) -> Texts:
    """A file, a line a row; or a folder, a file a row, labelled by the subfolders."""
    if path.is_file():
        lines, smiles = read_lines(path), path.name.lower().endswith(_SMILES)
        if smiles:
            lines = [(line.split() or [""])[0] for line in lines]
        facts = Facts(path.name.split(".")[0], tokens="smiles" if smiles else "")
        return Texts(facts, {"all": lines}, where=lambda _, row: f"{path}, line {row + 1}")
    paths = files_of(path)
    texts = [_decoded(each).strip() for each in paths]
    classes = [each.relative_to(path).parts[0] for each in paths]
    apart = all([each.parent != path for each in paths]) and len({*classes}) > 1
    labels = {"all": classes} if apart else None
    return Texts(Facts(path.name), {"all": texts}, labels, lambda _, row: str(paths[row]))


def _decoded(path: Path) -> str:
    content = read_whole(path, DataError)
    if content[:2] == b"\x1f\x8b":
        content = gunzip(content, path, DataError)
    elif path.name.lower().endswith(".xz"):
        try:
            content = lzma.decompress(content)
        except lzma.LZMAError as problem:
            raise DataError(f"{path}: the xz file is damaged ({problem}).") from None
    fits(2 * len(content) + _OBJECT * content.count(b"\n"), f"{path}, as text", DataError)
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if content.startswith(mark) and len(content) % 2 == 0:
            return content.decode(encoding)
    if b"\0" in content:
        raise DataError(f"{path}: this is a binary file, not text.")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as problem:
        line = content[: problem.start].count(b"\n") + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 text (byte 0x{content[problem.start]:02x}); save "
            f"the file as UTF-8, as by: iconv -f latin1 -t utf8."
        ) from None


def texts_of_files(
    path: Path, options: Mapping[str, Any], known: Description | None
) -> Texts | None:
    """The texts of a file or a folder, if it holds such."""
    name, column = path.name.lower(), options["text"]
    asked = options["tokens"] is not None or any([options[each] for each in OPTIONS[1:-1]])
    if path.is_dir():
        others = [".npy", ".parquet", *IMAGES]
        files = [] if not files_of(path) else [each.suffix.lower() for each in path.rglob("*")]
        return read_texts(path) if files and (asked or not {*files} & {*others}) else None
    if name.endswith(ENDINGS):
        wanted = asked or name.endswith(_SMILES)
        wanted = wanted or (options["header"] is None and is_text(path))
        return read_texts(path) if wanted else None
    if name.endswith(LINES):
        return _texts_of_lines(path)
    if column is None or not name.endswith(_TABLES):
        return None
    if name.endswith(".parquet"):
        table = pd.read_parquet(path)
    else:
        table = read_delimited(path, header=options["header"]).cells.to_pandas()
    return _text_columns({"all": table}, path.name.split(".")[0], str(path), options, known)


def _texts_of_lines(path: Path) -> Texts | None:
    """JSON lines of texts, or of lists of them; an object has them as x, and its label as y."""
    rows: list[Row | None] = []
    labels: list[Any] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return None  # said by those who read numbers
        entry = value.get("x") if isinstance(value, dict) else value
        row = _row_of(entry)
        if row is None:
            if not rows:
                return None
            raise DataError(
                f"{path}, line {number}: it is no text, nor a list of them, as the lines before."
            )
        rows.append(row)
        labels.append(value.get("y") if isinstance(value, dict) else None)
    if not rows:
        return None
    known = {"all": labels} if any([each is not None for each in labels]) else None
    name = path.name.split(".")[0]
    return Texts(Facts(name), {"all": rows}, known, lambda _, row: f"{path}, text {row + 1}")


def _row_of(entry: Any) -> Row | None:
    """A text, or several, each of which may be a list of its words; none of anything else."""
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, list | tuple) or not entry:
        return None
    texts = [
        " ".join(e) if isinstance(e, list | tuple) and all([isinstance(w, str) for w in e]) else e
        for e in entry
    ]
    return tuple(texts) if all([isinstance(each, str) for each in texts]) else None


def _text_columns(
    tables: Mapping[str, pd.DataFrame],
    name: str,
    what: str,
    options: Mapping[str, Any],
    known: Description | None,
) -> Texts:
    """A column of texts, or several that make a row, and one of labels where that is asked for."""
    asked, label = options["text"], options["label"]
    names = [str(each) for each in next(iter(tables.values())).columns]
    columns = [asked] if asked in names else [each.strip() for each in asked.split(",")]
    if label is not None and known is not None and label not in names:
        label = None
    refuse_absent(what, names, columns if label is None else [*columns, label])
    groups = options["group"]
    if known is None:
        refuse_absent(what, names, [each for group in groups.values() for each in group])
    else:
        groups = {n: v.columns for n, v in known.variables.items() if v.columns is not None}
        groups = {n: group for n, group in groups.items() if {*group} <= {*names}}
    own = {*columns, label, *[each for group in groups.values() for each in group]}
    left = [each for each in names if each not in own]
    notes = (f"columns that are left out: {listed(left, 5)}.",) if left else ()
    found = {part: table.rename(columns=str) for part, table in tables.items()}
    cells = {part: _together([cells_of(t[c]) for c in columns]) for part, t in found.items()}
    labels = {part: cells_of(table[label]) for part, table in found.items()} if label else None
    split = f"{' / '.join(tables)} as they were given" if "train" in tables else ""
    beside = {
        each: {part: _numbers_of(table, group, what, each) for part, table in found.items()}
        for each, group in groups.items()
    }
    return Texts(Facts(name, split=split, notes=notes), cells, labels, beside=beside)


def _together(columns: Sequence[Sequence[str | None]]) -> Sequence[Row | None]:
    """The texts of each row; of one column its cells."""
    if len(columns) == 1:
        return columns[0]
    return [tuple([each or "" for each in row]) for row in zip(*columns, strict=True)]


def _numbers_of(table: pd.DataFrame, columns: Sequence[str], what: str, name: str) -> pd.DataFrame:
    """Some columns as numbers, NaN where a cell is empty."""
    if name in ("x", LENGTH):
        taken = "the text" if name == "x" else "the number of its tokens"
        raise DataError(f"--group {name}: {name} is {taken}; choose another name.")
    found = {}
    for column in columns:
        try:
            found[column] = pd.to_numeric(table[column]).astype(float)
        except (TypeError, ValueError) as problem:
            raise DataError(
                f"{what}: --group {name}: {column!r} beside a text is to be numbers ({problem})."
            ) from None
    return pd.DataFrame(found)


def cells_of(column: Any) -> list[str | None]:
    """The cells of a column as texts, none where one is empty."""
    return [
        None if none else str(each) for each, none in zip(column, pd.isna(column), strict=True)
    ]


def texts_in_memory(
    source: Any, options: Mapping[str, Any], known: Description | None
) -> Texts | None:
    """Lists of texts, by split or called x and y; or data frames with a column of them."""
    parts = dict(source) if isinstance(source, Mapping) else {"all": source}
    if options["text"] is not None and all([isinstance(e, pd.DataFrame) for e in parts.values()]):
        return _text_columns(parts, "memory", "memory", options, known)
    by_split = set(parts) <= {"all", *SPLITS}
    found = {"x": dict(zip(parts, parts, strict=True))} if by_split else parts_of(parts)
    if "x" not in found:
        return None
    rows: dict[str, Sequence[Row | None]] = {}
    for part, key in found["x"].items():
        values = parts[key]
        several = [_row_of(e) for e in values] if isinstance(values, list | tuple) else [None]
        if not is_texts(values) and (not several or None in several):
            return None
        rows[part] = [*values] if is_texts(values) else several
    labels = {part: [*parts[key]] for part, key in found.get("y", {}).items()} or None
    split = f"{' / '.join(rows)} as they were given" if "train" in rows else ""
    return Texts(Facts("memory", split=split), rows, labels)


def tokenised(
    texts: Texts, what: str, options: Mapping[str, Any], known: Description | None
) -> dict[str, Source]:
    """Rows of tokens, the vocabulary that of the training rows, and numbers beside them.

    Args:
        texts: What was read.
        what: What they are called in a message.
        options: Those of :func:`~deeplvm.data.load`.
        known: The training data, where these are others.

    Raises:
        DataError: If no row has a text, or an option cannot be.
    """
    if known is None:  # what is said of other columns of a table does not apply
        own = {"label": None, "header": None, "group": {}} if options["text"] else {}
        refuse_of_tables(what, {**options, **own})
    check(options)
    facts, labels, where = texts.facts, texts.labels, texts.where
    asked = options["tokens"] or facts.tokens
    given = texts.rows
    kept = {p: [i for i, row in enumerate(e) if _says(row)] for p, e in given.items()}
    rows = {part: [given[part][i] or "" for i in places] for part, places in kept.items()}
    empty = sum(map(len, given.values())) - sum(map(len, rows.values()))
    notes = [f"{empty:,} rows without text are left out."] if empty else []
    if not any(rows.values()):
        raise DataError(f"{what}: there is no text in it.")

    def place(row: int) -> str:
        for part, places in kept.items():
            if row < len(places):
                return where(part, places[row]) if where else f"{what}, row {places[row] + 1}"
            row -= len(places)
        raise IndexError(row)

    held = Held(facts, {p: np.zeros((len(e), 1), np.int64) for p, e in rows.items()}, where=place)
    if labels is not None:
        own = {
            p: np.asarray(["" if e is None else str(e) for e in labels[p]])[kept[p]] for p in rows
        }
        codes, classes, said = codes_of(labels_of(own, held, what, "y"), f"{what}, labels")
        held = held.labelled(np.concatenate([*codes.values()]), classes, said)
    lines = [text for part in rows.values() for text in part]
    if known is None:
        vocabulary, told = _vocabulary(lines, held, {**options, "tokens": asked})
        notes.append(told)
    else:
        vocabulary = vocabulary_of(known)
    read = set(range(len(lines)))
    if options["limit"] is not None:  # what is left out is not read
        each, _ = divide(held, options, known)
        some = [limited(held, e, options["limit"], options["seed"]).all() for e in each.values()]
        read = set(np.concatenate(some).tolist())
    several = _several(lines, known, what)
    stored, lengths, sizes = array("i"), list[int](), list[int]()
    for row, text in enumerate(lines):
        turns = [text] if isinstance(text, str) else text
        try:
            coded = [vocabulary.encode(each) if row in read else [END] for each in turns]
        except ValueError as problem:
            raise DataError(
                f"{place(row)}: {problem} Leave the row out, or take other --tokens."
            ) from None
        for one in coded:
            stored.extend(one)
        sizes += map(len, coded)
        lengths.append(len(coded) if several else len(coded[0]))
    tokens, ends = np.frombuffer(stored, np.int32), np.cumsum([len(e) for e in rows.values()])[:-1]
    by_part = dict(zip(rows, np.split(np.array(lengths, np.int64), ends), strict=True))
    known_lengths = [lengths[row] for row in read]
    unread = 0 if several else sum(lengths) - sum(known_lengths)
    unknown = float((tokens == UNKNOWN).sum() / (len(tokens) - unread))
    if unknown:
        notes.append(f"{100 * unknown:.2g}% of the tokens are {SPECIAL[UNKNOWN]}.")
    longest = int(np.argmax(sizes))
    mean = float(np.mean(sizes if several else known_lengths))
    at = int(np.searchsorted(np.cumsum(lengths), longest, "right")) if several else longest
    if sizes[longest] > _LONG * mean:
        notes.append(
            f"warning: {place(at)} has {sizes[longest]:,} tokens"
            f"{' in a text' if several else ''}, {sizes[longest] / mean:.0f} times the mean; rows "
            f"beside it are padded to it."
        )
    if several:
        most = sizes[longest] if known is None else known.variables["x"].shape[0]
        if sizes[longest] > most:
            raise DataError(
                f"{place(at)} has a text of {sizes[longest]:,} tokens, but in the "
                f"training data none has more than {most:,}; shorten it, or leave the row out."
            )
        tokens = _padded(tokens, np.array(sizes), max(2, most))
        notes.append(f"a row is several texts, its steps, of up to {most:,} tokens each.")
    facts = replace(
        facts, vocabulary=vocabulary.names, tokens=vocabulary.scheme,
        notes=(*facts.notes, *notes),
    )  # fmt: skip
    tokens = tokens if several else tokens[:, None]
    pieces = np.split(tokens, np.cumsum([int(e.sum()) for e in by_part.values()])[:-1])
    steps = Held(facts, dict(zip(rows, pieces, strict=True)))
    made = Sequences.of(steps, by_part, what)
    whole = made.rows.labelled(held.labels, held.facts.classes).told(place)
    made = replace(made, rows=whole)
    found: dict[str, Any] = {"x": replace(made, steps=steps.told(made.where))}
    for name, tables in texts.beside.items():
        beside: dict[str, Any] = {}
        for part, places in kept.items():
            beside[part] = tables[part].to_numpy()[places]
        columns = tuple(next(iter(tables.values())).columns)
        found[name] = Held(Facts(facts.name, columns=columns, split=facts.split), beside).told(
            place
        )
    return found


def captions(
    texts: Texts, name: str, what: str, options: Mapping[str, Any], known: Description | None
) -> Held:
    """Texts that say something of rows: tokens in rows of one width, filled by the end.

    Args:
        texts: What was read, one text a row.
        name: What they are called in the model.
        what: What they are called in a message.
        options: Those of :func:`~deeplvm.data.load`.
        known: The training data, where these are others.

    Raises:
        DataError: If a row has no text, or a longer one than the training data.
    """
    for part, each in texts.rows.items():
        if (empty := next((i for i, row in enumerate(each) if not _says(row)), None)) is not None:
            at = "" if part == "all" else f" of {part}"
            raise DataError(
                f"{what}, row {empty + 1}{at}: {name} is empty; say something, or leave the row "
                f"out."
            )
    lines: list[Any] = [row for each in texts.rows.values() for row in each]
    rows = Held(texts.facts, {p: np.zeros((len(e), 1), np.int8) for p, e in texts.rows.items()})
    notes: tuple[str, ...] = ()
    if known is None:
        vocabulary, told = _vocabulary(lines, rows, options)
        notes = (f"{name}: {told}",)
    else:
        vocabulary = vocabulary_of(known, name)
    coded = [vocabulary.encode(line) for line in lines]
    sizes = np.array([len(each) for each in coded])
    longest = int(sizes.max())
    most = longest if known is None else known.variables[name].shape[0]
    if longest > most:
        raise DataError(
            f"{what}, row {int(sizes.argmax()) + 1}: {name} has {longest:,} tokens, but in the "
            f"training data none has more than {most:,}; shorten it, or leave the row out."
        )
    tokens = _padded(np.concatenate(coded).astype(np.int32), sizes, most)
    facts = replace(
        texts.facts, vocabulary=vocabulary.names, tokens=vocabulary.scheme,
        notes=(*texts.facts.notes, *notes),
    )  # fmt: skip
    ends = np.cumsum([len(each) for each in texts.rows.values()])[:-1]
    return Held(facts, dict(zip(texts.rows, np.split(tokens, ends), strict=True)))


def _says(row: Row | None) -> bool:
    """Whether there is anything in a row."""
    return bool(row and ("".join(row).strip()))


def _several(lines: Sequence[Row], known: Description | None, what: str) -> bool:
    """Whether a row is several texts.

    Raises:
        DataError: If it is in some rows only, or otherwise than in the training data.
    """
    found = {not isinstance(row, str) for row in lines}
    if len(found) > 1:
        raise DataError(f"{what}: some rows are one text, and others several; give all alike.")
    if known is not None and found != {bool(known.variables["x"].shape)}:
        is_, was = ("several texts", "one") if found == {True} else ("one text", "several")
        raise DataError(f"{what}: a row is {is_}, but in the training data {was}.")
    return found == {True}


def _padded(tokens: Array, sizes: Array, width: int) -> Array:
    """Texts one after another as rows of this width, filled by the end."""
    found = np.full((len(sizes), width), END, tokens.dtype)
    found[np.arange(width) < sizes[:, None]] = tokens
    return found


def _vocabulary(
    lines: Sequence[Row], rows: Held, options: Mapping[str, Any]
) -> tuple[Vocabulary, str]:
    """That of the training rows, and how it came about."""
    whole, _ = divide(rows, options, None)
    train = limited(rows, whole["train"], options["limit"], options["seed"]).all()
    texts = [[row] if isinstance(row, str) else row for row in (lines[each] for each in train)]
    scheme = options["tokens"] or scheme_of([each for row in texts[:1000] for each in row])
    size, least = options["vocabulary"], options["minimum_count"]
    made = Vocabulary.of(
        (each for row in texts for each in row), scheme,
        size=size, minimum=least, lower=options["lower"],
    )  # fmt: skip
    if len(made.names) < 3:
        raise DataError(
            f"{rows.facts.name}: no token is in the training rows {least or 2} times; lower "
            f"--minimum-count."
        )
    how = {
        "words": "words, what stands between blanks", "characters": "characters",
        "bytes": "bytes of UTF-8",
    }.get(scheme, f"those of {scheme}")  # fmt: skip
    how += ", in lower case" if options["lower"] else ""
    return made, (
        f"tokens are {how} (--tokens); the vocabulary has {len(made.names):,}, with "
        f"{SPECIAL[0]}, which ends a row and counts, and {SPECIAL[1]}, for all that are no others."
    )


def vocabulary_of(known: Description, name: str = "x") -> Vocabulary:
    """That of the data of a run.

    Raises:
        DataError: If they are no texts.
    """
    variable, options = known.variables.get(name), known.options
    scheme = options.get("tokens")
    if variable is None or variable.categories is None or not scheme:
        raise DataError(f"{known.name}: the model was fitted to no texts, so it has no words.")
    return Vocabulary(variable.categories, scheme, bool(options.get("lower")))


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that cannot be of texts."""
    scheme = options["tokens"]
    files = (TOKENIZER_FILE, GRAMMAR_FILE)
    if scheme is not None and scheme not in SCHEMES and not str(scheme).endswith(files):
        raise DataError(
            f"--tokens {scheme}: choose {', '.join(SCHEMES)}, or the path of a tokenizer.json or "
            f"of rules, in a file {GRAMMAR_FILE}."
        )
    if scheme is not None and scheme not in SCHEMES and not Path(scheme).is_file():
        raise DataError(f"--tokens {scheme}: there is no such file.")
    for flag, least in (("vocabulary", 3), ("minimum_count", 1)):
        value = options[flag]
        if value is not None and value < least:
            raise DataError(f"--{flag.replace('_', '-')} {value}: at least {least} is needed.")
    fixed = [flag for flag in ("vocabulary", "minimum_count") if options[flag] is not None]
    if fixed and scheme is not None and scheme not in COUNTED:
        raise DataError(
            f"--{fixed[0].replace('_', '-')} chooses among words or characters, but the tokens of "
            f"--tokens {scheme} are given; leave it out."
        )
    if options["lower"] and scheme not in (None, "words", "characters", "bytes"):
        raise DataError(f"--lower would change what {scheme} says; leave it out.")
    for flag in ("binarize", "dequantize"):
        if options[flag] is not None:
            raise DataError(f"--{flag} is for numbers, and texts have none; leave it out.")
    if options["likelihood"] not in ("auto", "categorical"):
        raise DataError(
            f"--likelihood {options['likelihood']}: tokens of a text are categorical; leave it "
            f"out."
        )
    if options["members"] is not None:
        raise DataError("--members makes sets of rows, and a text is no member; leave it out.")
