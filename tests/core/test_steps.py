"""What repeats keeps its distributions: credit, closed forms and lengths, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from deeplvm import iwae
from deeplvm.conditionals import (
    Bernoulli,
    Beta,
    Categorical,
    FullCovarianceGaussian,
    Gamma,
    Gaussian,
    Laplace,
    OneHot,
    StandardNormal,
)
from deeplvm.core.draws import Enumerated, Suited
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import Masked, Steps
from deeplvm.core.trace import has_marginals, score
from deeplvm.gradients.named import estimator_of
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import GRU, MLP
from deeplvm.objectives import elbo, free_bits
from deeplvm.recurrent import Plate, Recurrent

STEPS = 3
LENGTHS = torch.tensor([3, 2])


def sharpened(model: LatentVariableModel) -> LatentVariableModel:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


def hidden_markov(length: str | None = None) -> LatentVariableModel:
    torch.manual_seed(0)
    p = Recurrent(
        {"k | k[-1]": OneHot(2, MLP(2)), "x | k": Bernoulli(3, MLP(2))},
        start={"k": 2}, length=length,
    )  # fmt: skip
    q = Recurrent({"k | x, k[-1]": OneHot(2, MLP(5))}, start={"k": 2}, length=length)
    return sharpened(LatentVariableModel(p, q))


def plate(length: str | None = None) -> LatentVariableModel:
    torch.manual_seed(0)
    p = Plate({"k": OneHot(2), "x | k": Bernoulli(3, MLP(2))}, length=length)
    return sharpened(LatentVariableModel(p, Plate({"k | x": OneHot(2, MLP(3))}, length=length)))


def rows(length: str | None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    given = {"x": (torch.rand(2, STEPS, 3) > 0.5).double()}
    return given | ({length: LENGTHS} if length else {})


def exact_elbo(model: LatentVariableModel, given: dict[str, Tensor]) -> Tensor:
    """By summing over all paths; beyond a length every path is zeros and counts as one."""
    total = torch.zeros(())
    for row in range(2):
        steps = int(given["n"][row]) if "n" in given else STEPS
        paths = [list(path) for path in itertools.product([0, 1], repeat=steps)]
        k = torch.zeros(len(paths), STEPS, 2)
        k[:, :steps] = torch.eye(2)[torch.tensor(paths)]
        here = {
            name: value[row : row + 1].expand(len(paths), *value.shape[1:])
            for name, value in given.items()
        }
        log_q = model.q({**here, "k": k})["k"].log_prob
        log_p = model.p({**here, "k": k}).log_prob
        assert log_q is not None
        total = total + (log_q.exp() * (log_p - log_q)).sum()
    return total / 2


MODELS = {
    "a recurrence": (hidden_markov, None),
    "a recurrence with lengths": (hidden_markov, "n"),
    "a plate": (plate, None),
    "a plate with lengths": (plate, "n"),
}


@pytest.mark.parametrize("build, length", MODELS.values(), ids=MODELS.keys())
def test_a_default_estimator_credits_discrete_latents(
    build: Callable[..., LatentVariableModel], length: str | None
) -> None:
    """Against enumeration, 5 standard errors: by chance one in 40,000 settings fails."""
    model, given = build(length), rows(length)
    parameters = list(model.q.parameters())
    exact = torch.cat(
        [g.flatten() for g in torch.autograd.grad(exact_elbo(model, given), parameters)]
    )
    assert float(exact.norm()) > 0.1
    many = {name: value.repeat(100, *[1] * (value.dim() - 1)) for name, value in given.items()}
    torch.manual_seed(2)
    default = Suited(estimator_of("vimco"))
    found = []
    for _ in range(40):
        value, _ = model.estimate(elbo, many, particles=3, default=default)
        grads = torch.autograd.grad(value.mean(), parameters)
        found.append(torch.cat([g.flatten() for g in grads]))
    each = torch.stack(found)
    error = each.std(0) / len(found) ** 0.5
    assert ((each.mean(0) - exact).abs() < 5 * error + 1e-9).all()
    assert (each.mean(0) - exact).norm() < 0.2 * exact.norm()


def vrnn(length: str | None = None) -> LatentVariableModel:
    torch.manual_seed(0)
    cell = GRU(5, 4)
    p = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(4, 6)),
            "x | z, h[-1]": Bernoulli(3, MLP(6)),
            "h | x, z, h[-1]": cell,
        },
        start={"h": 4}, length=length,
    )  # fmt: skip
    q = Recurrent(
        {"z | x, h[-1]": Gaussian(2, MLP(7, 6)), "h | x, z, h[-1]": cell},
        start={"h": 4}, length=length,
    )  # fmt: skip
    return LatentVariableModel(p, q)


@pytest.mark.parametrize("length", [None, "n"])
def test_divergences_of_a_recurrence_are_sums_over_steps(length: str | None) -> None:
    model, given = vrnn(length), rows(length)
    evidence = model.evidence(given, particles=4)
    assert "z" in evidence.closed
    z, x = evidence.q["z"].value, given["x"]
    state, kl, entropy = torch.zeros(4, 2, 4), torch.zeros(4, 2), torch.zeros(4, 2)
    for t in range(STEPS):
        q = model.q["z"](x[:, t].expand(4, 2, 3), state)
        counts = (t < LENGTHS if length else torch.ones(2)).double()
        kl = kl + counts * kl_divergence(q, model.p["z"](state))
        entropy = entropy + counts * q.entropy()
        state = model.p["h"](x[:, t], z[:, :, t], state)
    assert torch.allclose(evidence.kl("z"), kl, atol=1e-10)
    assert torch.allclose(evidence.entropy("z"), entropy, atol=1e-10)
    assert torch.allclose(evidence.kl_by_dimension("z").sum((-2, -1)), kl, atol=1e-10)
    # a weight of the latents, and free bits, act on them
    half = elbo(evidence.temper(0.5), "analytic") - elbo(evidence, "analytic")
    assert torch.allclose(half, 0.5 * kl.mean(0), atol=1e-10)
    by_step, by_dimension = evidence.kl_by_step("z"), evidence.kl_by_dimension("z")
    assert torch.allclose(by_step, by_dimension.sum(-1), atol=1e-10)
    free = elbo(evidence.temper(0.0), "analytic").sum()
    for groups, each in (("step", by_step), ("dimension", by_dimension)):
        floored = free_bits(evidence, 0.3, groups=groups).sum()  # type: ignore[arg-type]
        expected = free - 2 * each.mean((0, 1)).clamp(min=0.3).sum()
        assert torch.allclose(floored, expected, atol=1e-10)


def test_closed_forms_have_the_mean_of_the_sampled_ones() -> None:
    """50,000 draws, 5 standard errors: by chance one of 10^6 settings fails."""
    model, given = vrnn("n"), rows("n")
    with torch.no_grad():
        torch.manual_seed(0)
        evidence = model.evidence(given, particles=50_000)
        difference = evidence.kl("z") + evidence.terms["z"]
    error = difference.std(0) / 50_000**0.5
    assert (difference.mean(0).abs() < 5 * error).all()


@pytest.mark.parametrize("runs", ["forwards", "backwards", "without memory"])
def test_a_divergence_is_closed_only_where_what_p_reads_is_drawn_before(runs: str) -> None:
    p = Recurrent(
        {"z | z[-1]": Gaussian(1, MLP(1)), "x | z": Bernoulli(3, MLP(1))}, start={"z": 1}
    )
    read = {"forwards": ", z[-1]", "backwards": ", z[+1]", "without memory": ""}[runs]
    network = MLP(3 if not read else 4)
    q = Recurrent({f"z | x{read}": Gaussian(1, network)}, start={"z": 1} if read else {})
    evidence = LatentVariableModel(p, q).evidence(rows(None))
    assert ("z" in evidence.closed) == (runs != "backwards")


def test_members_of_a_plate_are_summed_whatever_their_distributions_repeat() -> None:
    """A free posterior in a plate, the same for all members, counts once a member."""
    p = Plate({"z": StandardNormal(2), "x | z": Bernoulli(3, MLP(2))})
    q = Plate({"z": Gaussian(2)}, repeats=STEPS)
    with torch.no_grad():
        for weight in q.parameters():
            weight.add_(0.5)
    evidence = LatentVariableModel(p, q).evidence(rows(None), particles=4)
    one = kl_divergence(q["z"](), p["z"]())
    assert torch.allclose(evidence.kl("z").expand(4, 2), (STEPS * one).expand(4, 2))
    r = Plate({"z | x": Gaussian(2, MLP(3))})
    many = LatentVariableModel(p, r).evidence(rows(None), particles=4)
    each = kl_divergence(r["z"](rows(None)["x"]), p["z"]())
    assert torch.allclose(many.kl("z"), each.sum(-1))


FAMILIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "Gaussian": partial(Gaussian, 2),
    "Bernoulli": partial(Bernoulli, 2),
    "OneHot": partial(OneHot, 3),
    "Categorical": partial(Categorical, 3),
    "Beta": partial(Beta, 2),
    "Gamma": partial(Gamma, 2),
    "Laplace": partial(Laplace, 2),
    "FullCovarianceGaussian": partial(FullCovarianceGaussian, 2),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_their_steps(family: str) -> None:
    torch.manual_seed(0)
    conditional = FAMILIES[family](MLP(2))
    inputs = torch.randn(5, STEPS, 2)
    whole = conditional(inputs)
    steps = Steps([conditional(each) for each in inputs.unbind(1)])
    assert steps.batch_shape == whole.batch_shape
    assert steps.event_shape == whole.event_shape
    value = whole.sample()
    assert torch.allclose(steps.log_prob(value), whole.log_prob(value))
    for of in ("mean", "variance"):
        assert torch.allclose(getattr(steps, of), getattr(whole, of), equal_nan=True)
    assert steps.sample().shape == whole.sample().shape
    assert steps.has_rsample == whole.has_rsample
    wider = steps.expand((7, 5, STEPS))
    assert wider.sample().shape == (7, *value.shape)
    other = conditional(torch.randn(5, STEPS, 2))
    expected = kl_divergence(whole, other)
    again = Steps([conditional(each) for each in inputs.unbind(1)])
    assert torch.allclose(kl_divergence(steps, again), torch.zeros(()), atol=1e-10)
    try:
        found = kl_divergence(steps, other)
    except NotImplementedError:  # parameters that cannot be laid side by side: said, not guessed
        assert family == "FullCovarianceGaussian"
        return
    assert torch.allclose(found, expected)
    back = kl_divergence(other, steps)
    assert torch.allclose(back, kl_divergence(other, whole))
    mask = torch.arange(STEPS) < torch.tensor([0, 1, 2, 3, 3])[:, None]
    masked, plain = Masked(steps, mask, "n"), Masked(other, mask, "n")
    assert torch.allclose(kl_divergence(masked, plain), expected * mask)
    assert torch.allclose(masked.log_prob(value), whole.log_prob(value) * mask)
    assert (masked.sample()[0] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_with_holes_are_scored_as_their_steps(family: str) -> None:
    """Masked, drawn step by step or at once: the density of what is observed of each step."""
    torch.manual_seed(0)
    conditional, inputs = FAMILIES[family](MLP(2)), torch.randn(5, STEPS, 2)
    whole, mask = conditional(inputs), torch.arange(STEPS) < torch.tensor([0, 1, 2, 3, 3])[:, None]
    steps = Steps([conditional(each) for each in inputs.unbind(1)])
    if not has_marginals(whole):
        assert not has_marginals(steps)
        assert not has_marginals(Masked(whole, mask, "n"))
        return
    value = whole.sample().double()
    value[2, 0] = torch.nan
    if value.dim() == 3:
        value[3, 1, 0] = torch.nan
    expected = score("x", whole, value, missing=True)
    assert torch.allclose(score("x", steps, value, missing=True), expected)
    for each in (whole, steps):
        masked = Masked(each, mask, "n")
        assert torch.allclose(score("x", masked, value, missing=True), expected * mask)


def test_lengths_that_p_and_q_do_not_share_are_refused() -> None:
    p, q = hidden_markov("n").p, hidden_markov().q
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="p counts 'k' up to n, q up to the last step"),
    ):
        LatentVariableModel(p, q).evidence(rows("n"))


def test_relaxations_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="step by step or with unequal lengths"):
        hidden_markov().estimate(elbo, rows(None), default=Suited(estimator_of("rebar")))


@pytest.mark.parametrize("way", ["sticking_the_landing", "doubly_reparameterised"])
def test_path_derivatives_reach_every_step(way: str) -> None:
    """As a default they are what they are by name, and not the plain gradient."""
    model, given = vrnn("n"), rows("n")
    parameters = list(model.q["z"].parameters())

    def gradient(**ways: Any) -> Tensor:
        torch.manual_seed(0)
        value, _ = model.estimate(iwae, given, particles=3, **ways)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), parameters)])

    by_default = gradient(default=Suited(estimator_of(way)))
    assert torch.allclose(by_default, gradient(draw={"z": estimator_of(way)}), atol=1e-12)
    assert not torch.allclose(by_default, gradient(), atol=1e-6)


def test_a_step_with_computed_states_is_one_graph() -> None:
    model, given = vrnn(), rows(None)

    def loss(x: Tensor) -> Tensor:
        return elbo(model.evidence({"x": x}), "analytic").mean()

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    expected = loss(given["x"])
    torch.manual_seed(0)
    assert torch.allclose(compiled(given["x"]), expected)


@pytest.mark.parametrize("build, length", MODELS.values(), ids=MODELS.keys())
def test_enumerated_values_of_every_step_are_all_paths(
    build: Callable[..., LatentVariableModel], length: str | None
) -> None:
    model, given = build(length), rows(length)
    evidence = model.evidence(given, draw={"k": Enumerated()})
    assert torch.allclose(elbo(evidence).mean(), exact_elbo(model, given), atol=1e-10)
    exact = iwae(evidence)  # the sum over all paths of p(x, k)
    beside = model.evidence(given, particles=5, draw={"k": Enumerated()})
    assert torch.allclose(iwae(beside), exact, atol=1e-10)
    alone = LatentVariableModel(model.p).evidence(given, draw={"k": Enumerated()})
    assert alone.batch_shape == (2,)
    assert torch.allclose(elbo(alone), exact, atol=1e-10)


def paths_of(states: int, steps: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=steps)))


@pytest.mark.parametrize("lag", [-1, 1])
@pytest.mark.parametrize("length", [None, "n"])
def test_a_hidden_markov_model_is_summed_over_all_paths(lag: int, length: str | None) -> None:
    """Three states, five steps: 243 paths, with inputs, states of their own and two outputs."""
    torch.manual_seed(0)
    p = Recurrent(
        {
            f"k | k[{lag:+d}], u": Categorical(3, MLP(3 + 2, 4)),
            "x | k, h, c": Gaussian(2, MLP(3 + 4 + 1, 4)),
            f"y | k, k[{lag:+d}], x": Categorical(2, MLP(3 + 3 + 2, 4)),
            f"h | u, h[{lag:+d}]": GRU(2, 4),
        },
        start={"k": torch.tensor(2), "h": 4}, outside=["c"], length=length,
    )  # fmt: skip
    model = LatentVariableModel(Joint({"k, x, y, h | c": p}))
    given = {
        "x": torch.randn(2, 5, 2),
        "y": torch.randint(2, (2, 5)),
        "u": torch.randn(2, 5, 2),
        "c": torch.randn(2, 1),
    } | ({"n": torch.tensor([5, 3])} if length else {})
    evidence = model.evidence(given, draw={"k": Enumerated()})
    assert set(evidence.terms) == {"x", "y"}
    parameters = list(p.parameters())
    found = torch.autograd.grad(evidence.log_weight.sum(), parameters)
    total = torch.zeros(())
    for row, steps in enumerate([5, 3] if length else [5, 5]):
        paths = paths_of(3, steps)
        k = torch.zeros(len(paths), 5, dtype=torch.long)
        k[:, :steps] = paths
        here = {n: v[row : row + 1].expand(len(k), *v.shape[1:]) for n, v in given.items()}
        trace = p({**here, "k": k})
        joint = {name: trace[name].log_prob for name in ("k", "x", "y")}
        of_x = (joint["k"] + joint["x"]).logsumexp(0)  # type: ignore[operator]
        both = trace.log_prob.logsumexp(0)
        assert torch.allclose(evidence.terms["x"][row], of_x, atol=1e-10)
        assert torch.allclose(evidence.log_weight[row], both, atol=1e-10)
        total = total + both
    expected = torch.autograd.grad(total, parameters)
    assert all([torch.allclose(a, b, atol=1e-9) for a, b in zip(found, expected, strict=True)])


def test_a_sum_over_states_stands_beside_latents_that_q_draws() -> None:
    """A switching model: z is drawn by q, k is summed over given it, in every particle."""
    torch.manual_seed(0)
    p = Recurrent(
        {
            "k | k[-1]": OneHot(2, MLP(2)),
            "z | k, z[-1]": Gaussian(1, MLP(3)),
            "x | z": Bernoulli(3, MLP(1)),
        },
        start={"k": 2, "z": 1},
    )  # fmt: skip
    q = Recurrent({"z | x, z[-1]": Gaussian(1, MLP(4))}, start={"z": 1})
    model, given = sharpened(LatentVariableModel(p, q)), rows(None)
    evidence = model.evidence(given, particles=4, draw={"k": Enumerated()})
    assert not evidence.has_closed_kl("z")
    z = evidence.q["z"].value
    k = torch.eye(2)[paths_of(2, STEPS)]  # (8, steps, 2)
    k = k[:, None, None].expand(8, 4, 2, STEPS, 2)
    sites = {"k": k, "z": z.expand(8, *z.shape), "x": given["x"].expand(8, 4, *given["x"].shape)}
    flat = p({name: value.flatten(0, 2) for name, value in sites.items()})
    exact = flat.log_prob.reshape(8, 4, 2).logsumexp(0) - evidence.q["z"].log_prob
    assert torch.allclose(evidence.log_weight, exact, atol=1e-10)


def test_sums_that_are_not_exact_are_refused() -> None:
    given, enumerated = rows(None), {"k": Enumerated()}
    state = Recurrent(
        {"k": OneHot(2), "h | k, h[-1]": GRU(2, 3), "x | h": Bernoulli(3, MLP(3))}, start={"h": 3}
    )
    with pytest.raises(ValueError, match=r"'k' cannot be summed over in .*, as h would"):
        LatentVariableModel(state).evidence(given, draw=enumerated)
    far = Recurrent(
        {"k | k[-2]": OneHot(2, MLP(2)), "x | k": Bernoulli(3, MLP(2))}, start={"k": 2}
    )
    with pytest.raises(ValueError, match=r"as k\[-2\] would"):
        LatentVariableModel(far).evidence(given, draw=enumerated)
    row = Joint({"k": OneHot(2), "x | k": Bernoulli(3, MLP(2))})
    with pytest.raises(ValueError, match=r"'k' is to be enumerated, but q does not draw it"):
        LatentVariableModel(row).evidence({"x": torch.ones(2, 3)}, draw=enumerated)
    with pytest.raises(ValueError, match="paths through its 20 steps, more than 4096"):
        hidden_markov().evidence({"x": torch.zeros(2, 20, 3)}, draw=enumerated)


@pytest.mark.parametrize("members", [STEPS, 6])
def test_a_row_of_members_has_one_number_in_any_batch(members: int) -> None:
    """As many members as rows, or not: whose numbers are drawn is told by the rows alone."""
    torch.manual_seed(0)
    p = Plate({"z": StandardNormal(2), "x | z": Bernoulli(3, MLP(2))})
    inner = Plate({"z | x": Gaussian(2, MLP(3))})
    given = {"x": (torch.rand(6, members, 3) > 0.5).double()}
    for q in (inner, Joint({"z | x": inner})):
        model = LatentVariableModel(p, q)
        whole = importance_sampling(model, given, 32).log_px
        for size in (1, 4):
            apart = importance_sampling(model, given, 32, batch_size=size).log_px
            assert torch.allclose(apart, whole, atol=1e-9)


@pytest.mark.parametrize("build, length", MODELS.values(), ids=MODELS.keys())
def test_importance_sampling_sums_where_evidence_does(
    build: Callable[..., LatentVariableModel], length: str | None
) -> None:
    model, given = build(length), rows(length)
    exact = iwae(model.evidence(given, draw={"k": Enumerated()}))
    inside = LatentVariableModel(Joint({"k, x": model.p}), Joint({"k | x": model.q}))
    for each in (model, inside, LatentVariableModel(model.p), LatentVariableModel(inside.p)):
        found = importance_sampling(each, given, 4, draw={"k": Enumerated()})
        assert torch.allclose(found.log_px, exact, atol=1e-9)


def test_sums_within_a_repetition_within_another() -> None:
    torch.manual_seed(0)
    inner = Recurrent(
        {"k | k[-1], c": OneHot(2, MLP(3)), "x | k": Bernoulli(3, MLP(2))},
        start={"k": 2}, outside=["c"],
    )  # fmt: skip
    p = Recurrent({"c | c[-1]": Gaussian(1, MLP(1)), "k, x | c": inner}, start={"c": 1})
    q = Recurrent({"c | c[-1]": Gaussian(1, MLP(1))}, start={"c": 1}, repeats=2)
    x = (torch.rand(2, 2, STEPS, 3) > 0.5).double()
    evidence = LatentVariableModel(p, q).evidence({"x": x}, particles=3, draw={"k": Enumerated()})
    total, c = torch.zeros(6), evidence.q["c"].value
    for t in range(2):
        here = {"x": x[:, t].repeat(3, 1, 1), "c": c[:, :, t].reshape(6, 1)}
        paths = torch.eye(2)[paths_of(2, STEPS)]
        total = total + torch.stack(
            [inner({**here, "k": k.expand(6, STEPS, 2)}).log_prob for k in paths]
        ).logsumexp(0)
    assert torch.allclose(evidence.terms["x"], total.reshape(3, 2), atol=1e-10)


def test_a_divergence_is_closed_where_rows_end_by_what_is_given() -> None:
    torch.manual_seed(0)
    p = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(4)),
            "w | z": Categorical(3, MLP(2)),
            "h | w, h[-1]": GRU(3, 4),
        },
        start={"h": 4}, length="n", end={"w": 1},
    )  # fmt: skip
    q = Recurrent({"z | w": Gaussian(2, MLP(3))}, start={}, length="n")
    model = LatentVariableModel(p, q)
    given = {"w": torch.tensor([[0, 2, 1, 0], [0, 1, 0, 0]]), "n": torch.tensor([3, 2])}
    evidence = model.evidence(given, particles=2)
    assert evidence.has_closed_kl("z")
    assert model.reconstruct(given)["n"].value.shape == (2,)


@pytest.mark.parametrize("padding", [0.0, 7.0, torch.nan])
def test_what_pads_a_row_reaches_no_gradient(padding: float) -> None:
    """Zero is no value of a Beta or Gamma variable, and what p reads of padding is no hole."""
    torch.manual_seed(0)
    p = Recurrent(
        {
            "z | h[-1]": Beta(2, MLP(4)),
            "x | z, h[-1]": Gamma(3, MLP(6)),
            "h | x, z, h[-1]": GRU(5, 4),
        },
        start={"h": torch.ones(4)}, length="n",
    )  # fmt: skip
    q = Recurrent({"z | x": Beta(2, MLP(3))}, start={}, length="n")
    model = LatentVariableModel(p, q)
    given = {"x": torch.rand(3, 4, 3) + 0.1, "n": torch.tensor([4, 2, 0])}
    parameters = list(model.parameters())

    def gradient(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        value = elbo(model.evidence({**given, "x": x}, particles=2)).sum()
        grads = torch.autograd.grad(value, parameters)
        return torch.cat([value.detach()[None], *[g.flatten() for g in grads]])

    padded = given["x"].clone()
    padded[1, 2:] = padding
    padded[2] = padding
    expected = gradient(given["x"])
    assert torch.isfinite(expected).all()
    assert torch.allclose(gradient(padded), expected, atol=1e-10)
