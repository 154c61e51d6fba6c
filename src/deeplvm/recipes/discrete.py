"""Models of discrete latents: belief networks, the Helmholtz machine, relaxed categories."""

from __future__ import annotations

from functools import partial

from torch import nn

from deeplvm.conditionals import Bernoulli, OneHot
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.gradients.named import gumbel_softmax, nvil
from deeplvm.networks import MLP, glorot
from deeplvm.objectives import elbo
from deeplvm.recipes.autoregressive import logistic
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, observed, seen


@trained_with(estimator=nvil, learning_rate=3e-4, averaging=0.0)
def sigmoid_belief_network(
    data: Data | Description,
    *,
    units: tuple[int, ...] = (200,),
    prior: str | None = None,
    autoregressive: bool = False,
) -> LatentVariableModel:
    r"""Layers of binary units, each a logistic regression on the layer above.

    Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014),
    https://arxiv.org/abs/1402.0030

    .. math:: p(z_1, \dots, z_L, x) = p(z_L) \prod_l p(z_{l-1} | z_l), \qquad
              q(z_1, \dots, z_L | x) = \prod_l q(z_l | z_{l-1}), \qquad z_0 = x

    The gradient of the binary units is estimated with a learned baseline; others are ``--estimator
    vimco`` with ``--objective iwae --particles 5``, ``--estimator muprop``, or ``--phases
    wake_sleep``.

    Args:
        data: What is modelled; its kind decides the likelihood.
        units: Number of units of each layer, from x upwards.
        prior: Family of p of the highest layer, by its name, with options in parentheses if any:
            ``"bernoulli"``, ``"autoregressive"``, ``"boltzmann(hidden=200)"``; by default as the
            other layers.
        autoregressive: Whether the units of a layer, in p and q, also depend on those before them
            (fDARN); a draw is then one step a unit.
    """
    at_least_one(units=units)
    x = observed(data)
    names = [f"z{layer}" for layer in range(1, len(units) + 1)]

    def linear(features: int | tuple[int, ...]) -> MLP:
        return MLP(features, initialization=glorot)  # no hidden layer: the head is the map

    def layer_of(count: int, network: nn.Module | None = None) -> nn.Module:
        return logistic(count, network) if autoregressive else Bernoulli(count, network)

    highest = layer_of(units[-1]) if prior is None else prior_of(prior, units[-1], binary=True)
    p: dict[str, nn.Module] = {names[-1]: highest}
    q: dict[str, nn.Module] = {}
    for layer, name in enumerate(names):
        below = "x" if layer == 0 else names[layer - 1]
        p[f"{below} | {name}"] = (
            likelihood_of(x, linear(units[0]))
            if layer == 0
            else layer_of(units[layer - 1], linear(units[layer]))
        )
        q[f"{name} | {below}"] = layer_of(
            units[layer], linear(seen(x) if layer == 0 else units[layer - 1])
        )
    return LatentVariableModel(Joint(p), Joint(q))


@trained_with(phases="wake_sleep", measure="elbo", averaging=0.0)
def helmholtz_machine(
    data: Data | Description, *, units: tuple[int, ...] = (100, 30), prior: str = "bernoulli"
) -> LatentVariableModel:
    """A sigmoid belief network that learns awake to explain and asleep to recognise.

    The Helmholtz Machine (Dayan et al., 1995), https://doi.org/10.1162/neco.1995.7.5.889, trained
    by The wake-sleep algorithm for unsupervised neural networks (Hinton et al., 1995),
    https://doi.org/10.1126/science.7761831

    Args:
        data: What is modelled; its kind decides the likelihood.
        units: Number of units of each layer, from x upwards.
        prior: Family of p of the highest layer, by its name, with options in parentheses if any:
            ``"bernoulli"``, ``"autoregressive"``, ``"boltzmann(hidden=200)"``.
    """
    return sigmoid_belief_network(data, units=units, prior=prior)


# The divergence in closed form and the annealing are the paper's.
@trained_with(estimator=gumbel_softmax, objective=partial(elbo, form="analytic"), averaging=0.0)
def gumbel_softmax_vae(
    data: Data | Description,
    *,
    categories: int = 20,
    classes: int = 10,
    hidden: tuple[int, ...] = (200,),
) -> LatentVariableModel:
    """Variational autoencoder with categorical latents, trained by relaxed draws.

    Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
    https://arxiv.org/abs/1611.01144

    Trained, the latents are relaxed; measured and used, they are discrete. The straight-through
    form is ``--estimator "gumbel_softmax(straight_through=True)"``.

    Args:
        data: What is modelled; its kind decides the likelihood.
        categories: Number of latent variables.
        classes: Values of each.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    at_least_one(categories=categories, classes=classes, hidden=hidden)
    x = observed(data)
    decoder = MLP((categories, classes), *hidden[::-1])
    return LatentVariableModel(
        Joint({"z": OneHot(classes, shape=(categories,)), "x | z": likelihood_of(x, decoder)}),
        Joint({"z | x": OneHot(classes, MLP(seen(x), *hidden), (categories,))}),
    )
