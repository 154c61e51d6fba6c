"""Latents as features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context

from deeplvm.estimators.base import Array, DeepEstimator
from deeplvm.inference import embed


@dataclass(kw_only=True, eq=False, repr=False)
class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DeepEstimator):
    r"""Latents of a variational autoencoder as features: the means of :math:`q(z | x)`.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Options are those of :class:`DeepEstimator`. Latents of several names stand side by side.

    >>> from sklearn.datasets import load_iris
    >>> vae = VAE(n_components=2, max_iter=5, random_state=0).fit(load_iris().data)
    >>> vae.transform(load_iris().data).shape, [*vae.get_feature_names_out()]
    ((150, 2), ['vae0', 'vae1'])
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the model of rows, shape ``(rows, columns)``; NaN is a hole."""
        data = self._learn(X, y, sample_weight)
        self._n_features_out = self._latents(data.train[:1]).shape[1]
        return self

    def transform(self, X: Any) -> Array:
        """The latents of each row, shape ``(rows, latents)``."""
        return self._latents(self._rows(X))

    def _latents(self, rows: Any) -> Array:
        means = embed(self.model_, rows, seed=self._seed)
        return np.concatenate([z.flatten(1).numpy() for z in means.values()], 1)
