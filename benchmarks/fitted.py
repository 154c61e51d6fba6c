"""Tables of runs that take minutes: each is trained in its folder, goes on there, and is kept."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from deeplvm import LatentVariableModel
from deeplvm.data import Data
from deeplvm.recipes import training_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep


class Run(Protocol):
    """What every run says of itself.

    Attributes:
        what: In words.
        data: The name of its data.
        minutes: Of training.
        target: log p(x) that is asked for.
    """

    what: str
    data: str
    minutes: float
    target: float | None


def trained(
    recipe: Callable[..., LatentVariableModel],
    data: Data,
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    minutes: float,
    seed: int,
    folder: Path,
) -> tuple[LatentVariableModel, dict[str, Any]]:
    """A model after some minutes, from where its folder has it, and what is said of the training.

    Args:
        recipe: Makes the model of the data and the options ``model``.
        data: What it is trained on.
        model: Options of the recipe.
        training: Options of ``fit``, over the recipe's own.
        minutes: Of training in all.
        seed: Of the start and the training.
        folder: Where the training is kept.
    """
    torch.manual_seed(seed)
    made = recipe(data, **model)
    options = {"epochs": 10_000, **training_of(recipe), **training}
    began = time.perf_counter()
    history = unfolded(fit)(
        made, data, seed=seed, minutes=minutes, folder=folder, resume=True, **options
    )
    return made, {
        "model": str(made),
        "settings": {
            "recipe": getattr(recipe, "__name__", "own"), **model, "minutes": minutes,
            "seed": seed, **{option: str(value) for option, value in options.items()},
        },
        "parameters": sum([each.numel() for each in made.parameters()]),
        "seconds": {"training": time.perf_counter() - began},
        "epochs": len(history.epochs),
        "rows per second": history.epochs[-1].get("rows_per_second"),
        "curve": curve(history.epochs),
    }  # fmt: skip


def curve(epochs: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Some forty points of a training, the last among them: bounds, and seconds since it began."""
    passed = itertools.accumulate([record["seconds"] for record in epochs])
    points = [
        {"epoch": r["epoch"], "seconds": seconds}
        | {split: r[split]["elbo"] for split in ("train", "valid")}
        for r, seconds in zip(epochs, passed, strict=True)
    ]
    return points[-1 :: -max(1, len(points) // 40)][::-1]


def folder_of(name: str, run: Run, options: argparse.Namespace) -> tuple[Path, float]:
    """The folder of a run and the minutes of its training: a trial has its own."""
    trial = options.minutes is not None or options.limit is not None
    minutes = options.minutes or run.minutes
    folder = options.folder / f"{name}-{options.seed}" / (f"{minutes:g}" if trial else "whole")
    folder.mkdir(parents=True, exist_ok=True)
    return folder, minutes


def table(
    doc: str,
    name: str,
    groups: Mapping[str, Mapping[str, Run]],
    measured: Callable[[str, argparse.Namespace], dict[str, Any]],
    published: Mapping[str, Any],
    others: Mapping[str, Callable[[dict[str, Any]], None]] | None = None,
) -> None:
    """The command line of a table of runs, whose results are kept together by their names.

    Args:
        doc: The docstring of the benchmark.
        name: Of the file of results and of the folder of the runs.
        groups: Runs by the name of their group.
        measured: Trains and measures one, by its name; what was done is found in its folder.
        published: What others reached, kept beside.
        others: Words that stand for something else, which is done with the results.
    """
    runs = {n: run for group in groups.values() for n, run in group.items()}
    others = others or {}
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(
        "runs", nargs="*", help=f"names of runs or groups{', '.join(['', *others])}"
    )
    parser.add_argument("--list", action="store_true", help="show the runs")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--rows", type=int, help="test rows")
    parser.add_argument("--limit", type=int, help="rows of each split: a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs") / name)
    options = parser.parse_args()
    if options.list or not options.runs:
        listed(groups)
        return
    trial = options.minutes is not None or options.limit is not None
    results = options.folder if trial else RESULTS
    path = results / f"{name}.json"
    for word in options.runs:
        if word not in (*runs, *groups, *others):
            parser.error(f"there is no run {word!r}; --list shows them")
    for each in [n for word in options.runs for n in groups.get(word, (word,))]:
        kept = json.loads(path.read_text())["runs"] if path.exists() else {}
        if each in others:
            others[each](kept)
            continue
        folder, _ = folder_of(each, runs[each], options)
        found = folder / "result.json"
        if found.exists():
            result = json.loads(found.read_text())
        else:
            result = measured(each, options)
            found.write_text(json.dumps(result))
        shown = {k: v for k, v in result.items() if k != "curve"}
        print(each, json.dumps(shown, indent=1), flush=True)
        key = each if options.seed == 0 else f"{each}, seed {options.seed}"
        keep(name, {"published": published, "runs": kept | {key: result}}, results)


def listed(groups: Mapping[str, Mapping[str, Run]]) -> None:
    """All runs."""
    for group, runs in groups.items():
        print(f"{group}:")
        for name, run in runs.items():
            target = "" if run.target is None else f", asked {run.target}"
            print(f"  {name:30} {run.data:8} {run.minutes:3g} min{target:15}  {run.what}")
