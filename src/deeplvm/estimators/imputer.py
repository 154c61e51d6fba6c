"""Holes filled by what the rest of the row says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import StrOptions

from deeplvm.estimators.base import DeepEstimator
from deeplvm.inference import Imputation, impute


@dataclass(kw_only=True, eq=False, repr=False)
class VAEImputer(OneToOneFeatureMixin, TransformerMixin, DeepEstimator):
    r"""Missing cells (NaN) filled by :math:`p(x_\text{missing} | x_\text{observed})`.

    By default the model is ``"auto"``: of real numbers ``gaussian_mixture``, whose conditionals
    are exact; otherwise, or where ``n_components`` or ``recipe_options`` are given, ``miwae``.
    MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen,
    2019), https://arxiv.org/abs/1812.02633

    What is observed comes back as it was. A column from which nothing can be learned keeps its
    holes, but for a constant one, whose value is filled in. Arrays come back as arrays, data
    frames with texts or categories as data frames.

    The encoder of MIWAE reads which cells are missing, and training hides more of them at random,
    so that holes mean something also where the training rows have none; it stops when hidden cells
    of the held-out rows are no longer predicted better.

    Options are those of :class:`DeepEstimator`, and one more.

    Args:
        by: What is filled in: ``"mean"``, ``"median"`` or ``"mode"`` of that distribution, of the
            smallest squared error, absolute error, share of wrong values; ``"auto"`` by the kind
            of each column, see :func:`deeplvm.inference.impute`.

    >>> X = np.array([[1.0, 2.1], [2.0, np.nan], [3.0, 5.9], [4.0, 8.3], [np.nan, 4.2]])
    >>> filled = VAEImputer(max_iter=5, random_state=0).fit_transform(X)
    >>> bool(np.isnan(filled).any()), filled[0]
    (False, array([1. , 2.1]))
    """

    recipe: str | Callable[..., Any] = "auto"
    by: Any = "auto"

    _auto = ("gaussian_mixture", "miwae", "miwae")

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DeepEstimator._parameter_constraints,
        "by": [StrOptions({"auto", "mean", "median", "mode"})],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the model of rows with holes, shape ``(rows, columns)``."""
        self._learn(X, y, sample_weight)
        return self

    def transform(self, X: Any) -> Any:
        """The rows without holes, shape ``(rows, columns)``.

        Where the weights of rows have too heavy a tail, a ``ConvergenceWarning`` says so.
        """
        frame, found = self._imputed(X)
        return self._filled(frame, found.values["x"])

    def draw(self, X: Any, draws: int = 5) -> list[Any]:
        r"""Several completions of the rows, for what depends on how sure a filled cell is.

        Each is a draw of :math:`p(x_\text{missing} | x_\text{observed})` by importance resampling:
        multiple imputation.
        """
        frame, found = self._imputed(X, draws)
        return [self._filled(frame, values) for values in found.draws["x"]]

    def _imputed(self, X: Any, draws: int = 0) -> tuple[pd.DataFrame, Imputation]:
        rows = self._rows(X)
        found = impute(
            self.model_,
            rows,
            by=self.by,
            particles=self.particles,
            draws=draws,
            draw=self._draw,
            seed=self._seed,
        )
        for text in found.warnings:
            warnings.warn(text, ConvergenceWarning, stacklevel=3)
        return self._frame(X, reset=False), found

    def _filled(self, frame: pd.DataFrame, values: torch.Tensor) -> Any:
        """The rows with these values in their holes."""
        whole = dict(self._constants) | self.description_.variables["x"].restored(values)
        result = frame.copy()
        for name, column in whole.items():
            holes = frame[name].isna().to_numpy()
            if holes.any():
                chosen = np.broadcast_to(column, len(frame))[holes]
                result.loc[holes, name] = pd.Series(chosen, index=frame.index[holes])
        return result if self._typed else result.to_numpy(dtype=np.float64)
