"""The report: one HTML page about a model and its data, which needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deeplvm.core.results import html_table, number
from deeplvm.files import parse_json
from deeplvm.report.sections import SPLITS, Subject, carrying, curve_warnings, minus, sections

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Split
    from deeplvm.evaluation.summary import Evaluation
    from deeplvm.runs.run import Run


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
    there: list[Split] = [each for each in ("test", "valid", "train") if data.rows(each)]
    rows = split or there[0]
    subject = Subject(model, data, evaluation, metrics, diagnosis, figures_of or {}, rows, seed)
    parts, left_out = sections(subject)
    page = _environment().get_template("page.html")
    return page.render(
        subject=subject,
        sections=parts,
        left_out=left_out,
        title=title or " · ".join([part for part in (recipe, data.name) if part]),
        recipe=recipe,
        latents=[name for name in model.q.names if name in model.p.names],
        factorisation=f"{model.p} · {model.q}" if model.q.names else str(model.p),
        parameters=sum([parameter.numel() for parameter in model.parameters()]),
        curve_warnings=list(curve_warnings(subject)) if metrics else [],
        settings=settings or {},
        splits=SPLITS,
    )


def _environment() -> Environment:
    """Templates that escape everything, and the forms in which a page shows a value."""
    templates = PackageLoader("deeplvm.report", "")
    environment = Environment(
        loader=templates,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "table": lambda rows, header=(): Markup(html_table(header, [list(row) for row in rows])),
        "estimate": _estimate,
        "minus": minus,
        "carrying": carrying,
        "duration": _duration,
        "listed": _listed,
        "plain": _plain,
        "style": lambda name: Markup(templates.get_source(environment, name)[0]),
    }
    return environment


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


def _estimate(estimate: Mapping[str, Any]) -> str:
    """A value with its error."""
    error = math.nan if estimate["stderr"] is None else estimate["stderr"]
    return minus(number(estimate["value"], error))


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
