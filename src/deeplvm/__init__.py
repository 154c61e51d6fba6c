"""Deep latent-variable models: learn p(x, z) and q(z | x), and a likelihood you can defend.

Public names are loaded on first use, so that the command line can show its help without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplvm.evaluation import variance_of_gradient
    from deeplvm.evidence import Evidence
    from deeplvm.gradients import Enumerated, Reparameterised, Sampled
    from deeplvm.joint import Joint, NotationError
    from deeplvm.model import LatentVariableModel
    from deeplvm.objectives import beta_elbo, beta_tc_elbo, elbo, free_bits, iwae, renyi
    from deeplvm.recurrent import Plate, Recurrent
    from deeplvm.trace import Site, Trace

__version__ = "0.1.0"

_HOME = {
    "Enumerated": "gradients",
    "Evidence": "evidence",
    "Joint": "joint",
    "LatentVariableModel": "model",
    "NotationError": "joint",
    "Plate": "recurrent",
    "Recurrent": "recurrent",
    "Reparameterised": "gradients",
    "Sampled": "gradients",
    "Site": "trace",
    "Trace": "trace",
    "beta_elbo": "objectives",
    "beta_tc_elbo": "objectives",
    "elbo": "objectives",
    "free_bits": "objectives",
    "iwae": "objectives",
    "renyi": "objectives",
    "variance_of_gradient": "evaluation",
}
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
    "beta_tc_elbo",
    "elbo",
    "free_bits",
    "iwae",
    "renyi",
    "variance_of_gradient",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deeplvm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deeplvm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
