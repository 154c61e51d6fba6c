"""Normalizing flows as conditionals: posteriors, priors and likelihoods; each family a file."""

from deeplvm.conditionals.flows.flow import Flow, Transform
from deeplvm.conditionals.flows.guarded_zuko import zuko
from deeplvm.conditionals.flows.inverse_autoregressive import InverseAutoregressiveFlow

__all__ = ["Flow", "InverseAutoregressiveFlow", "Transform", "zuko"]
