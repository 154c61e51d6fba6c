"""Texts of a model as they are read: decoded, passed through the latents, between two codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deeplvm.core.draws import Sampled
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.inference.beam_search import beam_search
from deeplvm.inference.interpolation import AtMiddle, codes_between
from deeplvm.inference.latent_search import visited
from deeplvm.randomness import evaluating

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Description, Selection

BEAM = 5
BETWEEN = " | "  # the texts of a row
_ROWS = 100  # whose beams are followed at a time
_LONGEST = 2  # times the longest of training


def names_of(description: Description) -> tuple[str, ...]:
    """The names of which a row is a text, or several."""
    found = description.variables.items()
    return tuple([n for n, v in found if v.kind == "token" and v.length is not None])


def captions_of(description: Description) -> tuple[str, ...]:
    """The names of texts that say something of a row, which is none itself."""
    found = description.variables.items()
    return tuple([n for n, v in found if v.kind == "token" and v.length is None])


def as_texts(values: Mapping[str, Any], description: Description) -> dict[str, list[str]]:
    """The texts among some values ``(rows, steps)``, by name.

    Of rows of several texts, ``(rows, texts, tokens)``, these are one after another, as many as
    the lengths say that are among the values.
    """
    found = {}
    for name in names_of(description):
        if name in values:
            vocabulary, rows = vocabulary_of(description, name), values[name].tolist()
            if description.variables[name].shape:
                turns = [[vocabulary.decode(turn) for turn in row] for row in rows]
                counts = values.get(description.variables[name].length or "")
                if counts is not None:
                    turns = [row[: int(n)] for row, n in zip(turns, counts, strict=True)]
                texts = [BETWEEN.join(row) for row in turns]
                found[name] = [e.rstrip(BETWEEN) for e in texts] if counts is None else texts
            else:
                found[name] = [vocabulary.decode(row) for row in rows]
    return found


def reconstructed_texts(
    model: LatentVariableModel, rows: Selection, *, beam: int = BEAM, seed: int = 0
) -> tuple[dict[str, list[str]], bool]:
    """Texts, called ``x_original``, and the most probable ones at a draw of z from q(z | x).

    Returns:
        By name, and whether beams searched for the latter; else each word is the most probable
        one: where a row is several texts, or p does not draw rows to their end.

    Raises:
        ValueError: If there are no latents, or the rows are no texts.
    """
    description, name = _read_of(model, rows)
    originals, found, searched = list[str](), list[str](), True
    for start in range(0, rows.rows, _ROWS):
        given = _given(model, rows[start : start + _ROWS])
        with evaluating(model, seed):
            posterior = model.posterior(given, default=Sampled())
            known = {n: v for n, v in given.items() if n in (*model.p.inputs, *model.causes)}
            known |= {n: s.value for n, s in posterior.items() if s.drawn and n in model.p.names}
        texts, searched = decoded_texts(model, known, description, beam=beam, seed=seed)
        originals += as_texts(given, description)[name]
        found += texts
    return {f"{name}_original": originals, name: found}, searched


def decoded_texts(
    model: LatentVariableModel,
    known: Mapping[str, Any],
    description: Description,
    *,
    beam: int = BEAM,
    seed: int = 0,
) -> tuple[list[str], bool]:
    """The most probable texts at given latents, and whether beams searched for them.

    Args:
        model: That has one name of texts.
        known: Latents, and what p is given beside them, each ``(rows, *event)``.
        description: Of the data.
        beam: How many beginnings are kept.
        seed: Of draws, where p knows no most probable value.
    """
    (name,) = names_of(description)
    longest = _LONGEST * max(description.lengths, default=500)
    with evaluating(model, seed):
        try:
            tokens = beam_search(model.p, known, name, width=beam, longest=longest)[0]
            searched = True
        except ValueError:  # no one recurrence ends the rows
            given = {n: model.site(n, value) for n, value in known.items()}
            rows = len(next(iter(known.values())))
            tokens = model.p(given, (rows,), default=AtMiddle())[name].value
            searched = False
    return as_texts({**known, name: tokens}, description)[name], searched


def texts_of_more(
    model: LatentVariableModel,
    rows: Selection,
    name: str,
    number: int,
    *,
    lowest: bool = False,
    read: Callable[[str], str | None] | None = None,
    measure: Callable[[str], float] | None = None,
    seed: int = 0,
) -> tuple[dict[str, tuple[float, float]], int]:
    """Different texts with most of a property, found by climbing in latent space.

    The way leads from the codes of the rows of which most is predicted
    (:func:`~deeplvm.inference.visited`); at each code on it the most probable text, word by word,
    and a drawn one are looked at.

    Args:
        model: With ``p(name | z)``.
        rows: Where to start: the training rows.
        name: The property.
        number: How many texts, at most.
        lowest: Those with least of it.
        read: From a text to the one way in which it is written, ``None`` where it is not valid.
        measure: The property of a valid text; without it what is predicted is compared.
        seed: Same seed, same texts.

    Returns:
        The texts, the best first, each with what is predicted at its code and what is measured
        (NaN where nothing is); and how many others cannot be read.
    """
    description, own = _read_of(model, rows)
    codes, values = visited(model, rows, name, number=number, lowest=lowest, seed=seed)
    found, broken, forms = dict[str, tuple[float, float]](), set[str](), set[str]()
    for start in range(0, len(codes), _ROWS):
        known = {"z": codes[start : start + _ROWS]}
        with evaluating(model, seed + start):
            drawn = as_texts({own: model.sample(given=known)[own].value}, description)[own]
        likely, _ = decoded_texts(model, known, description, beam=1, seed=seed)
        told = values[start : start + _ROWS].tolist()
        for text, value in zip((*likely, *drawn), (*told, *told), strict=True):
            form = text if read is None else read(text)
            if form is None:
                broken.add(text)
            elif form not in forms:
                forms.add(form)
                found[text] = (value, math.nan if measure is None else measure(text))
    key = 0 if measure is None else 1
    order = sorted(found, key=lambda text: found[text][key], reverse=not lowest)[:number]
    return {text: found[text] for text in order}, len(broken)


def texts_between(
    model: LatentVariableModel,
    rows: Selection,
    *,
    points: int = 5,
    spherical: bool = False,
    beam: int = BEAM,
) -> list[str]:
    """The most probable texts on the way from the code of the first row to that of the second.

    Args:
        model, beam: As for :func:`reconstructed_texts`.
        rows: Two rows.
        points, spherical: As for :func:`~deeplvm.inference.interpolation.codes_between`.

    Raises:
        ValueError: If the rows are no texts, or there is nothing in between.
    """
    description, _ = _read_of(model, rows)
    between = codes_between(model, rows[:1], rows[1:2], points=points, spherical=spherical)
    return decoded_texts(model, {**between.known, **between.codes}, description, beam=beam)[0]


def _given(model: LatentVariableModel, rows: Selection) -> dict[str, Tensor]:
    like = next(model.parameters())
    given = rows.batch(slice(None), [name for name in rows if name in model.names], like.dtype)
    return {name: value.to(like.device) for name, value in given.items()}


def _read_of(model: LatentVariableModel, rows: Selection) -> tuple[Description, str]:
    """The description of the rows, and the name of the text."""
    description = rows.description
    names = () if description is None else names_of(description)
    if description is None or len(names) != 1:
        raise ValueError("These rows are no texts of one name.")
    if names[0] not in model.p.names:
        raise ValueError(
            f"The model says of {names[0]} what the label is, and makes no texts: deeplvm score "
            f"RUN DATA --classes tells the probability of each label."
        )
    if not model.q.names:
        raise ValueError(
            "The model draws no latents, so rows pass through nothing: draw new ones (deeplvm "
            "sample)."
        )
    return description, names[0]
