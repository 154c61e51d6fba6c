r"""Bits back: latents are drawn by bits of the message itself, which whoever decodes gets back.

A row x costs :math:`-\log p(x, z) + \log q(z | x)`, on average minus its evidence bound: z is
taken off the stack under q, x and z are put on it under p. Practical Lossless Compression with
Latent Variables using Bits Back Coding (Townsend et al., 2019), https://arxiv.org/abs/1901.04866

What the names read decides the order (:func:`schedule`): a value is put on the stack as soon as
nobody will need it. Where q goes upwards that is the order of Bit-Swap: Recursive Bits-Back Coding
for Lossless Compression with Hierarchical Latent Variables (Kingma et al., 2019),
https://arxiv.org/abs/1905.06845
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.compression.cells import Cells
from deeplvm.compression.coder import Coder
from deeplvm.compression.exact import BOUND, CompressionError, Exact, on_grid, prepared
from deeplvm.compression.laws import Law, located
from deeplvm.compression.mixtures import Mixture
from deeplvm.compression.observed import Part, laws_of
from deeplvm.compression.tables import Array, normal_table
from deeplvm.conditionals.heads import shown
from deeplvm.core.joint import is_joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.mixture import NormalMixture

Step = tuple[Literal["pop", "push"], str]


@dataclass(frozen=True)
class Lattice:
    """Where a latent may lie: multiples of a power of two, for each channel its own.

    Attributes:
        shape: The event shape.
        fine: Of each entry along the first axis: they lie 2**-fine apart.
        levels: How many there are, the middle one 0: a power of two.
    """

    shape: tuple[int, ...]
    fine: tuple[int, ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, loc: Tensor, scale: Tensor) -> Lattice:
        """One that is fine enough for the posteriors of some rows, and wide enough."""
        shape = tuple(loc.shape[1:])
        channels = shape[0] if shape else 1
        each = [
            part.reshape(len(loc), channels, -1).transpose(0, 1).flatten(1).double()
            for part in (loc, scale)
        ]
        narrow = each[1].kthvalue(1 + each[1].shape[1] // 20, 1).values
        wide = (each[0].abs() + 6 * each[1]).amax(1).clamp(4.0, BOUND / 2)
        fine = [min(14, max(0, math.ceil(math.log2(3.0 / float(s))))) for s in narrow]
        reach = [math.ceil(math.log2(float(w))) for w in wide]
        levels = [1 << (1 + f + r) for f, r in zip(fine, reach, strict=True)]
        return cls(shape, tuple(fine), tuple(levels))

    def _each(self, numbers: tuple[int, ...], rows: int) -> Array:
        own = np.array(numbers, np.int64).reshape(-1, *[1] * (len(self.shape) - 1))
        return np.broadcast_to(own if self.shape else own[0], (rows, *self.shape))

    def law(self, distribution: DiagonalNormal, rows: int) -> Law:
        """The probabilities of its points."""
        parts = (distribution.loc, distribution.scale)
        loc, scale = [np.broadcast_to(each.numpy(), (rows, *self.shape)) for each in parts]
        step, levels = 2.0 ** -self._each(self.fine, rows), self._each(self.levels, rows)
        middle = (levels >> 1) + 0.5
        return located(
            normal_table(), lambda k: (k - middle) * step, loc, np.maximum(scale, 2.0**-16), levels
        )

    def value(self, places: Array) -> Tensor:
        """The points of given numbers."""
        step, levels = self._each(self.fine, len(places)), self._each(self.levels, len(places))
        return torch.from_numpy((places - (levels >> 1)) * 2.0**-step)

    def nearest(self, value: Tensor) -> Array:
        """The numbers of the points nearest to some values."""
        step, levels = self._each(self.fine, len(value)), self._each(self.levels, len(value))
        places = np.floor(value.numpy() * 2.0**step + 0.5).astype(np.int64) + (levels >> 1)
        return np.clip(places, 0, levels - 1)


@dataclass
class Values:
    """What is known of some rows: values by name, and what the joints computed of them."""

    rows: int
    known: dict[str, Tensor] = field(default_factory=dict)
    holes: Array | None = None
    places: dict[str, Array] = field(default_factory=dict)
    computed: dict[tuple[str, str], Any] = field(default_factory=dict)


class Codec:
    """The coder of a model's rows.

    Args:
        model: A model of ``x`` whose latents are diagonal Gaussians in q, and in p these or
            mixtures of them.
        cells: What the elements of x can be.
        lattices: Where each latent may lie; they are chosen by :meth:`calibrate` otherwise.

    Raises:
        CompressionError: Something of the model has no form in integers.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        cells: Cells,
        lattices: Mapping[str, Lattice] | None = None,
    ) -> None:
        self.model, self.cells = model, cells
        with torch.no_grad():
            self.module: Any = prepared(model)
        self.p: Any = self.module.p
        self.q: Any = self.module.q
        self._refuse_parts()
        self.lattices = dict(lattices or {})
        self.steps = schedule(self, list(self.lattices)) if lattices is not None else []

    def _refuse_parts(self) -> None:
        """Refuse joints of other forms: steps of a sequence, names that all rows share."""
        joint: Any
        for joint in (self.p, self.q):
            if not hasattr(joint, "factors") or not hasattr(joint, "owner"):
                raise CompressionError(
                    f"{type(joint).__name__} is no product of conditionals of single rows; "
                    f"compress is for models of rows."
                )
            nested = [factor for factor in joint.order if is_joint(joint.factors[factor.key])]
            lagged = [f for f in joint.order if any([parent.lag for parent in f.parents])]
            if nested or lagged or joint.shared:
                what = str((nested or lagged or [None])[0] or sorted(joint.shared)[0])
                raise CompressionError(
                    f"{joint.symbol}({what}) is of steps, of repetitions within a row, or shared "
                    f"by all rows; compress is for models of single rows with latents of their "
                    f"own, such as vae."
                )

    def calibrate(self, given: Mapping[str, Tensor], x: Array, holes: Array | None = None) -> None:
        """Choose the lattices by some rows."""
        values = self.begin(given, len(x), x, holes)
        noise = torch.Generator().manual_seed(0)
        for name in [each for each in self.q.names if each not in given]:
            found = self._outcome(self.q, name, values)
            if isinstance(found, Tensor):
                continue
            normal = self._normal("q", name, found)
            shape = (values.rows, *normal.event_shape)
            loc, scale = normal.loc.expand(shape), normal.scale.expand(shape)
            lattice = self.lattices[name] = Lattice.of(loc, scale)
            drawn = loc + scale * torch.randn(shape, generator=noise, dtype=loc.dtype)
            self.give(values, name, lattice.nearest(drawn))
        if not self.lattices:
            raise CompressionError(
                "This model has no latents with a q(z | x), so there are no bits to get back; "
                "compress with a variational autoencoder, such as the recipe vae."
            )
        self.steps = schedule(self, list(self.lattices))
        for name in self.lattices:  # what p says of them is refused now, if it must be
            self._law("p", name, values)

    def begin(
        self,
        given: Mapping[str, Tensor],
        rows: int,
        x: Array | None = None,
        holes: Array | None = None,
    ) -> Values:
        """What is known of rows before anything is coded: x where they are to be encoded."""
        values = Values(rows, dict(given), holes)
        if x is not None:
            self.give(values, "x", x)
        return values

    def give(self, values: Values, name: str, places: Array) -> None:
        """Make a name known by the numbers of its cells or points."""
        values.places[name] = places
        lattice = self.lattices.get(name)
        values.known[name] = self.cells.value(places) if lattice is None else lattice.value(places)

    def _law(self, symbol: Literal["p", "q"], name: str, values: Values) -> Any:
        """The law of a latent given what is known."""
        joint = self.p if symbol == "p" else self.q
        found = self._outcome(joint, name, values)
        if symbol == "p" and isinstance(found, NormalMixture):
            return Mixture(found, self.lattices[name], values.rows)
        return self.lattices[name].law(self._normal(symbol, name, found), values.rows)

    def _parts(self, values: Values) -> list[Part]:
        """The laws of x given the latents."""
        parents = self._parents(self.p, "x", values)
        with torch.no_grad(), Exact(self._factor(self.p, "x")):
            return laws_of(self.p["x"], parents, self.cells, values.rows, values.holes)

    def _normal(self, symbol: str, name: str, found: Any) -> DiagonalNormal:
        if isinstance(found, DiagonalNormal):
            return found
        what = type(getattr(found, "base_dist", found)).__name__
        raise CompressionError(
            f"{symbol}({name} | ...) is {what}, and only independent Gaussians have a table of "
            f"probabilities here; take "
            f"{'--posterior gaussian' if symbol == 'q' else '--prior gaussian, mixture or vamp'}."
        )

    def _factor(self, joint: Any, name: str) -> str:
        return f"{joint.symbol}({joint.owner[name]}), {type(joint[name]).__name__},"

    def _parents(self, joint: Any, name: str, values: Values) -> list[Tensor]:
        """What the conditional of a name reads."""
        found: list[Any] = []
        raw = getattr(joint.conditional(name), "accepts_missing", False)
        for parent in joint.owner[name].parents:
            value = values.known.get(parent.name)
            if value is None:
                value = self._outcome(joint, parent.name, values)
            elif not raw:
                value = self._shown(joint, parent.name, value, values)
            found.append(value)
        return found

    def _shown(self, joint: Any, name: str, value: Tensor, values: Values) -> Tensor:
        """A value as networks see it, on their grid; zeros for what is missing."""
        key = (f"{joint.symbol} sees", name)
        if key not in values.computed:
            owner: Any = joint if name in joint.names else self.p
            view = owner[name] if name in owner.names else None
            with torch.no_grad(), Exact(self._factor(owner, name) if view else name, rounds=False):
                seen = shown(view, value).double()
            values.computed[key] = on_grid(torch.nan_to_num(seen, nan=0.0))
        return values.computed[key]

    def _outcome(self, joint: Any, name: str, values: Values) -> Distribution | Tensor:
        """What the conditional of a name returns."""
        key = (joint.symbol, name)
        if key not in values.computed:
            if name not in joint.names:
                raise CompressionError(
                    f"The model is given {name!r}, which the file would have to hold too; "
                    f"compress is for models of x alone, or with labels in the file."
                )
            parents = self._parents(joint, name, values)
            with torch.no_grad(), Exact(self._factor(joint, name)):
                values.computed[key] = joint[name](*parents)
        return values.computed[key]

    def encode(self, coder: Coder, values: Values) -> None:
        """Put rows on the stack."""
        for step, name in self.steps:
            if step == "pop":
                self.give(values, name, coder.pop(self._law("q", name, values)))
            elif name == "x":
                rows = np.maximum(values.places["x"].reshape(values.rows, -1), 0)
                for part in reversed(self._parts(values)):
                    coder.push(rows[:, part.columns], part.law)
            else:
                law = self._law("p", name, values)
                if isinstance(law, Mixture):
                    law.push(coder, values.places[name])
                else:
                    coder.push(values.places[name], law)

    def decode(self, coder: Coder, values: Values) -> None:
        """Take rows from the stack: all steps of :meth:`encode` undone."""
        for step, name in reversed(self.steps):
            if step == "pop":
                coder.push(values.places[name], self._law("q", name, values))
            elif name == "x":
                rows = np.zeros((values.rows, self.cells.elements), np.int64)
                for part in self._parts(values):
                    rows[:, part.columns] = coder.pop(part.law)
                if values.holes is not None:
                    rows[values.holes] = -1
                self.give(values, "x", rows.reshape(values.rows, *self.cells.shape))
            else:
                law = self._law("p", name, values)
                mixed = isinstance(law, Mixture)
                self.give(values, name, law.pop(coder) if mixed else coder.pop(law))


