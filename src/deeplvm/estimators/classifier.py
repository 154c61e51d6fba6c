"""Classes from few labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import assert_all_finite
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from deeplvm.estimators.base import Array, DeepEstimator
from deeplvm.inference.classes import class_probabilities
from deeplvm.inference.rows import for_rows, rows_of
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.recipes import training_of

_ROWS = 500  # at a time
_LEAST = 1e-300  # so that a logarithm is finite
_FEWEST = 20  # held-out labels by which probabilities are calibrated


@dataclass(kw_only=True, eq=False, repr=False)
class VAEClassifier(ClassifierMixin, DeepEstimator):
    r"""Classes of rows of which few are labelled, by a model of the rows and their labels.

    Where a label is unknown the model sums over it, so that unlabelled rows teach it too.
    Probabilities are :math:`q(y | x)`, sharpened or softened by one temperature that the held-out
    labels choose, where there are twenty or more of them. ``score_samples`` is
    :math:`\log \hat p(x)`, whatever the class: low for rows like none that were seen.

    Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
    https://arxiv.org/abs/1406.5298; On Calibration of Modern Neural Networks (Guo et al., 2017),
    https://arxiv.org/abs/1706.04599

    Options are those of :class:`DeepEstimator`, and two more.

    Args:
        unlabeled: What stands in y for an unknown label, besides NaN and None; −1 as in
            :mod:`sklearn.semi_supervised`, None for nothing.
        classification_weight: What :math:`\log q(y | x)` of the labelled rows counts beside the
            bound, both as means over their rows; 0.1 in the paper.
    """

    recipe: str | Callable[..., Any] = "semi_supervised_vae"
    unlabeled: Any = -1
    classification_weight: float = 1.0

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DeepEstimator._parameter_constraints,
        "unlabeled": "no_validation",
        "classification_weight": [Interval(Real, 0, None, closed="left")],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from rows, shape ``(rows, columns)``, and their labels, shape ``(rows,)``."""
        data = self._learn(X, y, sample_weight)
        held_out = data.valid["y"] if data.rows("valid") else torch.zeros(0)
        labelled = (~held_out.isnan()).nonzero()[:, 0]
        if len(labelled) >= _FEWEST:
            logits = self._logits(data.valid[labelled])
            self.temperature_ = _temperature(logits, held_out[labelled].long())
        return self

    def _codes(self, y: Any, rows: int) -> Array:
        """The number of each row's class, NaN where it is unknown; the classes are kept."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                f"is None."
            )
        labels = column_or_1d(y, warn=True)
        if len(labels) != rows:
            raise ValueError(f"X has {rows} rows and y {len(labels)} labels.")
        unknown = np.asarray(pd.isna(labels))
        if self.unlabeled is not None:
            unknown |= np.asarray([each == self.unlabeled for each in labels.tolist()])
        if labels.dtype.kind == "f":
            assert_all_finite(labels[~unknown], input_name="y")
        check_classification_targets(labels[~unknown])
        self.classes_, codes = np.unique(labels[~unknown], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs labels of two classes or more; y has "
                f"{len(self.classes_)} class(es) beside what is unknown."
            )
        self.temperature_ = 1.0
        found = np.full(len(labels), np.nan)
        found[~unknown] = codes
        return found

    def _options(self, data: Any) -> dict[str, Any]:
        options, own = super()._options(data), training_of(self._recipe).get("objective")
        given = own.keywords if isinstance(own, partial) else {}
        if own is not None and getattr(own, "func", own) is not semi_supervised_elbo:
            return options
        weighed = partial(semi_supervised_elbo, **given, weight=self.classification_weight)
        return options | {"objective": weighed}

    def predict_proba(self, X: Any) -> Array:
        """Probability of each class, shape ``(rows, classes)``."""
        return (self._logits(self._rows(X)) / self.temperature_).softmax(-1).numpy()

    def predict(self, X: Any) -> Array:
        """The most probable class of each row, shape ``(rows,)``."""
        most = self.predict_proba(X).argmax(1)
        return self.classes_[most]

    def _logits(self, rows: Any) -> torch.Tensor:
        """Log q(y | x) of each class, shape ``(rows, classes)``."""
        first = rows_of(self.model_, rows, omit=("y",))[slice(0, 1)]
        label = self.model_.encode(first).get("y")
        if label is None or label.distribution is None:  # something is drawn before it
            found = class_probabilities(
                self.model_, rows, particles=self.particles, seed=self._seed
            )
            return found.encoder.clamp(min=_LEAST).log()

        def measure(given: dict[str, Any], missing: frozenset[str], _: Any) -> dict[str, Any]:
            known: Any = self.model_.encode(given, missing=missing)["y"].distribution
            count = self.model_.rows(given)
            scores = [
                known.log_prob(torch.full((count,), code)) for code in range(len(self.classes_))
            ]
            return {"logits": torch.stack(scores, 1)}

        found = for_rows(
            self.model_, rows, measure, batch_size=_ROWS, seed=self._seed, omit=("y",)
        )
        return found["logits"].cpu()


def _temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The divisor of logits under which the labels are most probable."""

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    return math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
