"""Scores of rows and cells as columns of a table, beside those of the run's held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from deeplvm.cli.console import enough, note, time_left
from deeplvm.cli.sequences import in_long_form, inside, keys_of, length_of
from deeplvm.inference.classes import class_probabilities, has_classes
from deeplvm.inference.completion import Complete
from deeplvm.inference.rows import at_random, rows_of
from deeplvm.inference.texts import names_of
from deeplvm.likelihood import (
    Reference,
    RowScores,
    UsualSurprise,
    beside,
    particle_filter,
    score_cells,
)
from deeplvm.parallel.processes import processes
from deeplvm.runs.scorer import score_columns, scores

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data
    from deeplvm.runs.run import Run

_CELL_ROWS = 500  # held-out rows that say what is usual in a column
_MOST_CELLS = 1_000  # columns of a row
_STEP_PARTICLES = 500


@dataclass(eq=False)
class RowColumns:
    """Columns that say how odd rows are.

    Args:
        opened: The run.
        model: Its model.
        count: Particles, or ``"auto"``, the tolerance and the budget that this takes.
        seed: Of all draws.
        cells: Whether each cell is scored too.
    """

    opened: Run
    model: LatentVariableModel
    count: tuple[Any, float | None, int]
    seed: int
    cells: bool
    steps: bool = False
    reference: Reference | None = None
    held: tuple[Tensor, Tensor] | None = None  # of held-out steps: how odd they are, their holes
    why: str = ""  # there is none
    usual: dict[str, UsualSurprise] = field(default_factory=dict)

    @property
    def completed(self) -> Complete:
        """An encoder that never saw a hole reads completed rows."""
        return "auto" if self.opened.saw_holes else True

    def compared(self, here: Any) -> RowColumns:
        """The same with the scores of the run's held-out rows, where these can be read."""
        data, why = None, "another process cannot read the data of the run"
        try:
            data = self.opened.data
        except (ValueError, OSError) as error:
            why = str(error)
        # all or none: what follows is shared
        if here.any(data is None) or data is None:
            self.why = why
            note(f"no percentiles: {why}")
            return self
        rows = data.valid if data.rows("valid") else data.train
        if self.steps:
            self.held = self._steps(data, rows)[:2]
            return self
        found = self.rows(data, rows)
        draw = self.opened.measured(data)
        self.reference = Reference(
            rows_of(self.model, rows, omit=tuple(draw)),
            found.log_px,
            found.particles,
            draw,
            self.completed,
            self.seed,
        )
        if self.cells:
            some = at_random(rows, _CELL_ROWS, self.seed)
            self.usual = self._usual(data, some, self._surprise(data, some))
        return self

    def rows(self, data: Data, rows: Any) -> RowScores:
        """Of some rows of a data set."""
        draw = self.opened.measured(data)
        particles, tolerance, most = self.count
        count = enough(particles, self.model, rows, tolerance, most, self.seed, draw)
        return scores(
            self.opened, self.model, rows, count, seed=self.seed, progress=time_left("log p(x)")
        )

    def __call__(self, data: Data, rows: Any) -> dict[str, Any]:
        """Columns by name."""
        if self.steps:
            return self._of_steps(data, rows)
        found = self.rows(data, rows)
        columns: dict[str, Any] = score_columns(found)
        tail = columns.pop("pareto_k")
        if processes().first:
            for warning in found.warnings:
                note(f"warning: {warning}")
        if self.reference is not None:
            less, probability = self.reference.compare(self.model, rows, found.log_px)
            columns["percentile"] = 100 * less.numpy()
            columns["tail_probability"] = probability.numpy()
            if alone := int(probability.isnan().sum()):
                note(
                    f"no percentile of {alone:,} rows: too few held-out rows could be scored with "
                    f"the same values missing"
                )
        columns["pareto_k"] = tail
        if self.cells:
            columns |= self._cells(data, rows)
        return columns

    def threshold(self, rate: float) -> None:
        """Look whether the rows that are odder than a share of the held-out ones can be told.

        Raises:
            ValueError: If there are too few held-out rows for so small a share, or none.
        """
        known = None if self.reference is None else self.reference.log_px
        known = self.held[0] if self.held is not None else known
        if known is None:
            raise ValueError(f"--false-alarms needs the run's held-out rows: {self.why}")
        what = "row" if self.held is None else "step"
        count = len(known)
        if rate * (count + 1) < 1:
            raise ValueError(
                f"--false-alarms {rate:g} needs {int(1 / rate)} held-out {what}s or more, and the "
                f"run has {count}: no {what} could be called odd."
            )

    def mark(self, columns: dict[str, Any], rate: float) -> None:
        """Mark the rows that are odder than a share of rows like the held-out ones."""
        tail = columns["tail_probability"]
        columns["odd"] = np.where(np.isnan(tail), False, tail <= rate)
        what = "rows" if self.held is None else "steps"
        note(
            f"{int(columns['odd'].sum()):,} {what} are odd; of {what} like the held-out ones at "
            f"most {100 * rate:g} % would be. Rare is not wrong, and what is plain can be "
            f"likelier than any: look at both ends."
        )

    def _steps(self, data: Data, rows: Any) -> tuple[Tensor, Tensor, Tensor, str]:
        """Of all steps of some rows: how odd they are, what is missing, the lengths; and how."""
        particles = self.count[0] if self.count[0] != "auto" else _STEP_PARTICLES
        found = particle_filter(
            self.model, rows, particles if self.model.q.names else 1, proposal="auto",
            seed=self.seed, progress=time_left("log p(x)"),
        )  # fmt: skip
        lengths = rows[str(length_of(data.description))][:].cpu()
        here, missing = inside(lengths), []
        for name in [n for n in data.variables if n in self.model.p.names]:
            value = rows[name][:].cpu()[here]
            missing.append(value.isnan().reshape(len(value), -1))
        how = f"{found.particles:,} particles from the {found.proposal}"
        return -found.predictive.cpu()[here], torch.cat(missing, 1), lengths, how

    def _of_steps(self, data: Data, rows: Any) -> dict[str, Any]:
        """Columns of the steps of all rows, one after another."""
        odd, holes, lengths, how = self._steps(data, rows)
        columns: dict[str, Any] = {"log_px": -odd.numpy(), "anomaly": odd.numpy()}
        if self.held is not None:
            less, tail = beside(odd, holes, *self.held)
            columns["percentile"] = 100 * less.numpy()
            columns["tail_probability"] = tail.numpy()
        note(f"each step given those before it, by {how}")
        return in_long_form(columns, lengths, keys_of(data))

    def _cells(self, data: Data, rows: Any) -> dict[str, Any]:
        surprise = self._surprise(data, rows)
        titles, excess = [], []
        for name, usual in (self._usual(data, rows, surprise) | self.usual).items():
            variable = data.variables.get(name)
            excess.append(usual.excess(surprise[name], rows.exact(name)))
            columns = variable.columns if variable is not None else None
            size = excess[-1].shape[1]
            titles += columns or [f"{name}{i}" if size > 1 else name for i in range(size)]
        together = torch.cat(excess, 1).numpy()
        most = np.where(np.isnan(together), -np.inf, together).argmax(1)
        return {
            "oddest": np.array(titles, dtype=object)[most],
            **{f"nats_{title}": together[:, i] for i, title in enumerate(titles)},
        }

    def _usual(
        self, data: Data, rows: Any, surprise: dict[str, Tensor]
    ) -> dict[str, UsualSurprise]:
        """What is usual in the columns of some rows."""
        repeated = {name: each.repeated for name, each in data.variables.items()}
        return {
            name: UsualSurprise.of(each, rows.exact(name), repeated.get(name, ()))
            for name, each in surprise.items()
        }

    def _surprise(self, data: Data, rows: Any) -> dict[str, Tensor]:
        elements = sum([each.elements for each in data.variables.values()])
        if elements > _MOST_CELLS:
            raise ValueError(
                f"--cells scores each value of a row, and these have {elements:,} of them, more "
                f"than {_MOST_CELLS:,}; it is for tables."
            )
        if names_of(data.description):
            raise ValueError(
                "--cells scores each value of a row of a table, and a row here is a text; leave "
                "it out."
            )
        particles = self.count[0] if self.count[0] != "auto" else 200
        return score_cells(
            self.model, rows, particles, draw=self.opened.measured(data),
            completed=self.completed, seed=self.seed,
        ).surprise  # fmt: skip


