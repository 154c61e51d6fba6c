"""Bounds on what is read: a file that lies about its size is refused before it costs memory."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Nothing that deeplvm writes as JSON or TOML is nested deeper.
MOST_NESTED = 64
# To load values takes so many times their bytes: as read, as they rest, and what lies between.
WORKING = 3
ROW = 48  # bytes a row beside its values: numbers of rows, as they are parted and permuted
_PIECE = 1 << 20


@cache
def memory() -> float:
    """Bytes of memory that this process may use in all; infinite where the system does not say.

    The smallest of what the machine has, what the control groups of this process allow (a group's
    bound holds for all that are below it) and what ``ulimit`` leaves of the address space.
    """
    found = [math.inf, *_group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        for kind, used in ((resource.RLIMIT_AS, mapped), (resource.RLIMIT_DATA, 0)):
            limit, _ = resource.getrlimit(kind)
            if limit != resource.RLIM_INFINITY:  # libraries take addresses without using them
                found.append(max(limit - used * os.sysconf("SC_PAGE_SIZE"), 1))
    return min([number for number in found if number > 0])


def _group_limits(groups: Path, root: Path) -> Iterator[int]:
    """Bounds of the control groups of a process, version 1 or 2, and of those around them.

    Args:
        groups: What ``/proc/self/cgroup`` says: lines ``number:controllers:path``.
        root: Where control groups are mounted.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in ["0::/", "1:memory:/", *lines]:  # a container may see its own group as the root
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = top / place.strip("/")
        for each in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or no such group
                yield int((each / name).read_text(encoding="ascii"))
            if each == top:
                break


def fits(size: float, what: str, error: type[ValueError], hint: str = "") -> None:
    """Refuse what is larger than the memory.

    Raises:
        ValueError: Of the class given; the hint says what to do.
    """
    if size > memory():
        raise error(
            f"{what}: {size / 2**30:,.1f} GiB are more than the {memory() / 2**30:,.1f} GiB of "
            f"memory here{hint and '; '}{hint}."
        )


def read_whole(path: Path, error: type[ValueError], most: int | None = None) -> bytes:
    """The content of a regular file that memory can hold.

    Args:
        path: Where it is.
        error: What is raised.
        most: Bytes that such a file may have; as many as memory has if left out.

    Raises:
        ValueError: Of the class given, if it is a pipe or a device, or too large.
        OSError: If the system refuses.
    """
    # a pipe is not waited for, and a device may never end
    with open(path, "rb", opener=lambda name, how: os.open(name, how | _NO_WAIT)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise error(f"{path} is not a regular file.")
        if most is not None and about.st_size > most:
            raise error(f"{path} has {about.st_size:,} bytes; deeplvm writes {most:,} at most.")
        fits(about.st_size, str(path), error)
        return file.read()


_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


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
    """A temporary file in the same folder, renamed to ``path`` at the end.

    A link at ``path`` is replaced, not followed. What a killed process has left goes.
    """
    refuse_moved(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_WRITING}"):
        if _abandoned(left):
            left.unlink(missing_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_WRITING, dir=path.parent)
    except OSError as error:  # which names the temporary file
        error.filename = str(path)
        raise
    temporary = Path(name)
    try:
        with contextlib.suppress(NoLocks):
            _lock(handle)
        # a temporary file is private; what takes its place is as open as the umask says
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        refuse_moved(path)
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, name):  # a full disk does not say of what
            error.filename = str(path)
        raise
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


_WRITING = ".writing"
# The folders that this process keeps to itself: descriptors by path.
_KEPT: ContextVar[Mapping[Path, int]] = ContextVar("_KEPT", default=MappingProxyType({}))


@contextlib.contextmanager
def alone(folder: Path | None, error: type[ValueError]) -> Iterator[None]:
    """Keep a folder to this process, where the system can do that; again, inside, if it has it.

    The lock is the kernel's: it ends with the process, however that ends, and leaves no file.
    Whether the folder is still where it was is asked by :func:`refuse_moved`.

    Raises:
        ValueError: Of the class given, if another process has it, or it cannot be made.
    """
    place = None if folder is None else folder.absolute()
    kept = _KEPT.get()
    if place is None or folder is None or place in kept:
        yield
        return
    if os.name == "nt":  # a folder cannot be opened there
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as problem:
        raise error(
            f"{folder} cannot be written to: {problem.strerror or problem}. Choose another folder."
        ) from problem
    token = _KEPT.set(MappingProxyType({**kept, place: descriptor}))
    try:
        try:
            with contextlib.suppress(NoLocks):
                _lock(descriptor)
        except BlockingIOError:
            raise error(
                f"Another process is training in {folder}; wait until it has ended, or use "
                f"another folder."
            ) from None
        refuse_moved(folder, error)  # a fit that is refused takes away the folder that it made
        yield
    finally:
        _KEPT.reset(token)
        os.close(descriptor)


def refuse_moved(path: Path, error: type[ValueError] = ValueError) -> None:
    """Refuse to write into a folder that is no longer the one which this process keeps.

    Raises:
        ValueError: Of the class given, with where that is now.
    """
    for folder, descriptor in _KEPT.get().items():
        if not path.absolute().is_relative_to(folder):
            continue
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                continue
        now = ""
        with contextlib.suppress(OSError):  # Linux says where it is
            now = os.readlink(f"/proc/self/fd/{descriptor}")
        if now and not now.endswith(" (deleted)"):
            raise error(
                f"{folder} was moved to {now} while it was written to; what is saved is there: go "
                f"on with: deeplvm resume {now}"
            )
        raise error(f"{folder} was removed while it was written to; begin again.")


def _abandoned(path: Path) -> bool:
    """Whether the process that was writing a file is dead, where the system can say so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        _lock(descriptor)
    except (BlockingIOError, NoLocks):
        return False
    finally:
        os.close(descriptor)
    return True


class NoLocks(Exception):
    """This system, or this file system, keeps no locks."""


def _lock(descriptor: int) -> None:
    """Keep a file or a folder until its descriptor is closed, or the process ends.

    Raises:
        BlockingIOError: If another process has it.
        NoLocks: If there are none.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError) as error:
        raise NoLocks from error


class Shown:
    """A stream whose output may go unseen: what cannot be written does not end the work.

    A pipe whose reader has gone, a log on a full disk, a terminal that hung up, no stream at all.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, if that can be done; as many characters as if it were."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.stream.flush()


def say(line: str) -> None:
    """A line on standard error, where anybody can see it."""
    stream = Shown(sys.stderr)
    stream.write(f"{shown(line)}\n")
    stream.flush()


def shown(text: str) -> str:
    r"""A text as a terminal may have it: what would steer it is written out.

    >>> shown("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _STEERING.sub(lambda found: ascii(found.group())[1:-1], text)


# control characters but for line ends and tabs, and those that turn the direction of writing
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
