"""Drawn rows of tables: exact small cases, real rows against real ones, copies that are caught."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ks_2samp

from deeplvm import Joint, LatentVariableModel, evaluate
from deeplvm.conditionals import Gaussian
from deeplvm.data import load
from deeplvm.evaluation import Synthetic, synthetic_rows
from deeplvm.evaluation.predictive.columns import ObservedColumn
from deeplvm.evaluation.samples.privacy import Points, privacy, risk_of, success
from deeplvm.evaluation.samples.synthetic import compared, holes_of
from deeplvm.evaluation.samples.table_quality import detection, similarities, utility
from deeplvm.recipes import mixture_model, not_miwae

CODED = [False, False, True, True]
COLUMNS = [
    ObservedColumn("x", place, title, "category" if code else "real")
    for place, (title, code) in enumerate(zip("abcd", CODED, strict=True))
]


def table(rows: int, seed: int, holes: float = 0.0) -> Any:
    """Two numbers, the first with heavy tails, and two codes; all depend on each other."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, rows)
    numbers = rng.standard_t(2, rows) + 2 * kind, rng.normal(size=rows) + kind
    found = np.stack([*numbers, kind, (numbers[1] > 1) ^ (rng.random(rows) < 0.2)], 1)
    return np.where(rng.random(found.shape) < holes, np.nan, found)


def test_similarity_of_columns_and_pairs() -> None:
    """Against SciPy, numpy and tables that are counted by hand."""
    one, two = table(300, 0), table(200, 1)
    found = similarities(one, two, CODED)
    for place in (0, 1):
        distance = ks_2samp(one[:, place], two[:, place]).statistic
        assert found.columns[place].value == pytest.approx(1 - distance)
    shares = [np.bincount(side[:, 2].astype(int)) / len(side) for side in (one, two)]
    assert found.columns[2].value == pytest.approx(1 - abs(shares[0] - shares[1]).sum() / 2)
    correlations = [np.corrcoef(side[:, 0], side[:, 1])[0, 1] for side in (one, two)]
    pair = similarities(one[:, :2], two[:, :2], [False] * 2).pairs
    assert pair.value == pytest.approx(1 - abs(correlations[0] - correlations[1]) / 2)
    first = np.array([[0, 0], [0, 1], [1, 1], [1, np.nan]] * 10)
    second = np.array([[0, 0], [0, 0], [1, 1], [1, np.nan]] * 10)
    assert similarities(first, second, [True] * 2).pairs.value == pytest.approx(0.75)
    # ten bins of 0, ..., 10: the codes go with the halves, or against them
    numbers = np.tile(np.arange(11.0), 4)
    halves = np.stack([numbers, numbers > 5], 1)
    against = np.stack([numbers, numbers <= 5], 1)
    assert similarities(halves, halves, [False, True]).pairs.value == 1
    assert similarities(against, halves, [False, True]).pairs.value == pytest.approx(0.0)
    assert similarities(one, one, CODED).marginals.value == 1


def test_errors_of_similarities() -> None:
    """Their spread over data sets is what they say, to a factor of two: fails once in 10^4."""
    found = [similarities(table(300, s), table(300, 100 + s), CODED) for s in range(30)]
    for estimates in ([each.marginals for each in found], [each.pairs for each in found]):
        spread = np.std([each.value for each in estimates])
        assert 0.5 < np.mean([each.stderr for each in estimates]) / spread < 2.0


def test_a_column_without_values_counts_for_nothing() -> None:
    one, two = table(100, 0), table(100, 1)
    one[:, 0] = np.nan
    found = similarities(one, two, CODED)
    assert math.isnan(found.columns[0].value)
    assert found.marginals.value == pytest.approx(np.mean([e.value for e in found.columns[1:]]))


def test_rows_that_cannot_be_told_apart_and_rows_that_can() -> None:
    """Independent columns have all marginals, and are found out; real rows within 4 errors."""
    one, two = table(300, 0, holes=0.1), table(300, 1, holes=0.1)
    rng = np.random.default_rng(2)
    apart = np.stack([rng.permutation(column) for column in table(300, 2, holes=0.1).T], 1)
    alike = detection(one, two, CODED)
    assert abs(alike.value - 1) < 4 * alike.stderr + 1e-9
    assert detection(apart, two, CODED).value < 0.8
    assert similarities(apart, two, CODED).marginals.value > 0.9
    assert detection(two[:100] + 100, two[:100], CODED).value < 0.02


