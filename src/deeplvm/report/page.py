"""The report: one HTML page about a model and its data, which needs nothing else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deeplvm.core.results import html_table
from deeplvm.files import parse_json
from deeplvm.report.figures import images, latents, likelihood, samples, training
from deeplvm.report.figures.style import CLASSES
from deeplvm.report.material import STEPS, Material, Traversal

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Split, Variable
    from deeplvm.evaluation.summary import Evaluation
    from deeplvm.runs.run import Run

_MOST_COLUMNS = 12  # small multiples on one page
_MOST_CORRELATED = 60
_SPLITS: dict[Split, str] = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        title: Its heading.
        anchor: Where the contents link to.
        lead: A sentence or two on what is to be seen, and how to read it.
        figures: Pairs of a figure and its caption.
        wide: Whether figures stand below each other.
    """

    title: str
    anchor: str
    lead: str
    figures: tuple[tuple[Markup, str], ...]
    wide: bool = True


def report(
    model: LatentVariableModel,
    data: Data,
    evaluation: Evaluation | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    *,
    title: str | None = None,
    recipe: str = "",
    settings: Mapping[str, Any] | None = None,
    split: Split | None = None,
    diagnosis: Mapping[str, Any] | None = None,
    figures_of: Mapping[str, Markup] | None = None,
    seed: int = 0,
) -> str:
    """A self-contained page: what was learned from what, how well, and what it looks like.

    No script, nothing loaded from elsewhere; light or dark as the reader's system is.

    Args:
        model: A fitted model; left as it was.
        data: What it was fitted to.
        evaluation: What :func:`deeplvm.evaluation.evaluate` measured; without one the page says
            so.
        metrics: Records of the epochs, as in ``metrics.jsonl``.
        title: Heading; the recipe and the data if left out.
        recipe: Name of the recipe.
        settings: Options of the recipe and of training, by name.
        split: The rows that are shown; test if there are any.
        diagnosis: What :func:`deeplvm.diagnosis.diagnose` found, as in ``diagnosis.json``.
        figures_of: Its figures, by their files.
        seed: Of every draw on the page.
    """
    shown: Split = split or _held_out(data)
    material = Material(model, data, shown, seed)
    plain = None if evaluation is None else evaluation.to_dict()
    variable = data.variables[material.name]
    notes = _Notes()
    sections = [
        *_training(metrics, notes),
        *_likelihood_curve(plain),
        *_annealed(plain),
        *_drawn(material, variable, notes),
        *_reconstructed(material, variable, plain, notes),
        *_traversed(material, variable, plain, notes),
        *_latents(plain),
        *_space(material, data, plain, notes),
        *_diagnosed(diagnosis, figures_of or {}),
    ]
    parameters = sum([parameter.numel() for parameter in model.parameters()])
    heading = title or " · ".join([part for part in (recipe, data.name) if part])
    values = {
        "title": heading,
        "lead": _lead(model, data, recipe, metrics, parameters),
        "cards": _cards(plain, metrics, parameters),
        "verdicts": diagnosis["verdicts"] if diagnosis else [],
        "diagnosed": _diagnosed_in_words(diagnosis),
        "warnings": [*(plain["warnings"] if plain else [_NOT_EVALUATED]), *notes.warnings],
        "likelihood": _likelihood_table(evaluation),
        "about_rows": evaluation.title() if evaluation is not None else "",
        "data": _data_table(data),
        "notes": data.notes,
        "factorisation": f"{model.p} · {model.q}" if model.q.names else str(model.p),
        "factors": Markup(
            html_table(
                ["factor", "conditional", "shape", "parameters"],
                [list(row) for row in model.table()],
            )
        ),
        "parameters": parameters,
        "sections": sections,
        "left_out": notes.left_out,
        "settings": Markup(
            html_table(["option", "value"], [[k, _plain(v)] for k, v in (settings or {}).items()])
        )
        if settings
        else "",
    }
    folder = files("deeplvm.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(folder.joinpath("page.html").read_text("utf-8"))
    style = Markup(folder.joinpath("page.css").read_text("utf-8"))
    return template.render(style=style, **values)


def write_report(run: Run | str | Path) -> Path:
    """Write ``report.html`` into a RUN folder.

    Args:
        run: An open run, or its folder.

    Returns:
        The file written.

    Raises:
        ValueError: If it is not a finished run.
    """
    from deeplvm.evaluation.summary import Evaluation
    from deeplvm.files import write_atomically
    from deeplvm.runs.run import open_run

    opened = open_run(run) if isinstance(run, str | Path) else run
    measured = opened.folder / "evaluation.json"
    evaluation = None
    if measured.exists():
        try:
            evaluation = Evaluation.from_dict(parse_json(measured.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{measured} is damaged ({error}); write it again with: "
                f"deeplvm evaluate {opened.folder}"
            ) from error
    config = opened.config
    diagnosis = _read_diagnosis(opened.folder / "diagnosis.json")
    page = report(
        opened.model,
        opened.data,
        evaluation,
        read_metrics(opened.folder / "metrics.jsonl"),
        recipe=(config.recipe or "").rpartition(":")[2],
        settings={**config.data_options, **config.recipe_options, **config.training},
        diagnosis=diagnosis,
        figures_of=_read_figures(opened.folder, diagnosis),
    )
    path = opened.folder / "report.html"
    write_atomically(path, page.encode())
    return path


_NOT_EVALUATED = (
    "The model was not evaluated, so this page has no likelihood: run deeplvm evaluate, then "
    "deeplvm report."
)


class _Notes:
    """What could not be shown, and why; warnings that the page itself found."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def unless_impossible(self, what: str) -> Iterator[None]:
        """Leave a part out, and say so, where the model does not allow it."""
        try:
            yield
        except (ValueError, KeyError, NotImplementedError) as error:
            self.left_out.append(f"{what}: {error}")


def _held_out(data: Data) -> Split:
    """The split to show: test, where there is one."""
    return "test" if data.rows("test") else "valid" if data.rows("valid") else "train"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of the epochs; a last line cut short is left."""
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            break
        if not isinstance(record, dict) or "epoch" not in record:
            break
        records.append(record)
    return records


def _read_diagnosis(path: Path) -> dict[str, Any] | None:
    """What ``deeplvm diagnose`` left.

    Raises:
        ValueError: If it is damaged.
    """
    if not path.exists():
        return None
    try:
        plain = parse_json(path.read_bytes())
        if not isinstance(plain, dict) or not _is_whole(plain):
            raise ValueError("entries are missing")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); write it again with: deeplvm diagnose {path.parent}"
        ) from error
    run = str(path.parent)
    told = [
        each | {"remedy": str(each["remedy"]).replace("RUN", run)} for each in plain["verdicts"]
    ]
    return plain | {"verdicts": told}


