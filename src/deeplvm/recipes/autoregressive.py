"""Elements one after another, each given those before it: with an exact likelihood, or latents."""

from __future__ import annotations

from functools import partial

from torch import nn

from deeplvm.conditionals import Autoregressive, Bernoulli
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.gradients.named import nvil
from deeplvm.networks import MADE, MLP, NADE, glorot
from deeplvm.networks.causal import Causal
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import at_least_one, observed, seen
from deeplvm.recipes.tables import typed


# It overfits before it has converged: the held-out rows end it.
@trained_with(batch_size=100, learning_rate=1e-3, epochs=100, patience=10, averaging=0.999)
@given_label
def made(
    data: Data | Description,
    *,
    hidden: tuple[int, ...] = (500,),
    direct: bool = True,
    orders: int = 1,
) -> LatentVariableModel:
    """Masked autoencoder: pixels or columns in a fixed order; an exact likelihood.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509

    Without hidden layers (``--hidden 0``) it is a fully visible sigmoid belief network. Data with
    holes are for autoregressive_table, which serves any order.

    Args:
        data: What is modelled; its kind decides the likelihood.
        hidden: Widths of the hidden layers; 0 alone for none.
        direct: Whether outputs read inputs directly too.
        orders: Trained in turn and averaged where rows are measured; the first is the data's.
    """
    hidden = () if tuple(hidden) == (0,) else hidden
    at_least_one(hidden=hidden, orders=orders)
    if not hidden and not direct:
        raise RecipeError("made without hidden layers reads nothing; leave out --no-direct.")
    return one_after_another(data, partial(MADE, hidden=hidden, direct=direct, orders=orders))


@trained_with(batch_size=100, learning_rate=1e-3, epochs=50, patience=10, averaging=0.999)
@given_label
def nade(data: Data | Description, *, hidden: int = 200, orders: int = 1) -> LatentVariableModel:
    """Neural autoregressive distribution estimator: one running sum; an exact likelihood.

    The Neural Autoregressive Distribution Estimator (Larochelle & Murray, 2011),
    https://proceedings.mlr.press/v15/larochelle11a.html

    Args:
        data: What is modelled; its kind decides the likelihood.
        hidden: Units; each pass of a row computes them for every element.
        orders: Trained in turn and averaged where rows are measured; the first is the data's.
    """
    at_least_one(hidden=hidden, orders=orders)
    return one_after_another(data, partial(NADE, hidden=hidden, orders=orders))


@trained_with(estimator=nvil, learning_rate=3e-4, averaging=0.0)
def darn(
    data: Data | Description, *, units: int = 50, hidden: tuple[int, ...] = (200,)
) -> LatentVariableModel:
    r"""Deep autoregressive network: binary latents and x, each given those before it.

    .. math:: p(z, x) = \prod_j p(z_j | z_{<j}) \prod_d p(x_d | x_{<d}, z), \qquad
              q(z | x) = \prod_j q(z_j | z_{<j}, x)

    Deep AutoRegressive Networks (Gregor et al., 2014), https://arxiv.org/abs/1310.8499

    The gradient of the latents is estimated by their scores, with a learned baseline; another is
    ``--estimator vimco --objective iwae --particles 5``. A draw of the latents takes a step a
    unit, so a training step costs as many.

    Args:
        data: What is modelled; its kind decides the likelihood.
        units: Number of binary latents.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    at_least_one(units=units, hidden=hidden)
    x = complete(data)
    decoder = MLP(units, *hidden[::-1], initialization=glorot)
    encoder = MLP(seen(x), *hidden, initialization=glorot)
    row = Autoregressive(likelihood_of(x), decoder, causal=MADE, hidden=())
    p = Joint({"z": logistic(units), "x | z": row})
    return LatentVariableModel(p, Joint({"z | x": logistic(units, encoder)}))


def logistic(units: int, network: nn.Module | None = None) -> Autoregressive:
    """Binary units, each a logistic regression on those before it and on features of parents."""
    return Autoregressive(Bernoulli(units), network, causal=MADE, hidden=())


def one_after_another(data: Data | Description, causal: Causal) -> LatentVariableModel:
    """p(x), each element given those before it in the fixed orders of a causal network."""
    return LatentVariableModel(
        Joint({"x": Autoregressive(likelihood_of(complete(data)), causal=causal)})
    )


def complete(data: Data | Description) -> Variable:
    """``"x"`` of which nothing is missing, typed where it is a table.

    Raises:
        RecipeError: If a value is missing: a fixed order has no marginal of the others.
    """
    if observed(data).missing:
        raise RecipeError(
            f"Values of {data.name} are missing, and one after another in a fixed order gives the "
            f"others no probability; fill them in first (deeplvm impute), or take "
            f"autoregressive_table, which serves any order."
        )
    return typed(data)
