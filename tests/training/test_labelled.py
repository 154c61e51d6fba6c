"""Few labels: rows that have one in every batch, and layers that are trained apart."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.learning import stacked
from deeplvm.networks import MLP
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.training import fit
from deeplvm.training.batches import Balance, batches_of

EVERY = {"y": Enumerated()}
CPU = torch.device("cpu")


def model() -> LatentVariableModel:
    p = {"y": Categorical(2), "z2": StandardNormal(1), "z1 | y, z2": Gaussian(2, MLP(3, 4))}
    q = {"z1 | x": Gaussian(2, MLP(3, 4)), "y | z1": Categorical(2, MLP(2, 4))}
    return LatentVariableModel(
        Joint(p | {"x | z1": Gaussian(3, MLP(2, 4))}),
        Joint(q | {"z2 | z1, y": Gaussian(1, MLP(4, 4))}),
    )


def rows(labelled: int = 5) -> dict[str, torch.Tensor]:
    y = torch.full((20,), torch.nan)
    y[torch.randperm(20)[:labelled]] = torch.arange(labelled) % 2 + 0.0
    return {"x": torch.randn(20, 3), "y": y}


def test_rows_count_in_all_as_they_do_by_themselves() -> None:
    """Half of each batch of 4 has a label; in three epochs of 20 rows each row counts three."""
    data = rows()
    batches = batches_of(model(), data, None, None, CPU, labelled=0.5)
    assert isinstance(batches.balance, Balance)
    counted: dict[int, float] = dict.fromkeys(range(20), 0.0)
    for epoch in (1, 2, 3):
        each = [*batches.order(epoch, 0, 4)]
        again = [*batches.order(epoch, 0, 4, first=2)]
        assert all(torch.equal(one, other) for one, other in zip(each[2:], again, strict=True))
        for index in each:
            batch = batches("train", index)
            assert int((~batch["y"].isnan()).sum()) == 2
            evidence = model().evidence(batch, draw=EVERY)
            weights = batches.balance.weights(evidence).tolist()
            for row, weight in zip(index.tolist(), weights, strict=True):
                counted[row] += weight
    assert {row: pytest.approx(count) for row, count in counted.items()} == dict.fromkeys(
        range(20), 3.0
    )


@pytest.mark.parametrize(
    "share, names, match",
    [(1.5, "xy", "a share of a batch in"), (0.5, "x", "the model has no label y")],
)
def test_what_makes_no_sense_is_refused(share: float, names: str, match: str) -> None:
    plain = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1))}),
        Joint({"z | x": Gaussian(1, MLP(3))}),
    )
    chosen = model() if "y" in names else plain
    with pytest.raises(ValueError, match=match):
        fit(chosen, rows(), labelled=share, draw=EVERY, quiet=True)


def test_labels_do_not_reach_the_lower_of_two_stacked_layers() -> None:
    """It has the weights of a VAE by itself, whatever the labels are."""
    data, start, ends = rows(), model(), []
    for labels in (data["y"], 1 - data["y"]):
        again = model()
        again.load_state_dict(start.state_dict())
        fit(
            again, data | {"y": labels}, phases=stacked(), objective=semi_supervised_elbo,
            draw=EVERY, epochs=2, batch_size=10, quiet=True,
        )  # fmt: skip
        ends.append(again)
    lower = [[*one.q["z1"].parameters(), *one.p["x"].parameters()] for one in ends]
    for one, other in zip(*lower, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    first, second = [torch.cat([v.flatten() for v in one.q["y"].parameters()]) for one in ends]
    assert not torch.equal(first, second)
    assert not torch.equal(lower[0][0], next(start.q["z1"].parameters()))


def test_labels_of_held_out_rows_count_as_these_have_them() -> None:
    """A quarter of the training rows have a label, all held-out rows: their mean is over all."""
    chosen, held = model(), {"x": torch.randn(8, 3), "y": torch.arange(8.0) % 2}
    way = partial(semi_supervised_elbo, weight=0.5, share=0.4)
    past = fit(
        chosen, rows(), valid=held, objective=way, draw=EVERY, epochs=1, quiet=True, seed=3
    )  # fmt: skip
    found = past.epochs[0]["valid"]
    log_q = found["semi_supervised_elbo"] - found["elbo"]
    with torch.no_grad():
        draws = [chosen.evidence(held, draw=EVERY).q["y"] for _ in range(400)]
        expected = 0.5 * torch.stack([d.distribution.log_prob(held["y"]) for d in draws]).mean()
    assert log_q == pytest.approx(expected.item(), rel=0.1)


def test_stacked_wants_its_factors() -> None:
    with pytest.raises(ValueError, match=r"trains q\(y \| x\) by itself, which is no factor"):
        fit(model(), rows(), phases=stacked(latent="y"), objective=elbo, draw=EVERY, quiet=True)
