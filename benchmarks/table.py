"""Write the tables of docs/benchmarks.md from the results, or print those of another folder.

python benchmarks/table.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- begin: made by benchmarks/table.py -->", "<!-- end -->"
OURS = ("deeplvm, eager", "deeplvm, compiled")


def write(folder: Path, page: Path) -> None:
    """Put the tables of a folder's results between the page's markers."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables(folder)}\n{END}{after}")
    print(f"tables in {page}")


def tables(folder: Path) -> str:
    """Markdown of what there is."""
    makers = {
        "step": _step,
        "busy": _busy,
        "parts": _parts,
        "likelihood": _likelihood,
        "startup": _startup,
        "memory": _memory,
        "scaling": _scaling,
        "flows": _flows,
        "streaming": _streaming,
        "annealing": _annealing,
        "posteriors": _posteriors,
        "discrete": _discrete,
        "images": _images,
    }
    texts = []
    for name, maker in makers.items():
        path = folder / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            texts.append("\n".join([*maker(result), "", _machine(result), ""]))
    return "\n".join(texts)


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    where = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"
    effort = result.get("effort", "full")
    return f"Measured on {where}." + ("" if effort == "full" else f" Effort: {effort}.")


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _step(result: dict[str, Any]) -> Iterator[str]:
    yield "## A training step\n"
    yield (
        "Milliseconds, the fastest of many. *Ratio*: to the loop by hand, eager. *Times ours*: to "
        "deeplvm in the same form (compiled beside JAX), so above 1 deeplvm is faster. *Limit*: "
        "the part of the time that the matrix products and convolutions would take alone."
    )
    yield ""
    yield from _workloads(result)


def _busy(result: dict[str, Any]) -> Iterator[str]:
    yield "## A training step, every core busy\n"
    yield "The same, while another process spins on every core.\n"
    yield from _workloads(result)


def _workloads(result: dict[str, Any]) -> Iterator[str]:
    kinds = ("deeplvm", "by hand", "pythae", "Pyro", "NumPyro")
    rows = []
    for found in result["workloads"].values():
        sides = found["sides"]
        cells = [found["title"], *[_fastest(sides, kind) for kind in kinds]]
        best = max([sides[name]["fraction of the limit"] for name in OURS if name in sides])
        rows.append((*cells, f"{found['limit, milliseconds']:.2f}", f"{100 * best:.0f} %"))
    yield from _rows(("ms, eager / compiled", *kinds, "limit", "ours of the limit"), rows)
    for found in result["workloads"].values():
        limit, rate = found["limit, milliseconds"], found["sgemm, FLOP a second"]
        yield f"\n**{found['title']}**: limit {limit:.2f} ms at {rate / 1e9:.0f} GFLOP/s\n"
        sides = found["sides"]
        rows = []
        for name, row in sides.items():
            if name == "sgemm, square":
                continue
            own = OURS[1] if "compiled" in name or "NumPyro" in name else OURS[0]
            base = sides.get(own, sides[OURS[0]])["milliseconds, minimum"]
            beside = "" if name in (*OURS, "matrix products alone") else row
            rows.append(
                (
                    name,
                    f"{row['milliseconds, minimum']:.2f}",
                    f"{row['ratio of minima']:.2f}",
                    f"{row['milliseconds, minimum'] / base:.2f}" if beside else "",
                    f"{100 * row['fraction of the limit']:.0f} %",
                )
            )
        yield from _rows(("side", "ms", "ratio", "times ours", "limit"), rows)
        yield from _absent(found)


def _fastest(sides: dict[str, Any], kind: str) -> str:
    """Milliseconds, the compiled form after the eager one where there is one."""
    eager, compiled = [], []
    for name, row in sides.items():
        if name.startswith(kind):
            (compiled if "compiled" in name else eager).append(row["milliseconds, minimum"])
    return " / ".join([f"{min(each):.2f}" for each in (eager, compiled) if each])


def _absent(found: dict[str, Any]) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for name, why in found["absent"].items():
        if name != "matrix products alone":
            names.setdefault(why, []).append(name)
    if names:
        yield ""
        yield (
            "Left out: " + "; ".join([f"{', '.join(n)} ({why})" for why, n in names.items()]) + "."
        )


def _parts(result: dict[str, Any]) -> Iterator[str]:
    yield "## The parts of a step\n"
    yield "Milliseconds of an eager step, the fastest of many, and the fraction of the limit."
    for found in result["workloads"].values():
        yield f"\n**{found['title']}**\n"
        sides = found["sides"]
        rows = []
        for part in next(iter(sides.values())):
            cells = [part]
            for side in sides.values():
                row = side[part]
                share = row.get("fraction of the limit")
                shown = "" if share is None else f" ({100 * share:.0f} %)"
                cells.append(f"{row['milliseconds, minimum']:.2f}{shown}")
            rows.append(cells)
        yield from _rows(("part", *sides), rows)


