"""Rows that are texts, on the command line: lines, and columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deeplvm.cli.console import note, waiting

ENDINGS = (".txt",)
GREEDY = "the most probable word each time"
NO_BEAMS = (
    "--beam is of texts whose end the model draws, one a row; of these each word is the most "
    "probable one: leave it out."
)


def save_texts(
    output: Path, texts: Mapping[str, Sequence[str]], others: Mapping[str, Any] | None = None
) -> None:
    """Lines, or columns of a table.

    Args:
        output: Where. In a .txt file a text is a line, its own line breaks blanks; of several
            names those of a row follow each other, and an empty line the last. A .png draws
            molecules, those of a row side by side.
        texts: By name.
        others: More columns of a table, such as labels.
    """
    import numpy as np

    from deeplvm.cli.outputs import PICTURES, save_table
    from deeplvm.data.molecules import drawings
    from deeplvm.files import write_atomically

    if output.suffix.lower() in PICTURES:
        each = [text for row in zip(*texts.values(), strict=True) for text in row]
        write_atomically(output, drawings(each))
        return
    if output.suffix.lower() not in ENDINGS:
        columns = {name: np.array(each, dtype=object) for name, each in texts.items()}
        save_table(output, {**columns, **(others or {})})
        return
    gap = [""] if len(texts) > 1 else []
    rows = zip(*texts.values(), strict=True)
    lines = [" ".join(line.splitlines()) for row in rows for line in (*row, *gap)]
    write_atomically(output, "".join([f"{line}\n" for line in lines]).encode())


def caption_of(description: Any, model: Any) -> str | None:
    """The name of the text that the model draws rows of, if it is given one."""
    from deeplvm.inference.texts import captions_of

    inputs = [name for name in model.p.inputs if name not in model.p.names]
    return next((name for name in captions_of(description) if name in inputs), None)


def captions(opened: Any, name: str, said: str | None, rows: int, seed: int) -> dict[str, Any]:
    """What rows are drawn of: the text that was said, or those of training rows at random.

    Args:
        opened: The run.
        name: Of :func:`caption_of`.
        said: ``caption=a three at the top left``; ``None`` for those of training rows.
        rows: How many.
        seed: Of the choice.

    Raises:
        ValueError: If it is another name, or has words that no training row has, or too many.
    """
    import torch

    from deeplvm.data.readers.text import vocabulary_of
    from deeplvm.data.tokens import END, UNKNOWN
    from deeplvm.data.variable import listed

    if said is None:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(opened.data.rows("train"), (rows,), generator=generator)
        return opened.data.train.batch(chosen, [name])
    variable, vocabulary = (
        opened.description.variables[name],
        vocabulary_of(opened.description, name),
    )
    called, _, text = said.partition("=")
    if called.strip() != name or not text.strip():
        raise ValueError(
            f"--given {said}: this model draws what a text says; write --given "
            f'"{name}=some words".'
        )
    tokens, most = vocabulary.encode(text.strip()), variable.shape[0]
    if len(tokens) > most:
        raise ValueError(
            f"--given {name}: {len(tokens) - 1} words, but no training row has more than "
            f"{most - 1}; say it in fewer."
        )
    met = bool(variable.shares and variable.shares[0][UNKNOWN])
    if UNKNOWN in tokens and not met:
        pieces = [*dict.fromkeys(vocabulary.cut(text.strip()))]
        strange = [each for each in pieces if each not in vocabulary.index]
        words = sorted(vocabulary.names[2:])
        raise ValueError(
            f"--given {name}: no training row says {listed(strange)}; the words are "
            f"{listed(words, 40)}."
        )
    row = torch.full((most,), float(END))
    row[: len(tokens)] = torch.tensor(tokens).to(row)
    return {name: row.expand(rows, most)}


def read_of(values: Mapping[str, Any], description: Any) -> str:
    """How many of drawn texts can be read, of molecules and strings of a grammar; else nothing."""
    from deeplvm.evaluation.molecules import readable
    from deeplvm.inference.texts import as_texts

    texts = as_texts(values, description)
    counts = [readable(each, description) for each in texts.values() if len(each) > 1]
    return next((found for found in counts if found), "")


def search(
    opened: Any, output: Path, rows: int, name: str, lowest: bool, seed: int, device: Any
) -> None:
    """Strings of which most, or least, of a property is predicted."""
    import numpy as np

    from deeplvm.data.molecules import has_rdkit, properties
    from deeplvm.data.tokens import is_molecule
    from deeplvm.devices import place
    from deeplvm.evaluation.molecules import reader_of
    from deeplvm.inference.texts import names_of, texts_of_more

    known, flag = opened.description, "--lowest" if lowest else "--highest"
    numbers = [n for n in known.variables if n not in names_of(known)]
    if not names_of(known) or name not in numbers:
        there = f"there are {', '.join(numbers)}" if numbers and names_of(known) else (
            f"{known.name} has none: fit with --text COLUMN --group NAME=COLUMN"
        )  # fmt: skip
        raise ValueError(f"{flag} {name} is of a property beside strings; {there}.")
    reader, measure = reader_of(known), None
    if is_molecule(str(known.options.get("tokens"))) and name.lower() in ("qed", "logp"):
        measure = (lambda text: properties(text)[name.lower()]) if has_rdkit() else None
    with waiting(f"searching for {'less' if lowest else 'more'} of {name}"):
        found, broken = texts_of_more(
            opened.model.to(place(device)), opened.data.train, name, rows, lowest=lowest,
            read=None if reader is None else reader[0], measure=measure, seed=seed,
        )  # fmt: skip
    by = "" if reader is None else reader[1]
    if not found:
        raise ValueError(
            f"{flag} {name}: nothing that was found can be read by {by}; train longer."
        )
    told, measured = (np.array(each) for each in zip(*found.values(), strict=True))
    others = {name: told} if measure is None else {name: told, f"{name}_measured": measured}
    save_texts(output, {names_of(known)[0]: [*found]}, others)
    what = f"{name} predicted {told[0]:.4g}"
    what += "" if measure is None else f", measured by RDKit {measured[0]:.4g},"
    note(f"{output}: {len(found)} different texts, {what} at best")
    if len(found) < rows:
        note(f"fewer than the {rows} that were asked for are different: -n larger looks further")
    data = opened.data.train[name][:].double()
    data = data[data.isfinite()]
    note(f"training rows: mean {data.mean():.4g}, from {data.min():.4g} to {data.max():.4g}")
    if broken:
        note(f"{broken} others that were found cannot be read by {by}")
