"""Probabilities of labels against sums over all values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deeplvm import Enumerated, Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian
from deeplvm.inference import class_probabilities
from deeplvm.networks import MLP

EVERY = {"z": Enumerated()}


def drawn_first() -> LatentVariableModel:
    """As model M2, with a code of two values."""
    p = Joint({"y": Categorical(3), "z": Categorical(2), "x | y, z": Gaussian(2, MLP(5, 4))})
    return LatentVariableModel(
        p, Joint({"y | x": Categorical(3, MLP(2, 4)), "z | x, y": Categorical(2, MLP(5, 4))})
    )


def drawn_last() -> LatentVariableModel:
    """As the auxiliary model: q draws the code first."""
    p = Joint({"y": Categorical(3), "z | y": Categorical(2, MLP(3)), "x | z": Gaussian(2, MLP(2))})
    return LatentVariableModel(
        p, Joint({"z | x": Categorical(2, MLP(2, 4)), "y | x, z": Categorical(3, MLP(4, 4))})
    )


def not_drawn() -> LatentVariableModel:
    """As model M1: p alone has the label, at the end."""
    p = Joint({"z": Categorical(2), "x | z": Gaussian(2, MLP(2)), "y | z": Categorical(3, MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": Categorical(2, MLP(2, 4))}))


def each(model: LatentVariableModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, y, z) and log q(y, z | x) of every label and code, ``(rows, classes, codes)``."""
    p, q = torch.zeros(len(x), 3, 2), torch.zeros(len(x), 3, 2)
    for y in range(3):
        for z in range(2):
            values = {"x": x, "y": torch.full((len(x),), y), "z": torch.full((len(x),), z)}
            p[:, y, z] = sum([s.log_prob for s in model.p(values, (len(x),)).values()])
            known = {name: values[name] for name in ("x", *model.q.names)}
            q[:, y, z] = sum([s.log_prob for s in model.q(known, (len(x),)).values()])
    return p, q


@pytest.mark.parametrize("make", [drawn_first, drawn_last, not_drawn])
def test_by_enumeration(make: Callable[[], LatentVariableModel]) -> None:
    model, x = make().double(), torch.randn(7, 2).double()
    with torch.no_grad():
        joint, posterior = each(model, x)
        labelled = {"x": x, "y": torch.zeros(7)}  # labels that are there are not read
        found = class_probabilities(model, labelled, particles=1, draw=EVERY)
        encoder = posterior.exp().sum(2)
        if make is not_drawn:
            given = model.p["y"](torch.eye(2)).log_prob
            values = torch.stack([given(torch.full((2,), y)) for y in range(3)]).exp()
            encoder = posterior[:, 0].exp() @ values.T
    torch.testing.assert_close(found.model, joint.logsumexp(2).softmax(1))
    torch.testing.assert_close(found.encoder, encoder)


def test_a_model_without_labels_says_so() -> None:
    model = LatentVariableModel(Joint({"x": Gaussian(2)}))
    with pytest.raises(ValueError, match="says nothing of 'y'"):
        class_probabilities(model, {"x": torch.zeros(3, 2)})
