"""A fault of each kind is planted, and seen."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Uniform

from deeplvm import Enumerated, Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, NegativeBinomial, Poisson
from deeplvm.conditionals.columns import Columns
from deeplvm.data import Data
from deeplvm.diagnosis import Effort, Examination, Verdict, diagnose
from deeplvm.diagnosis.remedies import stopping, untried
from deeplvm.diagnosis.rules import data, latents, likelihood, samples, training
from deeplvm.networks import MLP
from deeplvm.training import fit, unfolded

from .patients import (
    COLUMNS,
    HELD_OUT,
    ROWS,
    Kernels,
    Recalled,
    curve,
    drawn,
    linear,
    loadings,
    normal,
    rows_of,
    set_linear,
    table,
)

SMALL = Effort(
    rows=400, particles=200, gap_rows=40, annealed_rows=20, temperatures=100, annealed_particles=4
)


def seen(
    rule: Any, model: LatentVariableModel, rows: Data, metrics: Any = (), effort: Effort = SMALL
) -> Verdict:
    """What the one rule says; it must not be that it cannot measure."""
    found = diagnose(model, rows, metrics, rules=[rule], effort=effort)
    assert not found.impossible
    assert len(found.verdicts) == 1
    return found.verdicts[0]


def test_collapse() -> None:
    """q is the prior and p does without z."""
    weight = torch.zeros(COLUMNS, 2, dtype=torch.float64)
    verdict = seen(latents.collapse, linear(weight), rows_of(weight))
    assert verdict.name == "posterior collapse"
    assert "free_bits" in verdict.remedy


def test_more_latents_than_used() -> None:
    weight = torch.cat([loadings(2), torch.zeros(COLUMNS, 4)], 1)
    verdict = seen(latents.too_many_latents, linear(weight), rows_of(weight))
    assert verdict.name == "more latents than used"
    assert verdict.numbers["active"] == 2
    assert "--latent 2" in verdict.remedy


def test_too_few_latents() -> None:
    """Three factors, of which the model has one."""
    weight = loadings(3)
    model = linear(weight[:, :1], noise=math.sqrt(2.0))
    verdict = seen(latents.too_few_latents, model, rows_of(weight))
    assert verdict.name == "too few latents"
    assert verdict.numbers["eigenvalue"] > 1.5
    assert verdict.numbers["by_chance"] < 1.3
    assert "--latent 2" in verdict.remedy


def test_constant_columns() -> None:
    weight = loadings(2)
    rows = [drawn(weight, count, seed) for count, seed in ((ROWS, 10), (HELD_OUT, 20))]
    for each in rows:
        each[:, 4] = 7.0
    verdict = seen(data.constant_columns, linear(weight), table(*rows))
    assert verdict.numbers["columns"] == ["c4"]
    assert "--drop c4" in verdict.remedy


def test_constant_columns_of_counts_have_no_density() -> None:
    model = LatentVariableModel(Joint({"x": Poisson(COLUMNS)}))
    rows = [normal(count, 6, seed=count).abs().round() for count in (ROWS, HELD_OUT)]
    for each in rows:
        each[:, 2] = 0.0
    verdict = seen(data.constant_columns, model, table(*rows, likelihood="poisson", kind="counts"))
    assert verdict.numbers["columns"] == ["c2"]
    assert "density" not in verdict.seen


def test_codes_under_a_density() -> None:
    weight = loadings(2)
    rows = [drawn(weight, count, seed) for count, seed in ((ROWS, 10), (HELD_OUT, 20))]
    for each in rows:
        each[:, 1] = each[:, 1].round().clamp(-2, 2)
    verdict = seen(data.few_values, linear(weight), table(*rows))
    assert verdict.numbers["distinct"] == {"c1": 5}
    assert "--categories c1" in verdict.remedy


def test_rows_in_two_splits() -> None:
    weight = loadings(2)
    train, test = drawn(weight, ROWS, 10), drawn(weight, HELD_OUT, 20)
    test[:40] = train[100:140]
    verdict = seen(data.repeated_rows, linear(weight), table(train, test))
    assert verdict.numbers["share"] == 0.1


def test_whole_numbers_in_two_splits() -> None:
    """Counts meet by chance; these meet more often."""
    train = torch.poisson(normal(1_000, 6, seed=1).exp(), torch.Generator().manual_seed(2))
    test = torch.poisson(normal(400, 6, seed=3).exp(), torch.Generator().manual_seed(4))
    model = LatentVariableModel(Joint({"x": Poisson(6, mean=train.mean(0))}))
    suited: dict[str, Any] = {"likelihood": "poisson", "kind": "counts"}
    chance = diagnose(model, table(train, test, **suited), rules=[data.repeated_rows])
    assert chance.healthy
    test[:100] = train[:100]
    verdict = seen(data.repeated_rows, model, table(train, test, **suited))
    assert verdict.numbers["share"] > 0.2


def test_a_scale_at_its_floor() -> None:
    """One element of six has nothing to its name but the floor."""
    model = LatentVariableModel(Joint({"x": Gaussian(COLUMNS, scale="dimension")}))
    with torch.no_grad():
        model.p["x"].scale.raw[2] = -30.0  # type: ignore[union-attr, index]
    verdict = seen(
        data.scale_at_its_floor, model, table(normal(90, 6, seed=0), normal(50, 6, seed=1))
    )
    assert abs(verdict.numbers["share"] - 1 / 6) < 1e-9


def test_a_scale_at_its_floor_among_columns_of_several_kinds() -> None:
    """Of three reals beside three counts one has nothing to its name but the floor."""
    real = partial(Gaussian, 3, scale="dimension")
    groups = [((0, 2, 4), real), ((1, 3, 5), partial(Poisson, 3))]
    model = LatentVariableModel(Joint({"x": Columns(groups)}))
    with torch.no_grad():
        model.p["x"].groups[0].scale.raw[1] = -30.0  # type: ignore[union-attr, index]
    rows = [normal(count, 6, seed=count) for count in (90, 50)]
    for each in rows:
        each[:, 1::2] = each[:, 1::2].abs().round()
    verdict = seen(data.scale_at_its_floor, model, table(*rows))
    assert abs(verdict.numbers["share"] - 1 / 3) < 1e-9
    assert "p(c0, c2, c4 | z)" in verdict.seen


def test_impossible_rows() -> None:
    class Unit(nn.Module):
        event_shape = torch.Size((3,))

        def forward(self) -> Independent:
            limits = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
            return Independent(Uniform(*limits, validate_args=False), 1, validate_args=False)

    train, test = normal(100, 3, seed=0).sigmoid(), normal(60, 3, seed=1).sigmoid()
    test[:4, 0] = 1.5
    model = LatentVariableModel(Joint({"x": Unit()}))
    verdict = seen(data.impossible_rows, model, table(train, test))
    assert verdict.numbers["rows"] == 4


def test_training_that_ended_early() -> None:
    values = [-100.0 * 0.95**epoch - 50 for epoch in range(30)]
    verdict = seen(training.still_rising, linear(loadings(2)), rows_of(loadings(2)), curve(values))
    assert verdict.name == "training ended early"
    assert "--epochs 60" in verdict.remedy


@pytest.mark.parametrize("broken", [-400.0, math.nan])
def test_unstable_training(broken: float) -> None:
    noise = 0.05 * normal(40, seed=5)
    values = [-50.0 - 30.0 * 0.8**epoch + float(noise[epoch]) for epoch in range(40)]
    train = values.copy()
    train[25] = broken
    metrics = curve(values, train)
    verdict = seen(training.unstable, linear(loadings(2)), rows_of(loadings(2)), metrics)
    assert verdict.name == "unstable training"
    assert "--clip" in verdict.remedy


def test_over_fitting_and_memorised_rows() -> None:
    """A kernel on each of the training rows, far narrower than their distances."""
    weight = loadings(2)
    rows = table(drawn(weight, 400, 10), drawn(weight, 400, 20))
    model = LatentVariableModel(Joint({"x": Kernels(rows.train["x"], 0.2)}))
    verdict = seen(training.over_fitting, model, rows)
    assert verdict.numbers["gap"] > 5
    verdict = seen(samples.copies, model, rows)
    assert verdict.name == "memorised rows"
    assert verdict.numbers["close"] > 0.2


def test_unreliable_weights() -> None:
    """q has a third of the posterior's standard deviation: weights have no variance."""
    weight = loadings(2)
    model = linear(weight, spread=0.15)
    verdict = seen(likelihood.unreliable_weights, model, rows_of(weight))
    assert verdict.numbers["share"] > 0.5
    assert "--ais" in verdict.remedy


