"""What recipes of texts have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deeplvm.data.likelihood_table import LIKELIHOODS
from deeplvm.data.ragged import LENGTH
from deeplvm.data.records import Data, Description
from deeplvm.data.tokens import END
from deeplvm.data.variable import Variable
from deeplvm.networks import Ends, Features, SequenceEncoder, WordDropout
from deeplvm.recipes.catalogue import RecipeError


def longest_of(data: Data | Description) -> int:
    """How many steps the longest training row has."""
    about = data if isinstance(data, Description) else data.description
    return max(about.lengths, default=1)


def word_of(x: Variable, width: int, features: int) -> nn.Module:
    """A word given features of this width, which others see by its row of a table."""
    of = LIKELIHOODS[x.likelihood].of(replace(x, shape=()))
    return of(network=Features(nn.Identity(), width), features=features)


def decoded(
    x: Variable,
    network: nn.Module,
    parents: str,
    *,
    features: int,
    width: int,
    keep: float = 1.0,
) -> dict[str, nn.Module]:
    """A word given what a network makes of the word before, as far as it is kept, and of others.

    Args:
        x: The words.
        network: Makes ``h`` of :func:`before` and of the parents.
        parents: What it reads beside that.
        features: Width of a word's vector.
        width: Of ``h``.
        keep: Share of the words that are seen in training.

    Raises:
        RecipeError: If that is no share.
    """
    if not 0 <= keep <= 1:
        raise RecipeError(f"keep is the share of the words that stay, 0 to 1, not {keep:g}.")
    word, read = before(keep), {"v | x[-1]": WordDropout(features, keep)}
    return {
        **(read if keep < 1 else {}),
        f"h | {word}, {parents}": network,
        "x | h": word_of(x, width, features),
    }


def before(keep: float) -> str:
    """The word before, as a decoder sees it: itself, where all are kept."""
    return "v" if keep < 1 else "x[-1]"


def ended(longest: int, length: str = LENGTH, **start: Any) -> dict[str, Any]:
    """Options of a Recurrent of words, which begins and ends with the end of a text."""
    before = {"x": torch.tensor(END), **start}
    return {"start": before, "end": {"x": END}, "length": length, "repeats": longest}


def reader(features: int, hidden: int, code: str = "s", states: str = "r") -> dict[str, nn.Module]:
    """A code of twice the width: the ends of a network that reads the words both ways."""
    return {
        f"{states} | x, {LENGTH}": SequenceEncoder(features, hidden),
        f"{code} | {states}, {LENGTH}": Ends(hidden),
    }