def _is_whole(plain: Mapping[str, Any]) -> bool:
    """Whether a diagnosis has what the page shows of it."""
    lists = {
        "verdicts": ("name", "seen", "remedy"),
        "figures": ("file", "topic", "caption"),
        "looked_for_in_vain": (),
    }
    for name, needed in lists.items():
        if not isinstance(plain.get(name), list):
            return False
        for each in plain[name] if needed else ():
            if not isinstance(each, dict) or not set(needed) <= set(each):
                return False
    return "title" in plain


def _read_figures(folder: Path, diagnosis: Mapping[str, Any] | None) -> dict[str, Markup]:
    """The figures that are there, by their files."""
    files = [each["file"] for each in diagnosis["figures"]] if diagnosis else []
    paths = {name: folder / name for name in files}
    return {name: Markup(p.read_text("utf-8")) for name, p in paths.items() if p.exists()}


def _bound(metrics: Sequence[Mapping[str, Any]]) -> str:
    names = list(metrics[-1].get("valid") or metrics[-1].get("train") or {"elbo": 0})
    return "elbo" if "elbo" in names else names[0]


def _best(metrics: Sequence[Mapping[str, Any]], bound: str) -> int | None:
    held_out = [
        (record["valid"][bound], record["epoch"])
        for record in metrics
        if bound in (record.get("valid") or {}) and record["valid"][bound] is not None
    ]
    return max(held_out)[1] if held_out else None


