r"""Out-of-distribution scores: how well they tell rows of other data from rows of the model's."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.two_sample_tests import delong
from deeplvm.inference.rows import Rows, rows_of
from deeplvm.likelihood.importance import ImportanceEstimate, importance_sampling
from deeplvm.results import Array, Estimate, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray


_RESAMPLES = 200
_KEPT = 0.95  # of the inside rows
Compressor = Callable[["NDArray[np.uint8]"], int]


@dataclass(frozen=True, eq=False)
class Detection(
    Record,
    also="inside_rows outside_rows",
    without="name inside outside",
    keys={"passed": "fpr_at_95_tpr"},
    flat=True,
):
    """How well one score tells outside rows from inside ones; they are the positives.

    Errors are DeLong's of the AUROC (zero where the scores do not overlap), by the bootstrap else.

    Attributes:
        name: Of the score.
        inside: Scores of the inside rows, higher means stranger, shape ``(rows,)``.
        outside: Scores of the outside rows, shape ``(rows,)``.
        auroc: Area under the receiver operating characteristic: the probability that an outside
            row has the higher score, a tie counts half. Below 1/2: the score is the wrong way
            round.
        aupr: Area under the precision-recall curve (average precision). By chance it is the share
            of outside rows.
        passed: Share of outside rows that pass at the threshold which lets 95 % of the inside
            rows pass (FPR at 95 % TPR); lower is better, chance is 0.95.
    """

    name: str
    inside: Tensor
    outside: Tensor
    auroc: Estimate
    aupr: Estimate
    passed: Estimate

    @property
    def inside_rows(self) -> int:
        """Rows inside."""
        return len(self.inside)

    @property
    def outside_rows(self) -> int:
        """Rows outside."""
        return len(self.outside)

    @property
    def shown(self) -> list[str]:
        """AUROC, AUPR and FPR at 95 % TPR, each with its error."""
        numbers = (self.auroc, self.aupr, self.passed)
        return [f"{each.value:.3f} ± {each.stderr:.3f}" for each in numbers]

    def __str__(self) -> str:
        auroc, aupr, passed = self.shown
        return f"{self.name}: AUROC {auroc}, AUPR {aupr}, FPR at 95 % TPR {passed}"


@dataclass(frozen=True, eq=False)
class OutOfDistribution(Record, keys={"detections": "scores"}):
    """Several scores of the same rows.

    Attributes:
        detections: By the score's name.
        log_px: Estimates of the inside rows.
        outside_log_px: Estimates of the outside rows.
    """

    detections: dict[str, Detection]
    log_px: ImportanceEstimate
    outside_log_px: ImportanceEstimate

    header: ClassVar = ("score", "AUROC", "AUPR", "FPR at 95 % TPR")

    def __getitem__(self, name: str) -> Detection:
        return self.detections[name]

    def table(self) -> list[tuple[str, ...]]:
        return [(each.name, *each.shown) for each in self.detections.values()]

    def notes(self) -> list[str]:
        inside, outside = self.log_px, self.outside_log_px
        told = f"{inside.rows:,} inside rows, mean log p(x) {inside.mean:.2f}; "
        return [f"{told}{outside.rows:,} outside, {outside.mean:.2f} nats"]


def out_of_distribution(
    model: LatentVariableModel,
    inside: NamedRows | Rows,
    outside: NamedRows | Rows,
    *,
    train: NamedRows | Rows | None = None,
    background: LatentVariableModel | None = None,
    ensemble: Sequence[LatentVariableModel] = (),
    compressor: Compressor | None = None,
    elbo: bool = False,
    particles: int = 500,
    seed: int = 0,
) -> OutOfDistribution:
    r"""Scores of rows, higher means stranger, and how well each tells outside from inside.

    ===================  ==========================================================  =============
    score                :math:`S(x)`                                                needs
    ===================  ==========================================================  =============
    likelihood           :math:`-\log \hat p(x)`                                     nothing
    typicality           :math:`|\log \hat p(x) - \bar L|`, :math:`\bar L` the mean  ``train``
                         of training rows
    likelihood ratio     :math:`\log \hat p_0(x) - \log \hat p(x)`, p0 a model of    ``background``
                         the same data perturbed
    complexity           :math:`-\log_2 \hat p(x) - C(x)`, C the bits of a lossless  ``compressor``
                         compressor
    WAIC                 :math:`Var_m \log \hat p_m(x) - E_m \log \hat p_m(x)` over  ``ensemble``
                         models m
    ELBO                 :math:`-L(x)`, for comparison                               ``elbo=True``
    ===================  ==========================================================  =============

    :math:`\hat p` is the importance estimate. An ELBO instead of it adds the divergence of q, that
    is largest on rows which the encoder does not know, so that it tells of q and not of p. In WAIC
    the noise of the estimates adds to the variance: it falls as the inverse of ``particles``.

    No score is best on all data, and none is to be chosen on the outside rows that it is then
    reported for.

    Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality (Nalisnick et
    al., 2019), https://arxiv.org/abs/1906.02994 (here with one row at a time). Likelihood Ratios
    for Out-of-Distribution Detection (Ren et al., 2019), https://arxiv.org/abs/1906.02845. Input
    Complexity and Out-of-distribution Detection with Likelihood-based Generative Models (Serrà et
    al., 2020), https://arxiv.org/abs/1909.11480. WAIC, but Why? Generative Ensembles for Robust
    Anomaly Detection (Choi et al., 2018), https://arxiv.org/abs/1810.01392. Comparing the Areas
    Under Two or More Correlated Receiver Operating Characteristic Curves (DeLong et al., 1988),
    https://doi.org/10.2307/2531595

    Args:
        inside: Held-out rows of what the model was fitted to.
        outside: Other rows, of the same names, shapes and units.
        train: Training rows.
        background: A model of perturbed rows: it knows what is no matter of content.
        ensemble: Further models of the same rows, fitted from other seeds; with ``model`` they
            are the ensemble.
        compressor: From one row's bytes, shape of its event, to a length in bits:
            :func:`png_bits` or :func:`zlib_bits`. The data are then whole numbers 0 .. 255, in
            one name.
        elbo: Whether the bare bound is scored too.
        particles: Draws for each row.

    Raises:
        ValueError: If there are fewer than two rows, names or shapes differ, or a compressor is
            given rows that are no bytes.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian
        >>> normal = LatentVariableModel(Joint({"x": Gaussian(50, scale=1.0)}))
        >>> x = torch.randn(200, 50)
        >>> scores = out_of_distribution(normal, {"x": x}, {"x": 0 * x}, train={"x": x})
        >>> [each.auroc.value for each in scores.detections.values()]  # 0 has the most density
        [0.0, 1.0]
    """
    given = {"inside": inside, "outside": outside}
    taken = {which: _rows(model, data, which) for which, data in given.items()}
    _refuse_different(*taken.values())
    models = {"": model, **{f"ensemble {i}": each for i, each in enumerate(ensemble)}}
    if background is not None:
        models["background"] = background
    estimates = {
        (name, which): importance_sampling(each, values, particles, seed=seed)
        for name, each in models.items()
        for which, values in taken.items()
    }

    def log_px(name: str, which: str) -> Tensor:
        return estimates[name, which].log_px.double().cpu()

    scores: dict[str, Callable[[str], Tensor]] = {"likelihood": lambda which: -log_px("", which)}
    if train is not None:
        known = _rows(model, train, "train")
        middle = importance_sampling(model, known, particles, seed=seed).mean
        scores["typicality"] = lambda which: (log_px("", which) - middle).abs()
    if background is not None:
        scores["likelihood ratio"] = lambda which: log_px("background", which) - log_px("", which)
    if compressor is not None:
        bits = {which: complexity(values, compressor) for which, values in taken.items()}
        scores["complexity"] = lambda which: -log_px("", which) / math.log(2) - bits[which]
    if ensemble:
        members = [name for name in models if name != "background"]
        scores["WAIC"] = lambda which: -waic(torch.stack([log_px(m, which) for m in members]))
    if elbo:
        scores["ELBO"] = lambda which: -estimates["", which].elbo.double().cpu()
    found = {
        name: detection(name, score("inside"), score("outside"), seed=seed)
        for name, score in scores.items()
    }
    return OutOfDistribution(found, estimates["", "inside"], estimates["", "outside"])


def detection(name: str, inside: Tensor, outside: Tensor, *, seed: int = 0) -> Detection:
    """How well scores of one's own tell outside from inside, higher meaning stranger.

    Args:
        name: Of the score.
        inside: Shape ``(rows,)``.
        outside: Shape ``(other rows,)``.

    Raises:
        ValueError: If there are fewer than two rows of either, or a score is NaN.
    """
    low, high = (values.double().cpu().numpy() for values in (inside, outside))
    if min(len(low), len(high)) < 2 or np.isnan(low).any() or np.isnan(high).any():
        raise ValueError(
            f"The score {name!r} is compared over two rows or more of each, without NaN; found "
            f"{len(low)} inside and {len(high)} outside, {np.isnan(low).sum()} and "
            f"{np.isnan(high).sum()} of them NaN."
        )
    auroc, error = delong(low, high)
    generator = np.random.default_rng(seed)
    again = [
        _curves(generator.choice(low, len(low)), generator.choice(high, len(high)))
        for _ in range(_RESAMPLES)
    ]
    curves = [Estimate(*each) for each in zip(_curves(low, high), np.std(again, 0).tolist())]  # noqa: B905
    return Detection(name, inside, outside, Estimate(auroc, error), *curves)


def _curves(inside: Array, outside: Array) -> tuple[float, float]:
    """Average precision, and the share of outside rows at or below the inside rows' quantile."""
    low, high = np.sort(inside), np.sort(outside)
    found = len(high) - np.searchsorted(high, high)  # outside rows with a score at least as high
    false = len(low) - np.searchsorted(low, high)
    threshold = np.quantile(low, _KEPT, method="higher")
    return float((found / (found + false)).mean()), float((high <= threshold).mean())


