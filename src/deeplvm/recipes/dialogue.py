"""Dialogues, a latent a turn, and answers to questions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from deeplvm.conditionals import BagOfWords, Categorical, Gaussian
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.ragged import LENGTH
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable, listed
from deeplvm.networks import (
    GRU,
    MLP,
    AttentionPool,
    MeanPool,
    TextEncoder,
    WordCount,
)
from deeplvm.objectives import auxiliary_elbo
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import labels_of
from deeplvm.recipes.plain import at_least_one
from deeplvm.recipes.words import decoded, ended
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear

_TRAINED: dict[str, Any] = {"clip": 5.0, "kl_weight": linear(10), "batch_size": 32}


def turns_of(data: Data | Description, recipe: str) -> Variable:
    """``"x"``, for a recipe of rows that are several texts: its shape is the words of the longest.

    Raises:
        RecipeError: If rows are something else.
    """
    x = data.variables.get("x")
    if x is None or x.kind != "token" or len(x.shape) != 1 or len(data.variables) > 1:
        found = listed([str(each) for each in data.variables.values()], 3) or "nothing"
        other = "sentence_vae" if x is not None and x.kind == "token" else "vae"
        raise RecipeError(
            f"{recipe} models rows of several texts, such as the turns of a dialogue, but "
            f"{data.name} has {found}; give JSON lines, a list of texts a line, or columns of a "
            f"table (--text question,answer), or take the recipe {other}."
        )
    return x


def _words(
    x: Variable, latent: int, features: int, state: int, keep: float
) -> dict[str, nn.Module]:
    """What is said in a turn."""
    at_least_one(latent=latent, features=features, state=state)
    cell = GRU(features + latent + state, state)
    return decoded(x, cell, "z, c, h[-1]", features=features, width=state, keep=keep)


def _dialogue(
    x: Variable,
    said: dict[str, nn.Module],
    latent: int,
    features: int,
    state: int,
    hidden: tuple[int, ...],
) -> LatentVariableModel:
    """Turns one after another, each with a latent and what is said."""
    at_least_one(hidden=hidden)
    words = Recurrent(said, outside=["z", "c"], **ended(x.shape[0], "m", h=state))
    history = {
        "e | x": TextEncoder(x.levels or 2, features, state),
        "c | e[-1], c[-1]": GRU(2 * state, state),
    }
    p = {
        "z | c": Gaussian(latent, MLP(state, *hidden)),
        f"{', '.join(words.names)} | z, c": words,
    }
    q = {"z | e, c": Gaussian(latent, MLP(3 * state, *hidden))}
    start = {"e": 2 * state, "c": state}
    return LatentVariableModel(
        Recurrent(history | p, start=start, length=LENGTH),
        Recurrent(history | q, start=start, length=LENGTH),
    )


@trained_with(**_TRAINED)
def vhred(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    state: int = 128,
    hidden: tuple[int, ...] = (128,),
    keep: float = 0.75,
) -> LatentVariableModel:
    r"""Dialogue with a latent an utterance: what is said follows from what was, word by word.

    .. math:: p(x, z) = \prod_t p(z_t | c_t) \prod_i p(x_{ti} | x_{t,1:i-1}, z_t, c_t), \qquad
              c_t = \mathrm{GRU}(e(x_{t-1}), c_{t-1})

    with e a network that reads an utterance both ways, and :math:`q(z_t | e(x_t), c_t)`. So a
    later turn says nothing of an earlier one.

    A Hierarchical Latent Variable Encoder-Decoder Model for Generating Dialogues (Serban et al.,
    2017), https://arxiv.org/abs/1605.06069

    Args:
        data: Rows of several texts, the turns of a dialogue.
        latent: Dimensions of z in each turn.
        features: Width of a word's vector.
        state: Width of each recurrent network.
        hidden: Widths of the hidden layers of p(z | c) and q(z | x, c).
        keep: Share of the words that the decoder sees in training; at 0 it never sees one.

    Raises:
        RecipeError: If a row is not several texts.
    """
    x = turns_of(data, "vhred")
    said = _words(x, latent, features, state, keep)
    return _dialogue(x, said, latent, features, state, hidden)


@trained_with(**_TRAINED, objective=auxiliary_elbo)
def dialogue_cvae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    state: int = 128,
    hidden: tuple[int, ...] = (128,),
    keep: float = 1.0,
) -> LatentVariableModel:
    r"""Responses given the dialogue before them, whose words are also known in any order.

    The model is that of ``vhred``, each turn a response to those before. Beside the bound the
    objective has the logarithm of :math:`\prod_i r(x_{ti} | z_t, c_t)`, of which no word sees
    another, so that z is used (the bag-of-words loss); another weight is ``--objective
    "auxiliary_elbo(weight=0.5)"``. What is measured is the bound without it.

    Learning Discourse-level Diversity for Neural Dialog Models using Conditional Variational
    Autoencoders (Zhao et al., 2017), https://arxiv.org/abs/1703.10960, without its dialogue acts

    Args:
        data: Rows of several texts, the turns of a dialogue.
        latent: Dimensions of z in each turn.
        features: Width of a word's vector.
        state: Width of each recurrent network.
        hidden: Widths of the hidden layers of p(z | c), q(z | x, c) and the bag of words.
        keep: Share of the words that the decoder sees in training; at 0 it never sees one.

    Raises:
        RecipeError: If a row is not several texts.
    """
    x = turns_of(data, "dialogue_cvae")
    said = _words(x, latent, features, state, keep)
    said["a | z, c, x"] = BagOfWords(x.levels or 2, MLP(latent + state, *hidden))
    return _dialogue(x, said, latent, features, state, hidden)


class Turn(nn.Module):
    """One of several texts: a node ``"a | x"``.

    Args:
        index: Which, from 0 on.
        words: How many the longest has.
    """

    accepts_missing = True  # words as numbers

    def __init__(self, index: int, words: int) -> None:
        super().__init__()
        self.index, self.out_features = index, words

    def forward(self, texts: Tensor) -> Tensor:
        """From ``(*particles, batch, texts, words)`` to ``(*particles, batch, words)``."""
        return texts[..., self.index, :]


@trained_with(**_TRAINED)
def answer_selection(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    state: int = 64,
    hidden: tuple[int, ...] = (64,),
) -> LatentVariableModel:
    r"""Whether an answer belongs to a question: a latent of the question attends to the answer.

    .. math:: p(y, z | q, a) = p(z | q)\, p(y | q, z, r), \qquad
              r = \sum_i w_i(z)\, h_i(a)

    with h the states of a network that reads the answer both ways, and w the attention of z to
    them. The texts are given; what is modelled, and scored, is the label. q reads question, answer
    and label.

    Neural Variational Inference for Text Processing (Miao et al., 2016),
    https://arxiv.org/abs/1511.06038, section 3.2

    Args:
        data: Rows of two texts, a question and an answer, with labels.
        latent: Dimensions of z.
        features: Width of a word's vector.
        state: Width of each recurrent network in each direction.
        hidden: Widths of the hidden layers of p(z | q), p(y | q, z, r) and q(z | q, a, y).

    Raises:
        RecipeError: If a row is not two texts, or the data have no labels.
    """
    name = "answer_selection"
    at_least_one(latent=latent, features=features, state=state, hidden=hidden)
    x = turns_of(data, name)
    vocabulary, words = x.levels or 2, x.shape[0]
    about = data if isinstance(data, Description) else data.description
    if {*about.lengths} != {2}:
        raise RecipeError(
            f"{name} models rows of two texts, a question and an answer, but rows of {data.name} "
            f"have {min(about.lengths, default=0)} to {max(about.lengths, default=0)}; take the "
            f"recipe vhred."
        )
    classes = labels_of(data, name, "the label of a question and an answer")
    read = {
        "f | x": Turn(0, words),
        "a | x": Turn(1, words),
        "g | f": TextEncoder(vocabulary, features, state),
        "h | a": TextEncoder(vocabulary, features, state, pooled=False),
        "k | a": WordCount(),
    }
    width = 2 * state
    return LatentVariableModel(
        Joint(
            {
                **read,
                "z | g": Gaussian(latent, MLP(width, *hidden)),
                "r | h, z, k": AttentionPool(width, latent),
                "y | g, z, r": Categorical(classes, MLP(2 * width + latent, *hidden)),
            }
        ),
        Joint(
            {
                **read,
                "b | h, k": MeanPool(width),
                "z | g, b, y": Gaussian(latent, MLP(2 * width + classes, *hidden)),
            }
        ),
    )
