"""Networks over whole sequences: lengths, directions, and what they cost to be traced."""

from __future__ import annotations

import pytest
import torch

from deeplvm.networks import GRU, Combiner, LocallyLinear, SequenceEncoder
from deeplvm.recurrent import Recurrent


def encoder(direction: str, **options: bool) -> SequenceEncoder:
    torch.manual_seed(0)
    return SequenceEncoder(3, 4, direction=direction, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_one_pass_equals_a_cell_that_is_unrolled(direction: str) -> None:
    network = encoder(direction)
    cell = GRU(3, 4).double()
    cell.load_state_dict(network.passes[f"{direction}s"].state_dict())
    lag = "-1" if direction == "forward" else "+1"
    unrolled = Recurrent({f"a | x, a[{lag}]": cell}, start={"a": 4}, length="n")
    x, n = torch.randn(5, 6, 3).double(), torch.tensor([6, 1, 3, 5, 2])
    torch.testing.assert_close(network(x, n), unrolled({"x": x, "n": n})["a"].value)


def test_both_directions_stand_side_by_side_and_particles_are_rows() -> None:
    network = encoder("both")
    x, n = torch.randn(2, 5, 6, 3).double(), torch.tensor([6, 1, 3, 5, 2])
    codes = network(x[..., :2], x[..., 2:], n)
    assert codes.shape == (2, 5, 6, 8)
    torch.testing.assert_close(codes[1], network(x[1], n))
    for direction, part in zip(("forwards", "backwards"), codes.chunk(2, -1), strict=True):
        one = encoder(direction.removesuffix("s"))
        one.passes[direction].load_state_dict(network.passes[direction].state_dict())
        torch.testing.assert_close(one(x, n), part)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_what_lies_beyond_the_end_changes_no_code_and_has_no_gradient(direction: str) -> None:
    network = encoder(direction)
    x, n = torch.randn(4, 6, 3).double(), torch.tensor([6, 1, 3, 4])
    beyond = torch.arange(6) >= n[:, None]
    other = torch.where(beyond[..., None], 1e3, x).requires_grad_()
    codes = network(other, n)
    torch.testing.assert_close(codes, network(x, n))
    assert not codes[beyond].any()
    (gradient,) = torch.autograd.grad(codes.square().sum(), other)
    assert not gradient[beyond].any()
    assert gradient[~beyond].all()
    longer = torch.nn.functional.pad(x, (0, 0, 0, 3))
    torch.testing.assert_close(network(longer, n)[:, :6], codes)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(x[order], n[order]), codes[order])
    whole = encoder(direction, lengths=False)(x)
    torch.testing.assert_close(whole, network(x, torch.full((4,), 6)))


@pytest.mark.parametrize("direction, reads", [("forward", (0, 1, 2)), ("backward", (2, 3))])
def test_a_code_knows_the_steps_of_its_direction(direction: str, reads: tuple[int, ...]) -> None:
    x = torch.randn(1, 4, 3).double().requires_grad_()
    code = encoder(direction)(x, torch.tensor([4]))[0, 2]
    (gradient,) = torch.autograd.grad(code.sum(), x)
    assert tuple(gradient[0].any(-1).nonzero().flatten().tolist()) == reads


def test_one_pass_is_traced() -> None:
    network = encoder("both")
    x, n = torch.randn(4, 6, 3).double(), torch.tensor([6, 1, 3, 4])
    traced = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x, n), network(x, n))


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="'forward', 'backward' or 'both', not 'left'"):
        encoder("left")


def test_a_combiner_is_the_mean_of_a_state_and_codes() -> None:
    combine = Combiner(2, 3, codes=2)
    z, codes = torch.randn(5, 8, 2), torch.randn(8, 6)
    expected = (combine.state(z).tanh() + codes[:, :3] + codes[:, 3:]) / 3
    torch.testing.assert_close(combine(z, codes), expected)


def test_a_locally_linear_state_is_moved_by_maps_that_its_place_weighs() -> None:
    torch.manual_seed(0)
    moved = LocallyLinear(2, 1, 4, maps=3)
    z, u = torch.randn(5, 2), torch.randn(5, 1)
    given = torch.cat([z, u], -1)
    weights = moved.weigh(given).softmax(-1)
    each = torch.stack([given @ one.T for one in moved.maps], -2)
    torch.testing.assert_close(moved(z, u), (weights[..., None] * each).sum(-2))
    torch.testing.assert_close(LocallyLinear(2, 1, 4, maps=1)(0 * z, 0 * u), 0 * z)
