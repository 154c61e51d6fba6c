"""Checkpoints and model files: tensors and JSON in one safetensors file, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from deeplvm.files import MOST_NESTED, fits, parse_json, read_whole, refuse_moved

VERSION = 1  # of both formats; a file with a larger one was written by a newer deeplvm
# A reader refuses more: what names the tensors is small, and there are few of them.
MOST_HEADER, MOST_TENSORS = 1 << 25, 100_000
# JSON that is longer rests among the tensors: the header would grow with the epochs.
_LONG, _AMONG_TENSORS = 1 << 20, "deeplvm:state"
_AGAIN = "Use another copy."
# What a file that is cut short or made up raises in the libraries that read it.
_DAMAGE = (
    SafetensorError, ValueError, TypeError, KeyError, struct.error, AttributeError, OverflowError,
    AssertionError, RuntimeError,
)  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint or model file cannot be written or read; the message says why."""


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], state: Any) -> None:
    """Write tensors and JSON as one file, whole or not at all.

    Written beside, flushed to the disk and renamed: whenever the process dies, ``path`` is the old
    file or the new one. A SHA-256 over everything guards against later changes.

    Raises:
        CheckpointError: If the disk refuses; what was there before is untouched.
    """
    path = Path(path)
    packed = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(state)
    header = {"format": f"deeplvm-{kind}", "version": str(VERSION)}
    if len(text) <= _LONG:
        header["state"] = text
    else:
        packed[_AMONG_TENSORS] = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)
    header["sha256"] = _digest(packed, header.get("state", ""))
    refuse_moved(path, CheckpointError)
    beside = path.with_name(f"{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # where it is a link, what it names is somebody else's
        with beside.open("xb") as file:
            # One entry: several come out in a random order, and equal runs would differ in bytes.
            file.write(safetensors.torch.save(packed, {"deeplvm": json.dumps(header)}))
            file.flush()
            os.fsync(file.fileno())
        # between the two renames only the previous file exists, and load_checkpoint takes that
        if kind == "checkpoint" and path.exists():
            os.replace(path, previous(path))
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}. Make room or choose another "
            f"folder; what was saved there before is untouched."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    """Tensors and JSON of a file written by :func:`write`, after checking all of it.

    Raises:
        CheckpointError: If it is missing, cut short, changed, of another kind, or from a newer
        deeplvm.
    """
    path = Path(path)
    try:
        content = read_whole(path, CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    fits(2 * len(content), f"{path}, twice while it is checked", CheckpointError)
    try:
        header = _header(content)
        tensors = safetensors.torch.load(content)
    except _DAMAGE as error:
        why = f": {error}" if isinstance(error, CheckpointError) else ""
        raise CheckpointError(
            f"{path} is not a whole safetensors file: it is cut short or damaged{why}. Use "
            "another copy."
        ) from error
    if header.get("format") != f"deeplvm-{kind}":
        raise CheckpointError(f"{path} is a safetensors file, but not a deeplvm {kind}.")
    version = header.get("version", "")
    if not isinstance(version, str) or not version.isdecimal():
        raise CheckpointError(f"{path} does not say its format version: it is damaged.")
    if len(version) > 9 or int(version) > VERSION:
        raise CheckpointError(
            f"{path} has format version {version[:9]}, newer than the {VERSION} this deeplvm "
            f"reads; upgrade deeplvm."
        )
    text = header.get("state", "")
    if not isinstance(text, str) or header.get("sha256") != _digest(tensors, text):
        raise CheckpointError(
            f"{path} was changed after it was written: its checksum does not agree. Use another "
            "copy."
        )
    if (among := tensors.pop(_AMONG_TENSORS, None)) is not None:
        text = among.numpy().tobytes()
    try:
        return tensors, parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its state is no JSON. {_AGAIN}") from error


def _header(content: bytes) -> dict[str, Any]:
    """Our own entry of a safetensors header, after a look at the size of the rest."""
    (length,) = struct.unpack("<Q", content[:8])
    if length > len(content) - 8:
        raise ValueError
    if length > MOST_HEADER:
        raise CheckpointError(f"its header has {length} bytes, more than {MOST_HEADER}")
    entries = parse_json(content[8 : 8 + length].decode())
    if len(entries) > MOST_TENSORS:
        raise CheckpointError(f"it has {len(entries)} tensors, more than {MOST_TENSORS}")
    header = parse_json(entries.get("__metadata__", {}).get("deeplvm", "{}"))
    return header if isinstance(header, dict) else {}


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a tree of dicts, lists, tuples, numbers, text and tensors; keep the file before.

    Raises:
        CheckpointError: If the disk refuses, or the tree holds something else.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "", tensors)
    write(path, "checkpoint", tensors, tree)


