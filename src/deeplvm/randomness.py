"""Where random numbers come from: seeds, modes for an evaluation, and noise that a row owns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

from deeplvm.core.draws import Draw, Drawn, Enumerated, Reparameterised, is_estimator


class Noise(Protocol):
    """Where the random numbers of some rows come from."""

    def normal_like(self, like: Tensor) -> Tensor:
        """Standard normals for chains, ``(particles, rows, *event)`` or ``(rows,)``."""
        ...

    def uniform_like(self, like: Tensor) -> Tensor:
        """Numbers between 0 and 1 for chains, ``(particles, rows, *event)`` or ``(rows,)``."""
        ...

    def apart(self, what: object) -> Noise:
        """Other numbers for the same rows, which do not depend on how many were taken before."""
        ...

    def of(self, draw: Draw) -> Draw:
        """A way of drawing, with the numbers of the rows."""
        ...


class _Ambient:
    """Torch's own generator."""

    def normal_like(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def uniform_like(self, like: Tensor) -> Tensor:
        return torch.rand_like(like)

    def apart(self, what: object) -> Noise:
        return self

    def of(self, draw: Draw) -> Draw:
        return draw


AMBIENT: Noise = _Ambient()
"""Torch's own generator, for rows that are alone."""


class RowNoise:
    r"""Random numbers of some rows: each row's come from its own key, in whatever company it is.

    The n-th number of a particle is a hash of the seed, the row's key, what is drawn, the
    particle's number and n. So it is the same in every batch, order, partition and chunk of
    particles.

    Random operators of torch take their numbers from here inside :meth:`drawing`, through a
    dispatch mode. Those that reject (gammas, Poissons) run row by row, from a generator that the
    key seeds for every 16 particles.

    The hash is the counter-based generator of *Fast splittable pseudorandom number generators*
    (Steele et al., 2014), https://doi.org/10.1145/2714064.2660195; normals come from it by the
    transform of Box & Muller (1958), two from 64 bits in float32.

    Args:
        seed: With a row's key it decides all the row's numbers.
        keys: One integer a row, shape ``(rows,)``, where the model draws.
        shared: Names that are drawn once for all rows; their numbers depend on no row.
        start: Number of the first particle.
        steps: Whether rows have steps, of which those that a row lacks change no numbers of the
            others.

    Examples:
        >>> noise = RowNoise("0", torch.tensor([7, 8, 9]))
        >>> alone = RowNoise("0", torch.tensor([8]))
        >>> two, one = torch.empty(2, 3, 4), torch.empty(2, 1, 4)
        >>> bool((noise.normal_like(two)[:, 1:2] == alone.normal_like(one)).all())
        True
    """

    def __init__(
        self,
        seed: str,
        keys: Tensor,
        shared: frozenset[str] = frozenset(),
        start: int = 0,
        *,
        steps: bool = False,
    ) -> None:
        self.seed, self.keys, self.shared, self.start = seed, keys, shared, start
        self.steps = steps
        self.visits: dict[str, int] = {}

    def apart(self, what: object) -> RowNoise:
        """Other numbers for the same rows, which do not depend on how many were taken before."""
        return RowNoise(f"{self.seed}/{what}", self.keys, self.shared, steps=self.steps)

    def at(self, start: int) -> RowNoise:
        """The same numbers again, from another particle on."""
        return RowNoise(self.seed, self.keys, self.shared, start, steps=self.steps)

    def take(self, rows: Tensor) -> RowNoise:
        """Those of some of the rows, by their numbers."""
        return RowNoise(self.seed, self.keys[rows], self.shared, self.start, steps=self.steps)

    def draws(self, names: Iterable[str], draw: Mapping[str, Draw] | None) -> dict[str, Draw]:
        """How each name is drawn, with the numbers of the rows, and what is chosen beside."""
        chosen = draw or {}
        named = dict.fromkeys((*names, *chosen))
        return {name: self.of(chosen.get(name, Reparameterised())) for name in named}

    def of(self, draw: Draw) -> Draw:
        """A way of drawing, with the numbers of the rows."""
        # an estimator's draws are its own: it draws again when it gives credit
        plain = isinstance(draw, Enumerated) or is_estimator(draw)
        return draw if plain else RowDraw(self, draw)

    @contextmanager
    def drawing(self, name: str, batch_shape: tuple[int, ...]) -> Iterator[None]:
        """Random operators inside are of this name, one draw of it a call.

        Args:
            name: A recurrent one has other numbers at each step.
            batch_shape: ``(*particles, rows)``, with which the operators' shapes begin.
        """
        with Dealt(self, f"{name}/{self._visit(name)}", batch_shape, common=name in self.shared):
            yield

    def normal_like(self, like: Tensor) -> Tensor:
        """Standard normals for chains, ``(particles, rows, *event)`` or ``(rows,)``."""
        return self._dealer(like).normal(like)

    def uniform_like(self, like: Tensor) -> Tensor:
        """Numbers between 0 and 1 for chains, ``(particles, rows, *event)`` or ``(rows,)``."""
        return self._dealer(like).uniform(like)

    def _dealer(self, like: Tensor) -> Dealt:
        return Dealt(self, f"chains/{self._visit('chains')}", tuple(like.shape[:2]), common=False)

    def _visit(self, name: str) -> int:
        self.visits[name] = self.visits.get(name, -1) + 1
        return self.visits[name]


@dataclass(frozen=True, eq=False)
class RowDraw:
    """A way of drawing, with the numbers of the rows.

    Attributes:
        noise: Where the numbers come from.
        draw: The way.
        right: How many dimensions of what is said to be the batch are members inside a row.
    """

    noise: RowNoise
    draw: Draw
    right: int = 0

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        with self.noise.drawing(name, batch_shape[: len(batch_shape) - self.right]):
            return self.draw(name, distribution, batch_shape, batch_dims)


_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
_BLOCK = 16  # particles of a row that rejecting operators draw from one seed


class Dealt(TorchDispatchMode):
    """Random operators of one draw, each of which has numbers of its own."""

    def __init__(
        self, noise: RowNoise, what: str, batch_shape: tuple[int, ...], *, common: bool
    ) -> None:
        super().__init__()
        self.noise, self.what, self.calls = noise, what, 0
        rows = batch_shape[-1]
        self.common = common or rows != len(noise.keys)
        if self.common and rows != 1:
            raise ValueError(
                f"{len(noise.keys)} rows have numbers of their own, and {rows} are drawn."
            )
        self.batch_shape = batch_shape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        return self.dealt(func, args, kwargs or {})

    def dealt(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What a random operator returns."""
        bound = _arguments(func, args, kwargs)
        name = func.overloadpacket.__name__
        dealt = getattr(self, f"_deal_{name.rstrip('_').removesuffix('_like')}", None)
        if dealt is None:
            return self._row_by_row(func, bound)
        like = bound.get("self")
        if not isinstance(like, Tensor) or name in ("normal", "multinomial"):
            like = None
        if like is None and "size" in bound:
            kept = {key: bound[key] for key in ("dtype", "device") if bound.get(key) is not None}
            like = torch.empty(bound["size"], **kept)
        value = dealt(like, bound)
        return like.copy_(value) if name.endswith("_") and like is not None else value

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers between 0 and 1, both apart."""
        double = like.dtype == torch.float64
        bits = self._laid(like.shape, self._bits)
        kept = 52 if double else 23
        whole = _shifted(bits, 64 - kept).to(like.dtype if like.is_floating_point() else None)
        whole = whole if whole.is_floating_point() else whole.double()
        return (whole + 0.5) * 2.0**-kept

    def normal(self, like: Tensor) -> Tensor:
        """Standard normals, in pairs of particles."""
        dtype = like.dtype

        def pairs(first: Tensor, particle: Tensor, elements: int) -> Tensor:
            begin, count = int(particle[0]), len(particle)
            pair = torch.arange(begin // 2, (begin + count + 1) // 2, device=particle.device)
            bits = self._bits(first, pair, elements)
            if dtype == torch.float64:
                radius = (_shifted(bits, 11).double() + 0.5) * 2.0**-53
                angle = _shifted(self._bits(first, pair, elements, 1), 11).double() * 2.0**-53
            else:
                radius = (_shifted(bits, 32).to(dtype) + 0.5) * 2.0**-32
                angle = (bits & 0xFFFFFFFF).to(dtype) * 2.0**-32
            radius = radius.log_().mul_(-2.0).sqrt_()
            angle = angle.mul_(2.0 * math.pi)
            both = torch.stack([radius * angle.cos(), radius * angle.sin()], 2).flatten(1, 2)
            return both[:, begin % 2 : begin % 2 + count]

        return self._laid(like.shape, pairs)

    def _placed(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...], int]:
        """Where particles and rows are in a shape, which of them, and the first particle."""
        batch = self.batch_shape
        start = self.noise.start if len(batch) > 1 else 0
        for at in range(len(shape)):
            if shape[at : at + len(batch)] == batch:
                return at, batch, start
        if shape and shape[0] and shape[0] % math.prod(batch) == 0:  # flat
            return 0, batch, start
        if shape[:1] == batch[-1:]:  # the same for all particles
            return 0, batch[-1:], 0
        raise ValueError(
            f"A draw of {self.what.split('/')[0]!r} takes random numbers of shape {shape}, in "
            f"which its particles and rows {batch} are not seen, so that no row can have its own."
        )

    def _laid(self, shape: Any, numbers: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
        """Numbers by ``(first, particle, row, element)``, laid out as an operator's result is."""
        self.calls += 1
        shape = tuple(shape)
        at, batch, start = self._placed(shape)
        *first, particles = (1, *batch[:-1]) if len(batch) > 1 else (1, 1)
        device = self.noise.keys.device
        ids = torch.arange(math.prod(first), device=device) << 32
        particle = torch.arange(start, start + particles, device=device)
        found = numbers(ids, particle, math.prod(shape) // math.prod(batch))
        if not at:
            return found.reshape(shape)
        moved = found.reshape(*batch, *shape[:at], *shape[at + len(batch) :])
        return moved.movedim(tuple(range(len(batch))), tuple(range(at, at + len(batch))))

    def _keys(self, stream: int) -> Tensor:
        text = f"{self.noise.seed}/{self.what}/{self.calls}/{stream}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        of_the_draw = int.from_bytes(digest, "big", signed=True)
        keys = torch.zeros_like(self.noise.keys[:1]) if self.common else self.noise.keys
        return _mixed(keys ^ of_the_draw)

    def _bits(self, first: Tensor, particle: Tensor, elements: int, stream: int = 0) -> Tensor:
        """64 random bits each, shape ``(first, particles, rows, elements)``."""
        # of steps an element's number is its own, however many come after it
        apart = _FIRST if self.noise.steps else elements
        place = (first[:, None] + particle).unsqueeze(-1) * apart
        place = place + torch.arange(elements, device=particle.device)
        keys = self._keys(stream)
        return _mixed(place.mul_(_GOLDEN).unsqueeze(2) + keys[:, None], own=True)

    def _row_by_row(self, func: Any, bound: dict[str, Any]) -> Tensor:
        """An operator whose numbers are not known beforehand, by a generator for each row."""
        name = func.overloadpacket.__name__
        tensors = {key: each for key, each in bound.items() if isinstance(each, Tensor)}
        if name not in _REJECTING or not tensors:
            raise ValueError(
                f"A draw of {self.what.split('/')[0]!r} calls torch's {name}, whose numbers "
                f"cannot be given to each row by itself."
            )
        self.calls += 1
        shape = tuple(torch.broadcast_shapes(*[each.shape for each in tensors.values()]))
        at, batch, start = self._placed(shape)
        here, front = tuple(range(at, at + len(batch))), tuple(range(len(batch)))
        particles = batch[-2] if len(batch) > 1 else 1
        moved = {key: each.expand(shape).movedim(here, front) for key, each in tensors.items()}
        whole = next(iter(moved.values())).shape
        last = whole[len(batch) :] if shape[at : at + len(batch)] == batch else whole[1:]
        each_of = {
            key: each.reshape(-1, particles, batch[-1], *last) for key, each in moved.items()
        }
        out = torch.empty_like(next(iter(each_of.values())))
        generator = torch.Generator(self.noise.keys.device)
        keys, size = self._keys(0).tolist(), 1 if self.noise.steps else _BLOCK
        for first in range(len(out)):
            for begin in range(0, particles, size):
                block = slice(begin, begin + size)
                for row, key in enumerate(keys):
                    digest = hashlib.blake2b(
                        f"{key}/{first}/{start + begin}".encode(), digest_size=7
                    )
                    generator.manual_seed(int.from_bytes(digest.digest(), "big"))
                    part = {
                        argument: each[first, block, row].contiguous()
                        for argument, each in each_of.items()
                    }
                    out[first, block, row] = func(**bound | part | {"generator": generator})
        return out.reshape(whole).movedim(front, here)

    def _deal_rand(self, like: Tensor, _: dict[str, Any]) -> Tensor:
        return self.uniform(like)

    def _deal_randn(self, like: Tensor, _: dict[str, Any]) -> Tensor:
        return self.normal(like)

    def _deal_uniform(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        low, high = bound["from"], bound["to"]
        return low + (high - low) * self.uniform(like)

    def _deal_normal(self, like: Tensor | None, bound: dict[str, Any]) -> Tensor:
        mean, std = bound["mean"], bound["std"]
        if like is None:
            parts = [torch.as_tensor(each) for each in (mean, std)]
            shape = torch.broadcast_shapes(*[each.shape for each in parts])
            dtype = next(each.dtype for each in (mean, std) if isinstance(each, Tensor))
            like = torch.empty(shape, dtype=dtype, device=self.noise.keys.device)
        return mean + std * self.normal(like)

    def _deal_log_normal(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        return (bound["mean"] + bound["std"] * self.normal(like)).exp()

    def _deal_exponential(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        return -self.uniform(like).log() / bound["lambd"]

    def _deal_cauchy(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        turned = (math.pi * (self.uniform(like) - 0.5)).tan()
        return bound["median"] + bound["sigma"] * turned

    def _deal_geometric(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        return (self.uniform(like).log() / math.log1p(-bound["p"])).ceil().clamp(min=1.0)

    def _deal_bernoulli(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        share = bound["p"] if bound.get("p") is not None else like
        return (self.uniform(like) < share).to(like.dtype)

    def _deal_multinomial(self, _: None, bound: dict[str, Any]) -> Tensor:
        share, count = bound["self"], bound["num_samples"]
        if count > 1 and not bound["replacement"]:
            raise ValueError("Draws without replacement cannot be given to each row by itself.")
        below = share.cumsum(-1)
        place = self.uniform(share.new_empty(*share.shape[:-1], count)) * below[..., -1:]
        return torch.searchsorted(below, place, right=True).clamp(max=share.shape[-1] - 1)

    def _deal_randint(self, like: Tensor, bound: dict[str, Any]) -> Tensor:
        low = bound.get("low") or 0
        share = self.uniform(torch.empty(like.shape, dtype=torch.float64, device=like.device))
        return (low + (bound["high"] - low) * share).floor().to(like.dtype)


_REJECTING = ("_standard_gamma", "_sample_dirichlet", "poisson", "binomial")


def _arguments(func: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's arguments by their names, defaults too."""
    known = func._schema.arguments
    bound = {each.name: each.default_value for each in known if each.has_default_value()}
    given = {each.name: value for each, value in zip(known, args, strict=False)}
    return {**bound, **given, **kwargs}


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifted to the right, zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mixed(bits: Tensor, *, own: bool = False) -> Tensor:
    """A bijection of 64 bits that leaves no pattern; in place where the tensor is our own."""
    bits = bits if own else bits.clone()
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits ^= _shifted(bits, shift)
        bits *= factor
    bits ^= _shifted(bits, 31)
    return bits


def generator_of(device: torch.device) -> torch.Generator:
    """Torch's own generator, from which draws on a device come."""
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


@contextmanager
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


def seed_of(*parts: object) -> int:
    """A seed that depends on all the parts: of a run and an epoch, or a seed and what it is for.

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
        seed_all(seed, device)
        yield


def seed_all(seed: int, device: torch.device) -> None:
    """Seed a device's own generator and the CPU's.

    Torch's ``manual_seed`` remembers each call where no GPU is in use yet, with its whole stack.
    """
    for each in {torch.device("cpu"), device}:
        generator_of(each).manual_seed(seed)
