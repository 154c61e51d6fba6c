"""Normalizing flows as conditionals: posteriors, priors and likelihoods; each family a file."""

from deeplvm.conditionals.flows.activation_normalisation import ActivationNormalisation, start_from
from deeplvm.conditionals.flows.autoregressive import (
    InverseAutoregressiveFlow,
    Inverted,
    MaskedAutoregressiveFlow,
)
from deeplvm.conditionals.flows.coupling import NICE, RealNVP, coupling_mask
from deeplvm.conditionals.flows.flow import Flow, Transform
from deeplvm.conditionals.flows.glow import Glow
from deeplvm.conditionals.flows.guarded_zuko import zuko
from deeplvm.conditionals.flows.householder import HouseholderFlow
from deeplvm.conditionals.flows.linear_inverse_autoregressive import (
    LinearInverseAutoregressiveFlow,
)
from deeplvm.conditionals.flows.logit import Logit
from deeplvm.conditionals.flows.multi_scale import MultiScale
from deeplvm.conditionals.flows.neural_autoregressive import NeuralAutoregressiveFlow
from deeplvm.conditionals.flows.permutation import InvertibleLinear, Permutation, reversal
from deeplvm.conditionals.flows.planar import PlanarFlow, RadialFlow
from deeplvm.conditionals.flows.spline import NeuralSplineFlow
from deeplvm.conditionals.flows.sylvester import SylvesterFlow

__all__ = [
    "NICE",
    "ActivationNormalisation",
    "Flow",
    "Glow",
    "HouseholderFlow",
    "InverseAutoregressiveFlow",
    "Inverted",
    "InvertibleLinear",
    "LinearInverseAutoregressiveFlow",
    "Logit",
    "MaskedAutoregressiveFlow",
    "MultiScale",
    "NeuralAutoregressiveFlow",
    "NeuralSplineFlow",
    "Permutation",
    "PlanarFlow",
    "RadialFlow",
    "RealNVP",
    "SylvesterFlow",
    "Transform",
    "coupling_mask",
    "reversal",
    "start_from",
    "zuko",
]
