"""The verbs for a model of a graph, which is one row: what is asked is of nodes and pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplvm.cli.console import evaluate_graph_into, may_write, note, show, waiting, write_card
from deeplvm.cli.outputs import TABLES, check_output, refuse_overwriting, save_table
from deeplvm.cli.parallel import precise
from deeplvm.runs.run import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.data.graphs import GraphData
    from deeplvm.data.readers.graphs import Graph
    from deeplvm.runs.run import Run

_LISTED = 1_000  # missing edges that are written


def carry_out(
    verb: str, run: Run, words: Sequence[str | None], options: Mapping[str, Any]
) -> None:
    """One verb, with what was said of it.

    Args:
        verb: Its name.
        run: Of a graph.
        words: What was said after the RUN folder.
        options: What was said as options.

    Raises:
        ValueError: If a graph has no such verb, or the verb no such option for a graph.
    """
    if verb not in _VERBS:
        raise ValueError(
            f"{verb} looks at many rows, and a graph is one; evaluate ranks held-out edges, and "
            f"the report shows the codes of the nodes."
        )
    known = inspect.signature(_VERBS[verb]).parameters
    for name in options:
        if name not in known:
            raise ValueError(
                f"--{name.replace('_', '-')} is of rows of values, and {run.folder} is a model of "
                f"a graph, which is one row; leave it out."
            )
    _VERBS[verb](run, *[word for word in words if word is not None], **options)


def _evaluate(
    run: Run,
    data: str | None = None,
    *,
    particles: int | str = "auto",
    split: str | None = None,
    seed: int = 0,
    precision: str = "float32",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Rank held-out pairs, and measure the bound."""
    from deeplvm.evaluation.graphs import evaluate_graph

    model, graph = _model(run, precision, device), _graph(run, data)
    if split == "train":
        raise ValueError("--split train: edges are ranked that were held out; say valid or test.")
    draws = 20 if particles == "auto" else int(particles)
    options: Any = {"split": split or "test", "draws": draws, "seed": seed}
    with waiting("ranking pairs"):
        if data is None:
            may_write(run.folder)
            found = evaluate_graph_into(run, model, graph, **options)
            write_card(run)
        else:
            found = evaluate_graph(model, graph, **options)
    show(found, json=json)


def _embed(
    run: Run,
    *sources: str,
    output: Path,
    escape_formulas: bool = False,
    scales: bool = False,
    precision: str = "float32",
    device: str = "auto",
) -> None:
    """A row a node: its name, its code, its label."""
    from deeplvm.evaluation.graphs import given_of
    from deeplvm.inference.compression import AtCentre
    from deeplvm.randomness import evaluating

    source = _one(sources, output, run)
    model, graph = _model(run, precision, device), _graph(run, source)
    given = given_of(model, graph, whole=source is not None)
    values: dict[str, Any] = {"node": graph.graph.titles}
    with evaluating(model, 0):
        for name, site in model.posterior(given, default=AtCentre()).items():
            if site.drawn and site.distribution is not None:
                values[name] = site.distribution.mean[0].cpu().numpy().copy()
                if scales:
                    values[f"{name}_scale"] = site.distribution.stddev[0].cpu().numpy().copy()
    names = {n: [f"{n}_{i}" for i in range(v.shape[1])] for n, v in values.items() if v.ndim > 1}
    save_table(output, values | _labels(graph.graph), names, escape=escape_formulas)
    edges = "all its edges" if source else "the edges that were learned from"
    note(f"{output}: {graph.graph.nodes:,} nodes of {graph.name}, encoded with {edges}")


def _score(
    run: Run,
    *sources: str,
    output: Path,
    escape_formulas: bool = False,
    particles: int | str = "auto",
    split: str | None = None,
    seed: int = 0,
    precision: str = "float32",
    device: str = "auto",
) -> None:
    """The probability of an edge between pairs, those of a file or those that are held out."""
    import torch

    source = _one(sources, output, run)
    model, graph = _model(run, precision, device), _graph(run, None)
    held: Any = None
    if source is not None:
        pairs = _pairs_of(Path(source), graph.graph)
    elif split == "train":
        known = graph.batch("test", slice(1))["a"]
        pairs = known.indices()[1:, known.values() == 1].T.contiguous()
    else:
        held = graph.held[split or "test"]
        pairs = held.all
    draws = 20 if particles == "auto" else int(particles)
    probability = _probabilities(model, graph, pairs, draws, seed)
    values = _columns(graph.graph, pairs) | {"probability": probability}
    values |= {"edge": _known(graph.graph, pairs)}
    save_table(output, values, escape=escape_formulas)
    log_p = np.log(np.where(values["edge"], probability, 1 - probability))
    note(
        f"{output}: {len(pairs):,} pairs, {int(values['edge'].sum()):,} of them edges of "
        f"{graph.name}; mean log-probability {float(torch.tensor(log_p).mean()):.3f} nats a pair"
    )


def _reconstruct(
    run: Run,
    data: str | None = None,
    *,
    output: Path,
    escape_formulas: bool = False,
    rows: int = 1_000,
    seed: int = 0,
    precision: str = "float32",
    device: str = "auto",
) -> None:
    """The pairs that the codes make most probable, and whether they are edges."""
    _write_likeliest(
        run, data, output, rows, seed, precision, device, known=True, escape=escape_formulas
    )