def meaning_of(model: Any, rows: Any, split: str) -> tuple[str, int]:
    """What log_px is of, as in "x | y"; and of how many rows it is of their label too."""
    values = getattr(rows, split)
    names = [name for name in rows.variables if name in model.p.names]
    given = [n for n in model.p.inputs if n not in model.p.names and n in values]
    of = ", ".join(names or ["y"]) + (f" | {', '.join(given)}" if given else "")
    known = names and "y" in model.p.names and "y" in values and rows.description.label is not None
    return of, int((~values["y"][:].isnan()).sum()) if known else 0


def labels_of(rows: Any, split: str) -> dict[str, Any]:
    """Labels as numbers, and as names where these say more."""
    labels = rows[split].get("y")
    if labels is None:
        return {}
    numbers = labels.cpu().numpy()
    classes = rows.classes
    if not classes or list(classes) == [str(i) for i in range(len(classes))]:
        return {"y": numbers}
    codes = np.where(np.isnan(numbers), -1, numbers).astype(int)
    return {"y": numbers, "label": np.array([*classes, ""])[codes]}


def classes_of(
    opened: Run, model: LatentVariableModel, rows: Any, seed: int, by: Literal["encoder", "model"]
) -> dict[str, Any]:
    """The probability of each label of the run's data, and the most probable one."""
    names = opened.description.classes
    if not names or not has_classes(model):
        raise ValueError("--classes is for a model of labels; this one knows none.")
    each = getattr(class_probabilities(model, rows, seed=seed), by).numpy()
    most = {"class": np.array(names)[each.argmax(1)]}
    return most | {f"probability_{name}": each[:, i] for i, name in enumerate(names)}