def load_checkpoint(path: str | Path) -> tuple[dict[str, Any] | None, str]:
    """The state last saved, or the one before where that file is damaged.

    Returns:
        The state (none where nothing was saved), and a warning (empty where all is well).

    Raises:
        CheckpointError: If there are files but none is whole.
    """
    path = Path(path)
    problems: list[CheckpointError] = []
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            state = _state_of(candidate)
        except CheckpointError as error:
            problems.append(error)
            continue
        return state, f"{problems[0]} Going on from {candidate}." if problems else ""
    if problems:
        raise problems[0]
    return None, ""


def _state_of(path: Path) -> dict[str, Any]:
    tensors, tree = read(path, "checkpoint")
    try:
        state = _unpack(tree, tensors)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: its state has no sense. {_AGAIN}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is damaged: its state is no dictionary. {_AGAIN}")
    return state


def previous(path: Path) -> Path:
    """``state.safetensors`` has its predecessor in ``state.previous.safetensors``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_model(
    model: nn.Module, path: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the weights by their state-dict names; a tensor with two names once.

    Args:
        model: Any module.
        path: ``RUN/model.safetensors``.
        metadata: What a reader should know, as JSON values.

    Raises:
        CheckpointError: If the disk refuses.
    """
    tensors, aliases = unique_state(model)
    write(path, "model", tensors, {"aliases": aliases, "metadata": dict(metadata or {})})


