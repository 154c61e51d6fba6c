"""A multilayer perceptron that sees its parents again in every layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deeplvm.networks.broadcasting import join


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
        seen = join(parents, self.in_features, self.layers[0].weight, "SkipMLP")
        features = seen
        for layer, activation in zip(self.layers, self.activations, strict=True):
            features = torch.cat([activation(layer(features)), seen], -1)
        return features
