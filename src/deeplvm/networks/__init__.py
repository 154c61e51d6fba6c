"""Networks: maps from parents to features; a conditional adds the head to its parameters."""

from deeplvm.networks.broadcasting import fold_particles, join
from deeplvm.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, Residual
from deeplvm.networks.features import Features, out_shape_of
from deeplvm.networks.local_reparameterisation import (
    LocallyReparameterisedLinear,
    weights_divergence,
)
from deeplvm.networks.masked import MaskedNetwork
from deeplvm.networks.mlp import MLP, SkipMLP, glorot
from deeplvm.networks.recurrent import GRU

__all__ = [
    "GRU",
    "MLP",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "Features",
    "LocallyReparameterisedLinear",
    "MaskedNetwork",
    "Residual",
    "SkipMLP",
    "fold_particles",
    "glorot",
    "join",
    "out_shape_of",
    "weights_divergence",
]
