"""Molecules and other strings of a grammar: a code of the whole, and a decoder of tokens."""

from __future__ import annotations

from torch import nn

from deeplvm.conditionals import Tokens
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.ragged import LENGTH
from deeplvm.data.records import Data, Description
from deeplvm.data.tokens import Vocabulary, is_grammar
from deeplvm.data.variable import Variable
from deeplvm.networks import (
    GRU,
    MLP,
    ConvolutionalSequenceEncoder,
    Derivations,
    Features,
)
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.plain import at_least_one, text_of
from deeplvm.recipes.words import decoded, ended, longest_of
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear

_LONGER = 2  # times the longest training row: what is drawn may be so long


# A long gradient, and a divergence that is counted once the decoder has learned to use z.
@trained_with(clip=5.0, kl_weight=linear(10))
def smiles_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 32,
    channels: tuple[int, ...] = (32, 64),
    hidden: int = 256,
    keep: float = 0.5,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder of molecules as SMILES, with properties told from the code.

    .. math:: p(x, y, z) = p(z) \, p(y | z) \prod_{t=1}^{n} p(x_t | x_1, \dots, x_{t-1}, z)

    q(z | x) convolves the tokens, the decoder is a gated recurrent unit that reads z at each of
    them. Columns of numbers beside the strings (``--group logp=logp``) are properties, whose
    network of z is learned with all else, so that latents are laid out by it and can be searched
    for more of it (:func:`~deeplvm.inference.climb`).

    Automatic Chemical Design Using a Data-Driven Continuous Representation of Molecules
    (Gómez-Bombarelli et al., 2018), https://arxiv.org/abs/1610.02415

    Args:
        data: Strings, cut into the tokens of SMILES (``--tokens smiles``) or characters.
        latent: Dimensions of z.
        features: Width of a token's vector.
        channels: Of the layers that halve the tokens in q.
        hidden: Width of the decoder's state, and of what q makes of its last layer.
        keep: Which share of the tokens before the decoder sees in training, so that z has
            something to say; measured, and for draws, it sees all. With 0 it never sees any, and
            knows of them what the stack of a grammar does.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no strings, or derivations of a grammar.
    """
    return _strings(
        data, "smiles_vae", latent=latent, features=features, channels=channels, hidden=hidden,
        keep=keep, posterior=posterior, prior=prior,
    )  # fmt: skip


@trained_with(clip=5.0, kl_weight=linear(10))
def grammar_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 32,
    channels: tuple[int, ...] = (32, 64),
    hidden: int = 256,
    keep: float = 0.5,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder of the derivations of a grammar: all it draws can be read.

    A string is the productions that derive it, each of which replaces the first nonterminal that
    is left. A stack says which may come next, :math:`p_k \propto m_k e^{\eta_k}`, and all others
    have probability exactly 0: what is drawn is a string of the grammar, whatever the weights are.
    A derivation has no more productions than twice those of the longest training row; one that
    could not end in time has probability 0 too. Else it is :func:`smiles_vae`.

    Grammar Variational Autoencoder (Kusner et al., 2017), https://arxiv.org/abs/1703.01925

    Args:
        data: Strings, read by a grammar (``--tokens smiles-grammar``, or a file of one's own).
        latent: Dimensions of z.
        features: Width of a production's vector.
        channels: Of the layers that halve the productions in q.
        hidden: Width of the decoder's state, and of what q makes of its last layer.
        keep: Which share of the tokens before the decoder sees in training, so that z has
            something to say; measured, and for draws, it sees all. With 0 it never sees any, and
            knows of them what the stack of a grammar does.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no derivations of a grammar.
    """
    return _strings(
        data, "grammar_vae", latent=latent, features=features, channels=channels, hidden=hidden,
        keep=keep, posterior=posterior, prior=prior,
    )  # fmt: skip


@trained_with(clip=5.0, kl_weight=linear(10))
def selfies_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 32,
    channels: tuple[int, ...] = (32, 64),
    hidden: int = 256,
    keep: float = 0.5,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder of molecules as SELFIES: all it draws are molecules.

    The strings are such that any tokens are a molecule whose valences exist. Else it is
    :func:`smiles_vae`, which the paper compares with.

    Self-referencing embedded strings (SELFIES): A 100% robust molecular string representation
    (Krenn et al., 2020), https://arxiv.org/abs/1905.13741

    Args:
        data: SMILES, read as SELFIES (``--tokens selfies``).
        latent: Dimensions of z.
        features: Width of a token's vector.
        channels: Of the layers that halve the tokens in q.
        hidden: Width of the decoder's state, and of what q makes of its last layer.
        keep: Which share of the tokens before the decoder sees in training, so that z has
            something to say; measured, and for draws, it sees all. With 0 it never sees any, and
            knows of them what the stack of a grammar does.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no SELFIES.
    """
    return _strings(
        data, "selfies_vae", latent=latent, features=features, channels=channels, hidden=hidden,
        keep=keep, posterior=posterior, prior=prior,
    )  # fmt: skip


def _strings(
    data: Data | Description,
    recipe: str,
    *,
    latent: int,
    features: int,
    channels: tuple[int, ...],
    hidden: int,
    keep: float,
    posterior: str,
    prior: str,
) -> LatentVariableModel:
    """``p(z) p(x | z) · q(z | x)``, x the tokens of a string, with a head for each property."""
    at_least_one(latent=latent, features=features, channels=channels, hidden=hidden)
    x, properties = _variables(data, recipe)
    longest = longest_of(data)
    cell = GRU(features + latent, hidden)
    step = decoded(x, cell, "z, h[-1]", features=features, width=hidden, keep=keep)
    if recipe == "grammar_vae":
        grammar = Vocabulary(x.categories or (), str(data.options["tokens"])).grammar
        del step["x | h"]
        step["m | x[-1]"] = Derivations(grammar, longest=_LONGER * longest)
        step["x | h, m"] = Tokens(
            x.levels or 2, Features(nn.Identity(), hidden), features=features, masked=True
        )
    decoder = Recurrent(step, outside=["z"], **ended(_LONGER * longest + 1, h=hidden))
    p = {"z": prior_of(prior, latent, None), f"{', '.join(decoder.names)} | z": decoder}
    for name, each in properties.items():
        p[f"{name} | z"] = likelihood_of(each, MLP(latent, 64))
    q = {
        f"f | x, {LENGTH}": ConvolutionalSequenceEncoder(features, longest, channels, hidden),
        "z | f": posterior_of(posterior, latent, Features(nn.ReLU(), hidden)),
    }
    return LatentVariableModel(Joint(p), Joint(q))


def _variables(data: Data | Description, recipe: str) -> tuple[Variable, dict[str, Variable]]:
    """The tokens, and the properties beside them.

    Raises:
        RecipeError: There are no tokens, or another recipe is that of such tokens.
    """
    properties = {name: each for name, each in data.variables.items() if name != "x"}
    x = data.variables.get("x")
    if x is None or x.kind != "token" or any([each.length for each in properties.values()]):
        x = text_of(data, recipe)
    scheme = str(data.options.get("tokens"))
    fitting = "grammar_vae" if is_grammar(scheme) else "selfies_vae" if scheme == "selfies" else ""
    if recipe != (fitting or "smiles_vae"):
        grammars = "smiles-grammar or expression-grammar"
        option = {"grammar_vae": grammars, "selfies_vae": "selfies"}.get(recipe, "smiles")
        raise RecipeError(
            f"{recipe} does not model the tokens of {data.name}, {scheme}: say --tokens {option}, "
            f"or take the recipe {fitting or 'smiles_vae'}."
        )
    return x, properties
