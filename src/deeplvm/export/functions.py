r"""A run as functions of plain tensors: what they take and give, in the units of the user's file.

``Decoder`` maps latents to the mean of x. It is an ``nn.Module`` whose graph has nothing in it but
tensor operations, for ``torch.export`` and all that reads its programs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from deeplvm.core.draws import Drawn, Sampled
from deeplvm.core.joint import Joint
from deeplvm.core.trace import expand_to
from deeplvm.data.variable import Variable
from deeplvm.distributions.centre import centre
from deeplvm.inference.missing import pieces
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
        whole: Whether it is of type int64.
    """

    name: str
    shape: tuple[int, ...]
    meaning: str
    variable: Variable | None = None
    whole: bool = False

    def example(self, rows: int, generator: torch.Generator) -> Tensor:
        """Some values of it, shape ``(rows, *shape)``, near 0 where they are reals."""
        if self.whole:
            most = (self.variable.levels if self.variable else None) or 2
            return torch.randint(most, (rows, *self.shape), generator=generator)
        return torch.randn((rows, *self.shape), generator=generator)


@dataclass(frozen=True)
class _Set:
    """A latent that has a value, or its centre; nothing is drawn, and nothing scored."""

    value: Tensor | None = None

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        value = self.value
        if value is None:
            try:
                value = centre(expand_to(distribution, batch_shape, batch_dims))
            except NotImplementedError:
                kind = type(getattr(distribution, "base_dist", distribution)).__name__
                raise ExportError(
                    f"{name!r} has no mean that is known (its distribution is a {kind}), so that "
                    f"it is no function of the rest; draws of it are what deeplvm sample gives."
                ) from None
        return Drawn(value, value.new_zeros(()), batch_shape, 0.0)


class Function(nn.Module):
    """Tensors in, tensors out; what is what is said by :attr:`inputs` and :attr:`outputs`."""

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()

    def example(self, rows: int = _EXAMPLE_ROWS, seed: int = 0) -> tuple[Tensor, ...]:
        """Arguments of so many rows."""
        generator = torch.Generator().manual_seed(seed)
        return tuple([port.example(rows, generator) for port in self.inputs])

    def program(self) -> torch.export.ExportedProgram:
        """The graph, for any number of rows.

        Raises:
            ExportError: If torch cannot make one of it.
        """
        rows = torch.export.Dim("rows", min=1)
        args = self.example()
        shapes = tuple([{0: rows} for _ in args])
        try:
            with torch.no_grad(), unvalidated():
                return torch.export.export(self.eval(), args, dynamic_shapes=(shapes,))
        except ExportError:
            raise
        except Exception as error:  # torch raises errors of many kinds
            said = " ".join(str(error).split())[:200]
            raise ExportError(
                f"torch.export makes no graph of the {type(self).__name__.lower()} of this model "
                f"({type(error).__name__}: {said})."
            ) from error


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
        given = [n for n in model.p.inputs if n != "y"]
        if given:
            raise ExportError(
                f"p reads {', '.join(given)}, which only code can give, so the decoder of "
                f"{run.folder} is no function of latents alone."
            )
        labelled = "y" in (*model.p.names, *model.p.inputs) and description.label is not None
        known = {"y": torch.zeros(1, dtype=torch.int64)} if labelled else {}
        with drawing(0), unvalidated():
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
        label = description.label
        moved = {n: site.value for n, site in sites.items() if latents is None or n in latents}
        self.inputs = (
            *[
                Port(n, tuple(v.shape[1:]), f"the latent {n}", whole=not v.is_floating_point())
                for n, v in moved.items()
            ],
            *[Port("y", (), "the label, a code", label, whole=True) for _ in known],
        )
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
            *[Port(n, v.shape, f"the mean of {n}", v) for n, v in self.variables.items()],
            *[
                Port(f"probability_{p.name}", (p.levels or 2,), f"probabilities of {p.name}", p)
                for p in parts
            ],
        )
        with torch.no_grad(), unvalidated():
            self(*self.example(1))  # what has no mean is told now

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Means, then probabilities of categories."""
        given = {port.name: each for port, each in zip(self.inputs, arguments, strict=True)}
        rows = arguments[0].shape[0]
        fixed = {name: value for name, value in given.items() if name == "y"}
        moved: dict[str, Any] = {n: _Set(value) for n, value in given.items() if n != "y"}
        trace = self.p(fixed, (rows,), draw=moved, default=_Set())
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


class InUnits(nn.Module):
    """Means as a model has them, ``(rows, *shape)``, in the units of the file."""

    def __init__(self, variable: Variable) -> None:
        super().__init__()
        parts = list(variable.by_column.values()) or [variable]
        scale = [part.divisor if part.dequantized else 1 / round(1 / part.step) for part in parts]
        shift = [-0.5 if part.dequantized else part.origin for part in parts]
        dates = any([part.kind == "date" for part in parts])  # of which float32 has no seconds
        dtype = torch.float64 if dates else torch.get_default_dtype()
        self.plain = not dates and set(scale) == {1.0} and set(shift) == {0.0}
        alone = len(parts) == 1 and variable.columns is None
        for name, values in (("scale", scale), ("shift", shift)):
            each = torch.tensor(values[0] if alone else values, dtype=dtype)
            self.register_buffer(name, each, persistent=False)

    def forward(self, stored: Tensor) -> Tensor:
        """The same in the units of the file."""
        return stored if self.plain else stored * self.scale + self.shift


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
            f"{run.folder} cannot be exported: {what}; functions of rows are made of images and "
            f"of tables. deeplvm score, embed and sample read the run itself."
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
