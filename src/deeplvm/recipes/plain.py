"""The variational autoencoder, with a diagonal and with a full posterior covariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from deeplvm import objectives
from deeplvm.conditionals import FullCovarianceGaussian, Gaussian
from deeplvm.conditionals.heads import shown
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.conditionals.vamp import Aggregated
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.likelihood import alike
from deeplvm.data.ragged import INPUTS
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import CODED, Variable, listed
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import RecipeError, of_group, trained_with
from deeplvm.recipes.labelled import given_label


# Averaged weights cost nothing and are about a nat better on digits.
@given_label
def vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder with multilayer perceptrons, for any kind of data.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    made = partial(posterior_of, posterior)
    return one_latent(data, made, latent=latent, hidden=hidden, prior=prior)


@given_label
def full_covariance_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder whose posterior knows how the latents go together.

    The covariance of q(z | x) is full, with a triangular factor computed by the network (section
    2.5.1). An Introduction to Variational Autoencoders (Kingma & Welling, 2019),
    https://arxiv.org/abs/1906.02691

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z; the network has a square number of outputs.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    return one_latent(data, FullCovarianceGaussian, latent=latent, hidden=hidden, prior=prior)


@trained_with(objective=partial(objectives.beta_elbo, beta=4.0), averaging=0.0)
def beta_vae(
    data: Data | Description,
    *,
    latent: int = 10,
    hidden: tuple[int, ...] = (1200, 1200),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder whose divergence weighs beta times, for disentangled latents.

    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et
    al., 2017), https://openreview.net/forum?id=Sy2fzU9gl

    Another weight is ``--objective "beta_elbo(beta=10)"``; a capacity instead is
    ``--objective "growing_capacity(capacity=25)"``.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    return one_latent(data, Gaussian, latent=latent, hidden=hidden, prior=prior)


@trained_with(objective=partial(objectives.beta_tc_elbo, beta=6.0), batch_size=2048, averaging=0.0)
def beta_tc_vae(
    data: Data | Description,
    *,
    latent: int = 10,
    hidden: tuple[int, ...] = (1200, 1200),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder that pays more for latents that depend on each other.

    Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
    https://arxiv.org/abs/1802.04942

    The aggregate posterior is estimated from the minibatch, which is therefore large. The number
    of rows of the data is filled in by the training.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    return one_latent(
        data, Gaussian, latent=latent, hidden=hidden, prior=prior, activation=nn.Tanh
    )


@trained_with(objective=partial(objectives.renyi, alpha=0.5), particles=5, averaging=0.0)
def renyi_vae(
    data: Data | Description,
    *,
    latent: int = 50,
    hidden: tuple[int, ...] = (200, 200),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder trained on a Rényi bound.

    Rényi Divergence Variational Inference (Li & Turner, 2016), https://arxiv.org/abs/1602.02311

    Another order is ``--objective "renyi(alpha=-1)"``, the limit ``--objective vr_max``.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    return one_latent(
        data, Gaussian, latent=latent, hidden=hidden, prior=prior, activation=nn.Tanh
    )


def one_latent(
    data: Data | Description,
    posterior: Callable[[int, MLP], nn.Module],
    *,
    latent: int,
    hidden: tuple[int, ...],
    prior: str = "gaussian",
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> LatentVariableModel:
    """``p(z) p(x | z) · q(z | x)`` with multilayer perceptrons.

    Args:
        data: What is modelled; its kind decides the likelihood.
        posterior: From the dimensions of z and a network of x to q's conditional.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name.
        activation: Of every unit.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = observed(data)
    row = likelihood_of(x, MLP(latent, *hidden[::-1], activation=activation))
    q = posterior(latent, MLP(seen(x), *hidden, activation=activation))
    p = Joint({"z": prior_of(prior, latent, aggregated(q, row, data)), "x | z": row})
    return LatentVariableModel(p, Joint({"z | x": q}))


@torch.no_grad()
def aggregated(posterior: nn.Module, row: nn.Module, data: Data | Description) -> Aggregated:
    """What a prior that is made of q(z | x) needs to know of x, as its conditional shows it."""
    x = observed(data)

    def read(values: Tensor) -> Tensor:
        return torch.nan_to_num(shown(row, values), nan=0.0)  # as encoders read what is missing

    mean = read(x.mean.to(torch.get_default_dtype())[None])[0]

    def rows(number: int) -> Tensor:
        if isinstance(data, Description):
            return torch.zeros(min(number, data.rows["train"]), *mean.shape)
        count = data.train.rows
        index = torch.linspace(0, count - 1, min(number, count)).round().long()
        return read(data.train.batch(index, ("x",))["x"])

    bounds = None
    if x.kind in ("binary", "levels", "unit") and seen(x) == x.shape:
        low, high = (
            read(torch.full((1, *x.shape), x.minimum)),
            torch.full((1, *x.shape), x.maximum),
        )
        bounds = (low[0], read(high)[0])
    return Aggregated(posterior, mean, bounds, rows)


def observed(data: Data | Description) -> Variable:
    """The variable that is modelled, ``"x"``, where it is the only one."""
    refuse_sequences(data, "This recipe")
    if data.options.get("graph"):
        raise RecipeError(
            f"This recipe models rows of values, and {data.name} is a graph; take "
            f"variational_graph_autoencoder or graph_autoencoder."
        )
    if [*data.variables] != ["x"]:
        names = list(data.variables)
        said = [each.name for each in data.variables.values() if each.kind == "token"]
        other = f"align_draw draws x from {said[0]}" if said else "multimodal_vae models several"
        raise RecipeError(
            f"This recipe models one variable, 'x', but {data.name} has "
            f"{' and '.join(names) or 'none'}" + (f"; {other}." if len(names) > 1 else ".")
        )
    return data.variables["x"]


