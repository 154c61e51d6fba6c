"""Which strings can be read? Characters beside a grammar and SELFIES, in one table of runs.

Two sets: random functions of x, which a grammar of 11 productions derives, and molecules of ZINC.
Of 1,000 draws of each model is said how many are valid, different and new, by the grammar or by
RDKit (and the mean QED and logP of those); and with what probability what is decoded from the
codes of test rows is the same string. What is done is kept in the folder, and a run goes on where
it stopped; all share `results/molecules.json`, a trial (`--minutes` or `--limit`) keeps its own.

    python benchmarks/molecules.py --list                     # the runs and their minutes
    python benchmarks/molecules.py expressions molecules      # the table
    python benchmarks/molecules.py molecules --minutes 0.2 --limit 500 --rows 50      # a trial
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import torch

from deeplvm import LatentVariableModel, elbo
from deeplvm.data import Data, load
from deeplvm.data.molecules import canonical, properties
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.evaluation import generated
from deeplvm.grammar import EXPRESSIONS, Grammar
from deeplvm.recipes import find
from fitted import folder_of, table, trained


@dataclass(frozen=True)
class Run:
    """One model and its time.

    Attributes:
        what: In words.
        recipe: By its name.
        data: Their name.
        tokens: How strings are cut.
        minutes: Of training.
        model: Options of the recipe, over those of its set.
        target: Which share of the draws is to be valid.
    """

    what: str
    recipe: str
    data: str
    tokens: str
    minutes: float
    model: dict[str, Any] = field(default_factory=dict)
    target: float | None = None


_SIZES: dict[str, dict[str, Any]] = {
    "expressions": {"latent": 25, "hidden": 100, "features": 16, "channels": (16, 32)},
    "zinc": {"latent": 32, "hidden": 200, "features": 32, "channels": (32, 64)},
}
_LIMITS = {"expressions": None, "zinc": 10_000}
_TRAINING: dict[str, Any] = {"batch_size": 64, "learning_rate": 2e-3, "averaging": 0.99}
GROUPS: dict[str, dict[str, Run]] = {
    "expressions": {
        "characters": Run("characters", "smiles_vae", "expressions", "characters", 2),
        "productions": Run(
            "productions", "grammar_vae", "expressions", "expression-grammar", 2, target=0.99
        ),
    },
    "molecules": {
        "smiles": Run("SMILES", "smiles_vae", "zinc", "smiles", 4),
        "grammar": Run("productions of SMILES", "grammar_vae", "zinc", "smiles-grammar", 4),
        "selfies": Run("SELFIES", "selfies_vae", "zinc", "selfies", 4, target=1.0),
    },
}
RUNS = {name: run for group in GROUPS.values() for name, run in group.items()}
PUBLISHED = {
    "Kusner et al. (2017), https://arxiv.org/abs/1703.01925": (
        "share of valid strings found by a search in latents: expressions 0.99 by productions, "
        "0.86 by characters; molecules 0.31 and 0.17. Of draws of the prior of molecules 0.072 "
        "by productions, 0.007 by characters; 53.7 % and 44.6 % reconstructed"
    ),
}
_DRAWS = 1_000


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, draw, and measure test rows."""
    run = RUNS[name]
    folder, minutes = folder_of(name, run, options)
    limit = options.limit or _LIMITS[run.data]
    data = load(run.data, tokens=run.tokens, limit=limit)
    model, said = trained(
        find(run.recipe), data, _SIZES[run.data] | run.model, _TRAINING,
        minutes=minutes, seed=options.seed, folder=folder / "run",
    )  # fmt: skip
    model.eval()
    texts, training = drawn(model, data, options.rows or _DRAWS), strings(data)
    if run.data == "expressions":
        grammar = Grammar(EXPRESSIONS)
        found = generated(
            texts, training, lambda text: text if grammar.parses(text) else None,
            reader="the grammar",
        )  # fmt: skip
    else:
        found = generated(texts, training, canonical, reader="RDKit", properties=properties)
    return {
        "what": f"{run.what} of {run.data}",
        **said,
        "rows": data.description.rows,
        "drawn": found.to_dict(),
        "examples": texts[:8],
        "test": tested(model, data, options.rows or 500),
    }


@torch.no_grad()
def drawn(model: LatentVariableModel, data: Data, number: int) -> list[str]:
    """Strings of the model."""
    vocabulary = vocabulary_of(data.description)
    torch.manual_seed(0)
    return [vocabulary.decode(row) for row in model.sample(number)["x"].value.tolist()]


def strings(data: Data) -> list[str]:
    """Those that were trained on."""
    vocabulary, column = vocabulary_of(data.description), data.train.columns["x"]
    rows = column.values.long().flatten().split(column.lengths.tolist())
    return [vocabulary.decode(row.tolist()) for row in rows]


@torch.no_grad()
def tested(model: LatentVariableModel, data: Data, rows: int) -> dict[str, Any]:
    """The bound of test rows, and which share of what is decoded from them is the same."""
    vocabulary = vocabulary_of(data.description)
    torch.manual_seed(0)
    batch = data.batch("test", slice(rows))
    evidence = model.evidence(batch)
    back = model.reconstruct(batch)["x"].value
    texts = [
        (vocabulary.decode(one), vocabulary.decode(other))
        for one, other in zip(batch["x"].tolist(), back.tolist(), strict=True)
    ]
    bound = elbo(evidence)
    return {
        "rows": len(texts),
        "elbo": {"value": bound.mean().item(), "stderr": (bound.std() / len(texts) ** 0.5).item()},
        "kl": evidence.kl("z").mean().item(),
        "the same string": sum([one == other for one, other in texts]) / len(texts),
        "examples": texts[:4],
    }


if __name__ == "__main__":
    table(__doc__ or "", "molecules", GROUPS, measured, PUBLISHED)
