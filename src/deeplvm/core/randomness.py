"""A random stream of its own for every draw, so that an estimate does not depend on its chunks."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Draw, Drawn, Reparameterised


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


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """No gradients, and draws that the seed decides; torch's own state is left as it was."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients and a seed inside; modes and random state as before, after."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    generators = [generator_of(device) for device in devices | {torch.device("cpu")}]
    states = [generator.get_state() for generator in generators]
    model.eval()
    try:
        with torch.inference_mode():
            for generator in generators:
                generator.manual_seed(seed)
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        for module, training in modes:
            module.training = training


def seed_of(*parts: int) -> int:
    """A seed that depends on all the parts: of a run and an epoch, say.

    >>> seed_of(0, 1) != seed_of(1, 0)
    True
    """
    text = "/".join([str(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """A stream of random numbers from a seed; the one outside goes on as if nothing was drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
