"""The networks in plain PyTorch, for the side written by hand and for the peers built on torch.

They have the layers of ``deeplvm.networks`` with the linear map that a conditional adds.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads import PIXELS, Workload

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_SHIFT = math.log(math.expm1(1.0))


def positive(raw: Tensor) -> Tensor:
    """A scale of at least 0.001 that is about 1 at zero."""
    return F.softplus(raw + _SHIFT) + 1e-3


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


def image_encoder(narrow: int, wide: int, features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, narrow, 3, stride=2, padding=1),
        Residual(narrow),
        nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
        Residual(wide),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(wide * 7 * 7, features),
        nn.ELU(),
        nn.Linear(features, outputs),
    )


def image_decoder(narrow: int, wide: int, latent: int) -> nn.Sequential:
    last = max(8, narrow // 2)
    return nn.Sequential(
        nn.Linear(latent, wide * 7 * 7),
        nn.Unflatten(-1, (wide, 7, 7)),
        Residual(wide),
        nn.ELU(),
        nn.Conv2d(wide, 4 * narrow, 3, padding=1),
        nn.PixelShuffle(2),
        Residual(narrow),
        nn.ELU(),
        nn.Conv2d(narrow, 4 * last, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ELU(),
        nn.Conv2d(last, 1, 1),
    )


def networks(workload: Workload) -> tuple[nn.Module, nn.Module]:
    """Encoder to mean and raw scale side by side, decoder to logits."""
    latent = workload.latent[0]
    if workload.family == "conv":
        narrow, wide, features = workload.hidden
        decoder = image_decoder(narrow, wide, latent)
        return image_encoder(narrow, wide, features, 2 * latent), decoder
    decoder = perceptron(latent, *reversed(workload.hidden), PIXELS)
    return perceptron(PIXELS, *workload.hidden, 2 * latent), decoder


class Ladder(nn.Module):
    """The parts of a ladder VAE; index 0 is the layer next to x.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        widths, latent = workload.hidden, workload.latent
        top = len(widths) - 1
        # generative, from the top: features of the layer above, the prior, then x
        self.down = nn.ModuleList(
            [nn.Sequential(nn.Linear(latent[i + 1], widths[i + 1]), nn.ReLU()) for i in range(top)]
        )
        self.prior = nn.ModuleList([nn.Linear(widths[i + 1], 2 * latent[i]) for i in range(top)])
        self.output = perceptron(latent[0], widths[0], PIXELS)
        # inference, from x: features, then what the data say of each layer
        self.up = nn.ModuleList(
            [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise((PIXELS, *widths))]
        )
        self.seen = nn.ModuleList(
            [nn.Linear(width, 2 * size) for width, size in zip(widths, latent, strict=True)]
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """What each layer of the inference network sees of the data."""
        found = []
        for layer in self.up:
            x = layer(x)
            found.append(x)
        return found

    def likelihood(self, layer: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale that the data suggest for a layer."""
        mean, raw = self.seen[layer](features).chunk(2, -1)
        return mean, positive(raw)

    def given(self, layer: int, above: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of the prior of a layer given the one above."""
        mean, raw = self.prior[layer](self.down[layer](above)).chunk(2, -1)
        return mean, positive(raw)


def merged(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and scale of the normalised product of two normals."""
    ours, theirs = first[1].square(), second[1].square()
    total = ours + theirs
    mean = first[0] + (second[0] - first[0]) * (ours / total)
    return mean, first[1] * second[1] * torch.rsqrt(total)
