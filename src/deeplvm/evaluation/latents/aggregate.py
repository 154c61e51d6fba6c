r"""Is the aggregate posterior :math:`q(z) = E_x\, q(z | x)` the prior? Two-sample tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from deeplvm.core.evidence import elementwise
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace, base_of
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.posterior_means import is_discrete, latents_of
from deeplvm.evaluation.latents.two_sample_tests import (
    FOLDS,
    ClassifierTest,
    DiscrepancyTest,
    MarginalTests,
    Moments,
    classifier_test,
    discrepancy_test,
    marginal_tests,
    standard_moments,
)
from deeplvm.gradients import Sampled
from deeplvm.inference.rows import Rows, rows_of
from deeplvm.objectives.discrepancy import Kernel, rbf
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Record, number

_MOST_DIMENSIONS = 512  # beyond, the jackknife of a covariance takes too long
_BATCH = 256


@dataclass(frozen=True, eq=False)
class AggregateTests(
    Record,
    also="rows",
    without="name posterior prior standard_normal",
    keys={"discrepancy": "mmd"},
):
    """The tests of one latent, or of all together.

    Attributes:
        name: The latent, or all names with commas.
        posterior: Draws of q(z) as networks see them, shape ``(rows, dimensions)``.
        prior: As many of p(z).
        standard_normal: Whether the prior is N(0, I).
        marginals: Dimension by dimension; ``None`` for several latents together.
        discrepancy: The maximum mean discrepancy.
        classifiers: Classifier two-sample tests by the classifier's name.
        moments: Of a real latent with prior N(0, I) of at most 512 dimensions; else ``None``.
    """

    name: str
    posterior: Tensor
    prior: Tensor
    standard_normal: bool
    marginals: MarginalTests | None
    discrepancy: DiscrepancyTest
    classifiers: dict[str, ClassifierTest]
    moments: Moments | None

    @property
    def rows(self) -> int:
        """Draws of each side."""
        return len(self.posterior)

    def table(self) -> list[tuple[str, str, str]]:
        found, mmd, rows = self.marginals, self.discrepancy, []
        if found is not None:
            worst = found.worst[0]
            name = f"{found.test}, worst dimension ({self.name}[{worst}])"
            rows.append((name, f"{float(found.statistic[worst]):.3f}", _p(found.holm[worst])))
        rows.append(("MMD²", number(mmd.value, mmd.stderr), _p(mmd.p)))
        for name, test in self.classifiers.items():
            rows.append((f"accuracy, {name}", number(test.accuracy, test.stderr), _p(test.p)))
            rows.append((f"AUC, {name}", number(test.auc, test.auc_stderr), "0.5 if equal"))
        if (m := self.moments) is not None:
            for name, value, error, expected in (
                ("mean, distance from 0", m.mean_distance, m.mean_stderr, m.mean_expected),
                ("covariance, distance from I", m.covariance_distance, m.covariance_stderr,
                 m.covariance_expected),
            ):  # fmt: skip
                rows.append((name, number(value, error), f"{expected:.3f} if equal"))
        return rows

    def heading(self) -> str:
        return f"{self.name}: q(z) against p(z), {self.rows:,} draws of each"


@dataclass(frozen=True, eq=False)
class AggregateAgainstPrior(Record):
    """Tests of every latent by name, and of all together.

    Attributes:
        latents: By name.
        joint: All latents together; ``None`` where there is only one.
    """

    latents: dict[str, AggregateTests]
    joint: AggregateTests | None

    def __str__(self) -> str:
        each = [*self.latents.values(), *([] if self.joint is None else [self.joint])]
        return "\n".join([str(tests) for tests in each])


def aggregate_against_prior(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    kernel: Kernel = rbf,
    classifiers: Mapping[str, Any] | None = None,
    permutations: int = 500,
    most: int = 2_000,
    seed: int = 0,
) -> AggregateAgainstPrior:
    r"""Whether :math:`q(z) = E_x\, q(z | x)` is p(z): one draw of each row against draws of p.

    If rows are independent draws of the data's law, so are the draws of q(z), and the tests'
    null hypothesis is that q(z) of *all* data, not of these rows alone, is the prior. Tested are
    each dimension (Kolmogorov–Smirnov; the category counts of a discrete latent by chi-square,
    rare categories taken together), all dimensions of a latent by the maximum mean discrepancy
    and by classifiers, and all latents together by these two. P-values of different tests are
    not corrected for each other.

    A learned prior is drawn from as it is, in a hierarchy ancestrally. Where p has inputs (labels)
    both sides share those of the rows, which makes the tests cautious.

    A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html;
    Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017),
    https://arxiv.org/abs/1610.06545

    Args:
        kernel: :func:`~deeplvm.objectives.discrepancy.rbf`,
            :func:`~deeplvm.objectives.discrepancy.imq`, or a function of squared distances and a
            squared length, which is the median of the pooled squared distances.
        classifiers: By name, scikit-learn classifiers with ``predict_proba``; logistic regression
            (which sees the mean) and gradient boosting (which sees the rest) by default.
        permutations: Of the pooled draws; they limit how small a p-value can be.
        most: Draws of each side for the discrepancy, whose cost is their square, and for the
            classifiers; chosen at random.

    Raises:
        ValueError: If there are fewer than ten rows, or q draws nothing for a row.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
        >>> model = LatentVariableModel(p, Joint({"z": Gaussian(2, scale=0.5)}))
        >>> found = aggregate_against_prior(model, {"x": torch.zeros(200, 3)}, permutations=99)
        >>> z = found.latents["z"]
        >>> bool((z.marginals.holm < 0.01).all()), z.discrepancy.p  # a scale of 0.5, not 1
        (True, 0.01)
    """
    if min(permutations, most - 2 * FOLDS + 1) < 1:
        raise ValueError(
            f"permutations is at least 1 and most at least {2 * FOLDS}; found {permutations}, "
            f"{most}."
        )
    with evaluating(model, seed_of(seed, "aggregate")):
        drawn = latent_draws(model, data)
    count = len(next(iter(drawn.values())).posterior)
    if count < 2 * FOLDS:
        raise ValueError(
            f"Cross-validation of two-sample tests needs {2 * FOLDS} rows, found {count}."
        )
    seed = seed_of(seed, "tests") % 2**32  # as scikit-learn takes it
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=generator)[:most]
    classifiers = classifiers or _classifiers(seed)

    def tests(name: str, pair: Sequence[Tensor], own: LatentDraws | None = None) -> AggregateTests:
        first, second = (side[chosen] for side in pair)
        normal = own is not None and own.standard_normal
        return AggregateTests(
            name,
            *pair,
            standard_normal=normal,
            marginals=None if own is None else _marginals(own),
            discrepancy=discrepancy_test(
                first, second, kernel, permutations=permutations, seed=seed
            ),
            classifiers={
                key: classifier_test(first, second, each, seed=seed)
                for key, each in classifiers.items()
            },
            moments=standard_moments(pair[0])
            if normal and pair[0].shape[1] <= _MOST_DIMENSIONS
            else None,
        )

    latents = {name: tests(name, each.features, each) for name, each in drawn.items()}
    sides = zip(*[each.features for each in drawn.values()], strict=True)
    both = [torch.cat(side, 1) for side in sides]
    joint = tests(", ".join(drawn), both) if len(drawn) > 1 else None
    return AggregateAgainstPrior(latents, joint)


def _classifiers(seed: int) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
        "gradient boosting": HistGradientBoostingClassifier(max_iter=50, random_state=seed),
    }


def _marginals(draws: LatentDraws) -> MarginalTests:
    ours, theirs = draws.posterior, draws.prior
    if draws.one_hot:
        ours, theirs = ours.argmax(-1), theirs.argmax(-1)
    return marginal_tests(ours, theirs, discrete=draws.discrete)


def _p(value: Tensor | float) -> str:
    return "p < 0.001" if float(value) < 1e-3 else f"p = {float(value):.3f}"


@dataclass(frozen=True, eq=False)
class LatentDraws:
    r"""One latent, drawn from the aggregate posterior and from the prior.

    Attributes:
        name: Its name.
        posterior: :math:`z_n \sim q(z | x_n)`, one of each row, shape ``(rows, *event)``: draws
            of :math:`q(z) = E_x\, q(z | x)`.
        prior: As many draws of p(z), shape ``(rows, *event)``.
        features: Both as networks see them (categories one-hot), ``(rows, features)``, float64.
        discrete: Whether it takes separate values.
        one_hot: Whether a value is a one-hot vector.
        standard_normal: Whether the prior is N(0, I).
    """

    name: str
    posterior: Tensor
    prior: Tensor
    features: list[Tensor]
    discrete: bool
    one_hot: bool
    standard_normal: bool


def latent_draws(model: LatentVariableModel, data: NamedRows | Rows) -> dict[str, LatentDraws]:
    """Every latent of a row from both sides, by name; call it inside ``evaluating``.

    Inputs of p (labels, say) are those of the rows: the i-th draws of both sides share them. What
    all rows share is drawn from q for both.

    Raises:
        ValueError: If q draws nothing for a row, there are fewer than two, or a draw is not
            finite.
    """
    rows, drawn = several(model, data), dict[str, list[tuple[Site, Site]]]()
    for _, given in rows.each(_BATCH):
        posterior = model.posterior(given, missing=rows.missing)
        names = latents_of(model, posterior)
        prior = prior_trace(model, prior_of(model, names), given, posterior, rows.missing)
        for name in names:
            drawn.setdefault(name, []).append((posterior[name], prior[name]))
    return {name: _joined(model, name, sites) for name, sites in drawn.items()}


def several(model: LatentVariableModel, data: NamedRows | Rows) -> Rows:
    """The rows that the model reads.

    Raises:
        ValueError: If they are fewer than two, or have latents of unequal numbers of steps.
    """
    taken = rows_of(model, data)
    latents = [name for name in model.q.names if name in model.p.names]
    of_steps = [name for name in latents if taken.lengths.get(name) in taken.names]
    if of_steps and len({*taken.source[taken.lengths[of_steps[0]]][:].tolist()}) > 1:
        raise ValueError(
            f"Rows have {', '.join(of_steps)} at each step, and differ in their number of steps: "
            f"their posteriors are of no one space, and have no average."
        )
    if taken.rows < 2:
        raise ValueError(
            f"An aggregate posterior is of several rows, found {taken.rows}; give at least two."
        )
    return taken


def prior_of(model: LatentVariableModel, latents: Sequence[str]) -> Any:
    """The joint of the latents and of what they are drawn from, cut out of p: no x is drawn."""
    if not isinstance(model.p, Joint):
        return model.p
    needed = {*latents, *ancestors_of(model.p, latents)}
    factors = {
        str(factor): model.p.factors[factor.key]
        for factor in model.p.order
        if needed & set(factor.names)
    }
    return Joint(factors, shared=model.p.shared & needed)


def ancestors_of(joint: Any, names: Sequence[str]) -> set[str]:
    """Every name from which these are drawn, directly or not."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        parents = {parent.name for parent in joint.parents(name)} if name in joint else set()
        waiting += parents - found
        found |= parents
    return found


