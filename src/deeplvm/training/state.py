"""The state of training: what a checkpoint holds."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from deeplvm.core.model import LatentVariableModel
from deeplvm.training.callbacks import Record
from deeplvm.training.checkpoint import CheckpointError, restore, unique_state
from deeplvm.training.measure import Ranking
from deeplvm.training.phases import Phase
from deeplvm.training.schedules import Average, Rates
from deeplvm.training.step import Step


@runtime_checkable
class Paced(Protocol):
    """A companion that is told the progress before each step."""

    def at(self, epoch: float) -> None:
        """So many epochs are done."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A companion that is shown the model after each epoch."""

    def judge(self, model: LatentVariableModel, take: Callable[[int], dict[str, Any]]) -> str:
        """Look, with ``take(n)`` the first n held-out rows (or of those measured); what to say."""
        ...


class Companions(nn.Module):
    """What moves beside the model: trained, moved to its device and saved along.

    The baselines of estimators, the multipliers of objectives, a critic: modules that are given,
    and those that a function given holds in its closure, its arguments, its object or a name of
    its file. Some are :class:`Paced`, some are a :class:`Judge`.

    Args:
        phases: Their objectives, ways of drawing and conditions that are modules are companions;
            what else they call is saved with all that it holds, and otherwise left as it is.
        functions: As are these.
        model: Whose own modules are no companions.
        device: Where they go.
        dtype: Of their numbers.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        functions: Sequence[Any],
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        candidates = [
            each for phase in phases for each in (phase.objective, *phase.ways, phase.when)
        ]
        called = [each for phase in phases for each in (*phase.functions, phase.optimizer)]
        given = dict.fromkeys([each for each in candidates if isinstance(each, nn.Module)])
        known = {*model.modules(), *[part for each in given for part in each.modules()]}
        found = [
            each
            for each in held_by([*candidates, *called, *functions, *given])
            if each not in known
        ]
        self.optimizers = [each for each in found if isinstance(each, Optimizer)]
        self.members = nn.ModuleList(given).to(device=device, dtype=dtype)
        # in a list, so that their modes stay those that their owner gave them
        held = [each for each in found if isinstance(each, nn.Module) and changes(each)]
        within = {part for each in held for part in each.modules() if part is not each}
        self.held = [each for each in held if each not in within]
        for each in self.held:
            each.to(device=device, dtype=dtype)
        self.loose: list[Tensor] = []
        members: list[Any] = [*self.members.modules()]
        self.told = [each for each in members if isinstance(each, Paced)]
        self.judges = [each for each in members if isinstance(each, Judge)]

    def add(self, model: nn.Module, steps: Sequence[Step]) -> None:
        """Save what the steps move and nobody else does: parameters without a module."""
        modules = [model, self, *self.held]
        known = {p for module in modules for p in module.parameters()}
        moved = dict.fromkeys([p for step in steps for p in step.parameters])
        self.loose = [p for p in moved if p not in known]
        own = {step.optimizer for step in steps}
        self.optimizers = [each for each in self.optimizers if each not in own]

    def __len__(self) -> int:
        return len(self.members) + len(self.held) + len(self.loose)

    def at(self, epoch: float) -> None:
        """Tell those that anneal the progress of training."""
        for each in self.told:
            each.at(epoch)

    def judge(
        self, model: LatentVariableModel, take: Callable[[int], dict[str, Any]]
    ) -> list[str]:
        """Let those look that do; what they say, if anything."""
        said = [each.judge(model, take) for each in self.judges]
        return [text for text in said if text]

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {name: value.detach().clone() for name, value in self._everything().items()}

    def load(self, state: Any) -> None:
        """The inverse of :meth:`state`.

        Raises:
            CheckpointError: If the checkpoint is of other companions.
        """
        try:
            restore(self._everything(), state)
        except CheckpointError as error:
            raise CheckpointError(
                f"The checkpoint is of a run with another objective or estimator. {error}"
            ) from error

    def _everything(self) -> dict[str, Tensor]:
        held = {
            f"held.{i}.{name}": value
            for i, each in enumerate(self.held)
            for name, value in each.state_dict().items()
        }
        loose = {f"loose.{i}": value.detach() for i, value in enumerate(self.loose)}
        return {**self.state_dict(), **held, **loose}


def changes(module: nn.Module) -> bool:
    """Whether training may change a module: it learns, or remembers."""
    return any([p.requires_grad for p in module.parameters()]) or any(
        [True for _ in module.buffers()]
    )


def held_by(functions: Iterable[Any]) -> list[nn.Module | Optimizer]:
    """The modules and optimisers that functions hold, each once.

    In partial arguments, bound objects and their attributes, closures, defaults, and the globals
    that their code reads; also through other functions held. Code that is installed is not read.

    >>> critic = nn.Linear(2, 1)
    >>> held_by([functools.partial(lambda net, x: net(x), critic)])
    [Linear(in_features=2, out_features=1, bias=True)]
    """
    found: list[nn.Module | Optimizer] = []
    seen: dict[int, Any] = {}  # keeps what was seen alive, so that no number is used twice
    waiting = [*functions][::-1]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, nn.Module | Optimizer):
            found.append(each)
        waiting += reversed(_held(each))
    return found


def _held(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _bound(cell)]
        inside = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        names = {} if _installed(value) else value.__globals__
        return [*inside, *[names[name] for name in _globals_of(value.__code__) if name in names]]
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple):
        return [*value]
    if isinstance(value, type | types.ModuleType | Tensor) or _installed(type(value)):
        return []
    methods = [each for each in vars(type(value)).values() if isinstance(each, types.FunctionType)]
    return [*getattr(value, "__dict__", {}).values(), *methods]


def _globals_of(code: types.CodeType) -> Iterator[str]:
    for each in dis.get_instructions(code):
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield each.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals_of(inner)


def _bound(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - a name that is not bound yet raises
    except ValueError:
        return False
    return True


def _installed(value: Any) -> bool:
    package = (getattr(value, "__module__", None) or "").partition(".")[0]
    return package in ("torch", "numpy", "builtins", "deeplvm")


class State:
    """Everything that the next step depends on, and the best weights so far.

    Where no epoch can be called the best one, that is the last.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        steps: list[Step],
        rates: Rates,
        average: Average | None,
        companions: Companions,
        ranking: Ranking,
        device: torch.device,
        run: dict[str, Any],
    ) -> None:
        self.model, self.steps, self.rates, self.average = model, steps, rates, average
        self.companions, self.ranking, self.device = companions, ranking, device
        self.run = run  # options that a run cannot go on with if they are other ones
        self.generator = Generator()  # of what is renewed at every visit of a row
        self.compiled: bool | None = None  # none before that was decided
        self.threads: int | None = None  # none where there was nothing to decide
        self.flops: float | None = None  # of one row's steps; none before they were counted
        self.history: list[Record] = []  # of the epochs done
        self.elapsed = 0.0  # seconds that those took
        # of the epoch after those: batches done, their objectives' sum, their rows, their time
        self.position, self.total, self.rows, self.seconds = 0, 0.0, 0, 0.0
        self.best_epoch, self.best = 0, self._copy()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def spent(self) -> float:
        """Seconds of training so far, of resumed runs in all."""
        return self.elapsed + self.seconds

    @property
    def waited(self) -> int:
        """Epochs since the best one that could have been better."""
        return len([each for each in self.history[self.best_epoch :] if self._counts(each)])

    def begin(self, seed: int) -> None:
        """The first batch of an epoch is next."""
        self.position, self.total, self.rows, self.seconds = 0, 0.0, 0, 0.0
        self.elapsed = sum([each["seconds"] for each in self.history])
        self.generator.manual_seed(seed)

    def keep_if_better(self, record: Record) -> bool:
        """Copy the weights if none before were better; whether they are the best.

        The latest are kept as long as no epoch can be compared.
        """
        best = self.history[self.best_epoch - 1] if self.best_epoch else None
        counts = self._counts(record)
        beats = counts and (best is None or self.ranking.better(record, best))
        if best is not None and self._counts(best) and not beats:
            return False
        self.best_epoch, self.best = record["epoch"], self._copy()
        return counts

    def _counts(self, record: Record) -> bool:
        return "valid" in record and self.ranking.comparable(record)

    def take_best(self) -> None:
        """Give the model its best weights."""
        self._fill(self.best)

    def _entries(self) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
        """All that is saved: how it is read, and how it is put back, in this order."""

        def own(name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
            return partial(getattr, self, name), partial(setattr, self, name)

        def optimizers(states: list[Any]) -> None:
            for step, state in zip(self.steps, states, strict=True):
                step.optimizer.load_state_dict(state)

        def skipped(numbers: list[int]) -> None:
            for step, number in zip(self.steps, numbers, strict=True):
                step.skipped = number

        def best(weights: dict[str, Tensor]) -> None:
            self.best = {name: value.to(self.device) for name, value in weights.items()}

        nothing = (lambda: None, lambda _: None)
        average, companions = self.average, self.companions
        averages = (average.state_dict, average.load_state_dict) if average else nothing
        cuda = (
            partial(torch.cuda.get_rng_state, self.device),
            lambda state: state is None or torch.cuda.set_rng_state(state, self.device),
        )
        entries = {
            "model": (lambda: unique_state(self.model)[0], self._fill),
            "epoch": (lambda: self.epoch, lambda _: None),
            **{name: own(name) for name in ("position", "total", "rows", "seconds")},
            **{name: own(name) for name in ("compiled", "threads", "flops", "best_epoch")},
            "history": (lambda: self.history, self.history.extend),
            "run": (lambda: self.run, lambda _: None),
            "best": (lambda: self.best, best),
            "optimizers": (lambda: [s.optimizer.state_dict() for s in self.steps], optimizers),
            "skipped": (lambda: [each.skipped for each in self.steps], skipped),
            "rates": (self.rates.state_dict, self.rates.load_state_dict),
            "average": averages,
            "renewal": (self.generator.get_state, self.generator.set_state),
            "random": (torch.get_rng_state, torch.set_rng_state),
            "random_cuda": cuda if self.device.type == "cuda" else nothing,
        }
        if len(companions):
            entries["companions"] = (companions.state, companions.load)
        return entries

    def tree(self) -> dict[str, Any]:
        """As nested dicts, for a checkpoint."""
        return {name: read() for name, (read, _) in self._entries().items()}

    def load(self, tree: dict[str, Any], folder: str) -> None:
        """The inverse of :meth:`tree`.

        Raises:
            CheckpointError: If the checkpoint is of a run with other options, or of another model.
        """
        own = self.tree()
        tree = {"threads": None, **tree}  # which older checkpoints lack
        try:
            check_entries(tree, own)
            for key, value in self.run.items():
                if (found := tree["run"].get(key)) != value:
                    raise CheckpointError(
                        f"The checkpoint in {folder} is of a run with {key} {found!r}, and this "
                        f"one has {value!r}; go on with the options it was started with, or use "
                        f"another folder."
                    )
            self._fill(tree["model"])
            check_state(tree, own, self.ranking.name)
            check_optimizers(tree["optimizers"], [step.optimizer for step in self.steps])
        except Unfit as error:
            raise CheckpointError(
                f"The checkpoint in {folder} does not fit this run: {error}. Use another copy, or "
                f"start again in another folder."
            ) from None
        for name, (_, put_back) in self._entries().items():
            put_back(tree[name])
        self.elapsed = sum([each["seconds"] for each in self.history])

    def _copy(self) -> dict[str, Tensor]:
        return {
            name: value.detach().clone() for name, value in unique_state(self.model)[0].items()
        }

    def _fill(self, weights: dict[str, Tensor]) -> None:
        aliases = unique_state(self.model)[1]
        restore(
            self.model,
            weights | {alias: weights[name] for alias, name in aliases.items() if name in weights},
        )


_WHOLE = ("epoch", "position", "rows", "best_epoch", "steps", "skipped")
# Kernels of optimisers trust the shape of what they remember of a parameter.
_SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "momentum_buffer")