def refuse_sequences(data: Data | Description, recipe: str) -> None:
    """Refuse data of which a row is a sequence, for a recipe of single rows."""
    if any([variable.length is not None for variable in data.variables.values()]):
        text = any([variable.kind == "token" for variable in data.variables.values()])
        group, what = ("Text", "text") if text else ("Sequences", "sequence")
        raise RecipeError(
            f"{recipe} models single rows, but a row of {data.name} is a {what}; take a recipe of "
            f"{what}s ({', '.join(of_group(group)) or 'one of your own'})."
        )


def sequence_of(data: Data | Description, recipe: str) -> Variable:
    """``"x"``, for a recipe of sequences; what is known of every step is ``"u"``.

    Its shape, kind and likelihood are those of one step; its length is called by ``x.length``.
    """
    names = [name for name in data.variables if name != INPUTS]
    if names != ["x"]:
        raise RecipeError(
            f"{recipe} models one sequence, 'x', but {data.name} has "
            f"{' and '.join(names) or 'none'}; put what is modelled into one name, and what is "
            f"known of every step into {INPUTS} (--inputs)."
        )
    x = data.variables["x"]
    if x.length is None:
        raise RecipeError(
            f"{recipe} models sequences, but a row of {data.name} is none ({x}); take the recipe "
            f"vae, or say which rows are a sequence."
        )
    if x.kind == "token":
        raise RecipeError(
            f"{recipe} models sequences of numbers, but {data.name} are texts; take a recipe of "
            f"texts ({listed(of_group('Text'))})."
        )
    return x


def text_of(data: Data | Description, recipe: str) -> Variable:
    """``"x"``, for a recipe of texts: its tokens, as steps of a sequence."""
    x = data.variables.get("x")
    if x is None or x.kind != "token" or x.shape or len(data.variables) > 1:
        found = listed([str(each) for each in data.variables.values()], 3) or "nothing"
        others = of_group("Sequences") if x is not None and x.length else ("vae",)
        raise RecipeError(
            f"{recipe} models texts, but {data.name} has {found}; give a .txt file, a folder of "
            f"these or a column of a table (--text), or take the recipe {listed(others, 3)}."
        )
    return x


def image_of(data: Data | Description, recipe: str) -> Variable:
    """``"x"``, for a recipe of images of numbers, ``(channels, height, width)``."""
    x = observed(data)
    if len(x.shape) != 3 or seen(x) != x.shape:
        raise RecipeError(
            f"{recipe} models images of numbers, (channels, height, width), but x of "
            f"{data.name} is {x}; take the recipe vae."
        )
    return x


def captioned_of(data: Data | Description, recipe: str) -> tuple[Variable, Variable]:
    """``"x"`` and what is said of it, for a recipe of images of numbers with a text each."""
    about = data if isinstance(data, Description) else data.description
    said = [each for each in about.variables.values() if each.kind == "token"]
    if [*about.variables] != ["x", *[each.name for each in said]] or len(said) != 1:
        found = listed([str(each) for each in about.variables.values()], 3) or "nothing"
        raise RecipeError(
            f"{recipe} draws images of a caption each, but {about.name} has {found}; give an .npz "
            f"with images x and texts, --group caption=NAME, a table with --text COLUMN and "
            f"--group x=FILES, or take the recipe draw."
        )
    return image_of(replace(about, variables={"x": about.variables["x"]}), recipe), said[0]


def gaussian(data: Data | Description, recipe: str, hint: str = "") -> Variable:
    """What is modelled under a Gaussian, for a recipe that has no other likelihood.

    Of a table also where its columns have mixtures by themselves, but not where somebody asked,
    nor where values repeat: a probability of theirs and a density could not be compared.
    """
    x = observed(data)
    repeated = any([any(part.atoms) for part in x.parts or (x,) if part.likelihood == "mixture"])
    found = x if x.likelihood == "gaussian" or repeated else of_one_likelihood(data, "gaussian")
    if found.likelihood != "gaussian":
        parts = found.parts or (found,)
        noise = " with --dequantize uniform" if any([part.is_whole for part in parts]) else ""
        coded = any([part.kind in (*CODED, "binary") for part in parts])
        raise RecipeError(
            f"{recipe} is Gaussian, but the likelihood chosen for {data.name} is "
            f"{x.likelihood}; it takes real numbers"
            f"{'' if coded else f', or say --likelihood gaussian{noise}'}{hint}."
        )
    return found


def of_one_likelihood(data: Data | Description, likelihood: str) -> Variable:
    """``"x"`` with one likelihood for all columns, where these allow it and nobody asked."""
    x, rules = observed(data), (data.options.get("schema") or {}).values()
    asked = data.options.get("likelihood", "auto") != "auto"
    asked = asked or any([rule.get("likelihood") for rule in rules])
    return x if asked else alike(x, likelihood) or x


def seen(variable: Variable) -> tuple[int, ...]:
    """The shape in which networks see a variable: a category of L values as ``(*, L)``."""
    if variable.features == variable.elements:
        return variable.shape
    if variable.parts or variable.likelihood == "mixture":
        return (variable.features,)
    return (*variable.shape, variable.features // variable.elements)


def at_least_one(**sizes: int | Sequence[int]) -> None:
    """Refuse a size below 1, by the name of its option.

    >>> at_least_one(latent=0)
    Traceback (most recent call last):
    deeplvm.recipes.catalogue.RecipeError: latent must be at least 1, found 0.
    """
    for name, size in sizes.items():
        for each in (size,) if isinstance(size, int) else size:
            if each < 1:
                raise RecipeError(f"{name} must be at least 1, found {each}.")