def test_a_likelihood_that_has_not_settled() -> None:
    """Six latents, each three standard deviations from where the posterior is."""
    weight = loadings(6)
    model = linear(weight, encoder=torch.zeros(6, 6), spread=0.4)
    verdict = seen(likelihood.unsettled_estimate, model, rows_of(weight))
    assert verdict.name == "likelihood not settled"
    assert verdict.numbers["below"] > 0.5


def test_a_family_that_is_too_narrow() -> None:
    r"""Two pairs of latents with a posterior correlation of -0.91; the gap has a closed form.

    :math:`\tfrac12 (\sum \log (S^{-1})_{ii} + \log \det S)`, S the posterior's covariance.
    """
    u = loadings(4) / 2.0
    weight = torch.stack(
        [4 * u[:, 0], 4 * u[:, 0] + u[:, 1], 4 * u[:, 2], 4 * u[:, 2] + u[:, 3]], 1
    )
    precision = torch.eye(4, dtype=torch.float64) + weight.T @ weight
    gap = float(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)))
    encoder = torch.linalg.solve(precision, weight.T)
    model = linear(weight, encoder=encoder, spread=precision.diagonal().rsqrt())
    many = replace(SMALL, particles=5_000)  # fewer see less of the gap
    verdict = seen(likelihood.family_too_narrow, model, rows_of(weight), effort=many)
    assert "--posterior" in verdict.remedy
    assert 1.0 < verdict.numbers["gap"] < gap + 4 * verdict.numbers["stderr"]
    assert 1.7 < gap < 1.9


