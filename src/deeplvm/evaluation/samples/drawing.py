"""Draws of one variable of a model, in the number that a comparison with data needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deeplvm.distributions.centre import centre
from deeplvm.evaluation.batches import evaluating
from deeplvm.model import LatentVariableModel

_CHUNK = 500  # rows at a time


def draws(
    model: LatentVariableModel,
    rows: int,
    train: Mapping[str, Tensor],
    name: str,
    *,
    mean: bool = False,
    seed: int = 0,
) -> Tensor:
    """Draws of a variable on the CPU, or the means of its distribution, shape ``(rows, *event)``.

    Args:
        model: Left as it was.
        rows: How many.
        train: Training rows, of which the inputs of p are taken, chosen at random.
        name: The variable.
        mean: Whether means are taken.
        seed: Same seed, same draws.

    Raises:
        ValueError: If p has inputs that the training rows have not.
    """
    inputs = [each for each in model.p.inputs if each not in model.p.names]
    if absent := [each for each in inputs if each not in train]:
        raise ValueError(
            f"The model needs {', '.join(absent)} to draw {name} from, which the training rows do "
            "not have; add it to them."
        )
    generator = torch.Generator().manual_seed(seed)
    parts = []
    with evaluating(model, seed):
        for start in range(0, rows, _CHUNK):
            size = min(_CHUNK, rows - start)
            given = {}
            for each in inputs:
                index = torch.randint(len(train[each]), (size,), generator=generator)
                given[each] = train[each][index.to(train[each].device)]
            site = model.sample(size, given)[name]
            value = site.value
            if mean and site.distribution is not None:
                value = centre(site.distribution).expand(value.shape)
            parts.append(value.cpu())
    return torch.cat(parts).clone()
