"""Damaged files end in clear errors: no other exception, no hang, no crash, no huge allocation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded as on Linux")

_SCENE = str(Path(__file__).parent / "mutating.py")
# Files of each kind, in the short form and in the long one.
KINDS = {
    "model": (40, 2000),
    "checkpoint": (40, 1500),
    "config": (40, 1500),
    "description": (60, 2000),
    "npy": (50, 2000),
    "npz": (50, 2000),
    "csv": (40, 1500),
    "parquet": (40, 1500),
    "png": (30, 2000),
    "gif": (10, 500),
    "jpg": (10, 500),
    "tif": (10, 1000),
    "bmp": (10, 500),
    "idx": (40, 2000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged(born: Any, tmp_path: Path, kind: str, full: bool, tell: Any) -> None:
    count = KINDS[kind][full]
    child = born(tmp_path, scene=_SCENE, **{"with": {"name": kind, "count": count, "seed": 0}})
    child.join(60 + count / 2)
    found = tmp_path / "faults"
    assert not found.exists(), found.read_text()[-4000:]
    if child.exitcode != 0:
        child.kill()
        at = tmp_path / "at"
        where = at.read_text() if at.exists() else "the beginning"
        pytest.fail(
            f"ended with {child.exitcode} at {where}\n{(tmp_path / 'said').read_text()[-3000:]}"
        )
    tally = json.loads((tmp_path / "tally").read_text())
    assert tally["clear"] > count // 5
    tell(f"{kind}: {tally}")
