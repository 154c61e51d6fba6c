"""Do our similarities of columns and pairs agree with those of SDMetrics? On rows of Adult.

Real rows against real rows, against rows whose columns are shuffled apart (alike one by one, not
in pairs), and against rows with noise, each with and without holes. Needs `adult/` in
$DEEPLVM_DATA and sdmetrics (see `peers.txt`).

    python benchmarks/table_quality.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
from sdmetrics.single_column import KSComplement, TVComplement

from deeplvm.evaluation.samples.table_quality import similarities
from machine import RESULTS, keep

ROWS = 4_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=RESULTS)
    out: Path = parser.parse_args().out
    file = Path(os.environ["DEEPLVM_DATA"]) / "adult" / "adult_train.csv.gz"
    table = pd.read_csv(file).sample(2 * ROWS, random_state=0, ignore_index=True)
    coded = np.array([not pd.api.types.is_numeric_dtype(table[name]) for name in table])
    rng = np.random.default_rng(0)
    first, real = table[:ROWS].reset_index(drop=True), table[ROWS:].reset_index(drop=True)
    noisy = first.copy()
    for name in table.columns[~coded]:
        noisy[name] += rng.normal(0, 0.5 * table[name].std(), ROWS)
    drawn = {
        "real rows": first,
        "shuffled columns": first.apply(lambda column: rng.permutation(column)),
        "noisy numbers": noisy,
    }
    found: dict[str, Any] = {}
    for holes in (0.0, 0.2):
        for name, rows in drawn.items():
            sides = [each.mask(rng.random(each.shape) < holes) for each in (rows, real)]
            sides = [each.dropna() if not holes else each for each in sides]
            found[f"{name}, {holes:.0%} missing"] = both(*sides, coded)
            print(name, holes, found[f"{name}, {holes:.0%} missing"], flush=True)
    keep(
        "table_quality",
        {"what": "ours and SDMetrics' mean similarities", "rows": ROWS, **found},
        out,
    )


def both(rows: pd.DataFrame, real: pd.DataFrame, coded: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean similarity of columns and of pairs by either."""
    singles, pairs = [], []
    for name, code in zip(real, coded, strict=True):
        metric = TVComplement if code else KSComplement
        singles.append(metric.compute(real[name], rows[name]))
    for one, two in itertools.combinations(zip(real, coded, strict=True), 2):
        sides = [side[[one[0], two[0]]].copy() for side in (real, rows)]
        numbers = [name for name, code in (one, two) if not code]
        if len(numbers) == 2:
            pairs.append(CorrelationSimilarity.compute(*sides))
        else:  # binned on the real range; their report bins either table on its own
            pairs.append(
                ContingencySimilarity.compute(*sides, continuous_column_names=numbers or None)
            )
    levels = {n: pd.concat([rows, real])[n].dropna().unique() for n in real.columns[coded]}

    def numbers_of(side: pd.DataFrame) -> np.ndarray[Any, Any]:
        plain = side.copy()
        for name, known in levels.items():
            codes = pd.Categorical(side[name], known).codes.astype(float)
            plain[name] = np.where(codes < 0, np.nan, codes)
        return plain.to_numpy(float)

    ours = similarities(numbers_of(rows), numbers_of(real), coded)
    return {
        "columns": {"ours": ours.marginals.value, "sdmetrics": float(np.mean(singles))},
        "pairs": {"ours": ours.pairs.value, "sdmetrics": float(np.mean(pairs))},
    }


if __name__ == "__main__":
    main()
