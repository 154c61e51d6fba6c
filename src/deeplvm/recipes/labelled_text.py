"""Texts with a label, of which few are known: what they are of, or how they are meant."""

from __future__ import annotations

from typing import Any

from deeplvm.conditionals import Categorical
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.draws import Enumerated
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.networks import GRU, MLP
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.labelled import labels_of
from deeplvm.recipes.plain import at_least_one, text_of
from deeplvm.recipes.words import decoded, ended, longest_of, reader
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear

# Of a batch half have a label, if few have: else most batches would have none.
_TRAINED: dict[str, Any] = {
    "objective": semi_supervised_elbo, "draw": {"y": Enumerated()}, "labelled": 0.5,
    "clip": 5.0, "kl_weight": linear(10),
}  # fmt: skip


@trained_with(**_TRAINED)
def semi_supervised_text(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    hidden: int = 128,
    keep: float = 0.75,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Text given a label and a code independent of it, the label summed out where missing.

    .. math:: p(x, y, z) = p(y) p(z) \prod_t p(x_t | h_t), \qquad
              h_t = \mathrm{GRU}(x_{t-1}, y, z, h_{t-1})

    The classifier q(y | x) and the encoder q(z | x, y) each read the words both ways. Every word
    sees the label, as in the paper's conditional LSTM. Variational Autoencoder for Semi-Supervised
    Text Classification (Xu et al., 2017), https://arxiv.org/abs/1603.02514

    Args:
        data: Texts, with labels; NaN where one is missing.
        latent: Dimensions of z.
        features: Width of a word's vector.
        hidden: Width of each recurrent network, of q in each direction.
        keep: Share of the words that the decoder sees in training; at 0 it never sees one.
        posterior: Family of q(z | x, y), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no texts, or have no labels.
    """
    name = "semi_supervised_text"
    return _labelled(data, name, latent, features, hidden, keep, posterior, prior, apart=False)


@trained_with(**(_TRAINED | {"phases": "controlled"}))
def controllable_text_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    hidden: int = 128,
    keep: float = 0.75,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Text whose attribute can be chosen: drawn texts are judged by the model's own classifier.

    The model is :math:`p(y) p(z) p(x | y, z)`, with an encoder q(z | x) that does not read the
    attribute y and a classifier q(y | x). Beside the bound, p is moved so that soft words which it
    draws tell their attribute and their code, and the classifier by texts that p draws
    (:func:`~deeplvm.learning.controlled`; ``--phases "controlled(weight=1)"`` weighs it more).
    Draws of one attribute are ``deeplvm sample --given y``.

    Toward Controlled Generation of Text (Hu et al., 2017), https://arxiv.org/abs/1703.00955

    Args:
        data: Texts, with labels; NaN where one is missing.
        latent: Dimensions of z.
        features: Width of a word's vector.
        hidden: Width of each recurrent network, of q in each direction.
        keep: Share of the words that the decoder sees in training; at 0 it never sees one.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no texts, or have no labels.
    """
    name = "controllable_text_vae"
    return _labelled(data, name, latent, features, hidden, keep, posterior, prior, apart=True)


def _labelled(
    data: Data | Description,
    recipe: str,
    latent: int,
    features: int,
    hidden: int,
    keep: float,
    posterior: str,
    prior: str,
    *,
    apart: bool,
) -> LatentVariableModel:
    """A text of a label and a code; ``apart``, each is read by a network of its own."""
    at_least_one(latent=latent, features=features, hidden=hidden)
    x, classes = text_of(data, recipe), labels_of(data, recipe, "a text and its label")
    cell = GRU(features + classes + latent, hidden)
    words = Recurrent(
        decoded(x, cell, "y, z, h[-1]", features=features, width=hidden, keep=keep),
        outside=["y", "z"],
        **ended(longest_of(data), h=hidden),
    )
    of_label = reader(features, hidden, "l", "b") if apart else {}
    code = posterior_of(posterior, latent, MLP(2 * hidden + (0 if apart else classes)))
    return LatentVariableModel(
        Joint(
            {
                "y": Categorical(classes),
                "z": prior_of(prior, latent),
                f"{', '.join(words.names)} | y, z": words,
            }
        ),
        Joint(
            {
                **reader(features, hidden),
                **of_label,
                f"y | {'l' if apart else 's'}": Categorical(classes, MLP(2 * hidden)),
                f"z | s{'' if apart else ', y'}": code,
            }
        ),
    )
