"""Runs on a model hub, which a folder stands in for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deeplvm.runs.run import open_run

Run = Callable[..., Any]


class Hub:
    """A hub as ``huggingface_hub.HfApi`` shows it: a folder for each model."""

    root: Path

    def _at(self, name: str) -> Path:
        return self.root / name.replace("/", "--")

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        self._at(name).mkdir(exist_ok=exist_ok)
        (self._at(name) / ".gitattributes").write_text("")

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        shutil.copytree(folder_path, self._at(repo_id), dirs_exist_ok=True)
        return SimpleNamespace(repo_url=f"https://hub/{repo_id}")

    def model_info(self, name: str, *, revision: str | None, files_metadata: bool) -> Any:
        if not self._at(name).is_dir():
            raise OSError(f"404: there is no {name}\nat all")
        files = [path for path in self._at(name).rglob("*") if path.is_file()]
        told = [
            SimpleNamespace(rfilename=str(p.relative_to(self._at(name))), size=p.stat().st_size)
            for p in files
        ]
        return SimpleNamespace(siblings=told, sha="0123")

    def hf_hub_download(self, name: str, file: str, *, revision: str, local_dir: str) -> str:
        assert revision == "0123"
        (Path(local_dir) / ".cache").mkdir(exist_ok=True)
        return str(shutil.copyfile(self._at(name) / file, Path(local_dir) / file))


@pytest.mark.parametrize("name", ["", " ", "a/b/c", "me/", "-x y"])
def test_what_can_be_no_name_is_refused_before_the_hub_is_asked(
    deeplvm: Run, table_run: Path, hub: Path, name: str
) -> None:
    for words in (("push", table_run, "--", name), ("pull", "--", name)):
        outcome = deeplvm(*words)
        assert outcome.code == 2
        assert f"{name!r} is no name of a model on a hub; write one as user/model" in outcome.line
    assert [*hub.parent.iterdir()] == []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hub's model me/people."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    Hub.root = tmp_path / "hub"
    Hub.root.mkdir()
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub.root / "me--people"


def test_a_run_goes_to_a_hub_and_comes_back(
    deeplvm: Run, table_run: Path, csv: Path, hub: Path
) -> None:
    outcome = deeplvm("push", table_run, "me/people")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "https://hub/me/people\n"
    there = {path.name for path in hub.iterdir()}
    assert {"README.md", "config.toml", "data.json", "model.safetensors"} <= there
    assert not {"report.html", "checkpoint"} & there
    for path in hub.iterdir():
        assert str(csv.parent).encode() not in path.read_bytes(), path
    outcome = deeplvm("pull", "me/people", "-o", "back")
    assert outcome.code == 0, outcome.err
    first, second = open_run(table_run).model, open_run("back").model
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert deeplvm("score", "back", csv, "-o", "scores.csv").code == 0
    again = deeplvm("pull", "me/people", "-o", "back")
    assert again.code == 2
    assert "back exists and holds a finished run; name another folder with -o" in again.line


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda hub: (hub / "model.pkl").write_bytes(b""), "has 'model.pkl', which is no file"),
        (lambda hub: (hub / "report.html").write_text(""), "has 'report.html', which is no file"),
        (lambda hub: (hub / "data.json").unlink(), "is no run of deeplvm: it has no data.json"),
        (
            lambda hub: _replaced(hub / "config.toml", 'recipe = "vae"', 'recipe = "os:system"'),
            "its recipe is 'os:system', somebody's own code",
        ),
        (
            lambda hub: _replaced(hub / "config.toml", "latent = 2", "latent = 3"),
            "me/people was not kept",
        ),
        (
            lambda hub: (hub / "model.safetensors").write_bytes(b"\x80\x04."),
            "me/people was not kept",
        ),
        (lambda hub: (hub / "evaluation.json").write_text("[1"), "me/people was not kept"),
        (lambda hub: shutil.rmtree(hub), "me/people: the hub says: OSError: 404: there is no"),
    ],
)
def test_what_is_no_run_is_refused_and_leaves_nothing(
    deeplvm: Run, table_run: Path, hub: Path, here: Path, harm: Callable[[Path], Any], said: str
) -> None:
    assert deeplvm("push", table_run, "me/people").code == 0
    harm(hub)
    outcome = deeplvm("pull", "me/people", "-o", "new/back")
    assert outcome.code == 2
    assert said in outcome.line
    assert not [*here.glob("new/*"), *here.glob("new/.*")]


def test_without_a_network_the_hub_says_so(
    deeplvm: Run, table_run: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ConnectError(Exception):
        """As the client of the hub has it."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectError("Name or service not known")

    for name in ("create_repo", "model_info"):
        monkeypatch.setattr(Hub, name, unreachable)
    for words in (("push", table_run, "me/people"), ("pull", "me/people", "-o", "back")):
        outcome = deeplvm(*words)
        assert outcome.code == 2
        assert "me/people: the hub says: ConnectError: Name or service not known" in outcome.line


def test_an_unfinished_run_is_not_pushed(
    deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path], hub: Path
) -> None:
    run = copy_of(table_run)
    (run / "model.safetensors").unlink()
    outcome = deeplvm("push", run, "me/people")
    assert outcome.code == 2
    assert "is not finished, so there is no model to push" in outcome.line
    assert not hub.exists()
