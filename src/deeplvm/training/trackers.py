"""Callbacks that send the records of a run to a tracker that is installed already."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from deeplvm.files import parse_json, write_atomically
from deeplvm.training.callbacks import Callback, History, Record, numbers_of

Trackers = Literal["wandb", "trackio", "mlflow"]
_PROJECT = "deeplvm"


def tracker(
    name: Trackers, run: str, settings: Mapping[str, Any], state: str | Path | None = None
) -> Callback:
    """A callback for a tracker by its name; see :class:`Wandb` and :class:`MLflow`.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{name} is not installed here; install it with: pip install {name}"
        ) from error
    return (MLflow if name == "mlflow" else Wandb)(module, run, settings, state)


class _Remembered(Callback):
    """A tracker's run that goes on where training does.

    Args:
        module: The tracker.
        run: What the run is called there.
        settings: What was chosen, by name.
        state: The file that keeps the tracker's own name of the run; none to begin a new one.
    """

    def __init__(
        self,
        module: ModuleType | Any,
        run: str,
        settings: Mapping[str, Any],
        state: str | Path | None = None,
    ) -> None:
        self.module, self.run, self.settings = module, run, dict(settings)
        self.state = None if state is None else Path(state)

    def _known(self) -> str | None:
        """The tracker's name of the run, of a training that goes on."""
        if self.state is None or not self.state.is_file():
            return None
        found = parse_json(self.state.read_bytes())
        number = found.get("run") if isinstance(found, dict) else None
        return number if isinstance(number, str) else None

    def _remember(self, number: Any) -> None:
        if self.state is not None and isinstance(number, str):
            found = {"tracker": self.module.__name__, "run": number}
            write_atomically(self.state, json.dumps(found).encode())


class Wandb(_Remembered):
    """Sends every number of the records by ``init``, ``log`` and ``finish``, a step an epoch.

    Of Weights & Biases (``wandb``), and of what has its functions, such as ``trackio``. The
    project is that of ``WANDB_PROJECT``, ``deeplvm`` if there is none.
    """

    def started(self, options: Mapping[str, Any]) -> None:
        known = self._known()
        begun = self.module.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), name=self.run,
            config=self.settings, resume="allow", **({} if known is None else {"id": known}),
        )  # fmt: skip
        if self.module.__name__ == "wandb":  # trackio goes on by the name
            self._remember(getattr(begun, "id", None))

    def epoch_ended(self, record: Record) -> None:
        self.module.log(numbers_of(record), step=record["epoch"])

    def ended(self, history: History | None, error: BaseException | None) -> None:
        self.module.finish()


class MLflow(_Remembered):
    """Sends every number of the records to MLflow, a step an epoch.

    To the tracking server and the experiment that MLflow's own environment variables name;
    ``deeplvm`` is the experiment if there is none.
    """

    def started(self, options: Mapping[str, Any]) -> None:
        known = self._known()
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & {*os.environ}:
            self.module.set_experiment(_PROJECT)
        begun = self.module.start_run(run_id=known, run_name=self.run)
        if known is None:  # parameters are set once
            self.module.log_params(self.settings)
        self._remember(begun.info.run_id)

    def epoch_ended(self, record: Record) -> None:
        self.module.log_metrics(numbers_of(record), step=record["epoch"])

    def ended(self, history: History | None, error: BaseException | None) -> None:
        self.module.end_run("FINISHED" if error is None else "FAILED")
