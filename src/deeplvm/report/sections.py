"""The parts of the report: what each shows, and the facts of which its template speaks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deeplvm.data.graphs import GraphData
from deeplvm.data.molecules import drawing, has_rdkit
from deeplvm.data.schema import type_of
from deeplvm.data.tokens import is_molecule
from deeplvm.evaluation.graphs import given_of
from deeplvm.evaluation.latents.latent_use import carrying, flat
from deeplvm.evaluation.molecules import generated_of
from deeplvm.evaluation.samples.synthetic import synthetic_table
from deeplvm.inference.compression import AtCentre
from deeplvm.inference.rows import at_random
from deeplvm.inference.texts import as_texts, reconstructed_texts, texts_between
from deeplvm.likelihood import UsualSurprise, score_cells
from deeplvm.randomness import evaluating
from deeplvm.report.figures import (
    columns,
    images,
    latents,
    likelihood,
    predictive,
    samples,
    sequences,
    training,
)
from deeplvm.report.figures.style import CLASSES
from deeplvm.report.material import STEPS, Material, principal_plane
from deeplvm.results import html_table

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Split
    from deeplvm.data.variable import Variable
    from deeplvm.evaluation.summary import Evaluation

_TEXTS, _SERIES = 12, 3  # texts, and sequences, that are shown
_COUNTED = 300  # draws of which those are counted that can be read
_MOST_COLUMNS = 12  # small multiples on one page
_MOST_CORRELATED = 60
_MOST_TABLED = 40  # columns of a table that are all shown
_DRAWN = 2_000  # rows of the data and of draws that a histogram is of
_NODES, _EDGES = 3_000, 10_000  # of a graph that are drawn
_CELLS, _ODD = 4_000, 10  # held-out cells that are looked at, and the odd ones of them
_MOST_ROWS = 5_000  # of a split; they stand for it
_WIDTH = 960  # pixels of a card
SPLITS: dict[Split, str] = {"train": "training", "valid": "validation", "test": "test"}

Figure = tuple[Markup, str]


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        anchor: Where the contents link to; the name of its lead in ``leads.html``.
        title: Its heading.
        figures: Pairs of a figure and its caption.
        facts: What its lead speaks of.
        wide: Whether figures stand below each other.
        of: The variable that it is of, where the data have several.
    """

    anchor: str
    title: str
    figures: Sequence[Figure]
    facts: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = True
    of: str = ""

    @property
    def place(self) -> str:
        """Its identifier in the page."""
        return f"{self.anchor}-{self.of}" if self.of else self.anchor

    @property
    def heading(self) -> str:
        """What stands above it."""
        return f"{self.title}: {self.of}" if self.of else self.title


