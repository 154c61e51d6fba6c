"""Draws, latents, reconstructions, scores: from a model and rows to named arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.distributions.centre import centre
from deeplvm.processes import processes
from deeplvm.training.batches import seed_of

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Description, Split
    from deeplvm.model import LatentVariableModel
    from deeplvm.trace import Site

_ROWS = 500  # at a time
_DRAWS = 64  # for the moments of a posterior that has none in closed form


def place(device: str) -> torch.device:
    """The device of a word: ``auto`` is CUDA where there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise ValueError("There is no CUDA device here; use --device cpu, or auto.")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and here) else "cpu")


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """No gradients, and draws that the seed decides; torch's own state is left as it was."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        yield


def sampled(
    model: LatentVariableModel,
    description: Description,
    rows: int,
    *,
    seed: int,
    mean: bool,
    label: str | None = None,
) -> dict[str, Tensor]:
    """Draws of the variables: of p(x | z), or its mean, at draws of z.

    A model of x given a label gets the labels in turn, or the one label named; they are returned
    as ``y``.

    Raises:
        ValueError: If the model has inputs other than a label, or there is no such label.
    """
    inputs = [name for name in model.p.inputs if name not in model.p.names]
    if label is not None and "y" not in inputs:
        raise ValueError("--label is for a model of x given a label; this one draws x without it.")
    if others := [name for name in inputs if name != "y"]:
        raise ValueError(
            f"The model needs {', '.join(others)} to draw from, which only code can give: "
            f"model.sample(given={{{others[0]!r}: ...}})."
        )
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    given: dict[str, Any] = {}
    if "y" in inputs:
        classes = description.classes or ()
        if label is not None and label not in classes:
            raise ValueError(f"There is no label {label!r}; there are {', '.join(classes)}.")
        numbers = [classes.index(label)] if label is not None else range(len(classes))
        turns = torch.tensor(list(numbers), device=device)
        given["y"] = turns[torch.arange(rows, device=device) % len(turns)]
    with drawing(seed):
        trace = model.sample(rows, given)
        names = [name for name in description.variables if name in trace]
        values = {
            name: centre(site.distribution)
            if mean and site.distribution is not None
            else site.value
            for name in names
            for site in (trace[name],)
        }
    return {name: value.cpu() for name, value in {**values, **given}.items()}


def given_rows(
    model: LatentVariableModel,
    data: Data,
    split: Split,
    seed: int,
    *,
    first: int | None = None,
    size: int = _ROWS,
) -> Iterator[dict[str, Tensor]]:
    """This process's share of the rows that the model reads, some at a time, on its device.

    Draws begin anew with each of them, so that they are the same for any number of processes.

    Raises:
        ValueError: If the split is empty.
    """
    total = data.rows(split)
    if total == 0:
        raise ValueError(f"{data.name} has no {split} rows; choose another --split.")
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    end = total if first is None else min(first, total)
    starts = range(0, end, size)
    for start in starts[processes().part(len(starts))]:
        batch = data.batch(split, slice(start, min(start + size, end)))
        torch.manual_seed(seed_of(seed, start))
        yield {name: value.to(device) for name, value in batch.items() if name in model.names}


def embedded(
    model: LatentVariableModel, data: Data, split: Split, *, seed: int, scales: bool
) -> dict[str, Tensor]:
    """Posterior means of the latents, and with ``scales`` their standard deviations (``z_sd``).

    A latent whose posterior depends on another latent has the mean given a draw of that one; one
    without a distribution of its own (moved by leapfrog steps, or unrolled) is a draw. A flow,
    whose mean has no closed form, has that of some draws.
    """
    parts: list[dict[str, Tensor]] = []
    with drawing(seed):
        for given in given_rows(model, data, split, seed):
            trace = model.posterior(given, missing=data.missing & set(given))
            part: dict[str, Tensor] = {}
            for name, site in trace.items():
                if not site.drawn:
                    continue
                shape = site.value.shape
                told = _moments(name, site, scales=scales)
                part |= {each: value.expand(shape).cpu() for each, value in told.items()}
            parts.append(part)
    latents = _joined(parts)
    if not latents:
        raise ValueError("The model draws no latents, so there is nothing to embed in.")
    return latents


def _moments(name: str, site: Site, *, scales: bool) -> dict[str, Tensor]:
    """The mean of a drawn latent and its standard deviation, where there are any."""
    own = site.distribution
    if own is None:
        return {name: site.value}
    try:
        mean, spread = centre(own), own.stddev if scales else None
    except NotImplementedError:  # a flow has no moments in closed form
        draws = own.sample(torch.Size((_DRAWS,)))
        mean, spread = draws.mean(0), draws.std(0)
    return {name: mean} if not scales or spread is None else {name: mean, f"{name}_sd": spread}


def reconstructed(
    model: LatentVariableModel, data: Data, split: Split, *, seed: int, first: int | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Originals, and the means of p(x | z) at one draw of z from q(z | x), by name."""
    originals: list[dict[str, Tensor]] = []
    means: list[dict[str, Tensor]] = []
    with drawing(seed):
        for given in given_rows(model, data, split, seed, first=first):
            trace = model.reconstruct(given, missing=data.missing & set(given))
            names = [
                name
                for name in data.variables
                if name in given and name in trace and trace[name].distribution is not None
            ]
            originals.append({name: given[name].cpu() for name in names})
            means.append({name: _centre_of(trace[name].distribution).cpu() for name in names})
    return _joined(originals), _joined(means)


