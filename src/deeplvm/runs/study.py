"""A study: options of a recipe searched by trials that are compared on held-out rows."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from deeplvm.data.records import Data
from deeplvm.files import nested, parse_json, read_whole, write_atomically
from deeplvm.randomness import seed_of
from deeplvm.recipes import Recipe, name_of, training_of
from deeplvm.registry import amiss, phases_of
from deeplvm.results import Record
from deeplvm.runs.comparison import scored_by, unlike
from deeplvm.runs.run import Config, Run, RunError, build, create_run, open_run
from deeplvm.runs.search import OF_OBJECTIVE, Choice, Dimension, read, usual
from deeplvm.runs.sidecars import read_metrics
from deeplvm.runs.training import refuse_holes, settled, training_options
from deeplvm.training import Callback, CheckpointError, fit, unfolded
from deeplvm.training.failures import NonFiniteError
from deeplvm.training.options import check
from deeplvm.training.phases import idle_in

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.evaluation.comparison import Comparison

FORMAT = 1
#: Where a study keeps what it does, the run that is best, and that of the options by default.
FILE, BEST, DEFAULTS, TRIALS = "study.json", "best", "defaults", "trials"
# Trials that are drawn by chance before the sampler learns from them, and before which none is
# stopped; parts of a trial's time, after each of which it is compared, from which on it may be
# stopped; its share of all minutes.
_RANDOM, _UNSTOPPED, _PARTS, _EARLY, _SHARE = 8, 4, 10, 2, 0.1
_FAILURES, _ASKS = 5, 20  # at the start, before it is given up; for options not tried yet
_FEW, _SHOWN = 6, 12  # completed trials that importance asks for; rows of a table of text

#: What a bound that is not one of log p(x) says.
EXPLAINED = {
    "cells": "how likely hidden values of a row are given its others, log p(x_h | x_r) in nats a "
    "row: how well a model fills in, which is not how likely whole rows are"
}

State = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Trial(Record):
    """One training of a study.

    Attributes:
        number: From 0, which has the options as they are by default.
        options: Those that are searched.
        state: Done, or stopped as it was behind the others, or failed.
        score: The best bound of held-out rows, nats a row; none if it failed.
        epochs: How many it had.
        seconds: Of training.
        curve: The best bound so far after each tenth of its time: ``(tenth, bound)``.
        reason: Why it failed or was stopped.
    """

    number: int
    options: dict[str, Any]
    state: State = "running"
    score: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Study(Record):
    """Trials on the same rows, and what they found.

    Attributes:
        config: Of every trial, but for what is searched.
        search: The values or the range of each option, as text.
        minutes: Of all trials together; none is no limit.
        trial_minutes: Of each.
        most: Trials at most.
        bound: What is compared on held-out rows.
        direction: Whether more of it is better.
        trials: All of them.
        seconds: Spent so far.
        importance: Of each option, its share of the variance of the bound among trials that
            were done (fANOVA).
    """

    config: Config
    search: dict[str, str]
    minutes: float | None = None
    trial_minutes: float | None = None
    most: int | None = None
    bound: str = "elbo"
    direction: Literal["higher", "lower"] = "higher"
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0
    importance: dict[str, float] | None = None

    @property
    def finished(self) -> tuple[Trial, ...]:
        """Those that are not running."""
        return tuple([each for each in self.trials if each.state != "running"])

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """Finished trials, the best first, those that were stopped or failed last."""
        sign = -1 if self.direction == "higher" else 1
        order = {"done": 0, "stopped": 1, "failed": 2}
        return tuple(
            sorted(self.finished, key=lambda e: (order[e.state], sign * (e.score or 0.0)))
        )

    @property
    def best(self) -> Trial | None:
        """The best of those that are done."""
        return next((each for each in self.ranked if each.state == "done"), None)

    def heading(self) -> str:
        """What was searched, and how long."""
        return (
            f"{len(self.finished)} trials of {self.config.recipe} on "
            f"{Path(self.config.data or '').name}, "
            f"{self.seconds / 60:.1f} min"
        )

    @property
    def header(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the table."""
        bound = f"held-out {self.bound}"
        return ("trial", "", bound, "behind", "epochs", "seconds", *self.search)

    def rows(self) -> list[tuple[str, ...]]:
        """One line a trial, the best first."""
        best = self.best
        behind = {
            t.number: f"{abs(best.score - t.score):.2f}"
            for t in self.finished
            if best is not None and t is not best
            and best.score is not None and t.score is not None
        }  # fmt: skip
        return [
            (
                str(t.number),
                {"done": "" if t.number else "defaults"}.get(t.state, t.state),
                "" if t.score is None else f"{t.score:.2f}",
                behind.get(t.number, ""),
                str(t.epochs),
                f"{t.seconds:.0f}",
                *[_short(t.options.get(name, "")) for name in self.search],
            )
            for t in self.ranked
        ]

    def table(self) -> list[tuple[str, ...]]:
        """The first lines, the defaults among them."""
        rows = self.rows()
        shown = rows[:_SHOWN] + [row for row in rows[_SHOWN:] if row[0] == "0"]
        left = f"{len(rows) - len(shown)} more"
        return shown + ([(left, *[""] * (len(self.header) - 1))] if len(rows) > len(shown) else [])

    def notes(self) -> list[str]:
        """What was found, in words."""
        best, said = self.best, []
        if best is None:
            return ["No trial was done.", *[f"! {t.reason}" for t in self.finished[-1:]]]
        options = ", ".join([f"{name} {_short(value)}" for name, value in best.options.items()])
        which = f"Trial {best.number} is" if best.number else "The options as they are, are"
        said.append(f"{which} the best: {options}.")
        if self.bound in EXPLAINED:
            said.append(f"Held-out {self.bound}: {EXPLAINED[self.bound]}.")
        if self.importance:
            largest = sorted(self.importance.items(), key=lambda item: -item[1])
            shares = ", ".join([f"{name} {share:.0%}" for name, share in largest[:4]])
            said.append(f"What makes the difference: {shares}.")
        edges = [name for name, each in self._dimensions().items() if _at_edge(each, best, name)]
        if edges:
            said.append(f"At the edge of what was searched: {', '.join(edges)}; search beyond.")
        failed = dict.fromkeys([t.reason for t in self.trials if t.state == "failed"])
        return [*said, *[f"! A trial failed: {reason}" for reason in failed]]

    def otherwise(self, compared: Comparison) -> str:
        """That rows which no trial has seen are likelier by the defaults, if they are."""
        best, *others = compared.models
        if self.best is None or best.name != DEFAULTS:
            return ""
        behind = next(each.behind for each in others if each.name == BEST)
        low, high = behind.interval()
        return (
            f"Trial {self.best.number} is the best by held-out {self.bound}, but "
            f"{compared.what.lstrip(', ')} are likelier by the options as they are: log p(x) is "
            f"{behind} nats a row higher ({low:.2f} to {high:.2f})"
        )

    def _dimensions(self) -> dict[str, Dimension]:
        from deeplvm.recipes import find

        try:
            return read_search(self, find(self.config.recipe or ""))
        except ValueError:  # somebody's own recipe that is not there any more
            return {}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and words, as JSON holds them."""
        return super().to_dict() | {"config": _plain(asdict(self.config))}

    def write(self, folder: Path) -> None:
        """Keep all of it in its folder."""
        plain = {"format": FORMAT, **self.to_dict()}
        write_atomically(folder / FILE, json.dumps(plain, indent=1, allow_nan=False).encode())


def read_search(study: Study, recipe: Recipe) -> dict[str, Dimension]:
    """What a study searches."""
    texts = [f"{name}={text}" for name, text in study.search.items()]
    return read(texts, recipe, study.config.recipe_options)


def read_study(folder: Path) -> Study:
    """A study that :func:`tune` has left.

    Raises:
        RunError: If there is none, or its file is damaged.
    """
    path = folder / FILE
    try:
        plain = parse_json(read_whole(path, RunError))
        if not isinstance(plain, dict) or nested(plain) or plain.pop("format", None) != FORMAT:
            raise TypeError
        config = Config(**plain.pop("config"))
        trials = []
        for each in plain.pop("trials"):
            each["options"] = {k: _tuple(value) for k, value in each["options"].items()}
            each["curve"] = _tuple(each["curve"])
            trials.append(Trial(**each))
            if reason := amiss(each["state"], State) or amiss(each["score"], float | None):
                raise TypeError(reason)
        for name, hint in get_type_hints(Study).items():
            if reason := amiss(plain.get(name), hint) if name in plain else None:
                raise TypeError(f"{name} {reason}")
        study = Study(config=config, trials=tuple(trials), **plain)
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no study; deeplvm tune makes one.") from error
    except RunError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} is damaged, or of another version of deeplvm.") from error
    return study


def plan(
    data: Data,
    config: Config,
    recipe: Recipe,
    *,
    search: Sequence[str] = (),
    said: Sequence[str] = (),
    minutes: float | None = None,
    trial_minutes: float | None = None,
    trials: int | None = None,
) -> Study:
    """A study that can be begun.

    Args:
        data: With held-out rows.
        config: Of every trial, but for what is searched.
        recipe: Its recipe.
        search: What is searched, as text; see :func:`~deeplvm.runs.search.read`. By default what
            is usual, around the options of ``config``.
        said: Names of options that somebody has said, which are not searched.
        minutes: Of all trials; ten if there is no number of trials either.
        trial_minutes: Of each: a tenth of the minutes, or as many as the trials leave.
        trials: How many there are at most.

    Raises:
        RunError: If nothing is held out, or bounds of what is searched would not compare.
    """
    if data.options.get("graph"):
        raise RunError(
            f"Trials are compared on held-out rows, and {data.name} is a graph, which is one row; "
            f"compare runs of it by their held-out pairs: deeplvm evaluate RUN."
        )
    if not data.rows("valid"):
        raise RunError(
            f"Trials are compared on held-out rows, and {data.name} has none; split some off, as "
            f"with --split 0.8 0.1 0.1."
        )
    check(minutes=minutes)
    if minutes is None and trials is None:
        minutes = 10.0
    if trial_minutes is None and minutes is not None:
        trial_minutes = minutes * (_SHARE if trials is None else 1 / trials)
    if minutes is not None and trial_minutes is not None and trial_minutes > minutes:
        raise RunError(
            f"--trial-minutes {trial_minutes:g} is more than --minutes {minutes:g}, which are "
            f"those of all trials together."
        )
    training = dict(config.training) | {"minutes": trial_minutes}
    config = replace(settled(config, data, recipe), training=training)
    model = build(recipe, data, config.recipe_options, int(training["seed"]))
    dimensions = read(search, recipe, config.recipe_options)
    if twice := [name for name in dimensions if name in said]:
        raise RunError(
            f"--{twice[0].replace('_', '-')} says one value, and --search {twice[0]}=… several; "
            f"leave one of them out."
        )
    altered = [name for name in dimensions if name in OF_OBJECTIVE]
    if altered and training.get("measure") is None:
        raise RunError(
            f"--search {altered[0]}=… makes trials ascend different objectives, whose bounds do "
            f"not compare; --measure elbo compares all by the same."
        )
    refuse_holes(model, data, name_of(recipe))
    _refuse_beforehand(data, config, recipe, model, dimensions)
    if not dimensions:
        phases = training.get("phases")
        none = idle_in(phases_of(phases, model)) if isinstance(phases, str) else ()
        fixed = (*said, *none, *(["averaging", "learning_rate", "kl_weight"] if none else []))
        dimensions = usual(
            config.recipe_options, training, rows=data.rows("train"),
            latents=bool(model.q.names), fixed=fixed,
        )  # fmt: skip
    if not dimensions:
        raise RunError("Nothing is left to search; say what with --search, as in latent=4..64.")
    texts = {name: str(each.values) for name, each in dimensions.items()}
    direction = training.get("direction") or "higher"
    return Study(config, texts, minutes, trial_minutes, trials, direction=direction)


def _refuse_beforehand(
    data: Data, config: Config, recipe: Recipe, model: Any, dimensions: Mapping[str, Dimension]
) -> None:
    """Refuse what no trial could be trained with, or by which the likelihood is of something else.

    Each choice, and both ends of each range, begin as a trial does, up to its first step.
    """
    _begin(model, config, data)
    row, draw = data.valid[:1], dict(training_of(recipe).get("draw") or {}) or None
    first: Any = None
    for name, each in dimensions.items():
        for value in each.values.ends:
            changed = _varied(config, each, value)
            try:
                seed = int(config.training["seed"])
                other = build(recipe, data, changed.recipe_options, seed)
                _begin(other, changed, data)
                if each.table != "recipe_options" or not isinstance(each.values, Choice):
                    continue
                found = scored_by(other, data, row, 1, draw)[1]
                first = first or scored_by(model, data, row, 1, draw)[1]
            except ValueError as error:
                raise RunError(f"--search {name}={each.values}: {error}") from error
            if apart := unlike(first, found):
                raise RunError(
                    f"--search {name}=…: likelihoods by the options as they are and with {name} "
                    f"{_short(value)} do not compare: {apart[0]}. Say {name} once, and search "
                    f"others."
                )


def _varied(config: Config, dimension: Dimension, value: Any) -> Config:
    """A configuration with another value of an option."""
    options = {**getattr(config, dimension.table), dimension.name: value}
    changed: dict[str, Any] = {dimension.table: options}
    return replace(config, **changed)


def _begin(model: LatentVariableModel, config: Config, data: Data) -> None:
    """Begin a training and leave it before its first step, which refuses what cannot be."""
    run = Run(Path(), config, data.description)
    options = training_options(run, model, data, lambda _: None)
    options |= {"folder": None, "quiet": True, "callbacks": [_Begun()]}
    with contextlib.suppress(_Over):
        unfolded(fit)(model, data, **options)


def _without_bound(reason: str) -> str:
    return (
        f"Trials are compared by their bounds, but {reason}. More --epochs or "
        f"--trial-minutes, a shorter --kl-weight, or --measure elbo would give it one."
    )


def tune(
    folder: Path,
    study: Study,
    data: Data,
    recipe: Recipe,
    *,
    told: Callable[[str], None] = lambda _: None,
) -> Study:
    """Try options until the minutes or the trials are over; from where the folder has it.

    The first trial has the options as they are; the next are drawn by chance, and then where a
    tree-structured Parzen estimator expects more. One that is behind the median of the others
    after the same part of its time is stopped. ``best`` and ``defaults`` in the folder are runs
    like any other, of the best trial and of the first.

    Algorithms for Hyper-Parameter Optimization (Bergstra et al., 2011),
    https://papers.nips.cc/paper/4443; Optuna: A Next-generation Hyperparameter Optimization
    Framework (Akiba et al., 2019), https://arxiv.org/abs/1907.10902

    What is drawn depends on the seed and on the trials before alone, so that a study which was
    killed goes on as if nothing had happened; of trials that the clock ends, as far as it allows.

    Args:
        folder: Of the study.
        study: By :func:`plan`, or :func:`read_study`.
        data: Of all trials.
        recipe: Of all trials.
        told: Is told what happens.

    Raises:
        RunError: If optuna is not installed, all of the first trials fail, or none can be ranked.
        TrainingInterrupted: By a signal, in the middle of a trial; all is kept.
    """
    tuner = _Tuner(folder, study, data, recipe, told)
    with _quiet():
        return tuner.go()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its own log; the level is as before, after."""
    try:
        import optuna
    except ImportError as error:
        raise RunError(
            'Optuna is not installed here; install it with: pip install "deeplvm[tune]"'
        ) from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


