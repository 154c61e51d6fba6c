r"""Rows of a table that a model draws: how real they are, what they teach, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.predictive.columns import ObservedColumn, matrix, observed_columns
from deeplvm.evaluation.samples.memorisation import CLOSE
from deeplvm.evaluation.samples.privacy import Attack, Interval, Privacy, privacy
from deeplvm.evaluation.samples.quality import draws_of
from deeplvm.evaluation.samples.table_quality import (
    FEWEST,
    Utility,
    detection,
    similarities,
    utility,
)
from deeplvm.inference.rows import Rows, at_random, rows_of, selection_of
from deeplvm.results import Array, Estimate, Record, shown_plain

_POOL = 50_000  # rows of a kind that stand for all of it


@dataclass(frozen=True)
class Beside(Record):
    """A number of drawn rows, and of as many training rows, against the same held-out rows.

    Attributes:
        drawn: Of drawn rows.
        real: Of training rows: what a perfect model would reach.
    """

    drawn: Estimate
    real: Estimate


@dataclass(frozen=True)
class SyntheticRows(Record):
    """Drawn rows against held-out rows, each number beside that of training rows.

    Attributes:
        rows: Rows of each kind that are compared.
        train_rows: Training rows whose privacy is looked at.
        held_out: Which rows they are compared with, in words.
        holes: Share of the values that are missing, of drawn and of held-out rows.
        marginals: Mean similarity of the columns, one by one; see :func:`similarities`.
        pairs: Mean similarity of pairs of columns.
        detection: 2 − 2 max(AUC, ½) of gradient boosting that tells them from held-out rows: 1 is
            not at all, 0 always.
        utility: What a classifier learns from them, where a target was named.
        privacy: What they tell of the training rows.
        columns: Similarity of each column by its title.
        seed: Of all draws and choices.
    """

    rows: int
    train_rows: int
    held_out: str
    holes: Mapping[str, float]
    marginals: Beside
    pairs: Beside | None
    detection: Beside
    utility: Utility | None
    privacy: Privacy
    columns: Mapping[str, Beside]
    seed: int

    header = ("", "drawn rows", "at best", "what it means")

    def table(self) -> list[tuple[str, ...]]:
        return synthetic_table(self.to_dict())

    def notes(self) -> list[str]:
        return [f"! {warning}" for warning in self.warnings]

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before using the rows, in words."""
        return _warnings(self.privacy)


