"""Options of training, in groups; :func:`unfolded` makes flat ones of them, as flags are."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import torch
from torch import Tensor, nn
from torch.optim import Adam, Adamax, AdamW, Optimizer

from deeplvm.core.model import LatentVariableModel
from deeplvm.training.graph import Compile
from deeplvm.training.schedules import RateSchedule

Result = TypeVar("Result")
OptimizerChoice = (
    Literal["adam", "adamax", "adamw"]
    | type[Optimizer]
    | Callable[[list[nn.Parameter]], Optimizer]
)


@dataclass(frozen=True)
class Optimization:
    """How parameters move.

    Attributes:
        optimizer: ``"adam"``, ``"adamax"``, ``"adamw"``, a torch optimiser class (called with the
            learning rate and weight decay), or a function of the parameters (which decides both).
        learning_rate: Step size.
        weight_decay: Of the optimiser (an L2 penalty in Adam, decoupled in AdamW).
        schedule: A factor on the learning rate: ``"constant"``, ``"cosine"``, ``"exponential"``
            (both over the epochs of this run), ``"tripling"``, one of
            :mod:`deeplvm.training.schedules`, or a function of the optimiser that returns a torch
            scheduler (stepped once an epoch).
        clip: Largest norm of the gradient; a longer one is shortened to it.
        skip: A step whose gradient is longer (or not finite) is left out, and counted in the
            metrics.
        averaging: Decay of an exponential moving average of the parameters; the averaged ones are
            measured and kept. Early on the decay is :math:`(1 + t)/(10 + t)`, so that the start is
            forgotten. 0 averages nothing.
    """

    optimizer: OptimizerChoice = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: RateSchedule | None = None
    clip: float | None = None
    skip: float | None = None
    averaging: float = 0.99

    def __post_init__(self) -> None:
        check(learning_rate=self.learning_rate, clip=self.clip, skip=self.skip)
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"weight_decay must be a number of at least 0, not {self.weight_decay}."
            )
        if not 0.0 <= self.averaging < 1.0:
            raise ValueError(
                f"averaging is a decay in [0, 1), such as 0.999, not {self.averaging}."
            )


@dataclass(frozen=True)
class Stopping:
    """Which epoch is best, and when to look no further.

    Attributes:
        patience: Stop after so many epochs without a better one. Epochs that cannot be compared,
            such as those before the end of a KL warm-up, are not counted.
        minutes: Stop after so many minutes of training in all, those before a resume too, if the
            epochs are not done before: after the next step, in the middle of an epoch, what is
            learned is measured a last time. A schedule over the run (``"cosine"``) then follows
            the clock where that is ahead of the epochs. What is reached depends on the machine.
        measure: What is compared on held-out rows: ``"elbo"``, the objective's name or that of a
            variable (its term of the ledger); ``"cells"``, how well hidden values of a row are
            predicted from the others, the default where values are missing; or a function of the
            model and of named rows that returns a number, or one a row, in place of all that is
            measured of the ledger, which a model without a density has not. By default the
            objective, where every phase ascends it; else nothing, and the last epoch is kept.
        direction: Whether more of it is better, or less.
    """

    patience: int | None = None
    minutes: float | None = None
    measure: str | Callable[[LatentVariableModel, dict[str, Any]], Tensor | float] | None = None
    direction: Literal["higher", "lower"] = "higher"

    @property
    def seconds(self) -> float:
        """Of training in all; without ``minutes`` as many as it takes."""
        return 60.0 * self.minutes if self.minutes else math.inf

    def __post_init__(self) -> None:
        check(patience=self.patience, minutes=self.minutes)
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"direction is 'higher' or 'lower', not {self.direction!r}.")
        if self.measure is None and self.direction == "lower":
            raise ValueError(
                "direction says which measure is better; say what to measure as well."
            )


@dataclass(frozen=True)
class Saving:
    """What is written, where and when.

    Attributes:
        folder: Where ``metrics.jsonl`` and ``checkpoint/`` are written; none writes nothing.
        resume: Go on from the folder's checkpoint, if it has one, exactly where it was.
        checkpoint_every: Epochs; by default as often as saving costs at most a twentieth of the
            time.
        checkpoint_seconds: A checkpoint is also written in mid-epoch, when the last is so old.
    """

    folder: str | Path | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        check(checkpoint_every=self.checkpoint_every, checkpoint_seconds=self.checkpoint_seconds)
        if self.folder is None and self.checkpoint_every is not None:
            raise ValueError("checkpoint_every says how often to save; say where as well: folder.")


@dataclass(frozen=True)
class Machine:
    """Where and how is computed.

    Attributes:
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"``; the model moves there.
        compile: Compile the step with ``torch.compile(fullgraph=True)`` (an odd last batch runs
            uncompiled), or not, or ``"auto"``: where training will take more than five times the
            budget, the first batch shows which is faster. The choice is kept for a resumed run.
        compile_budget: Seconds that compiling may take before ``"auto"`` gives it up.
        precision: ``"bfloat16"`` computes matrix products and convolutions of training in
            bfloat16; log-densities, sums, parameters and all that is measured stay in the model's
            own type. ``"auto"`` does so on a GPU that can, ``"float32"`` nowhere.
        threads: Of the CPU, at most so many; ``"auto"`` measures which number is fastest, up to
            all that torch has, and again when the speed falls, as it does where another process
            wants the cores too. Numbers of threads differ in the last digits of results; the one
            that was measured is kept for a resumed run.
    """

    device: str | torch.device = "auto"
    compile: Compile = "auto"
    compile_budget: float = 60.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        check(compile_budget=self.compile_budget)
        if self.threads != "auto":
            check(threads=self.threads)
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile is True, False or 'auto', not {self.compile!r}.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"precision is 'auto', 'float32' or 'bfloat16', not {self.precision!r}; "
                f"log-densities are never less than float32."
            )

    def bfloat16(self, device: torch.device) -> bool:
        """Whether matrix products are computed in bfloat16."""
        if self.precision == "auto":
            return device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.precision == "bfloat16"


def make_optimizer(
    choice: OptimizerChoice,
    parameters: list[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> Optimizer:
    """The optimiser of some parameters; a function of the parameters decides everything itself.

    Adam (Kingma & Ba, 2015), https://arxiv.org/abs/1412.6980; AdamW: Decoupled Weight Decay
    Regularization (Loshchilov & Hutter, 2019), https://arxiv.org/abs/1711.05101

    Raises:
        ValueError: If the name is none of adam, adamax, adamw.
    """
    options: dict[str, Any] = {"lr": learning_rate}
    if weight_decay or choice == "adamw":  # torch's AdamW has a weight decay of its own by default
        options["weight_decay"] = weight_decay
    if isinstance(choice, type):
        return choice(parameters, **options)
    if callable(choice):
        return choice(parameters)
    if choice == "adamax":
        return Adamax(parameters, **options)
    classes: dict[Any, type[Adam]] = {"adam": Adam, "adamw": AdamW}
    if choice not in classes:
        raise ValueError(
            f"optimizer is 'adam', 'adamax', 'adamw', a torch optimiser class, or a function of "
            f"the parameters; not {choice!r}."
        )
    # One kernel for all elements: on a CPU two to three times faster than a loop over operations.
    fused = all([p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters])
    return classes[choice](parameters, fused=fused, **options)


def of_few_rows(rows: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """Batch size, epochs and patience by which few rows are learned: steps count, not passes.

    An epoch has at least four steps, unless a recipe waits for enough of them. The limit are some
    20,000 steps, 2,000 epochs at most, and the end 300 steps without a better bound.

    Args:
        rows: How many rows there are to learn from.
        own: The training options of a recipe.

    >>> of_few_rows(240, {})
    {'batch_size': 16, 'epochs': 1334, 'patience': 20}
    """
    size, patience = own.get("batch_size", 100), own.get("patience") or 0
    if rows < 4 * size and patience * -(-rows // size) < _PATIENT:
        size = max(16, 2 ** round(math.log2(max(rows, 16) / 16)))
    steps = -(-rows // size)
    most = min(_MOST_EPOCHS, max(20, -(-_STEPS // steps)))
    return {
        "batch_size": size,
        "epochs": max(own.get("epochs", 0), most),
        "patience": max(patience, 10, -(-_PATIENT // steps)),
    }


# Gradient steps at most, epochs at most, and steps without a better epoch: of few rows.
_STEPS, _MOST_EPOCHS, _PATIENT = 20_000, 2_000, 300
FEW_ROWS = 5_000
_REAL = ("learning_rate", "clip", "skip", "minutes", "checkpoint_seconds", "compile_budget")


def check(**numbers: float | None) -> None:
    """Refuse counts that are no positive integers, and other numbers that are not positive."""
    for name, number in numbers.items():
        if number is None:
            continue
        if name in _REAL:
            if not (isinstance(number, int | float) and 0 < number < math.inf):
                raise ValueError(f"{name} must be a positive number, not {number!r}.")
        elif isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, not {number!r}.")


def unfolded(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function with the options of its groups as keywords of its own.

    A group is an argument whose default is a dataclass. Signature, annotations and documentation
    are unfolded as well: a command line makes its flags of them.

    >>> def draw(rows: int, *, saving: Saving = Saving()): return rows, saving.folder
    >>> unfolded(draw)(3, folder="runs")
    (3, 'runs')
    >>> list(inspect.signature(unfolded(draw)).parameters)[:3]
    ['rows', 'folder', 'resume']
    """
    signature = inspect.signature(function)
    plain: dict[str, inspect.Parameter] = {}
    owners: dict[str, str] = {}
    texts: list[str] = []
    for each in signature.parameters.values():
        if not is_dataclass(each.default):
            plain[each.name] = each
            continue
        group = type(each.default)
        hints = get_type_hints(group)
        texts.append((inspect.getdoc(group) or "").partition("Attributes:\n")[2])
        for one in fields(group):
            default = inspect.Parameter.empty if one.default is MISSING else one.default
            plain[one.name] = inspect.Parameter(
                one.name, each.KEYWORD_ONLY, default=default, annotation=hints[one.name]
            )
            owners[one.name] = each.name

    @functools.wraps(function)
    def flat(*arguments: Any, **options: Any) -> Result:
        groups: dict[str, dict[str, Any]] = {}
        for name in owners.keys() & options.keys():
            groups.setdefault(owners[name], {})[name] = options.pop(name)
        for name, given in groups.items():
            default = options.get(name, signature.parameters[name].default)
            options[name] = replace(default, **given)
        return function(*arguments, **options)

    flat.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(plain.values())
    )
    flat.__annotations__ = {each.name: each.annotation for each in plain.values()}
    flat.__doc__ = "\n".join([inspect.getdoc(function) or "", "\nAttributes:", *texts])
    return flat
