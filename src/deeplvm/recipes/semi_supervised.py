"""Models of x and its label, of which few are known."""

from __future__ import annotations

from deeplvm.conditionals import Categorical, StandardNormal
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.core.draws import Enumerated
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, labels_of, observed, seen


@trained_with(objective=semi_supervised_elbo, draw={"y": Enumerated()})
def semi_supervised_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    posterior: str = "gaussian",
) -> LatentVariableModel:
    """Model M2: a label and a code that is independent of it, the label summed out where missing.

    Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
    https://arxiv.org/abs/1406.5298

    Args:
        data: What is modelled, with labels; NaN where one is missing.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to y and from x and y to z; those of p in
            reverse.
        posterior: Family of q(z | x, y), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.

    Raises:
        RecipeError: If the data have no labels.
    """
    at_least_one(latent=latent, hidden=hidden)
    classes, x = labels_of(data, "semi_supervised_vae", "x and its label"), observed(data)
    first, *further = hidden or (latent,)
    return LatentVariableModel(
        Joint(
            {
                "y": Categorical(classes),
                "z": StandardNormal(latent),
                "x | y, z": likelihood_of(x, MLP(classes + latent, *hidden[::-1])),
            }
        ),
        Joint(
            {
                "y | x": Categorical(classes, MLP(seen(x), *hidden)),
                "h | x": MLP(seen(x), first),
                "z | h, y": posterior_of(
                    posterior, latent, MLP(first + classes, *(further or (first,)))
                ),
            }
        ),
    )
