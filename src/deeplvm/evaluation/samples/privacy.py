r"""What drawn rows of a table tell of the rows trained on: the closest row, and three attacks.

Every number stands beside that of a control group, rows that were not trained on: what is guessed
of these follows from the population, and is no leak.

A Unified Framework for Quantifying Privacy Risk in Synthetic Data (Giomi, Boenisch, Wehmeyer &
Tasnádi, 2023), https://arxiv.org/abs/2211.10459
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deeplvm.evaluation.samples.memorisation import Memorisation, memorisation, nearest_rows
from deeplvm.results import Array, Estimate, Record

LEVEL = 0.95
_Z = 1.959963984540054  # of the normal distribution, for that level
NEAR = 0.05
"""A number counts as guessed if at most this share of the rows lies between it and the guess."""
_NUMBERS = math.sqrt(3)  # two random ranks are then one half apart, squared; categories 0 or 1
_COPIES = 2_000  # drawn rows whose closest row is looked for
_DRAWN = 5_000  # drawn rows that an attacker looks through
_MOST_CONDITIONS, _TRIES = 6, 20
_CHUNK = 250


@dataclass(frozen=True)
class Interval(Record):
    """A number and the ends of its 95 % confidence interval.

    >>> print(Interval(0.02, -0.011, 0.051))
    0.020 (−0.011 to 0.051)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})".replace("-", "−")


@dataclass(frozen=True)
class Attack(Record):
    r"""How often an attacker who has the drawn rows is right about rows of one kind or another.

    Attributes:
        attacks: How many, on as many rows.
        training: Share that succeeds on rows that were trained on, with Wilson's interval.
        held_out: Share that succeeds on rows that were not: what is known of the population.
        guessing: Share that succeeds without the drawn rows' help; an attack that does no better
            on training rows shows nothing.
        risk: :math:`R = (r_\text{training} - r_\text{held out}) / (1 - r_\text{held out})`: what
            having been trained on adds. About 0 if nothing leaks, by chance also below; 1 if all
            does.
    """

    attacks: int
    training: Interval
    held_out: Interval
    guessing: Interval
    risk: Interval


@dataclass(frozen=True)
class Privacy(Record):
    r"""What drawn rows tell of the training rows.

    Attributes:
        closest: Share of the drawn rows whose closest row, of the training rows and the held-out
            rows together, is a training row. The error is that without copying.
        closest_expected: What it is without copying: the training rows' share of these rows.
        copying: Distances to the closest training row, beside those of held-out rows.
        singling_out: A predicate that fits one drawn row fits exactly one row.
        linkability: Two halves of a row's columns have the same closest drawn row.
        inference: A value is that of the row which is closest in the other columns.
        columns: The risk of inference of each column, by its title.
    """

    closest: Estimate
    closest_expected: float
    copying: Memorisation
    singling_out: Attack | None
    linkability: Attack | None
    inference: Attack | None
    columns: Mapping[str, Interval]


def success(successes: float, attacks: int) -> Interval:
    """A share, with Wilson's interval: its centre and its ends.

    Probable Inference, the Law of Succession, and Statistical Inference (Wilson, 1927),
    https://doi.org/10.1080/01621459.1927.10502953

    >>> print(success(0, 100), success(50, 100))
    0.018 (0.000 to 0.037) 0.500 (0.404 to 0.596)
    """
    total = attacks + _Z**2
    centre = (successes + _Z**2 / 2) / total
    reach = _Z / total * math.sqrt(successes * (attacks - successes) / attacks + _Z**2 / 4)
    return Interval(centre, max(0.0, centre - reach), min(1.0, centre + reach))


def risk_of(training: Interval, control: Interval) -> Interval:
    """What an attack gains on training rows, its interval by the errors' propagation.

    >>> print(risk_of(success(90, 100), success(50, 100)))
    0.770 (0.643 to 0.897)
    """
    left = 1 - control.value
    value = (training.value - control.value) / left
    errors = (
        (training.high - training.value) / left,
        (control.high - control.value) * (1 - training.value) / left**2,
    )
    return Interval(value, value - math.hypot(*errors), value + math.hypot(*errors))


