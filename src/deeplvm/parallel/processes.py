"""Several processes that work as one: who they are, and what they tell each other.

Every process sees the same rows in the same order, works on its contiguous share, and what is
reduced are sums, never means of means; so the result does not depend on how many there are. The
first process alone writes files and speaks. One process is the normal case and costs nothing:
PyTorch's own distributed package is imported where there are several.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A process that died is noticed at once; this is for a machine that vanished from the network, and
# longer than the first process may have to work alone while the others wait for it.
PATIENCE = timedelta(minutes=30)
# How long one that has started looks for the others.
_MEETING = timedelta(minutes=5)
# How long the first process keeps the others' meeting place open after an error, seconds.
_LINGER = 5.0
_APART = ContextVar("apart", default=False)


class ProcessesError(RuntimeError):
    """The processes cannot meet, or one of them ended before the others."""


@dataclass(frozen=True)
class Processes:
    """The processes that work together, seen from one of them.

    Attributes:
        rank: Number of this one, from 0.
        count: How many there are.
        store: Where they met: what outlasts a failed reduction. None where that was not here.

    >>> alone = Processes()
    >>> alone.first, alone.alone, alone.part(7)
    (True, True, slice(0, 7, None))
    >>> [Processes(rank, 3).part(7) for rank in range(3)]
    [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """

    rank: int = 0
    count: int = 1
    store: Any = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1

    def part(self, n: int) -> slice:
        """This process's share of ``n`` things: contiguous, sizes differ by at most one."""
        size, more = divmod(n, self.count)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))

    def share(self, index: Tensor) -> Tensor:
        """This process's share of an index, shape ``(n,)``; it may be empty."""
        return index[self.part(len(index))]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, the same bits on all; the tensor itself where there is one.

        Without gradient. Every process must give the same shape and dtype.

        Raises:
            ProcessesError: If another process ended.
        """
        if self.alone:
            return tensor
        import torch.distributed as dist

        total = tensor.detach().clone().contiguous()
        with _heard():
            dist.all_reduce(total)
        return total

    def gather(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Everybody's rows on every process, in the order of ranks, joined along the first axis.

        Args:
            values: Name to tensor of shape ``(rows, *event)``. The number of rows may differ
                between processes and be 0; then a name may also be missing.

        Raises:
            ProcessesError: If another process ended.
        """
        if self.alone:
            return dict(values)
        import torch.distributed as dist

        forms: list[Any] = [None] * self.count
        mine = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
        with _heard():
            dist.all_gather_object(forms, mine)
        names = dict.fromkeys([name for form in forms for name in form])
        return {name: self._gathered(values.get(name), name, forms) for name in names}

    def _gathered(
        self, mine: Tensor | None, name: str, forms: list[dict[str, tuple[Any, torch.dtype]]]
    ) -> Tensor:
        import torch
        import torch.distributed as dist

        rows = [form[name][0][0] if name in form else 0 for form in forms]
        # one without rows need not know the shape of a row
        known = [form[name] for form, n in zip(forms, rows, strict=True) if n]
        (_, *event), dtype = known[0] if known else next(f[name] for f in forms if name in f)
        device = _place() if mine is None else mine.device
        padded = torch.zeros(max(rows), *event, dtype=dtype, device=device)
        if mine is not None and rows[self.rank]:
            padded[: len(mine)] = mine.detach()
        parts = [torch.empty_like(padded) for _ in rows]
        with _heard():
            dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, rows, strict=True)])

    def from_first(self, value: Any) -> Any:
        """The first process's value, a small Python object, on all.

        Raises:
            ProcessesError: If another process ended.
        """
        if self.alone:
            return value
        import torch.distributed as dist

        box = [value if self.first else None]
        with _heard():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - the flag is the value, not an option
        """Whether it is true on at least one process; the same answer on all.

        Raises:
            ProcessesError: If another process ended.
        """
        if self.alone:
            return flag
        import torch

        return bool(self.sum(torch.tensor([int(flag)], device=_place())))

    def wait(self) -> None:
        """Return when every process has come here.

        Raises:
            ProcessesError: If another process ended.
        """
        self.any(False)  # noqa: FBT003

    def claim(self, name: str) -> bool:
        """True on the one process that asks first, and false on all that ask later.

        It needs no answer of the others, so it works when one of them has ended; if even the place
        where they met is gone, the second process is the one.
        """
        if self.alone:
            return True
        if self.store is None:
            return self.first
        try:
            return self.store.add(f"claim/{name}", 1) == 1
        except RuntimeError:
            return self.rank == 1


def processes() -> Processes:
    """The processes that work together now; one, where nobody has joined others."""
    if _APART.get() or not _have_met():
        return Processes()
    import torch.distributed as dist

    return Processes(dist.get_rank(), dist.get_world_size())


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, this process works on something of its own: :func:`processes` says one."""
    before = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(before)


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that the environment announces, and leave them at the end.

    ``torchrun`` and ``accelerate launch`` announce them in ``RANK``, ``WORLD_SIZE``,
    ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``; ``srun`` in variables of its own. Without
    these, or inside another ``joined``, nothing is done. On a GPU each process takes that of its
    local rank and speaks NCCL; all else goes over gloo.

    An error inside closes the connections, so that the others do not wait for this process: their
    next reduction raises :class:`ProcessesError`.

    Args:
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where there is one.

    Raises:
        ValueError: If the announcement is incomplete, or there are too few GPUs.
        ProcessesError: If the others cannot be reached.
    """
    announced = announcement()
    if announced is None or _have_met():
        yield processes()
        return
    import torch.distributed as dist

    met = _meet(announced, device)
    try:
        yield met
    except BaseException:
        _leave(met)
        raise
    dist.destroy_process_group()


