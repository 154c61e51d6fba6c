"""Networks: maps from parents to features; a conditional adds the head to its parameters."""

from deeplvm.networks.attention import (
    GaussianAttention,
    SpatialTransformer,
    Window,
    filter_bank,
    placed,
)
from deeplvm.networks.autoregressive import MADE, NADE
from deeplvm.networks.broadcasting import fold_particles, join
from deeplvm.networks.causal import CausalNetwork, OverSteps, Stepwise
from deeplvm.networks.causal_attention import CausalAttention
from deeplvm.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from deeplvm.networks.data_dependent_initialisation import WeightNormalisedConvolution
from deeplvm.networks.derivations import Derivations
from deeplvm.networks.features import Features, out_shape_of
from deeplvm.networks.graph_convolution import GraphConvolutions, normalised_adjacency
from deeplvm.networks.local_reparameterisation import (
    LocallyReparameterisedLinear,
    weights_divergence,
)
from deeplvm.networks.locally_masked import LocallyMaskedPixelCNN
from deeplvm.networks.masked import MaskedNetwork
from deeplvm.networks.mlp import MLP, BatchNorm, SkipMLP, glorot
from deeplvm.networks.pixel_cnn import GatedPixelCNN, PixelCNN
from deeplvm.networks.recurrent import GRU, LSTM, ConvolutionalGRU, ConvolutionalLSTM, Output
from deeplvm.networks.residual import DepthToSpace, Residual, ResidualNetwork, SpaceToDepth
from deeplvm.networks.row_lstm import RowLSTM
from deeplvm.networks.sequence_convolutions import (
    ConvolutionalSequenceEncoder,
    DilatedConvolutions,
    SequenceDeconvolutions,
)
from deeplvm.networks.sequences import Combiner, LocallyLinear, SequenceEncoder, StepCount
from deeplvm.networks.sets import Alignment, AttentionPool, MeanPool, Memory, WeightedMean
from deeplvm.networks.shifted_convolutions import ShiftedPixelCNN
from deeplvm.networks.text import Ends, WordDropout
from deeplvm.networks.text_encoder import TextEncoder, WordCount

__all__ = [
    "GRU",
    "LSTM",
    "MADE",
    "MLP",
    "NADE",
    "Alignment",
    "AttentionPool",
    "BatchNorm",
    "CausalAttention",
    "CausalNetwork",
    "Combiner",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "ConvolutionalGRU",
    "ConvolutionalLSTM",
    "ConvolutionalSequenceEncoder",
    "DepthToSpace",
    "Derivations",
    "DilatedConvolutions",
    "Ends",
    "Features",
    "GatedPixelCNN",
    "GaussianAttention",
    "GraphConvolutions",
    "LocallyLinear",
    "LocallyMaskedPixelCNN",
    "LocallyReparameterisedLinear",
    "MaskedNetwork",
    "MeanPool",
    "Memory",
    "Output",
    "OverSteps",
    "PixelCNN",
    "Residual",
    "ResidualNetwork",
    "RowLSTM",
    "SequenceDeconvolutions",
    "SequenceEncoder",
    "ShiftedPixelCNN",
    "SkipMLP",
    "SpaceToDepth",
    "SpatialTransformer",
    "StepCount",
    "Stepwise",
    "TextEncoder",
    "WeightNormalisedConvolution",
    "WeightedMean",
    "Window",
    "WordCount",
    "WordDropout",
    "filter_bank",
    "fold_particles",
    "glorot",
    "join",
    "normalised_adjacency",
    "out_shape_of",
    "placed",
    "weights_divergence",
]