def schedule(codec: Codec, latents: list[str]) -> list[Step]:
    """The order in which names are taken off the stack under q, and put on it under p.

    A value is put on the stack once no latent that is still to be drawn reads it, and all that p
    computes from it are there already: whoever decodes has then what he needs at each step.

    Raises:
        CompressionError: p gives a density to something that q does not draw.
    """
    reads = {s: _random_parents(j, {*latents, "x"}) for s, j in (("p", codec.p), ("q", codec.q))}
    known, done, steps = {"x"}, set[str](), list[Step]()
    names = [*latents, "x"]
    while len(done) < len(names):
        for name in names:
            ready = name in known and name not in done and reads["p"][name] <= known
            needed = any([name in reads["q"][each] for each in latents if each not in known])
            below = all([each in done for each in names if name in reads["p"][each]])
            if ready and not needed and below:
                steps.append(("push", name))
                done.add(name)
                break
        else:
            waiting = [n for n in latents if n not in known and reads["q"][n] <= known - done]
            if not waiting:
                raise CompressionError(
                    "The names of p and q go round in a circle, so that there is no order in "
                    "which bits come back; compress with a q that follows x or p."
                )
            steps.append(("pop", waiting[0]))
            known.add(waiting[0])
    return steps


def _random_parents(joint: Any, random: set[str]) -> dict[str, set[str]]:
    """Of each random name, the random names that it reads, through computed ones too."""
    found: dict[str, set[str]] = {}

    def of(name: str) -> set[str]:
        reads: set[str] = set()
        for parent in joint.owner[name].parents if name in joint.names else ():
            reads |= {parent.name} if parent.name in random else of(parent.name)
        return reads

    for name in random:
        found[name] = of(name)
    return found
