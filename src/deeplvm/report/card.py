"""The model card: what a run is, for whoever finds it, from what was measured and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplvm.evaluation.graphs import GraphEvaluation
from deeplvm.files import shown, write_atomically
from deeplvm.recipes import describe, published
from deeplvm.results import digest_of
from deeplvm.runs.run import Run, open_run
from deeplvm.runs.sidecars import read_diagnosis, read_evaluation, read_metrics

if TYPE_CHECKING:
    from deeplvm.evaluation.summary import Evaluation

NAME = "README.md"


def card(run: Run) -> str:
    """A model card, Markdown with the front matter that model hubs read.

    Its numbers are those of ``evaluation.json``, ``metrics.jsonl`` and ``diagnosis.json``; what
    was not measured, or of other weights, is said to be so. No path of the machine stands in it.

    Args:
        run: A finished run.

    Raises:
        ValueError: If it is not finished, or a file of it is damaged.
    """
    model, description, config = run.model, run.description, run.config
    digest = digest_of(model)
    evaluation, diagnosis = read_evaluation(run.folder), read_diagnosis(run.folder)
    records = read_metrics(run.folder / "metrics.jsonl")
    measured = evaluation
    if evaluation is not None and evaluation.settings.get("model", digest) != digest:
        measured = None
    recipe = (config.recipe or "").rpartition(":")[2]
    settings = replace(config, data=None, recipe=recipe, made_with={})
    title = f"{recipe} of {description.name}"
    lines = [
        *_front_matter(run, recipe, measured), "",
        f"# {title}", "",
        f"A deep latent-variable model, `{_factorisation(model)}`.", *_paper(recipe), "",
        "## Data", "", *_block(_told(run)),
        "## Likelihood", "", *_likelihood(evaluation, measured),
        "## Settings", "", *_block(settings.to_toml()),
        "## Cost", "", *_cost(run, records), "",
        "## What a diagnosis found", "", *_diagnosed(diagnosis, digest), "",
        "## Limits", "", *[f"- {each}" for each in _limits(run, measured)], "",
        "## Use", "", *_block(
            "from deeplvm.runs.run import open_run\n\n"
            "model = open_run(\"FOLDER\").model  # weights are safetensors: opening runs no code"
        ),
    ]  # fmt: skip
    return shown("\n".join(lines).rstrip() + "\n")


def write_card(run: Run | str | Path) -> Path:
    """Write ``README.md``, the model card, into a RUN folder.

    Raises:
        ValueError: As :func:`card`; or if there is a ``README.md`` that is no card of deeplvm's,
            which stays.
    """
    opened = open_run(run) if isinstance(run, str | Path) else run
    path = opened.folder / NAME
    if path.exists() and not is_card(path):
        raise ValueError(
            f"{path} is not a card that deeplvm wrote, and stays as it is; move it, then: "
            f"deeplvm card {opened.folder}"
        )
    write_atomically(path, card(opened).encode())
    return path


def is_card(path: Path) -> bool:
    """Whether a file begins as a card of ours."""
    with path.open("rb") as file:
        return file.read(len(_FIRST)) == _FIRST.encode()


_FIRST = "---\nlibrary_name: deeplvm\n"


def _front_matter(
    run: Run, recipe: str, evaluation: Evaluation | GraphEvaluation | None
) -> Iterator[str]:
    """YAML, whose values are written as JSON, which YAML is a superset of."""
    yield _FIRST.rstrip("\n")
    yield f"tags: {json.dumps(['deep-latent-variable-model', recipe])}"
    found = [] if evaluation is None else list(_metrics(evaluation))
    if found and evaluation is not None:
        about = evaluation.data
        data = {"type": about["name"], "name": about["name"], "split": about["split"]}
        if (revision := about.get("fingerprint")) is not None:
            data["revision"] = revision
        task = {"type": "density-estimation"}
        results = [{"task": task, "dataset": data, "metrics": found}]
        index = [{"name": run.folder.resolve().name, "results": results}]
        yield f"model-index: {json.dumps(index, ensure_ascii=False)}"
    yield "---"


def _metrics(evaluation: Evaluation | GraphEvaluation) -> Iterator[dict[str, Any]]:
    plain = evaluation.to_dict()
    units = evaluation.data.get("units", "")
    for name in ("log_px", "elbo", "bits_per_dim", "auc", "average_precision"):
        value, stderr = plain.get(name), None
        if isinstance(value, Mapping):
            value, stderr = value.get("value"), value.get("stderr")
        stderr = plain.get(f"{name}_stderr", stderr)
        if isinstance(value, int | float):
            unit = units if name in ("log_px", "elbo") else ""
            error = "" if stderr is None else f"± {stderr:.3g}"
            words = " ".join([part for part in (name, unit, error) if part])
            yield {"type": name, "value": value, "name": words}


def _paper(recipe: str) -> Iterator[str]:
    if (known := published().get(recipe)) is not None:
        about = describe(recipe, known)
        yield ""
        yield f"{about.summary} {about.title} ({about.authors}, {about.year}), {about.link}"


def _factorisation(model: Any) -> str:
    return getattr(model, "factorisation", str(model.p))


def _told(run: Run) -> str:
    """What the data are, without where they lie."""
    lines = str(run.description).splitlines()
    return "\n".join([line for line in lines if not line.startswith("source: ")])


def _likelihood(
    evaluation: Evaluation | GraphEvaluation | None,
    measured: Evaluation | GraphEvaluation | None,
) -> list[str]:
    if measured is not None:
        return _block(str(measured))
    if evaluation is not None:
        return ["What was measured belongs to an earlier model; `deeplvm evaluate` measures.", ""]
    return ["Not measured; `deeplvm evaluate` does.", ""]


def _cost(run: Run, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    parameters = sum([each.numel() for each in run.model.parameters()])
    yield f"- {parameters:,} parameters, {run.weights.stat().st_size:,} bytes"
    seconds = [each["seconds"] for each in records if each.get("seconds") is not None]
    if records:
        yield f"- {len(records):,} epochs, {sum(seconds):,.0f} s of training"
    memory = [each["peak_memory"] for each in records if each.get("peak_memory")]
    if memory:
        yield f"- {max(memory) / 2**20:,.0f} MiB of memory at most"
    versions = [f"{n} {v}" for n, v in run.config.made_with.items() if n != "fingerprint"]
    yield f"- made with {', '.join(versions)}"


def _diagnosed(diagnosis: Mapping[str, Any] | None, digest: str) -> Iterator[str]:
    if diagnosis is None:
        yield "Not looked for; `deeplvm diagnose` does."
        return
    if diagnosis.get("model", digest) != digest:
        yield "Of an earlier model; `deeplvm diagnose` looks again."
        return
    for each in diagnosis["verdicts"]:
        yield f"- **{each['name']}**: {_line(each['seen'])}"
    if not diagnosis["verdicts"]:
        yield "No fault."
    if vain := diagnosis["looked_for_in_vain"]:
        yield ""
        yield f"Looked for in vain: {', '.join(vain)}."


def _line(text: str) -> str:
    return " ".join(text.split())


def _limits(run: Run, measured: Evaluation | GraphEvaluation | None) -> Iterator[str]:
    """What follows from how it was made."""
    description, config = run.description, run.config
    options = description.options
    rows = description.rows
    yield (
        f"It was fitted to {rows.get('train', 0):,} rows and says what is usual among rows like "
        f"these; of others it says nothing."
    )
    if options.get("limit") is not None:
        yield "Only part of the data was used (--limit): a trial, not a result."
    if measured is None:
        yield "Its likelihood is not known."
    elif measured.data.get("split") == "train":
        yield "Its likelihood was measured on the rows that it was fitted to."
    densities = [n for n, v in description.columns.items() if v.kind in ("real", "date")]
    densities += [n for n, v in description.variables.items() if v.kind in ("real", "unit")]
    if densities:
        yield (
            "Its likelihood is, of reals, a density in their own units: it compares models of the "
            "same values only."
        )
    if ":" in (config.recipe or ""):
        yield "Its recipe is somebody's own code, which is not in this folder."
    if description.left:
        yield f"Left out of the data: {', '.join(description.left)}."


def _block(text: str) -> list[str]:
    """A text as it is, in a fence that none of its lines ends."""
    fence = "```"
    while any([line.startswith(fence) for line in text.splitlines()]):
        fence += "`"
    return [fence, text.rstrip(), fence, ""]
