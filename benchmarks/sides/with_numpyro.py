"""NumPyro on JAX: one jitted step at a time, or several inside a scan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, lax
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

from workloads import PIXELS, Workload, indices, pixels

_SHIFT = math.log(math.expm1(1.0))
_RANDOM = np.random.default_rng(0)
Weights = list[dict[str, Array]]


def uniform(*shape: int, fan_in: int) -> Array:
    """PyTorch's initialization."""
    bound = 1 / math.sqrt(fan_in)
    return jnp.asarray(_RANDOM.uniform(-bound, bound, shape).astype(np.float32))


def linear(fan_in: int, fan_out: int) -> dict[str, Array]:
    return {
        "w": uniform(fan_in, fan_out, fan_in=fan_in),
        "b": uniform(fan_out, fan_in=fan_in),
    }


def convolution(fan_in: int, fan_out: int, size: int = 3) -> dict[str, Array]:
    inputs = fan_in * size * size
    return {
        "w": uniform(size, size, fan_in, fan_out, fan_in=inputs),
        "b": uniform(fan_out, fan_in=inputs),
    }


def perceptron(*widths: int) -> Weights:
    return [linear(a, b) for a, b in pairwise(widths)]


def apply(layer: dict[str, Array], x: Array) -> Array:
    return x @ layer["w"] + layer["b"]


def mlp(weights: Weights, x: Array) -> Array:
    for layer in weights[:-1]:
        x = jax.nn.relu(apply(layer, x))
    return apply(weights[-1], x)