def test_an_encoder_that_is_too_weak() -> None:
    weight = loadings(2)
    model = linear(weight, encoder=torch.zeros(2, COLUMNS), spread=1.0)
    verdict = seen(likelihood.encoder_too_weak, model, rows_of(weight))
    assert "--hidden" in verdict.remedy


def test_an_encoder_that_over_fits() -> None:
    weight = loadings(2)
    rows = rows_of(weight, train=500)
    model = linear(weight)
    model.q = Joint({"z | x": Gaussian(2, Recalled(weight, rows.train["x"]), minimum_scale=0.0)})
    set_linear(model.q["z"], torch.eye(4))
    verdict = seen(samples.encoder_over_fits, model, rows)
    assert verdict.name == "encoder over-fits"


def on_a_ring(rows: int, seed: int) -> Tensor:
    """Points at distance 2 from the middle, with little noise."""
    angle = math.pi * normal(rows, seed=seed).mul(math.sqrt(0.5)).erf()
    ring = 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
    return ring + 0.1 * normal(rows, 2, seed=seed + 1)


def test_holes_in_the_prior() -> None:
    """x is z with little noise, and lies on a ring; the prior fills the middle."""
    weight = torch.eye(2, dtype=torch.float64)
    rows = table(on_a_ring(2_000, 1), on_a_ring(400, 5))
    verdict = seen(samples.hollow_prior, linear(weight, noise=0.1), rows)
    assert verdict.numbers["value"] > 0.4


@pytest.mark.parametrize(
    "values, model, expected",
    [
        ("overdispersed", "poisson", "negative-binomial"),
        ("zero-inflated", "gaussian", "Zeros"),
        ("skewed", "gaussian", "logarithm"),
    ],
)
def test_a_likelihood_that_does_not_suit(values: str, model: str, expected: str) -> None:
    def rows(count: int, seed: int) -> Tensor:
        base = normal(count, 3, seed=seed)
        if values == "overdispersed":
            generator = torch.Generator().manual_seed(seed)
            return torch.poisson((1.0 + base).exp(), generator=generator)
        if values == "zero-inflated":
            return torch.where(normal(count, 3, seed=seed + 1) > 0, base + 3.0, 0.0)
        return base.exp()

    train, test = rows(2_000, 1), rows(400, 5)
    if model == "poisson":
        conditional: nn.Module = Poisson(3, mean=train.mean(0))
        suited = {"likelihood": "poisson", "kind": "counts"}
    else:
        conditional = Gaussian(3, scale="dimension", units=(train.mean(0), train.std(0)))
        suited = {}
    patient = LatentVariableModel(Joint({"x": conditional}))
    verdict = seen(samples.unlike_data, patient, table(train, test, **suited))  # type: ignore[arg-type]
    assert expected in verdict.remedy


