"""Networks over all steps: in one pass what they are step by step, and causal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.core.joint import NotationError
from deeplvm.likelihood import particle_filter
from deeplvm.networks import (
    GRU,
    MLP,
    ConvolutionalSequenceEncoder,
    DilatedConvolutions,
    SequenceDeconvolutions,
)

NETWORKS: dict[str, Callable[[int], Any]] = {
    "dilated": lambda width: DilatedConvolutions(width, 8, dilations=(1, 3)),
    "deconvolutions": lambda width: SequenceDeconvolutions(2, 7, (4, 4), 8),
    "dilated, kernel 2": lambda width: DilatedConvolutions(width, 8, dilations=(2,), kernel=2),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_one_pass_is_step_after_step(make: Callable[[int], Any]) -> None:
    network, memory = make(5), {}
    x, z = torch.randn(4, 9, 3), torch.randn(2, 4, 1, 2)
    whole = network(x, z)
    steps = [network.next_step(memory, x[:, t], z[:, :, 0]) for t in range(9)]
    assert whole.shape == (2, 4, 9, 8)
    torch.testing.assert_close(torch.stack(steps, -2), whole)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_draw_is_scored_as_it_was_drawn(make: Callable[[int], Any]) -> None:
    """With tokens that the network sees by a table, and an end that the model draws."""
    network = make(6)
    words = Recurrent(
        {"h | x[-1], z": network, "x | h": Categorical(7, nn.Linear(8, 8), features=4)},
        start={"x": torch.tensor(0)}, outside=["z"], length="n", end={"x": 0}, repeats=12,
    )  # fmt: skip
    model = LatentVariableModel(Joint({"z": StandardNormal(2), "x, n, h | z": words}))
    drawn = model.sample(20)
    given = {name: drawn[name].value for name in ("x", "z")}
    again = model.evidence(given).p
    torch.testing.assert_close(again["x"].log_prob, drawn["x"].log_prob)
    torch.testing.assert_close(again["h"].value, drawn["h"].value)
    assert len(drawn["n"].value.unique()) > 1


def test_the_receptive_field_is_what_has_a_derivative() -> None:
    network = DilatedConvolutions(1, 8, dilations=(1, 2, 4))
    assert network.receptive_field == 15
    slope = jacobian(lambda x: network(x)[0, 20, 0], torch.randn(1, 25, 1))[0, :, 0]
    assert bool((slope[6:21] != 0).all())
    assert not bool(slope[:6].any() | slope[21:].any())


class Total(nn.Module):
    """The sum of what there was: over all steps, and as a cell with its state."""

    out_features = 2

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        return x.cumsum(-2) if before is None else x + before


class TotalOverSteps(Total):
    def next_step(self, memory: dict[str, Tensor], x: Tensor) -> Tensor:
        memory["sum"] = memory.get("sum", 0) + x
        return memory["sum"]


def test_deconvolutions_read_nothing_of_the_steps() -> None:
    network = SequenceDeconvolutions(2, 7, (4, 4), 3)
    steps, z = torch.randn(1, 9, 3), torch.randn(1, 1, 2)
    assert not bool(jacobian(lambda x: network(x, z), steps).any())
    slope = jacobian(lambda z: network(steps, z)[0, :, 0], z).flatten(1)
    assert network.longest == 8
    assert bool((slope[:8] != 0).any(1).all())
    assert not bool(slope[8].any())


def test_a_text_is_read_to_its_end() -> None:
    network = ConvolutionalSequenceEncoder(3, 8, (4,), 2)
    x, n = torch.randn(5, 10, 3), torch.tensor([4, 10, 1, 8, 9])
    slope = jacobian(lambda x: network(x, n).sum(0)[0], x).ne(0).any(-1)
    torch.testing.assert_close(slope, torch.arange(10) < n.clamp(max=8)[:, None])


def test_particles_that_are_resampled_take_their_memory_along() -> None:
    """As the state of a cell, which is remembered by name."""
    z, likelihood = Gaussian(2, MLP(2)), Bernoulli(3, MLP(2))
    x = (torch.rand(5, 6, 3) > 0.5).double()

    def log_px(key: str, state: nn.Module, start: dict[str, int]) -> Tensor:
        p = Recurrent({"z | h": z, "x | z": likelihood, key: state}, start=start)
        model = LatentVariableModel(p)
        return particle_filter(model, {"x": x}, 20, proposal="prior", resample_below=1.0).log_px

    over = log_px("h | z[-1]", TotalOverSteps(), {"z": 2})
    torch.testing.assert_close(over, log_px("h | z[-1], h[-1]", Total(), {"z": 2, "h": 2}))


def test_a_network_over_steps_goes_forwards() -> None:
    with pytest.raises(NotationError, match="runs backwards, and a network over its steps"):
        Recurrent({"h | u": DilatedConvolutions(3, 4), "a | h, a[+1]": GRU(4, 2)}, start={"a": 2})


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dilations=\(1, 0\)"):
        DilatedConvolutions(3, 8, dilations=(1, 0))
