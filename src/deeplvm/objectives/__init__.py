r"""Objectives: functions of Evidence that return one bound per observation; higher is better.

Every one of them takes KL weights (:meth:`deeplvm.evidence.Evidence.temper`) and every way of
drawing latents, because it reads nothing but the ledger.
"""

from deeplvm.objectives.bounds import Form, beta_elbo, elbo, iwae
from deeplvm.objectives.free_bits import free_bits

__all__ = ["Form", "beta_elbo", "elbo", "free_bits", "iwae"]
