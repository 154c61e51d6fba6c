"""Do Dask, Ray and Polars say what one process says, to the last bit, and how fast?

A table of six columns, some of them with holes, is written in parts; a small model is fitted to
the first of these, and each engine scores, embeds or fills all rows in partitions of its own.

    python benchmarks/engines.py [--rows N] [--parts N] [--workers N] [--particles K]
        [--engines NAME ...] [--verbs NAME ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from deeplvm.cli import main as deeplvm
from deeplvm.runs.scorer import Scorer
from machine import RESULTS, keep

Engine = Callable[[Scorer, list[str], int], pa.Table]


def people(rows: int, seed: int) -> pd.DataFrame:
    """Rows with numbers, counts and categories, a twentieth of the cells missing."""
    draws = np.random.default_rng(seed)
    size = draws.normal(size=rows)
    frame = pd.DataFrame(
        {
            "height": 170 + 10 * size,
            "weight": 70 + 8 * size + 4 * draws.normal(size=rows),
            "age": draws.gamma(4.0, 10.0, rows),
            "visits": draws.poisson(3, rows).astype(float),
            "job": np.where(draws.random(rows) < 0.4, "nurse", "clerk").astype(object),
        }
    )
    return frame.mask(draws.random(frame.shape) < 0.05)


def alone(scorer: Scorer, paths: list[str], workers: int) -> pa.Table:  # noqa: ARG001 - it is one
    """This process."""
    return pa.concat_tables([scorer(pq.read_table(path)) for path in paths])


def dask(scorer: Scorer, paths: list[str], workers: int) -> pa.Table:
    """A local cluster of processes, two partitions a file."""
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster):
        rows = dd.read_parquet(paths).repartition(npartitions=2 * len(paths))
        found = rows.map_partitions(scorer, meta=scorer.meta(rows._meta)).compute()
    return pa.Table.from_pandas(found, preserve_index=False)


def ray(scorer: Scorer, paths: list[str], workers: int) -> pa.Table:
    """A local cluster, batches of 10,000 rows."""
    import ray as engine

    engine.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        rows = engine.data.read_parquet(paths)
        found = rows.map_batches(scorer, batch_format="pyarrow", batch_size=10_000)
        return pa.concat_tables(engine.get(found.to_arrow_refs()))
    finally:
        engine.shutdown()


def polars(scorer: Scorer, paths: list[str], workers: int) -> pa.Table:  # noqa: ARG001 - its own
    """Batches of the streaming engine."""
    import polars as pl

    rows = pl.scan_parquet(paths)
    known = scorer.meta(rows.head(0).collect()).schema
    found = rows.map_batches(scorer, schema=known, streamable=True)
    return found.collect(engine="streaming").to_arrow()


ENGINES: dict[str, Engine] = {"one process": alone, "dask": dask, "ray": ray, "polars": polars}
NEW = {"score": ["log_px", "pareto_k"], "embed": ["z_0", "z_1"], "impute": ["weight", "visits"]}


def digest(table: pa.Table, names: list[str]) -> str:
    """Of the bytes of some columns, in the order of the rows' names."""
    found = hashlib.sha256()
    table = table.sort_by("id")
    for name in names:
        found.update(np.ascontiguousarray(table.column(name).to_numpy()).tobytes())
    return found.hexdigest()


def main() -> None:
    """Each verb by each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--particles", type=int, default=20)
    parser.add_argument("--engines", nargs="*", default=[*ENGINES], choices=[*ENGINES])
    parser.add_argument("--verbs", nargs="*", default=[*NEW], choices=[*NEW])
    parser.add_argument("--out", type=Path, default=RESULTS)
    said = parser.parse_args()
    result: dict[str, Any] = {
        "rows": said.rows, "workers": said.workers, "particles": said.particles, "verbs": {}
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder, each = Path(name), said.rows // said.parts
        paths = [str(folder / f"{part}.parquet") for part in range(said.parts)]
        for part, path in enumerate(paths):
            frame = people(each, part).assign(id=np.arange(part * each, (part + 1) * each))
            frame.to_parquet(path, index=False)
        train, run = folder / "train.csv", folder / "run"
        people(2_000, said.parts).to_csv(train, index=False)
        words = (
            f"fit {train} --out {run} --epochs 5 --latent 2 --hidden 32 --device cpu --no-evaluate"
        )
        if deeplvm(words.split()):
            raise SystemExit("the run could not be made")
        for verb in said.verbs:
            counted = verb != "embed"
            scorer = Scorer(run, verb, particles=said.particles if counted else None)
            known, found = "", {}
            for engine in said.engines:
                began = time.perf_counter()
                try:
                    table = ENGINES[engine](scorer, paths, said.workers)
                except ImportError as error:
                    found[engine] = {"absent": str(error)}
                    continue
                seconds = time.perf_counter() - began
                bytes_ = digest(table, NEW[verb])
                known = known or bytes_
                found[engine] = {
                    "rows": len(table), "seconds": seconds, "rows a second": len(table) / seconds,
                    "same bytes": bytes_ == known,
                }  # fmt: skip
                print(verb, engine, found[engine], flush=True)
            result["verbs"][verb] = found
            keep("engines", result, said.out)


if __name__ == "__main__":
    main()
