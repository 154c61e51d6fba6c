"""Counts of genes and words: likelihoods beside scvi-tools, perplexity, memory of sparse rows.

    python benchmarks/counts.py [--parts cells words sparse] [--epochs N] [--rows N] [--out FOLDER]

``cells``: pbmc3k, the genes that vary most, the same cells for all; log p̂ a cell in nats by our
importance sampler, for scvi-tools too where this Python has it. With the library size observed
the likelihood is that of the counts given their total, otherwise of the counts: these two are not
comparable. ``words``: 20newsgroups with the words of the topic model in embedding spaces, and with
those of AVITM; neither are those of the published numbers. ``sparse``: seconds and memory of
loading and of batches.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.distributions import Independent

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import StandardNormal
from deeplvm.data import datasets, load
from deeplvm.distributions import NegativeBinomial, OfTotal
from deeplvm.evaluation import perplexity, topics_of
from deeplvm.likelihood import importance_sampling
from deeplvm.recipes import find, training_of
from deeplvm.results import Estimate
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

PARTICLES = 500
CELLS: dict[str, dict[str, Any]] = {
    "negative-binomial, observed": {"likelihood": "negative-binomial"},
    "zero-inflated-negative-binomial, observed": {"likelihood": "zero-inflated-negative-binomial"},
    "multinomial, observed": {"likelihood": "multinomial"},
    "negative-binomial, latent": {"likelihood": "negative-binomial", "library": "latent"},
}
# of another preprocessing, 2,000 words: Neural Variational Inference for Text Processing (2016)
PUBLISHED = {"nvdm, 50": 836, "nvdm, 200": 852}
# both preprocessings that lie here, and the dimensions that are tried on each
NEWSGROUPS = {"20newsgroups": (50, 200), "20newsgroups-avitm": (50,)}
WORDS: dict[str, tuple[str, int]] = {
    "nvdm, 50": ("nvdm", 50), "nvdm, 200": ("nvdm", 200), "prod_lda, 50": ("prod_lda", 50),
}  # fmt: skip


def trained(
    name: str, data: Any, epochs: int, **options: Any
) -> tuple[LatentVariableModel, float]:
    """A recipe's model, stopped early on the held-out rows, and the seconds that it took."""
    torch.manual_seed(0)
    recipe, began = find(name), time.perf_counter()
    model = recipe(data, **options)
    settings = {"epochs": epochs, "patience": 10, "compile": False, **training_of(recipe)}
    unfolded(fit)(model, data, seed=0, quiet=True, **settings)
    return model, round(time.perf_counter() - began, 1)


def log_px(model: LatentVariableModel, rows: Any, seconds: float) -> dict[str, Any]:
    """What is kept of a model of cells."""
    found = importance_sampling(model, rows, PARTICLES, seed=0)
    return {
        "log_px": Estimate.of(found.log_px).to_dict(),
        "elbo": Estimate.of(found.elbo).to_dict(),
        "pareto_k_above_0.7": round(found.heavy, 3),
        "seconds": seconds,
    }


def cells(epochs: int, rows: int | None) -> dict[str, Any]:
    """Every law on the same cells and genes."""
    found: dict[str, Any] = {}
    for name, chosen in CELLS.items():
        data = load("pbmc3k", likelihood=chosen["likelihood"], limit=rows)
        library = chosen.get("library", "observed")
        model, seconds = trained("scvi", data, epochs, library=library)
        found[f"deeplvm scvi, {name}"] = log_px(model, data.test, seconds)
        print(name, found[f"deeplvm scvi, {name}"], flush=True)
    data = load("pbmc3k", likelihood="negative-binomial", limit=rows)
    model, seconds = trained("vae", data, epochs, latent=10, hidden=(128,))
    found["deeplvm vae, negative-binomial"] = log_px(model, data.test, seconds)
    if find_spec("scvi") is None:
        found["absent"] = {"scvi-tools": "not installed in this Python"}
    else:
        found["scvi-tools, negative-binomial, observed"] = peer(data, epochs)
    return {"genes": data.variables["x"].elements, "cells": dict(data.description.rows)} | found


