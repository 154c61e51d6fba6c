"""The file: what it was made with, what the rows do not say, and the message; nothing else reads.

Magic, version, the lengths of three parts, the parts, and SHA-256 of all before it, shortened: a
file that was cut off or changed in one bit is refused before anything is decoded.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.compression.exact import CompressionError
from deeplvm.compression.tables import Array
from deeplvm.files import parse_json, read_whole, write_atomically

MAGIC, VERSION = b"\x89DLVM\r\n\x1a", 1
_HEAD, _SUM = struct.Struct("<8sHIII"), 16
_MOST_HEADER = 1 << 26


@dataclass(frozen=True)
class Container:
    """What a compressed file holds.

    Attributes:
        header: Plain numbers, words, lists: the digests, the cells, the lattices, the blocks.
        rest: What the rows do not say, packed.
        words: The message, 32-bit words.
    """

    header: dict[str, Any]
    rest: bytes
    words: Array

    def to_bytes(self) -> bytes:
        """The whole file."""
        plain = json.dumps(self.header, separators=(",", ":")).encode()
        parts = [zlib.compress(plain, 9), self.rest, self.words.astype("<u4").tobytes()]
        content = _HEAD.pack(MAGIC, VERSION, *map(len, parts)) + b"".join(parts)
        return content + hashlib.sha256(content).digest()[:_SUM]

    def write(self, path: Path) -> int:
        """Write it, atomically; returns its size in bytes."""
        content = self.to_bytes()
        write_atomically(path, content)
        return len(content)

    @classmethod
    def read(cls, path: Path) -> Container:
        """What :meth:`write` wrote.

        Raises:
            CompressionError: It is no such file, of a newer version, cut off, or changed.
        """
        content = read_whole(path, CompressionError)
        if content[:8] != MAGIC or len(content) < _HEAD.size + _SUM:
            raise CompressionError(
                f"{path} is not a file that deeplvm compress made, or is cut off."
            )
        _, version, *sizes = _HEAD.unpack_from(content)
        whole, end = content[:-_SUM], _HEAD.size
        if hashlib.sha256(whole).digest()[:_SUM] != content[-_SUM:]:
            raise CompressionError(
                f"{path} was cut off or changed: its checksum is not that of what it holds; "
                f"get it again."
            )
        if version != VERSION:
            raise CompressionError(
                f"{path} is of version {version} of the format, and this deeplvm reads "
                f"{VERSION}; install a newer one."
            )
        parts = []
        for size in sizes:
            parts.append(whole[end : end + size])
            end += size
        try:
            unpacked = zlib.decompressobj().decompress(parts[0], _MOST_HEADER)
            header = parse_json(unpacked)
            if end != len(whole) or not isinstance(header, dict):
                raise ValueError
        except (zlib.error, ValueError) as error:
            raise CompressionError(f"{path} is damaged; get it again.") from error
        return cls(header, parts[1], np.frombuffer(parts[2], "<u4").astype(np.uint32))
