"""What learns beside the model is in the checkpoint, however it is held; or that is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.objectives import elbo
from deeplvm.training import CheckpointError, Phase
from training_models import digits, digits_vae, gaussian_rows, quietly, same, weights


class Critic:
    """Not a module: an object that has one."""

    def __init__(self, net: nn.Module) -> None:
        self.parts = {"net": [net]}

    def __call__(self, evidence):
        return judged(self.parts["net"][0], evidence)

    def method(self, evidence):
        return self(evidence)


def judged(net, evidence):
    z = evidence.q["z"].value.detach()
    return (net(torch.randn_like(z)) - net(z))[..., 0]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))


NET = network()  # read by name


def by_name(evidence):
    return judged(NET, evidence)


def closure(net):
    return lambda evidence: judged(net, evidence)


def through_another(net):
    inner = closure(net)
    return lambda evidence: inner(evidence)


def default(net):
    def objective(evidence, net=net):
        return judged(net, evidence)

    return objective


HOLDERS = {
    "closure": closure,
    "closure of a closure": through_another,
    "partial": lambda net: functools.partial(judged, net),
    "partial by keyword": lambda net: functools.partial(
        lambda evidence, net: judged(net, evidence), net=net
    ),
    "default": default,
    "object": Critic,
    "bound method": lambda net: Critic(net).method,
}


class TestCritic:
    def game(self, objective, net):
        return [Phase(objective, lambda model: net.parameters(), learning_rate=0.1), Phase(elbo)]

    @pytest.mark.parametrize("holder", HOLDERS)
    def test_is_resumed_bit_for_bit(self, tmp_path, holder):
        """Weights, running statistics, and what they do to each other."""
        train, _ = digits(60)

        def learn(epochs, **more):
            torch.manual_seed(3)
            net = network()
            model = digits_vae()
            phases = self.game(HOLDERS[holder](net), net)
            quietly(model, train, epochs=epochs, batch_size=20, phases=phases, **more)
            return weights(net) | weights(model)

        whole = learn(3)
        learn(1, folder=tmp_path)
        assert same(whole, learn(3, folder=tmp_path, resume=True))

    def test_a_global_name(self, tmp_path):
        train, _ = digits(60)
        learn = functools.partial(quietly, epochs=1, folder=tmp_path)
        learn(digits_vae(), train, phases=self.game(by_name, NET))
        kept = weights(NET)
        with torch.no_grad():
            for value in NET.state_dict().values():
                value.zero_()
        quietly(
            digits_vae(),
            train,
            epochs=1,
            phases=self.game(by_name, NET),
            folder=tmp_path,
            resume=True,
        )
        assert same(kept, weights(NET))

    def test_modes_and_frozen_parts_are_left_alone(self, tmp_path):
        net, frozen = network().eval(), nn.Linear(2, 2).requires_grad_(False)

        def objective(evidence):
            assert not net.training
            return judged(net, evidence) + frozen.weight.sum()

        train, _ = digits(60)
        quietly(digits_vae(), train, epochs=1, phases=self.game(objective, net), folder=tmp_path)
        assert not net.training

    def test_parameters_without_a_module(self, tmp_path):
        train, _ = digits(60)

        def learn(epochs, **more):
            scale = nn.Parameter(torch.zeros(()))
            phase = Phase(
                lambda evidence: elbo(evidence) * scale.exp() - scale, lambda model: [scale]
            )
            quietly(digits_vae(), train, epochs=epochs, phases=[phase], learning_rate=0.1, **more)
            return scale.detach()

        whole = learn(4)
        learn(2, folder=tmp_path)
        assert torch.equal(whole, learn(4, folder=tmp_path, resume=True))

    def test_parameters_that_only_the_optimiser_knows(self, tmp_path):
        train, _ = digits(60)

        def learn(epochs, **more):
            torch.manual_seed(3)
            net, model = network(), digits_vae()
            phase = Phase(
                lambda evidence: elbo(evidence) - net(evidence.q["z"].value).square()[..., 0],
                optimizer=lambda parameters: torch.optim.Adam([*parameters, *net.parameters()]),
            )
            quietly(model, train, epochs=epochs, phases=[phase], **more)
            return weights(net) | weights(model)

        whole, before = learn(3), weights(network())
        learn(1, folder=tmp_path)
        assert same(whole, learn(3, folder=tmp_path, resume=True))
        assert not same(before, whole)

    def test_an_optimiser_inside_a_function_is_refused_where_it_cannot_be_saved(self, tmp_path):
        net = network()
        optimizer = torch.optim.Adam(net.parameters())

        def objective(evidence):
            optimizer.step()
            return elbo(evidence)

        train, _ = digits(60)
        with pytest.raises(CheckpointError, match=r"an optimiser of its own \(Adam\).*a phase"):
            quietly(digits_vae(), train, epochs=1, objective=objective, folder=tmp_path)
        quietly(digits_vae(), train, epochs=1, objective=objective, compile=False)


class TestClosures:
    """Optimisers that ask for the objective again."""

    @pytest.mark.parametrize("search", [None, "strong_wolfe"])
    def test_l_bfgs_reaches_the_maximum(self, search):
        """Deterministic: maximum likelihood of a Gaussian mean and scale, in one batch."""

        class Free(nn.Module):
            def __init__(self):
                super().__init__()
                self.mean, self.log_scale = (nn.Parameter(torch.zeros(3)) for _ in range(2))

            def forward(self):
                normal = torch.distributions.Normal(self.mean, self.log_scale.exp())
                return torch.distributions.Independent(normal, 1)

        x = gaussian_rows(50)
        model = LatentVariableModel(Joint({"x": Free()}))
        quietly(
            model,
            {"x": x},
            epochs=20,
            batch_size=50,
            optimizer=lambda p: torch.optim.LBFGS(p, lr=0.5, line_search_fn=search),
        )
        assert torch.allclose(model.p["x"].mean, x.mean(0), atol=1e-4)
        assert torch.allclose(model.p["x"].log_scale.exp(), x.std(0, correction=0), atol=1e-4)

    def test_the_draws_of_a_step_are_the_same_each_time_and_it_resumes(self, tmp_path):
        train, _ = digits(60)
        options = {"optimizer": lambda p: torch.optim.LBFGS(p, lr=0.1), "clip": 10.0}
        whole = digits_vae()
        history = quietly(whole, train, epochs=4, batch_size=60, **options)
        assert history.values()[-1] > history.values()[0] + 3
        quietly(digits_vae(), train, epochs=2, batch_size=60, folder=tmp_path, **options)
        again = digits_vae(seed=8)
        quietly(again, train, epochs=4, batch_size=60, folder=tmp_path, resume=True, **options)
        assert same(weights(whole), weights(again))

    def test_none_of_its_gradients_can_be_skipped(self):
        with pytest.raises(ValueError, match=r"LBFGS looks at several gradients.*leave out skip"):
            quietly(digits_vae(), digits(20)[0], optimizer=torch.optim.LBFGS, skip=1.0)


class TestWeightOfOwnEvidence:
    def asked(self, evidence, objective, kl_weight):
        train, _ = digits(40)
        phase = Phase(objective, evidence=evidence)
        quietly(digits_vae(), train, epochs=1, kl_weight=kl_weight, phases=[phase])

    @pytest.mark.parametrize(
        "wrap, ledger",
        [
            (lambda e: e, lambda e: e),
            (lambda e: (e, e), lambda pair: pair[1]),
            (lambda e: {"a": [1.0, e]}, lambda found: found["a"][1]),
        ],
        ids=["ledger", "tuple", "mapping"],
    )
    def test_is_applied(self, wrap, ledger):
        seen = []

        def objective(found):
            seen.append(float(ledger(found).kl_weight))
            return elbo(ledger(found))

        self.asked(lambda m, b: wrap(m.evidence(b, missing=())), objective, 0.0)
        assert set(seen) == {0.0}

    def test_is_handed_over(self):
        seen = []

        def evidence(model, batch, kl_weight):
            seen.append(float(kl_weight))
            return model.evidence(batch, missing=()).temper(kl_weight).log_weight

        self.asked(evidence, lambda value: value, lambda epoch: 0.25)
        assert set(seen) == {0.25}

    def test_is_refused_where_there_is_nothing_to_weigh(self):
        def evidence(model, batch):
            return (model.evidence(batch, missing=()).log_weight,)

        with pytest.raises(ValueError, match=r"nothing to weigh.*tuple without a ledger"):
            self.asked(evidence, lambda found: found[0], 0.5)
        self.asked(evidence, lambda found: found[0], 1.0)
