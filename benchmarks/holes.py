"""How long do a model of a large table with holes, its scores and its filled cells take?

Columns of every kind, cells missing completely at random, and the commands that a user gives:
`fit`, `score`, `impute`, `evaluate` and `report`, each a process of its own whose wall clock,
processor seconds and peak of memory are kept by the number of rows. Beside them what filling is
worth: the share of the spread of numbers that is explained, and of codes that are right. In a
folder that stays, a verb that is done is not done again.

    python benchmarks/holes.py [--rows 1000000] [--columns 50] [--missing 0.2] [--minutes 6]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from machine import RESULTS, keep

CHUNK = 10_000  # rows that one seed makes: a table of more rows begins with the same ones
COMMAND = "from deeplvm.cli.app import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--missing", type=float, default=0.2)
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, at most")
    parser.add_argument("--recipe", default="mixture_model")
    parser.add_argument("--ending", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--folder", type=Path, help="where files go, and stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        result = measured(given, folder)
    path = RESULTS / "holes.json"
    before = json.loads(path.read_text())["tables"] if path.exists() else {}
    title = f"{given.rows:,} x {given.columns}, {given.recipe}, .{given.ending}"
    keep("holes", {"what": "tables with holes", "tables": {**before, title: result}})


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each verb once."""
    table, truth = (folder / f"{what}.{given.ending}" for what in ("table", "truth"))
    done = folder / "done.json"
    if not truth.exists():
        written(table, truth, given.rows, given.columns, given.missing)
    run, ending = folder / "run", given.ending
    commands = {
        "fit": [table, "--recipe", given.recipe, "--minutes", given.minutes, "--out", run],
        "score": [run, table, "-o", folder / f"scores.{ending}"],
        "impute": [run, table, "-o", folder / f"filled.{ending}"],
        "evaluate": [run],
        "report": [run],
    }
    found: dict[str, Any] = {"missing": given.missing, "minutes": given.minutes}
    found["bytes"] = table.stat().st_size
    found |= json.loads(done.read_text()) if done.exists() else {}
    for verb, words in commands.items():
        if verb in found:
            continue
        found[verb] = timed(verb, *map(str, words))
        done.write_text(json.dumps(found))
        print(f"  {verb}: {json.dumps(found[verb])}", flush=True)
    scores = opened(folder / f"scores.{ending}", ["log_px", "percentile"])
    found["mean log p(x)"] = float(scores["log_px"].mean())
    found["rows without a percentile"] = int(scores["percentile"].isna().sum())
    found |= quality(table, truth, folder / f"filled.{ending}")
    return found


def timed(verb: str, *words: str) -> dict[str, float]:
    """What a command takes, in a process of its own.

    Raises:
        SystemExit: If the command fails.
    """
    began = time.perf_counter()
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-c", COMMAND, verb, *words], os.environ
    )
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"deeplvm {verb} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - began,
        "processor seconds": used.ru_utime + used.ru_stime,
        "peak, bytes": 1024 * used.ru_maxrss,
    }


def written(table: Path, truth: Path, rows: int, columns: int, missing: float) -> None:
    """A table with holes and the same without, by chunks."""
    writers: list[Any] = []
    for frame, holes in frames(rows, columns, missing):
        for place, (path, each) in enumerate([(table, frame.mask(holes)), (truth, frame)]):
            if path.suffix == ".csv":
                each.to_csv(path, mode="a" if len(writers) > place else "w",
                            header=len(writers) <= place, index=False)  # fmt: skip
                writers += [None] * (len(writers) <= place)
                continue
            part = pa.Table.from_pandas(each, preserve_index=False)
            if len(writers) <= place:
                writers.append(pq.ParquetWriter(path, part.schema))
            writers[place].write_table(part.cast(writers[place].schema))
    for writer in writers:
        if writer is not None:
            writer.close()


def frames(rows: int, columns: int, missing: float) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Rows of one of eight kinds, with two numbers of their own that the columns follow."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(8, columns))
    loadings = 0.7 * rng.normal(size=(2, columns))
    for start in range(0, rows, CHUNK):
        rng = np.random.default_rng((1, start))
        count = min(CHUNK, rows - start)
        hidden = kinds[rng.integers(8, size=CHUNK)] + rng.normal(size=(CHUNK, 2)) @ loadings
        noise, uniform = rng.normal(size=hidden.shape), rng.random(hidden.shape)
        made = {}
        for place in range(columns):
            h, e, u = hidden[:, place], noise[:, place], uniform[:, place]
            made |= column(place, h, e, u)
        holes = rng.random(hidden.shape) < missing
        yield pd.DataFrame(made)[:count], holes[:count]


def column(place: int, h: np.ndarray, e: np.ndarray, u: np.ndarray) -> dict[str, np.ndarray]:
    """One of ten sorts by its place."""
    match place % 10:
        case 0 | 1 | 2:
            return {f"real_{place}": (h + 0.5 * e).round(4)}
        case 3:
            return {f"income_{place}": np.exp(8 + h + 0.5 * e).round(2)}
        case 4:
            return {f"rain_{place}": np.where(u < 0.4, 0.0, np.exp(h + 0.3 * e)).round(3)}
        case 5:
            return {f"visits_{place}": np.random.default_rng(place).poisson(np.exp(1 + 0.5 * h))}
        case 6:
            return {f"flag_{place}": (u < 1 / (1 + np.exp(-2 * h))).astype(int)}
        case 7:
            return {f"grade_{place}": np.clip(np.round(3 + h + 0.5 * e), 1, 5).astype(int)}
        case 8:
            names = np.array(["red", "green", "blue", "grey"])
            return {
                f"colour_{place}": names[
                    np.clip(np.floor(2 + 1.2 * h + 0.3 * e), 0, 3).astype(int)
                ]
            }
        case _:
            code = np.clip(np.floor(10 + 5 * h + e), 0, 19).astype(int)
            return {f"town_{place}": np.array([f"town {i:02}" for i in range(20)])[code]}


def opened(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path, columns=columns)
    return pd.read_csv(path, usecols=columns)


def quality(table: Path, truth: Path, filled: Path) -> dict[str, float]:
    """What of the spread of missing numbers is explained, and how many codes are right."""
    explained, right = [], []
    for name in opened(truth).columns if truth.suffix == ".csv" else pq.read_schema(truth).names:
        given, true, made = (opened(path, [name])[name] for path in (table, truth, filled))
        holes = given.isna()
        if holes.any() and made[holes].isna().any():
            raise SystemExit(f"{name} has cells that are not filled in")
        if true.dtype.kind in "iuf":
            off = (made[holes].astype(float) - true[holes]) ** 2
            explained.append(1 - off.sum() / ((true[holes] - given.mean()) ** 2).sum())
        else:
            right.append((made[holes] == true[holes]).mean())
    return {
        "explained": float(np.mean(explained)),
        "right codes": float(np.mean(right)) if right else float("nan"),
    }


if __name__ == "__main__":
    main()