class _Over(Exception):
    """A trial that is stopped, with the reason."""


class _Tuner:
    """A study at work in its folder."""

    def __init__(
        self,
        folder: Path,
        study: Study,
        data: Data,
        recipe: Recipe,
        told: Callable[[str], None],
    ) -> None:
        self.folder, self.study, self.data, self.recipe = folder, study, data, recipe
        self.told = told
        self.dimensions = read_search(study, recipe)
        self.seed = int(study.config.training["seed"])
        self.began, self.before = time.monotonic(), study.seconds

    @property
    def spent(self) -> float:
        """Seconds of the study."""
        return self.before + time.monotonic() - self.began

    def go(self) -> Study:
        """All trials that there is time for."""
        self.keep()
        try:
            while (trial := self.next()) is not None:
                self.keep(trial)
                done = self.tried(trial)
                self.keep(done)
                self.settle()
                self.tell(done)
                self.refuse_failures()
        finally:
            self.keep()
        self.settle()
        self.keep(importance=self.importance())
        return self.study

    def keep(self, trial: Trial | None = None, **changed: Any) -> None:
        """Write what there is, with a trial that has begun or ended."""
        trials = self.study.trials
        if trial is not None:
            trials = (*[each for each in trials if each.number != trial.number], trial)
        changed |= {"trials": trials, "seconds": self.spent}
        self.study = replace(self.study, **changed)
        self.study.write(self.folder)

    def tell(self, trial: Trial) -> None:
        """One line of a trial."""
        options = ", ".join([f"{name} {_short(value)}" for name, value in trial.options.items()])
        score = "" if trial.score is None else f"{self.study.bound} {trial.score:.2f}, "
        best = " (best)" if trial is self.study.best else ""
        ended = {"done": best, "stopped": " (stopped)", "failed": f" (failed: {trial.reason})"}
        what = "the options as they are" if trial.number == 0 else options
        self.told(f"trial {trial.number}: {score}{what}{ended[trial.state]}")

    def next(self) -> Trial | None:
        """The trial that is to go on, or a new one; none if the study is over."""
        study, number = self.study, len(self.study.trials)
        for each in study.trials:
            if each.state == "running":
                return each
        if study.most is not None and number >= study.most:
            return None
        each_takes = 60 * (study.trial_minutes or 0.0)
        if study.minutes is not None and number and self.spent + each_takes > 60 * study.minutes:
            return None
        if number == 0:
            return Trial(0, {name: self.usual(each) for name, each in self.dimensions.items()})
        tried = [each.options for each in study.trials]
        for attempt in range(_ASKS):
            drawn = self.ask(seed_of(self.seed, "study", number, attempt) % 2**32).params
            options = {n: d.values.value(drawn[n]) for n, d in self.dimensions.items()}
            if options not in tried:
                return Trial(number, options)
        self.told("there is hardly anything left that was not tried: the study ends")
        return None

    def usual(self, dimension: Dimension) -> Any:
        """The value that an option has without the study."""
        return getattr(self.study.config, dimension.table).get(dimension.name)

    def optuna(self, seed: int) -> Any:
        """What Optuna knows of the trials; all of it comes from ours."""
        import optuna

        states = optuna.trial.TrialState
        of = {"done": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}
        better = "maximize" if self.study.direction == "higher" else "minimize"
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM)
        pruner = optuna.pruners.MedianPruner(
            _UNSTOPPED, n_warmup_steps=_EARLY, n_min_trials=_UNSTOPPED
        )
        found = optuna.create_study(direction=better, sampler=sampler, pruner=pruner)
        for each in self.study.finished:
            if not all([each.options[n] in d.values for n, d in self.dimensions.items()]):
                continue  # the defaults, where others are searched
            found.add_trial(
                optuna.trial.create_trial(
                    state=of[each.state],
                    value=each.score if each.state == "done" else None,
                    params=self.drawn(each),
                    distributions=self.distributions(),
                    intermediate_values=dict(each.curve),
                )
            )
        return found

    def distributions(self) -> dict[str, Any]:
        """Of each option that is searched."""
        return {name: each.values.distribution() for name, each in self.dimensions.items()}

    def drawn(self, trial: Trial) -> dict[str, Any]:
        """The options of a trial as Optuna has them."""
        return {n: d.values.drawn(trial.options[n]) for n, d in self.dimensions.items()}

    def ask(self, seed: int, trial: Trial | None = None) -> Any:
        """A new trial of Optuna: of these options, or as it likes."""
        study = self.optuna(seed)
        if trial is None:
            return study.ask(self.distributions())
        inside = all([trial.options[n] in d.values for n, d in self.dimensions.items()])
        if inside:
            study.enqueue_trial(self.drawn(trial))
        return study.ask(self.distributions() if inside else None)

    def tried(self, trial: Trial) -> Trial:
        """A trial that was trained to its end, from where its folder has it."""
        folder, config = self.folder / TRIALS / str(trial.number), self.study.config
        for name, each in self.dimensions.items():
            config = _varied(config, each, trial.options[name])
        watch = _Watch(self, trial.number, self.ask(0, trial), folder)
        try:
            if not (folder / "config.toml").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                run = create_run(folder, config, self.data)
            else:
                run = open_run(folder, trust=True)
            model = build(self.recipe, self.data, run.config.recipe_options, self.seed)
            options = training_options(run, model, self.data, lambda _: None)
            options |= {"resume": True, "quiet": True, "callbacks": [watch]}
            unfolded(fit)(model, self.data, **options)
            if watch.best is None:
                watch.refuse("none of its epochs came after its KL warm-up")
            run.save_model(model)
            ended: dict[str, Any] = {"state": "done"}
        except _Over as over:
            ended = {"state": "stopped", "reason": str(over)}
        except CheckpointError:
            raise
        except (ValueError, MemoryError, RuntimeError) as error:
            memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
            ours = isinstance(error, ValueError) or memory
            first = trial.number == 0 and not isinstance(error, NonFiniteError)
            if not ours or first:
                raise
            reason = "out of memory" if memory else " ".join(str(error).split())[:200]
            ended = {"state": "failed", "reason": reason}
        return replace(trial, score=watch.best, **watch.measured, **ended)

    def refuse_failures(self) -> None:
        """Give up where nothing works."""
        found = self.study.finished
        if len(found) >= _FAILURES and all([each.state == "failed" for each in found]):
            raise RunError(f"The first {len(found)} trials failed, the last: {found[-1].reason}")

    def settle(self) -> None:
        """Keep the runs of the best trial and of the defaults, and no others.

        Each step leaves a folder from which the next call goes on, wherever this one is killed.
        """
        best, trials = self.study.best, self.folder / TRIALS
        if best is None:
            return
        new, kept, defaults = trials / str(best.number), self.folder / BEST, self.folder / DEFAULTS
        of_defaults = self.study.trials and self.study.trials[0].state == "done"
        if new.exists():
            if kept.exists() and of_defaults and not defaults.exists():
                kept.rename(defaults)
            shutil.rmtree(kept, ignore_errors=True)
            new.rename(kept)
        running = [str(e.number) for e in self.study.trials if e.state == "running"]
        for each in [*trials.iterdir()] if trials.exists() else []:
            if each.name not in running:
                shutil.rmtree(each, ignore_errors=True)
        if trials.exists() and not any(trials.iterdir()):
            trials.rmdir()

    def importance(self) -> dict[str, float] | None:
        """How much of the variance among completed trials each option explains."""
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        done = [each for each in self.study.finished if each.state == "done"]
        study = self.optuna(0)
        if len(done) < _FEW or len({each.score for each in done}) < 2:
            return None
        try:
            judge = FanovaImportanceEvaluator(seed=self.seed % 2**32)
            found = get_param_importances(study, evaluator=judge)
        except (ValueError, RuntimeError):  # trials that differ in nothing
            return None
        return {name: float(share) for name, share in found.items()}


