"""Residual networks of maps: sizes, joined parents, and layers that start from data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.flows import ActivationNormalisation, Flow
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import (
    MLP,
    DepthToSpace,
    Residual,
    ResidualNetwork,
    SpaceToDepth,
    WeightNormalisedConvolution,
)
from deeplvm.networks.data_dependent_initialisation import starting, waiting
from deeplvm.training import Optimization, fit


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (7, 7)])
def test_any_size_is_halved_and_doubled(size: tuple[int, int]) -> None:
    down = SpaceToDepth((2, *size), 4)
    up = DepthToSpace(4, (3, *size), activation=nn.ELU)
    image = torch.randn(5, 3, 2, *size)
    found = up(down(image))
    assert found.shape == (5, 3, 3, *size)
    torch.testing.assert_close(down(image.flatten(-3)), down(image))
    halved = ResidualNetwork([(4, *size)], (4, *down.out_shape[1:]))
    doubled = ResidualNetwork([(4, *down.out_shape[1:])], (4, *size))
    assert doubled(halved(torch.randn(3, 4, *size))).shape == (3, 4, *size)


def test_nothing_of_an_image_is_lost_where_it_is_halved() -> None:
    """Every pixel, the last ones of odd sizes too, moves the features."""
    down = SpaceToDepth((1, 5, 3), 6)
    jacobian = torch.autograd.functional.jacobian(down, torch.randn(1, 1, 5, 3))
    assert jacobian.abs().amax((0, 1, 2, 3, 4, 5)).all()


def test_the_first_map_is_carried_on_and_the_others_are_projected() -> None:
    one, two = torch.randn(3, 4, 2, 2), torch.randn(6, 3, 5, 2, 2)
    network = ResidualNetwork([(4, 2, 2), (5, 2, 2)], (4, 2, 2), blocks=0)
    weight, bias = network.joined[1].weight, network.joined[1].bias
    projected = torch.einsum("oi,pbihw->pbohw", weight[..., 0, 0], two) + bias[:, None, None]
    torch.testing.assert_close(network(one, two), one + projected)


def test_a_gated_block() -> None:
    block = Residual(3, nn.ELU, gated=True, scale=0.5)
    features = torch.randn(2, 3, 4, 4)
    u, v = block.layers[:5](features).chunk(2, 1)
    torch.testing.assert_close(block(features), features + 0.5 * u * v.sigmoid())


def test_maps_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="joins maps of one size, found"):
        ResidualNetwork([(4, 2, 2), (4, 3, 2)], (4, 2, 2))
    with pytest.raises(ValueError, match=r"\(2, 2\) to \(7, 7\) is none of these"):
        ResidualNetwork([(4, 2, 2)], (4, 7, 7))
    with pytest.raises(ValueError, match=r"expects maps of the shapes \[\(4, 2, 2\)\], found"):
        ResidualNetwork([(4, 2, 2)], (4, 4, 4))(torch.zeros(3, 4, 3, 3))


def test_one_graph_and_every_parameter() -> None:
    network = ResidualNetwork([(4, 3, 2), (2, 3, 2)], (4, 5, 4))
    parents = torch.randn(3, 4, 3, 2), torch.randn(2, 3, 2, 3, 2)
    torch._dynamo.reset()
    traced = torch.compile(network, fullgraph=True, backend="eager")(*parents)
    torch.testing.assert_close(traced, network(*parents))
    traced.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def weight_normalised() -> ResidualNetwork:
    return ResidualNetwork(
        [(3, 4, 4)], (6, 4, 4), blocks=2, scale=0.1, convolution=WeightNormalisedConvolution
    )


def seen_by(network: nn.Module, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    layers = [m for m in network.modules() if isinstance(m, WeightNormalisedConvolution)]
    hooks = [m.register_forward_hook(lambda _, __, made: found.append(made)) for m in layers]
    network(x)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(layers)
    return found


def test_the_first_batch_gives_every_layer_mean_0_and_variance_1() -> None:
    network, x = weight_normalised(), 5 + 3 * torch.randn(200, 3, 4, 4)
    assert len(waiting(network)) == 7
    with starting(network):
        network(x)
    for each in seen_by(network, x):
        std, mean = torch.std_mean(each, (0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
        torch.testing.assert_close(std, torch.ones_like(std))
    assert not waiting(network)


def test_fit_starts_from_data_once() -> None:
    """Before the first step, in p and in q; a model that is fitted again goes on."""
    body = nn.Sequential(weight_normalised(), nn.Flatten())
    body.out_features = 6 * 16  # type: ignore[assignment]
    flow = Flow(2, transforms=[ActivationNormalisation(2)])
    p = Joint({"z": flow, "x | z": Gaussian((3, 4, 4), MLP(2, 8))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, body)}))
    x = 5 + 3 * torch.randn(40, 3, 4, 4)
    still = Optimization(learning_rate=1e-12, averaging=0.0)
    fit(model, {"x": x}, epochs=1, optimization=still, quiet=True)
    for each in seen_by(body, x):
        torch.testing.assert_close(each.std((0, 2, 3), correction=0), torch.ones(each.shape[1]))
    kept = [p.detach().clone() for p in model.parameters()]
    assert flow.transforms[0].log_scale.abs().max() > 1e-6  # type: ignore[index]
    fit(model, {"x": 10 * x}, epochs=1, optimization=still, quiet=True)
    torch.testing.assert_close(kept, list(model.parameters()), rtol=0, atol=1e-10)
