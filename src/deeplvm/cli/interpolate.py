"""The verb that goes from one row to another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from deeplvm.cli.console import note, tell
from deeplvm.cli.forms import of_sequences, only_images, only_texts, save_values, split_meant
from deeplvm.cli.options import Device, Escape, Folder, Number, Seed, SplitOption, Trust, whole
from deeplvm.registry import Bounds

End = Annotated[
    str, Parameter(help="The number of a row, from 0 on; a file of one row; or a text.")
]


def interpolate(
    run: Folder,
    first: End,
    last: End,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    escape_formulas: Escape = False,
    steps: Annotated[int, Bounds(2, 10_000), Parameter(converter=whole)] = 8,
    spherical: bool = False,
    beam: Number | None = None,
    data: str | None = None,
    split: SplitOption = None,
    seed: Seed = 0,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Go from the code of one row to that of another, and write what is decoded on the way.

    Codes are the means of q(z | x). A label that both rows share is kept, and one that differs is
    that of the first row up to the middle. Of sequences with latents of each step, the steps that
    both rows have are written.

    Args:
        output: Texts a line (.txt), a table (.csv, .parquet, .npz), images, lines or molecules
            side by side (.png; of images the two rows at the ends), of sequences also music
            (.mid). Texts are printed where none is named.
        steps: How many codes, those of both rows among them.
        spherical: Along an arc instead of a line, so that codes in the middle are as far from 0.
        beam: Of texts, how many beginnings the search for the most probable text keeps, 5 by
            default; 1 takes the most probable word each time.
        data: Other data, read as the run's own were, whose rows are meant by numbers.
        split: Of which rows of the run's own data the numbers are; test by default.
        seed: Of draws, where no mean is known.
    """
    from deeplvm.cli.outputs import PICTURES, TABLES, check_output, refuse_overwriting
    from deeplvm.cli.sequences import MUSIC, length_of
    from deeplvm.cli.texts import ENDINGS
    from deeplvm.devices import place
    from deeplvm.inference.interpolation import codes_between
    from deeplvm.inference.texts import names_of
    from deeplvm.runs.run import open_run

    opened = open_run(run, trust=trust)
    of_texts = bool(names_of(opened.description))
    if output is None and not of_texts:
        raise ValueError("Where to? -o way.png, way.csv or way.npz, say; only texts are printed.")
    to = Path("way.txt") if output is None else output
    ending = check_output(to, (*PICTURES, *TABLES, *ENDINGS, *MUSIC))
    refuse_overwriting(to, opened.config.data, data, *[e for e in (first, last) if _is_path(e)])
    only_texts(opened, to, beam=beam)
    only_images(opened, to, picture=ending in PICTURES)
    of_sequences(opened, **{f"-o {output}": ending in MUSIC})
    ends = [_row(opened, word, data, split) for word in (first, last)]
    model = opened.model.to(place(device))
    between = codes_between(
        model, *ends, points=steps, spherical=spherical, seed=seed
    )  # fmt: skip
    for name in between.turned:
        note(f"{name} has no values in between: that of the first row up to the middle")
    if between.steps is not None:
        note(f"the first {between.steps} steps, which both rows have")
    if of_texts:
        _write_texts(opened, model, between, ends, output, beam, seed)
        return
    values = _decoded(opened, model, between, seed)
    columns = None
    if ending in PICTURES and length_of(opened.description) is None:
        values, columns = _beside_ends(opened.description.picture, values, ends), steps + 2

    how = {"mean": True, "escape": escape_formulas, "opened": opened}
    save_values(to, values, opened.description, columns, **how)


def _is_path(word: str) -> bool:
    """Whether there is such a file; a text of any length may be none, and no text is none."""
    return bool(word.strip()) and os.path.exists(Path(word).expanduser())