@dataclass(frozen=True)
class Announcement:
    """What the environment says of the processes to join."""

    rank: int
    count: int
    local_rank: int
    address: str
    port: int


def announcement(environment: Mapping[str, str] = os.environ) -> Announcement | None:
    """What the environment says, or None if it speaks of one process only.

    Raises:
        ValueError: If it says too little, or something that is no number.

    >>> announcement({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1",
    ...               "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_JOB_ID": "12"})
    Announcement(rank=3, count=4, local_rank=1, address='node07', port=20012)
    """
    known = dict(environment)
    # `srun` numbers its tasks; a batch script itself is no task of a step, and not one of several
    if "WORLD_SIZE" not in known and "SLURM_STEP_NUM_TASKS" in known:
        job = re.sub(r"\D", "", known.get("SLURM_JOB_ID", ""))
        known = {
            "WORLD_SIZE": known["SLURM_STEP_NUM_TASKS"],
            "RANK": known.get("SLURM_PROCID", ""),
            "LOCAL_RANK": known.get("SLURM_LOCALID", ""),
            "MASTER_ADDR": _first_host(known.get("SLURM_STEP_NODELIST", "")),
            "MASTER_PORT": str(20_000 + int(job or 0) % 10_000),
            **{key: known[key] for key in ("MASTER_ADDR", "MASTER_PORT") if key in known},
        }
    if known.get("WORLD_SIZE", "1") in ("", "1"):
        return None
    try:
        rank, count = int(known["RANK"]), int(known["WORLD_SIZE"])
        local_rank = int(known.get("LOCAL_RANK") or rank)
        found = Announcement(
            rank, count, local_rank, known["MASTER_ADDR"], int(known["MASTER_PORT"])
        )
    except KeyError as error:
        raise ValueError(
            f"The environment announces WORLD_SIZE={known['WORLD_SIZE']} processes, but not "
            f"{error.args[0]}; start them with torchrun, or unset WORLD_SIZE."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"The environment announces several processes with a wrong number ({error}); start "
            "them with torchrun, or unset WORLD_SIZE."
        ) from None
    if not 0 <= rank < count:
        raise ValueError(f"RANK={rank} must be below WORLD_SIZE={count}, and not negative.")
    return found


def _first_host(hosts: str) -> str:
    """The first host of Slurm's notation, ``node[07-09,12],other``."""
    found = re.match(r"([^,\[]*)(?:\[([^\],-]*)[^\]]*\]([^,]*))?", hosts)
    return "".join([part or "" for part in found.groups()]) if found else ""


def _meet(announced: Announcement, device: str) -> Processes:
    import torch.distributed as dist

    if not dist.is_available():
        raise ProcessesError("This build of PyTorch has no torch.distributed: run one process.")
    os.environ.update(
        RANK=str(announced.rank),
        WORLD_SIZE=str(announced.count),
        MASTER_ADDR=announced.address,
        MASTER_PORT=str(announced.port),
    )
    try:
        store, rank, count = next(dist.rendezvous("env://", timeout=_MEETING))
        backend = _backend(store, announced, device)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
        )
    except RuntimeError as error:
        raise ProcessesError(
            f"The {announced.count} processes cannot meet at {announced.address}:{announced.port} "
            f"(MASTER_ADDR, MASTER_PORT): {_reason(error)}."
        ) from error
    return Processes(rank, count, store)


def _backend(store: Any, announced: Announcement, device: str) -> str:
    """What is spoken, the same on all; on GPUs, with the one of the local rank taken."""
    import torch

    found = torch.cuda.device_count() if device != "cpu" else 0
    # one without a GPU of its own would let the others wait: each hears of all
    store.set(f"gpus/{announced.rank}", f"{found} {int(announced.local_rank < found)}")
    told = [store.get(f"gpus/{rank}").decode().split() for rank in range(announced.count)]
    if device == "cpu" or (device == "auto" and not any([int(gpus) for gpus, _ in told])):
        return "gloo"
    for rank, (gpus, has_one) in enumerate(told):
        if not int(has_one):
            raise ValueError(
                f"Process {rank} finds {gpus} GPUs on its machine, and each process needs one of "
                "its own; start fewer, or take --device cpu."
            )
    torch.cuda.set_device(announced.local_rank)
    return "cpu:gloo,cuda:nccl"


def _have_met() -> bool:
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def _leave(met: Processes) -> None:
    """End what the others wait for, and keep their meeting place until they have left too."""
    import torch.distributed as dist

    # NCCL would wait here for what the others no longer do
    if _have_met() and "nccl" not in dist.get_backend_config():
        dist.destroy_process_group()
    with contextlib.suppress(RuntimeError):
        met.store.add("left", 1)
        end = time.monotonic() + _LINGER
        # torchrun keeps the meeting place itself
        hosts = met.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        while hosts and met.store.add("left", 0) < met.count and time.monotonic() < end:
            time.sleep(0.05)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """An error of the connection as one of ours."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessesError(
            f"Another process ended, and this one cannot go on alone ({_reason(error)})."
        ) from error


def _reason(error: BaseException) -> str:
    """The first sentence of an error of the network, without the place in torch's source code."""
    line = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip()).split("\n")[0]
    return line.split(". ")[0].rstrip(".")[:160] or type(error).__name__


def _place() -> torch.device:
    """Where small tensors of our own go: the CPU, from which NCCL alone cannot read."""
    import torch
    import torch.distributed as dist

    return torch.device("cpu" if "gloo" in dist.get_backend_config() else "cuda")
