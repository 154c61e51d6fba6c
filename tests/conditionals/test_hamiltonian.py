"""Leapfrog steps, and the posterior that takes them (R3.2.1)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Size, Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.conditionals.hamiltonian import Hamiltonian, Leapfrog
from deeplvm.core.joint import NotationError
from deeplvm.gradients import Enumerated
from deeplvm.networks import MLP
from deeplvm.training.checkpoint import load_model_into, save_model


def model_of(steps: int = 3, step_size: float = 0.1, width: int = 2) -> LatentVariableModel:
    def smooth(*widths: int) -> MLP:
        return MLP(*widths, activation=nn.Softplus)

    torch.manual_seed(0)
    p = Joint(
        {
            "z": StandardNormal(width),
            "x | z": Bernoulli(6, smooth(width, 8)),
            "g | x": smooth(6, 5),
            "v | g, z": Gaussian(width, smooth(5 + width, 8)),
        }
    )
    start = {
        "z | x": Gaussian(width, smooth(6, 8)),
        "v | z, x": Gaussian(width, smooth(6 + width, 8)),
    }
    chain = Hamiltonian(start, p, steps=steps, step_size=step_size)
    return LatentVariableModel(p, Joint({"z, v | x": chain}))


X = (torch.arange(30).reshape(5, 6) % 3 == 0).double()


def double_well(z: Tensor) -> Tensor:
    """Minus the gradient of (z^2 - 1)^2 summed, not linear."""
    return -4 * z * (z.square() - 1)


def test_steps_are_undone() -> None:
    """Round trip to 1e-10, with a step size of its own in each dimension."""
    leapfrog = Leapfrog(Size((3,)), steps=7, step_size=0.1)
    with torch.no_grad():
        leapfrog.raw.add_(torch.randn(3))
    z, v = torch.randn(2, 4, 5, 3)
    there = leapfrog(double_well, z, v)
    assert (there[0] - z).abs().max() > 0.1
    back = leapfrog.inverse(double_well, *there)
    torch.testing.assert_close(back, (z, v), rtol=0, atol=1e-10)


def test_the_volume_is_one() -> None:
    """The determinant of the Jacobian of (z, v), by automatic differentiation."""
    leapfrog = Leapfrog(Size((3,)), steps=5, step_size=0.2)

    def moved(both: Tensor) -> Tensor:
        return torch.cat(leapfrog(double_well, *both.chunk(2)))

    jacobian = torch.autograd.functional.jacobian(moved, torch.randn(6))
    assert (jacobian - torch.eye(6)).abs().max() > 0.1
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.tensor(1.0), rtol=0, atol=1e-10)


def test_the_energy_error_is_of_second_order() -> None:
    """Over one time, half the step makes a quarter of the error (to 5 %)."""
    z, v = torch.randn(2, 50, 3)

    def energy(z: Tensor, v: Tensor) -> Tensor:
        return ((z.square() - 1).square() + 0.5 * v.square()).sum(-1)

    errors = []
    for steps in (100, 200, 400):
        with torch.no_grad():
            end = Leapfrog(Size((3,)), steps, 1.0 / steps)(double_well, z, v)
        errors.append((energy(*end) - energy(z, v)).square().mean().sqrt())
    assert errors[0] < 1e-2
    assert float(errors[0] / errors[1]) == pytest.approx(4, rel=0.05)
    assert float(errors[1] / errors[2]) == pytest.approx(4, rel=0.05)


def test_the_force_is_the_gradient_of_the_model() -> None:
    """One step by hand, with the gradient of log p(x, z) from p itself."""
    model = model_of(steps=1, step_size=0.3)
    chain = model.q.conditional("z")
    torch.manual_seed(4)
    start = chain.start({"x": X}, (5,))
    torch.manual_seed(4)
    end = model.q({"x": X}, (5,))

    def gradient(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        prior, likelihood = model.p["z"]().log_prob(z), model.p["x"](z).log_prob(X)
        return torch.autograd.grad((prior + likelihood).sum(), z)[0]

    half = start["v"].value + 0.15 * gradient(start["z"].value)
    z = start["z"].value + 0.3 * half
    torch.testing.assert_close(end["z"].value, z)
    torch.testing.assert_close(end["v"].value, half + 0.15 * gradient(z))
    torch.testing.assert_close(end.log_prob, start.log_prob)


def test_what_was_drawn_is_scored_the_same() -> None:
    model = model_of()
    drawn = model.q({"x": X}, (4, 5))
    given = {name: drawn[name] for name in ("z", "v")}
    scored = model.q({"x": X, **given}, (4, 5))
    torch.testing.assert_close(scored["z"].log_prob, drawn["z"].log_prob)
    torch.testing.assert_close(scored["v"].log_prob, drawn["v"].log_prob)
    assert not scored["z"].drawn
    plain = model.q({"x": X, "z": drawn["z"].value[0], "v": drawn["v"].value[0]}, (5,))
    torch.testing.assert_close(plain.log_prob, drawn.log_prob[0])


def test_the_density_integrates_to_one() -> None:
    """q(z, v | x) over a grid of the plane of z and v: 1 to 1e-6."""
    model = model_of(steps=2, step_size=0.2, width=1)
    axis = torch.linspace(-9, 9, 301)
    z, v = torch.meshgrid(axis, axis, indexing="ij")
    rows = z.numel()
    given = {"z": z.reshape(-1, 1), "v": v.reshape(-1, 1), "x": X[:1].expand(rows, 6)}
    with torch.no_grad():
        density = model.q(given, (rows,)).log_prob.exp()
    area = float(axis[1] - axis[0]) ** 2
    assert float(density.sum() * area) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_draws_the_same_with_and_without_gradients(context: type) -> None:
    model = model_of()
    torch.manual_seed(1)
    expected = model.q({"x": X}, (5,))["z"].value
    torch.manual_seed(1)
    with context():
        value = model.q({"x": X}, (5,))["z"].value
        assert value.requires_grad is (context is torch.enable_grad)
        torch.testing.assert_close(value, expected)


def test_gradients_are_right() -> None:
    """Central differences of the bound, through the force, in parameters of p and of q."""
    model = model_of(steps=2)

    def bound() -> Tensor:
        torch.manual_seed(3)
        return elbo(model.evidence({"x": X})).mean()

    chain = model.q.conditional("z")
    checked = [
        model.p["x"].head.layer.weight,
        chain.leapfrog.raw,
        chain.start["v"].head.layer.bias,
    ]
    gradients = torch.autograd.grad(bound(), checked)
    for parameter, gradient in zip(checked, gradients, strict=True):
        with torch.no_grad():
            flat = parameter.view(-1)
            flat[1] += 1e-5
            above = bound()
            flat[1] -= 2e-5
            below = bound()
            flat[1] += 1e-5
        slope = (above - below) / 2e-5
        torch.testing.assert_close(gradient.flatten()[1], slope, rtol=1e-6, atol=1e-9)


def test_missing_elements_do_not_pull() -> None:
    """The force of a row with holes is that of the observed elements alone."""
    model = model_of(steps=1)
    chain = model.q.conditional("z")
    holes = X.clone()
    holes[:, 3:] = torch.nan
    sites = {"x": model._sites({"x": holes})[0]["x"]}
    z = torch.randn(5, 2, requires_grad=True)
    force = chain._force(sites, (5,), frozenset({"x"}))(z)
    elements = model.p["x"](z).base_dist.log_prob(X)[:, :3].sum()
    (expected,) = torch.autograd.grad(elements + model.p["z"]().log_prob(z).sum(), z)
    torch.testing.assert_close(force, expected)


def test_parameters_are_shared_and_kept(tmp_path: Path) -> None:
    """p's modules have two names and are one: counted once, moved together, stored, restored."""
    model = model_of()
    assert model.q.conditional("z").target["x"] is model.p["x"]
    assert "g" not in model.q.conditional("z").target  # only the reverse model reads it
    distinct = sum([parameter.numel() for parameter in model.parameters()])
    assert repr(model).endswith(f"{distinct:,} parameters")
    twin = copy.deepcopy(model)
    assert twin.q.conditional("z").target["x"] is twin.p["x"]
    save_model(model, tmp_path / "model.safetensors")
    other = model_of()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    load_model_into(other, tmp_path / "model.safetensors")
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=0)


