"""Normalizing flows as conditionals: posteriors, priors and likelihoods; each family a file."""

from deeplvm.conditionals.flows.flow import Flow, Transform
from deeplvm.conditionals.flows.guarded_zuko import zuko
from deeplvm.conditionals.flows.householder import HouseholderFlow
from deeplvm.conditionals.flows.inverse_autoregressive import InverseAutoregressiveFlow
from deeplvm.conditionals.flows.linear_inverse_autoregressive import (
    LinearInverseAutoregressiveFlow,
)
from deeplvm.conditionals.flows.planar import PlanarFlow
from deeplvm.conditionals.flows.radial import RadialFlow
from deeplvm.conditionals.flows.sylvester import (
    HouseholderSylvesterFlow,
    OrthogonalSylvesterFlow,
    TriangularSylvesterFlow,
)

__all__ = [
    "Flow",
    "HouseholderFlow",
    "HouseholderSylvesterFlow",
    "InverseAutoregressiveFlow",
    "LinearInverseAutoregressiveFlow",
    "OrthogonalSylvesterFlow",
    "PlanarFlow",
    "RadialFlow",
    "Transform",
    "TriangularSylvesterFlow",
    "zuko",
]
