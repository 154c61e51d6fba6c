"""Evaluation: everything that is reported about a fitted model, as one record."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deeplvm.core.joint import owner_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.bound.gaps import gaps_table, inference_gaps
from deeplvm.evaluation.counting import counting
from deeplvm.evaluation.latents.latent_use import (
    ACTIVE,
    LatentUse,
    carrying,
    latent_use,
    read_by_p,
)
from deeplvm.evaluation.predictive.classification import classification
from deeplvm.evaluation.samples.synthetic import synthetic_rows, synthetic_table
from deeplvm.evaluation.topics import of_topics
from deeplvm.gradients import Draw
from deeplvm.inference.classes import has_classes
from deeplvm.inference.rows import OnProgress, Rows, at_random, redrawn, rows_of
from deeplvm.inference.tempering import Start
from deeplvm.likelihood.annealing import sandwich
from deeplvm.likelihood.bits_per_dimension import bits_per_dimension, count_elements
from deeplvm.likelihood.convergence import convergence, steps_to
from deeplvm.likelihood.importance import ImportanceEstimate, importance_sampling
from deeplvm.likelihood.particle_filter import FilterEstimate, is_chain, particle_filter
from deeplvm.networks import WordCount
from deeplvm.results import (
    Estimate,
    Record,
    RowEstimate,
    digest_of,
    finite,
    mean_of,
    shown_plain,
)

if TYPE_CHECKING:
    pass

# A rise smaller than this changes no conclusion, and log p̂ is reported to about this precision.
_RISE = 0.05
# A few such rows in a hundred move the mean by less than its error.
_HEAVY = 0.01
FEWEST_ROWS = 5
"""In fewer rows whatever is said to vary, or not to vary, over rows is chance."""
LITTLE = 0.5
"""Nats; a latent that costs less can say no more about a row."""
_CLASS_PARTICLES = 50
# Entries of evaluation.json that are there only where they were asked for, or have a meaning.
_ASKED = (
    "gaps", "annealing", "sandwich", "synthetic", "classification", "topics", "normalisers",
    "objects", "log_px_a_step", "filtered",
)  # fmt: skip
# Particles of a filter, at most; nats of its error in a row above which it is told.
_FILTER, _NOISY = 500, 0.5
# Nats by which all likelihoods may be off alike, below which it changes no conclusion.
_OFF = 0.1


@dataclass(frozen=True)
class Annealing:
    """How the likelihood is estimated by annealing too.

    Attributes:
        rows: On how many rows, chosen at random, it is compared with importance sampling
            (:func:`~deeplvm.likelihood.convergence`), which takes ten gradients a temperature,
            particle and row, and half as many again; none.
        simulated: How many rows are drawn from p to have both of its bounds
            (:func:`~deeplvm.likelihood.sandwich`); none.
        temperatures: Densities of the walk.
        particles: Walks a row.
        start: Where they begin: ``"prior"`` owes nothing to q, ``"posterior"`` is quicker where q
            is good.
    """

    rows: int | None = None
    simulated: int | None = None
    temperatures: int = 1_000
    particles: int = 16
    start: Start = "prior"


@dataclass(frozen=True)
class Synthetic:
    """How rows that the model of a table draws are compared with real rows.

    See :func:`~deeplvm.evaluation.synthetic_rows`.

    Attributes:
        target: The title of a column that a classifier learns to predict from drawn rows.
        rows: How many rows of each kind are compared, at most.
        train: The training rows; those of the same data set if left out.
    """

    target: str | None = None
    rows: int = 10_000
    train: NamedRows | None = None


@dataclass(frozen=True)
class Evaluation(Record):
    """What a model is worth on some rows. Nats a row; ``elbo`` and ``log_px``: higher is better.

    Its fields are those of ``evaluation.json``, plain numbers, lists and dicts.

    Attributes:
        data: Which rows: name, split, how many, what the values are, how they were binarized or
            dequantized, units.
        elbo: ``value`` and ``stderr`` over rows.
        log_px: ``value``, ``stderr``, ``particles``, ``ess``, ``pareto_k``, ``curve`` and more;
            see :meth:`ImportanceEstimate.to_dict`. Of sequences whose latents p draws step by
            step, ``by`` says which of two estimates ``value`` and its errors are, importance
            sampling or ``filtered``, as both are lower bounds in expectation: the higher one.
        bits_per_dim: Bits per element, lower is better.
        bits_per_dim_stderr: Standard error over rows.
        bits_per_dim_offset: What was added to it, and what it means, in words.
        reconstruction: ``value`` and ``stderr`` of E_q[log p(x | z)].
        kl: Divergence of each latent, nats.
        active_units: Number of active dimensions of each latent; ``None`` where rows share it.
        latents: Everything else about each latent; see :meth:`LatentUse.to_dict`.
        warnings: What a reader should know before trusting these numbers, in words.
        settings: Arguments that give the same numbers again, and the digest of the model.
        gaps: What the bound loses to the family of q and what to the encoder, where that was
            asked for; see :meth:`InferenceGaps.to_dict`.
        annealing: The likelihood by annealing beside that by importance sampling, and which of
            them has settled, where that was asked for; see :meth:`Convergence.to_dict`.
        sandwich: Both bounds of annealing on simulated rows, where that was asked for; see
            :meth:`Sandwich.to_dict`.
        synthetic: Rows that the model draws against these rows, where that was asked for; see
            :meth:`SyntheticRows.to_dict`.
        classification: Of a model of labels, on rows that have one: how often q(y | x) and
            p(y | x) are wrong, and whether they are as sure as they may be; see
            :class:`~deeplvm.evaluation.Classification`.
        topics: Of a model of topics: the words of each, how well they go together in these rows,
            and the perplexity of words in their order; see :class:`~deeplvm.evaluation.Topics`.
        normalisers: Of densities of p that are known up to a factor, its logarithm as it was
            estimated: an error of it moves the likelihood of all rows alike.
        objects: Of a model of objects, on rows whose label is a number: how often q finds as
            many; see :class:`~deeplvm.evaluation.ObjectCounts`.
        log_px_a_step: Of sequences, ``log_px`` of all rows over all their ``steps``: ``value`` and
            ``stderr`` over rows; where tokens alone are scored, the ``perplexity`` too.
        filtered: The likelihood by a particle filter, of a model whose p draws latents step by
            step; see :class:`~deeplvm.likelihood.particle_filter.FilterEstimate`.
    """

    data: dict[str, Any]
    elbo: dict[str, Any]
    log_px: dict[str, Any]
    bits_per_dim: float | None
    bits_per_dim_stderr: float | None
    bits_per_dim_offset: str
    reconstruction: dict[str, Any]
    kl: dict[str, float]
    active_units: dict[str, int | None]
    latents: dict[str, dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    gaps: dict[str, Any] | None = None
    annealing: dict[str, Any] | None = None
    sandwich: dict[str, Any] | None = None
    synthetic: dict[str, Any] | None = None
    classification: dict[str, Any] | None = None
    topics: dict[str, Any] | None = None
    normalisers: dict[str, Any] | None = None
    objects: dict[str, Any] | None = None
    log_px_a_step: dict[str, Any] | None = None
    filtered: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The object of ``evaluation.json``, without what was not asked for."""
        asked = super().to_dict().items()
        return {name: value for name, value in asked if value is not None or name not in _ASKED}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        """The evaluation that :meth:`to_dict` wrote; what it does not know is left aside.

        Raises:
            ValueError: If an entry is missing.
        """
        names = [item.name for item in fields(cls)]
        optional = ("warnings", "settings", *_ASKED)
        if absent := [name for name in names if name not in plain and name not in optional]:
            raise ValueError(
                f"This evaluation lacks {', '.join(absent)}: it is damaged, or was written by "
                f"another version of deeplvm; evaluate again."
            )
        known = _by_names_of_today(plain)
        return cls(**{name: known[name] for name in names if name in known})

    def table(self) -> list[tuple[str, str, str]]:
        drawn = [
            (f"drawn rows: {name}", value, f"at best {best}; {meaning}")
            for name, value, best, meaning in synthetic_table(self.synthetic or {})
        ]
        return self.likelihoods() + drawn

    def likelihoods(self) -> list[tuple[str, str, str]]:
        """The part of the table that is about likelihoods and latents."""
        observed, conditions = self.data["scored"], self.data["conditions"]
        of = ", ".join(observed) + (f" | {', '.join(conditions)}" if conditions else "")
        found = self.log_px
        rows = [(f"log p({of})", _value(found), _log_px_meaning(found, self.filtered))]
        rows += _step_rows(self.log_px_a_step) if self.log_px_a_step else []
        if not found["exact"]:
            bound = "evidence lower bound: log p less what the inference model loses"
            rows.append(("ELBO", _value(self.elbo), bound))
            term = "E_q log p of the data given the latents"
            rows.append(("reconstruction", _value(self.reconstruction), term))
        for name, log_z in (self.normalisers or {}).items():
            meaning = f"normaliser of p({name}), estimated: its error moves all log p alike"
            rows.append((f"log Z({name})", _value(log_z), meaning))
        rows += [_annealing_row(self.annealing)] if self.annealing else []
        rows += [_sandwich_row(self.sandwich)] if self.sandwich else []
        rows += gaps_table(self.gaps) if self.gaps else []
        rows += _classifier_rows(self.classification) if self.classification else []
        rows += _topics_rows(self.topics) if self.topics else []
        rows += _objects_rows(self.objects) if self.objects else []
        for name, divergence in self.kl.items():
            use, active = self.latents[name], self.active_units[name]
            meaning, of = "what the latents of a row say beyond the prior", use["dimensions"]
            if (each := use.get("kl_by_dimension")) and active and of > 1:
                meaning += f"; {carrying(each)} of {of} dimensions carry 95 % of it"
            elif active is not None:
                meaning += f"; {active} of {of} dimensions active"
            error = {"value": divergence, "stderr": use["kl_stderr"]}
            rows.append((f"KL({name})", _value(error), meaning))
        if self.bits_per_dim is not None:
            error = {"value": self.bits_per_dim, "stderr": self.bits_per_dim_stderr}
            rows.append(("bits/dim", _value(error), self.bits_per_dim_offset))
        if not found["exact"]:
            of = f"of {found['particles']:,}, mean; fewest {found['ess_minimum']:.1f}"
            of += "; of importance sampling" if self.filtered else ""
            rows.append(("effective particles", f"{found['ess']:.1f}", of))
            if found["pareto_k"] is not None:
                heavy = 100 * found["pareto_k_above_0.7"]
                median = f"median; unreliable (above 0.7) in {heavy:.1f} % of the rows"
                rows.append(("Pareto k̂", f"{found['pareto_k']:.2f}", median))
        return rows

    def heading(self) -> str:
        name, split, rows = (self.data[key] for key in ("name", "split", "rows"))
        return f"{name}, {split}, {rows:,} rows; nats a row, ± one standard error over rows"

    def notes(self) -> list[str]:
        verdict = [] if self.annealing is None else [self.annealing["verdict"]]
        return [*verdict, *[f"! {text}" for text in self.warnings]]


