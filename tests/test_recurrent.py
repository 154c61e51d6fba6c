"""Recurrent and Plate: repetition inside a row, lengths, memory; each against an exact oracle."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from deeplvm.conditionals import Bernoulli, Beta, Categorical, Gaussian, StandardNormal
from deeplvm.core.joint import Joint, NotationError
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site
from deeplvm.gradients import Enumerated, Sampled
from deeplvm.likelihood import annealed_importance_sampling
from deeplvm.networks import GRU, LSTM, MLP, Features
from deeplvm.objectives import elbo
from deeplvm.recurrent import Plate, Recurrent


class Scaled(nn.Module):
    """N(weight * parent, scale^2)."""

    def __init__(self, weight: float, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = weight, scale

    def forward(self, parent: Tensor) -> Distribution:
        return Independent(Normal(self.weight * parent, self.scale), 1)


def chain(**options: Any) -> Recurrent:
    return Recurrent(
        {"z | z[-1]": Scaled(0.8, 0.6), "x | z": Scaled(1.5, 0.5)}, start={"z": 1}, **options
    )


def joint_normal(steps: int) -> MultivariateNormal:
    """The density of (z_1, ..., z_T, x_1, ..., x_T) of the chain above, written as one normal."""
    transition = torch.zeros(steps, steps)
    for t in range(steps):
        for s in range(t + 1):
            transition[t, s] = 0.6 * 0.8 ** (t - s)
    matrix = torch.zeros(2 * steps, 2 * steps)
    matrix[:steps, :steps] = transition
    matrix[steps:, :steps] = 1.5 * transition
    matrix[steps:, steps:] = 0.5 * torch.eye(steps)
    return MultivariateNormal(torch.zeros(2 * steps), matrix @ matrix.T)


def test_unrolled_density_is_the_joint_normal() -> None:
    z, x = torch.randn(3, 4, 1), torch.randn(3, 4, 1)
    expected = joint_normal(4).log_prob(torch.cat([z[..., 0], x[..., 0]], -1))
    trace = chain()({"z": z, "x": x})
    assert torch.allclose(trace.log_prob, expected, atol=1e-10)


def test_step_by_step_equals_all_at_once() -> None:
    """Drawn step by step, then scored in one evaluation: the same log-densities."""
    torch.manual_seed(0)
    joint = chain(repeats=6)
    drawn = joint({}, (2, 5))
    assert drawn["z"].value.shape == (2, 5, 6, 1)
    scored = joint(dict(drawn.items()), (2, 5))
    assert torch.allclose(drawn["z"].log_prob, scored["z"].log_prob, atol=1e-12)
    assert torch.allclose(drawn["x"].log_prob, scored["x"].log_prob, atol=1e-12)
    assert scored["z"].distribution is not None


class Smoother(nn.Module):
    """Exact q(z_1..T | x) of the chain as a conditional of the whole sequence."""

    def forward(self, x: Tensor) -> Distribution:
        steps = x.shape[1]
        normal = joint_normal(steps)
        both = normal.covariance_matrix
        gain = both[:steps, steps:] @ torch.linalg.inv(both[steps:, steps:])
        covariance = both[:steps, :steps] - gain @ both[steps:, :steps]
        base = MultivariateNormal((gain @ x)[..., 0], 0.5 * (covariance + covariance.T))
        return Sequence(base)


class Sequence(torch.distributions.TransformedDistribution):
    """A vector over time as a sequence of one-vectors, shape (T, 1)."""

    def __init__(self, base: Distribution) -> None:
        reshape = torch.distributions.ReshapeTransform(
            base.event_shape, torch.Size([*base.event_shape, 1])
        )
        super().__init__(base, [reshape])

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Sequence:
        return Sequence(self.base_dist.expand(batch_shape))


def test_exact_smoother_makes_the_log_weight_the_kalman_likelihood() -> None:
    """TB7: the marginal of a linear-Gaussian state space model."""
    torch.manual_seed(0)
    model = LatentVariableModel(chain(), Joint({"z | x": Smoother()}))
    x = torch.randn(5, 4, 1)
    weights = model.evidence({"x": x}, particles=8).log_weight
    marginal = MultivariateNormal(torch.zeros(4), joint_normal(4).covariance_matrix[4:, 4:])
    assert torch.allclose(weights, marginal.log_prob(x[..., 0]).expand(8, 5), atol=1e-9)


@pytest.mark.parametrize("kind", ["continuous", "integer"])
def test_what_lies_beyond_the_length_does_not_count(kind: str) -> None:
    torch.manual_seed(0)
    likelihood = Gaussian(2, MLP(3)) if kind == "continuous" else Categorical(4, MLP(3))
    joint = Recurrent(
        {
            "z | h[-1]": Gaussian(1, MLP(2)),
            "x | z, h[-1]": likelihood,
            "h | z, h[-1]": Features(MLP(3, 2)),
        },
        start={"h": 2},
        length="length",
        repeats=5,
    )
    x = torch.randn(3, 5, 2) if kind == "continuous" else torch.randint(4, (3, 5))
    z = torch.randn(3, 5, 1)
    length = torch.tensor([2, 5, 0])
    full = joint({"x": x, "z": z, "length": length})
    for row in range(3):
        keep = int(length[row])
        if keep == 0:
            assert full.log_prob[row] == 0
            continue
        short = joint(
            {
                "x": x[row : row + 1, :keep],
                "z": z[row : row + 1, :keep],
                "length": length[row : row + 1],
            }
        )
        assert torch.allclose(full.log_prob[row], short.log_prob[0], atol=1e-12)
    changed = x.clone()
    changed[0, 2:] = 3
    assert torch.equal(joint({"x": changed, "z": z, "length": length}).log_prob, full.log_prob)
    drawn = joint({"length": length}, (3,), default=Sampled())
    assert (drawn["x"].value[0, 2:] == 0).all()
    assert (drawn["z"].value[2] == 0).all()
    with pytest.raises(ValueError, match="needs the length of each row"):
        joint({"x": x, "z": z})


def vrnn(features: int = 3, hidden: int = 4) -> LatentVariableModel:
    torch.manual_seed(0)
    p = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(hidden)),
            "x | z, h[-1]": Bernoulli(features, MLP(2 + hidden, 6)),
            "h | x, z, h[-1]": Features(MLP(features + 2 + hidden, hidden)),
        },
        start={"h": hidden},
        repeats=5,
    )
    q = Recurrent(
        {"z | x, h[-1]": Gaussian(2, MLP(features + hidden, 6)), "h | x, z, h[-1]": p["h"]},
        start={"h": hidden},
    )
    return LatentVariableModel(p, q)


def test_vrnn_shares_its_state_and_equals_a_loop_by_hand() -> None:
    model = vrnn()
    x = (torch.rand(6, 5, 3) > 0.5).double()
    calls = [0]
    hook = model.p["h"].register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    evidence = model.evidence({"x": x}, particles=2)
    hook.remove()
    assert calls == [5]  # once a step in q, never again in p
    z = evidence.q["z"].value
    assert z.shape == (2, 6, 5, 2)
    state = torch.zeros(2, 6, 4)
    total = torch.zeros(2, 6)
    for t in range(5):
        now = x[:, t].expand(2, 6, 3)
        total = (
            total
            + model.p["z"](state).log_prob(z[:, :, t])
            - model.q["z"](now, state).log_prob(z[:, :, t])
        )
        total = total + model.p["x"](z[:, :, t], state).log_prob(now)
        state = model.p["h"](now, z[:, :, t], state)
    assert torch.allclose(evidence.log_weight, total, atol=1e-10)
    elbo(evidence).mean().backward()
    assert all([p.grad is not None for p in model.parameters()])
    assert model.sample(3)["x"].value.shape == (3, 5, 3)


def test_vrnn_step_is_one_graph() -> None:
    model = vrnn()
    x = (torch.rand(6, 5, 3) > 0.5).double()
    compiled = torch.compile(
        lambda x: elbo(model.evidence({"x": x})).mean(), fullgraph=True, backend="eager"
    )
    torch.manual_seed(0)
    expected = elbo(model.evidence({"x": x})).mean()
    torch.manual_seed(0)
    assert torch.allclose(compiled(x), expected)


def test_plate_in_a_joint_is_the_product_over_members() -> None:
    """A set model: c once a row, members independent given it; padding by length."""
    torch.manual_seed(0)
    members = Plate(
        {"z | c": Gaussian(2, MLP(1, 4)), "x | z, c": Gaussian(3, MLP(3, 4))},
        outside=["c"],
        length="n",
    )
    joint = Joint({"c": StandardNormal(1), "z, x | c": members})
    assert joint.inputs == ("n",)
    c, z, x = torch.randn(4, 1), torch.randn(4, 5, 2), torch.randn(4, 5, 3)
    n = torch.tensor([5, 3, 1, 0])
    trace = joint({"c": c, "z": z, "x": x, "n": n})
    expected = StandardNormal(1)().log_prob(c)
    for row in range(4):
        for member in range(int(n[row])):
            expected[row] += joint["z"](c[row]).log_prob(z[row, member])
            expected[row] += joint["x"](z[row, member], c[row]).log_prob(x[row, member])
    assert torch.allclose(trace.log_prob, expected, atol=1e-10)
    drawn = joint({"n": n, "x": x}, (7, 4))
    assert drawn["z"].value.shape == (7, 4, 5, 2)
    assert drawn.log_prob.shape == (7, 4)


def test_plate_of_latents_trains_inside_a_model() -> None:
    torch.manual_seed(0)
    p = Joint(
        {
            "c": StandardNormal(1),
            "z, x | c": Plate(
                {"z | c": Gaussian(2, MLP(1, 4)), "x | z, c": Bernoulli(3, MLP(3, 4))},
                outside=["c"],
            ),
        }
    )

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP(3, 5)
            self.out_features = 5

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).mean(-2)

    q = Joint(
        {
            "s | x": Features(Pooled()),
            "c | s": Gaussian(1, MLP(5)),
            "z | x, c": Plate({"z | x, c": Gaussian(2, MLP(4))}, outside=["c"]),
        }
    )
    model = LatentVariableModel(p, q)
    x = (torch.rand(6, 4, 3) > 0.5).double()
    evidence = model.evidence({"x": x}, particles=3)
    assert evidence.log_weight.shape == (3, 6)
    assert evidence.closed == {"c", "z"}
    closed = elbo(evidence, "analytic")
    assert closed.shape == (6,)
    # The divergence of the members is the sum over the plate.
    assert evidence.kl("z").shape == (3, 6)


def test_mistakes_are_named() -> None:
    with pytest.raises(
        NotationError, match=r"start=.*exactly the names read as name\[-1\]: z; it gives h"
    ):
        Recurrent({"z | z[-1]": Scaled(1, 1)}, start={"h": 1})
    with pytest.raises(NotationError, match=r"\['c'\] are said to come from outside"):
        Plate({"x": StandardNormal(1)}, outside=["c"])
    with pytest.raises(ValueError, match="set repeats=N"):
        chain()({}, (3,))
    with pytest.raises(ValueError, match="different numbers of steps"):
        chain()({"z": torch.zeros(2, 3, 1), "x": torch.zeros(2, 4, 1)})
    labels = Plate({"y": Categorical(3)}, repeats=11)
    with pytest.raises(ValueError, match="paths through its 11 steps, more than 4096"):
        labels({}, (3,), draw={"y": Enumerated()})


def test_learned_start_is_a_parameter() -> None:
    start = nn.Parameter(torch.zeros(1))
    joint = Recurrent({"z | z[-1]": Scaled(0.8, 0.6)}, start={"z": start})
    joint({"z": torch.ones(2, 3, 1)}).log_prob.sum().backward()
    assert start.grad is not None
    assert len(list(joint.parameters())) == 1


def test_particle_measure() -> None:
    trace = chain(repeats=2)({}, (4, 3))
    assert trace.log_measure == pytest.approx(-math.log(4))


def test_a_recurrent_part_of_a_joint() -> None:
    """A latent of the whole row beside a recurrence whose deterministic state reads itself."""
    torch.manual_seed(0)
    steps = Recurrent(
        {
            "z | h[-1], c": Gaussian(2, MLP(4 + 1)),
            "x | z, h[-1]": Bernoulli(3, MLP(2 + 4)),
            "h | x, z, h[-1]": Features(MLP(3 + 2 + 4, 4)),
        },
        start={"h": 4},
        outside=["c"],
        repeats=5,
    )
    p = Joint({"c": StandardNormal(1), "z, x, h | c": steps})
    inference = Recurrent(
        {"z | x, h[-1], c": Gaussian(2, MLP(3 + 4 + 1)), "h | x, z, h[-1]": steps["h"]},
        start={"h": 4},
        outside=["c"],
    )

    class Mean(nn.Module):
        out_features = 3

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(-2)

    q = Joint({"s | x": Features(Mean()), "c | s": Gaussian(1, MLP(3)), "z, h | x, c": inference})
    model = LatentVariableModel(p, q)
    x = (torch.rand(6, 5, 3) > 0.5).double()
    evidence = model.evidence({"x": x}, particles=2)
    assert evidence.log_weight.shape == (2, 6)
    assert set(evidence.latents) == {"c", "z"}
    assert "c" in evidence.closed
    assert elbo(evidence, "analytic").shape == (6,)
    c, z = evidence.q["c"].value, evidence.q["z"].value
    state, total = torch.zeros(2, 6, 4), model.p["c"]().log_prob(c)
    for t in range(5):
        total = total + model.p["z"](state, c).log_prob(z[:, :, t])
        total = total + model.p["x"](z[:, :, t], state).log_prob(x[:, t])
        state = steps["h"](x[:, t], z[:, :, t], state)
    scored = evidence.p["c"].log_prob + evidence.p["z"].log_prob + evidence.p["x"].log_prob
    assert torch.allclose(scored, total, atol=1e-10)


def test_recurrences_that_start_differently_keep_their_own_states() -> None:
    """p and q share a cell, and nothing but where it starts tells them apart."""
    torch.manual_seed(0)
    cell = GRU(3, 4)
    steps = {"h | x, h[-1]": cell, "z | h[-1]": Gaussian(2, MLP(4))}
    likelihood = Bernoulli(3, MLP(4))
    ones = torch.ones(4)
    p = Recurrent({"x | h[-1]": likelihood, **steps}, start={"h": ones})
    x = (torch.rand(5, 6, 3) > 0.5).double()
    same = LatentVariableModel(p, Recurrent(steps, start={"h": ones}))
    assert "h" in same.common
    for start in (4, torch.zeros(4), torch.ones(4)):
        model = LatentVariableModel(p, Recurrent(steps, start={"h": start}))
        evidence = model.evidence({"x": x})
        alone = p({"x": x, "z": evidence.q["z"].value})
        assert torch.allclose(evidence.p.log_prob, alone.log_prob, atol=1e-12)


@pytest.mark.parametrize("where", ["bare", "inside a joint with other parents"])
def test_a_cell_runs_once_a_step(where: str) -> None:
    torch.manual_seed(0)
    calls = [0]
    cell = GRU(5, 4)
    cell.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    p: nn.Module = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(4)),
            "x | z, h[-1]": Bernoulli(3, MLP(6)),
            "h | x, z, h[-1]": cell,
        },
        start={"h": 4},
    )
    q: nn.Module = Recurrent(
        {"z | x, h[-1]": Gaussian(2, MLP(7)), "h | x, z, h[-1]": cell}, start={"h": 4}
    )
    if where != "bare":
        p, q = Joint({"z, x, h": p}), Joint({"z, h | x": q})
    x = (torch.rand(5, 8, 3) > 0.5).double()
    evidence = LatentVariableModel(p, q).evidence({"x": x})
    assert calls == [8]
    alone = p({"x": x, "z": evidence.q["z"].value})
    assert torch.allclose(evidence.p.log_prob, alone.log_prob, atol=1e-12)


def test_remembered_integers_are_scored_as_they_are_drawn() -> None:
    torch.manual_seed(0)
    token = Categorical(4, MLP(4, 6))
    for start in (4, torch.zeros(4), torch.tensor(1)):
        joint = Recurrent({"w | w[-1]": token}, start={"w": start}, repeats=5)
        drawn = joint({}, (6,), default=Sampled())
        w = drawn["w"].value
        assert w.shape == (6, 5)
        scored = joint({"w": w})["w"].log_prob
        assert torch.allclose(scored, drawn["w"].log_prob, atol=1e-12)
        index = isinstance(start, Tensor) and not start.is_floating_point()
        before = torch.eye(4)[start].expand(6, 4) if index else torch.zeros(6, 4)
        total = torch.zeros(6)
        for t in range(5):
            total = total + token(before).log_prob(w[:, t])
            before = torch.eye(4)[w[:, t]]
        assert torch.allclose(scored, total, atol=1e-12)
    with pytest.raises(ValueError, match=r"start gives 'w' the shape \(3,\)"):
        Recurrent({"w | w[-1]": token}, start={"w": 3})({"w": w})


def test_lags_of_several_steps() -> None:
    """x_t = 0.5 x_{t-1} - 0.3 x_{t-3} + noise, and an input u read a step before and after."""
    weights = torch.tensor([0.5, -0.3])

    class Sum(nn.Module):
        def forward(self, *parents: Tensor) -> Distribution:
            mean = sum([w * x for w, x in zip(weights, parents[:2], strict=True)])
            return Independent(Normal(mean + sum(parents[2:]), 0.7), 1)

    joint = Recurrent(
        {"x | x[-1], x[-3], u[-2], u[+1]": Sum()}, start={"x": 1, "u": torch.tensor([0.2])}
    )
    u, x = torch.randn(4, 6, 1), torch.randn(4, 6, 1)
    total = torch.zeros(4)

    def read(values: Tensor, t: int, start: float) -> Tensor:
        return values[:, t] if 0 <= t < 6 else torch.full((4, 1), start)

    for t in range(6):
        mean = 0.5 * read(x, t - 1, 0.0) - 0.3 * read(x, t - 3, 0.0)
        mean = mean + read(u, t - 2, 0.2) + read(u, t + 1, 0.2)
        total = total + Normal(mean, 0.7).log_prob(x[:, t])[:, 0]
    assert torch.allclose(joint({"x": x, "u": u}).log_prob, total, atol=1e-12)
    drawn = joint({"u": u})
    again = joint({"u": u, "x": drawn["x"].value})
    assert torch.allclose(drawn.log_prob, again.log_prob, atol=1e-12)


@pytest.mark.parametrize("lengths", [False, True])
def test_backwards_in_time_is_forwards_on_the_reversed_rows(lengths: bool) -> None:
    """With lengths every row begins at its own last step."""
    torch.manual_seed(0)
    factors = {"a": GRU(3, 4), "z": Gaussian(2, MLP(4 + 2))}
    options: Any = {"length": "n"} if lengths else {}
    back = Recurrent(
        {"a | x, a[+1]": factors["a"], "z | a, z[+1]": factors["z"]},
        start={"a": torch.ones(4), "z": 2}, **options,
    )  # fmt: skip
    ahead = Recurrent(
        {"a | x, a[-1]": factors["a"], "z | a, z[-1]": factors["z"]},
        start={"a": torch.ones(4), "z": 2},
    )
    x, n = torch.randn(3, 5, 3), torch.tensor([5, 3, 1])
    given = {"x": x} | ({"n": n} if lengths else {})
    drawn = back(given, (2, 3))
    z = drawn["z"].value
    scored = back({**given, "z": drawn["z"]}, (2, 3))
    assert torch.allclose(scored["z"].log_prob, drawn["z"].log_prob, atol=1e-12)
    for row, steps in enumerate(n if lengths else [5, 5, 5]):
        reverse = slice(row, row + 1), slice(0, int(steps))
        one = ahead({"x": x[reverse].flip(1), "z": z[0][reverse].flip(1)})
        assert torch.allclose(one["z"].log_prob, drawn["z"].log_prob[0, row : row + 1], atol=1e-12)
        assert torch.allclose(one["a"].value.flip(1), drawn["a"].value[reverse], atol=1e-12)


@pytest.mark.parametrize("lag", [-1, 1])
@pytest.mark.parametrize("cell", [GRU(3 + 2, 4), LSTM(3 + 2, 2)], ids=["GRU", "LSTM"])
def test_a_cell_computes_all_steps_in_one_call(cell: nn.Module, lag: int) -> None:
    """What it is given are steps and particles; each row begins at a state of its own."""
    torch.manual_seed(0)
    cell = cell.double()
    calls = [0]
    hook = cell.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    joint = Recurrent(
        {f"a | x, c, a[{lag:+d}]": cell, "y | a": Gaussian(2, MLP(4))},
        start={"a": "s"}, outside=["c"], length="n",
    )  # fmt: skip
    assert set(joint.inputs) == {"x", "c", "s", "n"}
    assert "s" in [parent.name for parent in joint.parents("a")]
    x, y, n = torch.randn(3, 5, 3), torch.randn(3, 5, 2), torch.tensor([5, 3, 1])
    c, s = torch.randn(6, 3, 2), torch.randn(3, 4)
    model = Joint({"c": StandardNormal(2), "a, y | x, c, s, n": joint})
    given = {"x": x, "y": y, "n": n, "c": Site(c, batch_dims=2), "s": s}
    trace = model(given, (6, 3))
    assert calls == [1]
    hook.remove()
    for row, steps in enumerate(n.tolist()):
        state = s[row].expand(6, 4)
        for t in range(steps) if lag < 0 else range(steps)[::-1]:
            state = cell(x[row, t].expand(6, 3), c[:, row], state)
            assert torch.allclose(trace["a"].value[:, row, t], state, atol=1e-12)
        assert not trace["a"].value[:, row, steps:].any()


def test_both_directions_at_once_are_refused() -> None:
    with pytest.raises(NotationError, match="neither direction"):
        Recurrent({"z | z[-1], z[+1]": Scaled(1, 1)}, start={"z": 1})


def test_a_smoother_reads_a_backward_recurrence_in_a_few_lines() -> None:
    """DKS of Structured Inference Networks: q(z_t | z_{t-1}, x_t, ..., x_T)."""
    torch.manual_seed(0)
    p = Recurrent(
        {"z | z[-1]": Gaussian(2, MLP(2)), "x | z": Bernoulli(3, MLP(2))},
        start={"z": 2}, length="n",
    )  # fmt: skip
    q = Joint(
        {
            "a | x": Recurrent({"a | x, a[+1]": GRU(3, 4)}, start={"a": 4}, length="n"),
            "z | a": Recurrent({"z | z[-1], a": Gaussian(2, MLP(6))}, start={"z": 2}, length="n"),
        }
    )
    model = LatentVariableModel(p, q)
    given = {"x": (torch.rand(4, 5, 3) > 0.5).double(), "n": torch.tensor([5, 3, 2, 1])}
    evidence = model.evidence(given, particles=3)
    assert "z" in evidence.closed
    changed = given["x"].clone()
    changed[:, 3] = 1 - changed[:, 3]  # what is ahead is read, and what is beyond the end is not
    again = q({**given, "x": changed})["a"].value
    before = q(given)["a"].value
    assert not torch.allclose(again[0, 0], before[0, 0])
    assert torch.equal(again[1:], before[1:])


def until(end: str, **options: Any) -> Recurrent:
    """A walk that ends by a binary name of its own, or by a token."""
    torch.manual_seed(0)
    if end == "stop":
        return Recurrent(
            {
                "x | x[-1]": Scaled(0.8, 0.6),
                "stop | x": Bernoulli(1, MLP(1, 4)),
            },
            start={"x": 1}, length="n", end={"stop": 1}, **options,
        )  # fmt: skip
    return Recurrent(
        {"w | w[-1]": Categorical(3, MLP(3, 4))},
        start={"w": 3}, length="n", end={"w": 1}, **options,
    )  # fmt: skip


def test_rows_that_end_inside_another_repetition() -> None:
    """Utterances in a dialogue: as long as ``repeats`` says, of which each ends by itself."""
    turns = Recurrent(
        {"w, n | c[-1]": until("w", repeats=7), "c | n, c[-1]": Count()}, start={"c": 1}, repeats=4
    )
    trace = LatentVariableModel(turns).sample(50)
    n, w = trace["n"].value, trace["w"].value
    assert w.shape == (50, 4, 7)
    assert len(n.unique()) > 2
    assert torch.equal(trace["c"].value[..., 0], n.cumsum(-1).double())
    again = LatentVariableModel(turns).evidence({"w": w})
    torch.testing.assert_close(again.log_weight, trace["w"].log_prob)
    with pytest.raises(ValueError, match="set repeats=N"):
        Plate({"w, n": until("w")}, repeats=2)({}, (3,))


class Count(nn.Module):
    """How many there were so far."""

    out_features = 1

    def forward(self, more: Tensor, before: Tensor) -> Tensor:
        return before + more.unsqueeze(-1)


@pytest.mark.parametrize("end", ["stop", "w"])
def test_a_model_ends_its_rows_itself(end: str) -> None:
    joint = until(end)
    trace = LatentVariableModel(joint).sample(200)
    n = trace["n"].value
    steps = trace[end].value.shape[1]
    assert n.shape == (200,)
    assert int(n.min()) >= 1
    assert int(n.max()) == steps
    value = trace[end].value.reshape(200, steps)
    for row in range(200):
        assert value[row, n[row] - 1] == 1
        assert (value[row, : n[row] - 1] != 1).all()
        assert (value[row, n[row] :] == 0).all()
    given = {name: trace[name].value for name in joint.step.names}
    again = joint(given)
    assert torch.equal(again["n"].value, n)
    assert torch.allclose(again.log_prob, trace.log_prob, atol=1e-12)
    by_length = joint({**given, "n": n})  # the same said twice
    assert torch.allclose(by_length.log_prob, trace.log_prob, atol=1e-12)
    model = LatentVariableModel(Joint({", ".join(joint.names): joint}))
    assert torch.allclose(model.evidence(given).log_weight, trace.log_prob, atol=1e-12)
    assert model.sample(3)["n"].value.shape == (3,)


def test_the_end_of_a_row_counts() -> None:
    """All sequences of at most four tokens, and what has not ended by then, are one."""
    joint = until("w")
    paths = torch.tensor(list(itertools.product(range(3), repeat=4)))
    trace = joint({"w": paths})
    ended = {}
    for row, path in enumerate(paths.tolist()):
        n = int(trace["n"].value[row])
        assert n == (path.index(1) + 1 if 1 in path else 4)
        ended[tuple(path[:n])] = trace.log_prob[row].exp().detach()
    assert float(sum(ended.values())) == pytest.approx(1, abs=1e-12)


def test_a_length_says_what_a_binary_end_is() -> None:
    joint = until("stop")
    x, n = torch.randn(3, 4, 1), torch.tensor([4, 2, 1])
    stop = (torch.arange(1, 5) == n[:, None]).double()[..., None]
    expected = joint({"x": x, "stop": stop})
    found = joint({"x": x, "n": n})
    assert torch.allclose(found.log_prob, expected.log_prob, atol=1e-12)
    assert not torch.allclose(found.log_prob, found["x"].log_prob.expand(3), atol=1e-3)
    drawn = LatentVariableModel(joint).sample(given={"n": n})
    assert drawn["x"].value.shape == (3, 4, 1)
    assert (drawn["x"].value[2, 1:] == 0).all()


def test_rows_that_do_not_end_stop_at_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = LatentVariableModel(until("w", repeats=2)).sample(500)
    assert trace["w"].value.shape == (500, 2)
    assert set(trace["n"].value.tolist()) == {1, 2}
    never = Recurrent(
        {"x | x[-1]": Scaled(0.8, 0.6), "stop": Bernoulli(1, mean=0.01)},
        start={"x": 1}, length="n", end={"stop": 2},
    )  # fmt: skip
    monkeypatch.setattr("deeplvm.unrolled._LONGEST", 50)
    with pytest.raises(ValueError, match="have not ended after 50 steps; set repeats=N"):
        never({}, (1,), default=Sampled())


def test_ends_that_cannot_be_are_refused() -> None:
    for name, length in (("w", None), ("v", "n")):
        with pytest.raises(NotationError, match=r"end=\{\.\.\.\} says which value of one name"):
            Recurrent({"w": Categorical(3)}, start={}, end={name: 1}, length=length)
    with pytest.raises(ValueError, match="does not say the values of 'w'"):
        Recurrent({"w": Beta(1)}, start={}, length="n", end={"w": 1})({"n": torch.tensor([2])})


@pytest.mark.parametrize("length", [None, "n"])
def test_chains_walk_through_the_steps_of_a_recurrence(length: str | None) -> None:
    """Annealing against the exact likelihood, 5 of its standard errors: one in 10^6 fails."""
    torch.manual_seed(0)
    model = LatentVariableModel(chain(length=length), Joint({}))
    x = torch.randn(2, 4, 1)
    given = {"x": x} | ({length: torch.tensor([4, 2])} if length else {})
    estimate = annealed_importance_sampling(model, given, 64, 60)
    found, error = estimate.log_px, estimate.log_px_stderr
    assert (error < 0.2).all()
    for row, steps in enumerate([4, 2] if length else [4, 4]):
        covariance = joint_normal(steps).covariance_matrix[steps:, steps:]
        exact = MultivariateNormal(torch.zeros(steps), covariance).log_prob(x[row, :steps, 0])
        assert abs(float(found[row] - exact)) < 5 * error[row]
