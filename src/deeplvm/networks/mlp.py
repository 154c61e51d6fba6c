"""Multilayer perceptrons, and one that sees its parents again in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from deeplvm.networks.broadcasting import join


def glorot(layer: nn.Linear | nn.Conv2d) -> None:
    r"""Uniform weights of variance :math:`2 / (n_{in} + n_{out})`, biases zero.

    Understanding the difficulty of training deep feedforward neural networks (Glorot & Bengio,
    2010), https://proceedings.mlr.press/v9/glorot10a.html. The initialization of *Importance
    Weighted Autoencoders* (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    r"""Multilayer perceptron :math:`h_l = a(W_l h_{l-1} + b_l)`, with :math:`h_0` the parents.

    Parents are concatenated on the last axis after their leading dimensions are broadcast.
    The activation follows every hidden layer, the last too: a conditional adds the linear map
    to its own parameters. Without hidden layers the network is the identity.

    Args:
        in_features: the width of all parents together; a tuple is the event shape of one parent
            that is flattened, such as ``(1, 28, 28)``.
        hidden: the widths of the hidden layers.
        activation: a module class or function without arguments, called once a layer.
        initialization: applied to every linear layer, and to the head a conditional adds;
            ``glorot`` for the settings of the IWAE paper. PyTorch's own by default.
        normalization: a module class or function of a width, between a linear layer and its
            activation: :class:`BatchNorm`.

    Shape:
        Parents ``(*particles, batch, features_i)`` give ``(*particles, batch, out_features)``.

    Raises:
        ValueError: the widths of the parents do not sum to ``in_features``.

    Examples:
        >>> network = MLP(12, 64, 32)
        >>> network(torch.zeros(8, 2), torch.zeros(5, 8, 10)).shape  # y, and five particles of z
        torch.Size([5, 8, 32])
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        *hidden: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        initialization: Callable[[nn.Linear], None] | None = None,
        normalization: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.in_shape = None if isinstance(in_features, int) else tuple(in_features)
        self.in_features = in_features if isinstance(in_features, int) else math.prod(in_features)
        self.initialization = initialization
        widths = (self.in_features, *hidden)
        if min(widths) < 1:
            raise ValueError(f"MLP expects widths of at least 1, found {widths}.")
        self.out_features = widths[-1]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            linear = nn.Linear(fan_in, fan_out)
            if initialization is not None:
                initialization(linear)
            normal = [] if normalization is None else [normalization(fan_out)]
            layers += [linear, *normal, activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, *parents: Tensor) -> Tensor:
        """Features of the parents, shape ``(*particles, batch, out_features)``."""
        if self.in_shape is not None:
            parents = (self._flatten(*parents),)
        like: Any = self.layers[0].weight if len(self.layers) else torch.empty(0)
        return self.layers(join(parents, self.in_features, like, "MLP"))

    def _flatten(self, *parents: Tensor) -> Tensor:
        event = self.in_shape or ()
        if len(parents) == 1 and parents[0].shape[parents[0].ndim - len(event) :] == event:
            return parents[0].flatten(parents[0].ndim - len(event))
        raise ValueError(
            f"MLP({event}, ...) expects one parent of event shape {event}, found shapes "
            f"{[tuple(parent.shape) for parent in parents]}; flatten the others, or give the sum "
            "of their features as a number."
        )


class BatchNorm(nn.BatchNorm1d):
    r"""Every feature at mean 0 and variance 1 over the rows of a batch, then scaled and shifted.

    In training the statistics are those of all rows and particles at hand; in evaluation, and for
    a single row, running means of them, so that what is measured of a row is its own. Several
    processes, each with a part of the batch, are refused in training.

    Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift
    (Ioffe & Szegedy, 2015), https://arxiv.org/abs/1502.03167

    Shape:
        ``(*particles, batch, features)`` gives the same.

    Examples:
        >>> BatchNorm(3)(torch.randn(5, 8, 3)).mean((0, 1)).abs().max() < 1e-6
        tensor(True)
    """

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """The same shape as ``features``."""
        rows = features.reshape(-1, features.shape[-1])
        if not self.training or rows.shape[0] > 1:  # a graph is of any number of rows
            return super().forward(rows).reshape(features.shape)
        mean, variance = self.running_mean, self.running_var
        known = batch_norm(rows, mean, variance, self.weight, self.bias, eps=self.eps)
        return known.reshape(features.shape)


class SkipMLP(nn.Module):
    r"""Perceptron with skip connections, :math:`h_l = a(W_l [h_{l-1}, z] + b_l)`, no :math:`h_0`.

    The parents :math:`z` enter every hidden layer and what it returns, so that a deep decoder
    cannot lose them on the way: a remedy for posterior collapse.

    Avoiding Latent Variable Collapse with Generative Skip Models (Dieng et al., 2019),
    https://arxiv.org/abs/1807.04863

    Args:
        in_features: The width of all parents together.
        hidden: The widths of the hidden layers, at least one.
        activation: A module class or function without arguments, called once a layer.
        initialization: Applied to every linear layer, and to the head a conditional adds.

    Shape:
        Parents ``(*particles, batch, features_i)`` give ``(*particles, batch, out_features)``,
        the last hidden layer and the parents: ``hidden[-1] + in_features``.

    Raises:
        ValueError: There is no hidden layer, or the widths of the parents do not sum to
            ``in_features``.

    Examples:
        >>> network = SkipMLP(2, 64, 32)
        >>> network(torch.zeros(8, 2)).shape
        torch.Size([8, 34])
        >>> [layer.in_features for layer in network.layers]
        [2, 66]
    """

    def __init__(
        self,
        in_features: int,
        *hidden: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        initialization: Callable[[nn.Linear], None] | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(in_features, *hidden) < 1:
            raise ValueError(
                f"SkipMLP expects positive widths and at least one hidden layer, found "
                f"{(in_features, *hidden)}; without one, MLP is the same."
            )
        self.in_features = in_features
        self.initialization = initialization
        self.out_features = hidden[-1] + in_features
        before = [0, *hidden[:-1]]
        self.layers = nn.ModuleList(
            [nn.Linear(a + in_features, b) for a, b in zip(before, hidden, strict=True)]
        )
        self.activations = nn.ModuleList([activation() for _ in hidden])
        if initialization is not None:
            for layer in self.layers:
                initialization(layer)  # type: ignore[arg-type]

    def forward(self, *parents: Tensor) -> Tensor:
        """Features of the parents, shape ``(*particles, batch, out_features)``."""
        like: Any = self.layers[0].weight
        seen = join(parents, self.in_features, like, "SkipMLP")
        features = seen
        for layer, activation in zip(self.layers, self.activations, strict=True):
            features = torch.cat([activation(layer(features)), seen], -1)
        return features