def convolve(layer: dict[str, Array], x: Array, stride: int = 1) -> Array:
    pad = layer["w"].shape[0] // 2
    # channels last: what XLA computes directly on a processor
    result = lax.conv_general_dilated(
        x,
        layer["w"],
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return result + layer["b"]


def residual(weights: Weights, x: Array) -> Array:
    return x + convolve(weights[1], jax.nn.elu(convolve(weights[0], jax.nn.elu(x))))


def shuffled(x: Array) -> Array:
    """Channels to space, twice the height and width."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


def image_encoder(weights: dict[str, Any], x: Array) -> Array:
    x = convolve(weights["down1"], x[..., None], 2)
    x = residual(weights["block1"], x)
    x = convolve(weights["down2"], x, 2)
    x = jax.nn.elu(residual(weights["block2"], x))
    x = jax.nn.elu(apply(weights["dense"], x.reshape(len(x), -1)))
    return apply(weights["head"], x)


def image_decoder(weights: dict[str, Any], z: Array) -> Array:
    wide = weights["up2"]["w"].shape[2]
    x = apply(weights["dense"], z).reshape(len(z), 7, 7, wide)
    x = jax.nn.elu(residual(weights["block2"], x))
    x = shuffled(convolve(weights["up2"], x))
    x = jax.nn.elu(residual(weights["block1"], x))
    x = jax.nn.elu(shuffled(convolve(weights["up1"], x)))
    return convolve(weights["head"], x)[..., 0]


def image_weights(workload: Workload) -> tuple[Any, Any]:
    narrow, wide, features = workload.hidden
    latent, last = workload.latent[0], max(8, workload.hidden[0] // 2)
    encoder = {
        "down1": convolution(1, narrow),
        "block1": [convolution(narrow, narrow), convolution(narrow, narrow)],
        "down2": convolution(narrow, wide),
        "block2": [convolution(wide, wide), convolution(wide, wide)],
        "dense": linear(wide * 49, features),
        "head": linear(features, 2 * latent),
    }
    decoder = {
        "dense": linear(latent, wide * 49),
        "block2": [convolution(wide, wide), convolution(wide, wide)],
        "up2": convolution(wide, 4 * narrow),
        "block1": [convolution(narrow, narrow), convolution(narrow, narrow)],
        "up1": convolution(narrow, 4 * last),
        "head": convolution(last, 1, 1),
    }
    return encoder, decoder


def positive(raw: Array) -> Array:
    return jax.nn.softplus(raw + _SHIFT) + 1e-3


def halves(raw: Array) -> tuple[Array, Array]:
    mean, rest = jnp.split(raw, 2, -1)
    return mean, positive(rest)


def vae(workload: Workload) -> tuple[Callable[..., None], Callable[..., None]]:
    """Model and guide of one layer of latents."""
    latent = workload.latent[0]
    if workload.family == "conv":
        encoder, decoder = image_weights(workload)
        encode, decode, dims = image_encoder, image_decoder, 2
    else:
        encoder = perceptron(PIXELS, *workload.hidden, 2 * latent)
        decoder = perceptron(latent, *reversed(workload.hidden), PIXELS)
        encode, decode, dims = mlp, mlp, 1

    def model(x: Array) -> None:
        weights = numpyro.param("decoder", decoder)
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            logits = decode(weights, z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(dims), obs=x)

    def guide(x: Array) -> None:
        weights = numpyro.param("encoder", encoder)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("z", dist.Normal(*halves(encode(weights, x))).to_event(1))

    return model, guide


def ladder(workload: Workload) -> tuple[Callable[..., None], Callable[..., None]]:
    """Model and guide of a ladder."""
    widths, latent = workload.hidden, workload.latent
    top = len(widths) - 1
    start = {
        "down": [linear(latent[i + 1], widths[i + 1]) for i in range(top)],
        "prior": [linear(widths[i + 1], 2 * latent[i]) for i in range(top)],
        "output": perceptron(latent[0], widths[0], PIXELS),
        "up": [linear(a, b) for a, b in pairwise((PIXELS, *widths))],
        "seen": [linear(width, 2 * size) for width, size in zip(widths, latent, strict=True)],
    }

    def given(weights: dict[str, Any], layer: int, above: Array) -> tuple[Array, Array]:
        features = jax.nn.relu(apply(weights["down"][layer], above))
        return halves(apply(weights["prior"][layer], features))

    def merged(first: Sequence[Array], second: Sequence[Array]) -> tuple[Array, Array]:
        ours, theirs = first[1] ** 2, second[1] ** 2
        total = ours + theirs
        mean = first[0] + (second[0] - first[0]) * (ours / total)
        return mean, first[1] * second[1] * lax.rsqrt(total)

    def model(x: Array) -> None:
        weights = numpyro.param("ladder", start)
        with numpyro.plate("rows", len(x)):
            prior = dist.Normal(jnp.zeros(latent[-1]), 1.0).to_event(1)
            z = numpyro.sample(f"z{top}", prior)
            for layer in reversed(range(top)):
                conditional = dist.Normal(*given(weights, layer, z)).to_event(1)
                z = numpyro.sample(f"z{layer}", conditional)
            logits = mlp(weights["output"], z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Array) -> None:
        weights = numpyro.param("ladder", start)
        with numpyro.plate("rows", len(x)):
            features = [x]
            for part in weights["up"]:
                features.append(jax.nn.relu(apply(part, features[-1])))
            seen = [
                halves(apply(part, one))
                for part, one in zip(weights["seen"], features[1:], strict=True)
            ]
            z = numpyro.sample(f"z{top}", dist.Normal(*seen[-1]).to_event(1))
            for layer in reversed(range(top)):
                both = merged(given(weights, layer, z), seen[layer])
                z = numpyro.sample(f"z{layer}", dist.Normal(*both).to_event(1))

    return model, guide


def step(workload: dict[str, Any], *, scan: bool = False) -> Callable[[int], None]:
    """Training steps: each a call of jitted code, or all of a burst in one scan."""
    what = Workload.of(workload)
    model, guide = ladder(what) if what.family == "ladder" else vae(what)
    if what.particles is None:
        objective: Any = Trace_ELBO()
    else:
        objective = RenyiELBO(alpha=0.0, num_particles=what.particles)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), objective)
    rows = pixels(what)
    x = jnp.asarray(rows.reshape(len(rows), 28, 28) if what.family == "conv" else rows)
    order = jnp.asarray(indices(what))
    batches = list(order)
    state = svi.init(jax.random.key(0), x[order[0]])
    turn = 0

    def one(now: Any, index: Array, data: Array) -> tuple[Any, Array]:
        return svi.update(now, data[index])

    if scan:
        several = jax.jit(
            lambda now, many, data: lax.scan(lambda s, i: one(s, i, data), now, many),
            donate_argnums=0,
        )

        def run(steps: int) -> None:
            nonlocal state
            state, losses = several(state, order[:steps], x)
            losses.block_until_ready()

    else:
        jitted = jax.jit(one, donate_argnums=0)

        def run(steps: int) -> None:
            nonlocal state, turn
            for _ in range(steps):
                state, loss = jitted(state, batches[turn], x)
                turn = (turn + 1) % len(batches)
            jax.block_until_ready((state, loss))

    return run