_FORMER = {
    "annealed_rows": "rows", "simulated_rows": "simulated", "temperatures": "temperatures",
    "chains": "particles", "start": "start",
}  # fmt: skip


def _by_names_of_today(plain: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation that an earlier version wrote, where particles of annealing were chains."""
    found, settings = dict(plain), dict(plain.get("settings") or {})
    if "chains" in settings:
        former = {new: settings.pop(old) for old, new in _FORMER.items() if old in settings}
        found["settings"] = settings | {"annealing": former}
    if "chains" in (found.get("annealing") or {}):
        annealing = dict(found["annealing"])
        found["annealing"] = annealing | {"annealed_particles": annealing.pop("chains")}
    return found


def evaluate(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    particles: int = 5_000,
    draw: Mapping[str, Draw] | None = None,
    gap_rows: int | None = None,
    annealing: Annealing | None = None,
    synthetic: Synthetic | None = None,
    batch_size: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Everything that is reported about a model on some rows: likelihood, bounds, use of latents.

    Args:
        data: Rows: ``data.test``, ``data.test[:100]``, or named tensors ``(rows, *event)``.
        particles: Draws a row for :func:`importance_sampling`.
        draw: How a latent is drawn; a name given here is drawn even if the data have it.
        gap_rows: On how many rows, chosen at random, q is refined to see what the bound loses
            where (:func:`~deeplvm.evaluation.inference_gaps`), which takes hundreds of gradient
            steps a row; none.
        annealing: Whether, and how, annealing estimates the likelihood too.
        synthetic: Whether, and how, rows that the model of a table draws are compared with these.
        batch_size: Rows at a time; chosen by size if left out.
        chunk: Particles at a time; chosen by size if left out.
        progress: As for :func:`importance_sampling`.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian
        >>> model = LatentVariableModel(Joint({"x": Gaussian(2, scale=1.0)}))  # no latents: exact
        >>> evaluation = evaluate(model, {"x": torch.zeros(3, 2)})
        >>> print(f"{evaluation.log_px['value']:.4f}")  # - log 2 pi
        -1.8379
    """
    rows = rows_of(model, data, omit=redrawn(draw))
    way = annealing or Annealing()
    # first what may be impossible for a model: it is refused before anything takes its time
    gaps = compared = both = None
    if gap_rows is not None:
        with _asked_for("gap_rows (--gaps)"):
            some = at_random(rows.source, gap_rows, seed)
            gaps = inference_gaps(model, some, particles=particles, draw=draw, seed=seed)
    if way.rows is not None:
        with _asked_for("annealing of rows (--ais)"):
            compared = convergence(
                model, at_random(rows.source, way.rows, seed), steps_to(particles),
                steps_to(way.temperatures), annealed_particles=way.particles, start=way.start,
                draw=draw, seed=seed,
            )  # fmt: skip
    if way.simulated is not None:
        with _asked_for("annealing of simulated rows (--sandwich)"):
            both = sandwich(
                model, way.simulated, way.particles, way.temperatures, start=way.start, draw=draw,
                given=_inputs(model, rows.source, way.simulated, seed), seed=seed,
            )  # fmt: skip
    drawn = None
    if synthetic is not None:
        with _asked_for("synthetic rows (--synthetic)"):
            drawn = synthetic_rows(
                model, synthetic.train or _training_rows(rows), rows.source,
                target=synthetic.target, most=synthetic.rows, seed=seed,
            )  # fmt: skip
    estimate = importance_sampling(
        model, rows, particles, batch_size=batch_size, chunk=chunk, draw=draw, seed=seed,
        progress=progress,
    )  # fmt: skip
    filtered, why_not = _filtered(model, rows, estimate, draw, seed, progress)
    used = estimate if filtered is None or filtered.mean < estimate.mean else filtered
    use = latent_use(model, rows, draw=draw, seed=seed)
    counted = [count_elements(model, given, estimate.observed) for _, given in rows.each(4096)]
    variables = {} if rows.description is None else rows.description.variables
    # which elements are missing is no data where a model says why; q draws those it reads
    given = [name for name in estimate.observed if name in rows.names]
    known = {name: variables[name] for name in given if name in variables}
    # labels are categories, with probabilities; anything else that is not described is unknown
    described = all([name in known or name == "y" for name in given])
    bits = bits_per_dimension(used.log_px.cpu(), torch.cat(counted), known if described else None)
    asked = {"gap_rows": gap_rows, "annealing": None if annealing is None else vars(annealing)}
    if synthetic is not None:
        asked["synthetic"] = {"target": synthetic.target, "rows": synthetic.rows}
    warnings = likelihood_warnings(estimate) if used is estimate else filter_warnings(used)
    warnings += why_not
    if rows.rows >= FEWEST_ROWS:
        own = {name: each for name, each in use.items() if name not in rows.names}
        # what q is told to be carries what it was told to
        free = {n: u for n, u in own.items() if not getattr(owner_of(model.q, n), "fixed", False)}
        warnings += collapse_warnings(read_by_p(model, free))
    log_z = _normalisers(model)
    warnings += [
        f"log Z of {name} is known to {found.stderr:.2f} nats: all log p may be off by as much."
        for name, found in log_z.items()
        if found.stderr > _OFF
    ]
    return Evaluation(
        data=scored_rows(rows, estimate, model),
        elbo=mean_of(estimate.elbo),
        log_px=estimate.to_dict() | _by(used, estimate, filtered),
        bits_per_dim=finite(bits.value),
        bits_per_dim_stderr=finite(bits.stderr),
        bits_per_dim_offset=bits.explanation,
        reconstruction=mean_of(estimate.reconstruction),
        kl={name: latent.kl for name, latent in use.items()},
        active_units={name: latent.active_units for name, latent in use.items()},
        latents={name: latent.to_dict() for name, latent in use.items()},
        warnings=warnings + _rows_warning(rows.rows) + ([] if drawn is None else drawn.warnings),
        settings={
            "model": digest_of(model),
            "particles": particles,
            "batch_size": batch_size,
            "seed": seed,
            **{name: value for name, value in asked.items() if value is not None},
            "dtype": str(rows.dtype).removeprefix("torch."),
            "torch": str(torch.__version__),
        },
        gaps=None if gaps is None else gaps.to_dict(),
        annealing=None if compared is None else compared.to_dict(),
        sandwich=None if both is None else both.to_dict(),
        synthetic=None if drawn is None else drawn.to_dict(),
        classification=_classes(model, rows, particles, draw, seed),
        topics=of_topics(model, rows.source, estimate),
        normalisers={name: found.to_dict() for name, found in log_z.items()} or None,
        objects=_objects(model, rows, seed),
        log_px_a_step=_a_step(rows, estimate, used.log_px),
        filtered=None if filtered is None else filtered.to_dict(),
    )


def _filtered(
    model: LatentVariableModel,
    rows: Rows,
    estimate: ImportanceEstimate,
    draw: Mapping[str, Draw] | None,
    seed: int,
    progress: OnProgress | None,
) -> tuple[FilterEstimate | None, list[str]]:
    """The likelihood by a particle filter where p has latents in each step; or why not."""
    if estimate.exact or draw or not is_chain(model):
        return None, []
    few = min(estimate.particles, _FILTER)
    try:
        found = particle_filter(model, rows, few, proposal="auto", seed=seed, progress=progress)
    except ValueError as error:
        return None, [f"The likelihood is by importance sampling alone: {error}"]
    return found, []


def _by(
    used: RowEstimate, estimate: ImportanceEstimate, filtered: FilterEstimate | None
) -> dict[str, Any]:
    """Which of both estimates is reported, and with what errors."""
    if filtered is None:
        return {}
    if used is estimate:
        return {"by": "importance sampling"}
    plain = used.to_dict()
    kept = {name: plain[name] for name in ("value", "stderr", "monte_carlo_stderr")}
    return {"by": "particle filter", **kept, "importance_sampling": mean_of(estimate.log_px)}


def filter_warnings(found: RowEstimate) -> list[str]:
    """What makes a likelihood by a particle filter doubtful, in words."""
    if infinite := int(found.log_px.isneginf().sum()):
        return [_impossible(infinite)]
    noisy = int((found.log_px_stderr > _NOISY).sum())
    if noisy <= _HEAVY * found.rows:
        return []
    return [
        (
            f"In {noisy:,} of {found.rows:,} rows the error of the particle filter is above "
            f"{_NOISY:g} nats, or not known, as few of the first particles have descendants: "
            f"compare another --seed, or in Python particle_filter with more particles."
        )
    ]


def _impossible(rows: int) -> str:
    return (
        f"{rows} rows have probability zero under the model, so the mean log-likelihood is −∞; "
        f"their values lie outside the support of the likelihood."
    )


def _a_step(rows: Rows, estimate: ImportanceEstimate, log_px: Tensor) -> dict[str, Any] | None:
    """Nats of all steps over their number: a ratio of sums, its error by the delta method."""
    names = [name for name in estimate.observed if rows.lengths.get(name) in rows.names]
    if not names:
        return None
    steps = torch.cat([each[rows.lengths[names[0]]].cpu() for _, each in rows.each(4096)]).double()
    log_px = log_px.cpu().double()
    value = log_px.sum() / steps.sum()
    off = (log_px - value * steps).square().sum() * rows.rows / max(rows.rows - 1, 1)
    stderr = off.sqrt() / steps.sum() if rows.rows > 1 else torch.tensor(math.nan)
    found = {"value": finite(float(value)), "stderr": finite(float(stderr))}
    known = {} if rows.description is None else rows.description.variables
    tokens = all([name in known and str(known[name].kind) == "token" for name in names])
    told = {"steps": int(steps.sum())}
    if not tokens or {*estimate.observed} - {*names}:  # what is beside them is no token's
        return found | told
    count = int(steps.sum())
    if known[names[0]].shape:  # a step is a text of several tokens
        length = rows.lengths[names[0]]
        count = sum([_words(each[names[0]], each[length]) for _, each in rows.each(4096)])
    perplexity = finite(math.exp(-float(log_px.sum()) / count))
    return found | told | {"perplexity": perplexity, "tokens": count}


def _words(texts: Tensor, count: Tensor) -> int:
    """How many tokens some rows of several texts have, the end of each text among them."""
    there = torch.arange(texts.shape[1], device=texts.device) < count.unsqueeze(-1)
    return int((WordCount()(texts) * there).sum())


def _normalisers(model: LatentVariableModel) -> dict[str, Estimate]:
    """Of what p gives a density up to a factor: its logarithm, by name."""
    owners: dict[str, Any] = {name: owner_of(model.p, name) for name in model.p.names}
    each = {name: getattr(owner, "normaliser", None) for name, owner in owners.items()}
    return {name: found.estimate for name, found in each.items() if found is not None}


def _training_rows(rows: Rows) -> NamedRows:
    """Those of the data set that the rows are of."""
    known = rows.selection
    train = known.contents.rows.get("train") if known and known.contents else None
    if train is None or not train.rows:
        raise ValueError(
            "the training rows are not known, which drawn rows must not be copies of; give them "
            "as Synthetic(train=...)."
        )
    return replace(train, description=rows.description, split="train")


def _classes(
    model: LatentVariableModel,
    rows: Rows,
    particles: int,
    draw: Mapping[str, Draw] | None,
    seed: int,
) -> dict[str, Any] | None:
    """How right labels are, where the rows have some and the model knows them."""
    known = rows.description is not None and rows.description.label is not None
    if not known or "y" not in rows.source or not has_classes(model):
        return None
    if bool(rows.source["y"][:].isnan().all()):
        return None
    few = min(particles, _CLASS_PARTICLES)
    return classification(model, rows.source, particles=few, draw=draw, seed=seed).to_dict()


def _objects(model: LatentVariableModel, rows: Rows, seed: int) -> dict[str, Any] | None:
    """How often as many objects are found as the label says, where the model counts some."""
    counted = counting(model, rows.source, seed=seed) if rows.description else None
    return None if counted is None else counted.to_dict()


@contextlib.contextmanager
def _asked_for(what: str) -> Iterator[None]:
    """Say of an error which of the measurements it is about, and that the others go without it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{what} cannot be had here: {error} Leave it out for the rest."
        ) from error


def _inputs(
    model: LatentVariableModel, source: NamedRows, rows: int, seed: int
) -> dict[str, Tensor] | None:
    """Values of p's inputs to simulate rows for, those of random rows in turn."""
    names = [name for name in model.p.inputs if name not in model.p.names]
    if not names:
        return None
    taken = rows_of(model, at_random(source, rows, seed))
    some = taken[slice(0, taken.rows)]
    turns = torch.arange(rows) % taken.rows
    return {name: some[name][turns.to(some[name].device)] for name in names}


def likelihood_warnings(estimate: ImportanceEstimate) -> list[str]:
    """What makes an importance-sampled likelihood doubtful, in words."""
    found = []
    if infinite := int(estimate.log_px.isneginf().sum()):
        found.append(_impossible(infinite))
    if estimate.exact:
        return found
    if estimate.heavy > _HEAVY:
        count = round(estimate.heavy * estimate.rows)
        found.append(
            f"In {count:,} of {estimate.rows:,} rows ({100 * estimate.heavy:.1f} %) Pareto k̂ of "
            f"the importance weights is above 0.7: log p(x) of these rows is probably "
            f"underestimated, and its error is unknown. More particles help slowly; a better "
            f"inference model helps."
        )
    if len(estimate.curve) > 1:
        last, before = estimate.curve[-1], estimate.curve[-2]
        # a rise within its own noise is no rise
        clear = not math.isfinite(last.rise_stderr) or last.rise > 2 * last.rise_stderr
        if last.rise > _RISE and clear:
            found.append(
                f"From {before.particles:,} to {last.particles:,} particles the estimate still "
                f"rose by {last.rise:.2f} nats: it is a lower bound that has not settled. Use "
                f"more particles."
            )
    return found


def collapse_warnings(use: Mapping[str, LatentUse]) -> list[str]:
    """Which latents carry nothing about a row, in words; many of a kind in one sentence."""
    kinds: dict[Callable[[list[LatentUse]], str], list[LatentUse]] = {}
    for latent in use.values():
        active, of = latent.active_units, latent.dimensions
        if latent.collapsed:
            kinds.setdefault(_costly if latent.kl >= LITTLE else _dead, []).append(latent)
        elif active is not None and 2 * active <= of > 1:
            kinds.setdefault(_partly, []).append(latent)
    found = []
    for said, latents in kinds.items():
        few = len(latents) <= _FEW_LATENTS
        found += [said([each]) for each in latents] if few else [said(latents)]
    return found


_FEW_LATENTS = 3  # of which each has a sentence of its own


def _names(latents: list[LatentUse]) -> str:
    *others, last = [each.name for each in latents]
    return f"{', '.join(others)} and {last}" if others else last


def _dimensions(latents: list[LatentUse]) -> int:
    return sum([each.dimensions for each in latents])


def _costly(latents: list[LatentUse]) -> str:
    one, names, cost = len(latents) == 1, _names(latents), sum([each.kl for each in latents])
    return (
        f"In none of the {_dimensions(latents)} dimensions of {names} does "
        f"the posterior mean vary over the data by more than {ACTIVE:g}, and yet "
        f"{'it costs' if one else 'they cost'} {cost:.1f} nats: each says very little, or the "
        f"posterior is the same for all rows and not the prior. Train longer, or try "
        f"{f'a smaller {names}' if one else 'fewer or smaller ones'}."
    )


def _dead(latents: list[LatentUse]) -> str:
    one = len(latents) == 1
    return (
        f"{_names(latents)} {'has' if one else 'have'} collapsed: in none of "
        f"{'its' if one else 'their'} {_dimensions(latents)} dimensions does the posterior mean "
        f"vary over the data by more than {ACTIVE:g}, so the model ignores "
        f"{'it' if one else 'them'}. Try free bits, a slower rise of the KL weight, or a weaker "
        f"likelihood network."
    )


def _partly(latents: list[LatentUse]) -> str:
    names, active = _names(latents), sum([each.active_units or 0 for each in latents])
    return (
        f"Only {active} of the {_dimensions(latents)} dimensions of {names} are "
        f"active; the others stay at the prior. If the held-out bound has settled, "
        f"{f'a smaller {names}' if len(latents) == 1 else 'smaller ones'} would do as well; if "
        f"more should be used, try free bits, a slower rise of the KL weight, or longer training."
    )


def _rows_warning(rows: int) -> list[str]:
    if rows == 1:
        return ["Only one row was evaluated: there is no standard error over rows."]
    few = (
        f"Only {rows} rows were evaluated: the standard errors over rows are themselves uncertain."
    )
    return [few] if rows < 30 else []


def scored_rows(
    rows: Rows, estimate: ImportanceEstimate, model: LatentVariableModel
) -> dict[str, Any]:
    """Everything that a reported likelihood must carry."""
    known, owners = rows.description, {n: owner_of(model.p, n) for n in estimate.observed}
    # densities of counts given each row's own total
    totals = [f"total of {n}" for n, own in owners.items() if getattr(own, "of_total", False)]
    # a length that follows from where p ends its rows is no condition
    ends = [length for length in rows.lengths.values() if length in model.p.names]
    given = [name for name in rows.names if name not in (*estimate.observed, *ends)]
    record: dict[str, Any] = {
        "name": "rows given" if known is None else known.name,
        "split": rows.split or "all",
        "rows": estimate.rows,
        "units": "nats a row",
        "scored": list(estimate.observed),
        "conditions": given + totals,
        "integrated": list(estimate.latents),
    }
    if known is None:
        return record
    variables = known.variables
    parts = [part for variable in variables.values() for part in (variable, *variable.parts)]
    return record | {
        "source": known.source,
        "how_split": known.split,
        "variables": {name: str(each) for name, each in variables.items() if name in rows.names},
        "binarization": known.options.get("binarize"),
        "dequantization": "uniform" if any([part.dequantized for part in parts]) else None,
        "notes": list(known.notes),
        "fingerprint": rows.selection.fingerprint if rows.selection else None,
    }


def _value(estimate: Mapping[str, Any]) -> str:
    return shown_plain(estimate, "−∞")


def _classifier_rows(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found, rows = [], f"{plain['rows']:,} rows"
    for name, key in (("q(y | x)", "encoder"), ("p(y | x)", "model")):
        one = plain[key]
        percent = {name: 100 * value for name, value in one["error"].items()}
        how = f"calibration error {_value(one['calibration_error'])}"
        of = f"% of {rows} with another label; {how}, {one['if_calibrated']:.3f} if calibrated"
        found.append((f"error of {name}", _value(percent), of))
    return found


def _objects_rows(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    each = ", ".join([f"of {n} {share:.3f}" for n, share in plain["by_count"].items()])
    of = f"rows in which as many objects are found as there are: {each}"
    return [("count of objects", _value(plain["accuracy"]), of)]


def _topics_rows(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    of = f"NPMI of the first words of {len(plain['words'])} topics, in {plain['reference']}"
    each = "so many words are as hard to choose from, in their order; lower is better"
    return [
        ("perplexity", _value(plain["perplexity"]), each),
        ("coherence", _value(plain["coherence"]), of),
        ("diversity", f"{plain['diversity']:.2f}", "share of different words among the first 25"),
    ]


def _step_rows(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    of = f"the same over all {plain['steps']:,} steps of the rows"
    found = [("nats a step", _value(plain), of)]
    if (value := plain.get("perplexity")) is not None:
        share = plain["steps"] / plain.get("tokens", plain["steps"])
        relative = None if plain["stderr"] is None else value * plain["stderr"] * share
        each = "so many tokens are as hard to choose from, the end among them; lower is better"
        found.append(("perplexity", _value({"value": value, "stderr": relative}), each))
    return found


def _annealing_row(plain: Mapping[str, Any]) -> tuple[str, str, str]:
    last, importance = plain["annealing"][-1], _value(plain["importance"][-1])
    counts = f"{plain['annealed_particles']} particles, {last['temperatures']:,} temperatures"
    how = "exact sum" if plain["exact"] else counts
    of = f"{how}, {plain['rows']:,} random rows; importance sampling there {importance}"
    return "log p(x), annealed", _value(last), of


def _sandwich_row(plain: Mapping[str, Any]) -> tuple[str, str, str]:
    lower, upper = (_value(plain[side]) for side in ("lower", "upper"))
    rows = f"{plain['rows']:,} simulated rows"
    of = f"between both bounds, {lower} and {upper}, on {rows}: how wrong it is at most"
    return "sandwich gap", _value(plain["gap"]), of


def _log_px_meaning(estimate: Mapping[str, Any], filtered: Mapping[str, Any] | None) -> str:
    if estimate["exact"]:
        return "log-likelihood, exact: nothing had to be sampled"
    sampled = f"importance sampling with {estimate['particles']:,} particles"
    if filtered is None:
        return f"log-likelihood by {sampled}: a lower bound in expectation"
    walked = f"a particle filter of {filtered['particles']:,} from the {filtered['proposal']}"
    if estimate["by"] == "particle filter":
        other = f"{sampled} says {_value(estimate['importance_sampling'])}"
        return f"log-likelihood by {walked}, a lower bound in expectation; {other}"
    return (
        f"log-likelihood by {sampled}, a lower bound in expectation; {walked} says "
        f"{_value(filtered)}"
    )
