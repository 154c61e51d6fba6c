"""A number that is not finite stops training and is traced to its cause; good weights stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from deeplvm.conditionals import StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.training import NonFiniteError
from deeplvm.training.checkpoint import load_checkpoint
from training_models import Linear, OnEpoch, gaussian_rows, linear_gaussian, quietly, same, weights


class Breaks(Linear):
    """Returns NaN after so many calls, for rows whose first value is above a bound."""

    def __init__(self, inputs: int, outputs: int, calls: int, bound: float = -1e9) -> None:
        super().__init__(inputs, outputs)
        self.calls, self.bound = calls, bound

    def forward(self, parent):
        distribution = super().forward(parent)
        if self.training:
            self.calls -= 1
        if self.calls >= 0 or not self.training:
            return distribution
        bad = (parent[..., :1] > self.bound).expand_as(distribution.mean)
        mean = torch.where(bad, torch.nan, distribution.mean)
        return Independent(Normal(mean, distribution.stddev, validate_args=False), 1)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_data_name_the_rows(value):
    x = gaussian_rows(40)
    x[17, 1] = x[23, 0] = value
    with pytest.raises(NonFiniteError, match=r"'x' has NaN or an infinite value in row") as caught:
        quietly(linear_gaussian(), {"x": x}, missing=(), batch_size=40)
    error = caught.value
    assert (error.name, error.epoch, error.split) == ("x", 1, "train")
    assert sorted(error.rows) == [17, 23]


def test_held_out_data_name_the_rows():
    valid = gaussian_rows(9)
    valid[4] = torch.inf
    with pytest.raises(
        NonFiniteError, match=r"'x' has .* in row 4 of the held-out data"
    ) as caught:
        quietly(linear_gaussian(), {"x": gaussian_rows()}, valid={"x": valid})
    assert caught.value.split == "valid"


def test_missing_is_no_error_but_infinite_is():
    x = gaussian_rows(10)
    x[2, 0], x[7, 1] = torch.nan, torch.inf
    with pytest.raises(NonFiniteError, match="'x' has an infinite value in row 7") as caught:
        quietly(linear_gaussian(), {"x": x})
    assert caught.value.rows == (7,)


def test_decoder_is_named(tmp_path):
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Breaks(2, 3, calls=7)})
    model = LatentVariableModel(p, Joint({"z | x": Linear(3, 2)}))
    seen = []
    with pytest.raises(
        NonFiniteError, match=r"log-density of 'x' is NaN.*epoch 4.*p\(x \| z\)"
    ) as caught:
        quietly(
            model,
            {"x": gaussian_rows(20)},
            batch_size=10,
            epochs=9,
            folder=tmp_path,
            checkpoint_every=1,
            callbacks=[OnEpoch(lambda record: seen.append(weights(model)))],
        )
    assert (caught.value.name, caught.value.epoch) == ("x", 4)
    assert len(caught.value.rows) == 10
    assert "\n" not in str(caught.value)
    assert same(weights(model), seen[-1])  # the last good state
    state, _ = load_checkpoint(tmp_path / "checkpoint" / "state.safetensors")
    assert state["epoch"] == 3


def test_encoder_is_named_with_its_rows():
    x = gaussian_rows(30)
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Linear(2, 3)})
    model = LatentVariableModel(p, Joint({"z | x": Breaks(3, 2, calls=0, bound=1.0)}))
    with pytest.raises(NonFiniteError, match=r"log-density of 'z'.*q\(z \| x\)") as caught:
        quietly(model, {"x": x}, batch_size=30, particles=3)
    assert sorted(caught.value.rows) == torch.nonzero(x[:, 0] > 1.0).flatten().tolist()


def test_parameters_that_overflowed_are_named():
    x = 100 * gaussian_rows(40)
    with pytest.raises(
        NonFiniteError, match=r"parameters of '[xz]' became NaN or infinite.*clip=1.0"
    ):
        quietly(
            linear_gaussian(),
            {"x": x},
            epochs=50,
            batch_size=8,
            optimizer=torch.optim.SGD,
            learning_rate=1e308,
        )


def test_log_prior_is_suspected_when_nothing_else_is():
    with pytest.raises(NonFiniteError, match="look at the objective and the log-prior"):
        quietly(
            linear_gaussian(),
            {"x": gaussian_rows(5)},
            log_prior=lambda model: torch.tensor(torch.inf),
        )


def test_weights_before_the_first_epoch_are_kept():
    x = gaussian_rows(10)
    x[0, 0] = torch.inf
    model = linear_gaussian()
    before = weights(model)
    with pytest.raises(NonFiniteError):
        quietly(model, {"x": x}, batch_size=2)
    assert same(before, weights(model))


def test_unnamed_modules_have_a_name_too():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(torch.nan))

        def forward(self):
            return Independent(Normal(self.scale.expand(3), 1.0, validate_args=False), 1)

    model = LatentVariableModel(Joint({"x": Both()}))
    with pytest.raises(NonFiniteError, match="parameters of 'x'"):
        quietly(model, {"x": gaussian_rows(5)})
