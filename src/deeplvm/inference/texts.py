"""Texts of a model as they are read: decoded, passed through the latents, between two codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deeplvm.core.draws import Sampled
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.inference.beam_search import beam_search
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

    Of rows of several texts, ``(rows, texts, tokens)``, these are one after another.
    """
    found = {}
    for name in names_of(description):
        if name in values:
            vocabulary, rows = vocabulary_of(description, name), values[name].tolist()
            if description.variables[name].shape:
                turns = [[vocabulary.decode(turn) for turn in row] for row in rows]
                found[name] = [BETWEEN.join(row).rstrip(BETWEEN) for row in turns]
            else:
                found[name] = [vocabulary.decode(row) for row in rows]
    return found


def reconstructed_texts(
    model: LatentVariableModel, rows: Selection, *, beam: int = BEAM, seed: int = 0
) -> tuple[dict[str, list[str]], bool]:
    """Texts, called ``x_original``, and the most probable ones at a draw of z from q(z | x).

    Returns:
        By name, and whether the latter are draws: where p does not draw its rows to their end.

    Raises:
        ValueError: If there are no latents, or the rows are no texts.
    """
    description, name = _read_of(model, rows)
    originals, found, drawn = list[str](), list[str](), False
    for start in range(0, rows.rows, _ROWS):
        given = _given(model, rows[start : start + _ROWS])
        with evaluating(model, seed):
            posterior = model.posterior(given, default=Sampled())
            known = {n: v for n, v in given.items() if n in model.p.inputs}
            known |= {n: s.value for n, s in posterior.items() if s.drawn and n in model.p.names}
            try:
                tokens = _most_probable(model, known, name, description, beam)
            except ValueError:
                drawn = True
                tokens = model.reconstruct(given)[name].value
        originals += as_texts({name: given[name]}, description)[name]
        found += as_texts({name: tokens}, description)[name]
    return {f"{name}_original": originals, name: found}, drawn


def texts_between(
    model: LatentVariableModel, rows: Selection, *, points: int = 5, beam: int = BEAM
) -> list[str]:
    """The most probable texts on the line from the code of the first row to that of the second.

    Codes are the means of q(z | x), of a model with one latent.

    Args:
        model, beam: As for :func:`reconstructed_texts`.
        rows: Two rows.
        points: How many, the two ends among them.

    Raises:
        ValueError: If the model has several latents, or what it reads else differs.
    """
    description, name = _read_of(model, rows)
    given = _given(model, rows[:2])
    with evaluating(model, 0):
        posterior = model.posterior(given, default=Sampled())
    latents = [n for n, s in posterior.items() if s.drawn and n in model.p.names]
    if len(latents) != 1 or any([n in model.p.inputs for n in given]):
        raise ValueError(
            f"Between two texts one code moves, and this model has {', '.join(latents)} and "
            f"what it is given."
        )
    (latent,) = latents
    own: Any = posterior[latent].distribution
    ends = own.mean
    share = torch.linspace(0, 1, points, device=ends.device).to(ends)
    share = share.reshape(-1, *[1] * (ends.dim() - 1))
    codes = {latent: torch.lerp(ends[:1], ends[1:2], share)}
    with evaluating(model, 0):
        tokens = _most_probable(model, codes, name, description, beam)
    return as_texts({name: tokens}, description)[name]


def _most_probable(
    model: LatentVariableModel,
    known: Mapping[str, Any],
    name: str,
    description: Description,
    beam: int,
) -> Tensor:
    longest = _LONGEST * max(description.lengths, default=500)
    return beam_search(model.p, known, name, width=beam, longest=longest)[0]


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
    if not model.q.names:
        raise ValueError(
            "The model draws no latents, so rows pass through nothing: draw new ones (deeplvm "
            "sample)."
        )
    return description, names[0]