class Points:
    r"""Rows as points, so that squared distances add up over the columns.

    A number is its rank among the rows of ``pool``, from 0 to 1, times :math:`\sqrt 3`: tails and
    units do not matter, and two random rows are one half apart. Two categories are 1 apart if they
    differ. A missing value is a category of its own, 1 and more from any number.

    Args:
        pool: Rows whose ranks they are, shape ``(rows, columns)``; NaN where missing.
        coded: Which columns are codes, shape ``(columns,)``.
        others: More rows that are to be placed.
    """

    def __init__(self, pool: Array, coded: Array, *others: Array) -> None:
        self.coded = coded
        together = np.concatenate([pool, *others])
        self.holes = [bool(np.isnan(column).any()) for column in together.T]
        known = [np.unique(c[~np.isnan(c)], return_counts=True) for c in pool.T]
        self.ranks = [(v, (n.cumsum() - n / 2) / max(1, n.sum())) for v, n in known]
        self.levels = [
            int(np.nanmax(column, initial=0)) + 1 if code else 0
            for column, code in zip(together.T, coded, strict=True)
        ]
        sizes = [
            (many or 1) + int(hole) for many, hole in zip(self.levels, self.holes, strict=True)
        ]
        self.owner = np.repeat(np.arange(len(sizes)), sizes)

    def rank(self, values: Array, place: int) -> Array:
        """The share of the pool's values of a column below each value, a tie counted half.

        Between two values of the pool it rises evenly.
        """
        known, ranks = self.ranks[place]
        return np.interp(values, known, ranks, 0.0, 1.0) if len(known) else np.zeros(len(values))

    def __call__(self, values: Array) -> Array:
        """Points of shape ``(rows, features)``; feature f is of column ``owner[f]``."""
        parts = []
        for place, (column, many) in enumerate(zip(values.T, self.levels, strict=True)):
            missing = np.isnan(column)
            if many:
                parts.append((column[:, None] == np.arange(many)) / math.sqrt(2))
            else:
                rank = np.where(missing, 0.5, self.rank(column, place))
                parts.append(_NUMBERS * rank[:, None])
            if self.holes[place]:
                parts.append(missing[:, None] / (math.sqrt(2) if many else 1.0))
        return np.concatenate(parts, 1)


