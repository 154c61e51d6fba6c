"""R2.9a: wake-sleep and its reweighted form, by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from deeplvm import Enumerated, Evidence, Joint, LatentVariableModel, Sampled, elbo, iwae
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.learning import aggressive, dream, reweighted_wake_sleep, wake_sleep
from deeplvm.networks import MLP
from deeplvm.objectives import sleep, wake_phi
from deeplvm.training import Optimization, Phase, fit


def binary(latents: int = 2, observed: int = 3, seed: int = 3) -> LatentVariableModel:
    torch.manual_seed(seed)
    prior = Bernoulli(latents)
    with torch.no_grad():
        prior.head.free.copy_(torch.randn(1, latents))
    p = Joint({"z": prior, "x | z": Bernoulli(observed, MLP(latents, 8))})
    model = LatentVariableModel(p, Joint({"z | x": Bernoulli(latents, MLP(observed, 8))}))
    with torch.no_grad():
        for parameter in model.p["x"].parameters():
            parameter.mul_(3.0)
    return model


def every(length: int) -> Tensor:
    """All binary vectors, shape (2 ** length, length)."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=length)))


def grid(model: LatentVariableModel) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair (x, z) and log p(x, z), x slow."""
    x, z = every(3).repeat_interleave(4, 0), every(2).repeat(8, 1)
    with torch.no_grad():
        return x, z, model.p({"x": x, "z": z}).log_prob


def gradient(model: LatentVariableModel, value: Tensor) -> Tensor:
    parts = torch.autograd.grad(value, list(model.q.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def log_px(model: LatentVariableModel, x: Tensor) -> Tensor:
    return iwae(model.evidence({"x": x}, draw={"z": Enumerated()}))


class TestSleep:
    def test_gradient_is_of_the_other_divergence(self) -> None:
        """That of -E_p(x) KL(p(z|x) || q(z|x)), and not of the ELBO over the same rows."""
        model = binary()
        x, z, log_p = grid(model)
        dreams = model.evidence({"x": x, "z": z})
        assert dreams.latents == ()
        asleep = gradient(model, (log_p.exp() * sleep(dreams)).sum())

        joint = log_p.reshape(8, 4)  # (x, z)
        marginal = torch.logsumexp(joint, 1)
        posterior = (joint - marginal[:, None]).exp()
        log_q = model.q["z"](every(3)[:, None].expand(8, 4, 3)).log_prob(every(2))
        divergence = (posterior * (posterior.log() - log_q)).sum(1)
        other = gradient(model, -(marginal.exp() * divergence).sum())
        assert torch.allclose(asleep, other, rtol=0, atol=1e-12)

        evidence = model.evidence({"x": every(3)}, draw={"z": Enumerated()})
        awake = gradient(model, (marginal.exp() * elbo(evidence)).sum())
        assert (asleep - awake).norm() > 0.05 * awake.norm()

    def test_dreams_are_of_the_model(self) -> None:
        """40,000 rows: a chi-squared test against p(x, z); one seed in 1,000 fails."""
        model = binary()
        dreams = dream(model, {"x": torch.zeros(40_000, 3)})
        _, _, log_p = grid(model)
        code = torch.cat([dreams.p["x"].value, dreams.p["z"].value], 1)
        index = (code * 2.0 ** torch.arange(4, -1, -1)).sum(1).long()
        counts = torch.bincount(index, minlength=32)
        assert stats.chisquare(counts.numpy(), (40_000 * log_p.exp()).numpy()).pvalue > 1e-3
        scored = model.q["z"](dreams.p["x"].value).log_prob(dreams.p["z"].value)
        assert torch.allclose(sleep(dreams), scored)
        assert not dreams.p["x"].value.requires_grad

    def test_given_what_p_is_conditioned_on(self) -> None:
        """An input stays what the batch says, for p and for q."""
        p = Joint({"z": StandardNormal(2), "x | z, c": Gaussian(3, MLP(6))})
        q = Joint({"z | x, c": Gaussian(2, MLP(7))})
        c = torch.randn(5, 4)
        dreams = dream(LatentVariableModel(p, q), {"x": torch.full((5, 3), torch.nan), "c": c})
        assert sleep(dreams).isfinite().all()
        expected = q["z"](dreams.p["x"].value, c).log_prob(dreams.p["z"].value)
        assert torch.allclose(sleep(dreams), expected)

    def test_rows_of_the_data_are_no_dream(self) -> None:
        evidence = binary().evidence({"x": torch.ones(2, 3)}, draw={"z": Sampled()})
        with pytest.raises(ValueError, match="every latent is given, but q drew z"):
            sleep(evidence)


class TestWakePhi:
    def test_with_exact_weights(self) -> None:
        """Enumerated, its gradient is that of -KL(p(z|x) || q(z|x)) in every row."""
        model = binary()
        evidence = model.evidence({"x": every(3)}, draw={"z": Enumerated()})
        found = gradient(model, wake_phi(evidence).sum())
        _, _, log_p = grid(model)
        posterior = torch.softmax(log_p.reshape(8, 4), 1)
        log_q = model.q["z"](every(3)[:, None].expand(8, 4, 3)).log_prob(every(2))
        other = gradient(model, (posterior * log_q).sum())
        assert torch.allclose(found, other, rtol=0, atol=1e-12)

    def test_weights_are_normalised_and_held(self) -> None:
        model = binary()
        evidence = model.evidence({"x": every(3)}, particles=4, draw={"z": Sampled()})
        weights = torch.softmax(evidence.log_weight, 0).detach()
        by_hand = (weights * evidence.q["z"].log_prob).sum(0)
        assert torch.allclose(wake_phi(evidence), by_hand)
        assert torch.allclose(
            gradient(model, wake_phi(evidence).sum()), gradient(model, by_hand.sum())
        )
        one = model.evidence({"x": every(3)}, draw={"z": Sampled()})
        assert torch.equal(wake_phi(one), one.q.log_prob)

    def test_draws_must_be_held(self) -> None:
        p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
        model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))}))
        with pytest.raises(ValueError, match="flows through 'z'; draw it with"):
            wake_phi(model.evidence({"x": torch.ones(2, 3)}, particles=3))


def learn(phases: list[Phase], model: LatentVariableModel, x: Tensor) -> None:
    fit(
        model,
        {"x": x},
        epochs=30,
        batch_size=256,
        phases=phases,
        optimization=Optimization(learning_rate=0.1),
        draw={"z": Enumerated()},
        quiet=True,
    )


@pytest.mark.parametrize("reweighted", [False, True])
def test_learns(reweighted: bool) -> None:
    """log p(x) rises and q ends near the posterior; reweighted, it reaches the rows' entropy.

    The three bits of a row hold two free ones, an entropy of 1.386 nats. Plain wake-sleep may
    stay at 2.079, that of three free bits.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (512, 2), generator=generator).double()
    x = torch.stack([z[:, 0], z[:, 1], z[:, 0]], 1)
    model = binary(seed=1)
    before = log_px(model, x).mean().detach()
    phases = reweighted_wake_sleep(model, particles=5) if reweighted else wake_sleep(model)
    learn(phases, model, x)
    with torch.no_grad():
        evidence = model.evidence({"x": x}, draw={"z": Enumerated()})
    after = iwae(evidence).mean()
    assert after > before + 0.5
    assert after - elbo(evidence).mean() < 0.05
    assert not reweighted or after > -1.42


