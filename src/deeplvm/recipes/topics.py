"""Topics of counted words."""

from __future__ import annotations

import math

from torch import Tensor, nn

from deeplvm.conditionals import (
    BatchNormalisedGaussian,
    Dirichlet,
    Gaussian,
    Multinomial,
    StandardNormal,
    Topics,
    TopicShares,
)
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.plain import aggregated, at_least_one, of_one_likelihood, seen


class Shares(nn.Module):
    """Shares of topics from free numbers, softmax(s z), shape ``(*particles, batch, topics)``.

    Args:
        topics: How many.
        scale: s.
    """

    def __init__(self, topics: int, scale: float) -> None:
        super().__init__()
        self.out_features, self.scale = topics, scale

    def forward(self, z: Tensor) -> Tensor:
        """The shares."""
        return (self.scale * z).softmax(-1)


@trained_with(learning_rate=2e-3, batch_size=200)
def prod_lda(
    data: Data | Description,
    *,
    latent: int = 20,
    hidden: tuple[int, ...] = (100, 100),
    concentration: float = 1.0,
) -> LatentVariableModel:
    r"""Topic model whose words come from a product of topics, not from a mixture of them.

    Autoencoding Variational Inference For Topic Models (Srivastava & Sutton, 2017),
    https://arxiv.org/abs/1703.01488

    Shares of topics :math:`\theta = \mathrm{softmax}(s z)`, :math:`z \sim N(0, I)`, with
    :math:`s^2 = (1 - 1/K) / \alpha`, the Laplace approximation of a symmetric Dirichlet; words
    :math:`x \sim \mathrm{Multinomial}(n, \mathrm{softmax}(\beta \theta + b))` given their number.
    The means of q are normalised over a batch, as in the paper, so that topics are used.

    Args:
        data: Counts, a column a word.
        latent: Number of topics.
        hidden: Widths of the hidden layers of q.
        concentration: :math:`\alpha` of the Dirichlet; small ones make topics exclusive.

    Raises:
        RecipeError: If the data are no vectors of counts, or the concentration is not positive.
    """
    at_least_one(latent=latent, hidden=hidden)
    x, words = _words(data, "prod_lda", latent)
    if not concentration > 0:
        raise RecipeError(f"concentration must be above 0, found {concentration}.")
    share = Shares(latent, math.sqrt((1 - 1 / latent) / concentration) or 1.0)
    return LatentVariableModel(
        Joint({"z": StandardNormal(latent), "t | z": share, "x | t": words}),
        Joint({"z | x": BatchNormalisedGaussian(latent, MLP(seen(x), *hidden))}),
    )


@trained_with(learning_rate=1e-3, batch_size=64)
def nvdm(
    data: Data | Description,
    *,
    latent: int = 50,
    hidden: tuple[int, ...] = (500,),
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Neural variational document model: words from a log-linear map of a Gaussian.

    Neural Variational Inference for Text Processing (Miao et al., 2016),
    https://arxiv.org/abs/1511.06038

    Words :math:`x \sim \mathrm{Multinomial}(n, \mathrm{softmax}(R z + b))` given their number,
    :math:`z \sim N(0, I)`. The paper trains p and q in turn; here both move together.

    Args:
        data: Counts, a column a word.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.

    Raises:
        RecipeError: If the data are no vectors of counts.
    """
    at_least_one(latent=latent, hidden=hidden)
    x, words = _words(data, "nvdm", latent)
    q = Gaussian(latent, MLP(seen(x), *hidden))
    p = Joint({"z": prior_of(prior, latent, aggregated(q, words, data)), "x | z": words})
    return LatentVariableModel(p, Joint({"z | x": q}))


@trained_with(phases="natural_gradients", batch_size=256, learning_rate=1e-2)
def latent_dirichlet_allocation(
    data: Data | Description,
    *,
    latent: int = 20,
    concentration: float = 0.1,
) -> LatentVariableModel:
    r"""Topic model whose documents mix topics and whose topics are distributions of words.

    Shares :math:`t \sim \mathrm{Dirichlet}(\alpha)`, topics :math:`\beta_k \sim
    \mathrm{Dirichlet}(\eta)`, words :math:`x \sim \mathrm{Multinomial}(n, \sum_k t_k \beta_k)`
    given their number. q has no network: a document's shares follow from its words by a fixed
    point, and topics learn by natural gradients (``--phases "natural_gradients(forgetting=0.7)"``,
    stochastic variational inference); :math:`\alpha` is learned. Likelihoods are bounds, the mean
    over the topics' posterior inside the logarithm.

    Latent Dirichlet Allocation (Blei, Ng & Jordan, 2003),
    https://www.jmlr.org/papers/v3/blei03a.html

    Args:
        data: Counts, a column a word.
        latent: Number of topics.
        concentration: :math:`\eta`; small ones make topics of few words.

    Raises:
        RecipeError: If the data are no vectors of counts, or the concentration is not positive.
    """
    at_least_one(latent=latent)
    if not concentration > 0:
        raise RecipeError(f"concentration must be above 0, found {concentration}.")
    if latent < 2:
        raise RecipeError(f"latent must be at least 2 topics, found {latent}.")
    x, _ = _words(data, "latent_dirichlet_allocation", latent)
    total = max(1, round(float(x.mean.sum())))
    words = Topics(x.elements, latent, concentration=concentration, total=total)
    shares = Dirichlet(latent, concentration=1 / latent, minimum_concentration=1e-3)
    return LatentVariableModel(
        Joint({"t": shares, "x | t": words}), Joint({"t | x": TopicShares(shares, words)})
    )


def _words(data: Data | Description, recipe: str, latent: int) -> tuple[Variable, Multinomial]:
    """What is counted, and its law given how many there are, log-linear in the parent."""
    x = of_one_likelihood(data, "multinomial")
    if len(x.shape) != 1 or x.kind not in ("counts", "binary") or x.missing:
        raise RecipeError(
            f"{recipe} models counts of words, a column each, none missing, but {data.name} is "
            f"{x}; count them first, or take the recipe vae."
        )
    total = max(1, round(float(x.mean.sum())))
    return x, Multinomial(x.shape, MLP(latent), total=total, mean=x.mean)
