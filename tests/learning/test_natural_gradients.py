"""Natural gradients: a whole step on all rows is the conjugate update, and its bound Blei's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from sklearn.decomposition import LatentDirichletAllocation
from torch import Tensor
from torch.distributions import Dirichlet as TorchDirichlet
from torch.distributions import kl_divergence

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import BayesianMixture, Dirichlet, Gaussian, Topics, TopicShares
from deeplvm.conditionals.bayesian import ExpectedLogarithm, NormalGammaParameter
from deeplvm.evaluation import topics_of
from deeplvm.learning import natural_gradients
from deeplvm.training import Stopping
from training_models import learn

ROWS, WORDS, TOPICS, CLASSES = 12, 6, 3, 4


def learned(model: LatentVariableModel, data: Any, epochs: int, **options: Any) -> Any:
    phases = natural_gradients(model, **options.pop("phase", {"forgetting": 0.0}))
    options = {"batch_size": ROWS, **options}
    return learn(model, data, phases, epochs, stopping=Stopping(measure=lambda *_: 0.0), **options)


def blobs() -> Tensor:
    torch.manual_seed(0)
    return torch.cat([torch.randn(ROWS // 2, 2) - 2.0, 0.5 * torch.randn(ROWS // 2, 2) + 2.0])


def test_a_whole_step_of_a_mixture_is_the_conjugate_update() -> None:
    """Attias' formulas, with the classes' responsibilities; the same where a value is missing."""
    x = blobs()
    x[1, 0] = torch.nan
    mixture = BayesianMixture(2, CLASSES, concentration=0.3, strength=0.7)
    model = LatentVariableModel(Joint({"x": mixture}))
    usual = NormalGammaParameter.usual
    alpha = mixture.weights.natural.detach().clone()
    m, kappa, a, b = usual(mixture.each.natural.detach().clone())
    m0, kappa0, a0, b0 = usual(mixture.each.prior)
    log_weight = torch.digamma(alpha) - torch.digamma(alpha.sum())
    seen = (~x.isnan()).double().unsqueeze(1)
    filled = x.nan_to_num().unsqueeze(1)  # (rows, 1, D)
    square = (filled - m).square() * a / b + 1 / kappa
    each = 0.5 * (torch.digamma(a) - b.log() - torch.log(torch.tensor(2 * torch.pi)) - square)
    r = (log_weight + (seen * each).sum(-1)).softmax(-1).unsqueeze(-1) * seen  # (rows, K, D)
    count = r.sum(0)
    mean = (r * filled).sum(0) / count
    scatter = (r * (filled - mean).square()).sum(0)
    learned(model, {"x": x}, 1)
    found = usual(mixture.each.natural.detach())
    whole = (log_weight + (seen * each).sum(-1)).softmax(-1).sum(0)
    assert torch.allclose(mixture.weights.natural, 0.3 + whole, atol=1e-9)
    assert torch.allclose(found[0], (kappa0 * m0 + count * mean) / (kappa0 + count), atol=1e-9)
    assert torch.allclose(found[1], kappa0 + count, atol=1e-9)
    assert torch.allclose(found[2], a0 + 0.5 * count, atol=1e-9)
    between = kappa0 * count * (mean - m0).square() / (kappa0 + count)
    assert torch.allclose(found[3], b0 + 0.5 * (scatter + between), atol=1e-9)


def test_whole_steps_never_lower_the_bound_and_end_at_a_fixed_point() -> None:
    model, x = LatentVariableModel(Joint({"x": BayesianMixture(2, CLASSES)})), blobs()
    step: Any = natural_gradients(model, forgetting=0.0)[0].update
    step.prepare(model, lambda _: {}, ROWS, frozenset())
    bounds = [float(step(model, {"x": x}).mean()) for _ in range(300)]
    assert all([after >= before - 1e-10 for before, after in pairwise(bounds)])
    before = [each.clone() for each in model.parameters()]
    step(model, {"x": x})
    for one, other in zip(before, model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-8)


def topics() -> tuple[LatentVariableModel, Tensor]:
    torch.manual_seed(0)
    x = torch.randint(0, 5, (ROWS, WORDS)).double()
    prior, words = Dirichlet(TOPICS, concentration=0.4), Topics(WORDS, TOPICS, concentration=0.2)
    for each in prior.parameters():
        each.requires_grad_(False)
    p = Joint({"t": prior, "x | t": words})
    q = Joint({"t | x": TopicShares(prior, words, iterations=2000)})
    return LatentVariableModel(p, q), x


def by_hand(model: LatentVariableModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares' posteriors as scikit-learn finds them, the update, and the bound word by word."""
    parameter: Any = model.p["x"].words  # type: ignore[union-attr]
    natural = parameter.natural.detach()
    expected = torch.digamma(natural) - torch.digamma(natural.sum(-1, keepdim=True))
    peer = LatentDirichletAllocation(
        TOPICS, doc_topic_prior=0.4, max_doc_update_iter=5000, mean_change_tol=1e-14
    )
    fitted: Any = peer
    fitted.fit(x.numpy())
    fitted.components_, fitted.exp_dirichlet_component_ = natural.numpy(), expected.exp().numpy()
    gamma = torch.from_numpy(fitted._unnormalized_transform(x.numpy()))
    shares = torch.digamma(gamma) - torch.digamma(gamma.sum(-1, keepdim=True))
    phi = (shares.unsqueeze(-1) + expected).softmax(1)  # (rows, K, V)
    update = 0.2 + (x.unsqueeze(1) * phi).sum(0)
    ways = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
    each = (x.unsqueeze(1) * phi * (shares.unsqueeze(-1) + expected - phi.log())).sum((1, 2))
    prior = TorchDirichlet(torch.full((TOPICS,), 0.4))
    return gamma, update, ways + each - kl_divergence(TorchDirichlet(gamma), prior)


