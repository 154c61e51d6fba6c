"""What the estimators give, beside what scikit-learn checks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_iris
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deeplvm.conditionals import LatentClasses, Mixture
from deeplvm.estimators import (
    VAE,
    DeepEstimator,
    TopicVAE,
    VAEAnomalyDetector,
    VAEClassifier,
    VAEDensity,
    VAEImputer,
)

# weights of a model that has hardly learned have heavy tails; one test looks for the warning
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL: dict[str, Any] = {"recipe_options": {"hidden": (16,)}, "random_state": 0}
QUICK = SMALL | {"max_iter": 3, "particles": 20}


def correlated(rows: int = 400, seed: int = 0) -> Any:
    """Three columns that one factor moves, in units of their own."""
    random = np.random.default_rng(seed)
    factor = random.normal(size=(rows, 1))
    noise = 0.3 * random.normal(size=(rows, 3))
    return (factor * [1.0, -1.0, 1.0] + noise) * [1.0, 50.0, 0.01] + [0.0, 100.0, 1.0]


def people(rows: int = 60) -> pd.DataFrame:
    """Numbers, texts, a category and holes."""
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "height": random.normal(170, 10, rows).round(1),
            "town": random.choice(["Bern", "Chur", "Genf"], rows),
            "size": pd.Categorical(random.choice(["s", "m"], rows), ["s", "m", "l"]),
            "children": random.poisson(1.5, rows),
        }
    )
    frame.loc[::7, "height"] = np.nan
    frame.loc[3::9, "town"] = None
    return frame


class TestDensity:
    def test_it_is_that_of_factor_analysis(self) -> None:
        """Units, held-out rows and float64: the way through is right where the truth is known."""
        X, new = correlated(1500), correlated(300, seed=1)
        density = VAEDensity(
            recipe="factor_analysis", n_components=1, particles=2000, random_state=0
        ).fit(X)
        # 2,000 draws from a q that is the posterior but for 0.1 nats: their error is below 0.01
        theirs = FactorAnalysis(1).fit(StandardScaler().fit(X).transform(X))
        exact = theirs.score(StandardScaler().fit(X).transform(new)) - np.log(X.std(0)).sum()
        assert density.score(new) == pytest.approx(exact, abs=0.05)
        gaussian = multivariate_normal(X.mean(0), np.cov(X.T)).logpdf(new).mean()
        assert density.score(new) == pytest.approx(gaussian, abs=0.05)
        assert density.elbo_ == pytest.approx(exact, abs=0.2)
        assert density.description_.variables["x"].columns == ("x0", "x1", "x2")

    @pytest.mark.parametrize("make", [VAEDensity, VAE, VAEClassifier])
    def test_company_and_order_change_nothing(self, make: type[DeepEstimator]) -> None:
        """Of typed columns with holes; a copy of a row has its number."""
        frame = people()
        y = (frame["children"] > 1).astype(int)
        found = make(**QUICK).fit(frame, y)
        methods = [found.score_samples, getattr(found, "transform", found.score_samples)]
        methods.append(getattr(found, "predict_proba", methods[0]))
        twice = pd.concat([frame, frame])
        for method in methods:
            whole = method(twice)
            order = np.random.default_rng(0).permutation(len(twice))
            np.testing.assert_allclose(method(twice.iloc[order]), whole[order], atol=1e-7)
            np.testing.assert_allclose(method(frame.iloc[[5]]), whole[[5]], atol=1e-7)
            np.testing.assert_allclose(whole[: len(frame)], whole[len(frame) :], atol=1e-7)
            assert whole.dtype == np.float64

    def test_it_ends_by_itself_on_few_rows_and_when_the_time_is_over(self) -> None:
        few = VAEDensity(**SMALL).fit(correlated(20))
        assert (few.stopped_, few.n_iter_ < 2000) == ("patience", True)
        late = VAEDensity(**SMALL, max_minutes=1e-9).fit(correlated(20))
        assert (late.stopped_, late.n_iter_) == ("minutes", 1)
        none = VAEDensity(**SMALL, max_iter=2, validation_fraction=0).fit(correlated(20))
        assert (none.stopped_, none.n_iter_) == ("epochs", 2)

    def test_rows_count_by_their_weight(self) -> None:
        """A row of weight 0 is not there; rows of weight 3 draw the mean to themselves."""
        X = np.concatenate([np.random.default_rng(0).normal(m, 0.1, (150, 1)) for m in (0, 1, 9)])
        weight = np.repeat([1.0, 3.0, 0.0], 150)
        options = SMALL | {"learning_rate": 0.02, "recipe": "factor_analysis", "max_iter": 60}
        options["recipe_options"] = {}
        density = VAEDensity(**options).fit(X, sample_weight=weight)
        mean = float(density.model_.sample(4000)["x"].value.mean())
        # 0.75 is the weighted mean, 0.5 the plain one of the rows that are there
        assert mean == pytest.approx(0.75, abs=0.1)

    def test_draws_are_like_the_rows(self) -> None:
        X = correlated(1000)
        density = VAEDensity(recipe="factor_analysis", n_components=1, random_state=0).fit(X)
        drawn = density.sample(4000, random_state=0)
        # 4,000 draws: four errors of a correlation are 0.06 and of a mean in units 0.06
        np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(X.T), atol=0.1)
        np.testing.assert_allclose((drawn.mean(0) - X.mean(0)) / X.std(0), 0, atol=0.1)
        frame = people().assign(country="CH")
        rows = VAEDensity(**QUICK).fit(frame).sample(7)
        assert rows.dtypes.astype(str).to_dict() == frame.dtypes.astype(str).to_dict()
        assert set(rows["town"]) <= {"Bern", "Chur", "Genf"}

    def test_too_few_draws_are_said(self) -> None:
        density = VAEDensity(**SMALL | {"max_iter": 3}, particles=50).fit(correlated(60))
        with pytest.warns(ConvergenceWarning, match="take more particles than 50"):
            density.score(correlated(60) * 3)

    def test_a_recipe_of_ones_own_and_what_is_refused(self) -> None:
        from deeplvm.recipes import vae

        assert VAEDensity(**QUICK | {"recipe": vae}).fit(correlated(30)).score(correlated(5)) < 9e9
        with pytest.raises(ValueError, match="n_components=3 is the latent= of a recipe"):
            VAEDensity(**QUICK | {"recipe_options": {"latent": 2}}, n_components=3).fit(
                correlated(30)
            )
        with pytest.raises(ValueError, match="categorical_features names"):
            VAEDensity(**QUICK, categorical_features=["z"]).fit(correlated(30))
        with pytest.raises(ValueError, match="no recipe 'vea'"):
            VAEDensity(recipe="vea").fit(correlated(30))


class Second:
    """Asks to stop after the second epoch."""

    def setup(self, estimator: Any, context: Any) -> None:
        self.heard = 0

    def teardown(self, estimator: Any, context: Any) -> None: ...

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None: ...

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        self.heard += 1
        return self.heard == 2


class TestFeatures:
    def test_names_in_and_out(self) -> None:
        frame = people()
        latents = VAE(**QUICK, n_components=2).set_output(transform="pandas").fit(frame)
        found = latents.transform(frame)
        assert [*found.columns] == ["vae0", "vae1"]
        assert found.index.equals(frame.index)
        assert [*latents.feature_names_in_] == [*frame.columns]
        with pytest.raises(ValueError, match="feature names"):
            latents.transform(frame.rename(columns={"town": "city"}))

    def test_a_table_of_arrow(self) -> None:
        frame = people()
        latents = VAE(**QUICK).fit(pa.Table.from_pandas(frame))
        np.testing.assert_allclose(latents.transform(frame), VAE(**QUICK).fit_transform(frame))

    def test_codes_that_are_categories(self) -> None:
        X = np.column_stack([correlated(60)[:, 0], np.random.default_rng(0).integers(0, 3, 60)])
        kinds = {}
        for chosen in ([1], [False, True], None):
            fitted = VAE(**QUICK, categorical_features=chosen).fit(X)
            kinds[str(chosen)] = fitted.description_.variables["x"].parts[1].kind
        assert kinds == {"[1]": "category", "[False, True]": "category", "None": "counts"}

    def test_pipeline_grid_clone_and_pickle(self) -> None:
        X = correlated(60)
        y = X[:, 0] > 0
        pipeline = make_pipeline(StandardScaler(), VAE(**QUICK), LogisticRegression())
        grid = GridSearchCV(pipeline, {"vae__n_components": [1, 2]}, cv=2).fit(X, y)
        assert grid.best_score_ > 0.5
        assert clone(pipeline).get_params()["vae__max_iter"] == 3
        again = pickle.loads(pickle.dumps(grid.best_estimator_))  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(again.predict_proba(X), grid.predict_proba(X))

    def test_the_page_shows_what_was_learned(self) -> None:
        page = VAE(**QUICK).fit(correlated(40))._repr_html_()
        assert "elbo_" in page
        assert "n_iter_" in page

    def test_callbacks_hear_of_every_epoch(self) -> None:
        monitor = ScoringMonitor(scoring="accuracy")
        X = correlated(40)
        labels = (X[:, 0] > 0).astype(int)
        found = VAEClassifier(**QUICK).set_callbacks(monitor, Second()).fit(X, labels)
        assert (found.n_iter_, found.stopped_) == (2, "callback")
        scores = monitor.get_logs().data_as_pandas
        assert [*scores["task_name"]] == ["fit", "epoch 1", "epoch 2"]
        assert scores["accuracy"].between(0, 1).all()


class TestImputer:
    def test_correlated_cells_are_filled_better_than_by_the_mean(self) -> None:
        X = correlated(600)
        holes = np.random.default_rng(1).random(X.shape) < 0.2
        holes[holes.all(1)] = False
        given = np.where(holes, np.nan, X)
        imputer = VAEImputer(recipe="factor_analysis", n_components=1, random_state=0)
        filled = imputer.fit_transform(given)
        np.testing.assert_array_equal(filled[~holes], X[~holes])
        units = X.std(0)
        error = np.sqrt(np.mean(((filled - X) / units)[holes] ** 2))
        # the factor leaves 0.3 to 0.43 of a standard deviation, the mean 1
        assert error < 0.6
        assert [*imputer.get_feature_names_out()] == ["x0", "x1", "x2"]

    def test_of_real_numbers_nothing_is_drawn(self) -> None:
        """Rows of two normals that go together: the best guess leaves 0.3 of one."""
        X = correlated(300)
        given = X.copy()
        given[::2, 0] = np.nan
        filled = VAEImputer(max_iter=30, random_state=0).fit_transform(given)
        error = (filled - X)[::2, 0].std() / X[:, 0].std()
        others = np.column_stack([X[:, 1:], np.ones(len(X))])
        least = np.linalg.lstsq(others[1::2], X[1::2, 0], rcond=None)[0]
        assert error < 1.05 * (others @ least - X[:, 0])[::2].std() / X[:, 0].std()

    def test_a_typed_table_comes_back_as_it_was(self) -> None:
        frame = people().assign(country="CH", ward=np.nan)
        frame.loc[4, "country"] = None
        imputer = VAEImputer(**QUICK)
        filled = imputer.fit_transform(frame.drop(columns="ward"))
        assert not filled.isna().any(axis=None)
        assert (filled["country"] == "CH").all()
        known = frame["town"].notna()
        assert (filled["town"] == frame["town"])[known].all()
        assert set(filled["town"]) <= {"Bern", "Chur", "Genf"}
        assert filled["size"].dtype == frame["size"].dtype

    def test_several_completions(self) -> None:
        X = correlated(40)
        X[0, 0] = np.nan
        draws = VAEImputer(**QUICK).fit(X).draw(X, draws=3)
        assert len(draws) == 3
        assert len({draw[0, 0] for draw in draws}) > 1
        np.testing.assert_array_equal(draws[0][1:], X[1:])

    @pytest.mark.parametrize("by", ["mean", "median", "mode"])
    def test_what_is_filled_in_is_chosen(self, by: str) -> None:
        X = correlated(40)
        X[0, 0] = np.nan
        assert np.isfinite(VAEImputer(**QUICK, by=by).fit(X).transform(X)).all()


class TestClassifier:
    def blobs(self) -> tuple[Any, Any]:
        random = np.random.default_rng(0)
        y = np.repeat([0, 1, 2], 100)
        return random.normal(np.array([[0, 0], [4, 0], [0, 4]])[y], 0.7), y

    def test_rows_without_labels_teach(self) -> None:
        X, y = self.blobs()
        few = np.full(len(y), -1)
        few[::20] = y[::20]  # five of each class
        options = SMALL | {"learning_rate": 0.01, "max_iter": 150}
        found = VAEClassifier(**options).fit(X, few)
        assert [*found.classes_] == [0, 1, 2]
        # the best rule errs in 0.5 % of rows
        assert found.score(X, y) > 0.95
        assert found.score_samples(X + 30).max() < found.score_samples(X).min()

    def test_a_share_of_each_batch_is_labelled(self) -> None:
        """As fit does it; rows that have weights come in an order of their own."""
        X, y = self.blobs()
        few = np.where(np.arange(len(y)) % 20 == 0, y, -1)
        options, weight = QUICK | {"training": {"labelled": 0.5}}, np.arange(len(y)) % 3
        own, as_they_come = VAEClassifier(**QUICK), QUICK | {"training": {"labelled": 0.0}}
        half = own.fit(X, few).elbo_  # the recipe's own
        assert half == VAEClassifier(**options).fit(X, few).elbo_
        assert half != VAEClassifier(**as_they_come).fit(X, few).elbo_
        assert own.fit(X, few, sample_weight=weight).elbo_ != half
        with pytest.raises(ValueError, match="an order of their own"):
            VAEClassifier(**options).fit(X, few, sample_weight=weight)

    def test_unknown_labels_of_any_kind(self) -> None:
        X, y = self.blobs()
        names = np.array(["a", "b", "c"], dtype=object)[y]
        for unknown in (-1, None, np.nan):
            some = names.copy()
            some[::3] = unknown
            found = VAEClassifier(**QUICK).fit(X, some)
            assert [*found.classes_] == ["a", "b", "c"]
        with pytest.raises(ValueError, match="two classes"):
            VAEClassifier(**QUICK).fit(X, np.where(y == 0, 0, -1))

    @pytest.mark.parametrize("recipe", ["m1", "auxiliary_semi_supervised_vae"])
    def test_classes_by_recipes_that_draw_before_the_label(self, recipe: str) -> None:
        X, y = self.blobs()
        few = np.where(np.arange(len(y)) % 5 == 0, y, -1)
        found = VAEClassifier(**QUICK, recipe=recipe).fit(X[::3], few[::3])
        shares = found.predict_proba(X)
        assert np.allclose(shares.sum(1), 1)
        assert np.array_equal(shares, found.predict_proba(X))
        assert np.isfinite(found.score_samples(X)).all()

    def test_probabilities_are_calibrated_by_held_out_labels(self) -> None:
        """Labels that are right in four of five rows: a sure classifier is softened."""
        random = np.random.default_rng(0)
        X = random.normal(size=(600, 2))
        y = np.where(random.random(600) < 0.2, X[:, 0] < 0, X[:, 0] > 0).astype(int)
        options = SMALL | {"recipe_options": {"hidden": (64, 64)}, "learning_rate": 0.01}
        options |= {"training": {"averaging": 0.0, "measure": "elbo"}, "max_iter": 60}
        found = VAEClassifier(**options, validation_fraction=0.3).fit(X, y)
        assert found.temperature_ > 1
        sure = found.predict_proba(X).max(1).mean()
        assert sure == pytest.approx(0.8, abs=0.1)


class TestAnomalies:
    def test_rows_far_away_and_the_rate_of_alarms(self) -> None:
        X = correlated(300)
        found = VAEAnomalyDetector(**SMALL, max_iter=60, learning_rate=0.01, contamination=0.05)
        labels = found.fit_predict(X)
        assert (labels == -1).sum() == 15
        odd = np.array([2.0, 100.0, -0.02])  # usual cells, and an odd row
        against = (X.mean(0) + odd)[None]
        assert found.predict(against)[0] == -1
        assert found.decision_function(against)[0] < 0

    def test_real_numbers_have_a_mixture_and_other_columns_another(self) -> None:
        X = correlated(200)
        found = VAEAnomalyDetector(max_iter=20, random_state=0).fit(X)
        assert found.model_.factorisation == "p(x)"
        assert isinstance(found.model_.p["x"], Mixture)
        odd = np.array([2.0, 100.0, -0.02])
        assert found.predict((X.mean(0) + odd)[None])[0] == -1
        whole = found.score_samples(X)
        np.testing.assert_allclose(whole[:3], found.score_samples(X[:3]), rtol=1e-7)
        other = VAEAnomalyDetector(max_iter=2, random_state=0).fit(people())
        assert isinstance(other.model_.p["x"], LatentClasses)
        told = VAEAnomalyDetector(**QUICK, n_components=2).fit(X)
        assert told.model_.q.names == ("z",)


class TestTopics:
    def documents(self) -> Any:
        """Sixty documents of two topics with three words each, and a word of all."""
        random = np.random.default_rng(0)
        topics = np.array([[6.0, 6, 6, 0.1, 0.1, 0.1, 3], [0.1, 0.1, 0.1, 6, 6, 6, 3]])
        return random.poisson(topics[np.repeat([0, 1], 100)])

    def test_topics_are_found_and_named(self) -> None:
        counts = self.documents()
        words = ["tea", "milk", "cup", "goal", "ball", "team", "the"]
        topics = TopicVAE(n_components=2, learning_rate=0.02, max_iter=400, random_state=0)
        shares = topics.fit(sparse.csr_array(counts)).transform(counts)
        groups = {frozenset(each) for each in topics.top_words(3, words)}
        assert groups == {frozenset(words[:3]), frozenset(words[3:6])}
        assert len({*shares[:100].argmax(1)} | {*shares[100:].argmax(1)}) == 2
        np.testing.assert_allclose(topics.components_.sum(1), 1)
        np.testing.assert_allclose(
            topics.score_samples(counts), topics.score_samples(sparse.csr_array(counts))
        )
        # in every document there is a word by chance; those of a topic are together more often
        assert topics.coherence(np.maximum(counts - 1, 0), 3).min() > 0
        plain = TopicVAE(n_components=2, recipe="nvdm", max_iter=2).fit(counts)
        assert plain.transform(counts).shape == (200, 2)
        # of seven equal words it is 7, of the right topic's four 3.9
        assert 3.8 < topics.perplexity(counts) < 5

    def test_texts_are_no_counts(self) -> None:
        with pytest.raises(ValueError, match="Negative values"):
            TopicVAE().fit(-self.documents())


def test_few_rows_are_denser_than_independent_columns() -> None:
    """Of irises by a hundred of them: a default that loses to these has learned nothing."""
    X = np.random.default_rng(0).permutation(load_iris().data)
    train, new = X[:100], X[100:]
    independent = norm(train.mean(0), train.std(0)).logpdf(new).sum(1).mean()
    density = VAEDensity(recipe="mixture_model", max_iter=60, random_state=0).fit(train)
    assert density.score(new) > independent + 0.5