def test_correlations_that_are_lost() -> None:
    """Independent columns for rows of two factors, with the right variance of each."""
    weight = loadings(2)
    rows = rows_of(weight)
    spread = (1.0 + weight.square().sum(1)).sqrt()
    model = LatentVariableModel(
        Joint({"x": Gaussian(COLUMNS, scale=1.0, units=(torch.zeros(COLUMNS), spread))})
    )
    verdict = seen(samples.lost_correlations, model, rows)
    true = weight @ weight.T / torch.outer(spread, spread)
    off = true.square().sum() - true.diagonal().square().sum()
    assert verdict.numbers["typical"] == pytest.approx(float((off / 30).sqrt()), abs=0.05)


@pytest.mark.parametrize("scale, word", [(0.5, "too narrow"), (2.5, "too wide")])
def test_miscalibrated_predictions(scale: float, word: str) -> None:
    model = LatentVariableModel(Joint({"x": Gaussian(4, scale=scale)}))
    rows = table(normal(300, 4, seed=1), normal(400, 4, seed=2))
    assert word in seen(samples.miscalibrated, model, rows).seen


def shifted(rows: Tensor, how: str) -> Tensor:
    """The same rows, from elsewhere."""
    rows = rows.clone()
    if how == "moved":
        rows[:, 0] += 4.0
    elif how == "unit":
        rows[:, 1] *= 1000.0
    elif how == "sign":
        rows[:, 0] *= -1.0
    else:
        rows[::3, 2] = torch.nan
    return rows


@pytest.mark.parametrize(
    "how, words",
    [
        ("moved", "c0 has the median"),
        ("unit", "times, as in another unit"),
        ("sign", "no column by itself"),
        ("holes", "c2 is missing in 3"),
    ],
)
@pytest.mark.parametrize("with_valid", [True, False])
def test_held_out_rows_from_elsewhere_are_no_fault_of_the_model(
    how: str, words: str, with_valid: bool
) -> None:
    """Only the test rows moved; with rows of validation the model is judged by these."""
    weight = loadings(2)
    train, fresh = drawn(weight, ROWS, 10), drawn(weight, HELD_OUT, 30)
    test = shifted(drawn(weight, HELD_OUT, 20), how)
    rows = table(train, test, fresh if with_valid else None)
    if how == "holes":  # the description says so, as that of a file would
        variable = replace(rows.variables["x"], missing=True)
        rows = replace(rows, description=replace(rows.description, variables={"x": variable}))
    accusing = [training.over_fitting, samples.copies, samples.lost_correlations]
    found = diagnose(linear(weight), rows, rules=[data.shifted_rows, *accusing], effort=SMALL)
    assert found.faults == ("held-out rows unlike training rows",)
    assert words in found.verdicts[0].seen
    assert ("valid rows, which are like training rows" in found.verdicts[0].seen) == with_valid
    assert len(found.impossible) == (0 if with_valid else 3)
    assert all(["come from elsewhere" in why for why in found.impossible.values()])


def test_over_fitting_is_named_where_held_out_rows_are_like_training_rows() -> None:
    weight = loadings(2)
    rows = table(*[drawn(weight, 400, seed) for seed in (10, 20, 30)])
    model = LatentVariableModel(Joint({"x": Kernels(rows.train["x"], 0.2)}))
    found = diagnose(model, rows, rules=[data.shifted_rows, training.over_fitting], effort=SMALL)
    assert found.faults == ("over-fitting",)


def test_an_encoder_that_reads_columns_in_another_order_is_told_first() -> None:
    """p is right; the posterior means are those of other columns."""
    weight = loadings(2)
    size = weight.square().sum(0) + 1.0
    encoder = (weight / size).T[:, [1, 2, 3, 4, 5, 0]]
    for effort in (SMALL, replace(SMALL, gap_rows=15)):
        rules = [latents.too_few_latents, likelihood.encoder_too_weak, samples.hollow_prior]
        metrics = curve([-11.5] * 10)
        found = diagnose(
            linear(weight, encoder=encoder), rows_of(weight), metrics, rules=rules, effort=effort
        )
        assert found.faults[0] == "encoder too weak"
        assert "another order" in found["encoder too weak"].seen
        assert "too few latents" not in found.faults


def test_faults_are_ranked_by_what_they_cost() -> None:
    """q reads other columns; a column that never changes spoils all numbers."""
    weight = loadings(2)
    size = weight.square().sum(0) + 1.0
    model = linear(weight, encoder=(weight / size).T[:, [1, 2, 3, 4, 0, 5]])
    rules = [likelihood.unreliable_weights, likelihood.encoder_too_weak, data.constant_columns]
    train, test = drawn(weight, ROWS, 10), drawn(weight, HELD_OUT, 20)
    train[:, 5] = test[:, 5] = 1.0
    found = diagnose(model, table(train, test), rules=rules, effort=SMALL)
    assert found.faults == (
        "constant columns",
        "encoder too weak",
        "unreliable importance weights",
    )
    costs = [verdict.nats for verdict in found.verdicts]
    assert costs[0] is None
    assert costs[1] is not None
    assert costs[1] > 1.0


