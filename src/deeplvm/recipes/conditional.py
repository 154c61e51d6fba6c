"""Models of x given a label."""

from __future__ import annotations

from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.labelled import Indicator, labels_of
from deeplvm.recipes.plain import at_least_one, observed, seen


def conditional_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder of x given its label, p(x | y).

    Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et
    al., 2015), https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models

    The label y is an input of p and of q, never scored: likelihoods are of x given y.

    Args:
        data: What is modelled, with labels.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x and y to z; those of p in reverse.
        posterior: Family of q(z | x, y), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data have no labels, or not in every row.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = observed(data)
    classes = labels_of(data, "conditional_vae", "x given a label", everywhere=True)
    label = Indicator(classes)
    first, *further = hidden or (latent,)
    return LatentVariableModel(
        Joint(
            {
                "c | y": label,
                "z": prior_of(prior, latent),
                "x | z, c": likelihood_of(x, MLP(latent + classes, *hidden[::-1])),
            }
        ),
        Joint(
            {
                "c | y": label,
                "h | x": MLP(seen(x), first),
                "z | h, c": posterior_of(
                    posterior, latent, MLP(first + classes, *(further or (first,)))
                ),
            }
        ),
    )
