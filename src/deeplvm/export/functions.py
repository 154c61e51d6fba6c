r"""A run as functions of plain tensors: what they take and give, in the units of the user's file.

``Encoder`` maps rows to the moments of q(z | x), ``Decoder`` latents to the mean of x, and
``LogLikelihood`` rows to :math:`\log \hat p(x)`. Each is an ``nn.Module`` whose graph has nothing
in it but tensor operations, for ``torch.export`` and all that reads its programs.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from deeplvm.core.draws import Drawn, Enumerated, Sampled, as_measured
from deeplvm.core.joint import Joint
from deeplvm.core.trace import base_of, expand_to
from deeplvm.data.preparation import support_of
from deeplvm.data.variable import Variable
from deeplvm.distributions.centre import centre
from deeplvm.export.noise import KeptNoise
from deeplvm.inference.missing import pieces
from deeplvm.objectives import iwae
from deeplvm.objectives.bounds import of_one_particle
from deeplvm.randomness import drawing
from deeplvm.runs.run import Run

_EXAMPLE_ROWS = 3  # a graph that was made from one row would be of one row


class ExportError(ValueError):
    """A run, or a part of it, is not a function of tensors; the message says why."""


@dataclass(frozen=True)
class Port:
    """An argument or a result of a function.

    Attributes:
        name: ``"z"``, ``"x"``, ``"y"``, ``"probability_job"``.
        shape: Of one row.
        meaning: What it is, in words.
        variable: What its values are, where they are in the units of the file: of a category the
            codes 0, 1, ... of ``variable.categories``, of a date the days since 1970-01-01, of
            columns each its own (``variable.by_column``).
        dtype: Of the tensor.
    """

    name: str
    shape: tuple[int, ...]
    meaning: str
    variable: Variable | None = None
    dtype: torch.dtype = torch.float32

    def example(self, rows: int, generator: torch.Generator) -> Tensor:
        """Some values of it, shape ``(rows, *shape)``, near 0 where they are latents."""
        if not self.dtype.is_floating_point:
            most = (self.variable.levels if self.variable else None) or 2
            return torch.randint(most, (rows, *self.shape), generator=generator)
        if self.variable is None:
            return torch.randn((rows, *self.shape), generator=generator, dtype=self.dtype)
        parts = parts_of(self.variable)
        spread = [max(float(p.std.nan_to_num().mean()), 1e-3) for p in parts]
        start = [float(p.mean.nan_to_num().mean()) for p in parts]
        noise = torch.randn((rows, *self.shape), generator=generator, dtype=torch.float64)
        values = []
        for place, part in enumerate(parts):
            whole, low, high = support_of(part)
            own = noise if self.variable.columns is None else noise[:, place]
            value = start[place] * part.divisor + spread[place] * part.divisor * own
            value = value.round() if whole else value
            value = value.clamp(low, part.grey or high) / round(1 / part.step) + part.origin
            values.append(value)
        found = values[0] if self.variable.columns is None else torch.stack(values, 1)
        return found.to(self.dtype)


def parts_of(variable: Variable) -> list[Variable]:
    """The columns of a table; else the variable itself, of which all elements are alike."""
    return list(variable.by_column.values()) or [variable]


@dataclass(frozen=True)
class _Set:
    """A latent that has a value, or its centre; nothing is drawn, and nothing scored.

    Attributes:
        value: The value; none for the centre.
        noise: For the moments of what has none in closed form; none to refuse it.
        spread: Where the standard deviations of names are put, one a step of those drawn in steps.
    """

    value: Tensor | None = None
    noise: KeptNoise | None = None
    spread: dict[str, list[Tensor]] = field(default_factory=dict)

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        value = self.value
        if value is None:
            value = self._centre(name, expand_to(distribution, batch_shape, batch_dims))
        return Drawn(value, value.new_zeros(()), batch_shape, 0.0)

    def _centre(self, name: str, own: Distribution) -> Tensor:
        discrete = isinstance(base_of(own), _CODES)
        try:
            value = centre(own)
            if not discrete:
                self.spread.setdefault(name, []).append(own.stddev)
            return value
        except NotImplementedError:
            if self.noise is None:
                kind = type(base_of(own)).__name__
                raise ExportError(
                    f"{name!r} has no mean that is known (its distribution is a {kind}), so that "
                    f"it is no function of the rest; draws of it are what deeplvm sample gives."
                ) from None
        with self.noise.drawing(f"moments of {name}", tuple(own.batch_shape)):  # as embed has them
            draws = own.sample(torch.Size((_DRAWS,)))
        self.spread.setdefault(name, []).append(draws.std(0))
        return draws.mean(0)


_DRAWS = 64
_CODES = (torch.distributions.Categorical, torch.distributions.OneHotCategorical)


def _searchsorted(
    edges: Tensor, values: Tensor, *, out_int32: bool = False, right: bool = False, **_: Any
) -> Tensor:
    """How many edges lie below, by counting: formats for graphs have no search."""
    values, edges = values.unsqueeze(-1), edges.unsqueeze(-2)
    below = edges <= values if right else edges < values
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


_SIMPLER: dict[Any, Any] = {torch.ops.aten.searchsorted.Tensor: _searchsorted}


class Function(nn.Module):
    """Tensors in, tensors out; what is what is said by :attr:`inputs` and :attr:`outputs`."""

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()

    def example(self, rows: int = _EXAMPLE_ROWS, seed: int = 0) -> tuple[Tensor, ...]:
        """Arguments of so many rows."""
        generator = torch.Generator().manual_seed(seed)
        return tuple([port.example(rows, generator) for port in self.inputs])

    def _refuse_chance(self) -> None:
        """Refuse a model that draws within a density, whose numbers nobody keeps."""
        one = self.example(1)
        first, second = [self._drawn(seed, one) for seed in (0, 1)]
        if not all(
            [
                torch.equal(a.nan_to_num(), b.nan_to_num())
                for a, b in zip(first, second, strict=True)
            ]
        ):
            raise ExportError(
                f"The {type(self).__name__} of this model is no function of its arguments: it "
                f"draws numbers that are no latent's."
            )

    def _drawn(self, seed: int, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with drawing(seed), unvalidated():
            return self(*arguments)

    def program(self) -> torch.export.ExportedProgram:
        """The graph, for any number of rows.

        Raises:
            ExportError: If torch cannot make one of it.
        """
        rows = torch.export.Dim("rows", min=1)
        args = self.example()
        shapes = tuple([{0: rows} for _ in args])
        try:
            with torch.no_grad(), unvalidated(), quietly():
                program = torch.export.export(self.eval(), args, dynamic_shapes=(shapes,))
                program = program.run_decompositions(_SIMPLER)
            for node in program.graph.nodes:  # of which modules: torch reads no commas back
                node.meta.pop("nn_module_stack", None)
        except ExportError:
            raise
        except Exception as error:  # torch raises errors of many kinds
            said = " ".join(str(error).split())[:200]
            if "Constraints violated" in said:
                raise ExportError(
                    f"torch.export makes no graph of the {type(self).__name__} of this model that "
                    f"is of any number of rows; deeplvm score reads the run itself."
                ) from error
            raise ExportError(
                f"torch.export makes no graph of the {type(self).__name__} of this model "
                f"({type(error).__name__}: {said})."
            ) from error
        random = [
            node.target.name()  # type: ignore[union-attr]
            for node in program.graph.nodes
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        ]
        if random:
            raise ExportError(
                f"The {type(self).__name__} of this model draws by {random[0]}, whose numbers "
                f"cannot be kept."
            )
        return program


class Decoder(Function):
    r"""Latents (and given names) to the mean of :math:`p(x | z)` in the units of the file.

    Latents that are not among the arguments have their mean given those that they follow from, as
    :math:`E[z_1 | z_2]` in a hierarchy of which only :math:`z_2` is moved.

    Args:
        run: A run; its model is evaluated in eval mode.
        latents: Which latents are arguments; all by default.

    Shape:
        Arguments, in the order of :attr:`inputs`: each latent ``(rows, *event)``, then labels and
        other names that p reads, ``(rows, *event)``, codes int64. Results, in the order of
        :attr:`outputs`: of each variable its mean ``(rows, *shape)`` (of a binary element the
        probability of 1, of a category the most probable code), then of each column of categories
        their probabilities ``(rows, categories)``, ``probability_<column>``.

    Raises:
        ExportError: If x has no mean that is known, a row is a sequence, a text or a graph, or
            there is no such latent.

    >>> from deeplvm.runs.run import open_run
    >>> decoder = Decoder(open_run("runs/digits-vae"))  # doctest: +SKIP
    >>> (x,) = decoder(torch.zeros(5, 20))  # doctest: +SKIP
    >>> program = decoder.program()  # a torch.export.ExportedProgram  # doctest: +SKIP
    """

    def __init__(self, run: Run, latents: Sequence[str] | None = None) -> None:
        super().__init__()
        model, description = run.model, run.description
        refuse_other_rows(run)
        self.p = model.p
        self.variables = {n: v for n, v in description.variables.items() if n in model.p.names}
        self.in_units = nn.ModuleDict({n: InUnits(v) for n, v in self.variables.items()})
        read = [n for n in model.p.inputs if n in description.variables]
        labelled = "y" in (*model.p.names, *model.p.inputs) and description.label is not None
        if others := [n for n in model.p.inputs if n not in read and n != "y"]:
            raise ExportError(
                f"p reads {', '.join(others)}, which only code can give, so the decoder of "
                f"{run.folder} is no function of latents alone."
            )
        self.given = Given(run, read, labelled=labelled)
        with drawing(0), unvalidated():
            known, _ = self.given(*self.given.example(1))
            trace = self.p(known, (1,), default=Sampled())
        sites = {
            n: site
            for n, site in trace.items()
            if site.drawn and n not in self.variables and not n.endswith(("_observed", "_seen"))
        }
        if unknown := [n for n in latents or () if n not in sites]:
            raise ExportError(f"There is no latent {unknown[0]!r}; there are {', '.join(sites)}.")
        if not sites:
            raise ExportError(
                f"The model of {run.folder} draws no latents, so there is nothing to decode."
            )
        moved = {n: site.value for n, site in sites.items() if latents is None or n in latents}
        self.inputs = (
            *[
                Port(n, tuple(v.shape[1:]), f"the latent {n}", dtype=v.dtype)
                for n, v in moved.items()
            ],
            *self.given.inputs,
        )
        self.moved = tuple(moved)
        # of each variable the columns of each piece of its distribution that has categories
        self.categories = {
            n: _categories(v, trace[n].distribution) for n, v in self.variables.items()
        }
        parts = [
            self.variables[n].by_column[column]
            for n, found in self.categories.items()
            for columns in found.values()
            for _, column in columns
        ]
        self.outputs = (
            *[
                Port(n, v.shape, f"the mean of {n}", v, self.in_units[n].dtype)  # type: ignore[arg-type]
                for n, v in self.variables.items()
            ],
            *[_shares(f"probability_{part.name}", part) for part in parts],
        )
        self._refuse_chance()  # and what has no mean

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Means, then probabilities of categories."""
        latents, others = arguments[: len(self.moved)], arguments[len(self.moved) :]
        given, _ = self.given(*others)
        moved = dict(zip(self.moved, latents, strict=True))
        ways: dict[str, Any] = {name: _Set(value) for name, value in moved.items()}
        trace = self.p(given, (arguments[0].shape[0],), draw=ways, default=_Set())
        means, shares = [], []
        for name in self.variables:
            own: Any = trace[name].distribution
            means.append(self.in_units[name](trace[name].value))
            wanted = self.categories[name]
            found = pieces(own) if wanted else []
            for number, columns in wanted.items():
                each = _probabilities(found[number][1])
                shares += [each[..., place, :] for place, _ in columns]
        return (*means, *shares)


