"""Do codes of sentences tell what a language model does not know? One command, one table of runs.

Penn Treebank, 10,000 words, a row a sentence. Perplexity counts the end of each sentence and no
padding; that of a model with latents is importance-sampled, an upper bound in expectation. At
equal sizes a language model, the variational autoencoder of sentences, both without any word to
read, and how the code is lost without annealing and word dropout. What is done is kept in the
folder, and a run goes on where it stopped; all share `results/text.json`, a trial (`--minutes` or
`--limit`) keeps its own beside its folder.

    python benchmarks/text.py --list                     # the runs, their minutes and targets
    python benchmarks/text.py collapse                   # a group: 8 minutes for each
    python benchmarks/text.py language_model sentence_vae
    python benchmarks/text.py speed                      # tokens a second beside torch by hand
    python benchmarks/text.py collapse --minutes 0.2 --limit 300 --rows 50       # a trial
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deeplvm import elbo, evaluate
from deeplvm.data import Data, load
from deeplvm.recipes import find, training_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep


@dataclass(frozen=True)
class Run:
    """One model and its time.

    Attributes:
        what: In words.
        recipe: By its name.
        minutes: Of training, on two cores.
        model: Options of the recipe.
        training: Options of ``fit``, over the recipe's own.
        limit: Sentences of each split.
        target: What is asked for, in words.
    """

    what: str
    recipe: str
    minutes: float = 8
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    target: str = ""


_SMALL: dict[str, Any] = {"features": 64, "hidden": 64, "dropout": 0.0}
_LARGE: dict[str, Any] = {"features": 256, "hidden": 256, "dropout": 0.4}
_FAST: dict[str, Any] = {"batch_size": 32, "learning_rate": 2e-3, "averaging": 0.999}
_LONG: dict[str, Any] = {"batch_size": 64, "learning_rate": 1e-3, "averaging": 0.999}
_PLAIN = {"kl_weight": 1.0}

GROUPS: dict[str, dict[str, Run]] = {
    "collapse": {
        "small_language_model": Run(
            "no latents", "recurrent_language_model", model=_SMALL, training=_FAST, limit=5_000
        ),
        "small_sentence_vae": Run(
            "annealed, 62 % of the words", "sentence_vae", model=_SMALL, training=_FAST,
            limit=5_000, target="divergence above 1 nat",
        ),
        "small_plain": Run(
            "neither annealed nor words left out", "sentence_vae", model={**_SMALL, "keep": 1.0},
            training=_FAST | _PLAIN, limit=5_000, target="divergence below 0.1 nats",
        ),
        "small_inputless_language_model": Run(
            "no latents, no words read", "recurrent_language_model",
            model={**_SMALL, "keep": 0.0}, training=_FAST, limit=5_000,
        ),
        "small_inputless_vae": Run(
            "no words read", "sentence_vae", model={**_SMALL, "keep": 0.0}, training=_FAST,
            limit=5_000, target="above the language model without words",
        ),
    },
    "whole": {
        "language_model": Run(
            "no latents", "recurrent_language_model", 120, model=_LARGE, training=_LONG,
            target="perplexity 116 +- 6",
        ),
        "sentence_vae": Run(
            "annealed, 62 % of the words", "sentence_vae", 120, model=_LARGE, training=_LONG,
            target="divergence 1 to 8 nats, perplexity below the language model's",
        ),
        "inputless_language_model": Run(
            "no latents, no words read", "recurrent_language_model", 60,
            model={**_LARGE, "keep": 0.0}, training=_LONG, target="perplexity above 600",
        ),
        "inputless_vae": Run(
            "no words read", "sentence_vae", 120, model={**_LARGE, "keep": 0.0, "latent": 64},
            training=_LONG, target="perplexity 380 +- 40",
        ),
    },
}  # fmt: skip
RUNS = {name: run for group in GROUPS.values() for name, run in group.items()}
PUBLISHED = {
    "Bowman et al. (2016), https://arxiv.org/abs/1511.06349": (
        "language model 100 nats a sentence, perplexity 116; sentence VAE 101 (divergence 2), "
        "119; inputless 135, above 600; inputless VAE 125 (divergence 15), 380; bounds"
    ),
}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure test rows; what was done before is found in the folder."""
    run, trial = RUNS[name], options.minutes is not None or options.limit is not None
    minutes, limit = options.minutes or run.minutes, options.limit or run.limit
    folder = options.folder / f"{name}-{options.seed}" / (f"{minutes:g}" if trial else "whole")
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    data, recipe = load("ptb", limit=limit), find(run.recipe)
    torch.manual_seed(options.seed)
    model = recipe(data, **run.model)
    training = {"epochs": 1_000, "patience": 4, **training_of(recipe), **run.training}
    began = time.perf_counter()
    history = unfolded(fit)(
        model, data, seed=options.seed, minutes=minutes, folder=folder / "run", resume=True,
        **training,
    )  # fmt: skip
    trained = time.perf_counter() - began
    test = data.sampled({"test": options.rows}).test
    found = evaluate(model, test, particles=100, seed=options.seed).to_dict()
    keys = ("log_px", "log_px_a_step", "elbo", "kl", "active_units")
    result = {
        "what": run.what,
        "model": str(model),
        "settings": {
            "recipe": run.recipe, **run.model, "minutes": minutes, "seed": options.seed,
            "limit": limit, **{option: str(value) for option, value in training.items()},
        },
        "parameters": sum([each.numel() for each in model.parameters()]),
        "seconds": {"training": trained, "measuring": time.perf_counter() - began - trained},
        "epochs": len(history.epochs),
        "test": {key: found[key] for key in keys if key in found} | {"rows": test.rows},
        "target": run.target,
        "drawn": texts(model, data),
    }  # fmt: skip
    kept.write_text(json.dumps(result))
    return result