def _likelihood(result: dict[str, Any]) -> Iterator[str]:
    yield "## An importance-sampled likelihood\n"
    limit = result["limit, rows a second"]
    yield f"{result['title']}; limit {limit:.1f} rows a second.\n"
    sides = result["sides"]
    best = max([sides[name]["rows a second"] for name in OURS if name in sides])
    rows = [
        (
            name,
            f"{row['rows a second']:.2f}",
            f"{best / row['rows a second']:.2f}",
            f"{100 * row['fraction of the limit']:.0f} %",
        )
        for name, row in sides.items()
    ]
    yield from _rows(("side", "rows a second", "times slower than ours", "limit"), rows)
    yield from _absent(result)
    if "compiling, seconds" in result:
        yield ""
        yield f"Compiling takes {result['compiling, seconds']:.0f} s, once, and is not in these."
    counts = list(dict.fromkeys([k for peaks in result["memory"].values() for k in peaks]))
    yield "\nMemory added at the peak, MiB, in a fresh process:\n"
    rows = [
        (name, *[_mib(peaks[k]["added, bytes"]) if k in peaks else "" for k in counts])
        for name, peaks in result["memory"].items()
    ]
    yield from _rows(("side", *[f"{count} particles" for count in counts]), rows)


def _startup(result: dict[str, Any]) -> Iterator[str]:
    yield "## Start-up\n"
    yield "Seconds in a fresh process, files in the system's cache.\n"
    rows = [
        (name, f"{row['seconds, minimum']:.2f}", f"{row['seconds, median']:.2f}")
        for name, row in result["commands"].items()
    ]
    rows += [(name, f"{each:.2f}", "") for name, each in result["differences, seconds"].items()]
    yield from _rows(("what", "minimum", "median"), rows)
    yield from _absent(result)


def _memory(result: dict[str, Any]) -> Iterator[str]:
    yield "## Memory of training\n"
    yield "Added at the peak of a step, MiB, in a fresh process.\n"
    names = dict.fromkeys([n for each in result["workloads"].values() for n in each["sides"]])
    rows = [
        (
            each["title"],
            *[_mib(each["sides"][n]["added, bytes"]) if n in each["sides"] else "" for n in names],
        )
        for each in result["workloads"].values()
    ]
    yield from _rows(("what", *names), rows)


def _streaming(result: dict[str, Any]) -> Iterator[str]:
    yield f"## Streaming: {result['title']}"
    yield ""
    reading = [
        [name, _mib(one["peak, bytes"]), f"{one['rows a second']:,.0f}"]
        for name, one in result["reading"].items()
    ]
    yield from _rows(["reading", "peak, MiB", "rows a second"], reading)
    yield ""
    yield f"Ten times the rows, {result['growth of the peak']:.2f} times the peak when streamed."
    yield ""
    training = [
        [name, f"{one['rows a second']:,.0f}", f"{one['ratio']:.2f}"]
        for name, one in result["training"].items()
    ]
    yield from _rows(["training", "rows a second", "time, to in memory"], training)


def _posteriors(result: dict[str, Any]) -> Iterator[str]:
    yield "## Posteriors\n"
    toy, mnist = result["toy"], result["mnist"]
    yield (
        f"**Four posteriors that are known**, of two dimensions, learned by one encoder in "
        f"{toy['steps']:,} steps: $KL(q(z|x) \\| p(z|x))$ in nats, as log p(x) by quadrature less "
        f"the bound. An auxiliary variable can only be measured by a bound of it.\n"
    )
    shapes = list(toy["log p(x)"])
    rows = []
    for name, found in sorted(toy["families"].items(), key=lambda one: one[1]["kl"]["value"]):
        each = [f"{found['kl of rows'][shape]:.2f}" for shape in shapes]
        cost = f"{found['milliseconds a step']:.1f}"
        rows.append((name, f"{found['kl']['value']:.3f}", *each, cost, f"`{found['posterior']}`"))
    yield from _rows(("family", "KL, mean", *shapes, "ms a step", "posterior"), rows)
    yield from _absent(toy)
    likelihoods = [found["log_px"] for found in mnist["families"].values()] or [{}]
    particles, tested = likelihoods[0].get("particles", 0), likelihoods[0].get("rows", 0)
    yield (
        f"\n**Binarized MNIST**, {mnist['seconds']:g} seconds of training on "
        f"{mnist['threads']} threads for each. "
        f"{mnist['model']}. {mnist['training']}. The bound is of all test rows; *above gaussian* "
        f"is the mean difference of the same rows, with its standard error, which says nothing "
        f"about another seed of training. log p(x) is importance-sampled with {particles} "
        f"particles on {tested:,} rows.\n"
    )
    rows = []
    by_bound = sorted(mnist["families"].items(), key=lambda one: -one[1]["elbo"]["value"])
    for name, found in by_bound:
        above, log_px = found.get("elbo above gaussian"), found["log_px"]
        rows.append(
            (
                name,
                _plus_minus(found["elbo"]),
                "" if above is None else _plus_minus(above),
                _plus_minus(log_px),
                f"{log_px['value'] - log_px['elbo']:.2f}",
                f"{found['steps']:,}",
                f"{found['milliseconds a step']:.1f}",
                f"`{found['posterior']}`",
            )
        )
    head = ("family", "elbo", "above gaussian", "log p(x)", "less elbo, same rows", "steps")
    yield from _rows((*head, "ms a step", "posterior"), rows)
    yield from _absent(mnist)