class Unfit(ValueError):
    """Why the state in a checkpoint is none of the run at hand."""


def check_entries(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a state that lacks an entry of ``own``, or whose weights or options are none."""
    if absent := [name for name in own if name not in found]:
        raise Unfit(f"it lacks {absent[0]!r}")
    for name in ("model", "best"):
        if not isinstance(found[name], dict) or not _all(found[name].values(), Tensor):
            raise Unfit(f"{name!r} are no weights")
    if not isinstance(found["run"], dict) or not _plain(found["run"]):
        raise Unfit("'run' are no options")


def check_state(found: Mapping[str, Any], own: Mapping[str, Any], measure: str) -> None:
    """Refuse a state in which an entry is of another type or shape than in the run at hand.

    Args:
        found: What the checkpoint has, of a run with the same options.
        own: What the run would save now.
        measure: What every record of the history has.
    """
    for name, value in own.items():
        if name not in ("run", "optimizers", "history"):
            _same_form(found[name], value, name)
    _check_history(found["history"], measure, found["best_epoch"])
    if found["epoch"] != len(found["history"]):
        raise Unfit("'epoch' is another than that of its history")
    for name in ("position", "rows"):
        if found[name] < 0:
            raise Unfit(f"{name!r} is negative")
    for name in ("renewal", "random"):
        try:
            torch.Generator().set_state(found[name])
        except (RuntimeError, TypeError):
            raise Unfit(f"{name!r} is no state of a random generator") from None


def check_optimizers(found: Any, optimizers: Sequence[Optimizer]) -> None:
    """Refuse what optimisers are to remember, where it does not fit their parameters."""
    if not isinstance(found, list) or len(found) != len(optimizers):
        raise Unfit("it has other optimisers")
    for kept, optimizer in zip(found, optimizers, strict=True):
        _same_form(kept, {"state": None, "param_groups": None}, "optimizers", deep=False)
        _same_form(kept["param_groups"], optimizer.state_dict()["param_groups"], "param_groups")
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        if not isinstance(kept["state"], dict):
            raise Unfit("the state of an optimiser is no dictionary")
        for number, memory in kept["state"].items():
            known = isinstance(number, int) and 0 <= number < len(parameters)
            if not known or not isinstance(memory, dict):
                raise Unfit(f"an optimiser has no parameter {number!r}")
            if memory and not memory.keys() >= _needed(optimizer):
                raise Unfit(f"an optimiser has forgotten a part of parameter {number}")
            for name, value in memory.items():
                if not _remembered(name, value, parameters[number]):
                    raise Unfit(f"{name!r} of an optimiser does not fit its parameter")


def _needed(optimizer: Optimizer) -> set[str]:
    """What those that ``fit`` knows by name cannot go on without."""
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return {"step", "exp_avg", "exp_avg_sq"}
    return {"step", "exp_avg", "exp_inf"} if isinstance(optimizer, torch.optim.Adamax) else set()


def _remembered(name: str, value: Any, parameter: Tensor) -> bool:
    if name == "step":
        single = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
        return single or isinstance(value, int | float)
    if name not in _SHAPED or value is None:
        return True
    same = isinstance(value, Tensor) and value.shape == parameter.shape
    return same and value.is_floating_point() == parameter.is_floating_point()


def _same_form(found: Any, own: Any, at: str, *, deep: bool = True) -> None:
    """The same types all the way down; what is none here may be anything single there."""
    if isinstance(own, Tensor):
        good = isinstance(found, Tensor) and (found.shape, found.dtype) == (own.shape, own.dtype)
    elif own is None:
        good = not isinstance(found, dict | list | tuple)
    elif isinstance(own, bool):
        good = found is None or isinstance(found, bool)
    elif isinstance(own, int | float):
        kind = int if at in _WHOLE else int | float
        good = isinstance(found, kind) and not isinstance(found, bool)
    elif isinstance(own, Mapping):
        good = isinstance(found, dict) and set(own) == set(found)
    elif isinstance(own, list | tuple):
        good = isinstance(found, list | tuple) and len(found) == len(own)
    else:
        good = isinstance(found, type(own))
    if not good:
        raise Unfit(f"{at!r} is not what this run has there")
    if isinstance(own, Mapping) and deep:
        for name, value in own.items():
            _same_form(found[name], value, str(name))
    elif isinstance(own, list | tuple):
        for each, value in zip(found, own, strict=True):
            _same_form(each, value, at)


def _check_history(history: Any, bound: str, best: int) -> None:
    if not isinstance(history, list) or not 0 <= best <= len(history):
        raise Unfit("its best epoch is not in its history")
    for epoch, record in enumerate(history, 1):
        whole = isinstance(record, dict) and record.get("epoch") == epoch and _plain(record)
        if not whole or not isinstance(record.get("kl_weight"), int | float):
            raise Unfit(f"it has no record of epoch {epoch}")
        for split in ("train", "valid") if "valid" in record else ("train",):
            means = record.get(split)
            numbers = isinstance(means, dict) and _all(means.values(), int | float)
            if not numbers or bound not in means:
                raise Unfit(f"it has no {split} means of epoch {epoch}")
        if ("valid" in record) != ("valid" in history[0]):
            raise Unfit(f"it has another kind of record of epoch {epoch}")


def _all(values: Iterable[Any], kind: Any) -> bool:
    return all([isinstance(value, kind) for value in values])


def _plain(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        inner = value.values() if isinstance(value, dict) else value
        return all([_plain(each) for each in inner])
    return value is None or isinstance(value, bool | int | float | str)