@pytest.mark.parametrize("target, measure", [("b", "R²"), ("c", "accuracy"), ("d", "AUC")])
def test_what_is_learned_from_rows(target: str, measure: str) -> None:
    """As much from other real rows; nothing from rows whose target is shuffled."""
    train, held, drawn = table(300, 0), table(300, 1), table(300, 2)
    found = utility(drawn, train, held, CODED, "abcd", target)
    assert (found.measure, found.rows) == (measure, 300)
    assert abs(found.difference.value) < 4 * found.difference.stderr
    place = "abcd".index(target)
    drawn[:, place] = np.random.default_rng(3).permutation(drawn[:, place])
    worse = utility(drawn, train, held, CODED, "abcd", target)
    assert worse.real == found.real
    assert worse.difference.value < -3 * worse.difference.stderr
    drawn[:, place] = drawn[0, place]  # nothing but one answer
    assert utility(drawn, train, held, CODED, "abcd", target).drawn.value < found.drawn.value
    held[:, place] = held[0, place]
    with pytest.raises(ValueError, match="cannot be predicted: 300 held-out and 300 drawn"):
        utility(drawn, train, held, CODED, "abcd", target)


def test_rates_and_risks() -> None:
    for right, attacks in ((0, 40), (7, 40), (40, 40)):
        interval = binomtest(right, attacks).proportion_ci(method="wilson")
        found = success(right, attacks)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert found.value == pytest.approx((found.low + found.high) / 2)
    training, control = success(30, 40), success(10, 40)
    assert risk_of(training, training).value == 0
    assert risk_of(training, control).value == pytest.approx(
        (training.value - control.value) / (1 - control.value)
    )


def test_squared_distances_add_up_over_columns() -> None:
    rows = np.array([[1.0, 0], [2.0, 1], [4.0, np.nan], [np.nan, 1]])
    points = Points(rows, np.array([False, True]))
    at = points(rows)
    squared = ((at[:, None] - at[None]) ** 2).sum(-1)
    assert squared[0, 1] == pytest.approx(3 * (1 / 3) ** 2 + 1)  # one rank of three, another code
    assert squared[1, 2] == pytest.approx(3 * (1 / 3) ** 2 + 1)  # a missing code is a code
    assert squared[1, 3] == pytest.approx(1)  # from the middle to a missing number


def test_closest_rows_of_a_small_case() -> None:
    """Of 0.1, 5.2, 9 the closest are 0 and 5 of training and 8 of held-out rows."""
    train, held = np.array([[0.0], [5.0], [20.0]]), np.array([[8.0], [30.0], [40.0]])
    found = privacy(np.array([[0.1], [5.2], [9.0]]), train, held, [False])
    assert found.closest.value == pytest.approx(2 / 3)
    assert found.closest_expected == 0.5
    # three labels of six, three of them training: the variance of drawing without replacement
    assert found.closest.stderr == pytest.approx(math.sqrt(0.25 / 3 * (6 - 3) / (6 - 1)))
    assert found.linkability is None


def test_real_rows_give_nothing_away() -> None:
    """Shares over 20 data sets have the errors they say; the seed could fail once in 1,000."""
    z = []
    for seed in range(20):
        train, held, drawn = (table(150, 3 * seed + i, holes=0.05) for i in range(3))
        found = privacy(drawn, train, held[:75], CODED, attacks=60, seed=seed)
        assert found.closest_expected == pytest.approx(2 / 3)
        z.append((found.closest.value - 2 / 3) / found.closest.stderr)
        for attack in (found.singling_out, found.linkability, found.inference):
            assert attack is not None
            assert attack.risk.low < 0.15
    assert abs(np.mean(z)) < 3.3 / math.sqrt(20)
    assert 0.5 < np.std(z) < 1.6