def _plus_minus(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.2f} ± {estimate['stderr']:.2f}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f}"


def _scaling(result: dict[str, Any]) -> Iterator[str]:
    yield "## Growth\n"
    yield "A line by least squares through the fastest of each size.\n"
    rows = []
    for series in result["series"].values():
        for side, fit in series.items():
            if not isinstance(fit, dict):
                continue
            sizes = fit["sizes"]
            rows.append(
                (
                    series["title"],
                    side,
                    f"{sizes[0]:,} to {sizes[-1]:,} {series['unit']}",
                    f"{fit['intercept, milliseconds']:.2f}",
                    f"{1e3 * fit['slope, milliseconds']:.2f}",
                    f"{fit['R2']:.4f}",
                )
            )
    yield from _rows(("what", "side", "sizes", "intercept, ms", "slope, µs each", "R²"), rows)


def _flows(result: dict[str, Any]) -> Iterator[str]:
    yield "## A flow\n"
    yield (
        f"{result['title']}: a draw with its density. Milliseconds, the fastest of many, and the "
        "ratio to its matrix products by hand, of the same shapes, with nothing between them."
    )
    yield ""
    workloads = result["workloads"]
    names = dict.fromkeys([name for each in workloads.values() for name in each["sides"]])
    rows = []
    for title, each in workloads.items():
        cells = [title]
        for name in names:
            row = each["sides"].get(name)
            ms, ratio = ("milliseconds, minimum", "ratio of minima")
            cells.append("" if row is None else f"{row[ms]:.2f} ({row[ratio]:.2f})")
        rows.append(cells)
    yield from _rows(("what", *names), rows)


def _discrete(result: dict[str, Any]) -> Iterator[str]:
    yield "## Estimators of discrete latents\n"
    settings = result["settings"]
    source, published = next(iter(result["published"].items()))
    yield (
        f"Statically binarized MNIST, {settings['epochs']} epochs; the bound on the test rows "
        f"with one draw, nats, higher is better, and that of {settings['particles']} draws. In "
        f"parentheses what {source} reports after a million steps: of the order, not of the "
        f"numbers, this is a check."
    )
    yield ""
    rows = []
    for model, estimators in result["models"].items():
        for name, found in estimators.items():
            one, many = found["test"]["elbo"], found["test"]["iwae"]
            theirs = published[model].get(name)
            rows.append(
                (
                    model,
                    name,
                    f"{one['value']:.2f} ± {one['stderr']:.2f}",
                    f"{many['value']:.2f} ± {many['stderr']:.2f}",
                    "" if theirs is None else f"({-theirs:.1f})",
                )
            )
    yield from _rows(("model", "estimator", "bound", "of several draws", "published"), rows)


def _images(result: dict[str, Any]) -> Iterator[str]:
    yield "## Models of images\n"
    yield (
        "MNIST after the minutes given, by `benchmarks/images.py`; log p(x) of test rows in nats, "
        "exactly or by importance sampling, and how many are asked for. Static, dynamic and grey "
        "do not compare."
    )
    yield ""
    rows = []
    for name, run in result["runs"].items():
        found, settings = run["test"]["log_px"], run["settings"]
        how = "exact" if found["exact"] else f"{found['particles']:,} particles"
        rows.append(
            (
                f"`{name}`: {run['what']}",
                settings["data"],
                f"{settings['minutes']:g}",
                f"{run['epochs']}",
                f"{found['value']:.2f} ± {found['stderr']:.2f}, {how}",
                "" if run["target"] is None else f"{run['target']}",
            )
        )
    yield from _rows(("model", "MNIST", "minutes", "epochs", "log p(x)", "asked"), rows)


def _annealing(result: dict[str, Any]) -> Iterator[str]:
    yield "## Annealing\n"
    walk = result["settings"]
    yield (
        f"{result['title']}, beside the evaluations of log p and its gradient that it needs, by "
        f"hand. Measured on {walk['rows']:,} rows and {walk['temperatures']} temperatures; the "
        f"whole is as many times as long. With the pilot runs that find the step sizes the ratio "
        f"is {result['ratio with pilots']:.2f}."
    )
    yield ""
    rows = [
        (
            name,
            f"{row['milliseconds, minimum']:.2f}",
            f"{row['ratio of minima']:.3f}",
            f"{result['whole, seconds'][name]:,.0f}",
        )
        for name, row in result["sides"].items()
    ]
    yield from _rows(("side", "ms an evaluation", "ratio", "the whole, s"), rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(tables(Path(sys.argv[1])))
    else:
        write(RESULTS, PAGE)
