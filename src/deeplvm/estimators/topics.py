"""Topics of counted words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from scipy.special import gammaln
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from deeplvm.data import Description, Variable
from deeplvm.data.records import SPLITS, Data, Selection
from deeplvm.data.sparse import SparseColumn
from deeplvm.estimators.base import Array, DeepEstimator
from deeplvm.evaluation import topics_of
from deeplvm.inference import embed


@dataclass(kw_only=True, eq=False, repr=False)
class TopicVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DeepEstimator):
    r"""Topics of documents from how often each word is in them; sparse counts stay sparse.

    Autoencoding Variational Inference For Topic Models (Srivastava & Sutton, 2017),
    https://arxiv.org/abs/1703.01488

    ``transform`` gives each document's shares of the topics, ``components_`` each topic's
    probability of every word, shape ``(topics, words)``, ``top_words`` what a topic is about.
    The likelihood is that of the counts given the number of words. Numbers that are not whole
    (tf-idf) are taken as weights of words; the likelihood is then none of counts.

    Options are those of :class:`DeepEstimator`; ``n_components`` is the number of topics.
    ``likelihood`` and ``categorical_features`` say nothing here.

    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> words = CountVectorizer()
    >>> X = words.fit_transform(["tea milk tea", "milk tea", "goal ball", "ball goal goal"] * 25)
    >>> topics = TopicVAE(n_components=2, max_iter=30, random_state=0).fit(X)
    >>> topics.transform(X).shape, bool(np.allclose(topics.transform(X).sum(1), 1))
    ((100, 2), True)
    """

    recipe: str | Callable[..., Any] = "prod_lda"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = False
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn topics of documents, shape ``(documents, words)``."""
        self._learn(X, y, sample_weight)
        log_shares, background = self._weights()
        self.components_ = (log_shares + background).softmax(-1).numpy()
        self._n_features_out = len(self.components_)
        return self

    def transform(self, X: Any) -> Array:
        """Each document's shares of the topics, at the posterior mean, ``(documents, topics)``.

        Of a recipe without shares (nvdm) the posterior means of z.
        """
        means = embed(self.model_, self._rows(X), seed=self._seed)["z"]
        with torch.no_grad():
            return (self.model_.p["t"](means) if "t" in self.model_.p.names else means).numpy()

    def coherence(self, X: Any, number: int = 10) -> Array:
        """How well the first words of each topic go together in documents, in [-1, 1].

        The normalised pointwise mutual information, see :func:`deeplvm.evaluation.topics_of`.

        Args:
            X: The documents in which it is counted, best others than those that were fitted.
            number: Of words a topic.
        """
        return topics_of(self.model_, self._rows(X), number=number).npmi.numpy()

    def top_words(self, number: int = 10, names: Any = None) -> list[list[str]]:
        """The words that each topic makes more frequent than they are anyway, the most first.

        Args:
            number: Of words a topic.
            names: Of the columns, such as ``CountVectorizer.get_feature_names_out()``; by default
                those of the data frame that was fitted, or x0, x1, …
        """
        check_is_fitted(self)
        names = np.asarray(self._names() if names is None else names)
        order = np.argsort(-self._weights()[0].numpy(), axis=1, kind="stable")[:, :number]
        return [[str(names[word]) for word in topic] for topic in order]

    def _as_given(self, values: torch.Tensor) -> Any:
        return sparse.csr_array(values.numpy())

    def perplexity(self, X: Any) -> float:
        r""":math:`\exp(-\sum \log \hat p(\text{words}) / \sum n)`, words in their order.

        An upper bound in expectation, as :math:`\log \hat p` is a lower one.
        """
        log_px = self.score_samples(X)
        counts = sparse.csr_array(X)
        totals = np.asarray(counts.sum(1)).ravel()
        each = sparse.csr_array((gammaln(counts.data + 1), counts.indices, counts.indptr))
        ways = gammaln(totals + 1) - np.asarray(each.sum(1)).ravel()
        return float(np.exp(-(log_px - ways).sum() / totals.sum()))

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each topic and word, shape ``(topics, words)``, and of each word."""
        layer = self.model_.p["x"].head.layer
        return layer.weight.detach().T, layer.bias.detach()

    def _frame(self, X: Any, *, reset: bool) -> Any:
        counts = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 1,
        )
        check_non_negative(counts, f"{type(self).__name__}.{'fit' if reset else 'transform'}")
        return sparse.csr_array(counts)

    def _loaded(self, frame: Any, train: Array, held_out: Array) -> Data:
        parts = {"train": frame[train], "valid": frame[held_out], "test": frame[held_out]}
        counts = parts["train"]
        mean = np.asarray(counts.mean(0)).ravel()
        square = np.asarray(counts.power(2).mean(0)).ravel()
        variable = Variable(
            name="x",
            shape=(counts.shape[1],),
            kind="counts",
            likelihood="poisson",
            mean=torch.from_numpy(mean),
            std=torch.from_numpy(np.sqrt(np.maximum(square - mean**2, 0.0))),
            minimum=0.0,
            maximum=float(frame.max()),
            columns=tuple([str(each) for each in self._names()]),
        )
        description = Description(
            name="memory",
            source="memory",
            options={},
            variables={"x": variable},
            classes=None,
            split="as they were given",
            notes=(),
            rows={split: parts[split].shape[0] for split in SPLITS},
        )
        chosen = {each: Selection({"x": SparseColumn(part)}) for each, part in parts.items()}
        return Data(description, **chosen)

    def _rows(self, X: Any) -> Selection:
        check_is_fitted(self)
        counts = SparseColumn(self._frame(X, reset=False))
        return Selection({"x": counts}, self.description_, common=True)
