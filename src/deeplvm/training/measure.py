"""Measure a bound on rows: the same function for the rows trained on and the rows held out."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.randomness import own_randomness
from deeplvm.gradients import Draw
from deeplvm.objectives import elbo
from deeplvm.parallel.steps import Together
from deeplvm.registry import in_snake_case
from deeplvm.training.batches import Batches, Split
from deeplvm.training.failures import explained, non_finite
from deeplvm.training.step import Objective


def name_of(objective: Objective) -> str:
    """What the bound is called in the metrics.

    >>> name_of(functools.partial(elbo, form="analytic")), name_of(lambda evidence: elbo(evidence))
    ('elbo', 'objective')
    """
    while isinstance(objective, functools.partial):
        objective = objective.func
    name = getattr(objective, "__name__", in_snake_case(type(objective).__name__))
    return name if name.isidentifier() else "objective"


def for_rows(objective: Objective, rows: int) -> Objective:
    """An objective that must be told the number of rows of the data, told."""
    bare = objective.func if isinstance(objective, functools.partial) else objective
    given = objective.keywords if isinstance(objective, functools.partial) else {}
    asks = inspect.signature(bare).parameters.get("rows") if inspect.isroutine(bare) else None
    if asks is None or asks.default is not asks.empty or "rows" in given:
        return objective
    return functools.partial(objective, rows=rows)  # pyrefly: ignore


@torch.no_grad()
def measure(
    model: LatentVariableModel,
    batches: Batches,
    split: Split,
    index: Tensor,
    objective: Objective,
    *,
    batch_size: int,
    particles: int | None,
    draw: Mapping[str, Draw] | None,
    default: Draw | None,
    rows: int,
    seed: int,
    epoch: int,
    together: Together,
    look: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    r"""Means over rows, in nats: the ELBO, the objective (KL weight 1), the term of each name.

    The draws come from their own seed, the same every time, and the stream of random numbers that
    training reads is not touched. Randomness that is renewed at each visit is not renewed here.
    Several processes share the rows of each batch and add up their sums. ``look`` is called before
    each batch, and may end the measurement by raising.

    Raises:
        NonFiniteError: If one of them is not finite.
    """
    bound = name_of(objective)
    sums: dict[str, Tensor] = {}
    training = model.training
    model.eval()

    def ledger(batch: dict[str, Any]) -> Evidence:
        return model.evidence(
            batch,
            particles=particles,
            draw=draw,
            default=default,
            missing=batches.missing,
            rows=rows,
        )

    with own_randomness(batches.device, seed):
        for rows_of_batch in index.split(batch_size):
            look()
            part = together.part(rows_of_batch)
            batch = batches(split, part.index)
            try:
                with together.noise(part, particles):
                    evidence = ledger(batch)
                    values = {name: term_of(evidence, name) for name in evidence.terms}
                    values |= {"elbo": elbo(evidence), bound: objective(evidence)}
            except ValueError as error:
                cause = explained(
                    error,
                    functools.partial(ledger, batch),
                    model=model,
                    batch=batch,
                    index=part.index,
                    missing=batches.missing,
                    epoch=epoch,
                    split=split,
                )
                if cause is error:
                    raise
                raise cause from error
            for name, value in values.items():
                mean = value.mean(dtype=torch.float64)
                sums[name] = sums.get(name, 0.0) + mean * (part.share * part.batch)
            # On a CPU this look is free, and the ledger that shows whom to blame is still there.
            if batches.device.type == "cpu" and not math.isfinite(sums[bound].item()):
                raise non_finite(
                    model,
                    batch,
                    part.index,
                    evidence,
                    missing=batches.missing,
                    epoch=epoch,
                    split=split,
                )
    model.train(training)
    everything = together.world.sum(torch.stack(list(sums.values())))
    sums = dict(zip(sums, everything, strict=True))
    means = {name: value.item() / len(index) for name, value in sums.items()}
    if not all([math.isfinite(mean) for mean in means.values()]):
        raise non_finite(model, {}, index, None, missing=batches.missing, epoch=epoch, split=split)
    order = dict.fromkeys(["elbo", bound, *means])
    return {name: means[name] for name in order}


def term_of(evidence: Evidence, name: str) -> Tensor:
    """``log p − log q`` of a name, its mean over particles, shape ``(batch,)``."""
    return evidence.expectation(evidence.terms[name].expand(evidence.batch_shape))
