"""What is counted in bits per dimension: the code length of the same values is the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from deeplvm.conditionals import Bernoulli, Categorical, OneHot
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.evaluation import evaluate
from deeplvm.recurrent import Plate, Recurrent


def bits(model: LatentVariableModel, given: dict[str, Tensor]) -> float:
    found = evaluate(model, given, particles=2).bits_per_dim
    assert found is not None
    return found


@pytest.mark.parametrize("values", ["binary", "categories"])
def test_padding_is_no_data(values: str) -> None:
    """Rows of unequal length cost what each costs by itself, divided by its own elements."""
    torch.manual_seed(0)
    likelihood: nn.Module = Bernoulli(3) if values == "binary" else Categorical(4)
    with torch.no_grad():
        for weight in likelihood.parameters():
            weight.normal_()
    model = LatentVariableModel(Plate({"x": likelihood}, length="n"))
    n = torch.tensor([1, 2, 5, 3])
    x = (torch.rand(4, 5, 3) > 0.5).double() if values == "binary" else torch.randint(4, (4, 5))
    each = [
        -float(likelihood().log_prob(x[row, :steps]).sum().detach()) / (steps * (x[0, 0].numel()))
        for row, steps in enumerate(n.tolist())
    ]
    expected = sum(each) / 4 / math.log(2)
    assert bits(model, {"x": x, "n": n}) == pytest.approx(expected, abs=1e-9)
    inside = LatentVariableModel(
        Recurrent({"x": Plate({"x": likelihood}, length="n")}, start={}, repeats=1)
    )
    nested = {"x": x.unsqueeze(1), "n": n.unsqueeze(1)}
    assert bits(inside, nested) == pytest.approx(expected, abs=1e-9)


def test_one_hot_values_cost_what_their_numbers_cost() -> None:
    """A vector of K elements with a single 1 is one category, and says no more than its index."""
    torch.manual_seed(0)
    y = torch.randint(5, (30, 3))
    index, vector = Categorical(5, shape=3), OneHot(5, shape=3)
    with torch.no_grad():
        index.head.free.normal_()
    vector.load_state_dict(index.state_dict())
    numbers, vectors = [LatentVariableModel(Joint({"y": each})) for each in (index, vector)]
    found = bits(vectors, {"y": torch.eye(5)[y]})
    assert found == pytest.approx(bits(numbers, {"y": y}), abs=1e-9)
    assert 1.0 < found < 6.0
