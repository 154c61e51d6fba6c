"""Counts of genes in cells."""

from __future__ import annotations

from typing import Any, Literal

from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.likelihood_table import LIKELIHOODS
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import Indicator, labels_of
from deeplvm.recipes.plain import at_least_one, of_one_likelihood, seen


@trained_with(learning_rate=1e-3, batch_size=128)
def scvi(
    data: Data | Description,
    *,
    latent: int = 10,
    hidden: tuple[int, ...] = (128,),
    library: Literal["observed", "latent"] = "observed",
    batches: bool = False,
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Variational autoencoder of counts whose rates are shares of how much was read of a cell.

    Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
    https://www.nature.com/articles/s41592-018-0229-2

    Counts of genes have the means :math:`l\, \mathrm{softmax}(\eta(z))`; the law around them is
    the data's likelihood: poisson, negative-binomial, either zero-inflated, or multinomial; of a
    table for which none was asked negative-binomial. With
    the library size l observed, each cell's own total, the log-likelihood is that of the counts
    given their total; a latent one is log-normal, and the counts and their total are scored. The
    two are not comparable. Samples of the first have the mean total of the training rows.

    Args:
        data: Counts, a column a gene.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        library: Whether the library size is each cell's own total, taken as known, or a latent.
        batches: Whether the label is a batch: an input of p and q, never scored.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no counts, or have no labels where these are batches.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = of_one_likelihood(data, "negative-binomial")
    if len(x.shape) != 1 or x.kind != "counts" or x.likelihood == "mixture" or x.missing:
        raise RecipeError(
            f"scvi models counts, a column a gene, none missing, but {data.name} is {x}; take the "
            f"recipe vae, or name the counts: --layer, --likelihood negative-binomial."
        )
    total = max(1, round(float(x.mean.sum())))
    latent_size = library == "latent"
    if latent_size and LIKELIHOODS[x.likelihood].joint:
        raise RecipeError(
            f"{x.likelihood} is of counts given their total, which has no library size to learn; "
            f"take library observed, or --likelihood negative-binomial."
        )
    classes = labels_of(data, "scvi", "batches of cells") if batches else 0
    batch = ", c" if batches else ""
    shared: dict[str, Any] = {"c | y": Indicator(classes)} if batches else {}
    units = (float(x.mean.sum().clamp_min(1.0).log()), 1.0)
    counts = LIKELIHOODS[x.likelihood].of(x)(
        network=MLP(latent + classes, *hidden[::-1]), total="parent" if latent_size else total
    )
    p = shared | {"z": prior_of(prior, latent)}
    q = shared | {f"z | x{batch}": Gaussian(latent, MLP(_width(x, classes), *hidden))}
    if latent_size:
        p |= {"s": Gaussian(1, units=units)}
        q |= {f"s | x{batch}": Gaussian(1, MLP(_width(x, classes), *hidden), units=units)}
    p |= {f"x | z{batch}{', s' if latent_size else ''}": counts}
    return LatentVariableModel(Joint(p), Joint(q))


def _width(x: Any, classes: int) -> int:
    """How wide x and its batch are together, as networks see them."""
    return seen(x)[0] + classes
