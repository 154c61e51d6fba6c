"""A recipe of your own: a function from what the data are to a model p(x, z) and its q(z | x).

    deeplvm fit digits --recipe FILE:mine
    deeplvm fit digits --recipe FILE:mine --latent 4 --out runs/mine
    deeplvm evaluate runs/mine --trust

``--trust``, as a run only names this file, and to open the run is to run it.
"""

from __future__ import annotations

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.data import Data, Description, likelihood_of
from deeplvm.networks import MLP
from deeplvm.recipes.plain import observed, seen


# Each keyword, with its type and default, becomes an option of `deeplvm fit`: --latent, --hidden.
def mine(
    data: Data | Description, *, latent: int = 8, hidden: tuple[int, ...] = (64,)
) -> LatentVariableModel:
    """A variational autoencoder, to be changed: this line is its help.

    Args:
        data: What is modelled: its shape and kind, never its values.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    x = observed(data)
    # A model is a product of conditionals, written as it is read. Another prior, such as
    # deeplvm.conditionals.Laplace, or another layer, "z1 | z2", is a line more or less here.
    p = Joint(
        {
            "z": StandardNormal(latent),
            # the likelihood that fits the values: Bernoulli, Gaussian, Poisson, mixed columns, ...
            "x | z": likelihood_of(x, MLP(latent, *hidden[::-1])),
        }
    )
    # q draws what p does not observe; a flow, deeplvm.conditionals.InverseAutoregressiveFlow,
    # stands where this Gaussian does.
    q = Joint({"z | x": Gaussian(latent, MLP(seen(x), *hidden))})
    return LatentVariableModel(p, q)
