"""Bounds on what is read: a file that lies about its size is refused before it costs memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Nothing that deeplvm writes as JSON or TOML is nested deeper.
MOST_NESTED = 64
_PIECE = 1 << 20


@cache
def memory() -> float:
    """Bytes of memory that this process may use in all; infinite where the system does not say."""
    found = [math.inf]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    # what a container is given; "max", or no such thing
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min([number for number in found if number > 0])


def fits(size: float, what: str, error: type[ValueError]) -> None:
    """Refuse what is larger than the memory.

    Raises:
        ValueError: Of the class given.
    """
    if size > memory():
        raise error(
            f"{what}: {size / 2**30:,.1f} GiB are more than the {memory() / 2**30:,.1f} GiB of "
            f"memory here."
        )


def read_whole(path: Path, error: type[ValueError]) -> bytes:
    """The content of a regular file that memory can hold.

    Raises:
        ValueError: Of the class given, if it is a pipe or a device, or larger than the memory.
        OSError: If the system refuses.
    """
    with path.open("rb") as file:
        if not path.is_file():  # a pipe or a device may never end
            raise error(f"{path} is not a regular file.")
        fits(os.fstat(file.fileno()).st_size, str(path), error)
        return file.read()


def gunzip(content: bytes, path: Path, error: type[ValueError]) -> bytes:
    """What a gzip file holds, if memory can hold it: a megabyte may unpack to a thousand.

    Raises:
        ValueError: Of the class given, if it is damaged or too large.
    """
    pieces: list[bytes] = []
    size = 0
    rest = content
    try:
        while rest:
            unpacking = zlib.decompressobj(wbits=31)
            while not unpacking.eof:
                piece = unpacking.decompress(rest, _PIECE)
                rest = unpacking.unconsumed_tail
                if not piece and not rest and not unpacking.eof:
                    raise error(f"{path}: the gzip file is damaged (it is cut short).")
                pieces.append(piece)
                size += len(piece)
                fits(2 * size, f"{path}, unpacked", error)
            rest = unpacking.unused_data.lstrip(b"\0")  # another member, or padding
    except zlib.error as problem:
        raise error(f"{path}: the gzip file is damaged ({problem}).") from None
    return b"".join(pieces)


def parse_json(text: str | bytes) -> Any:
    """JSON whose nesting a program can follow.

    Raises:
        ValueError: If it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def nested(value: Any, most: int = MOST_NESTED) -> bool:
    """Whether lists and dicts are within each other more often than ``most`` times."""
    level: list[Any] = [value]
    for _ in range(most + 1):
        deeper: list[Any] = []
        for each in level:
            inner: Iterable[Any] = (
                each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            )
            deeper.extend(inner)
        if not deeper:
            return False
        level = deeper
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, to the disk, then renamed."""
    with beside(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder, of the same ending, renamed to ``path`` at the end."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # a temporary file is private; what takes its place is as open as the umask says
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