def load_model_into(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Fill a model with the weights of a file; every name and shape must agree.

    Args:
        model: A model of the same architecture; left untouched if the file does not fit.
        path: Written by :func:`save_model`.

    Returns:
        The metadata of the file.

    Raises:
        CheckpointError: If the file is damaged or newer, or does not fit the model.
    """
    tensors, state = read(path, "model")
    parts = state if isinstance(state, dict) else {}
    aliases, metadata = parts.get("aliases"), parts.get("metadata")
    if not isinstance(aliases, dict) or not isinstance(metadata, dict):
        raise CheckpointError(f"{path} is damaged: it lacks its metadata. {_AGAIN}")
    if unknown := [n for n in aliases.values() if not isinstance(n, str) or n not in tensors]:
        raise CheckpointError(f"{path} is damaged: it lacks {_some(unknown)}. {_AGAIN}")
    try:
        restore(model, tensors | {alias: tensors[name] for alias, name in aliases.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not fit this model. {error}") from error
    return metadata


def unique_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict with each tensor once, and the other names of those that have several."""
    first: dict[Any, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, value in model.state_dict().items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
            tensors[name] = value
    return tensors, aliases


def restore(model: nn.Module | Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy a state into a model (or other tensors by name), in place.

    Raises:
        CheckpointError: If names, shapes or kinds of number disagree; nothing is copied then.
    """
    own = model.state_dict() if isinstance(model, nn.Module) else model
    if absent := [name for name in own if name not in tensors]:
        raise CheckpointError(f"It lacks {_some(absent)}; was the model built with other options?")
    if extra := [name for name in tensors if name not in own]:
        raise CheckpointError(
            f"It has {_some(extra)}, which the model has not; was the model built with other "
            "options?"
        )
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise CheckpointError(
                f"{name!r} has shape {tuple(tensors[name].shape)} there and {tuple(value.shape)} "
                f"in the model; was the model built with other options?"
            )
        if _kind(value) != _kind(tensors[name]):
            raise CheckpointError(
                f"{name!r} is of {tensors[name].dtype} there and of {value.dtype} in the model."
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _kind(value: Tensor) -> tuple[bool, bool, bool]:
    """Which numbers can be copied into each other without a loss of kind."""
    return value.is_floating_point(), value.is_complex(), value.dtype == torch.bool


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.reshape(-1)
        flat = flat.as_strided((len(flat),), (1,))  # of one number that was expanded it is 0
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the renames themselves durable, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _pack(value: Any, at: str, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """A tree as JSON, its tensors put aside under their path."""
    if isinstance(value, Tensor):
        while at in tensors:  # "a/b" may be a name, and a path as well
            at += "'"
        tensors[at] = value
        return {"tensor": at}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > MOST_NESTED:
        raise CheckpointError(f"A checkpoint cannot hold {at!r}: it is nested too deeply.")
    if isinstance(value, Mapping):
        pairs: list[Any] = []
        for key, each in value.items():
            if key is not None and not isinstance(key, bool | int | float | str):
                raise CheckpointError(
                    f"A checkpoint cannot hold {at!r}: its keys are to be text or numbers, and "
                    f"{key!r} is neither."
                )
            inner = f"{at}/{key}" if at else str(key)
            pairs.append([key, _pack(each, inner, tensors, depth + 1)])
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(v, f"{at}/{i}", tensors, depth + 1) for i, v in enumerate(value)]}
    raise CheckpointError(
        f"A checkpoint holds numbers, text and tensors, but {at!r} is a {type(value).__name__}; "
        f"use an optimiser and a schedule whose state is made of those (see "
        "deeplvm.training.schedules)."
    )


def _unpack(tree: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> Any:
    """The inverse of :func:`_pack`.

    Raises:
        ValueError: If it is nothing that :func:`_pack` writes; so do KeyError and TypeError.
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if not isinstance(tree, dict) or depth > MOST_NESTED:
        raise ValueError
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if not isinstance(content, list):
        raise TypeError
    if kind == "dict":
        return {key: _unpack(value, tensors, depth + 1) for key, value in content}
    if kind not in ("list", "tuple"):
        raise KeyError(kind)
    return (list if kind == "list" else tuple)(
        [_unpack(value, tensors, depth + 1) for value in content]
    )


def _some(names: list[Any], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join([repr(name) for name in names[:most]]) + more


class Checkpoints:
    """The files of a run in a folder: ``checkpoint/`` and ``metrics.jsonl``; nothing without one.

    Args:
        folder: The folder of the run, or none.
        every: Epochs from one checkpoint to the next; by default as often as saving takes at most
            a twentieth of the time.
        seconds: Age at which a checkpoint is followed by one in mid-epoch.

    Attributes:
        saved: Epochs and further batches that the last checkpoint has; none before the first.
    """

    def __init__(self, folder: str | Path | None, every: int | None, seconds: float) -> None:
        self.folder = None if folder is None else Path(folder)
        self.every, self.seconds = every, seconds
        self.saved: tuple[int, int] | None = None
        self.at, self.cost = time.monotonic(), 0.0

    @property
    def keeps(self) -> bool:
        """Whether anything is written."""
        return self.folder is not None

    @property
    def path(self) -> Path:
        """Where the state is kept."""
        return (self.folder or Path()) / "checkpoint" / "state.safetensors"

    def open(self, *, resume: bool) -> tuple[dict[str, Any] | None, str]:
        """The state to go on from, and a warning; none to start at the beginning.

        Raises:
            CheckpointError: If there is a state but nobody asked to go on from it, or it is
            damaged.
        """
        if self.folder is None:
            if resume:
                raise CheckpointError("There is no folder to resume from; say which: folder=...")
            return None, ""
        if self.path.parent.is_symlink():
            raise CheckpointError(
                f"{self.path.parent} is a link, and a run writes nothing outside of its folder; "
                f"put the folder itself there."
            )
        if not resume:
            if self.path.exists() or previous(self.path).exists():
                raise CheckpointError(
                    f"{self.folder} already holds a checkpoint; go on from it with resume=True, "
                    f"or use another folder."
                )
            return None, ""
        return load_checkpoint(self.path)

    def stale(self) -> bool:
        """Whether it is time to save in mid-epoch."""
        if self.folder is None:
            return False
        return time.monotonic() - self.at >= max(self.seconds, 20 * self.cost)

    def due(self, epoch: int) -> bool:
        """Whether it is time to save after an epoch."""
        if self.folder is None:
            return False
        if self.every is not None:
            return epoch % self.every == 0
        return time.monotonic() - self.at >= 20 * self.cost

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state."""
        if self.folder is None:
            return
        began = time.monotonic()
        save_checkpoint(self.path, state)
        self.saved, self.at = (state["epoch"], state["position"]), time.monotonic()
        self.cost = self.at - began

    def write_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Start ``metrics.jsonl`` anew: empty, or as it was at the checkpoint."""
        self._metrics(records, anew=True)

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """One line more."""
        self._metrics([record], anew=False)

    def _metrics(self, records: Sequence[Mapping[str, Any]], *, anew: bool) -> None:
        if self.folder is None:
            return
        path = self.folder / "metrics.jsonl"
        refuse_moved(path, CheckpointError)
        text = "".join([f"{json.dumps(record)}\n" for record in records])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if anew:
                path.unlink(missing_ok=True)  # a link goes, and what it names stays
            with path.open("x" if anew else "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error.strerror or error}. Make room or choose "
                "another folder."
            ) from error