def waic(log_px: Tensor) -> Tensor:
    r""":math:`E_m \log p_m(x) - Var_m \log p_m(x)` of each row, from shape ``(models, rows)``.

    >>> waic(torch.tensor([[-1.0], [-3.0]]))
    tensor([-4.])
    """
    return log_px.mean(0) - log_px.var(0)


def complexity(values: Mapping[str, Tensor], compressor: Compressor) -> Tensor:
    """Bits of each row by a lossless compressor, shape ``(rows,)``.

    Raises:
        ValueError: If there are several names, or values that are no whole numbers 0 .. 255.
    """
    names = [name for name, value in values.items() if value.is_floating_point()]
    if len(names) != 1:
        raise ValueError(
            f"A compressor takes the bytes of one name; the model reads {', '.join(values)}."
        )
    value = values[names[0]]
    whole = value.to(torch.uint8)
    if not bool((whole.to(value) == value).all()):
        raise ValueError(
            f"{names[0]!r} is not a whole number 0 .. 255 everywhere, of which a lossless code "
            f"is; leave compressor= out, or load the data as levels."
        )
    return torch.tensor([float(compressor(row)) for row in whole.cpu().numpy()])


def png_bits(image: NDArray[np.uint8]) -> int:
    """Bits of an image ``(1 or 3, height, width)`` as PNG, the same header counted for all.

    >>> ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    >>> png_bits(0 * ramp) < png_bits(ramp**2)
    True
    """
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return 8 * len(buffer.getvalue())


def zlib_bits(values: NDArray[np.uint8]) -> int:
    """Bits of the values by zlib (deflate), of any shape."""
    return 8 * len(zlib.compress(np.ascontiguousarray(values).tobytes(), 9))


def _rows(model: LatentVariableModel, data: NamedRows | Rows, which: str) -> dict[str, Tensor]:
    taken = rows_of(model, data)
    count = taken.rows
    if count < 2:
        raise ValueError(f"Two {which} rows or more are compared, found {count}.")
    return taken[slice(0, count)]


def _refuse_different(inside: Mapping[str, Tensor], outside: Mapping[str, Tensor]) -> None:
    shapes = [
        {name: tuple(value.shape[1:]) for name, value in given.items()}
        for given in (inside, outside)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Inside and outside rows have the same names and shapes; found {shapes[0]} and "
            f"{shapes[1]}. Load the other with load(..., like=data.description), or crop it."
        )
