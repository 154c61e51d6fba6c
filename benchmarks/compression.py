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
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplvm.compression import compress, decompress
from deeplvm.runs.run import open_run
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
    """

    what: str
    data: str
    words: str
    minutes: float
    rows: str | None = None
    asked: float | None = None


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
    "adult": Case("census, mixed columns", "adult", "--recipe table_vae", 3),
    "letter": Case("letters, table of counts", "hivae-letter", "--recipe table_vae", 3),
}  # fmt: skip


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
    clock, cpu = time.perf_counter(), time.process_time()
    made = compress(opened, case.rows, archive)
    written = time.perf_counter()
    found = decompress(opened, archive, like=case.rows)
    result = made.to_dict() | {
        "what": case.what, "minutes": minutes, "asked": case.asked, "words": case.words,
        "seconds": {
            "compress": written - clock, "decompress": time.perf_counter() - written,
            "processor": time.process_time() - cpu,
        },
        "same": found.same, "over_the_bound": made.bytes - made.bound,
    }  # fmt: skip
    print(f"{name}: {made}", flush=True)
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
