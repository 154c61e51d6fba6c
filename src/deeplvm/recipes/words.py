"""What recipes of texts have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from deeplvm.conditionals import Tokens
from deeplvm.data.records import Data, Description
from deeplvm.networks import Features, MeanPool, SequenceEncoder, WordDropout
from deeplvm.recipes.catalogue import RecipeError, of_group
from deeplvm.recipes.plain import sequence_of


class Text(NamedTuple):
    """What a recipe of texts needs to know of the data.

    Attributes:
        vocabulary: How many tokens there are, 0 the end of a text.
        longest: How many steps the longest training row has.
    """

    vocabulary: int
    longest: int

    def word(self, network: nn.Module | int, features: int) -> Tokens:
        """A word given features of this width, or of a network of the parents."""
        if isinstance(network, int):
            network = Features(nn.Identity(), network)
        return Tokens(self.vocabulary, network, features=features)

    def ends(self, *, start: dict[str, Any] | None = None, length: str = "n") -> dict[str, Any]:
        """Options of the Recurrent of its words: where they begin and end, and what is outside."""
        before: dict[str, Any] = {"x": torch.tensor(0), **(start or {})}
        return {"start": before, "end": {"x": 0}, "length": length, "repeats": self.longest}


def text_of(data: Data | Description, recipe: str) -> Text:
    """The text that a recipe models.

    Raises:
        RecipeError: If the data are no texts.
    """
    about = data if isinstance(data, Description) else data.description
    x = data.variables.get("x")
    if x is None or x.kind != "token" or x.shape:
        others = "take the recipe vae"
        if x is not None and x.length is not None:
            others = f"take a recipe of sequences ({', '.join(of_group('Sequences'))})"
        raise RecipeError(
            f"{recipe} models texts, the words of each row one after another, but x of "
            f"{data.name} is {x}; {others}."
        )
    sequence_of(data, recipe)
    return Text(x.levels or 2, max(about.lengths, default=1))


def reader(features: int, state: int, *, words: str = "x") -> dict[str, nn.Module]:
    """``s``, of twice the width of a state: the mean of a network that reads both ways."""
    return {
        f"r | {words}, n": SequenceEncoder(features, state),
        "s | r, n": MeanPool(2 * state),
    }


def dropped(features: int, keep: float) -> dict[str, nn.Module]:
    """``v``, the word before, as far as it is kept.

    Raises:
        RecipeError: If the rate is no share.
    """
    if not 0 <= keep <= 1:
        raise RecipeError(f"keep is a share of the words, 0 to 1, not {keep:g}.")
    return {"v | x[-1]": WordDropout(features, keep)}
