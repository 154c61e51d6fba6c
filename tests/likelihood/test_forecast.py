"""Forecasts of sequences against the Kalman filter, whose predictions are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.inference import impute
from deeplvm.likelihood import forecast
from deeplvm.networks import GRU, MLP

A, Q, C, R = 0.8, 0.6, 1.5, 0.5


class Scaled(nn.Module):
    """N(sum of weight * parent, scale^2)."""

    event_shape = torch.Size((1,))

    def __init__(self, scale: float, *weights: float) -> None:
        super().__init__()
        self.weights, self.scale = weights, scale

    def forward(self, *parents: Tensor) -> Distribution:
        mean = sum([w * parent for w, parent in zip(self.weights, parents, strict=True)])
        assert isinstance(mean, Tensor)
        return Independent(Normal(mean, self.scale), 1)


def chain(*, inputs: bool = False) -> Recurrent:
    """z_t = 0.8 z_{t-1} (+ u_t) + 0.6 e, x_t = 1.5 z_t + 0.5 e."""
    step = {"z | z[-1], u": Scaled(Q, A, 1.0)} if inputs else {"z | z[-1]": Scaled(Q, A)}
    return Recurrent({**step, "x | z": Scaled(R, C)}, start={"z": 1}, length="n")


def posterior() -> Recurrent:
    """The exact p(z_t | z_{t-1}, x_t)."""
    variance = 1 / (1 / Q**2 + (C / R) ** 2)
    weights = variance * C / R**2, variance * A / Q**2
    step = {"z | x, z[-1]": Scaled(math.sqrt(variance), *weights)}
    return Recurrent(step, start={"z": 1}, length="n")


def predicted(x: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of x after the last step of one sequence, by the Kalman filter."""
    mean, variance = torch.tensor(0.0), torch.tensor(0.0)
    for value in x:
        mean, variance = A * mean, A**2 * variance + Q**2
        if not bool(value.isnan()):
            gain = variance * C / (C**2 * variance + R**2)
            mean, variance = mean + gain * (value - C * mean), variance * (1 - gain * C)
    found = []
    for _ in range(horizon):
        mean, variance = A * mean, A**2 * variance + Q**2
        found.append((C * mean, (C**2 * variance + R**2).sqrt()))
    means, scales = zip(*found, strict=True)
    return torch.stack(means), torch.stack(scales)


def simulated(rows: int, steps: int) -> Tensor:
    z, x = torch.zeros(rows), []
    for _ in range(steps):
        z = A * z + Q * torch.randn(rows)
        x.append(C * z + R * torch.randn(rows))
    return torch.stack(x, 1)


@pytest.mark.parametrize("guided", [True, False])
def test_quantiles_are_those_of_the_kalman_filter(guided: bool) -> None:
    """Rows of 1 to 9 steps, with a hole; a quantile is off by 0.07 deviations, about."""
    torch.manual_seed(0)
    x, n = simulated(6, 9), torch.tensor([9, 1, 4, 9, 6, 2])
    x[0, 7] = math.nan
    q = posterior() if guided else Joint({"z | x": StandardNormal(1)})
    model = LatentVariableModel(chain(), q)
    found = forecast(model, {"x": x[..., None], "n": n}, 4, particles=1_000)
    levels = torch.tensor(found.levels, dtype=torch.float64)
    for row, steps in enumerate(n.tolist()):
        mean, scale = predicted(x[row, :steps], 4)
        exact = mean + scale * torch.special.ndtri(levels)[:, None]
        # 144 quantiles in both cases: five deviations fail once in 10,000 suites
        error = (found.quantiles["x"][:, row, :, 0] - exact) / scale
        assert float(error.abs().max()) < 5 * 0.067
    assert found.ess.shape == (6,)


def test_intervals_cover_what_comes() -> None:
    """Of 200 rows nine tenths lie within, at each of 5 steps, up to four deviations of chance.

    A right forecast fails with probability 3e-4.
    """
    torch.manual_seed(1)
    x = simulated(200, 17)
    model = LatentVariableModel(chain(), posterior())
    rows = {"x": x[:, :12, None], "n": torch.full((200,), 12)}
    low, _, high = forecast(model, rows, 5, particles=200).quantiles["x"][..., 0]
    inside = ((x[:, 12:] >= low) & (x[:, 12:] <= high)).double().mean(0)
    assert float((inside - 0.9).abs().max()) < 4 * math.sqrt(0.09 / 200)


