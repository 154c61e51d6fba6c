"""Holes filled by what the rest of the row says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.base import OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import StrOptions

from deeplvm.estimators.base import Estimator
from deeplvm.inference import impute


@dataclass(kw_only=True, eq=False, repr=False)
class VAEImputer(OneToOneFeatureMixin, TransformerMixin, Estimator):
    r"""Missing cells (NaN) filled by :math:`p(x_\text{missing} | x_\text{observed})`.

    MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen,
    2019), https://arxiv.org/abs/1812.02633

    What is observed comes back as it was. A column from which nothing can be learned keeps its
    holes, but for a constant one, whose value is filled in. Arrays come back as arrays, data
    frames with texts or categories as data frames.

    Training hides up to half of a row's values at each visit (``hide=0.5``), so that holes mean
    something also where the training rows have none, and stops when hidden values of the held-out
    rows are no longer predicted better.

    Options are those of :class:`Estimator`, and one more.

    Args:
        by: What is filled in: ``"mean"``, ``"median"`` or ``"mode"`` of that distribution, of the
            smallest squared error, absolute error, share of wrong values; ``"auto"`` by the kind
            of each column, see :func:`deeplvm.inference.impute`.

    >>> X = np.array([[1.0, 2.1], [2.0, np.nan], [3.0, 5.9], [4.0, 8.3], [np.nan, 4.2]])
    >>> filled = VAEImputer(max_iter=5, random_state=0).fit_transform(X)
    >>> bool(np.isnan(filled).any()), filled[0]
    (False, array([1. , 2.1]))
    """

    by: Any = "auto"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "by": [StrOptions({"auto", "mean", "median", "mode"})],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the model of rows with holes, shape ``(rows, columns)``."""
        self._learn(X, y, sample_weight)
        frame = self._frame(X, reset=False)
        constant = frame.loc[:, frame.nunique() == 1]
        self.constants_ = {name: column.dropna().iloc[0] for name, column in constant.items()}
        return self

    def _options(self, data: Any) -> dict[str, Any]:
        return {"hide": 0.5} | super()._options(data)

    def transform(self, X: Any) -> Any:
        """The rows without holes, shape ``(rows, columns)``."""
        rows = self._rows(X)
        frame = self._frame(X, reset=False)
        found = impute(
            self.model_,
            rows,
            by=self.by,
            particles=self.particles,
            draw=self._draw,
            seed=self._seed,
        )
        variable = self.description_.variables["x"]
        filled = dict(self.constants_) | variable.restored(found.values["x"])
        result = frame.copy()
        for name, values in filled.items():
            holes = frame[name].isna().to_numpy()
            if holes.any():
                chosen = np.broadcast_to(values, len(frame))[holes]
                result.loc[holes, name] = pd.Series(chosen, index=frame.index[holes])
        typed = not all([pd.api.types.is_numeric_dtype(each) for each in frame.dtypes])
        return result if typed else result.to_numpy(dtype=np.float64)
