"""Models for tables: columns of every kind, with holes."""

from __future__ import annotations

from dataclasses import replace

from torch.nn import init

from deeplvm.conditionals import (
    Autoregressive,
    FullCovarianceGaussian,
    Gaussian,
    LatentClasses,
    Mixture,
)
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import aggregated, at_least_one, gaussian, observed, seen
from deeplvm.training.schedules import linear

MOST_NUMBERS = 2**22  # in the covariances of one mixture


# On few rows many epochs are few steps; the held-out rows end them.
@trained_with(batch_size=250, learning_rate=3e-3, epochs=1000, patience=20, averaging=0.99)
def autoregressive_table(
    data: Data | Description,
    *,
    width: int = 256,
    blocks: int = 2,
    orders: int = 1,
    any_order: bool = True,
) -> LatentVariableModel:
    """Columns one after another, each given those before it, in any order; an exact likelihood.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509, with orders at random

    Args:
        data: What is modelled; its kinds decide the likelihood of each column.
        width: Units of each layer of the masked network.
        blocks: Its residual blocks, of two layers each.
        orders: Over so many orders is averaged where rows are measured.
        any_order: Whether training takes random orders; otherwise that of the columns.
    """
    at_least_one(width=width, orders=orders)
    elements = likelihood_of(typed(data))
    row = Autoregressive(elements, width=width, blocks=blocks, orders=orders, any_order=any_order)
    return LatentVariableModel(Joint({"x": row}))


@trained_with(batch_size=500, learning_rate=3e-2, epochs=1000, patience=20, averaging=0.99)
def mixture_model(data: Data | Description, *, classes: int | None = None) -> LatentVariableModel:
    """Latent classes: within a class all columns are independent; an exact likelihood.

    Naive Bayes Models for Probability Estimation (Lowd & Domingos, 2005),
    https://doi.org/10.1145/1102351.1102418

    Args:
        data: What is modelled; its kinds decide the likelihood of each column.
        classes: Number of classes; by default 50, and of few rows one for each ten.
    """
    description = data if isinstance(data, Description) else data.description
    if classes is None:
        classes = min(50, max(2, description.rows.get("train", 500) // 10))
    at_least_one(classes=classes)
    row = likelihood_of(typed(data), components=1)  # the classes are the mixture
    return LatentVariableModel(Joint({"x": LatentClasses(row, classes=classes)}))


# The mixtures settle one by one; their average is best at an epoch that held-out rows tell.
@trained_with(
    phases="exact_em(start='data', shrinkage=1.0, tolerance=3e-3)",
    measure="elbo",
    batch_size=1000,
    epochs=100,
)
def gaussian_mixture(
    data: Data | Description, *, classes: tuple[int, ...] = (1, 2, 5, 10)
) -> LatentVariableModel:
    """Full-covariance Gaussians of several numbers of classes, averaged; an exact likelihood.

    Averaging, Maximum Penalized Likelihood and Bayesian Estimation for Improving Gaussian Mixture
    Probability Density Estimates (Ormoneit & Tresp, 1998), https://doi.org/10.1109/72.701177

    Each mixture is learned by itself, by expectation maximisation with shrunk covariances, and
    all have the same weight. Any cells are known given any others, in closed form.

    Args:
        data: Real numbers, modelled in their own units.
        classes: How many classes each mixture has. Of wide rows those are left out that would
            have more than four million numbers in their covariances, but for the smallest.

    Raises:
        RecipeError: If the data are not real numbers.
    """
    at_least_one(classes=classes)
    x = gaussian(data, "gaussian_mixture", "; for columns of several kinds take mixture_model")
    fewest = min(classes)
    kept = [n for n in classes if n == fewest or n * x.elements**2 <= MOST_NUMBERS]
    members = [Mixture([_apart(x) for _ in range(n)]) for n in kept]
    return LatentVariableModel(Joint({"x": Mixture(members)}))


def _apart(x: Variable) -> FullCovarianceGaussian:
    """A Gaussian with a mean of its own: classes that start alike would stay alike."""
    one = FullCovarianceGaussian(x.shape, units=(x.mean, x.std))
    init.normal_(one.head.free[:, : x.elements])
    return one


# Columns start at their shares, and z would not leave its prior without warming up.
@trained_with(
    batch_size=250,
    learning_rate=2e-3,
    epochs=1000,
    patience=20,
    averaging=0.99,
    kl_weight=linear(5, start=0.02),
)
def table_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    prior: str = "mixture(components=20)",
    classes: int = 1,
) -> LatentVariableModel:
    """Variational autoencoder of typed columns, with a learned prior.

    Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
    https://arxiv.org/abs/1807.03653

    Args:
        data: What is modelled; its kinds decide the likelihood of each column.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any: ``"nsf"``;
            :func:`~deeplvm.conditionals.priors.known` has them all.
        classes: More than one puts latent classes, summed out, beside z.
    """
    at_least_one(latent=latent, hidden=hidden, classes=classes)
    x = typed(data)
    decoder = MLP(latent, *hidden[::-1])
    row = (
        likelihood_of(x, decoder)
        if classes == 1
        else LatentClasses(likelihood_of(x), decoder, classes=classes)
    )
    q = Gaussian(latent, MLP(seen(x), *hidden))
    p = Joint({"z": prior_of(prior, latent, aggregated(q, row, data)), "x | z": row})
    return LatentVariableModel(p, Joint({"z | x": q}))


def typed(data: Data | Description) -> Variable:
    """``"x"`` with a mixture for each column of numbers whose likelihood nobody asked for."""
    x = observed(data)
    if data.options.get("likelihood", "auto") != "auto":
        return x
    asked = {n for n, rule in (data.options.get("schema") or {}).items() if rule.get("likelihood")}
    if not x.parts and not asked:
        return _mixed(x)
    parts = [each if each.name in asked else _mixed(each) for each in x.by_column.values()]
    return replace(x, kind="mixed", likelihood="columns", parts=tuple(parts))


def _mixed(variable: Variable) -> Variable:
    """Where there are knots to put a mixture on."""
    return variable if variable.knots is None else replace(variable, likelihood="mixture")
