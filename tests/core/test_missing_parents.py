"""Values that are missing where p reads them: drawn there and only there, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.conditionals.flows import RealNVP
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Enumerated, Sampled
from deeplvm.gradients.score_function import ScoreFunction
from deeplvm.inference import sample_posterior
from deeplvm.likelihood import (
    annealed_importance_sampling,
    exact_likelihood,
    exact_posterior,
    harmonic_likelihood,
    importance_sampling,
    quadrature_likelihood,
    sequential_monte_carlo,
)
from deeplvm.networks import MLP, Features
from deeplvm.objectives import beta_elbo, elbo, free_bits, iwae
from deeplvm.recurrent import Plate, Recurrent
from deeplvm.training import fit

NAN = float("nan")
X = [[0.3, -1.0], [1.0, 0.4], [-0.5, 0.9]]
HALF = [2.0, NAN, 1.0]  # the label of the row in the middle is missing


def classes(*, nested: bool = False) -> LatentVariableModel:
    """p(y) p(x | y), whose log p(x) is a sum of three terms."""
    torch.manual_seed(0)
    p: dict[str, nn.Module] = {"y": Categorical(3), "x | y": Gaussian(2, MLP(3, 8))}
    q: dict[str, nn.Module] = {"y | x": Categorical(3, MLP(2, 8))}
    nn.init.normal_(p["y"].head.free)  # type: ignore[arg-type]
    if nested:
        return LatentVariableModel(Joint({"y, x": Joint(p)}), Joint({"y | x": Joint(q)}))
    return LatentVariableModel(Joint(p), Joint(q))


def log_joint(model: LatentVariableModel, x: Tensor) -> Tensor:
    """log p(x, y) for each y, shape (3, rows)."""
    return torch.stack(
        [model.p({"x": x, "y": torch.full((len(x),), k)}).log_prob for k in range(3)]
    )


def exact(model: LatentVariableModel, x: Tensor, y: Tensor) -> Tensor:
    """log p(x, y) in the rows that have y, log p(x) in the others."""
    each = log_joint(model, x)
    known = each.gather(0, y.nan_to_num().long()[None])[0]
    return torch.where(y.isnan(), each.logsumexp(0), known)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("particles", [None, 4])
def test_a_missing_label_is_summed_out_in_its_row_alone(
    nested: bool, particles: int | None
) -> None:
    model, x, y = classes(nested=nested), torch.tensor(X), torch.tensor(HALF)
    expected = exact(model, x, y)
    evidence = model.evidence({"x": x, "y": y}, particles=particles, draw={"y": Enumerated()})
    assert torch.allclose(iwae(evidence), expected, atol=1e-12)
    log_q = torch.stack([model.q["y"](x).log_prob(torch.tensor(k)) for k in range(3)])
    bound = (log_q.exp() * (log_joint(model, x) - log_q)).sum(0)
    expected = torch.where(y.isnan(), bound, expected)
    assert torch.allclose(elbo(evidence), expected, atol=1e-12)
    assert torch.allclose(elbo(evidence, "analytic"), expected, atol=1e-12)
    value, _ = model.estimate(elbo, {"x": x, "y": y}, draw={"y": Enumerated()})
    assert torch.allclose(value, expected, atol=1e-12)
    (slope,) = torch.autograd.grad(value[0], list(model.q.parameters())[-1:])
    assert slope.abs().max() < 1e-12  # nothing was inferred in a row that has its label


def test_draws_keep_what_is_given_and_score_what_they_drew() -> None:
    """Two layers: the weights of all particles by hand, from the values that were drawn."""
    torch.manual_seed(0)
    p = Joint({"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Gaussian(2, MLP(5, 8))})
    q = Joint({"y | x": Categorical(3, MLP(2, 8)), "z | x, y": Gaussian(2, MLP(5, 8))})
    model, x, y = LatentVariableModel(p, q), torch.tensor(X), torch.tensor(HALF)
    with torch.no_grad():
        evidence = model.evidence({"x": x, "y": y}, particles=50, draw={"y": Sampled()})
    drawn, z = evidence.q["y"].value, evidence.q["z"].value
    assert (drawn[:, [0, 2]] == torch.tensor([2.0, 1.0])).all()
    assert set(drawn[:, 1].tolist()) == {0.0, 1.0, 2.0}
    label = nn.functional.one_hot(drawn.long(), 3).double()
    log_q = torch.where(y.isnan(), q["y"](x).log_prob(drawn), 0.0)
    expected = (
        p["y"]().log_prob(drawn)
        + p["z"]().log_prob(z)
        + p["x"](label, z).log_prob(x)
        - q["z"](x.expand(50, 3, 2), label).log_prob(z)
        - log_q
    )
    assert torch.allclose(evidence.log_weight, expected, atol=1e-12)
    assert evidence.latents == ("y", "z")
    with torch.no_grad():
        posterior = model.posterior({"x": x, "y": y}, particles=4)
    for trace in (posterior, model.reconstruct({"x": x, "y": y}, particles=4)):
        assert (trace["y"].value[:, [0, 2]] == torch.tensor([2.0, 1.0])).all()
        assert not trace["y"].value.isnan().any()
    whole = torch.tensor([2, 0, 1])  # that none is missing changes nothing of it
    assert torch.equal(model.reconstruct({"x": x, "y": whole})["y"].value, whole)


def test_weights_of_divergences_leave_what_is_given_alone() -> None:
    """log p(y) of a row that has y is no divergence: neither weighted nor floored."""
    model, x, y = classes(), torch.tensor(X), torch.tensor(HALF)
    evidence = model.evidence({"x": x, "y": y}, draw={"y": Enumerated()})
    apart = model.evidence({"x": x}, draw={"y": Enumerated()})
    known = model.evidence({"x": x, "y": y.nan_to_num().long()})
    for objective in (lambda e: beta_elbo(e, 3.0), lambda e: free_bits(e, 2.0, per="row")):
        expected = torch.where(y.isnan(), objective(apart), objective(known))
        assert torch.allclose(objective(evidence), expected, atol=1e-12)
    with pytest.raises(ValueError, match="'y' is given in some rows"):
        evidence.closed_kl("y")
    with pytest.raises(ValueError, match="'y' has no entropy in closed form here"):
        elbo(evidence, "entropy")


def test_score_function_gradients_agree_with_the_sum() -> None:
    """Failure rate about 1e-5: 5 standard errors on 6 numbers."""
    model, x, y = classes(), torch.tensor(X), torch.tensor(HALF)
    last = list(model.q.parameters())[-1]
    value, _ = model.estimate(elbo, {"x": x, "y": y}, draw={"y": Enumerated()})
    (truth,) = torch.autograd.grad(value.sum(), last)
    torch.manual_seed(0)
    each = []
    for _ in range(400):
        given, draw = {"x": x, "y": y}, {"y": ScoreFunction()}
        value, _ = model.estimate(elbo, given, particles=10, draw=draw)
        each.append(torch.autograd.grad(value.sum(), last)[0])
    found = torch.stack(each)
    assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / 20 + 1e-12).all()


class Posterior(nn.Module):
    """x | w of x ~ N(0, 1), w | x ~ N(x, 1), for the last of three elements."""

    event_shape = torch.Size([3])

    def forward(self, w: Tensor) -> Distribution:
        loc = torch.cat([torch.full_like(w, 7.0), torch.full_like(w, -3.0), w / 2], -1)
        return Independent(Normal(loc, torch.tensor([1.0, 2.0, 0.5**0.5])), 1)


class Last(nn.Module):
    event_shape = torch.Size([1])

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x[..., -1:], 1.0), 1)


def test_missing_elements_of_a_vector_are_drawn_and_no_others() -> None:
    """With the exact posterior of what is missing the log-weight is constant."""
    model = LatentVariableModel(
        Joint({"x": StandardNormal(3), "w | x": Last()}), Joint({"x | w": Posterior()})
    )
    x = torch.tensor([[0.3, 1.0, NAN], [0.3, 1.0, -0.4]])
    w = torch.tensor([[0.7], [0.2]])
    evidence = model.evidence({"x": x, "w": w}, particles=20)
    normal = Normal(0.0, 1.0)
    seen = normal.log_prob(x[:, :2]).sum(-1)
    first = seen[0] + Normal(0.0, 2.0**0.5).log_prob(w[0, 0])
    second = seen[1] + normal.log_prob(x[1, 2]) + Normal(x[1, 2], 1.0).log_prob(w[1, 0])
    expected = torch.stack([first, second]).expand(20, 2)
    assert torch.allclose(evidence.log_weight, expected, atol=1e-10)
    assert torch.equal(evidence.q["x"].value[..., :2], x[:, :2].expand(20, 2, 2))


def test_a_dense_q_draws_whole_vectors() -> None:
    model = LatentVariableModel(
        Joint({"x": StandardNormal(3), "w | x": Last()}),
        Joint({"x | w": RealNVP(3, MLP(1, 4), transforms=2)}),
    )
    w = torch.tensor([[0.7], [0.2]])
    with pytest.raises(ValueError, match="Some elements of 'x' are missing"):
        model.evidence({"x": torch.tensor([[0.3, 1.0, NAN], [0.0] * 3]), "w": w})
    x = torch.tensor([[NAN] * 3, [0.0] * 3])
    torch.manual_seed(0)
    both = model.evidence({"x": x, "w": w}).log_weight
    torch.manual_seed(0)
    alone = model.evidence({"w": w}).log_weight
    known = model.evidence({"x": torch.zeros(2, 3), "w": w}).log_weight
    assert torch.allclose(both, torch.stack([alone[0], known[1]]), atol=1e-12)


def test_members_of_a_plate() -> None:
    """A label of each member of a set, missing in some: as rows by themselves."""
    flat = classes()
    p = Joint({"y, x": Plate({"y": flat.p["y"], "x | y": flat.p["x"]})})
    q = Joint({"y | x": Plate({"y | x": flat.q["y"]})})
    model, x, y = LatentVariableModel(p, q), torch.tensor([X, X]), torch.tensor([HALF, [0.0] * 3])
    torch.manual_seed(0)
    with torch.no_grad():
        evidence = model.evidence({"x": x, "y": y}, particles=5, draw={"y": Sampled()})
    label = evidence.q["y"].value
    assert torch.equal(label[:, 0, [0, 2]], y[0, [0, 2]].expand(5, 2))
    log_q = flat.q["y"](x).log_prob(label)
    expected = flat.p({"x": x.reshape(6, 2), "y": label.reshape(5, 6)[0]}).log_prob.reshape(2, 3)
    expected = expected - torch.where(y.isnan(), log_q[0], 0.0)
    assert torch.allclose(evidence.log_weight[0], expected.sum(-1), atol=1e-12)


def unexplained() -> dict[str, tuple[LatentVariableModel, dict[str, Tensor]]]:
    """Models in which p reads what neither q nor a walk from p can draw."""
    torch.manual_seed(0)
    x, z = torch.tensor(X), StandardNormal(2)
    shared = Features(MLP(2, 4))
    holes = torch.where(x > 0.95, NAN, x)
    return {
        "p(x | c, z) reads 'c'": (
            LatentVariableModel(
                Joint({"z": z, "x | c, z": Gaussian(2, MLP(4, 4))}),
                Joint({"z | x": Gaussian(2, MLP(2, 4))}),
            ),
            {"x": x, "c": holes},
        ),
        "p(h | c) reads 'c'": (  # q has made the same features, with zeros for what is missing
            LatentVariableModel(
                Joint({"z": z, "h | c": shared, "x | h, z": Gaussian(2, MLP(6, 4))}),
                Joint({"h | c": shared, "z | x, h": Gaussian(2, MLP(6, 4))}),
            ),
            {"x": x, "c": holes},
        ),
        "p(w | x) reads 'x'": (
            LatentVariableModel(
                Joint({"z": z, "x | z": Gaussian(2, MLP(2, 4)), "w | x": Gaussian(1, MLP(2, 4))}),
                Joint({"z | x, w": Gaussian(2, MLP(3, 4))}),
            ),
            {"x": holes, "w": x[:, :1]},
        ),
    }


@pytest.mark.parametrize("found", list(unexplained()))
def test_else_it_is_refused_by_everything_that_reads_p(found: str) -> None:
    model, given = unexplained()[found]
    found = found.replace("(", r"\(").replace(")", r"\)").replace("|", r"\|")
    for refused in (
        lambda: model.evidence(given),
        lambda: model.estimate(elbo, given),
        lambda: importance_sampling(model, given, 16),
        lambda: annealed_importance_sampling(model, given, particles=2, temperatures=4),
        lambda: sequential_monte_carlo(model, given, particles=4),
        lambda: fit(model, given, epochs=1),
    ):
        with pytest.raises(ValueError, match=found):
            refused()
    torch.manual_seed(0)
    assert model.posterior(given)["z"].value.isfinite().all()  # an encoder reads zeros there


def test_sums_and_draws_agree() -> None:
    """Of 20,000 draws the error of the middle row is some 0.005 nats."""
    model, x, y = classes(), torch.tensor(X), torch.tensor(HALF)
    summed = exact_likelihood(model, {"x": x, "y": y})
    annealed = annealed_importance_sampling(model, {"x": x, "y": y}, batch_size=2)
    for found in (summed.log_px, annealed.log_px):
        assert torch.allclose(found, exact(model, x, y), atol=1e-12)
    assert annealed.exact
    labels = exact_posterior(model, {"x": x, "y": y}).marginal("y")
    assert torch.allclose(labels[[0, 2]], nn.functional.one_hot(y[[0, 2]].long(), 3).double())
    assert torch.allclose(labels[1], log_joint(model, x)[:, 1].softmax(0))
    p = Joint({"k": Categorical(2), "y": Bernoulli(2), "x | y, k": Gaussian(2, MLP(4, 8))})
    y = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])  # elements by themselves
    values = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0), torch.arange(2.0))
    each = torch.stack(
        [p({"x": x, "k": v[:1].expand(3), "y": v[1:].expand(3, 2)}).log_prob for v in values]
    )
    fits = (y.isnan() | (y == values[:, None, 1:])).all(-1)
    expected = each.masked_fill(~fits, -torch.inf).logsumexp(0)
    found = exact_likelihood(LatentVariableModel(p), {"x": x, "y": y})
    assert torch.allclose(found.log_px, expected, atol=1e-12)
    y = torch.tensor(HALF)
    estimate = importance_sampling(model, {"x": x, "y": y}, 20_000)
    assert estimate.observed == ("x", "y")  # log p(x, y) in two rows, log p(x) in the other
    drawn = estimate.log_px
    assert ((drawn - exact(model, x, y)).abs() < torch.tensor([1e-9, 0.05, 1e-9])).all()


@pytest.fixture
def labelled() -> LatentVariableModel:
    """p(y) p(z) p(x | y, z), whose q does not know the labels."""
    torch.manual_seed(0)
    x = Gaussian(2, MLP(4, 8, activation=nn.Tanh), scale=0.5)
    p = Joint({"y": Categorical(3), "z": StandardNormal(1), "x | y, z": x})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2, 8))}))


def test_walks_sum_over_labels_where_they_are_missing(labelled: LatentVariableModel) -> None:
    """Failure rate about 1e-5: 5 standard errors on 6 numbers."""
    x, y = torch.tensor(X), torch.tensor(HALF)
    given = {"x": x, "y": y}
    with_label = quadrature_likelihood(labelled, {"x": x, "y": y.nan_to_num()}).log_px
    without = quadrature_likelihood(labelled, {"x": x}).log_px
    expected = torch.where(y.isnan(), without, with_label)
    assert torch.allclose(quadrature_likelihood(labelled, given).log_px, expected, atol=1e-6)
    for estimate in (
        annealed_importance_sampling(labelled, given, temperatures=50),
        sequential_monte_carlo(labelled, given, 64),
    ):
        assert ((estimate.log_px - expected).abs() < 5 * estimate.log_px_stderr).all()
    found = harmonic_likelihood(labelled, given, 16, 50)
    assert ((found.log_px - expected).abs() < 5 * found.log_px_stderr + 0.02).all()
    draws = sample_posterior(labelled, given, warmup=10, draws=10, batch_size=2)
    known = {name: value[[0, 2]] for name, value in given.items()}
    alone = sample_posterior(labelled, known, warmup=10, draws=10)
    assert torch.allclose(draws.draws["z"][:, :, [0, 2]], alone.draws["z"], atol=1e-9)


def test_chains_cannot_start_where_q_draws_nothing(labelled: LatentVariableModel) -> None:
    without = LatentVariableModel(labelled.p)
    with pytest.raises(ValueError, match="q does not draw z, so nothing can start from its draws"):
        annealed_importance_sampling(without, {"x": torch.tensor(X)}, start="posterior")


def test_a_continuous_latent_that_some_rows_have(labelled: LatentVariableModel) -> None:
    """Where z is given nothing is left to draw: a sum over the labels."""
    x, z = torch.tensor(X), torch.tensor([[0.5], [NAN], [NAN]])
    given = {"x": x, "z": z}
    found = annealed_importance_sampling(labelled, given, temperatures=50)
    known = exact_likelihood(labelled, {"x": x[:1], "z": z[:1]}).log_px
    expected = torch.cat([known, quadrature_likelihood(labelled, {"x": x[1:]}).log_px])
    assert ((found.log_px - expected).abs() < 5 * found.log_px_stderr + 1e-9).all()
    assert not found.exact
    assert found.log_weight.shape == (3, 16)
    for refused in (sequential_monte_carlo, quadrature_likelihood, sample_posterior):
        with pytest.raises(ValueError, match="z: a continuous latent is given in some rows"):
            refused(labelled, given)


class Step(nn.Module):
    """x_t ~ N(0.9 x_{t-1}, 1/4)."""

    event_shape = torch.Size([1])

    def forward(self, before: Tensor) -> Distribution:
        return Independent(Normal(0.9 * before, 0.5), 1)


def test_a_series_with_a_hole() -> None:
    """x_1 and x_3 are known, x_2 is not: refused, or with q's draws the exact number.

    log N(2; 0, 1/4) + log N(1.7; 0.81 · 2, 1/4 + 0.81/4). The error of 20,000 draws of the prior
    is some 0.004 nats.
    """
    x = torch.tensor([[[2.0], [NAN], [1.7]], [[2.0], [0.5], [1.7]]])
    p = Recurrent({"x | x[-1]": Step()}, start={"x": 1})
    with pytest.raises(ValueError, match=r"p\(x \| x\[-1\]\) reads 'x\[-1\]', of which elements"):
        LatentVariableModel(p).evidence({"x": x})
    q = Recurrent({"x | x[-1]": Step()}, start={"x": 1}, repeats=3)
    model = LatentVariableModel(p, q)
    evidence = model.evidence({"x": x}, particles=20_000)
    normal = [Normal(0.0, 0.5), Normal(1.62, (0.25 + 0.81 * 0.25) ** 0.5)]
    expected = normal[0].log_prob(x[0, 0, 0]) + normal[1].log_prob(x[0, 2, 0])
    assert abs(iwae(evidence)[0] - expected) < 0.02
    whole = LatentVariableModel(p).evidence({"x": x[1:]}).log_weight
    assert torch.allclose(evidence.log_weight[:, 1], whole.expand(20_000), atol=1e-12)


def test_a_repetition_inside_another_cannot_go_around_holes() -> None:
    inner = {"k | x": Gaussian(1, MLP(1, 4))}
    p = Plate({"k, x": Plate({"k": StandardNormal(1), "x | k": Gaussian(1, MLP(1, 4))})})
    model = LatentVariableModel(p, Plate({"k | x": Plate(inner)}))
    k = torch.zeros(2, 2, 3, 1)
    k[0, 1] = NAN
    with pytest.raises(ValueError, match="a repetition inside another"):
        model.evidence({"x": torch.zeros(2, 2, 3, 1), "k": k})


def test_partly_labelled_rows_are_fitted() -> None:
    torch.manual_seed(0)
    model, x = classes(), torch.randn(40, 2)
    y = torch.randint(3, (40,)).double()
    y[::2] = NAN
    before = exact(model, x, y).mean()
    fit(model, {"x": x, "y": y}, epochs=20, batch_size=10, draw={"y": Enumerated()}, seed=0)
    assert exact(model, x, y).mean() > before + 0.1


def test_one_graph_whatever_is_missing() -> None:
    model, x, y = classes(), torch.tensor(X), torch.tensor(HALF)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        given, draw = {"x": x, "y": y}, {"y": Enumerated()}
        return elbo(model.evidence(given, draw=draw, missing=["y"]))

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x, y), loss(x, y))


@pytest.mark.parametrize("latent", ["x_seen", "x_observed"])
def test_a_latent_is_drawn_whatever_its_name(latent: str) -> None:
    """Only names that nobody draws follow from the holes of x."""
    found = []
    for name in ("z", latent):
        torch.manual_seed(0)
        p = Joint({name: StandardNormal(3), f"x | {name}": Gaussian(3, MLP(3, 4))})
        model = LatentVariableModel(p, Joint({f"{name} | x": Gaussian(3, MLP(3, 4))}))
        found.append(model.evidence({"x": torch.randn(4, 3)}, particles=2))
        assert found[-1].latents == (name,)
        assert not model.explains_holes
    assert torch.equal(found[0].log_weight, found[1].log_weight)
