"""Networks: shapes, joined parents, any size of image, and what their errors say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeplvm.networks import (
    MLP,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    Features,
    fold_particles,
    glorot,
)


def test_parents_of_unequal_leading_shapes_are_joined() -> None:
    network = MLP(5, 7)
    label, latent = torch.randn(3, 2), torch.randn(4, 3, 3)
    found = network(label, latent)
    by_hand = network(torch.cat([label.expand(4, 3, 2), latent], -1))
    assert found.shape == (4, 3, 7)
    torch.testing.assert_close(found, by_hand)


def test_a_network_without_hidden_layers_is_the_identity() -> None:
    network = MLP(3)
    x = torch.randn(2, 3)
    assert network.out_features == 3
    assert not list(network.parameters())
    assert torch.equal(network(x), x)


def test_integers_are_converted() -> None:
    pixels = torch.randint(0, 2, (4, 6), dtype=torch.uint8)
    network = MLP(6, 3)
    assert torch.equal(network(pixels), network(pixels.double()))


def test_an_image_is_flattened() -> None:
    image = torch.randn(4, 2, 1, 5, 5)
    network = MLP((1, 5, 5), 3)
    assert torch.equal(network(image), network.layers(image.flatten(-3)))
    with pytest.raises(ValueError, match=r"one parent of event shape \(1, 5, 5\)"):
        network(torch.randn(4, 25))


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sum to 5 features, found shapes .*one-hot"):
        MLP(5, 7)(torch.randn(3, 4))
    with pytest.raises(ValueError, match="sum to 5 features"):
        MLP(5, 7)(torch.randn(3, 4), torch.tensor([1, 2, 0]))
    with pytest.raises(ValueError, match="found none"):
        MLP(5, 7)()


def test_leading_shapes_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot broadcast the leading dimensions"):
        MLP(5, 7)(torch.randn(3, 2), torch.randn(4, 3))


def test_widths_are_positive() -> None:
    with pytest.raises(ValueError, match="widths of at least 1"):
        MLP(5, 0)


def test_glorot_bounds_the_weights_and_zeroes_the_biases() -> None:
    from deeplvm.conditionals import Bernoulli

    likelihood = Bernoulli(30, MLP(10, 20, activation=nn.Tanh, initialization=glorot))
    for layer in likelihood.modules():
        if isinstance(layer, nn.Linear):
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert layer.weight.abs().max() <= bound
            assert not layer.bias.any()


@pytest.mark.parametrize("size", [(28, 28), (17, 30), (1, 1), (8, 8), (5, 2)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size(size: tuple[int, int], channels: int) -> None:
    shape = (channels, *size)
    encoder = ConvolutionalEncoder(shape, channels=(4, 6), features=9)
    decoder = ConvolutionalDecoder(9, shape, channels=(4, 6), features=5)
    image = torch.rand(2, 3, *shape)
    code = encoder(image)
    assert code.shape == (2, 3, 9)
    assert decoder(code).shape == (2, 3, 5, *size)
    torch.testing.assert_close(encoder(image.flatten(-3)), code)
    torch.testing.assert_close(encoder(image[0]), code[0])
    torch.testing.assert_close(encoder(image[0, 0]), code[0, 0])


def test_a_convolutional_encoder_takes_a_label() -> None:
    encoder = ConvolutionalEncoder((7, 7), channels=(4,), features=9, context=2)
    assert encoder(torch.rand(3, 7, 7), torch.rand(5, 3, 2)).shape == (5, 3, 9)
    with pytest.raises(ValueError, match="context expects parents"):
        encoder(torch.rand(3, 7, 7))


def test_another_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expects an image of shape .*1, 7, 7"):
        ConvolutionalEncoder((7, 7), channels=(4,))(torch.rand(3, 6, 7))
    with pytest.raises(ValueError, match="for a vector use MLP"):
        ConvolutionalEncoder((7,))


def test_a_map_becomes_an_event_by_a_1x1_convolution() -> None:
    from deeplvm.conditionals import Bernoulli, Gaussian

    decoder = ConvolutionalDecoder(4, (2, 5, 7), channels=(4,))
    image, flat = Gaussian((2, 5, 7), decoder), Bernoulli(70, decoder)
    assert isinstance(image.head.layer, nn.Conv2d)
    assert isinstance(flat.head.layer, nn.Conv2d)
    assert image(torch.rand(6, 3, 4)).event_shape == (2, 5, 7)
    assert flat(torch.rand(6, 3, 4)).event_shape == (70,)
    other = Bernoulli(3, decoder)  # not the size of the map: flattened, then linear
    assert isinstance(other.head.layer, nn.Linear)
    assert other(torch.rand(6, 3, 4)).batch_shape == (6, 3)


def test_fold_particles() -> None:
    layer = nn.Conv2d(1, 2, 3, padding=1)
    x = torch.randn(4, 3, 1, 5, 5)
    folded = fold_particles(layer, 3)(x)
    torch.testing.assert_close(folded, torch.stack([layer(row) for row in x]))
    assert fold_particles(layer, 3)(x[0, 0]).shape == (2, 5, 5)


def test_features_say_their_shape() -> None:
    assert Features(nn.Linear(3, 8)).out_shape == (8,)
    assert Features(nn.Flatten(), out_shape=(4,)).event_shape == (4,)
    assert Features(nn.Flatten()).event_shape is None


@pytest.mark.parametrize(
    "build",
    [
        lambda: (MLP(5, 4), (torch.randn(3, 2), torch.randn(4, 3, 3))),
        lambda: (ConvolutionalEncoder((1, 5, 6), channels=(2,)), (torch.randn(2, 3, 1, 5, 6),)),
        lambda: (ConvolutionalDecoder(3, (1, 5, 6), channels=(2,)), (torch.randn(2, 3, 3),)),
    ],
    ids=["MLP", "encoder", "decoder"],
)
def test_one_graph_and_every_parameter(build) -> None:
    network, parents = build()
    torch._dynamo.reset()
    traced = torch.compile(network, fullgraph=True, backend="eager")(*parents)
    torch.testing.assert_close(traced, network(*parents))
    traced.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
