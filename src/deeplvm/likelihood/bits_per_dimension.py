"""Bits per dimension, with what was added to the density said in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deeplvm.core.joint import owner_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site
from deeplvm.results import stderr_of

if TYPE_CHECKING:
    from deeplvm.data.variable import Variable


@dataclass(frozen=True)
class BitsPerDimension:
    r"""Mean bits per element, lower is better: :math:`-\log p(x) / (D \log 2) + \text{offset}`.

    Attributes:
        value: Mean over rows, each with its own number of observed elements.
        stderr: Standard error over rows.
        dimensions: Mean number D of elements observed in a row.
        offset: What was added, bits per element.
        explanation: What the number is a code length of, and where the offset comes from.
    """

    value: float
    stderr: float
    dimensions: float
    offset: float
    explanation: str


def bits_per_dimension(
    log_px: Tensor, elements: Tensor, variables: Mapping[str, Variable] | None = None
) -> BitsPerDimension:
    r"""Bits per element from log-likelihoods in nats.

    Integers have probabilities, and no offset. Integers that were dequantized, to
    :math:`(x + u) / n`, have a density in units of the whole range: one level is 1/n wide, so
    :math:`\log_2 n` is added (8 for 8-bit pixels). Reals have a density in the data's own units:
    their bits depend on the unit, may be negative, and are comparable only between models of the
    same file.

    A note on the evaluation of generative models (Theis et al., 2016),
    https://arxiv.org/abs/1511.01844

    Args:
        log_px: Nats, shape ``(rows,)``.
        elements: Number of observed elements of each row, shape ``(rows,)``.
        variables: What was scored, by name; without it no offset can be known.

    Examples:
        >>> uniform = torch.full((4,), -64 * math.log(17.0))  # digits: 8×8 pixels of 17 levels
        >>> print(f"{bits_per_dimension(uniform, torch.full((4,), 64)).value:.4f}")  # log2(17)
        4.0875
    """
    seen = elements > 0
    offset, explanation = offset_of(variables)
    each = -log_px[seen] / (elements[seen] * math.log(2)) + offset
    return BitsPerDimension(
        float(each.mean()), stderr_of(each), float(elements.double().mean()), offset, explanation
    )


def offset_of(variables: Mapping[str, Variable] | None) -> tuple[float, str]:
    """Bits per element to add to the density, and why in words."""
    if not variables:
        return 0.0, (
            "No offset: what the values are is not recorded. Of integers these are the bits of "
            "their probability; of reals, of a density in the data's own units."
        )
    scored = [part for variable in variables.values() for part in (variable.parts or (variable,))]
    if all([part.is_whole for part in scored]):
        return 0.0, (
            "No offset: the values are whole numbers and the likelihood gives them probabilities, "
            "so these are the bits of a lossless code."
        )
    if all([part.dequantized or part.is_whole for part in scored]):
        widths = {(part.name, _levels_in_unit(part), part.elements) for part in scored}
        total = sum([count for _, _, count in widths])
        offset = sum([math.log2(levels) * count for _, levels, count in widths]) / total
        words = " and ".join(sorted({f"{levels:g}" for _, levels, _ in widths}))
        return offset, (
            f"Offset {offset:g} bits: uniform noise was added to whole numbers and the sum "
            f"divided by {words}, so log2 of that turns the density into a lower bound on the "
            f"probability of the whole numbers; the bits are an upper bound."
        )
    return 0.0, (
        "No offset: the likelihood is a density of reals in the data's own units. Its bits change "
        "with the unit, may be negative, and compare only models of the same values."
    )


def _levels_in_unit(variable: Variable) -> float:
    """How many levels of the whole numbers one unit of the stored values holds."""
    return float(variable.levels or 1) if variable.dequantized and variable.kind == "unit" else 1.0


def count_elements(
    model: LatentVariableModel, given: Mapping[str, Tensor], observed: tuple[str, ...]
) -> Tensor:
    """Number of observed elements of the scored names in each row, shape ``(rows,)``.

    What is missing (NaN) or lies beyond the length of a row is none; a one-hot vector is one.
    That an element is seen is no element, where p says that too.
    """
    counts = []
    for name in [each for each in observed if each in given]:
        value = given[name]
        known = ~torch.isnan(value) if value.is_floating_point() else torch.ones_like(value).bool()
        if getattr(owner_of(model.p, name), "one_hot", False):
            known = known.any(-1)
        joints = model.p.repetitions(name) if hasattr(model.p, "repetitions") else ()
        for axis, joint in enumerate(joints, start=1):
            sites = {
                n: Site(given[n], batch_dims=axis) for n in (joint.length, joint.end) if n in given
            }
            counted = joint.mask(sites, value.shape[axis])
            if counted is not None:
                known = known & counted.reshape(*counted.shape, *[1] * (known.dim() - axis - 1))
        counts.append(known.flatten(1).sum(1) if known.dim() > 1 else known.long())
    return torch.stack(counts).sum(0).cpu()