def prior_trace(
    model: LatentVariableModel,
    prior: Any,
    given: Mapping[str, Tensor],
    posterior: Trace,
    missing: frozenset[str],
) -> Trace:
    """Ancestral draws of the latents at the inputs of these rows, one a row."""
    known: dict[str, Any] = {name: given[name] for name in prior.inputs if name in given}
    shared = model.shared.intersection(model.q.names)
    known |= {name: posterior[name] for name in shared if name in prior.names}
    shape = posterior.batch_shape[-1:]
    return prior(known, shape, default=Sampled(), missing=missing & set(known))


def is_one_hot(distribution: Distribution | None) -> bool:
    """Whether the values are one-hot vectors along the last axis."""
    base = base_of(distribution)
    try:
        return base is not None and base.support is constraints.one_hot
    except NotImplementedError:
        return False


def _joined(
    model: LatentVariableModel, name: str, sites: Sequence[tuple[Site, Site]]
) -> LatentDraws:
    """The draws of all batches, from q and from p."""
    # copies: tensors of inference mode could not be used for anything else
    values = [
        torch.cat([s.value.cpu() for s in side]).clone() for side in zip(*sites, strict=True)
    ]
    seen = [
        [model.site(name, s.value).features.cpu() for s in side]
        for side in zip(*sites, strict=True)
    ]
    features = [torch.cat([f.reshape(len(f), -1).double() for f in side]).clone() for side in seen]
    for each, side in zip(features, ("q", "p"), strict=True):
        if not bool(torch.isfinite(each).all()):
            raise ValueError(
                f"Draws of {name!r} from {side} are not finite; look at a model that was trained "
                f"until it broke."
            )
    q, _ = sites[0]
    normal = all([_is_standard_normal(p.distribution) for _, p in sites])
    return LatentDraws(
        name, values[0], values[1], features,
        discrete=is_discrete(q), one_hot=is_one_hot(q.distribution), standard_normal=normal,
    )  # fmt: skip


def _is_standard_normal(distribution: Distribution | None) -> bool:
    base = None if distribution is None else elementwise(distribution)
    return (
        isinstance(base, Normal) and bool((base.loc == 0).all()) and bool((base.scale == 1).all())
    )