def test_padding_and_batches_change_no_forecast() -> None:
    torch.manual_seed(0)
    x, n = simulated(5, 7)[..., None], torch.tensor([7, 3, 5, 1, 2])
    cell = GRU(3, 4)
    p = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(4)),
            "x | z, h[-1]": Gaussian(1, MLP(6)),
            "h | x, z, h[-1]": cell,
        },
        start={"h": 4},
        length="n",
    )
    q = Recurrent(
        {"z | x, h[-1]": Gaussian(2, MLP(5)), "h | x, z, h[-1]": cell}, start={"h": 4}, length="n"
    )
    model = LatentVariableModel(p, q).double()
    whole = forecast(model, {"x": x.double(), "n": n}, 3, particles=20).quantiles["x"]
    some = {"x": x[[1, 4]].double()[:, :3], "n": n[[1, 4]]}
    assert forecast(model, some, 3, particles=20).quantiles["x"].allclose(whole[:, [1, 4]])


def test_known_inputs_move_the_future() -> None:
    torch.manual_seed(0)
    model = LatentVariableModel(chain(inputs=True), Joint({"z | x": StandardNormal(1)}))
    x, n = simulated(3, 5)[..., None], torch.tensor([5, 5, 2])
    rows, future = {"x": x, "n": n, "u": torch.zeros(3, 5, 1)}, torch.zeros(3, 2, 1)
    still = forecast(model, rows, 2, future={"u": future}, particles=50)
    moved = forecast(model, rows, 2, future={"u": future + 10.0}, particles=50)
    rise = (moved.quantiles["x"] - still.quantiles["x"])[..., 0].mean((0, 1))
    assert rise.allclose(torch.tensor([10 * C, 10 * C * (1 + A)]), atol=1e-3)
    with pytest.raises(ValueError, match=r"future={'u': ...}, of shape \(rows, horizon"):
        forecast(model, rows, 2)
    with pytest.raises(ValueError, match="there are 3 rows and 3 steps"):
        forecast(model, rows, 3, future={"u": future})


def test_what_is_no_forecast_is_refused() -> None:
    model = LatentVariableModel(Recurrent({"x | x[-1]": Scaled(1.0, 0.5)}, start={"x": 1}))
    with pytest.raises(ValueError, match="has no length"):
        forecast(model, {"x": torch.zeros(2, 3, 1)}, 2)
    known = Recurrent({"x | x[-1]": Scaled(1.0, 0.5)}, start={"x": 1}, length="n")
    rows = {"x": torch.tensor([[[0.0], [math.nan]]]), "n": torch.tensor([2])}
    with pytest.raises(ValueError, match="p reads them at later steps"):
        forecast(LatentVariableModel(known), rows, 2)
    with pytest.raises(ValueError, match="levels are between 0 and 1"):
        forecast(LatentVariableModel(known), rows, 2, levels=[5])
    with pytest.raises(ValueError, match="no 9 are drawn"):
        forecast(LatentVariableModel(known), rows, 2, particles=5, draws=9)


def test_holes_are_filled_by_both_sides() -> None:
    """E[x_m | x_o] of the joint Gaussian of a row's steps; five deviations of the particles."""
    torch.manual_seed(0)
    x, n = simulated(4, 6)[..., None], torch.tensor([6, 4, 6, 3])
    x[0, 2], x[1, 0], x[3, 1] = math.nan, math.nan, math.nan
    q = Recurrent({"z | x, z[-1]": Between()}, start={"z": 1}, length="n")
    found = impute(LatentVariableModel(chain(), q), {"x": x, "n": n}, particles=4_000, level=0.9)
    for row, hole in ((0, 2), (1, 0), (3, 1)):
        steps = int(n[row])
        past = torch.tensor([[Q**2 * A ** abs(s - t) for s in range(steps)] for t in range(steps)])
        age = torch.tensor([[sum(A ** (2 * i) for i in range(min(s, t) + 1)) for s in range(steps)]
                            for t in range(steps)])  # fmt: skip
        both = C**2 * past * age + R**2 * torch.eye(steps)
        seen = [t for t in range(steps) if t != hole]
        gain = torch.linalg.solve(both[seen][:, seen], both[seen, hole])
        mean, spread = gain @ x[row, seen, 0], (both[hole, hole] - gain @ both[seen, hole]).sqrt()
        error = float((found.values["x"][row, hole, 0] - mean) / spread)
        assert abs(error) < 5 / math.sqrt(float(found.ess[row]))
    assert not found.missing["x"][2].any()


class Between(nn.Module):
    """q(z_t | x_t, z_{t-1}): wide, and where x_t is missing (read as zero) no worse than p."""

    event_shape = torch.Size((1,))

    def forward(self, x: Tensor, z: Tensor) -> Distribution:
        mean = torch.where(x == 0, A * z, 0.75 * x / C + 0.25 * A * z)
        return Independent(Normal(mean, torch.where(x == 0, Q, 0.4)), 1)
