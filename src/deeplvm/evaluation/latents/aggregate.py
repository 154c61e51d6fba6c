r"""Is the aggregate posterior :math:`q(z) = E_x\, q(z | x)` the prior? Two-sample tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deeplvm.evaluation.batches import evaluating
from deeplvm.evaluation.latents.draws import LatentDraws, latent_draws, seed_of
from deeplvm.evaluation.latents.two_sample import (
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
from deeplvm.evaluation.numbers import finite, number
from deeplvm.model import LatentVariableModel
from deeplvm.objectives.discrepancy import Kernel, rbf

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

_MOST_DIMENSIONS = 512  # beyond, the jackknife of a covariance takes too long


@dataclass(frozen=True, eq=False)
class AggregateTests:
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

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the draws."""
        return {
            "rows": len(self.posterior),
            "marginals": None if self.marginals is None else self.marginals.to_dict(),
            "mmd": _plain(self.discrepancy),
            "classifiers": {name: _plain(test) for name, test in self.classifiers.items()},
            "moments": None if self.moments is None else _plain(self.moments),
        }

    def table(self) -> list[tuple[str, str, str]]:
        """Rows of name, value with its error, and p-value or what is expected."""
        found, rows = self.marginals, []
        if found is not None:
            worst = found.worst[0]
            name = f"{found.test}, worst dimension ({self.name}[{worst}])"
            rows.append((name, f"{float(found.statistic[worst]):.3f}", _p(found.holm[worst])))
        mmd = self.discrepancy
        rows.append(("MMD²", number(mmd.value, mmd.stderr), _p(mmd.p)))
        for name, test in self.classifiers.items():
            rows.append((f"accuracy, {name}", number(test.accuracy, test.stderr), _p(test.p)))
            rows.append((f"AUC, {name}", number(test.auc, test.auc_stderr), "0.5 if equal"))
        if self.moments is not None:
            m = self.moments
            shown = number(m.mean_distance, m.mean_stderr)
            rows.append(("mean, distance from 0", shown, f"{m.mean_expected:.3f} if equal"))
            shown = number(m.covariance_distance, m.covariance_stderr)
            expected = f"{m.covariance_expected:.3f} if equal"
            rows.append(("covariance, distance from I", shown, expected))
        return rows

    def __str__(self) -> str:
        rows = self.table()
        name, value = (max([len(row[i]) for row in rows]) for i in (0, 1))
        lines = [f"  {n.ljust(name)}  {v.rjust(value)}  {p}" for n, v, p in rows]
        head = f"{self.name}: q(z) against p(z), {len(self.posterior):,} draws of each"
        return "\n".join([head, *lines])


@dataclass(frozen=True, eq=False)
class AggregateAgainstPrior:
    """Tests of every latent by name, and of all together.

    Attributes:
        latents: By name.
        joint: All latents together; ``None`` where there is only one.
    """

    latents: dict[str, AggregateTests]
    joint: AggregateTests | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the draws."""
        return {
            "latents": {name: each.to_dict() for name, each in self.latents.items()},
            "joint": None if self.joint is None else self.joint.to_dict(),
        }

    def __str__(self) -> str:
        each = [*self.latents.values(), *([] if self.joint is None else [self.joint])]
        return "\n".join([str(tests) for tests in each])


def aggregate_against_prior(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    *,
    split: Split = "test",
    rows: int | None = None,
    kernel: Kernel = rbf,
    classifiers: Mapping[str, Any] | None = None,
    permutations: int = 500,
    most: int = 2_000,
    batch_size: int = 256,
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
        model: Evaluated in ``eval()`` mode, left as it was.
        data: Data, or named tensors of shape ``(rows, *event)``, NaN where an element is missing.
        split: Which split of Data.
        rows: How many, from the first on; all.
        kernel: :func:`~deeplvm.objectives.discrepancy.rbf`,
            :func:`~deeplvm.objectives.discrepancy.imq`, or a function of squared distances and a
            squared length, which is the median of the pooled squared distances.
        classifiers: By name, scikit-learn classifiers with ``predict_proba``; logistic regression
            (which sees the mean) and gradient boosting (which sees the rest) by default.
        permutations: Of the pooled draws; they limit how small a p-value can be.
        most: Draws of each side for the discrepancy, whose cost is their square, and for the
            classifiers; chosen at random.
        batch_size: Rows at a time.
        seed: Same seed, same numbers.

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
        drawn = latent_draws(model, data, split, rows, batch_size)
    count = len(next(iter(drawn.values())).posterior)
    if count < 2 * FOLDS:
        raise ValueError(
            f"Cross-validation of two-sample tests needs {2 * FOLDS} rows, found {count}."
        )
    seed = seed_of(seed, "tests")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=generator)[:most]
    options = (kernel, classifiers or _classifiers(seed), permutations, chosen, seed)
    latents = {
        name: _tests(
            name,
            each.posterior_features,
            each.prior_features,
            *options,
            marginals=_marginals(each),
            standard_normal=each.standard_normal,
        )
        for name, each in drawn.items()
    }
    joint = None
    if len(drawn) > 1:
        both = [
            torch.cat([getattr(each, side) for each in drawn.values()], 1)
            for side in ("posterior_features", "prior_features")
        ]
        joint = _tests(", ".join(drawn), both[0], both[1], *options)
    return AggregateAgainstPrior(latents, joint)


def _tests(
    name: str,
    posterior: Tensor,
    prior: Tensor,
    kernel: Kernel,
    classifiers: Mapping[str, Any],
    permutations: int,
    chosen: Tensor,
    seed: int,
    *,
    marginals: MarginalTests | None = None,
    standard_normal: bool = False,
) -> AggregateTests:
    first, second = posterior[chosen], prior[chosen]
    moments = standard_normal and posterior.shape[1] <= _MOST_DIMENSIONS
    return AggregateTests(
        name,
        posterior,
        prior,
        standard_normal,
        marginals,
        discrepancy_test(first, second, kernel, permutations=permutations, seed=seed),
        {
            key: classifier_test(first, second, classifier, seed=seed)
            for key, classifier in classifiers.items()
        },
        standard_moments(posterior) if moments else None,
    )


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


def _plain(record: Any) -> dict[str, Any]:
    return {key: finite(float(value)) for key, value in vars(record).items()}


def _p(value: Tensor | float) -> str:
    return "p < 0.001" if float(value) < 1e-3 else f"p = {float(value):.3f}"
