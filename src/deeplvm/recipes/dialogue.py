"""Dialogues, a latent a turn, and answers to questions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deeplvm.conditionals import BagOfWords, Categorical, Gaussian, Tokens
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.networks import (
    GRU,
    MLP,
    AttentionPool,
    Features,
    MeanPool,
    TextEncoder,
    WordCount,
    WordDropout,
)
from deeplvm.objectives import auxiliary_elbo
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import labels_of
from deeplvm.recipes.plain import at_least_one
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear

_TRAINED: dict[str, Any] = {
    "kl_weight": linear(10),
    "batch_size": 16,
    "clip": 5.0,
    "averaging": 0.0,
}


class Turns(NamedTuple):
    """What a recipe of dialogues needs to know of the data.

    Attributes:
        vocabulary: How many tokens there are, 0 the end of an utterance.
        words: How many the longest utterance has.
        turns: How many utterances the longest training row has.
    """

    vocabulary: int
    words: int
    turns: int


def turns_of(data: Data | Description, recipe: str) -> Turns:
    """The utterances that a recipe models.

    Raises:
        RecipeError: If the data are none.
    """
    about = data if isinstance(data, Description) else data.description
    x = data.variables.get("x")
    if x is None or x.kind != "token" or len(x.shape) != 1 or [*data.variables] != ["x"]:
        raise RecipeError(
            f"{recipe} models rows of several texts each, such as the turns of a dialogue, but x "
            f"of {data.name} is {x}; give a file of JSON lines, a list of texts a line, or take "
            f"the recipe {'sentence_vae' if x is not None and x.kind == 'token' else 'vae'}."
        )
    return Turns(x.levels or 2, x.shape[0], max(about.lengths, default=1))


def _dialogue(
    text: Turns,
    *,
    latent: int,
    features: int,
    state: int,
    hidden: tuple[int, ...],
    keep: float,
    bag: bool,
) -> LatentVariableModel:
    """Turns one after another, each with a latent, and its words one after another."""
    if not 0 <= keep <= 1:
        raise RecipeError(f"keep is a share of the words, 0 to 1, not {keep:g}.")
    said: dict[str, nn.Module] = {
        "v | x[-1]": WordDropout(features, keep),
        "h | v, z, c, h[-1]": GRU(features + latent + state, state),
        "x | h": Tokens(text.vocabulary, Features(nn.Identity(), state), features=features),
    }
    if bag:
        said["a | z, c, x"] = BagOfWords(text.vocabulary, MLP(latent + state, *hidden))
    names = [key.split(" ")[0] for key in said]
    words = Recurrent(
        said,
        outside=["z", "c"],
        start={"x": torch.tensor(0), "h": state},
        end={"x": 0},
        length="m",
        repeats=text.words,
    )
    encoder = TextEncoder(text.vocabulary, features, state)
    history: dict[str, nn.Module] = {
        "e | x": encoder,
        "c | e[-1], c[-1]": GRU(2 * state, state),
    }
    start = {"e": 2 * state, "c": state}
    p = Recurrent(
        {
            **history,
            "z | c": Gaussian(latent, MLP(state, *hidden)),
            f"{', '.join(names)}, m | z, c": words,
        },
        start=start,
        length="n",
    )
    q = Recurrent(
        {**history, "z | e, c": Gaussian(latent, MLP(3 * state, *hidden))}, start=start, length="n"
    )
    return LatentVariableModel(p, q)


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
    at_least_one(latent=latent, features=features, state=state, hidden=hidden)
    text = turns_of(data, "vhred")
    return _dialogue(
        text, latent=latent, features=features, state=state, hidden=hidden, keep=keep, bag=False
    )


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
    at_least_one(latent=latent, features=features, state=state, hidden=hidden)
    text = turns_of(data, "dialogue_cvae")
    return _dialogue(
        text, latent=latent, features=features, state=state, hidden=hidden, keep=keep, bag=True
    )


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

    Neural Variational Inference for Text Processing (Miao et al., 2016), section 3.2,
    https://arxiv.org/abs/1511.06038

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
    text = turns_of(data, name)
    about = data if isinstance(data, Description) else data.description
    if {*about.lengths} != {2}:
        raise RecipeError(
            f"{name} models rows of two texts, a question and an answer, but rows of {data.name} "
            f"have {min(about.lengths, default=0)} to {max(about.lengths, default=0)}; take the "
            f"recipe vhred."
        )
    classes = labels_of(data, name, "the label of a question and an answer")
    read = {
        "f | x": Turn(0, text.words),
        "a | x": Turn(1, text.words),
        "g | f": TextEncoder(text.vocabulary, features, state),
        "h | a": TextEncoder(text.vocabulary, features, state, pooled=False),
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
