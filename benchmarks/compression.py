"""How few bytes do rows need? Models after a few minutes, beside general coders.

A case is a data set, a recipe and minutes of training; its test rows are compressed, given back
and compared. What is done is kept in the folder and in `results/compression.json`, and a run does
the rest.

    python benchmarks/compression.py --list
    python benchmarks/compression.py                      # all that are not done
    python benchmarks/compression.py static --minutes 5   # one
    python benchmarks/compression.py --trial              # few rows and seconds, kept aside
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa

from deeplvm.compression import compress, decompress
from deeplvm.data import load
from deeplvm.runs.run import Run, open_run
from machine import RESULTS, keep


@dataclass(frozen=True)
class Case:
    """Rows and the model that compresses them.

    Attributes:
        what: In words.
        data: What the model is trained on.
        words: Recipe and options of ``deeplvm fit``.
        minutes: Of training.
        rows: What is compressed, where it is not the test rows of the data.
        asked: Bytes, or below 10 bits a number, that it is to stay below.
        table: Whether the test rows are written as a .csv, which is compressed.
    """

    what: str
    data: str
    words: str
    minutes: float
    rows: str | None = None
    asked: float | None = None
    table: bool = False


_TRAINED = (
    "--epochs 10000 --optimizer adamw --schedule cosine --averaging 0.999 --learning-rate 0.002"
)
CASES = {
    "static": Case(
        "binarized MNIST, dense", "binarized-mnist",
        f"--recipe vae --latent 40 --hidden 300 --hidden 300 --batch-size 250 {_TRAINED}",
        5, asked=175_000,
    ),
    "vamp": Case(
        "binarized MNIST, dense, VampPrior", "binarized-mnist",
        "--recipe vae --latent 40 --hidden 300 --hidden 300 --batch-size 250 "
        f"--prior vamp(components=300) {_TRAINED}", 10,
    ),
    "ladder": Case(
        "binarized MNIST, five dense layers of 10 minutes, trained on dynamic bits", "mnist",
        "--binarize dynamic --recipe ladder_vae --epochs 10000", 10, rows="binarized-mnist",
    ),
    "hierarchy": Case(
        "binarized MNIST, layers of maps, an hour", "mnist",
        "--binarize dynamic --recipe convolutional_ladder_vae --epochs 10000", 60,
        rows="binarized-mnist", asked=150_000,
    ),
    "grey": Case(
        "grey MNIST, dense, mixture of logistics", "mnist",
        "--recipe vae --latent 40 --hidden 300 --hidden 300 --batch-size 250 "
        f"--likelihood discretized-logistic-mixture {_TRAINED}", 20, asked=1.35,
    ),
    "adult": Case("census, mixed columns", "adult", "--recipe table_vae", 3, table=True),
    "letter": Case(
        "letters, table of counts", "hivae-letter", "--recipe table_vae", 3, table=True
    ),
}  # fmt: skip


def written(run: Run, path: Path) -> dict[str, int]:
    """The test rows as a .csv, and what general coders and parquet need of it, in bytes."""
    rows, columns = run.data.test, dict[str, Any]()
    for name, variable in run.description.variables.items():
        columns |= variable.restored(rows.exact(name), exact=True)
    frame = pandas.DataFrame(columns)
    frame.to_csv(path, index=False)
    frame.to_parquet(path.with_suffix(".parquet"), compression="zstd", compression_level=19)
    plain = path.read_bytes()
    return {
        "csv": len(plain),
        "csv.xz": len(lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME)),
        "csv.zst": len(pa.Codec("zstd", compression_level=19).compress(plain, asbytes=True)),
        "parquet": path.with_suffix(".parquet").stat().st_size,
    }


def measured(name: str, case: Case, folder: Path, minutes: float, extra: list[str]) -> Any:
    """One case: trained where it is not yet, compressed, and given back."""
    run = folder / name
    if not (run / "model.safetensors").exists():
        words = [*case.words.split(), *extra, "--minutes", str(minutes), "--no-evaluate"]
        command = [sys.executable, "-m", "deeplvm"]
        begun = (run / "config.toml").exists()
        verb = ["resume", run] if begun else ["fit", case.data, *words, "--out", run]
        subprocess.run([str(word) for word in (*command, *verb)], check=True)
    opened, archive = open_run(run), folder / f"{name}.dlvm"
    rows, files = case.rows, dict[str, int]()
    if rows and extra:  # a trial
        few = load(rows).test[:200].exact("x").numpy().astype(np.uint8)
        rows = str(folder / f"{name}.npy")
        np.save(rows, few)
    if case.table:
        rows = str(folder / f"{name}.csv")
        files = written(opened, Path(rows))
    clock, cpu = time.perf_counter(), time.process_time()
    made = compress(opened, rows, archive)
    packed = time.perf_counter()
    back = folder / f"{name}-back.npz" if rows is None else None
    found = decompress(opened, archive, back, like=rows)
    same = found.same
    if back is not None:
        variable, test = opened.description.variables["x"], opened.data.test
        given, own = np.load(back), variable.restored(test.exact("x"), exact=True)
        same = all([np.array_equal(given[title], column) for title, column in own.items()])
    result = made.to_dict() | {
        "what": case.what, "minutes": minutes, "asked": case.asked, "words": case.words,
        "seconds": {
            "compress": packed - clock, "decompress": time.perf_counter() - packed,
            "processor": time.process_time() - cpu,
        },
        "same": same, "over_the_bound": made.bytes - made.bound, "files": files,
    }  # fmt: skip
    print(f"{name}: {made}", *[f"{n} {size:,} bytes" for n, size in files.items()], sep="\n")
    return result


def main() -> None:
    """Run what is asked for and not yet done."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("cases", nargs="*", choices=[*CASES, []])
    reader.add_argument("--minutes", type=float)
    reader.add_argument("--folder", type=Path, default=Path("runs/compression"))
    reader.add_argument("--trial", action="store_true")
    reader.add_argument("--list", action="store_true")
    said = reader.parse_args()
    if said.list:
        for name, case in CASES.items():
            print(f"{name:10} {case.minutes:4g} min  {case.what}")
        return
    folder = said.folder / "trial" if said.trial else said.folder
    results = folder if said.trial else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = results / "compression.json"
    kept = json.loads(path.read_text()).get("cases", {}) if path.exists() else {}
    for name in said.cases or [n for n in CASES if n not in kept]:
        minutes = 0.1 if said.trial else said.minutes or CASES[name].minutes
        extra = ["--limit", "500"] if said.trial else []
        kept[name] = measured(name, CASES[name], folder, minutes, extra)
        keep("compression", {"cases": kept}, results)


if __name__ == "__main__":
    main()
