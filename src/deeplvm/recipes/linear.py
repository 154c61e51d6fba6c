"""Linear models, whose exact posterior is a Gaussian."""

from __future__ import annotations

from typing import Literal

from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, gaussian, seen


@trained_with(
    epochs=300, batch_size=200, particles=8, learning_rate=1e-2, schedule="cosine", averaging=0.0
)
def factor_analysis(
    data: Data | Description,
    *,
    latent: int = 2,
    noise: Literal["dimension", "global"] = "dimension",
) -> LatentVariableModel:
    r"""Factor analysis, or probabilistic principal components: linear, with its exact posterior.

    :math:`x = W z + \mu + \varepsilon`, whose posterior is Gaussian with a mean linear in x and
    one covariance for all rows; q is of that family, so learning reaches the maximum likelihood.
    Probabilistic Principal Component Analysis (Tipping & Bishop, 1999),
    https://doi.org/10.1111/1467-9868.00196

    Args:
        data: Real numbers, modelled in their own units.
        latent: Number of factors.
        noise: A variance for each dimension (factor analysis), or one for all (probabilistic
            principal components).

    Raises:
        RecipeError: If the data are not real numbers.
    """
    at_least_one(latent=latent)
    x = gaussian(data, "factor_analysis")
    # one noise for all dimensions means one unit for all dimensions
    spread = x.std if noise == "dimension" else x.std.square().mean().sqrt()
    return LatentVariableModel(
        Joint(
            {
                "z": StandardNormal(latent),
                "x | z": Gaussian(x.shape, MLP(latent), scale=noise, units=(x.mean, spread)),
            }
        ),
        Joint({"z | x": FullCovarianceGaussian(latent, MLP(seen(x)), covariance="global")}),
    )
