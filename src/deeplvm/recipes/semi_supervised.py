"""Models of x and its label, of which few are known."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.draws import Enumerated
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.objectives import elbo, fair_elbo, semi_supervised_elbo
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.conditional import conditional_vae
from deeplvm.recipes.labelled import labels_of
from deeplvm.recipes.plain import aggregated, at_least_one, observed, seen
from deeplvm.training.schedules import linear

# Of a batch half have a label, if few have: else most batches would have none.
_with_few_labels = partial(
    trained_with, objective=semi_supervised_elbo, draw={"y": Enumerated()}, labelled=0.5
)


@_with_few_labels()
def semi_supervised_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    posterior: str = "gaussian",
    prior: str = "gaussian",
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
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

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
                "z": prior_of(prior, latent),
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


class Detached(nn.Module):
    """Values as data: no gradient goes back to what computed them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.out_shape = (size,)

    def forward(self, values: Tensor) -> Tensor:
        """The same values, shape ``(*particles, batch, size)``."""
        return values.detach()


@_with_few_labels(objective=elbo, kl_weight=linear(20))
def m1(
    data: Data | Description,
    *,
    latent: int = 50,
    hidden: tuple[int, ...] = (600, 600),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Model M1: a variational autoencoder, and a classifier of its codes, which learns from few.

    The classifier is p(y | z), a linear one of draws of q(z | x), where the paper has a support
    vector machine; it does not reach the codes. Semi-Supervised Learning with Deep Generative
    Models (Kingma et al., 2014), https://arxiv.org/abs/1406.5298

    Args:
        data: What is modelled, with labels; NaN where one is missing.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.

    Raises:
        RecipeError: If the data have no labels.
    """
    at_least_one(latent=latent, hidden=hidden)
    classes, x = labels_of(data, "m1", "x and its label"), observed(data)
    codes, classifier = Detached(latent), Categorical(classes, MLP(latent))
    row = likelihood_of(x, MLP(latent, *hidden[::-1]))
    q = Gaussian(latent, MLP(seen(x), *hidden))
    return LatentVariableModel(
        Joint(
            {
                "z": prior_of(prior, latent, aggregated(q, row, data)),
                "x | z": row,
                "f | z": codes,
                "y | f": classifier,
            }
        ),
        Joint(
            {
                "z | x": q,
                "f | z": codes,
                "y | f": classifier,  # p's own: a label that is missing costs nothing
            }
        ),
    )


# Without the rising weight the 50 codes are given up in the first thousand steps. From labelled
# rows that count for less p(z1 | y, z2) learns too little of the classes, from a half by heart.
@_with_few_labels(
    objective=partial(semi_supervised_elbo, share=0.25),
    labelled=0.25, phases="stacked", averaging=0.999, kl_weight=linear(20),
)  # fmt: skip
def m1_m2(
    data: Data | Description,
    *,
    latent: int = 10,
    features: int = 50,
    hidden: tuple[int, ...] = (600, 600),
    upper: tuple[int, ...] = (300,),
) -> LatentVariableModel:
    """Model M1+M2: the codes of a variational autoencoder, modelled by a label and a code.

    Stacked, as in the paper: the lower layer learns by itself, the upper one from what that says
    of the data (:func:`~deeplvm.learning.stacked`; in Python without these phases both learn
    jointly). Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
    https://arxiv.org/abs/1406.5298

    Args:
        data: What is modelled, with labels; NaN where one is missing.
        latent: Dimensions of z2, the code beside the label; 50 in the paper, with which 100
            labels among 50,000 digits left q(y | z1) at twice the error.
        features: Dimensions of z1, the code of x.
        hidden: Widths of the hidden layers of q(z1 | x); those of p(x | z1) in reverse.
        upper: Widths of the hidden layers between z1, y and z2.

    Raises:
        RecipeError: If the data have no labels.
    """
    at_least_one(latent=latent, features=features, hidden=hidden, upper=upper)
    classes, x = labels_of(data, "m1_m2", "x and its label"), observed(data)
    return LatentVariableModel(
        Joint(
            {
                "y": Categorical(classes),
                "z2": StandardNormal(latent),
                "z1 | y, z2": Gaussian(features, MLP(classes + latent, *upper[::-1])),
                "x | z1": likelihood_of(x, MLP(features, *hidden[::-1])),
            }
        ),
        Joint(
            {
                "z1 | x": Gaussian(features, MLP(seen(x), *hidden)),
                "y | z1": Categorical(classes, MLP(features, *upper)),
                "z2 | z1, y": Gaussian(latent, MLP(features + classes, *upper)),
            }
        ),
    )


@_with_few_labels()
def auxiliary_semi_supervised_vae(
    data: Data | Description,
    *,
    latent: int = 100,
    auxiliary: int = 100,
    hidden: tuple[int, ...] = (500, 500),
) -> LatentVariableModel:
    """Auxiliary deep generative model: M2 whose label and code q reads with an auxiliary variable.

    p guesses a back by p(a | x, y, z), which leaves p(x, y, z) as it was. Auxiliary Deep
    Generative Models (Maaløe et al., 2016), https://arxiv.org/abs/1602.05473

    Args:
        data: What is modelled, with labels; NaN where one is missing.
        latent: Dimensions of z.
        auxiliary: Dimensions of a.
        hidden: Widths of the hidden layers of each network, those of p(x | y, z) in reverse.

    Raises:
        RecipeError: If the data have no labels.
    """
    at_least_one(latent=latent, auxiliary=auxiliary, hidden=hidden)
    name = "auxiliary_semi_supervised_vae"
    classes, x = labels_of(data, name, "x and its label"), observed(data)
    first, *further = hidden or (latent,)
    return LatentVariableModel(
        Joint(
            {
                "y": Categorical(classes),
                "z": StandardNormal(latent),
                "x | y, z": likelihood_of(x, MLP(classes + latent, *hidden[::-1])),
                "g | x": MLP(seen(x), first),
                "a | g, y, z": Gaussian(auxiliary, MLP(first + classes + latent, *further)),
            }
        ),
        _auxiliary_posterior(seen(x), classes, latent, auxiliary, hidden),
    )


@_with_few_labels()
def skip_semi_supervised_vae(
    data: Data | Description,
    *,
    latent: int = 100,
    auxiliary: int = 100,
    hidden: tuple[int, ...] = (500, 500),
) -> LatentVariableModel:
    """Skip deep generative model: two layers of codes and a label, all read by p(x | a, y, z).

    Auxiliary Deep Generative Models (Maaløe et al., 2016), https://arxiv.org/abs/1602.05473

    Args:
        data: What is modelled, with labels; NaN where one is missing.
        latent: Dimensions of z.
        auxiliary: Dimensions of a.
        hidden: Widths of the hidden layers of each network, those of p in reverse.

    Raises:
        RecipeError: If the data have no labels.
    """
    at_least_one(latent=latent, auxiliary=auxiliary, hidden=hidden)
    classes, x = labels_of(data, "skip_semi_supervised_vae", "x and its label"), observed(data)
    above = classes + latent
    return LatentVariableModel(
        Joint(
            {
                "y": Categorical(classes),
                "z": StandardNormal(latent),
                "a | y, z": Gaussian(auxiliary, MLP(above, *hidden[::-1])),
                "x | a, y, z": likelihood_of(x, MLP(auxiliary + above, *hidden[::-1])),
            }
        ),
        _auxiliary_posterior(seen(x), classes, latent, auxiliary, hidden),
    )


def _auxiliary_posterior(
    x: tuple[int, ...], classes: int, latent: int, auxiliary: int, hidden: tuple[int, ...]
) -> Joint:
    """q(a | x) q(y | x, a) q(z | a, x, y), where each reads x by features of its own."""
    first, *further = hidden or (latent,)
    return Joint(
        {
            "a | x": Gaussian(auxiliary, MLP(x, *hidden)),
            "k | x": MLP(x, first),
            "y | k, a": Categorical(classes, MLP(first + auxiliary, *further)),
            "h | x": MLP(x, first),
            "z | a, h, y": Gaussian(latent, MLP(auxiliary + first + classes, *further)),
        }
    )


@trained_with(objective=fair_elbo)
def variational_fair_autoencoder(
    data: Data | Description, *, latent: int = 16, hidden: tuple[int, ...] = (256, 256)
) -> LatentVariableModel:
    """Variational fair autoencoder: codes that say little of the label, a group that is protected.

    The model is conditional_vae, x drawn from the code z and the label, and codes of different
    labels are held alike by their maximum mean discrepancy: its weight is ``--objective
    "fair_elbo(weight=100)"``. This is the model without a target. The Variational Fair
    Autoencoder (Louizos et al., 2016), https://arxiv.org/abs/1511.00830

    Args:
        data: What is modelled; its labels, one in every row, are what codes shall not tell.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x and y to z; those of p in reverse.

    Raises:
        RecipeError: If the data have no labels, or not in every row.
    """
    name, models = "variational_fair_autoencoder", "x given its label, a group"
    labels_of(data, name, models, everywhere=True)
    return conditional_vae(data, latent=latent, hidden=hidden)
