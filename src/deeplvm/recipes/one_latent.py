"""The plain model with a posterior, and units, of one's choice."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from deeplvm.conditionals import StandardNormal
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.joint import Joint
from deeplvm.model import LatentVariableModel
from deeplvm.networks import MLP
from deeplvm.recipes.reading import at_least_one, observed, seen


def one_latent(
    data: Data | Description,
    posterior: Callable[[int, MLP], nn.Module],
    *,
    latent: int,
    hidden: tuple[int, ...],
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> LatentVariableModel:
    """``p(z) p(x | z) · q(z | x)`` with multilayer perceptrons.

    Args:
        data: What is modelled; its kind decides the likelihood.
        posterior: From the dimensions of z and a network of x to q's conditional.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        activation: Of every unit.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = observed(data)
    decoder = MLP(latent, *hidden[::-1], activation=activation)
    p = Joint({"z": StandardNormal(latent), "x | z": likelihood_of(x, decoder)})
    encoder = MLP(seen(x), *hidden, activation=activation)
    return LatentVariableModel(p, Joint({"z | x": posterior(latent, encoder)}))
