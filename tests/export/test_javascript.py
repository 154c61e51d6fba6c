"""A module as JavaScript gives what PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deeplvm.export.javascript import (
    POINTWISE,
    ScriptError,
    carried_out,
    engine,
    javascript,
    runtime,
)

needs_engine = pytest.mark.skipif(engine() is None, reason="needs node or Chromium")


@pytest.fixture(autouse=True)
def float32(float64: None) -> None:
    """Weights of models that are used are in single precision."""
    torch.set_default_dtype(torch.float32)


class Of(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


def indexed(x: Tensor, y: Tensor) -> Tensor:
    """Views, places, sums: what has no network in it."""
    i = x.argmax(-1, keepdim=True)
    grid = x[:, :, None] * y.t()[None, :, :3] + x.flip(1)[:, :, None]
    picked = torch.cat(
        [x.gather(1, i), nn.functional.embedding(i[:, 0], y)[:, :2], grid.amax(1)], 1
    )
    padded = nn.functional.pad(x, (2, 1), value=7.0)
    padded[:, 1:3] = y[:1, :2]
    padded[padded > 6] = x[0, 0]
    steps = torch.linspace(-1, 1, 4).repeat(4, 1)
    found = torch.searchsorted(steps, y.t().contiguous(), right=True).flatten()[None] + 0.5
    summed = grid.permute(2, 0, 1)[1:].cumsum(-1).softmax(-1).flatten()[None]
    return torch.cat(
        [picked, summed, x[:, [3, 1, 1]], padded, found, grid.var(1), grid.mean((0, 1))[None]], 1
    )


MODULES: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {
    "perceptron": (
        nn.Sequential(nn.Linear(3, 40), nn.ELU(), nn.Linear(40, 9), nn.Softplus()),
        [(1, 3)],
    ),
    "convolutions": (
        nn.Sequential(
            nn.Unflatten(1, (4, 3, 3)), nn.GroupNorm(2, 4), nn.SiLU(),
            nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), nn.BatchNorm2d(6),
            nn.GELU(), nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3, padding=1, groups=2),
            nn.LeakyReLU(), nn.Conv2d(4, 2, 3, stride=2, padding=2, dilation=2), nn.LayerNorm(6),
        ),
        [(1, 36)],
    ),
    "lines": (
        nn.Sequential(nn.ConvTranspose1d(2, 4, 3, 2, 1), nn.Conv1d(4, 3, 3, stride=2), nn.Tanh()),
        [(1, 2, 5)],
    ),
    "a norm": (Of(lambda x: nn.functional.normalize(x, dim=-1)), [(1, 5)]),
    "places": (Of(indexed), [(1, 4), (5, 4)]),
}  # fmt: skip


@needs_engine
@pytest.mark.parametrize("name", MODULES)
def test_a_script_gives_what_the_module_gives(name: str) -> None:
    module, shapes = MODULES[name]
    torch.manual_seed(0)
    rows = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    script = javascript(module, rows[0], half=False)
    assert script.inputs == tuple([value.numel() for value in rows[0]])
    found = carried_out(script, rows)
    for row, (values,) in zip(rows, found, strict=True):
        with torch.no_grad():
            expected = module.eval()(*row).flatten().double()
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@needs_engine
def test_every_pointwise_operation_is_that_of_torch() -> None:
    aten = torch.ops.aten
    whole = {"bitwise_and", "bitwise_or", "bitwise_not"}
    left = {"where", "clamp", "leaky_relu", "clone", "_to_copy", "copy", "convert_element_type"}

    def everything(x: Tensor, y: Tensor) -> Tensor:
        found = [
            torch.where(x > y, x, 2 * y),
            torch.sub(x, y, alpha=-2),
            x.clamp(-0.5),
            (4 * x).round(),
            x.to(torch.int32),
        ]
        for name, form in POINTWISE.items():
            if name in left:
                continue
            a, b = (x, y) if name not in whole else (x > 0, y > 0)
            positive = name in ("log", "log1p", "log2", "sqrt", "rsqrt", "pow")
            a = a.abs() + 0.1 if positive else a
            found.append(getattr(aten, name)(*((a, b) if "b" in form.replace("Number", "")
                                               .replace("abs", "") else (a,))))  # fmt: skip
        return torch.cat([each.to(torch.float32) for each in found], 1)

    torch.manual_seed(0)
    rows = [[2 * torch.randn(1, 6), 2 * torch.randn(1, 6)] for _ in range(3)]
    rows[0][0][0, :3] = rows[0][1][0, :3]  # equal, so that < and <= differ
    script = javascript(Of(everything), rows[0])
    for row, (values,) in zip(rows, carried_out(script, rows), strict=True):
        expected = everything(*row).flatten().double()
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)


def test_weights_are_in_half_precision_where_there_are_many() -> None:
    module = nn.Linear(100, 100)
    script = javascript(module, [torch.zeros(1, 100)])
    assert len(script.weights) == 2 * 100 * 100 + 4 * 100
    assert len(javascript(module, [torch.zeros(1, 100)], half=False).weights) == 4 * 10_100


def test_the_runtime_is_small() -> None:
    assert len(runtime()) < 8_000


@pytest.mark.parametrize(
    "function, said",
    [
        (lambda x: x + torch.randn(1, 2), "draws at random"),
        (lambda x: x if bool(x.sum() > 0) else -x, "makes no graph"),
        (lambda x: torch.linalg.inv(x.t() @ x), "has no form in JavaScript"),
    ],
)
def test_what_has_no_script_is_refused(function: Callable[..., Tensor], said: str) -> None:
    with pytest.raises(ScriptError, match=said):
        javascript(Of(function), [torch.ones(1, 2)])