def privacy(
    drawn: Array,
    train: Array,
    held_out: Array,
    coded: Sequence[bool] | Array,
    titles: Sequence[str] = (),
    *,
    attacks: int = 1_000,
    seed: int = 0,
) -> Privacy:
    r"""The closest rows of drawn rows, and three attacks by someone who has them.

    Of drawn rows that do not depend on which rows were trained on, the closest of N training and
    M held-out rows is a training row with probability N / (N + M), whatever the distributions;
    the standard error is that of random labels on these rows, as several drawn rows may have the
    same closest one.

    **Singling out**: conditions on 1 to 6 columns of a drawn row (a number is at least or at most
    its value, whichever is the rarer side; a code is its code) that fit no other drawn row; right
    if they fit exactly one of as many rows of either kind. **Linkability**: the columns are dealt
    into two halves; right if one drawn row is the closest in both. **Inference**: of all columns
    but one; right if the closest drawn row has the same code, or a number with at most 5 % of the
    rows between (see the module for the source).

    Args:
        drawn: Rows of shape ``(rows, columns)``: numbers, codes, NaN where missing.
        train: All training rows, in the same form.
        held_out: Rows that were not trained on.
        coded: Which columns are codes.
        titles: Of the columns.
        attacks: How many of each kind, at most as many as there are rows.
        seed: Of the choices.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> train, fresh, drawn = rng.normal(size=(3, 200, 4))
        >>> found = privacy(drawn, train, fresh, [False] * 4)
        >>> abs(found.closest.value - 0.5) < 4 * found.closest.stderr
        True
        >>> copied = privacy(train, train, fresh, [False] * 4)
        >>> copied.closest.value, copied.linkability.risk.value > 0.9
        (1.0, True)
    """
    rng = np.random.default_rng(seed)
    kinds = np.asarray(coded, dtype=bool)
    pool = np.concatenate([train, held_out])
    points = Points(pool, kinds, drawn)
    own, of_train, of_held = points(drawn), points(train), points(held_out)
    copies = torch.from_numpy(own[rng.permutation(len(own))[:_COPIES]])
    few = min(attacks, len(train), len(held_out))
    chosen = [rng.permutation(len(rows))[:few] for rows in (train, held_out)]
    targets = (train[chosen[0]], held_out[chosen[1]])
    placed = (of_train[chosen[0]], of_held[chosen[1]])
    several = drawn.shape[1] > 1
    as_many = min(len(train), len(held_out))
    alike = [rows[rng.permutation(len(rows))[:as_many]] for rows in (train, held_out)]
    drawn, own = drawn[:_DRAWN], own[:_DRAWN]
    names = list(titles) or [str(place) for place in range(drawn.shape[1])]
    inference, columns = (
        _inference(drawn, own, targets, placed, points, rng) if several else (None, {})
    )
    return Privacy(
        closest=_closest(copies, of_train, of_held, rng),
        closest_expected=len(train) / len(pool),
        copying=memorisation(
            copies, torch.from_numpy(of_train), torch.from_numpy(of_held[:_COPIES]), seed=seed
        ),
        singling_out=_singling_out(drawn, alike, kinds, attacks, rng),
        linkability=_linkability(own, placed, points.owner, rng) if several else None,
        inference=inference,
        columns={names[place]: each for place, each in columns.items()},
    )


def _closest(drawn: Any, train: Array, held_out: Array, rng: np.random.Generator) -> Estimate:
    """Share of rows whose closest one is a training row, with its error under random labels."""
    pool = np.concatenate([train, held_out])
    order = rng.permutation(len(pool))  # of rows that are equal, the first is taken
    nearest = nearest_rows(drawn, torch.from_numpy(pool[order]))[0].numpy()
    share = len(train) / len(pool)
    weights = np.bincount(nearest, minlength=len(pool)) / len(drawn)
    spread = float((weights**2).sum()) - 1 / len(pool)
    stderr = math.sqrt(share * (1 - share) * len(pool) / (len(pool) - 1) * max(spread, 0.0))
    return Estimate(float((order[nearest] < len(train)).mean()), stderr)


def _attack(training: Array, held_out: Array, guessing: Array) -> Attack | None:
    """From which attacks succeeded."""
    if not min(len(training), len(held_out), len(guessing)):
        return None
    of_training, of_held_out, guessed = [
        success(float(each.sum()), len(each)) for each in (training, held_out, guessing)
    ]
    risk = risk_of(of_training, of_held_out)
    return Attack(len(training), of_training, of_held_out, guessed, risk)


def _singling_out(
    drawn: Array, targets: Sequence[Array], coded: Array, wanted: int, rng: np.random.Generator
) -> Attack | None:
    """Predicates that fit one drawn row: how many fit one row of either kind."""
    some = [not np.isnan(column).all() for column in drawn.T]
    middle = np.full(drawn.shape[1], np.nan)
    middle[some] = np.nanmedian(drawn[:, some], axis=0)
    most = min(_MOST_CONDITIONS, drawn.shape[1])
    right: list[tuple[bool, bool]] = []
    guesses = []
    for _ in range(_TRIES * wanted):
        if len(right) == wanted:
            break
        size = int(rng.integers(1, most + 1))
        places = rng.choice(drawn.shape[1], size, replace=False)
        row = rng.integers(len(drawn))
        if _fitting(drawn, drawn[row, places], places, coded, middle) == 1:
            both = [_fitting(t, drawn[row, places], places, coded, middle) == 1 for t in targets]
            right.append((both[0], both[1]))
            # the same columns, each with the value of another row: no row's combination
            apart = drawn[rng.integers(len(drawn), size=size), places]
            guesses.append(_fitting(targets[0], apart, places, coded, middle) == 1)
    found = np.array(right, dtype=bool).reshape(-1, 2)
    return _attack(found[:, 0], found[:, 1], np.array(guesses, dtype=bool))