def test_phases_move_their_own_parameters() -> None:
    """Each phase's objective and evidence, and what it moves; a shared module counts as p's."""
    model = binary()
    p, q = set(model.p.parameters()), set(model.q.parameters())
    kinds = [(phase.objective, set(phase.parameters(model))) for phase in wake_sleep(model)]
    assert kinds == [(elbo, p), (sleep, q)]
    phases = reweighted_wake_sleep(model, particles=7)
    assert [phase.objective for phase in phases] == [iwae, wake_phi, sleep]
    assert [set(phase.parameters(model)) for phase in phases] == [p, q, q]
    assert [phase.particles for phase in phases[:2]] == [7, 7]
    assert len(reweighted_wake_sleep(model, dreams=False)) == 2
    shared = MLP(2, 4)
    tied = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": Gaussian(2, shared)}),
        Joint({"z | x": Gaussian(2, shared)}),
    )
    moved = set(wake_sleep(tied)[1].parameters(tied))
    assert moved == set(tied.q.parameters()) - set(shared.parameters())
    assert moved


def test_wake_phases_agree_with_the_ledger() -> None:
    """The draws of the wake phases carry no gradient, so p's gradient is of log p(x, z) alone."""
    model = binary()
    wake = wake_sleep(model)[0]
    evidence: Evidence = model.evidence({"x": every(3)}, draw=wake.draw, missing=())
    scored = evidence.p.log_prob.sum()
    parameters = list(model.p.parameters())
    one = torch.autograd.grad(elbo(evidence).sum(), parameters, retain_graph=True)
    other = torch.autograd.grad(scored, parameters)
    assert all([torch.equal(a, b) for a, b in zip(one, other, strict=True)])


def test_each_phase_traces_as_one_graph() -> None:
    """What `fit(compile=True)` needs of the dream, of held draws and of their weights."""
    model = binary()
    x = every(3)

    def step(x: Tensor) -> Tensor:
        held = reweighted_wake_sleep(model)[1].draw
        awake = model.evidence({"x": x}, particles=4, draw=held, missing=())
        return torch.stack([wake_phi(awake), sleep(dream(model, {"x": x}))])

    torch._dynamo.reset()
    torch.manual_seed(1)
    expected = step(x)
    torch.manual_seed(1)
    assert torch.allclose(torch.compile(step, fullgraph=True, backend="eager")(x), expected)


def test_aggressive_takes_more_steps_of_q() -> None:
    """Four steps of q for one of p, on the same batch, seen by their optimisers' counts."""
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
    taken: dict[str, list[torch.optim.Adam]] = {"q": [], "p": []}
    phases = aggressive(repeats=4, stop=False)

    def kept(name: str) -> Callable[[list[torch.nn.Parameter]], torch.optim.Adam]:
        def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Adam:
            optimizer = torch.optim.Adam(parameters)
            taken[name].append(optimizer)
            return optimizer

        return make

    listed = [
        Phase(phase.objective, phase.parameters, kept(name), repeats=phase.repeats)
        for phase, name in zip(phases, ("q", "p"), strict=True)
    ]
    fit(model, {"x": torch.randn(20, 2)}, epochs=2, batch_size=10, phases=listed, quiet=True)

    def steps(name: str) -> int:
        (optimizer,) = taken[name]
        return int(next(iter(optimizer.state.values()))["step"])

    assert (steps("q"), steps("p")) == (16, 4)
    with pytest.raises(ValueError, match="1 or more, not 0"):
        aggressive(repeats=0)
