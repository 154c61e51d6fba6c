"""What a study searches: options of a recipe and of training, with their values or ranges."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from deeplvm.registry import meant, parameters_of, why
from deeplvm.runs.run import RunError
from deeplvm.training import Machine, Saving, Stopping, fit, unfolded

Table = Literal["recipe_options", "training"]

# What changes how long a training takes, or how it is judged, and not the model.
_FIXED = {f.name for group in (Stopping, Saving, Machine) for f in fields(group)} | {
    "epochs", "seed", "model", "data", "valid", "missing", "draw", "log_prior", "callbacks",
    "quiet",
}  # fmt: skip
#: Options by which bounds become those of another objective.
OF_OBJECTIVE = ("objective", "particles", "phases", "hide", "hide_names")
# Names of widths and of depths in the recipes; a rate goes ten times down and up.
_WIDTHS = (
    "latent", "hidden", "features", "channels", "width", "widths", "state", "units", "auxiliary",
    "upper", "context", "maps", "classes",
)  # fmt: skip
_DEPTHS = ("layers", "blocks", "transforms")
_SHARES = {"keep": (0.3, 1.0), "dropout": (0.0, 0.5)}
_WARM_UPS, _AVERAGING = (0, 5, 20), (0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all can be trained: each."""
        return self.values

    def __str__(self) -> str:
        return "|".join([str(each).replace(" ", "") for each in self.values])

    def distribution(self) -> Any:
        """Of Optuna, which draws the numbers of the values."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(range(len(self.values))))

    def value(self, drawn: Any) -> Any:
        """What was drawn."""
        return self.values[drawn]

    def drawn(self, value: Any) -> Any:
        """What would have to be drawn."""
        return self.values.index(value)


@dataclass(frozen=True)
class Range:
    """Numbers from the least to the most, whole ones if both are.

    Attributes:
        least: The smallest.
        most: The largest.
        many: Of an option of several numbers, how many; all are the same.
    """

    least: float
    most: float
    many: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are."""
        return isinstance(self.least, int) and isinstance(self.most, int)

    @property
    def log(self) -> bool:
        """Whether factors count, not differences: over a factor of ten and more."""
        return self.least > 0 and self.most / self.least >= 10

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all can be trained: the least and the most."""
        return self.value(self.least), self.value(self.most)

    def __contains__(self, value: Any) -> bool:
        numbers = value if isinstance(value, tuple) else (value,)
        alike = len(set(numbers)) == 1 and len(numbers) == (self.many or 1)
        one = numbers[0]
        return alike and isinstance(one, int | float) and self.least <= one <= self.most

    def __str__(self) -> str:
        return f"{self.least}..{self.most}"

    def distribution(self) -> Any:
        """Of Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.least), int(self.most), log=self.log)
        return FloatDistribution(self.least, self.most, log=self.log)

    def value(self, drawn: Any) -> Any:
        """What was drawn, of a rate three digits."""
        drawn = drawn if self.whole else float(f"{drawn:.3g}")
        return drawn if self.many is None else (drawn,) * self.many

    def drawn(self, value: Any) -> Any:
        """What would have to be drawn."""
        return value[0] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Dimension:
    """One option that is searched.

    Attributes:
        table: Where it goes.
        name: The keyword there.
        values: Which ones.
    """

    table: Table
    name: str
    values: Choice | Range


