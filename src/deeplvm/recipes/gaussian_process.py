"""The variational Gaussian process."""

from __future__ import annotations

from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.gaussian import MeanField
from deeplvm.conditionals.gaussian_process import GaussianProcess
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, observed, seen
from deeplvm.training.schedules import linear


# At full weight from the start the reverse model holds the functions where they are.
@trained_with(kl_weight=linear(20))
def variational_gaussian_process(
    data: Data | Description,
    *,
    latent: int = 16,
    inputs: int = 4,
    points: int = 10,
    hidden: tuple[int, ...] = (256, 256),
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder whose posterior warps noise by random functions.

    Latent inputs :math:`\xi` are mapped by functions f of a Gaussian process to the parameters of
    a mean field, :math:`q(z | f(\xi))`. The functions pass near variational data that a network
    computes from x, and p guesses :math:`\xi` and f back by :math:`p(\xi | x, z)\, p(f | x, z)`.
    The Variational Gaussian Process (Tran et al., 2016), https://arxiv.org/abs/1511.06499

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z; there are two functions for each, its mean and its scale.
        inputs: Dimensions of the latent inputs.
        points: How many variational data pin the functions of a row.
        hidden: Widths of the hidden layers of q, from x to the variational data; those of p in
            reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.
    """
    at_least_one(latent=latent, inputs=inputs, points=points, hidden=hidden)
    x = observed(data)
    functions = 2 * latent
    first, *further = hidden or (latent,)
    guess = MLP(first + latent, *(further or (first,)))
    mapping = GaussianProcess(functions, inputs, MLP(seen(x), *hidden), points=points)
    return LatentVariableModel(
        Joint(
            {
                "z": prior_of(prior, latent),
                "x | z": likelihood_of(x, MLP(latent, *hidden[::-1])),
                "g | x": MLP(seen(x), first),
                "h | g, z": guess,
                "xi | h": Gaussian(inputs, MLP(guess.out_features)),
                "f | h": Gaussian(functions, MLP(guess.out_features)),
            }
        ),
        Joint({"xi": StandardNormal(inputs), "f | xi, x": mapping, "z | f": MeanField(latent)}),
    )
