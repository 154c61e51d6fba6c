"""Masked networks: element i of what they return depends on earlier elements only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplvm.conditionals.flows.guarded_zuko import zuko


class MaskedNetwork(nn.Module):
    r"""Raw numbers for every element of a vector, by a masked multilayer perceptron (MADE).

    Those of element i depend on elements before i and on all of the context, which is not masked.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509

    Args:
        features: length of the vector.
        context: width of the context.
        hidden: widths of the hidden layers.
        outputs: raw numbers for each element.
    """

    def __init__(self, features: int, context: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        before = torch.ones(features, features).tril(-1).bool()
        sees = torch.cat([before, torch.ones(features, context).bool()], -1)
        self.network = zuko.nn.MaskedMLP(
            torch.cat([sees] * outputs),  # pyrefly: ignore[bad-argument-type] - zuko's BoolTensor
            hidden_features=tuple(hidden),
            activation=nn.ELU,
        )

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """``outputs`` tensors, each of the value's shape."""
        leading = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
        joined = torch.cat(
            [
                value.expand(*leading, value.shape[-1]),
                context.expand(*leading, context.shape[-1]),
            ],
            -1,
        )
        # under autocast the network computes in bfloat16; the density does not
        return self.network(joined).to(value.dtype).chunk(self.outputs, -1)