@pytest.mark.parametrize("rule", [samples.unlike_data, samples.lost_correlations])
@pytest.mark.parametrize("replicates", [198, 199])
def test_a_rule_that_cannot_fire_is_impossible(rule: Any, replicates: int) -> None:
    weight = loadings(2)
    effort = replace(SMALL, replicates=replicates)
    found = diagnose(linear(weight), rows_of(weight), rules=[rule], effort=effort)
    assert bool(found.impossible) == (replicates == 198)
    assert bool(found.sound) == (replicates == 199)


@pytest.mark.parametrize(
    "rule, effort",
    [
        (likelihood.encoder_too_weak, {"gap_rows": 1}),
        (likelihood.family_too_narrow, {"gap_rows": 1}),
        (samples.encoder_over_fits, {"gap_rows": 1}),
        (likelihood.unsettled_estimate, {"annealed_rows": 1}),
        (likelihood.unreliable_weights, {"particles": 4}),
    ],
)
def test_too_little_effort_is_no_clean_bill(rule: Any, effort: dict[str, int]) -> None:
    weight = loadings(2)
    small = replace(SMALL, **effort)
    found = diagnose(linear(weight), rows_of(weight), rules=[rule], effort=small)
    assert found.impossible
    assert not found.sound


def test_what_would_have_been_seen_is_told() -> None:
    rules = [samples.lost_correlations, training.over_fitting, likelihood.encoder_too_weak]
    found = diagnose(linear(loadings(2)), rows_of(loadings(2)), rules=rules, effort=SMALL)
    assert found.healthy
    assert all(["would have been seen" in line for line in found.sound])


