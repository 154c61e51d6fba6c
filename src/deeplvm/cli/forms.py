"""Images, texts or sequences: what rows of another form refuse, and how values are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeplvm.cli.console import note


def split_meant(rows: Any, split: Any) -> Any:
    """The split meant; other data are all test rows."""
    return split or ("test" if rows.rows("test") else "valid")


def only_images(opened: Any, output: Path, *, picture: bool) -> None:
    """Refuse a picture where a row is none."""
    from deeplvm.cli.outputs import FileError
    from deeplvm.cli.sequences import length_of
    from deeplvm.inference.texts import names_of

    known = opened.description
    drawable = known.picture is not None or length_of(known) is not None or names_of(known)
    if picture and not drawable:
        what = "; ".join([str(each) for each in known.variables.values()])
        raise FileError(
            f"{output} would be a picture, but the data are not images ({what}); write .csv, "
            f".parquet or .npz."
        )


def only_texts(opened: Any, output: Path, **asked: Any) -> bool:
    """Whether rows are texts; refuse what is only for them, or never.

    Raises:
        ValueError: With what was asked for.
    """
    from deeplvm.cli.outputs import PICTURES, FileError
    from deeplvm.cli.texts import ENDINGS
    from deeplvm.data.molecules import has_rdkit
    from deeplvm.data.tokens import is_molecule
    from deeplvm.inference.texts import names_of

    found = names_of(opened.description)
    name = opened.description.name
    if not found:
        if output.suffix.lower() in ENDINGS:
            raise FileError(f"{output}: lines are of texts, and {name} is none; write .csv, say.")
        if asked.get("beam") is not None:
            raise ValueError(f"--beam is of texts, and {name} is none; leave it out.")
        return False
    if output.suffix.lower() in PICTURES:
        if not is_molecule(str(opened.description.options.get("tokens"))):
            raise FileError(
                f"{output} would be a picture, but {name} are texts; write .txt or .csv."
            )
        if not has_rdkit():
            raise FileError(
                f"{output}: molecules are drawn by rdkit, which is not installed: pip install "
                f'"deeplvm[molecules]"; or write .txt or .csv.'
            )
    others = [option for option, value in asked.items() if option != "beam" and value]
    if others:
        raise ValueError(f"--{others[0]} is not for texts; leave it out.")
    return True


def of_sequences(opened: Any, **asked: bool) -> None:
    """Refuse what is of sequences where a row is none.

    Raises:
        ValueError: With what was asked for.
    """
    from deeplvm.cli.sequences import length_of

    if length_of(opened.description) is None and (found := [n for n, yes in asked.items() if yes]):
        raise ValueError(
            f"{found[0]} is of sequences, and a row of {opened.description.name} is none; leave "
            f"it out."
        )


def save_values(
    output: Path,
    values: Any,
    description: Any,
    columns: int | None = None,
    *,
    rows: Any = None,
    mean: bool = False,
    escape: bool = False,
    opened: Any = None,
) -> None:
    """A picture, or a table of the user's own columns, by the ending."""
    from deeplvm.cli.outputs import PICTURES, TABLES, given, save_pictures, save_table
    from deeplvm.cli.sequences import drawn_keys, length_of, save_sequences
    from deeplvm.cli.texts import save_texts
    from deeplvm.inference.texts import as_texts

    if texts := as_texts(values, description):
        length = {each.length for each in description.variables.values()}
        others = {n: each for n, each in values.items() if n not in (*texts, *length)}
        save_texts(output, texts, given(others, description, mean=mean))
        note(f"{output}: {len(next(iter(texts.values())))} texts")
        return
    if (length := length_of(description)) is not None:
        lengths = values[length]
        drawn = {n: each for n, each in values.items() if n != length}
        keys, said = ({}, "")
        if output.suffix.lower() in TABLES:
            keys, said = drawn_keys(lambda: opened.data, description, drawn, lengths)
        save_sequences(output, drawn, lengths, description, mean=mean, escape=escape, keys=keys)
        note(f"{output}: {len(lengths)} rows, {int(lengths.sum()):,} steps in all")
        if said:
            note(said)
        return
    if output.suffix.lower() in PICTURES:
        save_pictures(output, values[description.picture.name], description.picture, columns)
    else:
        save_table(output, given(values, description, rows, mean=mean), escape=escape)
    note(f"{output}: {len(next(iter(values.values())))} rows")