def _row(opened: Any, word: str, source: str | None, split: Any) -> Any:
    """One row: by its number, of a file, or a text itself."""
    from deeplvm.data import load
    from deeplvm.data.tokens import SPECIAL, UNKNOWN
    from deeplvm.inference.texts import BETWEEN, names_of

    if word.isdecimal():
        rows = opened.read(source)
        chosen = split_meant(rows, split)
        if int(word) >= rows.rows(chosen):
            raise ValueError(
                f"There is no row {word}: {rows.name} has {rows.rows(chosen)} {chosen} rows, "
                f"numbered from 0."
            )
        return rows[chosen][int(word) : int(word) + 1]
    texts = names_of(opened.description)
    if _is_path(word):
        rows = opened.read(word).test
        if rows.rows != 1:
            raise ValueError(
                f"{word} has {rows.rows} rows, of which one is meant: give --data {word}, and the "
                f"row's number."
            )
        return rows
    if not texts:
        raise ValueError(
            f"{word!r} is neither the number of a row, from 0 on, nor a file of one row."
        )
    if not word.strip():
        raise ValueError("A text without a word has no code; write one, or the number of a row.")
    several = bool(opened.description.variables[texts[0]].shape)
    rows = load([word.split(BETWEEN)] if several else [word], like=opened.description).test
    if unknown := int((rows[texts[0]][:] == UNKNOWN).sum()):
        note(f"{word!r}: tokens that are not in the vocabulary, {SPECIAL[UNKNOWN]}: {unknown}")
    return rows


def _write_texts(
    opened: Any, model: Any, between: Any, ends: Any, output: Path | None, beam: Any, seed: int
) -> None:
    """Texts on the way, each the most probable one of its code."""
    from deeplvm.cli import texts
    from deeplvm.cli.outputs import given
    from deeplvm.evaluation.molecules import readable
    from deeplvm.inference.texts import BEAM, as_texts, decoded_texts, names_of

    description, (name,) = opened.description, names_of(opened.description)
    width, known = BEAM if beam is None else beam, {**between.known, **between.codes}
    found, searched = decoded_texts(model, known, description, beam=width, seed=seed)
    if beam is not None and not searched:
        raise ValueError(texts.NO_BEAMS)
    for which, end in zip(("from", "to"), ends, strict=True):
        note(f"{which}: {as_texts({n: end[n][:] for n in end}, description)[name][0]}")
    if output is None:
        tell("\n".join([" ".join(each.splitlines()) for each in found]))
    else:
        beside = _decoded(opened, model, between, seed, without=(name,))
        texts.save_texts(output, {name: found}, given(beside, description, mean=True))
        how = f"the most probable, by {width} beams" if searched else texts.GREEDY
        note(f"{output}: {len(found)} texts, {how}")
    if said := readable(found, description):
        note(said)


def _decoded(
    opened: Any, model: Any, between: Any, seed: int, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Means of what p makes of the codes, with what it was given."""
    from deeplvm.distributions.centre import centre, has_centre
    from deeplvm.inference.interpolation import decoded

    description = opened.description
    if set(description.variables) <= set(without):
        return {}
    trace, values = decoded(model, between, seed=seed), dict[str, Any]()
    for name in [n for n in description.variables if n in trace and n not in without]:
        own = trace[name].distribution
        known = own is not None and has_centre(own)
        values[name] = (centre(own) if known else trace[name].value).cpu()
        if not known and name not in (*between.known, *between.noise):
            note(f"{name}: draws from p({name} | z), which has no mean that is known")
    lengths = {each.length for each in description.variables.values()} - {None}
    values |= {name: trace[name].value.cpu() for name in lengths if name in trace and not without}
    kept = {n: v for n, v in between.known.items() if n in (*description.variables, "y", *lengths)}
    return values | {n: v.cpu() for n, v in kept.items() if n not in without}


def _beside_ends(variable: Any, values: dict[str, Any], ends: Any) -> dict[str, Any]:
    """Images between the two that they are on the way between."""
    import torch

    first, last = [end.batch(slice(None), [variable.name])[variable.name] for end in ends]
    found = values[variable.name]
    sides = [each.nan_to_num(0.0).to(found) for each in (first, last)]
    return {variable.name: torch.cat([sides[0], found, sides[1]])}
