r"""Objectives: functions of Evidence that return one bound per observation; higher is better.

Every one of them takes KL weights (:meth:`deeplvm.core.evidence.Evidence.temper`) and every way of
drawing latents, because it reads nothing but the ledger. One that remembers something between
steps (a multiplier, a running mean) is a module whose ``forward`` is the objective; what it
remembers changes in training mode only.
"""

from deeplvm.objectives.auxiliary import auxiliary_elbo
from deeplvm.objectives.balanced import balanced_elbo
from deeplvm.objectives.beta import GrowingCapacity, beta_elbo
from deeplvm.objectives.bounds import Form, alpha_energy, elbo, iwae, renyi, vr_max
from deeplvm.objectives.classification import semi_supervised_elbo
from deeplvm.objectives.constrained import Constrained
from deeplvm.objectives.discrepancy import fair_elbo, imq, info_vae, maximum_mean_discrepancy, rbf
from deeplvm.objectives.free_bits import SoftFreeBits, free_bits
from deeplvm.objectives.resampling import resample
from deeplvm.objectives.total_correlation import DivergenceParts, beta_tc_elbo, divergence_parts
from deeplvm.objectives.wake_sleep import sleep, wake_phi

__all__ = [
    "Constrained",
    "DivergenceParts",
    "Form",
    "GrowingCapacity",
    "SoftFreeBits",
    "alpha_energy",
    "auxiliary_elbo",
    "balanced_elbo",
    "beta_elbo",
    "beta_tc_elbo",
    "divergence_parts",
    "elbo",
    "fair_elbo",
    "free_bits",
    "imq",
    "info_vae",
    "iwae",
    "maximum_mean_discrepancy",
    "rbf",
    "renyi",
    "resample",
    "semi_supervised_elbo",
    "sleep",
    "vr_max",
    "wake_phi",
]
