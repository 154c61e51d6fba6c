"""What can go wrong while training, and who is to blame for a number that is not finite."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.evidence import Evidence


class NonFiniteError(ValueError):
    """A value became infinite or NaN; training stopped, and the model has its best weights.

    Attributes:
        name: The variable (or parameter) that is to blame, if one is found.
        epoch: The epoch in which it happened, counted from 1.
        rows: Rows of the split in question, counted from 0.
        split: ``"train"`` or ``"valid"``.
    """

    def __init__(
        self, message: str, name: str | None, epoch: int, rows: tuple[int, ...], split: str
    ) -> None:
        super().__init__(message)
        self.name, self.epoch, self.rows, self.split = name, epoch, rows, split


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended training; the message says what is kept.

    Attributes:
        epoch: The last epoch that was completed.
        saved: How many epochs the checkpoint has whole, none without a folder.
        signal: Which signal it was.
    """

    def __init__(
        self, message: str, epoch: int, saved: int | None, number: signal.Signals = signal.SIGINT
    ) -> None:
        super().__init__(message)
        self.epoch, self.saved, self.signal = epoch, saved, number


def non_finite(
    model: nn.Module,
    batch: Mapping[str, Any],
    index: Tensor,
    evidence: Evidence | None,
    *,
    missing: frozenset[str],
    epoch: int,
    split: str,
) -> NonFiniteError:
    """Find the cause: the data, the parameters, or the term of one variable; in this order.

    Args:
        model: With the parameters that met the value.
        batch: What was given.
        index: Which rows of the split these are, shape ``(batch,)``.
        evidence: The ledger of the step, if there is one.
        missing: Names whose NaN is meant.
        epoch: Counted from 1.
        split: Where the rows are from.
    """
    where = {"train": "training", "valid": "held-out"}.get(split, split)

    def error(text: str, name: str | None, bad: Tensor | None) -> NonFiniteError:
        rows = () if bad is None else tuple(sorted(index[bad.cpu()].tolist()))
        at = f" in {_listed(rows)} of the {where} data" if rows else ""
        return NonFiniteError(text.format(at=at, epoch=epoch), name, epoch, rows, split)

    for name, value in batch.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()) or value.is_sparse:
            continue
        wrong = torch.isinf(value) if name in missing else ~torch.isfinite(value)
        bad = wrong.flatten(1).any(1) if value.dim() > 1 else wrong
        if bad.any():
            kind = "an infinite value" if name in missing else "NaN or an infinite value"
            return error(
                f"{name!r} has {kind}{{at}} (met in epoch {{epoch}}); correct or remove them.",
                name,
                bad,
            )
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken:
        variable = _variable(broken[0])
        return error(
            f"The parameters of {variable or broken[0]!r} became NaN or infinite in epoch "
            f"{{epoch}} ({len(broken)} tensors, the first is {broken[0]!r}): the step before "
            f"overflowed. Lower the learning rate, or bound the gradient with clip=1.0.",
            variable or broken[0],
            None,
        )
    if evidence is not None:
        for name in (*evidence.latents, *evidence.observed):
            term = evidence.terms[name].detach().expand(evidence.batch_shape)
            bad = (
                ~torch.isfinite(term).flatten(0, -2).all(0)
                if term.dim() > 1
                else ~torch.isfinite(term)
            )
            if bad.any():
                return error(
                    f"The log-density of {name!r} is NaN or infinite{{at}}, in epoch {{epoch}}: "
                    f"the network of {_factor(model, name)} returned it, or the value lies "
                    f"outside the support. Lower the learning rate, bound the gradient with "
                    f"clip=1.0, or bound the scale from below.",
                    name,
                    bad,
                )
    everything = torch.ones(len(index), dtype=torch.bool)
    return error(
        "The objective became NaN or infinite{at}, in epoch {epoch}, though every variable's term "
        "is finite; look at the objective and the log-prior, lower the learning rate, or bound "
        "the gradient with clip=1.0.",
        None,
        everything if len(index) <= 10 else None,
    )


def explained(error: ValueError, ledger: Callable[[], Any], **found: Any) -> ValueError:
    """The cause of an error met in a step, where it is a number that is not finite.

    A torch distribution that validates its parameters refuses NaN before the objective shows it.

    Args:
        error: What was raised.
        ledger: Draws the evidence again, for a look at its terms.
        found: As for :func:`non_finite`.

    Returns:
        The NonFiniteError that names the cause, or the error itself.
    """
    with torch.no_grad(), _unvalidated():
        try:
            evidence = ledger()
        except ValueError:
            evidence = None
        cause = non_finite(evidence=evidence if isinstance(evidence, Evidence) else None, **found)
    return error if cause.name is None else cause


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Distributions made here take any parameters, unless they were told to check."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _listed(rows: tuple[int, ...], most: int = 10) -> str:
    shown = ", ".join([str(row) for row in rows[:most]])
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}{more}"


def _variable(parameter: str) -> str | None:
    """``p.factors.x | z.network.0.weight`` belongs to ``x``."""
    match = re.search(r"\.factors\.(\w+)[^.]* ?\|", parameter)
    return match[1] if match else None


def _factor(model: Any, name: str) -> str:
    for joint in (model.q, model.p):
        if name in getattr(joint, "owner", {}):
            factor = f"{joint.symbol}({joint.owner[name]})"
            return factor if name not in model.q.names else f"{factor} or p's of {name!r}"
    return repr(name)
