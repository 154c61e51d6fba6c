"""A stack of bits: values are pushed under a law, and popped in the opposite order."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from deeplvm.compression.exact import CompressionError
from deeplvm.compression.laws import Law
from deeplvm.compression.tables import Array


def coding() -> Any:
    """The library of entropy coders.

    Raises:
        CompressionError: It is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise CompressionError(
            'Compression needs a library that is not installed: pip install "deeplvm[compress]"'
        ) from error
    library: Any = constriction  # a compiled module, whose parts no checker sees
    return library.stream


def clean_words(count: int) -> Array:
    """Random words that everybody can make: what the first latents are drawn by."""
    drawn = hashlib.shake_256(b"deeplvm: clean bits").digest(4 * count)
    return np.frombuffer(drawn, "<u4").astype(np.uint32)


class Coder:
    """Asymmetric numeral systems: a pop is a draw from a law, by the bits that are there.

    Asymmetric numeral systems (Duda, 2009), https://arxiv.org/abs/0902.0271

    Args:
        words: What the stack holds, 32-bit words: any, or a message.
        message: Whether they are one, as :meth:`message` gave it.

    Attributes:
        ideal: Bits pushed less bits popped, as the probabilities say.
        taken: Bits popped.
    """

    def __init__(self, words: Array, *, message: bool = False) -> None:
        stream = coding()
        self._bits = stream.model.Bernoulli(perfect=False)
        self._stack = stream.stack.AnsCoder(np.ascontiguousarray(words, np.uint32), not message)
        self.ideal = self.taken = 0.0

    @property
    def size(self) -> int:
        """How many bits the stack holds."""
        return int(self._stack.num_bits())

    def message(self) -> Array:
        """All that the stack holds, as words."""
        return self._stack.get_compressed()

    def holds(self, words: Array) -> bool:
        """Whether the stack is as if it had just been made of some words."""
        other = type(self)(words)
        return bool(np.array_equal(self.message(), other.message()))

    def push(self, values: Array, law: Law) -> None:
        """Put whole numbers on the stack."""
        steps, interval = [], law.start()
        for at in reversed(range(law.depth)):
            chance, bit = interval.upper(), ((values >> at) & 1).astype(np.int32)
            steps.append((bit, chance))
            interval = interval.half(bit) if at else interval
        for bit, chance in reversed(steps):
            self._stack.encode_reverse(bit.ravel(), self._bits, chance.ravel())
            self.ideal += _bits_of(bit, chance)

    def pop(self, law: Law) -> Array:
        """Take whole numbers from the stack."""
        interval, values = law.start(), np.zeros(law.levels.shape, np.int64)
        for at in reversed(range(law.depth)):
            chance = interval.upper()
            bit = self._stack.decode(self._bits, chance.ravel()).reshape(chance.shape)
            values |= bit.astype(np.int64) << at
            own = _bits_of(bit, chance)
            self.taken, self.ideal = self.taken + own, self.ideal - own
            interval = interval.half(bit) if at else interval
        return values


def _bits_of(bit: Array, chance: Array) -> float:
    return -float(np.log2(np.where(bit, chance, 1.0 - chance)).sum())
