"""Topics: what their words are, whether these go together, and how well words are foretold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.conditionals import Multinomial, bayesian
from deeplvm.core.joint import owner_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.rows import rows_of
from deeplvm.likelihood import ImportanceEstimate, importance_sampling
from deeplvm.results import Estimate, Record, stderr_of

_ROWS = 1_000  # at a time
_DISTINCT = 25  # words of a topic that are looked at for whether another topic has them


@dataclass(frozen=True, eq=False)
class Topics(Record, also="coherence diversity", without="each", lists="npmi"):
    """What each topic is about.

    Attributes:
        words: Of each topic, the most first.
        npmi: Coherence of each topic, in [-1, 1], shape ``(topics,)``: the mean over pairs of its
            words of their normalised pointwise mutual information.
        reference: The documents in which it was counted which words are together, in words.
        each: All words of each topic as numbers of columns, the most first.
    """

    words: list[list[str]]
    npmi: Tensor
    reference: str
    each: Tensor

    @property
    def coherence(self) -> Estimate:
        """The mean over topics, with its standard error over topics."""
        return Estimate.of(self.npmi)

    @property
    def diversity(self) -> float:
        """Which share of the first 25 words of all topics is different."""
        first = self.each[:, :_DISTINCT]
        return len(first.unique()) / first.numel()

    def heading(self) -> str:
        return f"coherence (NPMI) {self.coherence}, diversity {self.diversity:.2f}"

    def table(self) -> list[tuple[str, str]]:
        pairs = zip(self.npmi.tolist(), self.words, strict=True)
        return [(f"{value:.3f}", " ".join(words)) for value, words in pairs]

    def notes(self) -> list[str]:
        return [f"Words that occur together were counted in {self.reference}."]


@dataclass(frozen=True)
class Perplexity(Record):
    r"""How many words are as hard to choose from as those of some documents; lower is better.

    Attributes:
        perplexity: :math:`\exp(-\sum_d \log \hat p(w_d) / \sum_d n_d)`, each word counts alike.
        per_document: :math:`\exp(-\frac1D \sum_d \log \hat p(w_d) / n_d)`, each document does.
        words: How many were foretold.
        documents: In how many documents; those without a word are left out.
        particles: Of the importance sampler.
        completion: Whether other words of the same documents were given.
    """

    perplexity: Estimate
    per_document: Estimate
    words: int
    documents: int
    particles: int
    completion: bool

    def notes(self) -> list[str]:
        of = "given the other words of their documents, a difference of two lower bounds of log p"
        bound = "an upper bound in expectation, as log p is bounded from below"
        return [f"Perplexity of words in their order, {of if self.completion else bound}."]


def topics_of(
    model: LatentVariableModel, reference: NamedRows, *, number: int = 10, names: Any = None
) -> Topics:
    r"""The words of each topic, and how coherent they are.

    Machine Reading Tea Leaves: Automatically Evaluating Topic Coherence and Topic Model Quality
    (Lau et al., 2014), https://aclanthology.org/E14-1056

    Words are ordered by the weights with which a topic raises them over what they are anyway, or,
    where documents mix topics, by their probability in it. Of two words the information is
    :math:`\log \frac{p(a, b)}{p(a) p(b)} / (-\log p(a, b))`, p the share of the reference's
    documents that hold them; -1 for two that are never together.

    Args:
        model: Whose words are a :class:`~deeplvm.conditionals.Multinomial`, log-linear in one
            parent, or :class:`~deeplvm.conditionals.Topics`.
        reference: Documents; rows that the model did not see say more.
        number: Words of a topic.
        names: Of the columns; those of the data, or their numbers.

    Raises:
        ValueError: If the model is another.
    """
    weights = _log_linear(model)
    order = weights.T.argsort(dim=1, descending=True, stable=True)  # (topics, words)
    chosen = order[:, :number]
    used, place = chosen.unique(return_inverse=True)
    together, documents = torch.zeros(len(used), len(used), dtype=torch.float64), 0
    rows = rows_of(model, reference)
    for _, given in rows.each(_ROWS):
        there = (given["x"][:, used.to(given["x"].device)] > 0).double().cpu()
        together, documents = together + there.T @ there, documents + len(there)
    npmi = [_npmi(together / documents, each) for each in place]
    known = rows.description
    if names is None:
        columns = None if known is None else known.variables["x"].columns
        names = columns or [str(i) for i in range(weights.shape[0])]
    what = "" if known is None else f" of {known.name}, {rows.split}"
    return Topics(
        [[str(names[word]) for word in topic] for topic in chosen.tolist()],
        torch.tensor(npmi, dtype=torch.float64),
        f"{documents:,} documents{what}: two are together that are in one document",
        order,
    )


def _npmi(shares: Tensor, words: Tensor) -> float:
    """The mean over pairs of some words, from the shares of documents that hold two."""
    found = []
    for a, b in itertools.combinations(words.tolist(), 2):
        both = float(shares[a, b])
        if not 0 < both < 1:
            found.append(-1.0 if both == 0 else 0.0)
            continue
        apart = float(shares[a, a]) * float(shares[b, b])
        found.append(math.log(both / apart) / -math.log(both))
    return sum(found) / max(1, len(found))


def perplexity(
    model: LatentVariableModel,
    rows: NamedRows,
    *,
    given: NamedRows | None = None,
    particles: int = 100,
    batch_size: int = 100,
    seed: int = 0,
) -> Perplexity:
    """Perplexity of documents by importance sampling; of words given others, if these are there.

    The coefficient of the multinomial is left out: it is words in their order that are foretold.

    Args:
        model: Whose words are a :class:`~deeplvm.conditionals.Multinomial`.
        rows: Counts of the words that are foretold.
        given: Counts of other words of the same documents, row by row: document completion.
        particles: Draws a row.

    Raises:
        ValueError: If the model is another, or the rows are not those of the same documents.
    """
    _words_of(model)
    options: Any = {"particles": particles, "batch_size": batch_size, "seed": seed}

    def log_px(documents: NamedRows) -> Tensor:
        found = importance_sampling(model, documents, **options).log_px.cpu().double()
        return found - _of_each(documents["x"], _orders)

    if given is None:
        return _perplexity(log_px(rows), rows, particles)
    counts, known = (torch.as_tensor(each["x"][:]).double() for each in (rows, given))
    if known.shape != counts.shape:
        raise ValueError(
            f"The words that are given are of {len(known)} documents, those to be foretold of "
            f"{len(counts)}; give two parts of the same documents, row by row."
        )
    found = log_px({"x": known + counts}) - log_px({"x": known})
    return _perplexity(found, rows, particles, completion=True)


def of_topics(
    model: LatentVariableModel, rows: NamedRows, estimate: ImportanceEstimate
) -> dict[str, Any] | None:
    """Topics, and the perplexity of a likelihood that was estimated, as plain numbers.

    ``None`` of a model whose words are not log-linear.
    """
    try:
        _log_linear(model)
    except ValueError:
        return None
    nats = estimate.log_px.cpu().double() - _of_each(rows["x"], _orders)
    found = _perplexity(nats, rows, estimate.particles).to_dict()
    return topics_of(model, rows).to_dict() | {"perplexity": found["perplexity"]}


def _perplexity(
    found: Tensor, rows: NamedRows, particles: int, *, completion: bool = False
) -> Perplexity:
    """That of the nats of the words of each document, in their order, shape ``(rows,)``."""
    number = _of_each(rows["x"], lambda x: x.sum(1))
    some = number > 0
    found, number = -found[some], number[some]
    rate = float(found.sum() / number.sum())
    error = stderr_of(found - rate * number) / float(number.mean())
    each = Estimate.of(found / number)
    return Perplexity(
        _exponential(Estimate(rate, error)),
        _exponential(each),
        int(number.sum()),
        len(number),
        particles,
        completion,
    )


def _orders(counts: Tensor) -> Tensor:
    """Logarithm of in how many orders the words of each document may come, ``(rows,)``."""
    return torch.lgamma(counts.sum(1) + 1) - torch.lgamma(counts + 1).sum(1)


def _of_each(column: Any, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """A number of each row of counts, some rows at a time: they may be sparse."""
    starts = range(0, len(column), _ROWS)
    return torch.cat(
        [measure(torch.as_tensor(column[i : i + _ROWS]).double().cpu()) for i in starts]
    )


def _exponential(estimate: Estimate) -> Estimate:
    """By the delta method."""
    value = math.exp(estimate.value)
    return Estimate(value, value * estimate.stderr)


def _words_of(model: LatentVariableModel) -> Multinomial | bayesian.Topics:
    words = owner_of(model.p, "x")
    if not isinstance(words, Multinomial | bayesian.Topics):
        raise ValueError(
            f"Words are counted given their number, by a Multinomial 'x' or by Topics; here x is "
            f"a {type(words).__name__}: take the recipe prod_lda or nvdm, or --likelihood "
            f"multinomial."
        )
    return words


def _log_linear(model: LatentVariableModel) -> Tensor:
    """Weights of words and topics, shape ``(words, topics)``: of mixed ones log-probabilities."""
    words = _words_of(model)
    if isinstance(words, bayesian.Topics):
        return words.words.mean.detach().log().T.cpu()
    network: Any = words.head.network
    if network is None or len(list(network.parameters())):
        raise ValueError(
            "Topics are read from a map of words that is log-linear in its parent; here a network "
            "is between them: take the recipe prod_lda or nvdm."
        )
    return words.head.layer.weight.detach().cpu()
