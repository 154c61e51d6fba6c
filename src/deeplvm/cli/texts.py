"""Rows that are texts, on the command line: lines, and columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENDINGS = (".txt",)


def save_texts(
    output: Path, texts: Mapping[str, Sequence[str]], others: Mapping[str, Any] | None = None
) -> None:
    """Lines, or columns of a table.

    Args:
        output: Where. In a .txt file a text is a line, its own line breaks blanks; of several
            names those of a row follow each other, and an empty line the last.
        texts: By name.
        others: More columns of a table, such as labels.
    """
    import numpy as np

    from deeplvm.cli.outputs import save_table
    from deeplvm.files import write_atomically

    if output.suffix.lower() not in ENDINGS:
        columns = {name: np.array(each, dtype=object) for name, each in texts.items()}
        save_table(output, {**columns, **(others or {})})
        return
    gap = [""] if len(texts) > 1 else []
    rows = zip(*texts.values(), strict=True)
    lines = [" ".join(line.splitlines()) for row in rows for line in (*row, *gap)]
    write_atomically(output, "".join([f"{line}\n" for line in lines]).encode())


def read_of(values: Mapping[str, Any], description: Any) -> str:
    """How many of drawn texts can be read, of molecules and strings of a grammar; else nothing."""
    from deeplvm.evaluation.molecules import readable
    from deeplvm.inference.texts import as_texts

    texts = as_texts(values, description)
    counts = [readable(each, description) for each in texts.values() if len(each) > 1]
    return next((found for found in counts if found), "")
