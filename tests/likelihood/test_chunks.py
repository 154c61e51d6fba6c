"""Chunks: what is drawn does not depend on how much is drawn at a time; the encoder runs once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.gradients import Enumerated
from deeplvm.inference.rows import noise_of, rows_of
from deeplvm.likelihood import importance_sampling
from deeplvm.likelihood.chunks import BLOCK, Chunks, Plan, plan
from deeplvm.likelihood.importance import Totals
from deeplvm.networks import MLP
from deeplvm.randomness import evaluating

ROWS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def two_layers() -> LatentVariableModel:
    p = Joint(
        {"b": StandardNormal(2), "a | b": Gaussian(3, MLP(2, 4)), "x | a": Bernoulli(3, MLP(3, 4))}
    )
    q = Joint({"a | x": Gaussian(3, MLP(3, 4)), "b | a": Gaussian(2, MLP(3, 4))})
    return LatentVariableModel(p, q)


def same_bytes(first: Any, second: Any) -> bool:
    names = ("log_px", "elbo", "ess", "pareto_k")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    return all([torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in pairs])


@pytest.mark.parametrize("chunk", [16, 32, 48, 256])
def test_the_log_weights_are_the_same_bytes_whatever_the_chunk(chunk: int) -> None:
    model = two_layers()
    assert torch.equal(log_weights(model, chunk), log_weights(model, 96))


def log_weights(model: LatentVariableModel, chunk: int, particles: int = 240) -> Tensor:
    rows = rows_of(model, {"x": ROWS})
    with evaluating(model, 0):
        given = rows[slice(None)]
        planned = plan(model, rows, particles, chunk=chunk)
        chunks = Chunks(model, rows, planned, None)
        found = [
            evidence.total(list(evidence.terms.values()))[:used]
            for evidence, used in chunks(given, noise_of(model, given, 0, rows.device))
        ]
    assert len(found) == planned.chunks
    return torch.cat(found)


def test_a_chunk_is_a_whole_number_of_blocks() -> None:
    """1 asks for 16, 17 for 32; no more than the particles need."""
    model = two_layers()
    rows = rows_of(model, {"x": ROWS})
    found = [plan(model, rows, 40, chunk=chunk).chunk for chunk in (1, 17, 33, 1_000)]
    assert found == [BLOCK, 2 * BLOCK, 3 * BLOCK, 3 * BLOCK]


@pytest.mark.parametrize("particles", [1, 7, 50])
def test_particles_that_fill_no_block_are_the_first_of_more(particles: int) -> None:
    model = two_layers()
    some, more = log_weights(model, 16, particles), log_weights(model, 64, 64)
    assert len(some) == particles
    assert torch.equal(some, more[:particles])


def test_an_estimate_does_not_depend_on_its_chunks() -> None:
    model = two_layers()
    one, other = [
        importance_sampling(model, {"x": ROWS}, particles=500, chunk=chunk, compile=False)
        for chunk in (16, 256)
    ]
    assert torch.allclose(one.log_px, other.log_px, rtol=0, atol=1e-12)
    assert torch.allclose(one.elbo, other.elbo, rtol=0, atol=1e-12)


def test_a_batch_does_not_depend_on_who_evaluates_it() -> None:
    """The seed and the first row decide its draws: other batches before it change nothing."""
    model = two_layers()
    whole = importance_sampling(model, {"x": ROWS}, particles=64, batch_size=2)
    rows = rows_of(model, {"x": ROWS})
    with evaluating(model, 5):  # whatever state torch's generator is in
        planned = plan(model, rows, 64, batch_size=2)
        totals = Totals(64)
        given = rows[slice(2, 4)]
        noise = noise_of(model, given, 0, rows.device)
        for evidence, used in Chunks(model, rows, planned, None)(given, noise):
            totals.add(evidence, used)
        alone = totals.result(exact=False)
    assert torch.equal(alone["log_px"], whole.log_px[2:])
    assert torch.equal(alone["pareto_k"], whole.pareto_k[2:])


def test_twice_is_the_same_bytes() -> None:
    model = two_layers()
    first = importance_sampling(model, {"x": ROWS}, particles=100)
    torch.rand(3)
    assert same_bytes(first, importance_sampling(model, {"x": ROWS}, particles=100))


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    calls: list[int] = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_the_encoder_runs_once_a_batch() -> None:
    """Once more on the first row, for the plan; what reads a latent runs once a chunk."""
    model = two_layers()
    with counted(model.q["a"]) as encoder, counted(model.q["b"]) as above:
        importance_sampling(model, {"x": ROWS}, particles=160, chunk=16, batch_size=2)
    assert len(encoder) == 2 + 1
    assert len(above) == 2 * 10 + 1


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_memory_does_not_grow_with_the_particles() -> None:
    """Past a chunk no tensor is larger; between chunks only a tail of the weights is kept."""
    model = two_layers()
    sizes = []
    for particles in (1_024, 8_192):
        with Largest() as largest:
            importance_sampling(model, {"x": ROWS}, particles=particles, chunk=512)
        sizes.append(largest.numbers)
    assert sizes[0] >= 512 * 4 * 4
    assert sizes[1] == sizes[0]


def test_a_chunk_fits_the_caches() -> None:
    """The largest tensor of a chunk has at most 2^20 numbers, or is one block of one row."""
    wide = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": Gaussian(1_000, MLP(2, 8), scale=1.0)}),
        Joint({"z | x": Gaussian(2, MLP(1_000, 8))}),
    )
    rows = rows_of(wide, {"x": torch.zeros(300, 1_000)})
    planned = plan(wide, rows, 5_000)
    assert planned.batch_size * planned.chunk * 1_000 <= 2**20
    assert planned.chunk % BLOCK == 0
    # none of the batches is much smaller than the others
    assert planned.batch_size * -(-300 // planned.batch_size) - 300 < planned.batch_size / 2


def test_what_is_enumerated_needs_one_particle() -> None:
    p = Joint({"c": Categorical(3), "x | c": Bernoulli(3, MLP(3))})
    model = LatentVariableModel(p, Joint({"c | x": Categorical(3, MLP(3))}))
    rows = rows_of(model, {"x": ROWS})
    planned = plan(model, rows, 5_000, draw={"c": Enumerated()})
    assert planned == replace(planned, exact=True, particles=1, chunk=1)
    assert planned.chunks == 1


def test_a_trial_leaves_the_draws_alone() -> None:
    model = two_layers()
    rows = rows_of(model, {"x": ROWS})

    def draws(*, trial: bool) -> Tensor:
        with evaluating(model, 0):
            chunks = Chunks(model, rows, plan(model, rows, 32, chunk=16), None)
            given = rows[slice(None)]
            if trial:
                assert len(list(chunks.some(2))) == 2
            return torch.cat(
                [
                    each.terms["x"]
                    for each, _ in chunks(given, noise_of(model, given, 0, rows.device))
                ]
            )

    assert torch.equal(draws(trial=True), draws(trial=False))


@pytest.mark.parametrize("grad", [True, False])
def test_results_are_plain_tensors(grad: bool) -> None:
    """Nothing of inference mode is left in them: a gradient may be taken of what uses them."""
    model = two_layers()
    with torch.set_grad_enabled(grad):
        found = importance_sampling(model, {"x": ROWS}, particles=16)
    for value in (found.log_px, found.elbo, found.ess, *found.terms.values()):
        assert not value.is_inference()
        assert not value.requires_grad
    weight = torch.ones(4, requires_grad=True)
    (weight * found.log_px).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, found.log_px)


def test_under_inference_mode_too() -> None:
    model = two_layers()
    expected = importance_sampling(model, {"x": ROWS}, particles=16)
    with torch.inference_mode():
        found = importance_sampling(model, {"x": ROWS}, particles=16)
    assert same_bytes(found, expected)
    assert isinstance(plan(model, rows_of(model, {"x": ROWS}), 3), Plan)