def texts(model: Any, data: Data) -> list[str]:
    """Some draws, to be read."""
    from deeplvm.data.readers.text import vocabulary_of

    vocabulary = vocabulary_of(data.description)
    torch.manual_seed(0)
    return [vocabulary.decode(row) for row in model.eval().sample(5)["x"].value.tolist()]


class ByHand(nn.Module):
    """The same language model, written out; with ``skip`` no logits of padding."""

    def __init__(self, words: int, features: int, hidden: int, *, skip: bool) -> None:
        super().__init__()
        self.table, self.skip = nn.Embedding(words, features), skip
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.out = nn.Linear(hidden, words)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        """Nats a row."""
        x, before = x.long(), torch.nn.functional.pad(x.long(), (1, 0))[:, :-1]
        hidden, _ = self.lstm(self.table(before))
        here = torch.arange(x.shape[1]) < n[:, None]
        if self.skip:
            return -cross_entropy(self.out(hidden[here]), x[here], reduction="sum") / len(x)
        target = x.masked_fill(~here, -100).flatten()
        return -cross_entropy(self.out(hidden).flatten(0, 1), target, reduction="sum") / len(x)


def speed(limit: int | None) -> dict[str, Any]:
    """Tokens a second of a training step, in turn with what is written by hand."""
    data, size = load("ptb", limit=limit), {"features": 128, "hidden": 256}
    recipe = find("recurrent_language_model")
    words = data.variables["x"].levels or 2
    models: dict[str, nn.Module] = {
        "deeplvm": recipe(data, **size, dropout=0.0),
        "by hand, without padding": ByHand(words, **size, skip=True),
        "by hand, with padding": ByHand(words, **size, skip=False),
    }
    batches = [data.batch("train", slice(at, at + 32)) for at in range(0, 320, 32)]
    steps: dict[str, Callable[[dict[str, Tensor]], None]] = {}
    for name, model in models.items():
        optimizer = torch.optim.Adam(model.parameters(), fused=True)

        def step(batch: dict[str, Tensor], model: Any = model, by: Any = optimizer) -> None:
            by.zero_grad(set_to_none=True)
            if isinstance(model, ByHand):
                loss = -model(batch["x"], batch["n"])
            else:
                loss = -elbo(model.evidence(batch, missing=())).mean()
            loss.backward()
            by.step()

        steps[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number, batch in enumerate(batches):
        for name, step in steps.items():
            began = time.perf_counter()
            step(batch)
            if number:
                seconds[name].append((time.perf_counter() - began) / float(batch["n"].sum()))
    middle = {name: sorted(each)[len(each) // 2] for name, each in seconds.items()}
    return {
        "tokens a second": {name: 1 / each for name, each in middle.items()},
        "times by hand, without padding": middle["deeplvm"] / middle["by hand, without padding"],
        "threads": torch.get_num_threads(),
    }


def listed() -> None:
    """All runs."""
    for group, runs in GROUPS.items():
        print(f"{group}:")
        for name, run in runs.items():
            print(f"  {name:32} {run.minutes:3g} min  {run.what}; {run.target or 'compared with'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("runs", nargs="*", help="names of runs or groups, or speed")
    parser.add_argument("--list", action="store_true", help="show the runs")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--rows", type=int, default=1_000, help="test rows, at random")
    parser.add_argument("--limit", type=int, help="rows of each split: a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/text"))
    options = parser.parse_args()
    if options.list or not options.runs:
        listed()
        return
    trial = options.minutes is not None or options.limit is not None
    results = options.folder if trial else RESULTS
    path = results / "text.json"
    for word in options.runs:
        if word not in (*RUNS, *GROUPS, "speed"):
            parser.error(f"there is no run {word!r}; --list shows them")
    for name in [n for word in options.runs for n in GROUPS.get(word, (word,))]:
        kept = json.loads(path.read_text()) if path.exists() else {}
        found = {"published": PUBLISHED, "runs": kept.get("runs", {})}
        if "speed" in kept:
            found["speed"] = kept["speed"]
        if name == "speed":
            found["speed"] = shown = speed(options.limit)
        else:
            key = name if options.seed == 0 else f"{name}, seed {options.seed}"
            found["runs"][key] = shown = measured(name, options)
        print(name, json.dumps(shown, indent=1), flush=True)
        keep("text", found, results)


if __name__ == "__main__":
    main()
