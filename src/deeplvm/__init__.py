"""Deep latent-variable models: learn p(x, z) and q(z | x), and a likelihood you can defend."""

from deeplvm.evidence import Evidence
from deeplvm.gradients import Enumerated, Reparameterised, Sampled
from deeplvm.joint import Joint, NotationError
from deeplvm.model import LatentVariableModel
from deeplvm.objectives import beta_elbo, elbo, free_bits, iwae
from deeplvm.recurrent import Plate, Recurrent
from deeplvm.trace import Site, Trace

__all__ = [
    "Enumerated",
    "Evidence",
    "Joint",
    "LatentVariableModel",
    "NotationError",
    "Plate",
    "Recurrent",
    "Reparameterised",
    "Sampled",
    "Site",
    "Trace",
    "beta_elbo",
    "elbo",
    "free_bits",
    "iwae",
]
__version__ = "0.1.0"
