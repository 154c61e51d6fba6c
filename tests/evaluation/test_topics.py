"""Topics against counts by hand, perplexity against a law that is known."""

from __future__ import annotations

import math

import pytest
import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, Multinomial, Poisson, StandardNormal
from deeplvm.evaluation import Evaluation, evaluate, perplexity, topics_of
from deeplvm.networks import MLP

DOCUMENTS = torch.tensor([[2.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0], [1, 0, 1, 0]])


def log_linear() -> LatentVariableModel:
    words = Multinomial(4, MLP(2), total=5)
    with torch.no_grad():
        words.head.layer.weight.copy_(torch.tensor([[3.0, 0], [2, 0], [1, 2], [0, 3]]))
        words.head.layer.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    p = Joint({"z": StandardNormal(2), "x | z": words})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4))}))


def test_topics_are_ordered_by_what_they_raise_and_coherence_is_counted() -> None:
    names = ["tea", "milk", "goal", "never"]
    found = topics_of(log_linear(), {"x": DOCUMENTS}, number=2, names=names)
    assert found.words == [["tea", "milk"], ["never", "goal"]]
    # tea in 3 of 4 documents, milk in 2, both in 2; never and goal are never together
    both = math.log(0.5 / (0.75 * 0.5)) / -math.log(0.5)
    torch.testing.assert_close(found.npmi, torch.tensor([both, -1.0]))
    assert found.coherence.value == pytest.approx((both - 1) / 2)
    assert found.diversity == 0.5  # all four words of both topics
    assert found.reference == "4 documents: two are together that are in one document"
    assert "tea milk" in str(found)
    assert found.to_dict()["words"] == found.words


def test_perplexity_of_a_known_law_is_that_of_its_cross_entropy() -> None:
    words = Multinomial(4, mean=torch.tensor([4.0, 2.0, 1.0, 1.0]))
    model = LatentVariableModel(Joint({"x": words}))
    empty = torch.cat([DOCUMENTS, torch.zeros(1, 4)])
    found = perplexity(model, {"x": empty})
    nats = -torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    each = (DOCUMENTS * nats).sum(1)
    number = DOCUMENTS.sum(1)
    assert found.perplexity.value == pytest.approx(math.exp(float(each.sum() / number.sum())))
    assert found.per_document.value == pytest.approx(math.exp(float((each / number).mean())))
    assert (found.words, found.documents) == (10, 4)
    # words are independent here: what else is in a document says nothing
    given = perplexity(model, {"x": empty}, given={"x": empty.flip(0)})
    assert given.perplexity.value == pytest.approx(found.perplexity.value)
    assert given.completion
    assert "difference of two lower bounds" in str(given)


def test_words_given_are_used() -> None:
    """Of two kinds of documents, words tell the kind; by quadrature over z."""
    words = Multinomial(2, MLP(1))
    with torch.no_grad():
        words.head.layer.weight.copy_(torch.tensor([[2.0], [-2.0]]))
        words.head.layer.bias.zero_()
    p = Joint({"z": StandardNormal(1), "x | z": words})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2), scale=1.5)}))
    known, asked = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    z = torch.linspace(-9, 9, 2001)
    first = torch.nn.functional.logsigmoid(4 * z)
    prior = -z.square() / 2

    def log_p(n: int) -> float:
        return float(torch.logsumexp(n * first + prior, 0))

    expected = math.exp(-(log_p(5) - log_p(3)) / 2)
    found = perplexity(model, {"x": asked}, given={"x": known}, particles=20_000)
    # relative error of 20,000 draws of bounded weights: below 1 % with room to spare
    assert found.perplexity.value == pytest.approx(expected, rel=0.02)


def test_other_models_and_other_documents_are_refused() -> None:
    model = LatentVariableModel(Joint({"x": Poisson(4)}))
    with pytest.raises(ValueError, match=r"here x is a Poisson.*--likelihood multinomial"):
        perplexity(model, {"x": DOCUMENTS})
    with pytest.raises(ValueError, match=r"are of 3 documents, those to be foretold of 4"):
        perplexity(log_linear(), {"x": DOCUMENTS}, given={"x": DOCUMENTS[:3]})
    deep = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": Multinomial(4, MLP(2, 3))}),
        Joint({"z | x": Gaussian(2, MLP(4))}),
    )
    with pytest.raises(ValueError, match="a network is between them"):
        topics_of(deep, {"x": DOCUMENTS})


def test_an_evaluation_has_the_topics_and_the_perplexity_of_its_own_likelihood() -> None:
    model, rows = log_linear(), {"x": DOCUMENTS}
    found = evaluate(model, rows, particles=50)
    assert found.topics is not None
    assert found.topics["words"] == topics_of(model, rows).words
    assert found.topics["npmi"] == pytest.approx(topics_of(model, rows).npmi.tolist())
    own = perplexity(model, rows, particles=50).perplexity.value
    assert found.topics["perplexity"]["value"] == pytest.approx(own, rel=0.1)
    assert [row[1] for row in found.table() if row[0] == "diversity"] == ["0.50"]
    assert Evaluation.from_dict(found.to_dict()) == found
    plain = Joint({"x": Multinomial(4, total=5)})
    assert "topics" not in evaluate(LatentVariableModel(plain), rows, particles=1).to_dict()