def synthetic_table(plain: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Text of :meth:`SyntheticRows.to_dict`: a name, drawn rows, the best they could be, meaning.

    The best is what training rows reach against the same held-out rows; of privacy, what is
    expected where nothing leaks.
    """

    def line(name: str, both: Mapping[str, Any], meaning: str) -> tuple[str, ...]:
        return (name, shown_plain(both["drawn"]), shown_plain(both["real"]), meaning)

    if not plain:
        return []
    alike = "mean similarity to held-out rows, 1 if alike"
    told = f"gradient boosting tells {plain['rows']:,} of them from real rows: 1 not, 0 always"
    table = [line("columns", plain["marginals"], alike)]
    table += [line("pairs of columns", plain["pairs"], alike)] if plain["pairs"] else []
    table += [line("detection score", plain["detection"], told)]
    if used := plain["utility"]:
        learned = (
            f"on {plain['held_out']}, of gradient boosting that learned from {used['rows']:,}"
        )
        table.append(line(f"{used['measure']} of {used['target']}", used, learned))
    found, copies = plain["privacy"], plain["privacy"]["copying"]
    pool = f"share whose closest row, of {plain['train_rows']:,} training rows and held-out ones"
    close = f"share as near to a training row as the nearest {100 * CLOSE:.0f} % of held-out rows"
    table += [
        ("closest row", shown_plain(found["closest"]), f"{found['closest_expected']:.3f}",
         f"{pool}, is a training row"),
        ("close to a training row", shown_plain(copies["close"]), f"{CLOSE:.3f}", close),
    ]  # fmt: skip
    for name, what in _ATTACKS.items():
        if attack := found[name]:
            rates = [f"{attack[rows]['value']:.3f}" for rows in ("training", "held_out")]
            meaning = f"{what}: of training rows in {rates[0]}, of held-out rows in {rates[1]}"
            risk = str(Interval(**attack["risk"]))
            table.append((f"risk of {name.replace('_', ' ')}", risk, "0", meaning))
    return table


_ATTACKS = {
    "singling_out": "conditions that fit one drawn row fit one row",
    "linkability": "two halves of a row lead to one drawn row",
    "inference": "the closest drawn row has the value that is sought",
}


def _warnings(found: Privacy) -> list[str]:
    copies, closest, warnings = found.copying, found.closest, []
    if copies.exact > copies.exact_fresh + 0.01:
        warnings.append(
            f"{100 * copies.exact:.1f} % of the drawn rows are equal to a training row, of "
            f"held-out rows {100 * copies.exact_fresh:.1f} %: the model gives rows away."
        )
    if closest.value > found.closest_expected + 3 * closest.stderr:
        warnings.append(
            f"The closest row of {100 * closest.value:.1f} % of the drawn rows is a training "
            f"row, where {100 * found.closest_expected:.1f} ± {100 * closest.stderr:.1f} % are "
            f"expected: some rows were learned by heart. Use a smaller model, or stop earlier."
        )
    for name, what in _ATTACKS.items():
        attack: Attack | None = getattr(found, name)
        if attack is not None and attack.risk.low > 0:
            warnings.append(
                f"Risk of {name.replace('_', ' ')} {attack.risk}: {what}, more often for rows "
                f"that were trained on."
            )
    return warnings


def synthetic_rows(
    model: LatentVariableModel,
    train: NamedRows,
    held_out: NamedRows,
    *,
    target: str | None = None,
    most: int = 10_000,
    seed: int = 0,
) -> SyntheticRows:
    """Rows drawn from a model of a table against rows that it was not trained on.

    The rows are what ``deeplvm sample`` writes: whole numbers whole, reals in the digits of their
    column, and with the holes of training rows chosen at random, where the data have any (see
    :func:`holes_of`). What a model of x needs to draw from, such as a label, is that of training
    rows chosen at random, and a column like the others.

    Args:
        model: Left as it was.
        train: The training rows: ``data.train``, or named tensors of shape ``(rows, columns)``.
        held_out: Rows that were not trained on.
        target: The title of a column that a classifier learns to predict.
        most: Rows of each kind that are compared, at most.
        seed: Of all draws and choices.

    Raises:
        ValueError: If the rows are images, there is no such target, or there are too few rows.
    """
    held, known = [rows_of(model, at_random(rows, _POOL, seed)) for rows in (held_out, train)]
    columns = [
        replace(column, title=_label_of(held)) if column.name == "y" else column
        for column in observed_columns(model, held, inputs=True)
    ]
    names = tuple(dict.fromkeys([column.name for column in columns]))
    described = {} if held.description is None else held.description.variables
    if pictures := [name for name in names if name in described and described[name].is_image]:
        raise ValueError(
            f"{pictures[0]} is an image, and these are measures of tables; "
            f"deeplvm.evaluation.sample_quality compares drawn images with data."
        )
    if target is not None and target not in [column.title for column in columns]:
        titles = ", ".join([column.title for column in columns])
        raise ValueError(f"There is no column {target!r} to predict; there are {titles}.")
    drawn = _drawn(model, known, names, seed)
    real = [{name: _exact(rows.source, name) for name in names} for rows in (known, held)]
    ours, train_rows, fresh = [matrix(side, columns).numpy() for side in (drawn, *real)]
    return compared(
        ours,
        train_rows,
        fresh,
        columns,
        target=target,
        most=most,
        held_out_are=f"{held.split or 'held-out'} rows",
        seed=seed,
    )


def holes_of(train: NamedRows, names: Sequence[str], count: int, seed: int) -> dict[str, Any]:
    """Where values are missing in training rows chosen at random, shape ``(count, *event)``.

    Which values are missing does not depend on the values then: it does in the data, where they
    are not missing at random.

    Args:
        train: Training rows.
        names: Whose holes.
        count: How many rows.
        seed: Same seed, same holes.
    """
    some = at_random(train, count, seed)
    holes = {name: _exact(some, name).isnan() for name in names}
    return {name: each[torch.arange(count) % len(each)] for name, each in holes.items()}


def _drawn(
    model: LatentVariableModel, train: Rows, names: Sequence[str], seed: int
) -> dict[str, Tensor]:
    """As many rows as of training, as the data could hold them, by name."""
    masks = {name: f"{name}_observed" for name in model.explains_holes.intersection(names)}
    found = draws_of(model, train.rows, train[slice(None)], (*names, *masks.values()), seed=seed)
    holes = holes_of(train.source, sorted(train.missing.intersection(names)), train.rows, seed)
    holes |= {name: found[mask] == 0 for name, mask in masks.items()}
    variables = {} if train.description is None else train.description.variables
    for name in names:
        value = found[name]
        if name in variables:
            value = torch.from_numpy(variables[name].settled(value))
        missing = holes.get(name, torch.zeros((), dtype=torch.bool))
        found[name] = value.double().masked_fill(missing, torch.nan)
    return found


def _exact(rows: NamedRows, name: str) -> Tensor:
    """Values as they were given."""
    known = selection_of(rows)
    values = (known.exact(name) if known else rows[name][:]).cpu().double()
    # a row's label that is not known
    return values.masked_fill(values < 0, torch.nan) if name == "y" else values


def _label_of(rows: Rows) -> str:
    """The title of the labels in the file."""
    options = {} if rows.description is None else rows.description.options
    return str(options.get("label") or "y")


def compared(
    drawn: Array,
    train: Array,
    held_out: Array,
    columns: Sequence[ObservedColumn],
    *,
    target: str | None = None,
    most: int = 10_000,
    held_out_are: str = "held-out rows",
    seed: int = 0,
) -> SyntheticRows:
    """Drawn rows, training rows and held-out rows, each of shape ``(rows, columns)``.

    Args:
        drawn: Numbers, codes from 0 on, NaN where missing; the others likewise.
        columns: What they are.
        held_out_are: What the held-out rows are, in words.

    Raises:
        ValueError: If there are too few rows.
    """
    few = min(len(drawn), len(train), len(held_out))
    if few < FEWEST:
        raise ValueError(
            f"{few} rows are too few to compare drawn rows with; {FEWEST} or more are needed."
        )
    rng = np.random.default_rng(seed)
    coded = np.array([column.kind in ("binary", "category") for column in columns])
    titles = [column.title for column in columns]
    ours, real, fresh = [
        rows[rng.permutation(len(rows))[: min(few, most)]] for rows in (drawn, train, held_out)
    ]
    alike = [similarities(rows, fresh, coded, seed=seed) for rows in (ours, real)]
    used = None
    if target is not None:
        used = utility(drawn, train, held_out, coded, titles, target, seed=seed)
    return SyntheticRows(
        rows=len(fresh),
        train_rows=len(train),
        held_out=held_out_are,
        holes={"drawn": float(np.isnan(ours).mean()), "held out": float(np.isnan(fresh).mean())},
        marginals=Beside(*[each.marginals for each in alike]),
        pairs=Beside(*[each.pairs for each in alike]) if len(titles) > 1 else None,
        detection=Beside(*[detection(rows, fresh, coded, seed=seed) for rows in (ours, real)]),
        utility=used,
        privacy=privacy(drawn, train, held_out, coded, titles, seed=seed),
        columns={
            title: Beside(*[each.columns[place] for each in alike])
            for place, title in enumerate(titles)
        },
        seed=seed,
    )
