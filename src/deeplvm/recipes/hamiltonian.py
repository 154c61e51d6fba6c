"""Hamiltonian variational inference."""

from __future__ import annotations

from torch import nn

from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.hamiltonian import Hamiltonian
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP, glorot
from deeplvm.recipes.plain import at_least_one, observed, seen


def hamiltonian_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    steps: int = 4,
    hidden: tuple[int, ...] = (300, 300),
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder whose posterior takes leapfrog steps on the model.

    z and a momentum v are drawn by networks, moved by the gradient of log p(x, z), and p guesses
    the last momentum back by p(v | x, z). Markov Chain Monte Carlo and Variational Inference:
    Bridging the Gap (Salimans et al., 2015), https://arxiv.org/abs/1410.6460

    Smooth units, because the steps follow a gradient. Each step costs about two passes of p(x | z)
    forward and four backward.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        steps: Leapfrog steps; the paper tries up to 16.
        hidden: Widths of the hidden layers of each network, from x on; those of p(x | z) in
            reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.
    """
    at_least_one(latent=latent, steps=steps, hidden=hidden)
    x = observed(data)
    first, *further = hidden or (latent,)

    def network(features: int | tuple[int, ...], *widths: int) -> MLP:
        # softplus units are as smooth, but ignore z for the first thousand steps
        return MLP(features, *widths, activation=nn.SiLU, initialization=glorot)

    p = Joint(
        {
            "z": prior_of(prior, latent),
            "x | z": likelihood_of(x, network(latent, *hidden[::-1])),
            "g | x": network(seen(x), first),
            "v | g, z": Gaussian(latent, network(first + latent, *further)),
        }
    )
    start = {
        "z | h": Gaussian(latent, network(first, *further)),
        "v | h, z": Gaussian(latent, network(first + latent, *further)),
    }
    posterior = Hamiltonian(start, p, steps=steps)
    return LatentVariableModel(
        p, Joint({"h | x": network(seen(x), first), "z, v | h, x": posterior})
    )