def test_copies_are_caught() -> None:
    """All that can be guessed of a row is guessed of training rows, and a page says so."""
    train, held = table(150, 0), table(150, 1)
    found = compared(train, train, held, COLUMNS, target="d")
    rows = found.privacy
    assert rows.closest.value == 1
    assert rows.copying.exact == 1
    assert rows.singling_out is not None
    assert rows.linkability is not None
    assert rows.inference is not None
    assert rows.singling_out.risk.low > 0.2
    # both halves have a number, or one has both and the other two codes
    assert rows.linkability.training.value > 0.3 > rows.linkability.held_out.value
    assert rows.inference.training.value > rows.inference.held_out.value + 0.2
    for said in ("100.0 % of the drawn rows are equal to a", "by heart", "Risk of linkability"):
        assert said in str(found)
    assert "AUC of d" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)
    fresh = privacy(table(150, 2), train, held, CODED)
    assert fresh.closest.value < fresh.closest_expected + 3 * fresh.closest.stderr


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="19 rows are too few"):
        compared(table(40, 0), table(40, 1), table(19, 2), COLUMNS)


def messy(rows: int = 300) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    paid = np.where(rng.random(rows) < 0.5, 0.0, rng.gamma(2, 9, rows).round(2))
    return {
        "paid": np.where(rng.random(rows) < 0.2, np.nan, paid),
        "size": np.array(
            [None if u < 0.3 else "S" if u < 0.6 else "M" for u in rng.random(rows)], object
        ),
        "visits": rng.integers(0, 9, rows),
        "day": np.datetime64("2020-01-01") + rng.integers(0, 900, rows),
        "level": rng.integers(-4, 400, rows),
    }


def test_a_model_of_a_table() -> None:
    """Drawn rows have the holes, the digits and the codes of the data; it is asked in one way."""
    data = load(messy())
    model = mixture_model(data, classes=3)
    x = data.variables["x"]
    drawn = model.sample(50)["x"].value
    settled = x.settled(drawn)
    for place, (name, column) in enumerate(x.restored(drawn).items()):
        part = x.by_column[name]
        if part.categories is not None:
            assert [part.categories[int(code)] for code in settled[:, place]] == list(column)
        elif part.kind != "date":
            assert np.array_equal(settled[:, place], column.astype(float))
    found = synthetic_rows(model, data.train, data.test, target="size")
    assert found.holes["drawn"] == pytest.approx(found.holes["held out"], abs=0.06)
    assert set(found.columns) == set(messy())
    again = evaluate(model, data.test, particles=2, synthetic=Synthetic("size"))
    assert again.synthetic == found.to_dict()
    assert "drawn rows: detection score" in str(again)
    assert again.settings["synthetic"] == {"target": "size", "rows": 10_000}
    with pytest.raises(ValueError, match=r"--synthetic\) cannot be had here: There is no column"):
        evaluate(model, data.test, particles=2, synthetic=Synthetic("seize"))
    with pytest.raises(ValueError, match="the training rows are not known"):
        evaluate(model, {"x": data.test["x"][:]}, particles=2, synthetic=Synthetic())


def test_holes_are_those_of_training_rows() -> None:
    data = load(messy())
    holes = holes_of(data.train, ["x"], 500, seed=0)["x"]
    patterns = {tuple(row) for row in data.train.exact("x").isnan().tolist()}
    assert {tuple(row) for row in holes.tolist()} <= patterns
    share = data.train.exact("x").isnan().double().mean(0)
    assert torch.allclose(holes.double().mean(0), share, atol=0.01)  # each row twice, some thrice


def test_holes_that_the_model_explains() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3))
    data = load({n: np.where(v > 1, np.nan, v) for n, v in zip("abc", values.T, strict=True)},
                likelihood="gaussian")  # fmt: skip
    found = synthetic_rows(not_miwae(data, latent=2, hidden=(8,)), data.train, data.test)
    assert 0 < found.holes["drawn"] < 1


def test_images_are_no_tables() -> None:
    data = load("digits")
    model = LatentVariableModel(Joint({"x": Gaussian((1, 8, 8))}))
    with pytest.raises(ValueError, match="x is an image, and these are measures of tables"):
        synthetic_rows(model, data.train, data.test)