def _lead(
    model: LatentVariableModel,
    data: Data,
    recipe: str,
    metrics: Sequence[Mapping[str, Any]],
    parameters: int,
) -> str:
    latents = ", ".join([name for name in model.q.names if name in model.p.names])
    what = f"A latent-variable model with latents {latents}" if latents else "A model"
    made = f" made by the recipe {recipe}" if recipe else ""
    trained = ""
    if metrics:
        seconds = sum([record.get("seconds", 0.0) for record in metrics])
        trained = f", trained for {len(metrics)} epochs in {_duration(seconds)}"
    return (
        f"{what}{made}: {parameters:,} parameters learned from {data.rows('train'):,} rows of "
        f"{data.name}{trained}."
    )


def _cards(
    plain: Mapping[str, Any] | None, metrics: Sequence[Mapping[str, Any]], parameters: int
) -> list[tuple[str, str, str]]:
    """Headline numbers: name, value, a line below."""
    cards: list[tuple[str, str, str]] = []
    if plain is not None:
        estimate = plain["log_px"]
        if estimate["value"] is not None:
            how = "exact" if estimate["exact"] else f"{estimate['particles']:,} particles a row"
            cards.append(
                (
                    "log-likelihood",
                    _value(estimate),
                    f"nats a row, {plain['data']['split']} rows, {how}",
                )
            )
        if plain["bits_per_dim"] is not None:
            cards.append(
                (
                    "bits per dimension",
                    f"{plain['bits_per_dim']:.3f}",
                    "lower is better; see the table for the offset",
                )
            )
        if not estimate["exact"] and estimate["value"] is not None and plain["elbo"]["value"]:
            gap = estimate["value"] - plain["elbo"]["value"]
            cards.append(
                ("lost by the bound", f"{gap:.2f}", "nats a row: log p(x) − ELBO, at least")
            )
        active = {k: v for k, v in plain["active_units"].items() if v is not None}
        if active:
            of = sum([plain["latents"][name]["dimensions"] for name in active])
            cards.append(
                (
                    "active dimensions",
                    f"{sum(active.values())} of {of}",
                    "of the latents, all together",
                )
            )
    elif metrics:
        cards.append(("epochs", f"{len(metrics)}", "of training"))
    cards.append(("parameters", f"{parameters:,}", "in p and q"))
    return cards


def _value(estimate: Mapping[str, Any]) -> str:
    from deeplvm.core.results import number

    error = math.nan if estimate["stderr"] is None else estimate["stderr"]
    return _minus(number(estimate["value"], error))


def _minus(text: str) -> str:
    """The sign as it is printed."""
    return text.replace("-", "−")


def _likelihood_table(evaluation: Evaluation | None) -> Markup | str:
    if evaluation is None:
        return ""
    rows = [[name, _minus(value), meaning] for name, value, meaning in evaluation.table()]
    return Markup(html_table(["quantity", "value", "what it means"], rows))


def _data_table(data: Data) -> Markup:
    counted = {split: data.rows(split) for split in _SPLITS}
    counts = ", ".join([f"{rows:,} {_SPLITS[split]}" for split, rows in counted.items() if rows])
    rows = [["data", data.name], ["source", data.source], ["rows", counts], ["split", data.split]]
    for name, variable in data.variables.items():
        rows.append([f"variable {name}", str(variable).removeprefix(f"{name}: ")])
        if variable.columns:
            rows.append(["columns", _listed(variable.columns, 30)])
    if data.classes:
        rows.append(["labels", _listed(data.classes, 20)])
    return Markup(html_table([], rows))


def _diagnosed(diagnosis: Mapping[str, Any] | None, found: Mapping[str, Markup]) -> list[Section]:
    """The figures of a diagnosis, by topic."""
    topics: dict[str, list[tuple[Markup, str]]] = {}
    for figure in diagnosis["figures"] if diagnosis else ():
        if figure["file"] in found:
            pair = (found[figure["file"]], figure["caption"])
            topics.setdefault(figure["topic"], []).append(pair)
    return [
        Section(topic, f"diagnosis-{number}", "", tuple(pairs))
        for number, (topic, pairs) in enumerate(topics.items(), 1)
    ]


def _diagnosed_in_words(diagnosis: Mapping[str, Any] | None) -> str:
    """What was looked for, and how it ended."""
    if diagnosis is None:
        return ""
    found, vain = len(diagnosis["verdicts"]), len(diagnosis["looked_for_in_vain"])
    what = (
        f"{found} of {found + vain} faults that were looked for were found"
        if found
        else (f"{vain} faults were looked for, and none was found")
    )
    return f"{what}, on {diagnosis['title']}."


