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
from deeplvm.recipes.plain import at_least_one
from deeplvm.recipes.words import dropped, reader, text_of
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear

# Of a batch half have a label, if few have: else most batches would have none.
_TRAINED: dict[str, Any] = {
    "objective": semi_supervised_elbo, "draw": {"y": Enumerated()}, "labelled": 0.5,
    "kl_weight": linear(10), "batch_size": 32, "clip": 5.0, "averaging": 0.0,
}  # fmt: skip


@trained_with(**_TRAINED)
def semi_supervised_text(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    state: int = 128,
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
        state: Width of each recurrent network.
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
    at_least_one(latent=latent, features=features, state=state)
    text, classes = text_of(data, name), labels_of(data, name, "a text and its label")
    words = Recurrent(
        {
            **dropped(features, keep),
            "h | v, y, z, h[-1]": GRU(features + classes + latent, state),
            "x | h": text.word(state, features),
        },
        outside=["y", "z"],
        **text.ends(start={"h": state}),
    )
    q = posterior_of(posterior, latent, MLP(2 * state + classes))
    return LatentVariableModel(
        Joint(
            {
                "y": Categorical(classes),
                "z": prior_of(prior, latent),
                "v, h, x, n | y, z": words,
            }
        ),
        Joint(
            {
                **reader(features, state),
                "y | s": Categorical(classes, MLP(2 * state)),
                "z | s, y": q,
            }
        ),
    )