def test_errors_say_what_to_write() -> None:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(6, MLP(2, 8))})
    first = {"z | x": Gaussian(2, MLP(6, 8)), "v": StandardNormal(2)}
    with pytest.raises(NotationError, match=r"add 'v \| x, z' to p"):
        Hamiltonian(first, p)
    whole = Joint({**{str(f): p[f.names[0]] for f in p.order}, "v | z": Gaussian(2, MLP(2))})
    with pytest.raises(NotationError, match=r"one latent of p and its momentum.*found z\."):
        Hamiltonian({"z | x": Gaussian(2, MLP(6, 8))}, whole)
    with pytest.raises(NotationError, match=r"momentum='\.\.\.'"):
        Hamiltonian(first, whole, momentum="m")
    with pytest.raises(ValueError, match=r"one event shape, found \(2,\) and \(3,\)"):
        Hamiltonian({**first, "v": StandardNormal(3)}, whole)
    with pytest.raises(NotationError, match="not of a Bernoulli"):
        Hamiltonian(first, Bernoulli(6))  # type: ignore[arg-type]
    read = Joint(
        {"z": StandardNormal(2), "v | z": Gaussian(2, MLP(2)), "x | v": Gaussian(2, MLP(2))}
    )
    with pytest.raises(NotationError, match="reads the momentum 'v' elsewhere"):
        Hamiltonian(first, read)
    with pytest.raises(ValueError, match="steps of at least 1, found 0"):
        Leapfrog(Size((1,)), 0, 0.1)
    with pytest.raises(ValueError, match="step_size above 0, found -1"):
        Leapfrog(Size((1,)), 1, -1.0)
    model = model_of()
    with pytest.raises(ValueError, match="give both, or neither"):
        model.q({"x": X, "z": torch.zeros(5, 2)}, (5,))


def test_a_latent_that_is_listed_cannot_be_moved() -> None:
    p = Joint({"z": Categorical(3, shape=(2,)), "v": Categorical(3, shape=(2,))})
    chain = Hamiltonian({"z": Categorical(3, shape=(2,)), "v": Categorical(3, shape=(2,))}, p)
    with pytest.raises(ValueError, match="cannot be enumerated"):
        chain({}, (5,), draw={"z": Enumerated(), "v": Enumerated()})
