"""The bound of rows of which some have a label, by brute force (R4.5.1a)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.training.measure import filled_in

CLASSES = 3
EVERY = {"y": Enumerated()}


@pytest.fixture
def model() -> LatentVariableModel:
    p = Joint({"y": Categorical(CLASSES), "x | y": Bernoulli(4, MLP(CLASSES, 5))})
    q = Joint({"y | x": Categorical(CLASSES, MLP(4, 5))})
    return LatentVariableModel(p, q).double()


@pytest.fixture
def x() -> Tensor:
    return (torch.rand(6, 4) < 0.5).double()


def by_hand(model: LatentVariableModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, y) and log q(y | x) of every label, shape ``(rows, classes)``."""
    q = model.q["y"](x)
    joint, log_q = [], []
    for label in range(CLASSES):
        y = torch.full((len(x),), float(label), dtype=x.dtype)
        seen = model.p["y"].embed(y)
        joint.append(model.p["y"]().log_prob(y) + model.p["x"](seen).log_prob(x))
        log_q.append(q.log_prob(y))
    return torch.stack(joint, 1), torch.stack(log_q, 1)


def test_labelled_and_unlabelled_rows_of_one_batch(model: LatentVariableModel, x: Tensor) -> None:
    joint, log_q = by_hand(model, x)
    labels = torch.tensor([2.0, torch.nan, 0.0, torch.nan, 1.0, 1.0], dtype=x.dtype)
    unlabelled = (log_q.exp() * (joint - log_q)).sum(1)
    at = labels.nan_to_num().long()[:, None]
    labelled = (joint + 0.7 * log_q).gather(1, at)[:, 0]
    found = semi_supervised_elbo(model.evidence({"x": x, "y": labels}, draw=EVERY), weight=0.7)
    torch.testing.assert_close(found, torch.where(labels.isnan(), unlabelled, labelled))
    none = semi_supervised_elbo(model.evidence({"x": x}, draw=EVERY), weight=0.7)
    torch.testing.assert_close(none, unlabelled)
    every = semi_supervised_elbo(model.evidence({"x": x, "y": at[:, 0]}), weight=0.7)
    torch.testing.assert_close(every, labelled)


def test_the_classifier_learns_from_labelled_rows(model: LatentVariableModel, x: Tensor) -> None:
    labels = torch.tensor([2, 0, 0, 1, 1, 1])
    evidence = model.evidence({"x": x, "y": labels})
    weights = [*model.q.parameters()]
    assert not any(
        each.any()
        for each in torch.autograd.grad(
            elbo(evidence).sum(), weights, allow_unused=True, materialize_grads=True
        )
    )
    evidence = model.evidence({"x": x, "y": labels})
    gradients = torch.autograd.grad(semi_supervised_elbo(evidence).sum(), weights)
    assert all(each.any() for each in gradients)


def test_a_certain_classifier_makes_the_bounds_equal() -> None:
    """With q(y | x) on one label the unlabelled bound is the labelled one of that label."""
    certain = Categorical(CLASSES, MLP(4))
    with torch.no_grad():
        certain.head.layer.weight.zero_()
        certain.head.layer.bias.copy_(torch.tensor([-400.0, 0.0, -400.0]))
    p = {"y": Categorical(CLASSES), "z": StandardNormal(2), "x | y, z": Bernoulli(4, MLP(5, 6))}
    q = Joint({"y | x": certain, "z | x, y": Gaussian(2, MLP(4 + CLASSES, 5))})
    model = LatentVariableModel(Joint(p), q)
    x = (torch.rand(5, 4) < 0.5).double()
    torch.manual_seed(1)
    labelled = elbo(model.evidence({"x": x, "y": torch.ones(5)}, particles=3000))
    unlabelled = elbo(model.evidence({"x": x}, draw=EVERY, particles=3000))
    # 3,000 draws of weights that differ by less than a nat: 4 errors are 0.07 at most
    torch.testing.assert_close(unlabelled, labelled, rtol=0, atol=0.07)


def test_a_certain_classifier_makes_them_equal_exactly_where_nothing_is_drawn(
    model: LatentVariableModel, x: Tensor
) -> None:
    with torch.no_grad():
        for weights in model.q.parameters():
            weights.zero_()
        [*model.q.parameters()][-1].copy_(torch.tensor([-900.0, 0.0, -900.0]))
    labelled = elbo(model.evidence({"x": x, "y": torch.ones(len(x))}))
    unlabelled = elbo(model.evidence({"x": x}, draw=EVERY))
    torch.testing.assert_close(unlabelled, labelled, rtol=0, atol=1e-9)


def test_few_labels_count_as_many(model: LatentVariableModel, x: Tensor) -> None:
    """The mean of log q(y | x) over labelled rows stands beside the mean of the bound."""
    labels = torch.tensor([2.0, torch.nan, torch.nan, torch.nan, torch.nan, 1.0], dtype=x.dtype)
    evidence = model.evidence({"x": x, "y": labels}, draw=EVERY)
    told = filled_in(partial(semi_supervised_elbo, weight=0.3), 6, lambda name: 2 / 6)
    log_q = by_hand(model, x)[1]
    expected = elbo(evidence).mean() + 0.3 * (log_q[0, 2] + log_q[5, 1]) / 2
    torch.testing.assert_close(told(evidence).mean(), expected)


def test_few_labels_are_a_share_of_the_bounds(model: LatentVariableModel, x: Tensor) -> None:
    labels = torch.tensor([2.0, torch.nan, torch.nan, torch.nan, torch.nan, 1.0], dtype=x.dtype)
    evidence = model.evidence({"x": x, "y": labels}, draw=EVERY)
    bounds, known = elbo(evidence), ~labels.isnan()
    told = filled_in(partial(semi_supervised_elbo, weight=0.0, share=0.5), 6, lambda _: 2 / 6)
    expected = 0.5 * bounds[known].mean() + 0.5 * bounds[~known].mean()
    torch.testing.assert_close(told(evidence).mean(), expected)
    none = told(model.evidence({"x": x[1:5]}, draw=EVERY))  # a batch of rows without a label
    torch.testing.assert_close(none.mean(), 0.75 * bounds[1:5].mean())
    enough = filled_in(partial(semi_supervised_elbo, weight=0.0, share=0.3), 6, lambda _: 2 / 6)
    torch.testing.assert_close(enough(evidence), bounds)


def test_without_a_classifier_it_is_refused() -> None:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(4, MLP(2, 5))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4, 5))}))
    with pytest.raises(ValueError, match="no density of 'y'"):
        semi_supervised_elbo(model.evidence({"x": torch.ones(2, 4)}))
