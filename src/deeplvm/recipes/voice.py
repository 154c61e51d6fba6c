"""Frames of speech, and who speaks."""

from __future__ import annotations

from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.labelled import Indicator, labels_of
from deeplvm.recipes.plain import at_least_one, observed, seen


def voice_conversion(
    data: Data | Description,
    *,
    latent: int = 64,
    hidden: tuple[int, ...] = (512, 256),
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Frames of several speakers: q does not know who speaks, p is told, and can be told another.

    .. math:: p(z)\, p(x | z, y), \qquad q(z | x)

    What is said goes into z, whose encoder is the same for all speakers; who says it is y, a label
    that p alone is given. ``deeplvm reconstruct RUN --label ANN`` says every frame in Ann's voice.
    No sentence need be spoken by two of them.

    Voice Conversion from Non-parallel Corpora Using Variational Auto-encoder (Hsu et al., 2016),
    https://arxiv.org/abs/1610.04019

    Args:
        data: Frames, spectra say, a row each, labelled by the speaker; their kind decides the
            likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data have no labels, or not in every row.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = observed(data)
    speakers = labels_of(data, "voice_conversion", "frames given a speaker", everywhere=True)
    frame = likelihood_of(x, MLP(latent + speakers, *hidden[::-1]))
    return LatentVariableModel(
        Joint({"c | y": Indicator(speakers), "z": prior_of(prior, latent), "x | z, c": frame}),
        Joint({"z | x": Gaussian(latent, MLP(seen(x), *hidden))}),
    )