class Encoder(nn.Module):
    """The peer's q(z | x)."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self.event_shape = module, torch.Size((module.n_latent,))

    def forward(self, x: torch.Tensor) -> Independent:
        """Of counts, shape (batch, genes)."""
        q, _ = self.module.z_encoder(torch.log1p(x), torch.zeros_like(x[:, :1]))
        return Independent(torch.distributions.Normal(q.loc, q.scale), 1)


class Decoder(nn.Module):
    """The peer's p(x | z), given each row's own total."""

    def __init__(self, module: Any, genes: int) -> None:
        super().__init__()
        self.module, self.event_shape = module, torch.Size((genes,))

    def forward(self, z: torch.Tensor) -> OfTotal:
        """Of latents, shape (*particles, batch, latent)."""
        flat, dispersion = z.flatten(0, -2), self.module.px_r.exp()
        none = torch.zeros_like(flat[:, :1])
        shares, *_ = self.module.decoder("gene", flat, none, none)
        logits = shares.reshape(*z.shape[:-1], -1).log()
        return OfTotal(logits, lambda mean: NegativeBinomial(mean, dispersion), 1)


def peer(data: Any, epochs: int) -> dict[str, Any]:
    """scvi-tools on the same cells, by our importance sampler."""
    import anndata
    import scvi

    scvi.settings.seed = 0
    began = time.perf_counter()
    train = anndata.AnnData(data.batch("train", slice(None))["x"].numpy())
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(train, n_latent=10, n_layers=1, n_hidden=128, gene_likelihood="nb")
    model.train(max_epochs=epochs, early_stopping=True)
    seconds = round(time.perf_counter() - began, 1)
    module = model.module.eval()
    own = LatentVariableModel(
        Joint({"z": StandardNormal(10), "x | z": Decoder(module, data.variables["x"].elements)}),
        Joint({"z | x": Encoder(module)}),
    )
    return log_px(own, data.test, seconds)


def words(epochs: int, rows: int | None) -> dict[str, Any]:
    """Perplexity of whole documents, of second halves given first ones, and coherence.

    Halves are those of the first preprocessing; the second has none.
    """
    folder = next(each.found for each in datasets() if each.name == "20newsgroups")
    found: dict[str, Any] = {"published": PUBLISHED}
    for source, sizes in NEWSGROUPS.items():
        data = load(source, limit=rows)
        parts = _halves(Path(str(folder)), data, rows) if source == "20newsgroups" else []
        for name, (recipe, latent) in WORDS.items():
            if latent not in sizes:
                continue
            model, seconds = trained(recipe, data, epochs, latent=latent)
            topics, known = topics_of(model, data.test), {}
            if parts:
                known = {"completion": perplexity(model, parts[1], given=parts[0]).to_dict()}
            found[f"{source}, {name}"] = {
                "perplexity": perplexity(model, data.test).to_dict(),
                **known,
                "coherence": topics.coherence.to_dict(),
                "diversity": topics.diversity,
                "reference": topics.reference,
                "topics": [" ".join(each) for each in topics.words[:5]],
                "seconds": seconds,
            }
            said = {k: v for k, v in found[f"{source}, {name}"].items() if k != "topics"}
            print(source, name, said, flush=True)
    return found


def _halves(folder: Path, data: Any, rows: int | None) -> list[dict[str, torch.Tensor]]:
    """The words of each test document in two halves."""
    with np.load(folder / "20ng_bow.npz") as arrays:
        halves = [
            sparse.csr_array(
                tuple([arrays[f"ts_{half}_{each}"] for each in ("data", "indices", "indptr")]),
                shape=(len(arrays[f"ts_{half}_indptr"]) - 1, data.variables["x"].elements),
            )[: rows or None]
            for half in ("h1", "h2")
        ]
    return [{"x": torch.from_numpy(half.toarray()).float()} for half in halves]


def megabytes() -> int:
    """The most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def load_sparse(rows: int, columns: int, share: float) -> dict[str, Any]:
    """What loading counts and reading batches of them takes; in a process of its own."""
    rng, each = np.random.default_rng(0), int(columns * share)
    places = np.empty(rows * each, np.int32)
    for row in range(rows):
        some = rng.choice(columns, each, replace=False, shuffle=False)
        places[row * each : (row + 1) * each] = np.sort(some)
    values = rng.integers(1, 5, rows * each).astype(np.int16)
    matrix = sparse.csr_array((values, places, np.arange(0, rows * each + 1, each)))
    before, began = megabytes(), time.perf_counter()
    data = load(matrix)
    loaded, after = time.perf_counter(), megabytes()
    for _ in range(20):
        data.batch("train", torch.randperm(data.rows("train"))[:128])
    return {
        "shape": [rows, columns],
        "dense_mb": rows * columns * 2 >> 20,
        "matrix_mb": (values.nbytes + places.nbytes) >> 20,
        "held_mb": data.nbytes >> 20,
        "added_to_peak_mb": after - before,
        "seconds": round(loaded - began, 2),
        "batch_of_128_ms": round((time.perf_counter() - loaded) / 20 * 1e3, 1),
    }


def sparse_rows(_: int, rows: int | None) -> dict[str, Any]:
    """Fifty thousand rows of twenty thousand columns, five in a hundred of them not zero."""
    shape = (rows or 50_000, 20_000 if rows is None else 500, 0.05)
    code = f"import json, counts; print(json.dumps(counts.load_sparse{shape}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, capture_output=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


PARTS = {"cells": cells, "words": words, "sparse": sparse_rows}


def main() -> None:
    """The parts that are asked for; the others are kept as they were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--rows", type=int, help="of each split at most; all without")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "counts.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    found = {name: known[name] for name in PARTS if name in known}
    for name in options.parts:
        found[name] = PARTS[name](options.epochs, options.rows)
        what = "nats a cell, perplexity of words, memory of sparse rows"
        keep("counts", {"what": what, **found}, options.out)


if __name__ == "__main__":
    main()
