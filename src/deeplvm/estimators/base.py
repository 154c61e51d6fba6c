"""What all estimators share: columns in, a model trained until it no longer improves, numbers out.

No mathematics lives here: recipes make the models, ``fit`` trains them, and what is estimated of
rows is what :mod:`deeplvm.likelihood` and :mod:`deeplvm.inference` estimate.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from deeplvm.core.model import LatentVariableModel
from deeplvm.data import Data, load
from deeplvm.data.records import Selection
from deeplvm.gradients import as_measured
from deeplvm.gradients.named import draws_of
from deeplvm.likelihood import importance_sampling
from deeplvm.randomness import drawing
from deeplvm.recipes import RecipeError, find, name_of, training_of
from deeplvm.recipes.plain import gaussian
from deeplvm.registry import meant
from deeplvm.results import Array
from deeplvm.runs.run import build
from deeplvm.training import Callback, unfolded
from deeplvm.training import fit as learn
from deeplvm.training.options import FEW_ROWS, of_few_rows

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""


_FEWEST = 8  # rows of which some can be held out
_MOST_HELD_OUT = 10_000
_HEAVY = 0.1  # share of rows whose weights are too heavy-tailed to pass without a word
_FEW_ROWS = 10_000  # with fewer, a second thread costs more than it brings


@dataclass(kw_only=True, eq=False, repr=False)
class DeepEstimator(CallbackSupportMixin, BaseEstimator):
    """A deep latent-variable model behind the interface of scikit-learn.

    Args:
        recipe: A published recipe by its name, or a function of what the data are that returns a
            model (see :mod:`deeplvm.recipes`); where it is ``"auto"``, the estimator says which.
        n_components: Dimensions of z, the recipe's ``latent``; by default as many as the recipe
            takes by itself, at most one a column.
        recipe_options: Further options of the recipe, ``{"hidden": (64, 64)}``.
        likelihood: Distribution of the values; ``"auto"`` looks at each column.
        categorical_features: Columns whose numbers are codes of categories: names, places, or a
            mask. Texts and pandas' categories are categories anyway.
        max_iter: Passes over the training rows at most; by default the recipe's, but at most
            20,000 gradient steps, or 20 passes of many rows and 2,000 of few.
        max_minutes: Of training at most.
        learning_rate: Step size; by default the recipe's, else 0.001.
        validation_fraction: Share of the rows that training stops by, at least ten (or a quarter
            of fewer) and at most 10,000; of fewer than eight rows, or with 0, none are held out
            and all passes are made.
        n_iter_no_change: Stop after so many passes without a better bound on these rows; by
            default 300 gradient steps, ten passes at least.
        training: Further options of :func:`deeplvm.training.fit`, flat, by the words of the
            command line: ``{"objective": "iwae", "particles": 5, "device": "cuda"}``.
        particles: Draws a row of what is estimated by importance sampling.
        random_state: Of the held-out rows, the weights, training and all draws.
        verbose: Whether training says how far it is.

    What is fitted has ``model_``, the :class:`~deeplvm.core.model.LatentVariableModel` in float64,
    ``description_`` (what the columns are), ``n_iter_`` (passes over the data), ``elbo_`` (the
    best bound, of held-out rows where there are any, nats a row), ``stopped_`` (why training
    ended) and ``training_seconds_``.
    """

    recipe: str | Callable[..., Any] = "vae"
    n_components: int | None = None
    recipe_options: dict[str, Any] | None = None
    likelihood: Any = "auto"
    categorical_features: Any = None
    max_iter: int | None = None
    max_minutes: float | None = None
    learning_rate: float | None = None
    validation_fraction: float = 0.1
    n_iter_no_change: int | None = None
    training: dict[str, Any] | None = None
    particles: int = 100
    random_state: Any = None
    verbose: bool = False

    # how it is trained where neither the recipe nor the user says so, and for what it is here
    # some recipes are trained otherwise
    _usual: ClassVar[dict[str, Any]] = {}
    _for_this: ClassVar[dict[str, dict[str, Any]]] = {}
    # "auto": of real numbers, of columns of several kinds, and where options are said
    _auto: ClassVar[tuple[str, str, str]] = ("vae", "vae", "vae")
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "recipe": [str, callable],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "recipe_options": [dict, None],
        "likelihood": [str],
        "categorical_features": ["array-like", None],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "max_minutes": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "training": [dict, None],
        "particles": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # --- columns in

    def _frame(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Checked columns by name; without names they are x0, x1 and so on."""
        if not isinstance(X, pd.DataFrame) and hasattr(X, "to_pandas"):
            X = X.to_pandas()  # polars, arrow
        least = 2 if reset else 1
        if isinstance(X, pd.DataFrame) and not all(map(_is_number, X.dtypes)):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if len(X) < least:
                raise ValueError(
                    f"Found array with {len(X)} sample(s) while a minimum of {least} is required."
                )
            return X.set_axis(X.columns.astype(str), axis=1).reset_index(drop=True)
        finite: Any = "allow-nan" if self.__sklearn_tags__().input_tags.allow_nan else True
        checked = validate_data(
            self, X, reset=reset, ensure_all_finite=finite, ensure_min_samples=least
        )
        return pd.DataFrame(checked, columns=self._names())

    def _names(self) -> list[str]:
        named = getattr(self, "feature_names_in_", None)
        return [f"x{i}" for i in range(self.n_features_in_)] if named is None else [*named]

    def _categories(self, columns: list[str]) -> list[str]:
        """The names of the columns that are codes of categories."""
        chosen = [] if self.categorical_features is None else [*self.categorical_features]
        if len(chosen) == len(columns) and all(
            isinstance(each, bool | np.bool_) for each in chosen
        ):
            chosen = [place for place, told in enumerate(chosen) if told]
        names = [each if isinstance(each, str) else columns[each] for each in chosen]
        if absent := sorted(set(names) - set(columns)):
            raise ValueError(
                f"categorical_features names {', '.join(absent)}, and the columns are "
                f"{', '.join(columns)}."
            )
        return names

    def _rows(self, X: Any) -> Selection:
        """New rows as the model reads them, with one noise for all of them."""
        check_is_fitted(self)
        frame = self._frame(X, reset=False)
        rows = load(frame, like=self.description_).test
        return dataclasses.replace(rows, common=True)

    # --- training

    def _learn(self, X: Any, y: Any = None, sample_weight: Any = None) -> Data:
        """Fit to columns: split some off, build the recipe's model, train it; the data."""
        frame = self._frame(X, reset=True)
        labels = self._codes(y, frame.shape[0])
        weight = _check_sample_weight(sample_weight, frame, ensure_non_negative=True)
        random = check_random_state(self.random_state)
        self._seed = int(random.randint(2**31 - 1))
        train, valid = self._divided(np.flatnonzero(weight > 0), labels, random)
        held_out = valid[_repeated(weight[valid], random)] if len(valid) else train
        if isinstance(frame, pd.DataFrame):
            self._typed = not all(map(_is_number, frame.dtypes))
            self._sorts = {
                name: kind
                for name, kind in frame.dtypes.items()
                if isinstance(kind, pd.CategoricalDtype)
            }
            constant = frame.loc[:, frame.nunique() == 1]
            self._constants = {str(n): one.dropna().iloc[0] for n, one in constant.items()}
        data = self._loaded(frame, train, held_out)
        own = {each.name: getattr(data, each.name) for each in dataclasses.fields(data)}
        if labels is not None:
            of = {"train": train, "valid": held_out, "test": held_out}
            for split, rows in of.items():
                codes = torch.from_numpy(labels[rows]).float()
                own[split] = Selection({**own[split].columns, "y": codes})
            told = tuple([str(each) for each in self.classes_])
            none = {split: int(np.isnan(labels[rows]).sum()) for split, rows in of.items()}
            own["description"] = dataclasses.replace(
                data.description, classes=told, unlabelled=none if any(none.values()) else {}
            )
        if not len(valid):
            own["valid"] = Selection({})
        data = TrainingData(**own, weight=weight[train])
        self._train(data, X=X, y=y, sample_weight=sample_weight)
        return data

    def _loaded(self, frame: Any, train: Array, held_out: Array) -> Data:
        """Rows to learn from and to stop by; none is kept to test, which the caller does."""
        parts = {"train": frame.iloc[train], "valid": frame.iloc[held_out]}
        parts["test"] = parts["valid"]
        categories = self._categories([*frame.columns])
        return load(parts, likelihood=self.likelihood, categories=categories, seed=self._seed)

    def _codes(self, y: Any, rows: int) -> Array | None:
        """Codes of the classes, shape ``(rows,)``, NaN where one is unknown; none are read."""
        return None

    def _divided(
        self, rows: Array, labels: Array | None, random: np.random.RandomState
    ) -> tuple[Array, Array]:
        """Rows to learn from and rows to stop by; of few rows, or few of a class, none of them."""
        count = len(rows)
        if count < _FEWEST or self.validation_fraction == 0:
            return rows, rows[:0]
        share = round(self.validation_fraction * count)
        share = min(max(share, min(10, count // 4)), _MOST_HELD_OUT)
        order = random.permutation(rows)
        if labels is not None:
            known = labels[order]
            codes, counts = np.unique(known[~np.isnan(known)], return_counts=True)
            rare = np.isin(known, codes[counts < _FEWEST])
            order = np.concatenate([order[~rare], order[rare]])
            share = min(share, int((~rare).sum()))
        return np.sort(order[share:]), np.sort(order[:share])

    def _train(self, data: Any, X: Any = None, y: Any = None, sample_weight: Any = None) -> None:
        """Train the recipe's model on a source; what was learned is kept in float64."""
        recipe = self._recipe = self._chosen(data.description)
        options = self._options(data)
        options = {name: meant(name, value) for name, value in options.items()}
        model = build(recipe, data.description, self._recipe_options(recipe), self._seed)
        watch = _Watch(self, model, data.description, options["epochs"], X, y, sample_weight)
        if sample_weight is not None:
            if "labelled" not in (self.training or {}):
                options.pop("labelled", None)  # rows are visited by their weights
        elif options.get("labelled") and data.description.unlabelled:
            data = Data(
                **{each.name: getattr(data, each.name) for each in dataclasses.fields(Data)}
            )
        try:
            history = unfolded(learn)(
                model, data, quiet=not self.verbose, callbacks=[watch], **options
            )
            epochs, best, stopped = history.epochs, history.best, history.stopped
        except _Stopped:
            epochs, best, stopped = tuple(watch.records), watch.records[-1], "callback"
        bound = best["valid" if "valid" in best else "train"]
        self.model_ = model.double().eval()
        self.description_ = data.description
        self.n_iter_ = len(epochs)
        self.elbo_ = float(bound.get("elbo", math.nan))
        self.stopped_ = stopped
        self.training_seconds_ = float(sum([each["seconds"] for each in epochs]))
        watch.end()

    def _options(self, data: Any) -> dict[str, Any]:
        """How to train, by the words of ``fit``; passes are said in gradient steps."""
        rows, own = data.rows("train"), training_of(self._recipe)
        own |= self._for_this.get(name_of(self._recipe), {})
        size = min(256, max(16, 2 ** round(math.log2(max(rows / 16, 1)))))
        size = {"batch_size": size, **own, **(self.training or {})}["batch_size"]
        usual = {
            **({} if own.keys() & {"objective", "phases"} else self._usual),
            **of_few_rows(rows, {"batch_size": size}),
            "threads": 1 if rows < _FEW_ROWS else "auto",
        }
        asked = {
            "epochs": self.max_iter,
            "learning_rate": self.learning_rate,
            "minutes": None if self.max_minutes is None else float(self.max_minutes),
            "patience": self.n_iter_no_change,
        }
        asked = {name: value for name, value in asked.items() if value is not None}
        if rows < FEW_ROWS and "schedule" not in own:  # a paper's passes are too few steps of few
            own |= {n: v for n, v in of_few_rows(rows, own).items() if n in own}
        for name in usual.keys() & own.keys() & {"epochs", "patience"} if rows >= FEW_ROWS else ():
            own[name] = min(own[name], usual[name])  # and too many of many rows
        options = usual | own | asked | dict(self.training or {}) | {"seed": self._seed}
        return options if data.rows("valid") else options | {"patience": None}

    def _recipe_options(self, recipe: Callable[..., Any]) -> dict[str, Any]:
        """What the recipe is told: as many latents as were asked for, or at most one a column."""
        options = dict(self.recipe_options or {})
        own = inspect.signature(recipe).parameters
        if "latent" in own and "latent" not in options:
            usual = own["latent"].default
            options["latent"] = self.n_components or min(usual, self.n_features_in_)
        elif self.n_components is not None:
            raise ValueError(
                f"n_components={self.n_components} is the latent= of a recipe, which "
                f"{name_of(recipe)} "
                f"{'is told by recipe_options' if 'latent' in own else 'does not have'}; leave "
                f"it out."
            )
        return options

    # --- numbers out

    def score_samples(self, X: Any) -> Array:
        r"""Log-likelihood of each row, :math:`\log \hat p(x)`, nats, shape ``(rows,)``.

        An estimate by importance sampling, whose expectation is a lower bound that rises with
        ``particles``; of the columns in their own units. A missing cell (NaN) is summed out: the
        likelihood is that of the others. Where the weights of more than a tenth of the rows have
        too heavy a tail for the number of particles, a ``ConvergenceWarning`` says so.
        """
        rows = self._rows(X)
        found = importance_sampling(
            self.model_, rows, self.particles, draw=self._draw, seed=self._seed, compile=False
        )
        if found.heavy > _HEAVY:
            warnings.warn(
                f"The weights of {found.heavy:.0%} of the rows have a heavy tail (Pareto k above "
                f"0.7), so that their log-likelihoods may be too low: take more particles than "
                f"{self.particles}, or train longer.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return found.log_px.cpu().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`, nats a row; higher is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """New rows drawn from the model, as those that it was fitted to: array or data frame."""
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        with drawing(seed):
            drawn = self.model_.sample(n_samples)["x"].value
        return self._as_given(drawn)

    def _as_given(self, values: torch.Tensor) -> Any:
        """Stored values as columns of the types that were fitted, those left out too."""
        columns = dict.fromkeys(self._names(), np.nan) | self._constants
        columns |= self.description_.variables["x"].restored(values)
        frame = pd.DataFrame(columns, index=range(len(values)))
        return frame.astype(self._sorts) if self._typed else frame.to_numpy(dtype=np.float64)

    @property
    def _draw(self) -> dict[str, Any] | None:
        """How latents are drawn where a likelihood is measured, as the recipe says."""
        draw = draws_of(training_of(self._recipe).get("draw"))
        return None if draw is None else {name: as_measured(way) for name, way in draw.items()}

    def _chosen(self, description: Any) -> Callable[..., Any]:
        """The recipe, where it is to be chosen by what the columns are too."""
        if self.recipe != "auto":
            return find(self.recipe) if isinstance(self.recipe, str) else self.recipe
        real, mixed, told = self._auto
        if self.n_components or self.recipe_options:
            return find(told)
        try:
            gaussian(description, real)
        except RecipeError:
            return find(mixed)
        return find(real)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData(Data):
    """Data whose training rows are visited in proportion to their weights.

    A row of weight w among N rows of mean weight 1 is visited w times an epoch on average, a
    whole number of times next to w, so that the gradient is that of the weighted sum of bounds.

    Attributes:
        weight: Of each training row, shape ``(rows,)``.
    """

    weight: Any = None

    def order(
        self, epoch: int, seed: int, batch_size: int, first: int = 0
    ) -> Iterator[torch.Tensor]:
        """The row numbers of each batch of an epoch, by systematic resampling."""
        random = np.random.RandomState([seed, epoch])
        visited = random.permutation(_repeated(self.weight, random))
        return iter(torch.from_numpy(visited).split(batch_size)[first:])


class _Stopped(Exception):
    """A callback of scikit-learn asked to stop."""


class _Watch(Callback):
    """Tells scikit-learn's callbacks of each epoch."""

    def __init__(
        self,
        estimator: Any,
        model: LatentVariableModel,
        description: Any,
        epochs: int,
        X: Any,
        y: Any,
        sample_weight: Any,
    ) -> None:
        self.estimator, self.model, self.description = estimator, model, description
        self.records: list[dict[str, Any]] = []
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        start = getattr(estimator, "_init_callback_context", None)
        self.context = None if start is None else start(max_subtasks=epochs)
        if self.context is not None:
            self.context.call_on_fit_task_begin(**self.told)
            self.next()

    def next(self) -> None:
        """Another epoch begins."""
        self.epoch = cast("Any", self.context).subcontext(
            task_name=f"epoch {len(self.records) + 1}"
        )
        self.epoch.call_on_fit_task_begin(**self.told)

    def epoch_ended(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if self.context is None:
            return
        if self.epoch.call_on_fit_task_end(**self.told, reconstruction_attributes=self.fitted):
            raise _Stopped
        if self.context.max_subtasks > len(self.records):
            self.next()

    def fitted(self) -> dict[str, Any]:
        """What an estimator that stopped here would have."""
        hidden = ("_seed", "_typed", "_sorts", "_constants", "_share", "_recipe")
        own = {k: v for k, v in vars(self.estimator).items() if k.endswith("_") or k in hidden}
        model = copy.deepcopy(self.model).double().eval()
        learned = {"model_": model, "description_": self.description}
        return own | learned | {"n_iter_": len(self.records)}

    def end(self) -> None:
        """Training is over."""
        if self.context is not None:
            self.context.call_on_fit_task_end(**self.told, reconstruction_attributes={})


def _repeated(weight: Array, random: np.random.RandomState) -> Array:
    """As many row numbers as there are weights, each row's in proportion to its own."""
    edges = np.cumsum(weight)
    points = (np.arange(len(weight)) + random.uniform()) * (edges[-1] / max(len(weight), 1))
    return np.searchsorted(edges, points, side="right").clip(max=len(weight) - 1)


def _is_number(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)