def test_counts_that_are_negative_binomial_already_hear_of_something_else() -> None:
    """The dispersion is fixed far too large."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.poisson((1.0 + normal(n, 3, seed=n)).exp(), generator=generator)
            for n in (2_000, 400)]  # fmt: skip
    known = NegativeBinomial(3, mean=rows[0].mean(0))
    with torch.no_grad():
        for parameter in known.parameters():
            if parameter.shape == (3,):
                parameter.fill_(50.0)
    model = LatentVariableModel(Joint({"x": known}))
    suited: dict[str, Any] = {"likelihood": "negative-binomial", "kind": "counts"}
    found = diagnose(model, table(*rows, **suited), rules=[samples.unlike_data], effort=SMALL)
    for verdict in found.verdicts:
        assert "negative-binomial" not in verdict.remedy
    assert found.faults == ("draws unlike the data",)


def test_one_correlation_that_is_lost() -> None:
    """0.61 in the data and 0.42 in draws, in one pair of six columns."""

    def rows(count: int, seed: int, r: float) -> Tensor:
        values = normal(count, COLUMNS, seed=seed)
        values[:, 1] = r * values[:, 0] + math.sqrt(1 - r * r) * values[:, 1]
        return values

    class Pair(nn.Module):
        event_shape = torch.Size((COLUMNS,))

        def forward(self) -> MultivariateNormal:
            covariance = torch.eye(COLUMNS, dtype=torch.float64)
            covariance[0, 1] = covariance[1, 0] = 0.42
            return MultivariateNormal(torch.zeros(COLUMNS, dtype=torch.float64), covariance)

    model = LatentVariableModel(Joint({"x": Pair()}))
    data_rows = table(rows(ROWS, 1, 0.61), rows(500, 2, 0.61))
    verdict = seen(samples.lost_correlations, model, data_rows, effort=replace(SMALL, rows=500))
    assert "correlation of c0 and c1 is 0.6" in verdict.seen
    assert "0.4" in verdict.seen.split("in the data")[1]


SETTINGS = {
    "latent": 4, "hidden": [64], "posterior": "iaf(transforms=2)", "patience": 5, "clip": 1.0,
    "weight_decay": 1e-3, "objective": "free_bits(minimum=0.1)", "kl_weight": "linear(epochs=9)",
    "phases": ["aggressive(repeats=3)"], "epochs": 30, "learning_rate": 1e-3, "optimizer": "adamw",
}  # fmt: skip


@pytest.mark.parametrize(
    "option, left",
    [
        ("--posterior iaf", False),
        ("--posterior full_covariance", True),
        ("--patience 10", False),
        ("--patience 3", True),
        ("--clip 10", False),
        ("--skip 1000", True),
        ("--weight-decay 1e-4", False),
        ("--weight-decay 1e-2 --optimizer adamw", True),
        ('--objective "free_bits(minimum=0.5)"', False),
        ('--objective "iwae" --particles 8', True),
        ('--kl-weight "linear(epochs=20)"', False),
        ("--phases aggressive", False),
        ("--phases reweighted_wake_sleep", True),
    ],
)
def test_a_remedy_that_the_run_follows_is_not_given(option: str, left: bool) -> None:
    examination = Examination(linear(loadings(2)), rows_of(loadings(2)), "test", (), SETTINGS)
    assert untried(examination, option) == ([option] if left else [])


@pytest.mark.parametrize(
    "settings, flags",
    [
        ({"patience": None}, ["--patience 10"]),
        ({"phases": "wake_sleep"}, ["--patience 10 --measure elbo"]),
        ({"objective": "constrained(most=1.0)"}, ["--patience 10 --measure elbo"]),
        ({"phases": "wake_sleep", "measure": "elbo"}, ["--patience 10"]),
        ({"phases": "wake_sleep", "measure": "elbo", "patience": 5}, []),
    ],
)
def test_patience_comes_with_a_measure_where_nothing_else_says_what_is_best(
    settings: dict[str, Any], flags: list[str]
) -> None:
    examination = Examination(linear(loadings(2)), rows_of(loadings(2)), "test", (), settings)
    assert stopping(examination) == flags


def test_a_run_with_phases_takes_the_patience_that_is_advised() -> None:
    rows = {"x": rows_of(loadings(2)).train["x"][:50]}
    options: dict[str, Any] = {"phases": "wake_sleep", "epochs": 1, "quiet": True}
    with pytest.raises(ValueError, match="--measure elbo"):
        unfolded(fit)(linear(loadings(2)), rows, valid=rows, patience=10, **options)
    unfolded(fit)(linear(loadings(2)), rows, valid=rows, patience=10, measure="elbo", **options)


def test_latents_are_drawn_as_the_recipe_says() -> None:
    """A label that is summed out leaves nothing to sample: the likelihood is exact."""
    p = Joint({"k": Categorical(2), "x | k": Gaussian(COLUMNS, MLP(2))})
    model = LatentVariableModel(p, Joint({"k | x": Categorical(2, MLP(COLUMNS))})).double()
    rules, draw = [likelihood.unreliable_weights], {"k": Enumerated()}
    sampled, exact = [
        diagnose(model, rows_of(loadings(2)), rules=rules, draw=each, effort=SMALL)
        for each in (None, draw)
    ]
    assert not sampled.examination.estimate("test").exact
    assert exact.examination.estimate("test").exact


def test_no_verdict_names_what_the_run_follows() -> None:
    weight = torch.zeros(COLUMNS, 2, dtype=torch.float64)
    model = linear(weight, noise=1.0)
    rules = [latents.collapse, likelihood.encoder_too_weak, likelihood.family_too_narrow]
    settings = SETTINGS | {"hidden": [128, 32]}
    found = diagnose(model, rows_of(loadings(2)), settings=settings, rules=rules, effort=SMALL)
    assert "posterior collapse" in found.faults
    for verdict in found.verdicts:
        assert not any([f"{f}" in verdict.remedy for f in ("free_bits", "aggressive", "linear(")])


def test_a_model_without_held_out_rows_is_refused() -> None:
    rows = table(normal(30, 6, seed=0), normal(0, 6, seed=1))
    with pytest.raises(ValueError, match="--split"):
        diagnose(linear(loadings(2)), rows)


def test_a_model_with_few_rows_is_refused() -> None:
    for train, held, rows in ((30, 4, 400), (4, 30, 400), (30, 30, 4)):
        few = table(normal(train, 6, seed=0), normal(held, 6, seed=1))
        with pytest.raises(ValueError, match="needs 5 or more"):
            diagnose(linear(loadings(2)), few, effort=replace(SMALL, rows=rows))


def test_what_cannot_be_measured_is_told() -> None:
    weight = loadings(2)
    found = diagnose(linear(weight), rows_of(weight), rules=[training.still_rising])
    assert not found.verdicts
    assert "0 epochs" in next(iter(found.impossible.values()))
    assert "Could not be measured" in str(found)
