"""Models of one graph, of which some edges are not known."""

from __future__ import annotations

from functools import partial

from torch import nn

from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.graph import InnerProduct
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.networks import Features
from deeplvm.networks.graph_convolution import GraphConvolutions
from deeplvm.objectives.balanced import balanced_elbo
from deeplvm.recipes.catalogue import RecipeError, loaded_with, trained_with
from deeplvm.recipes.plain import at_least_one
from deeplvm.recurrent import Plate

# A graph is one row, so that an epoch is a step; sparse products are not compiled.
_TRAINING = {"epochs": 200, "learning_rate": 0.01, "compile": False}
_STEADY = 1e-3  # the standard deviation of a code that is to have none


@trained_with(**_TRAINING, objective=balanced_elbo)
@loaded_with(graph=True)
def variational_graph_autoencoder(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (32,),
    features: bool = True,
    sampled_pairs: int | None = None,
) -> LatentVariableModel:
    r"""A code of each node, from graph convolutions, whose inner products say what is an edge.

    .. math:: p(z) = \prod_i N(z_i; 0, I), \qquad
              p(a | z) = \prod_{i < j} \mathrm{Bernoulli}(a_{ij}; \sigma(z_i^\top z_j + c)),
              \qquad q(z | x, a) = \prod_i N(z_i; \mu_i, \sigma_i^2)

    with :math:`\mu, \log \sigma` of :math:`\hat A f(\hat A x W_0) W_1` and c the log-odds of an
    edge in the whole graph. It is trained with edges that weigh as much as all other pairs, as in
    the paper; ``--objective elbo`` ascends the bound itself.

    Variational Graph Auto-Encoders (Kipf & Welling, 2016), https://arxiv.org/abs/1611.07308

    Args:
        data: A graph.
        latent: Dimensions of the code of a node.
        hidden: Widths of the graph convolutions.
        features: Read the features of the nodes, or tell these by their numbers alone.
        sampled_pairs: How many random pairs stand for all those without an edge in a step; by
            default all, and of graphs with more than 20,000,000 pairs 2,000,000.

    Raises:
        RecipeError: If the data are no graph.
    """
    return _autoencoder(data, latent, hidden, sampled_pairs, features=features)


# Without a divergence and without noise, as in the paper.
@trained_with(**_TRAINING, objective=partial(balanced_elbo, divergence=False))
@loaded_with(graph=True)
def graph_autoencoder(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (32,),
    features: bool = True,
    sampled_pairs: int | None = None,
) -> LatentVariableModel:
    r"""The same with codes that have no variance, and are not asked to be like N(0, I).

    .. math:: q(z | x, a) = \prod_i N(z_i; \mu_i, 10^{-6} I)

    Its bound is one, and of little use; its probabilities of edges are.

    Variational Graph Auto-Encoders (Kipf & Welling, 2016), https://arxiv.org/abs/1611.07308, where
    it is the non-probabilistic model.

    Args:
        data: A graph.
        latent: Dimensions of the code of a node.
        hidden: Widths of the graph convolutions.
        features: Read the features of the nodes, or tell these by their numbers alone.
        sampled_pairs: How many random pairs stand for all those without an edge in a step; by
            default all, and of graphs with more than 20,000,000 pairs 2,000,000.

    Raises:
        RecipeError: If the data are no graph.
    """
    return _autoencoder(data, latent, hidden, sampled_pairs, features=features, scale=_STEADY)


def _autoencoder(
    data: Data | Description,
    latent: int,
    hidden: tuple[int, ...],
    sampled_pairs: int | None,
    *,
    features: bool,
    scale: str | float = "network",
) -> LatentVariableModel:
    at_least_one(latent=latent, hidden=hidden)
    at_least_one(**{} if sampled_pairs is None else {"sampled_pairs": sampled_pairs})
    if not hidden:
        raise RecipeError("hidden needs one width at least, (32,) say.")
    if not data.options.get("graph"):
        raise RecipeError(
            f"A graph autoencoder models one graph, and {data.name} is none; read it as one: "
            f"--graph."
        )
    edges, x = data.variables["a"], data.variables.get("x") if features else None
    nodes = edges.levels or 1
    units = None if x is None or x.kind == "binary" else x.std
    convolutions = GraphConvolutions(
        nodes if x is None else x.elements, *hidden, given=x is not None, units=units
    )
    code = Gaussian(latent, Features(nn.Identity(), hidden[-1]), scale=scale)
    return LatentVariableModel(
        Joint(
            {
                "z": Plate({"z": StandardNormal(latent)}, repeats=nodes),
                "a | z": InnerProduct(density=float(edges.mean), sampled=sampled_pairs),
            }
        ),
        Joint(
            {
                "h | a" if x is None else "h | a, x": Features(convolutions),
                "z | h": Plate({"z | h": code}),
            }
        ),
    )