class Prepared(nn.Module):
    """Rows of a variable as the file has them, as a model reads them; and which are possible.

    What is drawn when data are read (grey values to binary ones, the noise of whole numbers that
    have a density) is drawn once, and the same for all rows.

    Args:
        variable: What they are.
        holes: Whether values may be missing (NaN).
        seed: Of what is drawn.
    """

    steps: Tensor
    origin: Tensor
    low: Tensor
    high: Tensor
    safe: Tensor
    divisor: Tensor
    whole: Tensor
    noise: Tensor

    def __init__(self, variable: Variable, *, holes: bool, seed: int = 0) -> None:
        super().__init__()
        self.holes, self.columns = holes, variable.columns is not None
        parts, wide = parts_of(variable), torch.float64
        dates = any([part.kind == "date" for part in parts])
        self.dtype = wide if dates else torch.get_default_dtype()
        found = [support_of(part) for part in parts]
        grey = variable.grey
        if grey is not None:
            found = [(False, 0.0, grey)]
        safe = [
            (max(low, 0.0) if math.isfinite(low) else 0.0) if whole else float(part.mean.nanmean())
            for part, (whole, low, _) in zip(parts, found, strict=True)
        ]
        of_parts = {
            "steps": [float(round(1 / part.step)) for part in parts],
            "origin": [part.origin for part in parts],
            "low": [low for _, low, _ in found],
            "high": [high for _, _, high in found],
            "safe": safe,
            "divisor": [part.divisor for part in parts],
        }
        for name, values in of_parts.items():
            each = torch.tensor(values if self.columns else values[0], dtype=self.dtype)
            self.register_buffer(name, each, persistent=False)
        whole = [each for each, _, _ in found]
        noisy = [float(part.dequantized) for part in parts]
        self.register_buffer(
            "whole", torch.tensor(whole if self.columns else whole[0]), persistent=False
        )
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(variable.shape, generator=generator, dtype=wide)
        if grey is None:
            noise = noise * torch.tensor(noisy if self.columns else noisy[0], dtype=wide)
        self.grey, self.noisy = grey, grey is not None or any(noisy)
        self.register_buffer("noise", noise.to(self.dtype), persistent=False)
        self.scaled = any([part.step != 1 for part in parts])

    def forward(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """``(rows, *shape)`` to the same as the model has it, and a flag of each row."""
        value = own * self.steps if self.scaled else own - self.origin
        near = ~self.whole | ((value - value.round()).abs() <= _ROUNDED)
        good = near & (value >= self.low) & (value <= self.high) & value.isfinite()
        value = torch.where(self.whole, value.round(), value)
        value = torch.where(good, value, self.safe)
        if self.grey is not None:
            value = (self.noise * self.grey < value).to(self.dtype)
        elif self.noisy:
            value = (value + self.noise) / self.divisor
        if self.holes:
            value, good = torch.where(own.isnan(), math.nan, value), good | own.isnan()
        return value.to(torch.get_default_dtype()), good.flatten(1).all(1)


_ROUNDED = 1e-3  # of whole numbers that come as multiples of a step, in single precision


class Given(nn.Module):
    """Rows as the file has them by name, as the model reads them.

    Args:
        run: Whose.
        names: Variables that are arguments.
        labelled: Whether a label is the last argument.
    """

    def __init__(self, run: Run, names: Sequence[str], *, labelled: bool) -> None:
        super().__init__()
        variables = {name: run.description.variables[name] for name in names}
        training = run.config.training
        hidden = bool(training.get("hide") or training.get("hide_names"))
        self.missing = frozenset([n for n, v in variables.items() if v.missing or hidden])
        self.prepared = nn.ModuleDict(
            {
                name: Prepared(variable, holes=name in self.missing, seed=place)
                for place, (name, variable) in enumerate(variables.items())
            }
        )
        self.label = run.description.label if labelled else None
        self.inputs = tuple(
            [
                Port(name, variable.shape, _said_of(name, name in self.missing), variable,
                     self.prepared[name].dtype)  # type: ignore[arg-type]
                for name, variable in variables.items()
            ]
        )  # fmt: skip
        if self.label is not None:
            self.inputs += (Port("y", (), "the label, a code", self.label, torch.int64),)

    def example(self, rows: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Arguments of so many rows."""
        generator = torch.Generator().manual_seed(seed)
        return tuple([port.example(rows, generator) for port in self.inputs])

    def forward(self, *arguments: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Values by name, and which rows are possible."""
        given, good = {}, None
        for port, argument in zip(self.inputs, arguments, strict=True):
            if port.name == "y":
                assert self.label is not None
                own = (argument >= 0) & (argument < (self.label.levels or 1))
                given["y"] = torch.where(own, argument, 0)
            else:
                given[port.name], own = self.prepared[port.name](argument)
            good = own if good is None else good & own
        return given, good


def _said_of(name: str, holes: bool) -> str:  # noqa: FBT001
    lacking = "NaN where missing" if holes else "without holes: a row with one gives NaN"
    return f"{name} as in the file, {lacking}"


def _rows_of(run: Run) -> Given:
    """The arguments of functions of rows: what the model reads of a row, and cannot draw.

    Raises:
        ExportError: If rows are no arrays, or the model reads what a file does not have.
    """
    refuse_other_rows(run)
    model, variables = run.model, run.description.variables
    read = [n for n in variables if n in model.names]
    inputs = {*model.p.inputs, *model.q.inputs} - {*model.p.names, *model.q.names, *read}
    follow = {f"{name}_{kind}" for name in read for kind in ("seen", "observed")}
    labelled = "y" in inputs or ("y" in model.p.names and "y" not in model.q.names)
    if others := sorted(inputs - follow - {"y"}):
        raise ExportError(
            f"The model of {run.folder} reads {', '.join(others)}, which only code can give."
        )
    return Given(run, read, labelled=labelled)


class Encoder(Function):
    r"""Rows in the units of the file to the mean and the standard deviation of :math:`q(z | x)`.

    A latent that depends on another has those given that one's mean (of a label, its most probable
    value). A flow, whose moments have no closed form, has those of 64 draws, whose noise is that
    of all rows.

    Shape:
        Arguments, in the order of :attr:`inputs`: variables ``(rows, *shape)``, NaN where one is
        missing, categories as codes, dates as days since 1970-01-01 in float64; then the label, a
        code, where q reads it. Results, in the order of :attr:`outputs`: of each latent ``z`` its
        mean and ``z_sd``; of one with categories its probabilities, ``probability_y``. A row that
        the model cannot have (a count of −1, an unknown code, a hole where it never saw one) gives
        NaN.

    Raises:
        ExportError: If nothing is latent, or rows are not an array each.
    """

    def __init__(self, run: Run, seed: int = 0) -> None:
        super().__init__()
        self.model = model = run.model
        if not model.q.names:
            raise ExportError(
                f"The model of {run.folder} draws no latents, so there is nothing to embed in."
            )
        self.given, self.seed = _rows_of(run), seed
        self.inputs, noise = self.given.inputs, KeptNoise(seed)
        with torch.no_grad(), unvalidated():
            found = self._moments(noise, *self.example(1))
        _keep(self, noise)
        label = run.description.label
        self.outputs = tuple(
            [
                _shares(name, label) if name == "probability_y" and label is not None
                else Port(name, tuple(value.shape[1:]), _meaning(name), dtype=value.dtype)
                for name, value in found.items()
            ]
        )  # fmt: skip
        self._refuse_chance()

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Moments by the order of :attr:`outputs`."""
        return tuple(self._moments(_kept(self, self.seed), *arguments).values())

    def _moments(self, noise: KeptNoise, *arguments: Tensor) -> dict[str, Tensor]:
        given, good = self.given(*arguments)
        way = _Set(noise=noise)
        trace = self.model.posterior(given, default=way, missing=self.given.missing)
        found: dict[str, Tensor] = {}
        for name, site in trace.items():
            if not site.drawn:
                continue
            if isinstance(base := base_of(site.distribution), _CODES):
                found[f"probability_{name}"] = base.probs
                continue
            found[name] = site.value
            if own := way.spread.get(name):
                backwards = any([each.backwards for each in self.model.q.repetitions(name)])
                steps = torch.stack(own[::-1] if backwards else own, 1) if own[1:] else own[0]
                found[f"{name}_sd"] = steps.expand(site.value.shape)
        return {name: _where(good, value) for name, value in found.items()}


class LogLikelihood(Function):
    r"""Rows in the units of the file to :math:`\log \hat p(x)`, by importance sampling.

    .. math:: \log \hat p(x) = \log 	frac1K \sum_k p(x, z_k) / q(z_k | x)

    whose noise is the same for all rows, and part of the graph. A lower bound of
    :math:`\log p(x)` in the mean, exact where nothing is drawn. A label that q draws or sums over
    is not given: this is then the likelihood of x alone.

    Args:
        run: A run.
        particles: K.
        seed: Of the noise: that of :func:`~deeplvm.likelihood.importance_sampling` with this seed,
            of a selection with common noise.

    Shape:
        Arguments as those of :class:`Encoder`; the result ``log_px``, ``(rows,)``, nats.

    Raises:
        ExportError: If rows are not an array each, or a latent is drawn by rejection.
    """

    def __init__(self, run: Run, particles: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.model = run.model
        self.given, self.seed = _rows_of(run), seed
        self.inputs = self.given.inputs
        known = {port.name for port in self.inputs}
        self.draw = {n: as_measured(way) for n, way in run.draw.items() if n not in known}
        summed = [n for n, way in self.draw.items() if isinstance(way, Enumerated)]
        latents = [n for n in run.model.q.names if n not in known]
        #: Whether nothing is drawn: no latents, or all of them are summed over.
        self.exact = set(latents) <= set(summed)
        particles = 1 if of_one_particle(run.model) else particles  # whose mean is no bound
        self.particles = None if self.exact else particles
        noise = KeptNoise(seed)
        try:
            with torch.no_grad(), unvalidated():
                self._log_px(noise, *self.example(1))
        except ValueError as error:
            raise ExportError(f"{run.folder}: log p(x) cannot be exported: {error}") from error
        _keep(self, noise)
        bound = "exact" if self.exact else f"a bound by common noise, particles: {particles}"
        if any([v.dequantized for v in run.description.variables.values()]):
            bound += "; of whole numbers with noise, whose mass it bounds"
        self.outputs = (Port("log_px", (), f"log p(x) in nats, {bound}"),)
        self._refuse_chance()

    def forward(self, *arguments: Tensor) -> tuple[Tensor]:
        """Estimate of log p(x) of each row; NaN of one that the model cannot have."""
        return (self._log_px(_kept(self, self.seed), *arguments),)

    def _log_px(self, noise: KeptNoise, *arguments: Tensor) -> Tensor:
        given, good = self.given(*arguments)
        missing = self.given.missing
        evidence = self.model.evidence(
            given, particles=self.particles, missing=missing,
            draw=noise.draws(self.model.q.names, self.draw),
        )  # fmt: skip
        value = iwae(evidence)
        scored = [name for name in given if name in self.model.p.names]
        if missing.issuperset(scored) and not self.model.explains_holes:
            empty = [given[name].isnan().flatten(1).all(1) for name in scored]
            value = torch.where(torch.stack(empty).all(0), 0.0, value)
        return _where(good, value)


def _meaning(name: str) -> str:
    of = name.removesuffix("_sd")
    return f"the mean of {name} under q" if of == name else f"its standard deviation, of {of}"


def _where(good: Tensor | None, value: Tensor) -> Tensor:
    """NaN in the rows that are not possible."""
    if good is None:
        return value
    return torch.where(good.reshape(-1, *[1] * (value.dim() - 1)), value, math.nan)


def _keep(function: nn.Module, noise: KeptNoise) -> None:
    """The numbers of a noise as buffers of a function."""
    for place, numbers in enumerate(noise.kept):
        function.register_buffer(f"noise_{place}", numbers, persistent=False)


def _kept(function: nn.Module, seed: int) -> KeptNoise:
    named = [b for n, b in function.named_buffers(recurse=False) if n.startswith("noise_")]
    return KeptNoise(seed, named)


class InUnits(nn.Module):
    """Means as a model has them, ``(rows, *shape)``, in the units of the file."""

    scale: Tensor
    shift: Tensor

    def __init__(self, variable: Variable) -> None:
        super().__init__()
        parts = list(variable.by_column.values()) or [variable]
        scale = [part.divisor if part.dequantized else 1 / round(1 / part.step) for part in parts]
        shift = [part.origin - 0.5 * part.dequantized for part in parts]
        dates = any([part.kind == "date" for part in parts])  # of which float32 has no seconds
        dtype = torch.float64 if dates else torch.get_default_dtype()
        self.dtype = dtype
        self.plain = not dates and set(scale) == {1.0} and set(shift) == {0.0}
        alone = len(parts) == 1 and variable.columns is None
        for name, values in (("scale", scale), ("shift", shift)):
            each = torch.tensor(values[0] if alone else values, dtype=dtype)
            self.register_buffer(name, each, persistent=False)

    def forward(self, stored: Tensor) -> Tensor:
        """The same in the units of the file."""
        return stored if self.plain else stored * self.scale + self.shift


def _shares(name: str, part: Variable) -> Port:
    return Port(name, (part.levels or 2,), f"probabilities of {part.name}", part)


def _categories(variable: Variable, own: Any) -> dict[int, list[tuple[int, str]]]:
    """Of each piece of a table's distribution the categories in it: place there, column."""
    if variable.columns is None or own is None:
        return {}
    columns, found = list(variable.by_column.items()), {}
    for number, (places, _) in enumerate(pieces(own)):
        within = range(len(columns)) if places is None else places.tolist()
        named = [(i, columns[at]) for i, at in enumerate(within)]
        chosen = [(i, column) for i, (column, part) in named if part.categories is not None]
        if chosen:
            found[number] = chosen
    return found


def _probabilities(elements: Any) -> Tensor:
    """Of independent codes, ``(rows, elements, codes)``."""
    while isinstance(elements, Independent):
        elements = elements.base_dist
    probs: Tensor = elements.probs
    two = probs.dim() == len(elements.batch_shape)  # the probability of code 1
    return torch.stack([1 - probs, probs], -1) if two else probs


def refuse_other_rows(run: Run) -> None:
    """Refuse rows that are not an array each.

    Raises:
        ExportError: If they are sequences, texts, sets or graphs.
    """
    description, model = run.description, run.model
    what = None
    if description.options.get("graph"):
        what = "the data are a graph, which is one row"
    elif any([v.kind == "token" for v in description.variables.values()]):
        what = "rows are texts"
    elif description.whole:
        what = "rows are sequences, of unequal lengths"
    elif not isinstance(model.p, Joint):
        what = f"p is a {type(model.p).__name__}, which unrolls steps"
    elif shared := sorted(model.shared):
        what = f"all rows share {', '.join(shared)}, which are drawn"
    if what is not None:
        raise ExportError(
            f"{run.folder}: {what}, and functions of one row, which export and explore need, are "
            f"made of images and of tables; deeplvm score, embed and sample read the run itself."
        )


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """Distributions that do not look at what their parameters are, which no graph can."""
    known = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(known)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what the exporter says of packages that nobody asked for."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's own use of what it deprecates
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*", FutureWarning)
            # of weights that are parts of one; what is read back is compared
            warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
