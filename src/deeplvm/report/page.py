"""The report: one HTML page about a model and its data, which needs nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from deeplvm.core.joint import owner_of
from deeplvm.data.variable import listed
from deeplvm.evaluation.graphs import GraphEvaluation
from deeplvm.evaluation.latents.latent_use import carrying
from deeplvm.report.figures.comparison import comparison_figure
from deeplvm.report.figures.study import importance_figure, options_figure, study_history
from deeplvm.report.sections import SPLITS, Subject, curve_warnings, minus, sections
from deeplvm.results import digest_of, html_table, shown_plain

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Split
    from deeplvm.evaluation.comparison import Comparison
    from deeplvm.evaluation.summary import Evaluation
    from deeplvm.runs.run import Run
    from deeplvm.runs.study import Study


def report(
    model: LatentVariableModel,
    data: Data,
    evaluation: Evaluation | GraphEvaluation | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    *,
    title: str | None = None,
    recipe: str = "",
    settings: Mapping[str, Any] | None = None,
    split: Split | None = None,
    diagnosis: Mapping[str, Any] | None = None,
    figures_of: Mapping[str, Markup] | None = None,
    explorer: str | None = None,
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
        explorer: Where the page is on which the decoder answers, if there is one.
        seed: Of every draw on the page.
    """
    there: list[Split] = [each for each in ("test", "valid", "train") if data.rows(each)]
    rows = split or there[0]
    ranked = evaluation if isinstance(evaluation, GraphEvaluation) else None
    measured = None if isinstance(evaluation, GraphEvaluation) else evaluation
    subject = Subject(model, data, measured, metrics, diagnosis, figures_of or {}, rows, seed)
    parts, left_out = sections(subject)
    page = environment().get_template("page.html")
    return page.render(
        subject=subject,
        ranked=ranked,
        sections=parts,
        left_out=left_out,
        title=title or " · ".join([part for part in (recipe, data.name) if part]),
        recipe=recipe,
        latents=[name for name in model.q.names if _is_latent(model, name)],
        factorisation=f"{model.p} · {model.q}" if model.q.names else str(model.p),
        parameters=sum([parameter.numel() for parameter in model.parameters()]),
        curve_warnings=list(curve_warnings(subject)) if metrics else [],
        stale=list(_of_another_model(model, evaluation, diagnosis)),
        settings=settings or {},
        explorer=explorer,
        splits=SPLITS,
    )


def comparison_page(found: Comparison) -> str:
    """A self-contained page: models on the same rows, a figure, and what differs."""
    header, differing = found.differing()
    page = environment().get_template("comparison.html")
    figure = comparison_figure(found)
    return page.render(found=found, figure=figure, header=header, differing=differing)


def _is_latent(model: LatentVariableModel, name: str) -> bool:
    """Whether p has a density of what q draws, and does not only compute it."""
    owner = owner_of(model.p, name)
    computed = hasattr(owner, "out_shape") or not hasattr(owner, "event_shape")
    return name in model.p.names and not (name in model.common and computed)


def study_page(study: Study, compared: Comparison | None = None) -> str:
    """A self-contained page: the trials of a study, and its best run beside the defaults."""
    figures = {
        "history": study_history(study),
        "importance": importance_figure(study),
        "options": options_figure(study),
        "comparison": None if compared is None else comparison_figure(compared),
    }
    page = environment().get_template("study.html")
    return page.render(study=study, compared=compared, figures=figures)


def _of_another_model(
    model: LatentVariableModel,
    evaluation: Evaluation | GraphEvaluation | None,
    diagnosis: Mapping[str, Any] | None,
) -> Iterator[str]:
    """What is on the page and was measured of other weights than those that are shown."""
    digest = digest_of(model)
    measured = {
        "evaluate": {} if evaluation is None else evaluation.settings,
        "diagnose": diagnosis or {},
    }
    for verb, found in measured.items():
        if found.get("model", digest) != digest:
            what = "likelihoods and latents" if verb == "evaluate" else "faults"
            yield (
                f"The {what} on this page belong to an earlier model, not to the one that is "
                f"shown: measure it again with: deeplvm {verb}"
            )


@functools.cache
def environment() -> Environment:
    """Templates that escape everything, and the forms in which a page shows a value."""
    templates = PackageLoader("deeplvm.report", "")
    found = Environment(
        loader=templates,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "table": lambda rows, header=(): Markup(html_table(header, [list(row) for row in rows])),
        "estimate": shown_plain,
        "minus": minus,
        "carrying": carrying,
        "duration": _duration,
        "listed": listed,
        "plain": _plain,
        "style": lambda name: Markup(templates.get_source(found, str(name))[0]),
    }
    return found


def write_report(run: Run | str | Path) -> Path:
    """Write ``report.html`` into a RUN folder.

    Args:
        run: An open run, or its folder.

    Returns:
        The file written.

    Raises:
        ValueError: If it is not a finished run.
    """
    from deeplvm.files import write_atomically
    from deeplvm.runs.run import open_run
    from deeplvm.runs.sidecars import read_diagnosis, read_evaluation, read_figures, read_metrics

    opened = open_run(run) if isinstance(run, str | Path) else run
    config, folder = opened.config, opened.folder
    evaluation, diagnosis = read_evaluation(folder), read_diagnosis(folder)
    metrics, model, data = read_metrics(folder / "metrics.jsonl"), opened.model, opened.data
    drawings = read_figures(folder, diagnosis)
    try:
        page = report(
            model,
            data,
            evaluation,
            metrics,
            recipe=(config.recipe or "").rpartition(":")[2],
            settings={**config.data_options, **config.recipe_options, **config.training},
            diagnosis=diagnosis,
            figures_of={name: Markup(text) for name, text in drawings.items()},
            explorer="explore.html" if (folder / "explore.html").exists() else None,
        )
    except (KeyError, TypeError, AttributeError, IndexError, UndefinedError) as error:
        if evaluation is None and diagnosis is None and not metrics:
            raise
        raise ValueError(
            f"A report cannot be made of what is in {folder}: evaluation.json, metrics.jsonl or "
            f"diagnosis.json is not what deeplvm writes ({type(error).__name__}: {error}). Write "
            f"them again with: deeplvm evaluate {folder}, deeplvm diagnose {folder}"
        ) from error
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join([str(each) for each in value]) or "none"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
