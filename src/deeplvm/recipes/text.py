"""Texts: a language model, and the variational autoencoder of sentences."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.likelihood_table import LIKELIHOODS
from deeplvm.data.ragged import LENGTH
from deeplvm.data.records import Data, Description
from deeplvm.data.tokens import END
from deeplvm.data.variable import Variable
from deeplvm.networks import GRU, LSTM, Ends, Features, Output, SequenceEncoder, WordDropout
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.plain import at_least_one, text_of
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import logistic

Cell = Literal["lstm", "gru"]


# A long gradient is what recurrent networks are known for.
@trained_with(clip=5.0)
def recurrent_language_model(
    data: Data | Description,
    *,
    features: int = 128,
    hidden: int = 256,
    keep: float = 1.0,
    dropout: float = 0.2,
    cell: Cell = "lstm",
) -> LatentVariableModel:
    r"""Language model: each word given those before it, by a recurrent network; exact.

    .. math:: p(x) = \prod_{t=1}^{n} p(x_t | x_1, \dots, x_{t-1})

    The last :math:`x_n` is the end of the text, so that these are probabilities of all texts.

    Recurrent neural network based language model (Mikolov et al., 2010),
    https://www.isca-archive.org/interspeech_2010/mikolov10_interspeech.html

    Args:
        data: Texts.
        features: Width of a word's vector.
        hidden: Width of the network's output.
        keep: Which share of the words before it sees in training; of 0 it never sees any.
        dropout: Which share of that output is left out in training.
        cell: "lstm" or "gru".

    Raises:
        RecipeError: If the data are no texts.
    """
    at_least_one(features=features, hidden=hidden)
    x = text_of(data, "recurrent_language_model")
    read, word = _read(keep, features)
    step = {
        **read,
        f"h | {word}, h[-1]": _cell(cell, features, hidden),
        "x | h": _words(x, features, hidden, cell, dropout),
    }
    start = {"h": _width(cell, hidden), "x": torch.tensor(END)}
    decoder = Recurrent(step, start=start, length=LENGTH, end={"x": END})
    return LatentVariableModel(Joint({", ".join(decoder.names): decoder}))


# The logistic schedule and the words left out are what the paper found to keep z in use.
@trained_with(clip=5.0, kl_weight=logistic(midpoint=4.0, steepness=1.5))
def sentence_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    features: int = 128,
    hidden: int = 256,
    keep: float = 0.62,
    dropout: float = 0.2,
    cell: Cell = "lstm",
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder of sentences: a code of the whole, and a recurrent decoder.

    .. math:: p(x, z) = p(z) \prod_{t=1}^{n} p(x_t | x_1, \dots, x_{t-1}, z)

    The decoder begins at a state made of z and reads z beside each word; in training it does not
    see all words, ``keep`` of them, so that z has something to say. q(z | x) reads the text in
    both directions.

    Generating Sentences from a Continuous Space (Bowman et al., 2016),
    https://arxiv.org/abs/1511.06349

    Args:
        data: Texts.
        latent: Dimensions of z.
        features: Width of a word's vector.
        hidden: Width of the outputs of both networks.
        keep: Which share of the words the decoder sees in training; measured, and for draws, it
            sees all. 0 is the inputless decoder, which never sees any.
        dropout: Which share of the decoder's output is left out in training.
        cell: "lstm" or "gru", of the decoder.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no texts, or a share is none.
    """
    at_least_one(latent=latent, features=features, hidden=hidden)
    x, width = text_of(data, "sentence_vae"), _width(cell, hidden)
    read, word = _read(keep, features)
    decoder = Recurrent(
        {
            **read,
            f"h | {word}, z, h[-1]": _cell(cell, features + latent, hidden),
            "x | h": _words(x, features, hidden, cell, dropout),
        },
        start={"h": "s", "x": torch.tensor(END)},
        outside=["z"],
        length=LENGTH,
        end={"x": END},
    )
    begin = Features(nn.Sequential(nn.Linear(latent, width), nn.Tanh()), width)
    names = ", ".join(decoder.names)
    p = {"z": prior_of(prior, latent, None), "s | z": begin, f"{names} | z, s": decoder}
    code = Features(Ends(hidden), 2 * hidden)
    q = {
        f"a | x, {LENGTH}": SequenceEncoder(features, hidden),
        f"f | a, {LENGTH}": code,
        "z | f": posterior_of(posterior, latent, Features(nn.Identity(), 2 * hidden)),
    }
    return LatentVariableModel(Joint(p), Joint(q))


def _words(x: Variable, features: int, hidden: int, cell: Cell, dropout: float) -> nn.Module:
    """p(x | h), which starts at how often each token is there."""
    if not 0 <= dropout < 1:
        raise RecipeError(f"dropout is a share, 0 to below 1, not {dropout:g}.")
    out: list[nn.Module] = [Output()] if cell == "lstm" else []
    network = Features(nn.Sequential(*out, nn.Dropout(dropout)), hidden)
    return LIKELIHOODS[x.likelihood].of(x)(network=network, features=features)


def _read(keep: float, features: int) -> tuple[dict[str, nn.Module], str]:
    """What makes of the word before what the decoder reads, if anything, and its name."""
    if not 0 <= keep <= 1:
        raise RecipeError(f"keep is the share of the words that stay, 0 to 1, not {keep:g}.")
    return ({"e | x[-1]": WordDropout(features, keep)}, "e") if keep < 1 else ({}, "x[-1]")


def _cell(cell: Cell, features: int, hidden: int) -> nn.Module:
    if cell not in ("lstm", "gru"):
        raise RecipeError(f"cell is 'lstm' or 'gru', not {cell!r}.")
    return (LSTM if cell == "lstm" else GRU)(features, hidden)


def _width(cell: Cell, hidden: int) -> int:
    """Of the state of a cell."""
    return 2 * hidden if cell == "lstm" else hidden
