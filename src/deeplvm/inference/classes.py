"""Classes of rows: probabilities of each label by the encoder, and by the model itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Draw, Enumerated
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import base_of
from deeplvm.core.values import NamedRows
from deeplvm.inference.missing import Weights
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, rows_of
from deeplvm.randomness import RowNoise

_NUMBERS = 4_000_000  # of log-weights and the values they are of, at a time


@dataclass(frozen=True, eq=False)
class ClassProbabilities:
    r"""How probable each label is in each row, whatever label the row has.

    Attributes:
        encoder: :math:`q(y | x)`, shape ``(rows, classes)``; where q does not draw the label, the
            mean of :math:`p(y | z)` over :math:`q(z | x)`.
        model: :math:`p(y | x)`, by importance weights, the same shape.
        ess: Effective number of the particles behind ``model``, shape ``(rows,)``.
    """

    encoder: Tensor
    model: Tensor
    ess: Tensor


def has_classes(model: LatentVariableModel, label: str = "y") -> bool:
    """Whether a model says how probable labels are: p scores them."""
    return label in model.p.names


def class_probabilities(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    particles: int = 100,
    label: str = "y",
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> ClassProbabilities:
    r"""Probabilities of the labels of rows, by q and by p.

    .. math:: p(y | x) \propto \sum_k \frac{p(x, y, z_k)}{q(z_k | x, y)}, \quad
              z_k \sim q(z | x, y)

    Every label is tried in every row, with particles of its own where q draws z given y. Labels
    that the data have are not read.

    Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
    https://arxiv.org/abs/1406.5298

    Args:
        model: Left as it was.
        data: Rows: ``data.test``, or named tensors ``(rows, *event)``.
        particles: Draws of each row.
        label: The label's name.
        draw: How other latents are drawn.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If p does not score the label.

    >>> from deeplvm import Joint
    >>> from deeplvm.conditionals import Categorical, Gaussian
    >>> from torch import nn
    >>> p = Joint({"y": Categorical(2), "x | y": Gaussian(1, nn.Linear(2, 1), scale=1.0)})
    >>> model = LatentVariableModel(p, Joint({"y | x": Categorical(2, nn.Linear(1, 2))}))
    >>> found = class_probabilities(model, {"x": torch.tensor([[0.3], [9.0]])}, particles=1)
    >>> exact = [p["x"](one).log_prob(torch.tensor([[0.3], [9.0]])) for one in torch.eye(2)]
    >>> torch.allclose(found.model, torch.stack(exact, 1).softmax(1).double())
    True
    """
    at_least(1, particles=particles)
    if not has_classes(model, label):
        raise ValueError(
            f"This model says nothing of {label!r}, so there are no probabilities of its classes: "
            f"it is {model.factorisation}."
        )
    ways = {**(draw or {}), **({label: Enumerated()} if label in model.q.names else {})}
    rows = rows_of(model, data, omit=(label,))
    size = max(1, min(500, _NUMBERS // (100 * particles)))

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        count = model.rows(given)
        unknown = torch.full((count,), math.nan, dtype=rows.dtype, device=rows.device)
        evidence = model.evidence(
            given | {label: unknown}, particles=particles, missing=missing | {label},
            rows=rows.data_rows, draw=noise.draws(model.q.names, ways),
        )  # fmt: skip
        weights, shape = Weights.of(evidence), evidence.batch_shape
        prior = torch.as_tensor(evidence.log_measure).to(weights.log)
        prior = prior.expand(shape).flatten(0, -2).log_softmax(0).exp()  # (N, batch)
        site: Any = evidence.p[label]
        values = base_of(site.distribution).enumerate_support(expand=False).flatten()
        if label in evidence.latents:
            own = evidence.q[label].value.expand(shape).flatten(0, -2)
            of = (own.unsqueeze(-1) == values).to(weights.log)  # (N, batch, classes)
        else:
            each = [site.distribution.log_prob(value.expand(count)) for value in values]
            of = torch.stack([one.expand(shape).flatten(0, -2) for one in each], -1).exp()
        return {
            "encoder": (prior.unsqueeze(-1) * of).sum(0).double(),
            "model": (weights.value.unsqueeze(-1) * of).sum(0).double(),
            "ess": weights.ess,
        }

    found = for_rows(model, rows, measure, batch_size=size, seed=seed, finite=())
    return ClassProbabilities(**{name: value.cpu() for name, value in found.items()})
