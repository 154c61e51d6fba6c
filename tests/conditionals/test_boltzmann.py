"""Restricted Boltzmann machines: Z by enumeration, annealing against it, chains, draws."""

from __future__ import annotations

import math

import pytest
import torch

from deeplvm.conditionals import RestrictedBoltzmannMachine, boltzmann
from deeplvm.conditionals.boltzmann import every


def machine(units: int, hidden: int, *, summed: bool = True) -> RestrictedBoltzmannMachine:
    """One whose units depend on each other."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        if not summed:
            patch.setattr(boltzmann, "_LISTED", 0)
        made = RestrictedBoltzmannMachine(units, hidden=hidden).double()
    with torch.no_grad():
        torch.manual_seed(1)  # the same, whatever the constructor drew
        for each in made.parameters():
            each.normal_()
    return made


@pytest.mark.parametrize("sides", [(4, 7), (7, 4)])
def test_z_is_the_sum_over_all_values(sides: tuple[int, int]) -> None:
    """Over units and hidden units together, whichever side is summed; values add up to one."""
    made = machine(*sides)
    z, h = every(sides[0]).double(), every(sides[1]).double()
    energy = (z @ made.bias)[:, None] + h @ made.hidden_bias + z @ made.weight @ h.T
    distribution = made()
    assert distribution.log_z.item() == pytest.approx(energy.flatten().logsumexp(0).item())
    assert distribution.log_prob(z).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("sides", [(3, 5), (5, 3)])
def test_draws_have_their_probabilities(sides: tuple[int, int]) -> None:
    """Frequencies of all values, exact draws: each within 5 errors; seed fixed."""
    distribution = machine(*sides)()
    draws = distribution.sample((20_000,))
    index = (draws.long() << torch.arange(sides[0])).sum(-1)
    found = torch.bincount(index, minlength=2 ** sides[0]) / 20_000
    exact = distribution.log_prob(every(sides[0]).double()).exp().detach()
    assert ((found - exact).abs() < 5 * (exact * (1 - exact) / 20_000).sqrt() + 1e-9).all()


def test_z_is_known_from_the_start() -> None:
    """By the chains, before anything is annealed."""
    torch.manual_seed(0)
    made = RestrictedBoltzmannMachine(20, hidden=13).double()
    assert made.normaliser is not None
    assert made().log_z.item() == pytest.approx(made._log_sum().item(), abs=0.05)


def test_annealing_finds_z() -> None:
    """Against the sum, within 5 of its standard errors, whatever the global seed."""
    exact, annealed = machine(9, 8)(), machine(9, 8, summed=False)
    assert annealed.normaliser is not None
    annealed.chains.copy_(exact.sample((100,)))
    annealed.eval()
    found = annealed.normaliser.estimate
    assert 0 < found.stderr < 0.05
    assert abs(found.value - exact.log_z.item()) < 5 * found.stderr
    torch.manual_seed(7)
    assert annealed().log_z.item() == found.value


def test_chains_follow_z_and_its_gradient() -> None:
    """While trained on its own draws; the next measurement ends what they are off by."""
    exact, annealed = machine(9, 8), machine(9, 8, summed=False)
    assert annealed.normaliser is not None
    annealed.chains.copy_(exact().sample((100,)))
    annealed.eval()
    annealed.train()
    optimizer = torch.optim.SGD(annealed.parameters(), lr=0.02)
    rows = exact().sample((200,))
    for _ in range(30):
        optimizer.zero_grad()
        (-annealed().log_prob(rows).mean()).backward()
        optimizer.step()
    log_z = annealed().log_z
    true = annealed._log_sum()
    assert abs(log_z.item() - true.item()) < 0.2
    ours, theirs = (torch.autograd.grad(each, annealed.weight)[0] for each in (log_z, true))
    assert (ours - theirs).abs().max() < 0.2  # 100 chains: 5 standard errors of a share of a half
    annealed.eval()
    found = annealed.normaliser.estimate
    assert abs(found.value - true.item()) < 5 * found.stderr


def test_it_learns_units_that_depend_on_each_other() -> None:
    """Two units that are always equal: independent ones lose log 2."""
    torch.manual_seed(0)
    made = RestrictedBoltzmannMachine(2, hidden=2).double()
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -made().log_prob(rows).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < math.log(2) + 0.1


@pytest.mark.parametrize("options", [{"hidden": 0}, {"chains": 0}])
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="RestrictedBoltzmannMachine expects"):
        RestrictedBoltzmannMachine(3, **options)