@dataclass(eq=False)
class Subject:
    """What a page is about.

    Attributes:
        model: A fitted model.
        data: What it was fitted to.
        evaluation: What was measured, or none.
        metrics: Records of the epochs.
        diagnosis: As in ``diagnosis.json``, or none.
        figures_of: Its figures, by their files.
        split: The rows that are shown.
        seed: Of every draw.
        name: Of the variable that is shown; the first that p scores by default.
    """

    model: LatentVariableModel
    data: Data
    evaluation: Evaluation | None
    metrics: Sequence[Mapping[str, Any]]
    diagnosis: Mapping[str, Any] | None
    figures_of: Mapping[str, Markup]
    split: Split
    seed: int
    name: str | None = None

    @cached_property
    def material(self) -> Material:
        """The model with random rows of each split: the first of a file may be unlike others."""
        some = self.data.sampled(_MOST_ROWS, self.seed)
        return Material(self.model, some, self.split, self.seed, self.name)

    @cached_property
    def variable(self) -> Variable:
        """The variable that is shown."""
        return self.data.variables[self.material.name]

    @property
    def pictured(self) -> bool:
        """Whether its values are pictures."""
        single = self.variable.length is None
        return single and self.variable.is_image and self.variable.shape[0] in (1, 3)

    @property
    def use(self) -> Mapping[str, Any]:
        """Latents that are drawn, by name, as they were measured."""
        return self.evaluation.latents if self.evaluation is not None else {}

    @property
    def bound(self) -> str:
        """What the epochs are compared by."""
        names = list(self.metrics[-1].get("valid") or self.metrics[-1].get("train") or ["elbo"])
        return "elbo" if "elbo" in names else names[0]

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The record of the epoch whose weights were kept: the best of those that compare."""
        held_out = [r for r in self.metrics if (r.get("valid") or {}).get(self.bound) is not None]
        known = [record for record in held_out if record.get("comparable", True)]
        return max(known, key=lambda r: r["valid"][self.bound], default=None)


def sections(subject: Subject) -> tuple[list[Section], list[str]]:
    """The parts of a page in order; and what the model does not allow to show, and why."""
    shown: list[Section] = []
    left_out: list[str] = []
    if isinstance(subject.data, GraphData):
        return [*_training(subject), *_graph(subject, subject.data)], []
    names = [name for name in subject.data.variables if name in subject.model.p.names]
    several = {name: replace(subject, name=name) for name in names} if len(names) > 1 else {}
    for what, part in _PARTS.items():
        for name, each in several.items() if part in _OF_A_NAME and several else [("", subject)]:
            try:
                shown += [replace(section, of=name) for section in part(each)]
            except (ValueError, KeyError, NotImplementedError) as error:
                left_out.append(f"{f'{what} of {name}' if name else what}: {error}")
    return shown, left_out


def curve_warnings(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the curves of training warn of: the name of a sentence, and its numbers."""
    bound, best = subject.bound, subject.best
    if best is None:
        return
    value = best["valid"][bound]
    gap = (best.get("train") or {}).get(bound, math.nan) - value
    if gap > 0.1 * abs(value):
        yield "learned_by_heart", {"gap": gap}
    late = [each["valid"][bound] for each in subject.metrics if bound in (each.get("valid") or {})]
    tenth = max(1, len(late) // 10)
    if best is subject.metrics[-1] and len(late) > 10 and late[-1] - late[-1 - tenth] > 0.1:
        yield "still_rising", {"rise": late[-1] - late[-1 - tenth], "epochs": tenth}


def _training(subject: Subject) -> Iterator[Section]:
    if not subject.metrics:
        return
    best = None if subject.best is None else subject.best["epoch"]
    figure = training.training_curves(subject.metrics, subject.bound, best)
    skipped = sum([not record.get("comparable", True) for record in subject.metrics])
    facts = {"best": best, "skipped": skipped}
    yield Section("training", "Training", [(figure, f"{subject.bound}, higher is better.")], facts)


def _particles(subject: Subject) -> Iterator[Section]:
    curve = [] if subject.evaluation is None else subject.evaluation.log_px["curve"]
    if len(curve) < 2 or any([point["value"] is None for point in curve]):
        return
    caption = "All points are from the same draws, in disjoint groups of k; mean over rows."
    figure = likelihood.particle_curve(curve)
    facts = {"last": curve[-1], "before": curve[-2]}
    yield Section("particles", "How far to trust the likelihood", [(figure, caption)], facts)


def _annealing(subject: Subject) -> Iterator[Section]:
    both = None if subject.evaluation is None else subject.evaluation.annealing
    if not both:
        return
    caption = (
        f"Both are lower bounds in expectation, on the same {both['rows']:,} rows; bands are two "
        f"standard errors of the differences from the last point of annealing."
    )
    figures = [(likelihood.convergence_figure(both), caption)]
    yield Section("annealing", "Annealing beside importance sampling", figures, both)


def _texts(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Figure:
    """Texts to be read, side by side."""
    return Markup(html_table([*header], [[*row] for row in rows])), title


def _drawn_molecule(subject: Subject) -> Callable[[str], str | None]:
    """From a text to its drawing, where texts are molecules and these can be drawn."""
    scheme = str(subject.data.description.options.get("tokens"))
    return drawing if is_molecule(scheme) and has_rdkit() else lambda _: None


def _samples(subject: Subject) -> Iterator[Section]:
    material, variable = subject.material, subject.variable
    if variable.kind == "token":
        known = subject.data.description
        drawn = as_texts({material.name: material.samples(_TEXTS)}, known)[material.name]
        real = as_texts({material.name: material.data_rows(_TEXTS)}, known)[material.name]
        rows = [*zip(drawn, real, strict=False)]
        shown = [_texts("", ["drawn from the model", "training rows"], rows)]
        if drawings := [each for each in map(_drawn_molecule(subject), drawn) if each]:
            together = Markup('<div class="molecules">{}</div>').format(Markup("".join(drawings)))
            shown.append((together, "Those of them that are molecules."))
        more = as_texts({material.name: material.samples(_COUNTED)}, known)[material.name]
        if (found := generated_of(more, subject.data)) is not None:
            shown.append((Markup(html_table([], found.table())), found.notes()[0]))
        yield Section("samples", "Samples", shown, {"pictured": False})
        return
    if subject.pictured:
        across, down = (10, 6) if variable.shape[-1] <= 40 else (6, 4)
        drawn = material.samples(across * down, mean=True)
        real = material.first(across * down)[material.name].cpu()
        rows = f"Data, {SPLITS[material.split]} rows, drawn at random, to compare."
        at = " at draws of z from p(z)" if material.model.q.names else ""
        means = f"Drawn from the model: {material.pictured}{at}".rstrip(",") + "."
        form: dict[str, Any] = {"columns": across, "variable": variable, "width": _WIDTH // 2}
        pair = [
            (images.image_grid(drawn.numpy(), "Samples of the model", **form), means),
            (images.image_grid(real.numpy(), "Rows of the data", **form), rows),
        ]
        yield Section("samples", "Samples", pair, {"pictured": True}, wide=False)
        return
    names, shown = variable.titles, []
    drawn, data = [_flat(each) for each in _compared(material)]
    if variable.columns is None:
        shown.append(_marginals(variable, data, drawn))
    whole = variable.columns is None and all([part.is_whole for part in variable.each])
    if 1 < len(names) <= _MOST_CORRELATED and not whole:
        pair_of_matrices = samples.correlations(data, drawn, names)
        alike = "Correlations between columns: the two pictures should be alike."
        shown.append((pair_of_matrices, alike))
    if shown:
        yield Section("samples", "Samples", shown, {"pictured": False})


def _columns(subject: Subject) -> Iterator[Section]:
    """The columns of a table, one by one, and where their values are missing."""
    material, variable = subject.material, subject.variable
    if variable.columns is None:
        return
    drawn, data = [variable.settled(values.flatten(1)) for values in _compared(material)]
    missing, what = np.isnan(data), "rows" if material.length is None else "steps"
    shown = [_marginals(variable, data, drawn, missing.mean(0))]
    if missing.any():
        caption = (
            f"Where values are missing, the most frequent patterns first: blue is missing. Below "
            f"a column the share of the training {what} that lack it."
        )
        shown.append((columns.hole_patterns(missing, variable.titles), caption))
    facts = {"whole": float((~missing.any(1)).mean()) if missing.any() else None, "what": what}
    yield Section("columns", "Columns", shown, facts)


def _compared(material: Material) -> tuple[Tensor, Tensor]:
    """Draws and training rows; of sequences the steps of fewer."""
    if material.length is None:
        return material.samples(_DRAWN), material.data_rows(_DRAWN)
    few = _DRAWN // 20
    lengths = material.data.train[material.length][:few]
    data = material.steps(material.data_rows(few), lengths)
    return material.steps(material.samples(few)), data


def _sequences(subject: Subject) -> Iterator[Section]:
    """Rows that are sequences: piano rolls, or lines with bands, and what comes after."""
    material, variable, shown = subject.material, subject.variable, list[Figure]()
    if material.length is None or len(variable.shape) > 1:
        return
    rows = SPLITS[material.split]
    if variable.kind == "binary" and variable.elements > 1:
        given = material.long(_SERIES)
        lengths = given[material.length].tolist()
        real = given[material.name].cpu().numpy()
        drawn, ends = material.samples(_SERIES).numpy(), material.conditions(_SERIES)
        count = ends[material.length].tolist() if material.length in ends else None
        shown = [
            (sequences.rolls(real, lengths, "Rows of the data"), f"Data, {rows} rows."),
            (
                sequences.rolls(drawn, count or [drawn.shape[1]] * len(drawn), "Samples"),
                "Drawn from the model.",
            ),
        ]
        yield Section("sequences", "Sequences", shown, {})
        return
    places, names = sequences.chosen(variable), variable.titles
    if set(subject.model.q.names) & set(subject.model.p.names):
        value, mean, spread, lengths = material.bands(_SERIES)
        panels = [
            [
                sequences.Line(names[i], value[r, :n, i].numpy(), *_band(mean, spread, r, n, i))
                for i in places
            ]
            for r, n in enumerate(lengths.tolist())
        ]
        caption = (
            f"Grey: {rows} rows. Blue: the mean of p(x | z) at a draw of z from q(z | x), and two "
            f"of its standard deviations to each side."
        )
        shown.append((sequences.lines(panels, "Sequences and their reconstructions"), caption))
    with contextlib.suppress(ValueError):  # of a p that has no steps to go on from
        found, horizon = material.foreseen(_SERIES)
        low, middle, high = found.quantiles[material.name].flatten(3)
        given = material.long(_SERIES)
        panels = [
            [
                sequences.Line(
                    names[i], given[material.name][r, :n].flatten(1)[:, i].cpu().numpy(),
                    *[each[r, :, i].cpu().numpy() for each in (middle, low, high)],
                )
                for i in places
            ]
            for r, n in enumerate(given[material.length].long().tolist())
        ]  # fmt: skip
        caption = (
            f"The last {f'{horizon} steps' if horizon > 1 else 'step'} as forecast from those "
            f"before: median, and the interval that should hold nine tenths."
        )
        shown.append((sequences.lines(panels, "Forecasts"), caption))
    yield Section("sequences", "Sequences", shown, {})


def _band(mean: Tensor, spread: Tensor, row: int, steps: int, place: int) -> list[Any]:
    middle, off = mean[row, :steps, place].numpy(), 2 * spread[row, :steps, place].numpy()
    return [middle, *([] if np.isnan(off).all() else [middle - off, middle + off])]


_KINDS: dict[str, Any] = {"category": "code", "ordinal": "code", "binary": "code", "date": "date"}


def _marginals(variable: Variable, data: Any, drawn: Any, missing: Any = None) -> Figure:
    """Columns as the data have them and as they are drawn; of a table with words on each."""
    names, order = variable.titles, _chosen(variable)
    if missing is not None and variable.elements <= _MOST_TABLED:
        order = list(range(variable.elements))
    panels, parts = [], list(variable.by_column.values()) or list(variable.each)
    for i in order:
        known, part, note = data[:, i][np.isfinite(data[:, i])], parts[i], ""
        if missing is not None:
            note = type_of(part) + (f", {100 * missing[i]:.0f} % missing" if missing[i] else "")
        if len(known):
            kind = "whole" if part.is_whole or part.dequantized else "number"
            panels.append(
                columns.Marginal(
                    names[i], known + part.origin, drawn[:, i] + part.origin,
                    _KINDS.get(part.kind, kind),
                    _names_of(part), note,
                )
            )  # fmt: skip
    caption = (
        f"Grey: training rows. Blue: draws of {variable.name} from the model, with their noise."
    )
    if len(names) > len(order):
        caption += f" {len(order)} of {len(names)} columns are shown."
    return columns.marginals(panels), caption


def _names_of(part: Variable) -> Sequence[str]:
    """What the codes of a column stand for."""
    flags = ("False", "True") if part.types and part.types[0].startswith("bool") else ("0", "1")
    return part.categories or (flags if part.kind == "binary" else ())


def _odd_cells(subject: Subject) -> Iterator[Section]:
    """The values of held-out rows that are least expected, given the rest of their row."""
    variable, rows = subject.variable, subject.material.rows
    if variable.columns is None or not 1 < variable.elements <= _MOST_TABLED:
        return
    some: Any = at_random(rows.source, max(20, _CELLS // variable.elements), subject.seed)
    name, model = subject.material.name, subject.model
    surprise, values = (
        score_cells(model, some, 100, seed=subject.seed).surprise[name],
        some.exact(name),
    )
    excess = UsualSurprise.of(surprise, values, variable.repeated).excess(surprise, values).numpy()
    order = np.argsort(np.where(np.isnan(excess), -np.inf, excess), axis=None)[::-1][:_ODD]
    cells = {n: list(each) for n, each in variable.restored(values, exact=True).items()}
    table = []
    for row, place in zip(*np.unravel_index(order, excess.shape), strict=True):
        others = [n for i, n in enumerate(cells) if i != place and not _empty(cells[n][row])]
        rest = ", ".join([f"{n} {_cell(cells[n][row])}" for n in others[:6]])
        column = variable.columns[place]
        value = _cell(cells[column][row])
        table.append(
            [column, value, f"{excess[row, place]:.1f}", rest + (", …" if len(others) > 6 else "")]
        )
    header = ["column", "value", "nats above usual", "the rest of its row"]
    facts = {"rows": len(excess), "split": SPLITS[subject.split]}
    yield Section("odd", "Odd cells", [(Markup(html_table(header, table)), "")], facts)


def _empty(value: Any) -> bool:
    return value is None or value != value or str(value) == "NaT"


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _labels(subject: Subject) -> Iterator[Section]:
    """Whether labels come as often as the model says."""
    found = None if subject.evaluation is None else subject.evaluation.classification
    if not found or "bins" not in found["encoder"]:  # of a version before
        return
    lines = {"q(y | x)": found["encoder"]["bins"], "p(y | x)": found["model"]["bins"]}
    caption = "A point for each tenth of the probabilities, larger for more rows."
    figures = [(predictive.reliability_figure(lines), caption)]
    yield Section("labels", "Labels", figures, found)


def _topics(subject: Subject) -> Iterator[Section]:
    """The words of each topic."""
    found = None if subject.evaluation is None else subject.evaluation.topics
    if not found:
        return
    rows = zip(found["npmi"], found["words"], strict=True)
    table = [[f"{value:.2f}", " ".join(words)] for value, words in rows]
    figures = [(Markup(html_table(["coherence", "first words"], table)), "")]
    yield Section("topics", "Topics", figures, found)


def _synthetic(subject: Subject) -> Iterator[Section]:
    """Drawn rows against real ones, where that was measured."""
    found = None if subject.evaluation is None else subject.evaluation.synthetic
    if not found:
        return
    header = ["", "drawn rows", "at best", "what it means"]
    table = [[*map(minus, row[:3]), row[3]] for row in synthetic_table(found)]
    caption = "Each column by itself, the least similar first; ± one standard error."
    shown = [(Markup(html_table(header, table)), ""), (columns.synthetic_columns(found), caption)]
    yield Section("synthetic", "Synthetic rows", shown, found)


def _reconstructions(subject: Subject) -> Iterator[Section]:
    material, variable, model = subject.material, subject.variable, subject.model
    if not set(model.q.names) & set(model.p.names):
        return
    measured = subject.evaluation
    facts = {"worth": None if measured is None else measured.reconstruction}
    if variable.kind == "token":
        some = subject.data[material.split][: 2 * _TEXTS]
        found, searched = reconstructed_texts(model, some[:_TEXTS], seed=subject.seed)
        how = (
            "the most probable text, nearly," if searched else "the most probable word each time,"
        )
        rows = [*zip(*found.values(), strict=True)]
        shown = [_texts(f"Each {how} at a draw of z from q(z | x).", ["original", "back"], rows)]
        with contextlib.suppress(ValueError):  # nothing is in between
            walks = [[text] for text in texts_between(model, some[:2])]
            shown.append(_texts("", ["from the code of a row to that of another"], walks))
        yield Section("reconstructions", "Reconstructions", shown, facts)
        return
    if subject.pictured:
        across = 12 if variable.shape[-1] <= 40 else 6
        original, mean = material.reconstructions(across * 3)
        # a line of originals, the line of their reconstructions below it
        count = len(original) // across * across or len(original)
        across = min(across, count)
        form = (-1, across, *variable.shape)
        lines = [each[:count].numpy().reshape(form) for each in (original, mean)]
        picture = images.image_grid(
            np.stack(lines, 1).reshape(-1, *variable.shape),
            "Originals above, reconstructions below",
            columns=across,
            variable=variable,
            group=2,
            width=_WIDTH,
        )
        caption = f"Pairs of lines: originals above, {material.pictured.rstrip(',')} below."
    else:
        lengths = None if material.length is None else material.first(1_000)[material.length]
        pair = material.reconstructions(1_000)
        flat, back = [_flat(material.steps(each, lengths)) for each in pair]
        names, known = variable.titles, np.isfinite(flat)
        pairs = [
            (names[i], flat[known[:, i], i], back[known[:, i], i])
            for i in _chosen(variable)
            if known[:, i].any()
        ]
        picture = samples.recovered(pairs)
        caption = "A point a row; on the line the reconstruction is the original."
    yield Section("reconstructions", "Reconstructions", [(picture, caption)], facts)


def _traversals(subject: Subject) -> Iterator[Section]:
    material, variable = subject.material, subject.variable
    if variable.kind == "token":
        return
    found = material.traversals(subject.use) if subject.use else []
    if not found:
        return
    title = "Traversals"
    if subject.pictured:
        strips = []
        for each in found:
            form: dict[str, Any] = {"columns": STEPS, "variable": variable, "width": _WIDTH}
            name = f"{each.name}[{each.dimension}]"
            picture = images.image_grid(each.values.numpy(), f"Traversal of {name}", **form)
            low, high = float(each.positions[0]), float(each.positions[-1])
            strips.append((picture, minus(f"{name} from {low:.2f} to {high:.2f}")))
        yield Section("traversals", title, strips)
        return
    scale = np.asarray(variable.std.double().flatten())
    scale, chosen = np.where(scale > 0, scale, 1.0), _chosen(variable, 24)
    changes = []
    for each in found:
        values = _flat(each.values)
        change = ((values - values[STEPS // 2]) / scale)[:, chosen]
        changes.append((f"{each.name}[{each.dimension}]", change))
    names, steps = variable.titles, [f"−{2.5:g} sd", *[""] * (STEPS - 2), f"+{2.5:g} sd"]
    picture = latents.column_traversals(changes, [names[i] for i in chosen], steps)
    caption = "How far the mean of each column moves from the middle, in its standard deviations."
    yield Section("traversals", title, [(picture, caption)])


def _manifold(subject: Subject) -> Iterator[Section]:
    """Pictures over the plane of the only latent, where it is a plane."""
    if not subject.pictured or [use["dimensions"] for use in subject.use.values()] != [2]:
        return
    side = 15 if subject.variable.shape[-1] <= 40 else 8
    grid = subject.material.manifold(next(iter(subject.use)), side)
    form: dict[str, Any] = {"columns": side, "variable": subject.variable, "width": _WIDTH}
    picture = images.image_grid(grid.numpy(), "Means of x over the plane of z", **form)
    yield Section("manifold", "The plane of the latent", [(picture, "")])


def _latents(subject: Subject) -> Iterator[Section]:
    shown, most_used = [], sorted(subject.use, key=lambda n: -subject.use[n]["kl"])[:_LATENTS]
    if len(subject.use) > _LATENTS:
        alive = [bool(use["active_units"]) for use in subject.use.values()]
        bars = latents.dimension_bars(
            "", [use["kl"] for use in subject.use.values()], alive, "KL, nats", [*subject.use]
        )
        caption = f"The divergence of each of {len(subject.use)} latents; grey ones are not "
        shown.append((bars, caption + f"active. Below, the {_LATENTS} with the largest."))
    for name, use in subject.use.items():
        if name not in most_used:
            continue
        variance = flat(use["variance_of_posterior_mean"] or [])
        if len(variance) < 2:
            continue
        active = [value > 1e-2 for value in variance]
        each = flat(use["kl_by_dimension"] or [])
        factorises = len(each) == len(variance)
        what = "KL, nats" if factorises else "variance of means"
        caption = f"{name}: KL {use['kl']:.2f} nats in all"
        caption += f", {carrying(each)} dimensions carry 95 % of it" if factorises else ""
        caption += f"; {sum(active)} of {len(active)} are active."
        if not factorises:
            caption += " Its distributions do not factorise, so there is no KL of each dimension."
        heights = each if factorises else variance
        shown.append((latents.dimension_bars(name, heights, active, what), caption))
    if shown:
        yield Section("latents", "Use of the latents", shown, wide=False)


def _space(subject: Subject) -> Iterator[Section]:
    space = subject.material.latent_space(subject.use) if subject.use else None
    if space is None:
        return
    classes = subject.data.classes
    labels = None if space.labels is None else space.labels.numpy()
    points = space.points.numpy()
    facts = {
        "space": space,
        "rows": len(points),
        "split": SPLITS[space.split],
        "coloured": labels is not None and bool(classes) and len(classes or ()) <= len(CLASSES),
        "told": "y" in subject.material.rows.names,
    }
    if points.shape[1] == 1:
        figure = latents.latent_histogram(points[:, 0], labels, classes, space.name)
    else:
        names = axes_of(space.name, space.shares)
        figure = latents.latent_map(points, labels, classes, names)
    yield Section("space", "The latent space", [(figure, "")], facts)


def axes_of(name: str, shares: Sequence[float]) -> tuple[str, str]:
    """What the two axes of a plane of a latent are: its dimensions, or the principal ones."""
    if not shares:
        return f"{name}[0]", f"{name}[1]"
    kinds = zip(("first", "second"), shares, strict=True)
    first, second = [f"{kind} principal axis ({100 * n:.0f} %)" for kind, n in kinds]
    return first, second


def _diagnosed(subject: Subject) -> Iterator[Section]:
    """The figures of a diagnosis, by topic."""
    topics: dict[str, list[Figure]] = {}
    for figure in subject.diagnosis["figures"] if subject.diagnosis else ():
        if figure["file"] in subject.figures_of:
            pair = (subject.figures_of[figure["file"]], figure["caption"])
            topics.setdefault(figure["topic"], []).append(pair)
    for number, (topic, pairs) in enumerate(topics.items(), 1):
        yield Section(f"diagnosis-{number}", topic, pairs)


def _graph(subject: Subject, data: GraphData) -> Iterator[Section]:
    """The codes of the nodes in the plane, with the edges that are known."""
    model, graph = subject.model, data.graph
    given, shown = given_of(model, data), []
    with evaluating(model, subject.seed):
        trace = model.posterior(given, default=AtCentre())
        drawn = {n: site for n, site in trace.items() if site.drawn and n in model.p.names}
        codes = {n: site.value[0].double().cpu().clone() for n, site in drawn.items()}
    rng = np.random.default_rng(subject.seed)
    nodes = np.sort(rng.permutation(graph.nodes)[:_NODES])
    place = np.full(graph.nodes, -1)
    place[nodes] = np.arange(len(nodes))
    a = given["a"].cpu().coalesce()
    edges = place[a.indices()[1:, a.values() == 1].T.numpy()]
    edges = edges[(edges >= 0).all(1)]
    labels = None if graph.labels is None else np.where(graph.labels < 0, np.nan, graph.labels)
    labels = None if labels is None else labels[nodes]
    for name, each in codes.items():
        flat = each.shape[1] < 3 or len(each) < 3
        points, shares = (each[:, :2], ()) if flat else principal_plane(each)
        if points.shape[1] == 1:
            figure = latents.latent_histogram(
                points[nodes, 0].numpy(), labels, graph.classes, name
            )
        else:
            names = axes_of(name, shares)
            figure = latents.latent_map(
                points[nodes].numpy(), labels, graph.classes, names, edges[:_EDGES]
            )
        shown.append((figure, f"Means of q({name} | …), a point a node."))
    facts = {"nodes": len(nodes), "all": graph.nodes, "edges": len(edges[:_EDGES])}
    facts |= {"coloured": graph.classes is not None and len(graph.classes) <= len(CLASSES)}
    yield Section("nodes", "The nodes", shown, facts)


_PARTS: dict[str, Callable[[Subject], Iterator[Section]]] = {
    "Training": _training,
    "Particles": _particles,
    "Annealing": _annealing,
    "Columns": _columns,
    "Sequences": _sequences,
    "Samples": _samples,
    "Labels": _labels,
    "Topics": _topics,
    "Synthetic rows": _synthetic,
    "Odd cells": _odd_cells,
    "Reconstructions": _reconstructions,
    "Traversals": _traversals,
    "The plane of the latent": _manifold,
    "Use of the latents": _latents,
    "The latent space": _space,
    "Diagnosis": _diagnosed,
}
_LATENTS = 6  # that have a figure of their own
# Those that show one variable.
_OF_A_NAME = (_columns, _sequences, _samples, _odd_cells, _reconstructions, _traversals, _manifold)


def minus(text: str) -> str:
    """The sign as it is printed."""
    return text.replace("-", "−")


def _flat(values: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(values.double().flatten(1) if values.dim() > 1 else values.double()[:, None])


def _chosen(variable: Variable, most: int = _MOST_COLUMNS) -> list[int]:
    """All columns, or where they are many those that vary most (for counts the most frequent)."""
    if variable.elements <= most:
        return list(range(variable.elements))
    weight = variable.mean if variable.kind == "counts" else variable.std
    order = np.argsort(-np.asarray(weight.double().flatten()), kind="stable")[:most]
    return sorted(order.tolist())