class _Begun(Callback):
    """Ends a training before its first step."""

    def started(self, options: Mapping[str, Any]) -> None:
        """Refuse one that comes to no bound."""
        if reason := options["ranking"].why_not:
            raise RunError(_without_bound(reason))
        raise _Over


class _Watch(Callback):
    """Follows a trial, and ends one that is behind."""

    def __init__(self, tuner: _Tuner, number: int, trial: Any, folder: Path) -> None:
        self.tuner, self.number, self.trial, self.folder = tuner, number, trial, folder
        self.best: float | None = None
        self.curve: dict[int, float] = {}
        self.epochs, self.seconds = 0, 0.0
        self.most, self.limit = 1, math.inf

    @property
    def measured(self) -> dict[str, Any]:
        """What a trial says of itself."""
        curve = tuple(self.curve.items())
        return {"epochs": self.epochs, "seconds": self.seconds, "curve": curve}

    def started(self, options: Mapping[str, Any]) -> None:
        """Take up what was done before."""
        self.ranking, self.most = options["ranking"], options["epochs"]
        self.limit = 60 * (self.tuner.study.trial_minutes or math.inf)
        if self.ranking.why_not:
            self.refuse(self.ranking.why_not)
        if self.tuner.study.bound != self.ranking.name:
            self.tuner.study = replace(self.tuner.study, bound=self.ranking.name)
        for record in read_metrics(self.folder / "metrics.jsonl"):
            if record["epoch"] <= options["epoch"]:
                self.take(record)

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """Compare with the others at the same part of the time."""
        if self.take(record) and self.trial.should_prune():
            raise _Over("behind the median of the others")

    def refuse(self, reason: str) -> None:
        """End a trial that has no bound; the first says that none would have one."""
        if self.number:
            raise _Over(reason)
        raise RunError(_without_bound(reason))

    def take(self, record: Mapping[str, Any]) -> bool:
        """Note the bound of an epoch; whether there is something new to compare."""
        self.epochs, self.seconds = record["epoch"], self.seconds + record["seconds"]
        value = (record.get("valid") or {}).get(self.ranking.name)
        if value is not None and math.isfinite(value) and self.ranking.comparable(record):
            better = max if self.ranking.higher else min
            self.best = value if self.best is None else better(self.best, value)
        part = int(_PARTS * min(1.0, max(self.epochs / self.most, self.seconds / self.limit)))
        if self.best is None or part < 1 or part in self.curve:
            return False
        self.curve[part] = self.best
        self.trial.report(self.best, part)
        return part < _PARTS


def _at_edge(dimension: Dimension, best: Trial, name: str) -> bool:
    """Whether the best value is the first or the last of a range."""
    values = dimension.values
    if isinstance(values, Choice):
        return False
    value = values.drawn(best.options[name])
    if not isinstance(value, int | float):
        return False
    low, high = float(values.least), float(values.most)
    if values.whole and high - low < _PARTS:  # few values, of which any is near an edge
        return False
    if values.log:
        place = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    else:
        place = (value - low) / (high - low)
    return not 0.05 < place < 0.95


def _short(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace(" ", "")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _tuple(value: Any) -> Any:
    return tuple([_tuple(each) for each in value]) if isinstance(value, list) else value


def run_of(folder: Path, which: str = BEST, *, trust: bool = False) -> Run:
    """The run of the best trial of a study, or of the defaults."""
    return open_run(folder / which, trust=trust)