def _fitting(rows: Array, wanted: Array, places: Array, coded: Array, middle: Array) -> int:
    """How many rows fulfil all conditions."""
    fits = np.ones(len(rows), dtype=bool)
    for value, place in zip(wanted, places, strict=True):
        column = rows[:, place]
        if math.isnan(value):
            fits &= np.isnan(column)
        elif coded[place]:
            fits &= column == value
        else:
            fits &= column >= value if value > middle[place] else column <= value
    return int(fits.sum())


def _linkability(
    drawn: Array, targets: Sequence[Array], owner: Array, rng: np.random.Generator
) -> Attack | None:
    """Whether two halves of the columns lead to one drawn row; dealt anew for each chunk."""
    columns = int(owner.max()) + 1
    right: tuple[list[Any], list[Any]] = ([], [])
    for start in range(0, len(targets[0]), _CHUNK):
        first = np.isin(owner, rng.permutation(columns)[: columns // 2])
        for found, rows in zip(right, targets, strict=True):
            part = rows[start : start + _CHUNK]
            halves = [_distances(part[:, h], drawn[:, h]).argmin(1) for h in (first, ~first)]
            found.append(halves[0] == halves[1])
    training, held_out = map(np.concatenate, right)
    return _attack(training, held_out, rng.integers(len(drawn), size=len(training)) == 0)


def _inference(
    drawn: Array,
    own: Array,
    targets: Sequence[Array],
    placed: Sequence[Array],
    points: Points,
    rng: np.random.Generator,
) -> tuple[Attack | None, dict[int, Interval]]:
    """One secret column of each row, chosen at random; and the risk of each column."""
    columns = drawn.shape[1]
    pairs = zip(targets, placed, strict=True)
    guessed = [_guessed(drawn, own, rows, at, points) for rows, at in pairs]
    blind = drawn[rng.integers(len(drawn), size=len(targets[0]))]
    by_chance = np.stack(
        [_alike(blind[:, c], targets[0][:, c], c, points) for c in range(columns)], 1
    )
    secret = rng.integers(columns, size=len(targets[0]))
    chosen = [each[np.arange(len(secret)), secret] for each in (*guessed, by_chance)]
    known = [each[~np.isnan(each)] for each in chosen]
    risks = {}
    for column in range(columns):
        both = [each[:, column][~np.isnan(each[:, column])] for each in guessed]
        if (found := _attack(both[0], both[1], both[1])) is not None:
            risks[column] = found.risk
    return _attack(known[0], known[1], known[2]), risks


def _guessed(drawn: Array, own: Array, rows: Array, placed: Array, points: Points) -> Array:
    """1 where the closest drawn row has a row's value, else 0; NaN where there is none."""
    found = np.full(rows.shape, np.nan)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        whole = _distances(placed[part], own)
        for column in range(rows.shape[1]):
            of = points.owner == column
            nearest = (whole - _distances(placed[part][:, of], own[:, of])).argmin(1)
            found[part, column] = _alike(
                drawn[nearest, column], rows[part, column], column, points
            )
    return found


def _alike(guess: Array, truth: Array, column: int, points: Points) -> Array:
    """1 where a guess is right, else 0; NaN where there is nothing to guess."""
    if points.coded[column]:
        right = guess == truth
    else:
        apart = np.abs(points.rank(guess, column) - points.rank(truth, column))
        right = (apart <= NEAR) & ~np.isnan(guess)
    return np.where(np.isnan(truth), np.nan, right)


def _distances(rows: Array, among: Array) -> Array:
    """Squared distances but for what depends on the row alone, shape ``(rows, among)``."""
    return (among**2).sum(1) - 2 * rows @ among.T