def test_topics_are_those_of_latent_dirichlet_allocation() -> None:
    model, x = topics()
    gamma, update, bound = by_hand(model, x)
    ledger = model.evidence({"x": x}, draw={"t": ExpectedLogarithm()})
    found: Any = ledger.q["t"].distribution
    assert torch.allclose(found.concentration, gamma, atol=1e-6)
    assert torch.allclose(elbo(ledger), bound, atol=1e-8)
    natural: Any = model.p["x"].words.natural  # type: ignore[union-attr]
    learned(model, {"x": x}, 1)
    assert torch.allclose(natural, update, atol=1e-6)


def test_steps_on_parts_of_the_rows_are_unbiased_and_their_lengths_fall() -> None:
    targets = []
    for half in range(2):
        model, x = topics()
        start: Any = model.p["x"].words.natural  # type: ignore[union-attr]
        before = start.detach().clone()
        phase = natural_gradients(model, delay=1.0, forgetting=0.6)[0]
        step: Any = phase.update
        step.prepare(model, lambda _: {}, ROWS, frozenset())
        step(model, {"x": x[half * ROWS // 2 : (half + 1) * ROWS // 2]})
        targets.append(start.detach().clone())
        first = start.detach().clone()
        step(model, {"x": x})
        whole = (start - first * (1 - 2**-0.6)) / 2**-0.6
        assert not torch.allclose(first, before)
        assert bool((whole > 0).all())
    model, x = topics()
    assert torch.allclose(torch.stack(targets).mean(0), by_hand(model, x)[1], atol=1e-6)


def test_models_without_conjugate_priors_are_refused() -> None:
    model = LatentVariableModel(Joint({"x": Gaussian(2)}))
    with pytest.raises(ValueError, match="has a conjugate prior"):
        natural_gradients(model)
    with pytest.raises(ValueError, match="delay is at least 1"):
        natural_gradients(topics()[0], delay=0.5)


def test_planted_topics_are_found_and_listed_by_their_words() -> None:
    """Two topics of three words each, in documents that mostly have one of them."""
    torch.manual_seed(0)
    planted = torch.tensor([[0.4, 0.3, 0.3, 0, 0, 0], [0, 0, 0, 0.4, 0.3, 0.3]])
    shares = TorchDirichlet(torch.full((2,), 0.2)).sample((100,))
    counts = torch.distributions.Multinomial(30, shares @ planted).sample()
    prior, words = Dirichlet(2, concentration=0.2), Topics(WORDS, 2)
    p, q = Joint({"t": prior, "x | t": words}), Joint({"t | x": TopicShares(prior, words)})
    model = LatentVariableModel(p, q)
    step: Any = natural_gradients(model, forgetting=0.6)[0].update
    step.prepare(model, lambda _: {}, 100, frozenset())
    for _ in range(15):
        for some in torch.randperm(100).split(25):
            step(model, {"x": counts[some]})
    found = topics_of(model, {"x": counts}, number=3)
    assert sorted([sorted(each) for each in found.words]) == [["0", "1", "2"], ["3", "4", "5"]]
    best = words.words.mean.detach()
    order = best[:, 0].argsort(descending=True)
    assert torch.allclose(best[order], planted, atol=0.05)
