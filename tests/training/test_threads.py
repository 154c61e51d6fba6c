"""The number of threads: the fastest, and asked again when the speed falls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deeplvm.training import Machine as Machine_
from deeplvm.training import fit
from deeplvm.training.threads import Threads
from training_models import gaussian_rows, linear_gaussian


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock, and steps whose time depends on the number of threads and on other people."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.taken = {1: 0.02, 2: 0.012, 4: 0.03, 6: 0.05}

    def clock(self) -> float:
        return self.seconds

    def step(self) -> None:
        self.seconds += self.taken[torch.get_num_threads()]


def test_candidates_double_up_to_the_most() -> None:
    assert Threads(6).candidates == [1, 2, 4, 6]
    assert Threads(8).candidates == [1, 2, 4, 8]
    assert Threads(1).candidates == [1]
    assert not Threads(1).open


def test_the_fastest_is_taken_and_again_when_others_come() -> None:
    machine = Machine()
    threads = Threads(6, machine.clock)
    assert threads.choose(machine.step) == torch.get_num_threads() == 2

    def slowed(steps: int) -> list[bool]:
        found = []
        for _ in range(steps):
            machine.step()
            found.append(threads.slowed())
        return found

    assert not any(slowed(1000))
    machine.taken |= {1: 0.025, 2: 0.1}  # another process has one of the cores
    assert sum(slowed(30)) == 1  # once, however long it lasts
    assert threads.choose(machine.step) == 1
    assert not any(slowed(1000))


def test_fit_measures_tells_and_leaves_torch_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cores, of which another process takes one after a while; the same model comes out."""
    torch.set_num_threads(2)
    chosen = iter([2, 1])
    told = iter([False] * 5 + [True] + [False] * 1000)

    def choose(threads: Threads, once: object) -> int:
        once()  # type: ignore[operator]
        count = next(chosen)
        torch.set_num_threads(count)
        return count

    monkeypatch.setattr(Threads, "choose", choose)
    monkeypatch.setattr(Threads, "slowed", lambda threads: next(told))
    found = linear_gaussian()
    fit(found, {"x": gaussian_rows(100)}, epochs=2, batch_size=10, machine=Machine_(device="cpu"))
    assert "steps became slow: 1 threads, not 2" in capsys.readouterr().err
    assert torch.get_num_threads() == 2
    plain = linear_gaussian()
    options = Machine_(device="cpu", threads=1)
    fit(plain, {"x": gaussian_rows(100)}, epochs=2, batch_size=10, machine=options, quiet=True)
    for one, other in zip(found.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="threads"):
        Machine_(threads=0)
