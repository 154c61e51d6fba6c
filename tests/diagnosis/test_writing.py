"""What a diagnosis leaves in a folder, and what remains where it cannot be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deeplvm.diagnosis import Diagnosis, Effort, diagnose
from deeplvm.diagnosis.rules import samples, training
from deeplvm.report import write_diagnosis

from .patients import linear, loadings, rows_of


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    effort = Effort(rows=100, particles=20, replicates=200)
    weight = loadings(2)
    rules = [training.still_rising, training.unstable, samples.unlike_data]
    return diagnose(linear(weight), rows_of(weight), rules=rules, effort=effort)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_older_figures_go(found: Diagnosis, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "probes.svg").write_text("older")
    write_diagnosis(found, tmp_path)
    assert set(contents(tmp_path)) == {"diagnosis.json", "figures/checks.svg"}
    kept = json.loads((tmp_path / "diagnosis.json").read_text())
    assert [each["file"] for each in kept["figures"]] == ["figures/checks.svg"]


@pytest.mark.parametrize("which", [1, 2])
def test_a_full_disk_leaves_the_older_ones(
    found: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "probes.svg").write_text("older")
    (tmp_path / "diagnosis.json").write_text("older")
    before, written = contents(tmp_path), []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == which:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_diagnosis(found, tmp_path)
    assert contents(tmp_path) == before


def test_what_has_one_reason_is_told_with_it_once(found: Diagnosis) -> None:
    text = str(found)
    reasons: list[Any] = list(found.impossible.values())
    assert len(reasons) == 2
    for why in set(reasons):
        assert text.count(f"      {why}") == 1
    for what in found.impossible:
        assert f"   {what}\n" in text
