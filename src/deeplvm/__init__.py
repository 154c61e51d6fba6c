"""Deep latent-variable models: learn p(x, z) and q(z | x), and a likelihood you can defend.

Public names are loaded on first use, so that the command line can show its help without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplvm.core.draws import Enumerated, Reparameterised, Sampled
    from deeplvm.core.evidence import Evidence
    from deeplvm.core.joint import Joint, NotationError
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.core.trace import Site, Trace
    from deeplvm.data import load
    from deeplvm.evaluation import evaluate, variance_of_gradient
    from deeplvm.objectives import beta_elbo, beta_tc_elbo, elbo, free_bits, iwae, renyi
    from deeplvm.recurrent import Plate, Recurrent
    from deeplvm.training import fit

__version__ = "0.1.0"

_HOME = {
    "Enumerated": "core.draws",
    "Evidence": "core.evidence",
    "Joint": "core.joint",
    "LatentVariableModel": "core.model",
    "NotationError": "core.joint",
    "Plate": "recurrent",
    "Recurrent": "recurrent",
    "Reparameterised": "core.draws",
    "Sampled": "core.draws",
    "Site": "core.trace",
    "Trace": "core.trace",
    "beta_elbo": "objectives",
    "beta_tc_elbo": "objectives",
    "elbo": "objectives",
    "evaluate": "evaluation",
    "fit": "training",
    "free_bits": "objectives",
    "iwae": "objectives",
    "load": "data",
    "renyi": "objectives",
    "variance_of_gradient": "evaluation",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deeplvm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deeplvm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
