"""Networks: maps from parents to features; a conditional adds the head to its parameters."""

from deeplvm.networks.attention import (
    GaussianAttention,
    SpatialTransformer,
    Window,
    filter_bank,
    placed,
)
from deeplvm.networks.broadcasting import fold_particles, join
from deeplvm.networks.causal import CausalNetwork, Stepwise
from deeplvm.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from deeplvm.networks.features import Features, out_shape_of
from deeplvm.networks.local_reparameterisation import (
    LocallyReparameterisedLinear,
    weights_divergence,
)
from deeplvm.networks.masked import MaskedNetwork
from deeplvm.networks.mlp import MLP, SkipMLP, glorot
from deeplvm.networks.recurrent import GRU, LSTM, ConvolutionalGRU, ConvolutionalLSTM, Output
from deeplvm.networks.residual import DepthToSpace, Residual, ResidualNetwork, SpaceToDepth
from deeplvm.networks.sets import AttentionPool, MeanPool, Memory
from deeplvm.networks.start import WeightNormalisedConvolution

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "AttentionPool",
    "CausalNetwork",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "ConvolutionalGRU",
    "ConvolutionalLSTM",
    "DepthToSpace",
    "Features",
    "GaussianAttention",
    "LocallyReparameterisedLinear",
    "MaskedNetwork",
    "MeanPool",
    "Memory",
    "Output",
    "Residual",
    "ResidualNetwork",
    "SkipMLP",
    "SpaceToDepth",
    "SpatialTransformer",
    "Stepwise",
    "WeightNormalisedConvolution",
    "Window",
    "filter_bank",
    "fold_particles",
    "glorot",
    "join",
    "out_shape_of",
    "placed",
    "weights_divergence",
]