def usual(
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    rows: int,
    latents: bool,
    fixed: Sequence[str] = (),
) -> dict[str, Dimension]:
    """What is searched unless something else is said: around the values that there are.

    Widths and latents from a half to the double (of a latent vector a quarter to four times),
    depths too; the learning rate from a tenth to ten times; batches, averaging, a warm-up of the
    latents.

    Args:
        options: Of the recipe, as they are by default, or were said.
        training: Those of training.
        rows: Of the training data.
        latents: Whether there are any, so that they may be warmed up.
        fixed: What was said, or has no part.
    """
    found: dict[str, Dimension] = {}
    for name, value in options.items():
        if name not in fixed and (values := _around(name, value)):
            found[name] = Dimension("recipe_options", name, values)
    rate, size = training["learning_rate"], training["batch_size"]
    averaging, warm = training["averaging"], training["kl_weight"]
    sizes = tuple(sorted({n for n in (size // 2, size, 2 * size) if 16 <= n <= rows} | {size}))
    more: dict[str, Choice | Range] = {
        "learning_rate": Range(float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}")),
        "batch_size": Choice(sizes),
        "averaging": Choice(tuple(sorted({*_AVERAGING, averaging}))),
    }
    if latents and (warm == 1.0 or isinstance(warm, str)):
        ends = [n for n in _WARM_UPS if 2 * n <= training["epochs"]]  # and half of it compares
        others = [f"linear({n})" if n else 1.0 for n in ends]
        more["kl_weight"] = Choice(tuple(dict.fromkeys([warm, *others])))
    for name, values in more.items():
        several = isinstance(values, Range) or len(values.values) > 1
        if several and name not in (*fixed, *found):
            found[name] = Dimension("training", name, values)
    return found


def _around(name: str, value: Any) -> Choice | Range | None:
    """Values around one, where the name says what a number is."""
    whole = type(value) is int and value > 0
    if name in _SHARES and isinstance(value, float):
        return Range(*_SHARES[name])
    if whole and name == "latent":
        return Range(max(1, value // 4), 4 * value)
    if whole and name in (*_WIDTHS, *_DEPTHS):
        return Range(max(1, value // 2), 2 * value)
    if name in _WIDTHS and name != "classes" and isinstance(value, tuple) and value:
        half = tuple([max(1, each // 2) for each in value])
        others = [half, tuple([2 * each for each in value])]
        if name == "hidden":
            others += [(*value, value[-1]), *([value[:-1]] if len(value) > 1 else [])]
        return Choice(tuple(dict.fromkeys([value, *others])))
    return None


def read(
    texts: Sequence[str], recipe: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Dimension]:
    """What a user says is searched: ``latent=4..64,hidden=100|200|(100,100),learning_rate=…``.

    ``a..b`` is a range, by factors if it spans ten times or more; ``a|b|c`` are choices. An option
    of several numbers takes a range for all of them, as many as it has by default.

    Args:
        texts: Each one option or several, apart by commas.
        recipe: Whose options.
        options: Its own as they are.

    Raises:
        RunError: If something is no option, no value of it, or cannot be searched.
    """
    found: dict[str, Dimension] = {}
    for part in [part for text in texts for part in _apart(text, ",") if part]:
        name, equals, written = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not written.strip():
            raise RunError(f"--search {part!r}: write an option and its values: latent=4..64.")
        table, function = _home(name, recipe)
        if name in found:
            raise RunError(f"--search names {name} twice; write all its values in one place.")
        values = _values(name, written.strip(), function, options.get(name))
        found[name] = Dimension(table, name, values)
    return found


def _home(name: str, recipe: Callable[..., Any]) -> tuple[Table, Callable[..., Any]]:
    from deeplvm.data import load

    training = unfolded(fit)
    if name in _FIXED:
        raise RunError(
            f"--search cannot vary {name}, which is how trials are trained and judged, the same "
            f"for all; say it once: --{name.replace('_', '-')}."
        )
    if name in parameters_of(training):
        return "training", training
    if name in parameters_of(recipe):
        return "recipe_options", recipe
    if name in parameters_of(load):
        raise RunError(
            f"--search cannot vary {name}, an option of the data: likelihoods of other data do "
            f"not compare. Say it once: --{name.replace('_', '-')}."
        )
    raise RunError(f"--search: {name} {why(recipe, name, None)}; options of training go too.")


def _values(
    name: str, written: str, function: Callable[..., Any], usual_value: Any
) -> Choice | Range:
    words = [word.strip() for word in _apart(written, "|")]
    ends = re.fullmatch(r"([-+.\deE]*?\d\.?)\.\.([-+]?\.?\d[-+.\deE]*)", words[0])
    if len(words) == 1 and ends:
        many = len(usual_value) if isinstance(usual_value, tuple | list) else None
        least, most = (_literal(each) for each in ends.groups())
        for end in (least, most):
            _checked(name, end if many is None else (end,) * many, function, str(end))
        real = many is None and why(function, name, least + 0.5) is None
        if real or not (isinstance(least, int) and isinstance(most, int)):
            least, most = float(least), float(most)
        if not least < most:
            raise RunError(f"--search {name}={written}: a range goes from less to more.")
        return Range(least, most, many)
    values = tuple([_checked(name, _literal(word), function, word) for word in words])
    if len(set(values)) < len(values) or len(values) < 2:
        raise RunError(
            f"--search {name}={written}: write two different values or more, as in a|b, or a "
            f"range, as in 4..64; one value alone is --{name.replace('_', '-')} {words[0]}."
        )
    return Choice(values)


def _checked(name: str, value: Any, function: Callable[..., Any], word: str) -> Any:
    """The value, of an option of several numbers in a tuple."""
    reason = why(function, name, value)
    if reason and why(function, name, (value,)) is None:
        return (value,)
    if reason:
        raise RunError(f"--search {name}={word}: {name} {reason}.")
    meant(name, value)
    return value


def _literal(word: str) -> Any:
    """A number, a tuple, True, None; or the word itself."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(word, word))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return word


def _apart(text: str, at: str) -> list[str]:
    """The parts of a text between marks that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        quote = "" if letter == quote else quote or (letter if letter in "'\"" else "")
        depth += (letter in "([{") - (letter in ")]}") if not quote else 0
        if letter == at and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