def imputed(
    model: LatentVariableModel, data: Data, split: Split, *, particles: int, seed: int
) -> dict[str, Tensor]:
    r"""Each missing element filled with its posterior predictive mean (a category: its mode).

    :math:`E[x_m | x_o] \approx \sum_k w_k E[x_m | z_k]` with :math:`z_k \sim q(z | x_o)` and
    normalised importance weights :math:`w_k \propto p(x_o, z_k) / q(z_k | x_o)`.
    """
    parts = []
    # a few rows at a time: there are `particles` pictures of each
    size = min(_ROWS, max(1, _ROWS * 20 // particles))
    with drawing(seed):
        for given in given_rows(model, data, split, seed, size=size):
            holes = data.missing & set(given)
            evidence = model.evidence(given, particles=particles, missing=holes)
            weights = evidence.log_weight.softmax(0)  # (K, B)
            part = {n: value.cpu() for n, value in given.items() if n in data.variables}
            for name in [each for each in part if each in holes]:
                site = evidence.p[name]
                part[name] = _filled(
                    site.value, _centre_of(site.distribution), weights, _categories(data, name)
                ).cpu()
            parts.append(part)
    return _joined(parts)


def _filled(value: Tensor, means: Tensor, weights: Tensor, categories: Tensor) -> Tensor:
    """Weighted means where elements are missing; of a category, the value of the most weight."""
    spread = weights.reshape(*weights.shape, *[1] * (means.dim() - 2))
    mean = (spread * means).sum(0)
    if bool(categories.any()):
        levels = torch.arange(int(means.max()) + 1, device=means.device, dtype=means.dtype)
        votes = (spread.unsqueeze(-1) * (means.round().unsqueeze(-1) == levels)).sum(0)
        mean = torch.where(categories.to(mean.device), votes.argmax(-1).to(mean), mean)
    return torch.where(value.isnan(), mean, value)


def _categories(data: Data, name: str) -> Tensor:
    """Which elements are codes of categories, that have no mean."""
    variable = data.variables[name]
    if variable.parts:
        return torch.tensor([part.kind == "category" for part in variable.parts])
    return torch.full(variable.shape, variable.kind == "category")


def _centre_of(distribution: Distribution | None) -> Tensor:
    if distribution is None:
        raise ValueError("This variable is unrolled step by step, and has no one distribution.")
    return centre(distribution)


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts, and of all processes."""
    names = list(parts[0]) if parts else []
    return processes().gather({name: torch.cat([part[name] for part in parts]) for name in names})