def _training(metrics: Sequence[Mapping[str, Any]], notes: _Notes) -> list[Section]:
    if not metrics:
        return []
    bound = _bound(metrics)
    best = _best(metrics, bound)
    lead = (
        "Both curves are the same function of the model, measured on training and held-out rows."
    )
    if best is not None:
        lead += f" The weights of epoch {best}, the best held out, were kept."
        record = next(each for each in metrics if each["epoch"] == best)
        gap = (record.get("train") or {}).get(bound, math.nan) - record["valid"][bound]
        if gap > 0.1 * abs(record["valid"][bound]):
            notes.warnings.append(
                f"At its best epoch the model gives training rows {gap:.1f} nats more than "
                f"held-out ones: it has learned some of them by heart. A smaller network, or more "
                f"rows, helps."
            )
        late = [each["valid"][bound] for each in metrics if bound in (each.get("valid") or {})]
        tenth = max(1, len(late) // 10)
        if best == metrics[-1]["epoch"] and len(late) > 10 and late[-1] - late[-1 - tenth] > 0.1:
            notes.warnings.append(
                f"The held-out bound was still rising at the last epoch, by "
                f"{late[-1] - late[-1 - tenth]:.2f} nats over the last {tenth} epochs: train "
                f"longer."
            )
    figure = training.training_curves(metrics, bound, best)
    return [Section("Training", "training", lead, ((figure, f"{bound}, higher is better."),))]


def _likelihood_curve(plain: Mapping[str, Any] | None) -> list[Section]:
    if plain is None or len(plain["log_px"]["curve"]) < 2:
        return []
    curve = plain["log_px"]["curve"]
    if any([point["value"] is None for point in curve]):
        return []
    last, before = curve[-1], curve[-2]
    lead = (
        f"With k draws the estimate of log p(x) is a lower bound in expectation that rises with "
        f"k; with one draw it is the ELBO. From {before['particles']:,} to {last['particles']:,} "
        f"draws it rose by {last['rise']:.3f} nats: where the curve is flat, the bound has become "
        f"the likelihood."
    )
    caption = "All points are from the same draws, in disjoint groups of k; mean over rows."
    return [
        Section(
            "How far to trust the likelihood",
            "particles",
            lead,
            ((likelihood.particle_curve(curve), caption),),
        )
    ]


def _annealed(plain: Mapping[str, Any] | None) -> list[Section]:
    """Importance sampling beside annealing, where that was asked for."""
    if plain is None or not plain.get("annealing"):
        return []
    both = plain["annealing"]
    caption = (
        f"Both are lower bounds in expectation, on the same {both['rows']:,} rows; bands are two "
        f"standard errors of the differences from the last point of annealing."
    )
    return [
        Section(
            "Annealing beside importance sampling",
            "annealing",
            both["verdict"],
            ((likelihood.convergence_figure(both), caption),),
        )
    ]


def _drawn(material: Material, variable: Variable, notes: _Notes) -> list[Section]:
    with notes.unless_impossible("Samples"):
        if variable.is_image and variable.shape[0] in (1, 3):
            across, down = (10, 6) if variable.shape[-1] <= 40 else (6, 4)
            drawn = material.samples(across * down, mean=True)
            real = material.first(across * down)[material.name].cpu()
            pictures = (
                (
                    images.image_grid(
                        drawn.numpy(),
                        "Samples of the model",
                        columns=across,
                        variable=variable,
                        width=480,
                    ),
                    "Drawn from the model: the mean of p(x | z) at draws of z from p(z).",
                ),
                (
                    images.image_grid(
                        real.numpy(),
                        "Rows of the data",
                        columns=across,
                        variable=variable,
                        width=480,
                    ),
                    f"Data, {_SPLITS[material.split]} rows, to compare.",
                ),
            )
            lead = "What the model takes the data to be, beside the data."
            return [Section("Samples", "samples", lead, pictures, wide=False)]
        return _drawn_columns(material, variable)
    return []


def _drawn_columns(material: Material, variable: Variable) -> list[Section]:
    drawn = _flat(material.samples(2_000))
    data = _flat(material.data_rows(2_000))
    names = _column_names(variable)
    discrete = _discrete(variable)
    order = _chosen_columns(variable)
    triples = []
    for i in order:
        real = data[:, i][np.isfinite(data[:, i])]
        if len(real):
            triples.append((names[i], real, drawn[:, i], discrete[i]))
    shown = [
        (
            samples.marginals(triples),
            "Grey: training rows. Blue: draws of x from the model, with their noise."
            + (
                ""
                if len(names) <= len(order)
                else f" {len(order)} of {len(names)} columns are shown."
            ),
        )
    ]
    if 1 < len(names) <= _MOST_CORRELATED and not all(discrete):
        pair = samples.correlations(data, drawn, names)
        shown.append((pair, "Correlations between columns: the two pictures should be alike."))
    lead = (
        "Draws from the model beside the data: first each column alone, then how they go together."
    )
    return [Section("Samples", "samples", lead, tuple(shown))]


def _reconstructed(
    material: Material, variable: Variable, plain: Mapping[str, Any] | None, notes: _Notes
) -> list[Section]:
    if not [name for name in material.model.q.names if name in material.model.p.names]:
        return []
    with notes.unless_impossible("Reconstructions"):
        lead = (
            "Each row goes through q(z | x) to its latents and back: what the latents keep of it."
        )
        if plain is not None and plain["reconstruction"]["value"] is not None:
            lead += (
                f" On average the rows are worth {_value(plain['reconstruction'])} nats given "
                f"their latents."
            )
        if variable.is_image and variable.shape[0] in (1, 3):
            across = 12 if variable.shape[-1] <= 40 else 6
            lines = 3
            original, mean = material.reconstructions(across * lines)
            # a line of originals, the line of their reconstructions below it
            count = len(original) // across * across or len(original)
            across = min(across, count)
            pairs = np.stack([_lines(original[:count], across), _lines(mean[:count], across)], 1)
            pairs = pairs.reshape(-1, *variable.shape)
            picture = images.image_grid(
                pairs,
                "Originals above, reconstructions below",
                columns=across,
                variable=variable,
                group=2,
                width=720,
            )
            caption = "Pairs of lines: originals above, the means of p(x | z) below."
            return [Section("Reconstructions", "reconstructions", lead, ((picture, caption),))]
        original, mean = material.reconstructions(1_000)
        flat, back = _flat(original), _flat(mean)
        names = _column_names(variable)
        triples = []
        for i in _chosen_columns(variable):
            known = np.isfinite(flat[:, i])
            if known.any():
                triples.append((names[i], flat[known, i], back[known, i]))
        caption = "A point a row; on the line the reconstruction is the original."
        return [
            Section(
                "Reconstructions",
                "reconstructions",
                lead,
                ((samples.recovered(triples), caption),),
            )
        ]
    return []


def _traversed(
    material: Material, variable: Variable, plain: Mapping[str, Any] | None, notes: _Notes
) -> list[Section]:
    if plain is None or not plain["latents"]:
        return []
    with notes.unless_impossible("Traversals"):
        found = material.traversals(plain["latents"])
        if not found:
            return []
        lead = (
            "One latent dimension at a time moves over the range that the data use (2.5 standard "
            "deviations to each side), the others stay at the posterior mean of one row. The most "
            "used dimensions come first."
        )
        if variable.is_image and variable.shape[0] in (1, 3):
            shown = tuple([_strip(each, variable) for each in found])
            return [Section("Traversals", "traversals", lead, shown)]
        scale = np.asarray(variable.std.double().flatten())
        scale = np.where(scale > 0, scale, 1.0)
        names = _column_names(variable)
        chosen = _chosen_columns(variable, 24)
        changes = []
        for each in found:
            values = _flat(each.values)
            change = ((values - values[STEPS // 2]) / scale)[:, chosen]
            changes.append((f"{each.name}[{each.dimension}]", change))
        steps = [f"−{2.5:g} sd", *[""] * (STEPS - 2), f"+{2.5:g} sd"]
        picture = latents.column_traversals(changes, [names[i] for i in chosen], steps)
        caption = (
            "How far the mean of each column moves from the middle, in its standard deviations."
        )
        return [Section("Traversals", "traversals", lead, ((picture, caption),))]
    return []


def _strip(each: Traversal, variable: Variable) -> tuple[Markup, str]:
    positions = each.positions
    picture = images.image_grid(
        each.values.numpy(),
        f"Traversal of {each.name}[{each.dimension}]",
        columns=STEPS,
        variable=variable,
        width=720,
    )
    low, high = float(positions[0]), float(positions[-1])
    return picture, _minus(f"{each.name}[{each.dimension}] from {low:.2f} to {high:.2f}")


def _latents(plain: Mapping[str, Any] | None) -> list[Section]:
    if plain is None or not plain["latents"]:
        return []
    shown = []
    for name, use in plain["latents"].items():
        variance = use["variance_of_posterior_mean"]
        if variance is None or len(variance) < 2:
            continue
        active = [value > 1e-2 for value in variance]
        divergence = use["kl_by_dimension"]
        by_divergence = divergence is not None and len(divergence) == len(variance)
        heights = divergence if by_divergence else variance
        what = "KL, nats" if by_divergence else "variance of means"
        caption = f"{name}: {sum(active)} of {len(active)} dimensions active"
        caption += f", KL {use['kl']:.2f} nats in all."
        if not by_divergence:
            caption += " Its distributions do not factorise, so there is no KL of each dimension."
        shown.append((latents.dimension_bars(name, heights, active, what), caption))
    if not shown:
        return []
    lead = (
        "What each latent dimension costs in nats is what it says about a row. A dimension is "
        "active if its posterior mean varies over the data by more than 0.01 (Burda et al., "
        "2016); the others, grey, stay at the prior."
    )
    return [Section("Use of the latents", "latents", lead, tuple(shown), wide=False)]


def _space(
    material: Material, data: Data, plain: Mapping[str, Any] | None, notes: _Notes
) -> list[Section]:
    if plain is None or not plain["latents"]:
        return []
    with notes.unless_impossible("The latent space"):
        space = material.latent_space(plain["latents"])
        if space is None:
            return []
        labels = None if space.labels is None else space.labels.numpy()
        points = space.points.numpy()
        coloured = labels is not None and data.classes and len(data.classes) <= len(CLASSES)
        lead = f"Posterior means of {space.name}, a point for each of {len(points):,} "
        lead += f"{_SPLITS[space.split]} rows" + (", coloured by label." if coloured else ".")
        if coloured:
            lead += (
                " The model was not shown the labels." if "y" not in material.rows.names else ""
            )
        if points.shape[1] == 1:
            figure = latents.latent_histogram(points[:, 0], labels, data.classes, space.name)
            return [Section("The latent space", "space", lead, ((figure, ""),))]
        if space.shares:
            first, second = space.shares
            names = (
                f"first principal axis ({100 * first:.0f} %)",
                f"second principal axis ({100 * second:.0f} %)",
            )
            lead += (
                f" {space.name} has {space.dimensions} dimensions; shown are the two principal "
                f"axes of the means, with {100 * (first + second):.0f} % of their variance, so "
                f"what looks mixed here may be apart in the others."
            )
        else:
            names = (f"{space.name}[0]", f"{space.name}[1]")
        figure = latents.latent_map(points, labels, data.classes, names)
        return [Section("The latent space", "space", lead, ((figure, ""),))]
    return []


def _lines(images: Tensor, across: int) -> np.ndarray[Any, Any]:
    """Images in lines, shape ``(lines, across, channels, height, width)``."""
    values = images.numpy()
    return values.reshape(-1, across, *values.shape[1:])


def _flat(values: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(values.double().flatten(1) if values.dim() > 1 else values.double()[:, None])


def _column_names(variable: Variable) -> list[str]:
    if variable.columns and len(variable.columns) == variable.elements:
        return list(variable.columns)
    return [f"{variable.name}[{i}]" for i in range(variable.elements)]


def _discrete(variable: Variable) -> list[bool]:
    return [part.is_whole for part in variable.parts] or [variable.is_whole] * variable.elements


def _chosen_columns(variable: Variable, most: int = _MOST_COLUMNS) -> list[int]:
    """All columns, or where they are many those that vary most (for counts the most frequent)."""
    if variable.elements <= most:
        return list(range(variable.elements))
    weight = variable.mean if variable.kind == "counts" else variable.std
    order = np.argsort(-np.asarray(weight.double().flatten()), kind="stable")[:most]
    return sorted(order.tolist())


def _listed(names: Sequence[str], most: int) -> str:
    shown = ", ".join([str(name) for name in names[:most]])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join([str(each) for each in value]) or "none"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
