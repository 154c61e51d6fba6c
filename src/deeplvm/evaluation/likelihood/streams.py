"""A random stream of its own for every draw, so that an estimate does not depend on its chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.gradients import Draw, Drawn, Reparameterised


class Streams:
    """Every latent's draws come from its own stream, which goes on from chunk to chunk.

    Drawing 16 particles and then 16 more gives the numbers that drawing 32 at once gives, whatever
    other latents are drawn between. That holds on a CPU for multiples of 16 (torch fills normals
    in blocks of 16); on other devices chunks change the draws, not their law.

    Args:
        seed: With the name and the position of a draw it decides all its numbers.
        device: Where the model draws.
    """

    def __init__(self, seed: str, device: torch.device) -> None:
        self.seed = seed
        self.generator = generator_of(device)
        self.states: dict[tuple[str, int], Tensor] = {}
        self.drawn: dict[str, int] = {}

    def draws(self, names: tuple[str, ...], draw: Mapping[str, Draw] | None) -> dict[str, Draw]:
        """How each name is drawn in one call of the model, from here on."""
        self.drawn = {}
        chosen = draw or {}
        return {name: _FromStream(self, chosen.get(name, Reparameterised())) for name in names}

    def enter(self, name: str) -> tuple[str, int]:
        """Set torch's generator to the next stream of a name; a recurrent one has one a step."""
        key = (name, self.drawn.get(name, 0))
        self.drawn[name] = key[1] + 1
        if key in self.states:
            self.generator.set_state(self.states[key])
        else:
            digest = hashlib.blake2b(f"{self.seed}/{name}/{key[1]}".encode(), digest_size=7)
            self.generator.manual_seed(int.from_bytes(digest.digest(), "big"))
        return key

    def leave(self, key: tuple[str, int]) -> None:
        """Remember where the stream stands."""
        self.states[key] = self.generator.get_state()


def generator_of(device: torch.device) -> torch.Generator:
    """Torch's own generator, from which draws on a device come."""
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


@dataclass(frozen=True, eq=False)
class _FromStream:
    """A way of drawing, from a stream."""

    streams: Streams
    draw: Draw

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        key = self.streams.enter(name)
        drawn = self.draw(name, distribution, batch_shape, batch_dims)
        self.streams.leave(key)
        return drawn
