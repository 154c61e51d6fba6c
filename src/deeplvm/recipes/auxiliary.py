"""Posteriors made flexible by a variable that p does not need: auxiliary and hierarchical."""

from __future__ import annotations

from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.gaussian import MeanField
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP, glorot
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, observed, seen
from deeplvm.training.schedules import linear


# Without the rising weight, 100 dimensions of z are given up in the first thousand steps.
@trained_with(kl_weight=linear(20))
def auxiliary_vae(
    data: Data | Description,
    *,
    latent: int = 100,
    auxiliary: int = 100,
    hidden: tuple[int, ...] = (500, 500),
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder whose posterior has an auxiliary variable.

    :math:`q(z | x) = \int q(z | a, x)\, q(a | x)\, da` is an infinite mixture of Gaussians. p
    guesses a back by p(a | x, z), which leaves p(x, z) as it was: the model without labels of
    Auxiliary Deep Generative Models (Maaløe et al., 2016), https://arxiv.org/abs/1602.05473

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        auxiliary: Dimensions of a.
        hidden: Widths of the hidden layers of each network, from x on; those of p(x | z) in
            reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.
    """
    at_least_one(latent=latent, auxiliary=auxiliary, hidden=hidden)
    x = observed(data)
    first, *further = hidden or (latent,)

    def network(features: int | tuple[int, ...], *widths: int) -> MLP:
        return MLP(features, *widths, initialization=glorot)

    return LatentVariableModel(
        Joint(
            {
                "z": prior_of(prior, latent),
                "x | z": likelihood_of(x, network(latent, *hidden[::-1])),
                "g | x": network(seen(x), first),
                "a | g, z": Gaussian(auxiliary, network(first + latent, *further)),
            }
        ),
        Joint(
            {
                "a | x": Gaussian(auxiliary, network(seen(x), *hidden)),
                "h | x": network(seen(x), first),
                "z | h, a": Gaussian(latent, network(first + auxiliary, *further)),
            }
        ),
    )


def hierarchical_variational_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    transforms: int = 2,
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder whose posterior's parameters are drawn from a flow.

    Mean field, :math:`q(z | l) = \prod_i q(z_i | l_i)`, with a prior on its parameters l that lets
    them depend on each other; p guesses them back by p(l | x, z). The same bound as that of an
    auxiliary variable. Hierarchical Variational Models (Ranganath et al., 2016),
    https://arxiv.org/abs/1511.02386

    The prior of l is an inverse autoregressive flow, where the paper has planar ones: one of the
    same kind, and stronger for each step.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z; l has a mean and a scale for each.
        hidden: Widths of the hidden layers of q, from x to l; those of p(x | z) in reverse.
        transforms: Steps of the flow.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.
    """
    from deeplvm.conditionals.flows import InverseAutoregressiveFlow  # zuko takes a while

    at_least_one(latent=latent, hidden=hidden, transforms=transforms)
    x = observed(data)
    first, *further = hidden or (latent,)
    flow = InverseAutoregressiveFlow(2 * latent, MLP(seen(x), *hidden), transforms=transforms)
    return LatentVariableModel(
        Joint(
            {
                "z": prior_of(prior, latent),
                "x | z": likelihood_of(x, MLP(latent, *hidden[::-1])),
                "g | x": MLP(seen(x), first),
                "l | g, z": Gaussian(2 * latent, MLP(first + latent, *further)),
            }
        ),
        Joint({"l | x": flow, "z | l": MeanField(latent)}),
    )
