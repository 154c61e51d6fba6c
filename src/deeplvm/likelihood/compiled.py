"""A joint whose densities are compiled, and whether that pays for an evaluation."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Draw
from deeplvm.core.joint import shared_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace, View
from deeplvm.likelihood.chunks import Chunks
from deeplvm.parallel.processes import processes

Compile = bool | Literal["auto"]

_FEWEST = 500  # chunks, below which compiling is not considered
_WORTH = 60.0  # seconds that the evaluation must take, some times what compiling takes
_GAIN = 0.9  # of the eager time: far enough from 1 that noise does not decide


class CompiledJoint(nn.Module):
    r"""A joint p that scores through one compiled function, at one shape.

    It returns the log-densities alone: what lies between (logits, and what the density is made of)
    is never written to memory. A call of another shape, or one that must draw, goes to the joint.

    Args:
        joint: Shared, not copied.
        batch_shape: ``(*particles, batch)`` of the calls that are worth compiling.
    """

    def __init__(self, joint: Any, batch_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.joint = joint
        self.names, self.inputs = joint.names, joint.inputs
        self.shared = shared_of(joint)
        self.symbol = joint.symbol
        self.batch_shape = batch_shape
        self.compiled: dict[Any, Callable[..., dict[str, Tensor]]] = {}

    def __getitem__(self, name: str) -> nn.Module:
        return self.joint[name]

    def __contains__(self, name: object) -> bool:
        return name in self.joint

    def parents(self, name: str) -> Any:
        """The parents of a name."""
        return self.joint.parents(name)

    def forward(
        self,
        given: Mapping[str, Site],
        batch_shape: tuple[int, ...],
        *,
        draw: Mapping[str, Draw] | None = None,
        default: Any = None,
        missing: frozenset[str] = frozenset(),
        ready: Mapping[str, Site] | None = None,
    ) -> Trace:
        """The log-densities of given Sites, without their distributions."""
        ready = ready or {}
        parts = {name: site.value for name, site in given.items()}
        nodes = {name: site.value for name, site in ready.items()}
        tensors = [*parts.values(), *nodes.values()]
        fits = batch_shape == self.batch_shape and all([isinstance(t, Tensor) for t in tensors])
        if draw or not fits:
            options = {"draw": draw, "default": default, "missing": missing, "ready": ready}
            return self.joint(given, batch_shape, **options)
        given_dims = {name: site.batch_dims for name, site in given.items()}
        node_dims = {name: site.batch_dims for name, site in ready.items()}
        key = (tuple(given_dims.items()), tuple(node_dims.items()), missing)
        if key not in self.compiled:
            views = {name: site.view for name, site in given.items()}
            self.compiled[key] = self._compile(given_dims, views, node_dims, missing, default)
        terms = self.compiled[key](parts, nodes)
        sites = {n: Site(None, log_prob=term) for n, term in terms.items()}
        return Trace(sites, batch_shape)

    def _compile(
        self,
        given_dims: dict[str, int],
        views: dict[str, View | None],
        node_dims: dict[str, int],
        missing: frozenset[str],
        default: Any,
    ) -> Callable[..., dict[str, Tensor]]:
        joint, batch_shape = self.joint, self.batch_shape

        def log_prob(parts: dict[str, Tensor], nodes: dict[str, Tensor]) -> dict[str, Tensor]:
            given = {
                name: Site(
                    value, batch_dims=given_dims[name], view=views[name], holes=name in missing
                )
                for name, value in parts.items()
            }
            ready = {n: Site(value, batch_dims=node_dims[n]) for n, value in nodes.items()}
            trace = joint(given, batch_shape, default=default, missing=missing, ready=ready)
            return {
                name: site.log_prob for name, site in trace.items() if site.log_prob is not None
            }

        on_gpu = any([parameter.is_cuda for parameter in joint.parameters()])
        # on a GPU captured in a graph too, and replayed
        mode = "reduce-overhead" if on_gpu else None
        return torch.compile(log_prob, fullgraph=True, dynamic=False, mode=mode)


def choose(chunks: Chunks, wanted: Compile, total: int) -> tuple[LatentVariableModel, float]:
    """The model, or the same with p compiled, and the seconds that compiling took.

    Several processes take the first one's choice.

    Args:
        chunks: Some are evaluated on trial, from streams of their own.
        wanted: ``"auto"``: where the chunks to come would take a minute, p is compiled, and the
            faster form is taken. Where compiling fails, p as it is.
        total: Chunks to come.

    Raises:
        ValueError: If ``wanted`` is true and p cannot be compiled here.
    """
    model = chunks.model
    if wanted is False or (wanted == "auto" and total < _FEWEST):
        return model, 0.0
    group = processes()
    if wanted is True:
        return _compiled(chunks, required=True)
    eager = _seconds(chunks) if group.first else 0.0
    if not group.from_first(eager * total > _WORTH):
        return model, 0.0
    faster, took = _compiled(chunks, required=False)
    pays = False
    if faster is not model and group.first:
        chunks.model = faster
        pays = _seconds(chunks) < _GAIN * eager
        chunks.model = model
    return (faster if group.from_first(pays) else model), took


def _compiled(chunks: Chunks, *, required: bool) -> tuple[LatentVariableModel, float]:
    model = chunks.model
    shape = next(iter(chunks.some(1))).batch_shape
    faster = LatentVariableModel(CompiledJoint(model.p, shape), model.q)
    validation = Distribution._validate_args
    began = time.perf_counter()
    try:
        chunks.model = faster
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about itself
            next(iter(chunks.some(1)))
    except (RuntimeError, OSError, ImportError) as error:  # what torch's compilers raise
        if required:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ValueError(
                f"The densities of p cannot be compiled here "
                f"({lines[0] if lines else type(error).__name__}); leave out compile, or see what "
                f"torch.compile needs (a C++ compiler on a CPU)."
            ) from error
        faster = model
    finally:
        chunks.model = model
        model.p.symbol, model.q.symbol = "p", "q"
        # tracing switches the validation of torch's distributions off, for good
        Distribution.set_default_validate_args(validation)
    return faster, time.perf_counter() - began


def _seconds(chunks: Chunks) -> float:
    """Of one chunk, the least of a few."""
    times: list[float] = []
    began = time.perf_counter()
    for evidence in chunks.some(6):
        total = evidence.total(list(evidence.terms.values()))
        if total.is_cuda:
            torch.cuda.synchronize(total.device)
        now = time.perf_counter()
        times.append(now - began)
        began = now
    return min(times)
