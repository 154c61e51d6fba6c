"""Does memory stay flat while streamed data grow tenfold, and what does a stream cost in speed?"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from effort import Effort
from harness import Worker, Workers

PIXELS = 784
ROWS = {"full": 500_000, "quick": 200_000, "smoke": 2_000}
PER_FILE = 100_000
BATCH = 100
WAYS = {"in memory": False, "streamed": True}


def run(effort: Effort, workers: Workers) -> dict[str, Any]:  # noqa: ARG001 - fresh ones
    """Each way and size in a fresh process: all rows are read, then a model is trained."""
    rows = ROWS[effort.name]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for times in (1, 10):
            folder = Path(name) / str(times)
            write(folder, times * rows)
            for way, stream in WAYS.items():
                with Worker() as worker:
                    one = worker.call(
                        "streaming:reading", folder=str(folder), stream=stream, turns=2
                    )
                found[f"{way}, {times * rows:,} rows"] = one
                print(
                    f"  {way}, {times * rows:,} rows: peak {one['peak, bytes'] / 2**20:.0f} MiB, "
                    f"{one['rows a second']:,.0f} rows/s",
                    flush=True,
                )
        small = str(Path(name) / "1")
        training = {
            way: {"rows a second": rate, "ratio": 1.0} for way, rate in trained(small, effort)
        }
    training["streamed"]["ratio"] = (
        training["in memory"]["rows a second"] / training["streamed"]["rows a second"]
    )
    for way, one in training.items():
        print(f"  training, {way}: {one['rows a second']:,.0f} rows/s", flush=True)
    peaks = [found[f"streamed, {times * rows:,} rows"]["peak, bytes"] for times in (1, 10)]
    return {
        "what": "streaming",
        "title": f"{PIXELS} bytes a row, batches of {BATCH}",
        "reading": found,
        "training": training,
        "growth of the peak": peaks[1] / peaks[0],
    }


def trained(folder: str, effort: Effort) -> list[tuple[str, float]]:
    """Rows a second of the fastest turn of each way; the ways take turns."""
    best = dict.fromkeys(WAYS, 0.0)
    for _ in range(effort.turns(3)):
        for way, stream in WAYS.items():
            with Worker() as worker:
                rate = worker.call("streaming:training", folder=folder, stream=stream)
            best[way] = max(best[way], rate)
    return list(best.items())


def write(folder: Path, rows: int) -> None:
    """Files of random grey levels, so that nothing can be guessed or compressed."""
    import numpy as np

    folder.mkdir()
    rng = np.random.default_rng(0)
    for start in range(0, rows, PER_FILE):
        size = (min(PER_FILE, rows - start), PIXELS)
        np.save(folder / f"{start:09}.npy", rng.integers(0, 256, size, dtype=np.uint8))


def reading(folder: str, *, stream: bool, turns: int) -> dict[str, Any]:
    """Look at all rows, then read the training rows in the order of some epochs, widened."""
    import torch

    from deeplvm.data import load
    from deeplvm.training.batches import Batches

    began = time.perf_counter()
    data = load(folder, stream=stream)
    loading = time.perf_counter() - began
    batches = Batches(data, frozenset({"x"}), torch.device("cpu"), torch.float32)
    seconds = []
    for epoch in range(turns):
        began = time.perf_counter()
        for index in batches.order(epoch, 0, BATCH):
            batches("train", index)
        seconds.append(time.perf_counter() - began)
    return {
        "rows": data.rows("train"),
        "bytes": data.nbytes,
        "seconds to load": loading,
        "rows a second": data.rows("train") / min(seconds),
        "peak, bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def training(folder: str, *, stream: bool) -> float:
    """Rows a second of the steps of an epoch of an MLP VAE 784-200-200-20."""
    import torch

    from deeplvm.data import load
    from deeplvm.recipes import vae
    from deeplvm.training import Machine, fit

    data = load(folder, stream=stream)
    torch.manual_seed(0)
    model = vae(data, latent=20, hidden=(200, 200))
    history = fit(
        model,
        data,
        epochs=1,
        batch_size=BATCH,
        machine=Machine(device="cpu", compile=False),
        quiet=True,
    )
    return float(history.epochs[0]["rows_per_second"])
