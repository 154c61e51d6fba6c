"""Runs on a model hub: what opens a run goes there, and comes back if none of it is code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeplvm.files import parse_json
from deeplvm.runs.run import Run, is_taken, open_run, refusal
from deeplvm.runs.sidecars import read_diagnosis, read_evaluation, read_metrics

# What a run is on a hub. No page, which may hold scripts, no checkpoint, no figures.
NEEDED = ("config.toml", "data.json", "model.safetensors")
FILES = (
    "README.md", *NEEDED, "evaluation.json", "metrics.jsonl", "diagnosis.json", "schema.toml",
)  # fmt: skip
_OF_THE_HUB = (".gitattributes",)
_MOST = 1 << 28  # bytes of a file other than the weights


class HubError(ValueError):
    """A run cannot be pushed or pulled; the message says why."""


def push(run: Run, name: str, *, private: bool = False, api: Any = None) -> str:
    """Upload a run: card, configuration, weights and what was measured; no data, no checkpoint.

    Paths of this machine become the names of their files.

    Args:
        run: A finished run with its card.
        name: Of the model on the hub, ``user/model``.
        private: Whether a model that is made is seen by its owner alone.
        api: A ``huggingface_hub.HfApi``; one with the user's own settings by default.

    Returns:
        Where it is.

    Raises:
        HubError: If the run is not finished or has no card, or the hub refuses.
    """
    _refuse_name(name)
    if not run.finished:
        raise HubError(
            f"{run.folder} is not finished, so there is no model to push; go on with: deeplvm "
            f"resume {run.folder}"
        )
    if not (run.folder / "README.md").is_file():
        raise HubError(f"{run.folder} has no card; write it with: deeplvm card {run.folder}")
    hub = _api() if api is None else api
    with tempfile.TemporaryDirectory() as stage, _told(name):
        _stage(run, Path(stage))
        hub.create_repo(name, private=private, exist_ok=True)
        made = hub.upload_folder(
            repo_id=name, folder_path=stage, commit_message="Upload a run of deeplvm"
        )
    return str(getattr(made, "repo_url", None) or name)


def _refuse_name(name: str) -> None:
    """Refuse what can be no name, before anybody is asked."""
    if not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII):
        raise HubError(f"{name!r} is no name of a model on a hub; write one as user/model.")


def _stage(run: Run, stage: Path) -> None:
    """The files of a run as they are uploaded."""
    for each in FILES:
        path = run.folder / each
        if path.is_file() and each not in ("config.toml", "data.json", "evaluation.json"):
            shutil.copyfile(path, stage / each)
    config = run.config
    options = {n: _named(v) if n == "schema" else v for n, v in config.data_options.items()}
    config = replace(config, data=_named(config.data), data_options=options)
    (stage / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    plain: Any = parse_json((run.folder / "data.json").read_bytes())
    plain["source"] = _named(plain.get("source"))
    for option in ("source", "schema"):
        if option in plain.get("options", {}):
            plain["options"][option] = _named(plain["options"][option])
    plain.pop("stream", None)  # where its files lie
    (stage / "data.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    if (run.folder / "evaluation.json").is_file():
        measured: Any = parse_json((run.folder / "evaluation.json").read_bytes())
        measured["data"]["source"] = _named(measured["data"].get("source"))
        (stage / "evaluation.json").write_text(json.dumps(measured, indent=2), encoding="utf-8")


def _named(path: Any) -> Any:
    """A path as the name of its file; another word stays."""
    return Path(path).name or path if isinstance(path, str) else path


def pull(
    name: str, folder: Path, *, revision: str | None = None, trust: bool = False, api: Any = None
) -> Run:
    """Download a run, look at all of it, and only then put it in its place.

    A run is a configuration, descriptions and weights as safetensors: opening it runs no code. A
    model with any other file (a pickle, a program, a page) is not downloaded, and one whose recipe
    is somebody's own is not kept.

    Args:
        name: Of the model on the hub, ``user/model``.
        folder: Where the run is to be; there is nothing yet.
        revision: A commit, a branch or a tag; the newest by default.
        trust: Whether somebody's own recipe may be named. It is run only by verbs that are told
            to trust it too.
        api: A ``huggingface_hub.HfApi``.

    Raises:
        HubError: If something of it is not what deeplvm writes, or the hub refuses; nothing is
            left then.
    """
    _refuse_name(name)
    if is_taken(folder):
        raise HubError(refusal(folder).replace("--out", "-o"))
    hub = _api() if api is None else api
    with _told(name):
        about = hub.model_info(name, revision=revision, files_metadata=True)
    sizes = {each.rfilename: each.size for each in about.siblings or ()}
    _refuse_files(name, sizes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with _told(name):
            for each in FILES:
                if each in sizes:
                    # of the commit that was looked at
                    hub.hf_hub_download(name, each, revision=about.sha, local_dir=str(stage))
        shutil.rmtree(stage / ".cache", ignore_errors=True)
        _check(name, stage, trust=trust)
        if folder.exists():
            folder.rmdir()  # empty
        os.replace(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    folder.chmod(0o755)  # a temporary folder is its owner's alone
    return open_run(folder)


def _refuse_files(name: str, sizes: dict[str, int | None]) -> None:
    """Refuse a model on a hub that is more or less than a run, before anything is downloaded."""
    if unknown := sorted(sizes.keys() - {*FILES, *_OF_THE_HUB}):
        raise HubError(
            f"{name} has {unknown[0]!r}, which is no file of a run and could run code; a run has "
            f"{', '.join(FILES)}. Nothing was downloaded."
        )
    if absent := [each for each in NEEDED if each not in sizes]:
        raise HubError(f"{name} is no run of deeplvm: it has no {absent[0]}.")
    large = [n for n, size in sizes.items() if n != "model.safetensors" and (size or 0) > _MOST]
    if large:
        raise HubError(f"{name}: {large[0]} has {sizes[large[0]]:,} bytes, which no run's has.")


def _check(name: str, stage: Path, *, trust: bool) -> None:
    """Refuse what is there if any of it is not what deeplvm writes."""
    for path in stage.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.name not in FILES:
            raise HubError(f"{name}: {path.name} is no file of a run; nothing was kept.")
    try:
        run = open_run(stage)
        if ":" not in (run.config.recipe or ""):
            _ = run.model  # the recipe, its options, and the weights
        elif not trust:
            raise HubError(
                f"its recipe is {run.config.recipe!r}, somebody's own code; if you know that "
                f"code, say --trust"
            )
        read_evaluation(stage)
        read_diagnosis(stage)
        read_metrics(stage / "metrics.jsonl")
    except (ValueError, TypeError, OSError) as error:
        said = str(error).replace(f"{stage}{os.sep}", "").replace(str(stage), name)
        raise HubError(f"{name} was not kept: {said}") from error


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise HubError(
            "Runs are pushed and pulled with huggingface_hub, which is not installed: pip install "
            '"deeplvm[hub]".'
        ) from error
    return HfApi()


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """What a hub refuses, in one line."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        # errors of what huggingface_hub speaks with come through: that there is no network, say
        home = type(error).__module__.partition(".")[0]
        usual = isinstance(error, OSError | ValueError | RuntimeError)
        if home == "deeplvm" or (home == "builtins" and not usual):
            raise
        said = " ".join(str(error).split())[:300]
        raise HubError(f"{name}: the hub says: {type(error).__name__}: {said}") from error