def _impute(
    run: Run,
    *sources: str,
    output: Path,
    escape_formulas: bool = False,
    seed: int = 0,
    precision: str = "float32",
    device: str = "auto",
) -> None:
    """The pairs without a known edge that are most probably one."""
    _write_likeliest(
        run, _one(sources, output, run), output, _LISTED, seed, precision, device, known=False,
        escape=escape_formulas,
    )  # fmt: skip


def _sample(
    run: Run,
    *,
    output: Path,
    escape_formulas: bool = False,
    rows: int = 1,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Graphs as lists of their edges, from codes that are drawn."""
    from deeplvm.randomness import evaluating

    _check(output, run)
    model = _model(run, "float32", device)
    variable = run.description.variables["a"]
    nodes = variable.levels or 1
    names = np.arange(nodes) if variable.categories is None else np.array(variable.categories)
    columns: dict[str, list[Any]] = {"graph": [], "source": [], "target": []}
    with evaluating(model, seed), waiting(f"drawing {rows:,} graphs"):
        for number in range(rows):
            edges = model.sample(1)["a"].value.indices()[1:].cpu().numpy()
            columns["graph"].append(np.full(edges.shape[1], number))
            columns["source"].append(names[edges[0]])
            columns["target"].append(names[edges[1]])
    values = {name: np.concatenate(parts) for name, parts in columns.items()}
    save_table(output, values if rows > 1 else {k: values[k] for k in ("source", "target")},
               escape=escape_formulas)  # fmt: skip
    expected = float(variable.mean) * nodes * (nodes - 1) / 2
    note(
        f"{output}: {len(values['source']) / rows:,.0f} edges a graph; the graph that was learned "
        f"from has {expected:,.0f} among as many pairs"
    )


def _write_likeliest(
    run: Run,
    source: str | None,
    output: Path,
    count: int,
    seed: int,
    precision: str,
    device: str,
    *,
    known: bool,
    escape: bool,
) -> None:
    from deeplvm.evaluation.graphs import given_of, likeliest_pairs

    _check(output, run, source)
    model, graph = _model(run, precision, device), _graph(run, source)
    given = given_of(model, graph, whole=source is not None)
    with waiting("ranking all pairs"):
        pairs = likeliest_pairs(model, given, count, known=known)
        probability = _probabilities(model, graph, pairs, 20, seed, whole=source is not None)
    values = _columns(graph.graph, pairs) | {"probability": probability}
    values |= {"edge": _known(graph.graph, pairs)}
    save_table(output, values, escape=escape)
    said = "most probable pairs" if known else "most probable pairs without a known edge"
    right = int(values["edge"].sum())
    held = "" if known or source else ", which were held out"
    note(f"{output}: the {len(pairs):,} {said}; {right:,} are edges of {graph.name}{held}")


def _probabilities(
    model: Any, graph: GraphData, pairs: Tensor, draws: int, seed: int, *, whole: bool = False
) -> Any:
    from deeplvm.evaluation.graphs import edge_probabilities, given_of

    given = given_of(model, graph, whole=whole)
    return edge_probabilities(model, given, pairs, draws=draws, seed=seed).double().cpu().numpy()


def _model(run: Run, precision: str, device: str) -> Any:
    from deeplvm.devices import place

    return precise(run.model.to(place(device)), precision)


def _graph(run: Run, source: str | None) -> GraphData:
    from deeplvm.data.graphs import GraphData

    data = run.read(source)
    if not isinstance(data, GraphData):
        raise RunError(f"{source or run.config.data} is no graph.")
    return data


def _check(output: Path, run: Run, *sources: str | None) -> None:
    check_output(output, TABLES)
    refuse_overwriting(output, run.config.data, *sources)


def _one(sources: tuple[str, ...], output: Path, run: Run) -> str | None:
    if len(sources) > 1:
        raise ValueError(f"One graph at a time, found {len(sources)} files.")
    _check(output, run, *sources)
    return sources[0] if sources else None


def _pairs_of(path: Path, graph: Graph) -> Tensor:
    """The pairs of a file, two columns of names or numbers of nodes."""
    import torch

    from deeplvm.data.readers.graphs import read_pairs

    pairs, _ = read_pairs(path, header=None, drop=())
    titles = [str(each) for each in graph.titles]
    at = {name: number for number, name in enumerate(titles)}
    if unknown := [name for name in pairs.flatten().tolist() if name not in at]:
        raise ValueError(f"{path}: there is no node {unknown[0]!r} in {graph.name}.")
    return torch.tensor([[at[a], at[b]] for a, b in pairs.tolist()]).reshape(-1, 2)


def _columns(graph: Graph, pairs: Tensor) -> dict[str, Any]:
    ends = graph.titles[pairs.numpy()]
    return {"source": ends[:, 0], "target": ends[:, 1]}


def _known(graph: Graph, pairs: Tensor) -> Any:
    """Whether pairs are edges of the whole graph."""
    ends = np.sort(pairs.numpy(), 1)
    width = np.array([graph.nodes, 1])
    return np.isin(ends @ width, graph.edges @ width)


def _labels(graph: Graph) -> dict[str, Any]:
    if graph.labels is None or graph.classes is None:
        return {}
    names = np.array([*graph.classes, ""])
    return {"y": graph.labels, "label": names[graph.labels]}


_VERBS: Mapping[str, Callable[..., None]] = {
    "evaluate": _evaluate,
    "embed": _embed,
    "score": _score,
    "reconstruct": _reconstruct,
    "impute": _impute,
    "sample": _sample,
}
