"""What is wrong with a model, in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deeplvm.core.model import LatentVariableModel
from deeplvm.diagnosis.rules import RULES, Rule
from deeplvm.diagnosis.verdict import Verdict, ranked
from deeplvm.evaluation.examination import SEARCHED, CannotMeasure, Effort, Examination
from deeplvm.evaluation.summary import FEWEST_ROWS
from deeplvm.gradients import Draw
from deeplvm.results import digest_of

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the rules found, and what they looked at.

    Attributes:
        verdicts: The faults, in the order in which to mend them: first what spoils the numbers
            of all others, then by what each costs in nats a row.
        sound: What was looked for and not found, by the rules' first lines, with what would have
            been seen where that can be told.
        impossible: What could not be measured, and why.
        title: Which model and rows.
        examination: The measurements themselves, for figures.
    """

    verdicts: tuple[Verdict, ...]
    sound: tuple[str, ...]
    impossible: Mapping[str, str]
    title: str
    examination: Examination

    @property
    def fewer(self) -> Mapping[str, str]:
        """What was measured with fewer rows or draws than were asked for, for want of time."""
        return self.examination.fewer

    @property
    def healthy(self) -> bool:
        """Whether no fault was found."""
        return not self.verdicts

    def __getitem__(self, name: str) -> Verdict:
        """The verdict of a name.

        Raises:
            KeyError: If that fault was not found.
        """
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        raise KeyError(name)

    @property
    def faults(self) -> tuple[str, ...]:
        """The names of the faults that were found."""
        return tuple([verdict.name for verdict in self.verdicts])

    def to_dict(self) -> dict[str, Any]:
        """The object of ``diagnosis.json``, but for its figures."""
        measured = self.examination.measured
        plain = {
            name: value.to_dict() for name, value in measured.items() if hasattr(value, "to_dict")
        }
        return {
            "title": self.title,
            "model": digest_of(self.examination.model),
            "healthy": self.healthy,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "looked_for_in_vain": list(self.sound),
            "impossible": dict(self.impossible),
            "fewer": dict(self.fewer),
            "measured": plain,
        }

    def words(self, run: str = "RUN") -> str:
        """All of it to read; ``run`` is what commands call the model's folder."""
        lines = [self.title, ""]
        for number, verdict in enumerate(self.verdicts, 1):
            lines.append(f"{number}. {verdict.name}: {verdict.seen}")
            lines += [f"   {verdict.remedy.replace('RUN', run)}", ""]
        if self.healthy:
            lines += ["No fault was found.", ""]
        if self.sound:
            lines.append("Looked for and not found:")
            lines += [f"   {line}" for line in self.sound]
        if self.impossible:
            lines += ["", "Could not be measured:"]
            # what has the same reason is told together
            for why in dict.fromkeys(self.impossible.values()):
                lines += [f"   {name}" for name, each in self.impossible.items() if each == why]
                lines.append(f"      {why}")
        if self.fewer:
            lines += ["", "Measured with less, for want of time:"]
            lines += [f"   {name}: {how}" for name, how in self.fewer.items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.words()


def diagnose(
    model: LatentVariableModel,
    data: Data,
    metrics: Sequence[Mapping[str, Any]] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    draw: Mapping[str, Draw] | None = None,
    split: Split | None = None,
    effort: Effort | None = None,
    rules: Sequence[Rule] = RULES,
    everything: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Look for what commonly goes wrong: with the data, in training, with latents and samples.

    A rule speaks only if what it sees is clear (several standard errors) and large enough to
    matter, so that a sound model hears nothing. Rules are functions from an
    :class:`~deeplvm.diagnosis.Examination` to a :class:`~deeplvm.diagnosis.Verdict`, or ``None``,
    or words on what would have been seen;
    measurements are made when a rule first asks for them, and those that are impossible for a
    model are listed with the reason.

    Args:
        model: A fitted model; left as it was.
        data: What it was fitted to.
        metrics: Records of the epochs, as in ``metrics.jsonl``; without them the curves of
            training are not looked at.
        settings: Options of training, which remedies refer to.
        draw: How a latent is drawn where the bound and the likelihood are measured, as for
            :func:`~deeplvm.evaluation.evaluate`.
        split: The rows that training did not see; test if there are any.
        effort: How many rows, chosen at random, and draws are spent, and how many minutes: what
            takes longer is measured with less, or left out, which is said.
        rules: Which faults are looked for.
        everything: Whether what no rule needs is measured too, for the figures: mutual
            information, rate and distortion, the aggregate posterior, probes, sample quality.
        seed: Same seed, same words.
        progress: Told what is looked for next.

    Raises:
        ValueError: If there are no held-out rows, or fewer than five of any.
    """
    chosen: Split | None = split or next(
        (each for each in ("test", "valid") if data.rows(each)), None
    )
    if chosen is None or not data.rows(chosen):
        raise ValueError(
            f"A diagnosis needs rows that training did not see, and {data.name} has none; split "
            f"it: --split 0.8 0.1 0.1"
        )
    effort = effort or Effort()
    for each in ("train", chosen):
        if min(data.rows(each), effort.rows) < FEWEST_ROWS:
            raise ValueError(
                f"A diagnosis compares rows: it needs {FEWEST_ROWS} or more (--rows), and of "
                f"training and held-out rows as many; {data.name} has {data.rows(each)} {each} "
                f"rows, of which {effort.rows} would be looked at."
            )
    # the first rows of a file need not be like the others
    held_out = dict.fromkeys(("valid", "test"), 4 * effort.rows)
    some = data.sampled({"train": SEARCHED, **held_out}, seed)  # type: ignore[dict-item]
    known = settings or {}
    seen = Examination(
        model, some, chosen, metrics, known, effort, seed, draw, everything=everything
    )
    verdicts: list[Verdict] = []
    sound: list[str] = []
    not_asked: dict[str, str] = {}
    for rule in rules:
        what = (rule.__doc__ or rule.__name__).split("\n")[0].rstrip(".")
        if progress is not None:
            progress(what)
        try:
            verdict = rule(seen)
        except CannotMeasure as error:
            not_asked[what] = str(error)
            continue
        if isinstance(verdict, Verdict):
            verdicts.append(verdict)
        else:
            sound.append(what if verdict is None else f"{what} ({verdict})")
    for what, measure in _BESIDE.items() if everything else ():
        if progress is not None:
            progress(what)
        with contextlib.suppress(CannotMeasure):  # kept in seen.impossible
            measure(seen)
    told = set(not_asked.values())
    impossible = not_asked | {n: why for n, why in seen.impossible.items() if why not in told}
    title = f"{data.name}: {data.rows(chosen):,} {chosen} rows, {data.rows('train'):,} of training"
    return Diagnosis(ranked(verdicts), tuple(sound), impossible, title, seen)


_BESIDE: dict[str, Callable[[Examination], Any]] = {
    "What the latents say about a row": lambda seen: seen.surgery,
    "Rate and distortion": lambda seen: seen.rate_distortion,
    "The aggregate posterior against the prior": lambda seen: seen.aggregate,
    "Labels read from the latents": lambda seen: seen.probes,
    "Factors of the data in the latents": lambda seen: seen.disentanglement,
    "Draws against data, in features": lambda seen: seen.quality,
}
