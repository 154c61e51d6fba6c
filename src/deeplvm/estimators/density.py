"""Densities, and rows of low density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import DensityMixin, OutlierMixin, _fit_context
from sklearn.utils._param_validation import Interval

from deeplvm.estimators.base import Array, DeepEstimator

# a tighter bound than the ELBO: latents are used, and few hundred steps are enough
_TIGHTER: dict[str, Any] = {"objective": "iwae", "particles": 5}


@dataclass(kw_only=True, eq=False, repr=False)
class VAEDensity(DensityMixin, DeepEstimator):
    r"""The density of rows: ``score_samples`` is :math:`\log \hat p(x)`, ``score`` its mean.

    Trained on the importance-weighted bound of five particles, where the recipe has no objective
    of its own.

    Options are those of :class:`DeepEstimator`.

    >>> from sklearn.datasets import load_iris
    >>> density = VAEDensity(max_iter=5, random_state=0).fit(load_iris().data)
    >>> density.score_samples(load_iris().data).shape
    (150,)
    """

    _usual = _TIGHTER

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the density of rows, shape ``(rows, columns)``; NaN is a hole."""
        self._learn(X, y, sample_weight)
        return self

    score = DeepEstimator.score  # DensityMixin's says nothing


@dataclass(kw_only=True, eq=False, repr=False)
class VAEAnomalyDetector(OutlierMixin, DeepEstimator):
    r"""Rows of low likelihood, −1, among others, +1.

    ``score_samples`` is :math:`\log \hat p(x)`; ``offset_`` is the quantile of it that leaves the
    share ``contamination`` of the training rows below, and ``decision_function`` what a row is
    above it, nats.

    By default the model is ``"auto"``: of real numbers ``gaussian_mixture``, whose covariances are
    shrunk towards the variances of all rows, so that no class is narrow enough to make a few odd
    rows alike; of columns of several kinds ``mixture_model``; and ``vae`` where ``n_components``
    or ``recipe_options`` are given.

    A likelihood is no measure of oddness everywhere: of high-dimensional data simple rows can be
    more likely than typical ones.

    Options are those of :class:`DeepEstimator`, and ``contamination``.

    Args:
        contamination: The share of training rows that are called anomalies, in (0, 0.5]; of new
            rows that are like them it is the rate of false alarms.
    """

    recipe: str | Callable[..., Any] = "auto"
    contamination: float = 0.1

    _usual = _TIGHTER
    _auto = ("gaussian_mixture", "mixture_model", "vae")
    _for_this: ClassVar[dict[str, dict[str, Any]]] = {
        "gaussian_mixture": {
            "phases": "exact_em(start='data', shrinkage=0.1, towards='variance', tolerance=3e-3)"
        }
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DeepEstimator._parameter_constraints,
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the density of rows, shape ``(rows, columns)``, and the threshold."""
        self._learn(X, y, sample_weight)
        self.offset_ = float(np.percentile(self.score_samples(X), 100 * self.contamination))
        return self

    def decision_function(self, X: Any) -> Array:
        """How many nats more likely than the threshold each row is; below 0 is an anomaly."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Array:
        """−1 for anomalies, +1 for others, shape ``(rows,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)
