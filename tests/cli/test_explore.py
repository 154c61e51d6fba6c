"""The page on which the decoder answers, by the command line and in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from deeplvm.export.functions import Decoder
from deeplvm.export.javascript import engine
from deeplvm.report.atlas import save_atlas
from deeplvm.report.explore import CLOSE, _series, _share
from deeplvm.runs.run import open_run

Deeplvm = Callable[..., Any]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# What a hand does: a slider, keys, a click on a strip; then what there is to see.
DRIVE = """
setTimeout(() => {
  const before = Array.from(z);
  const away = Math.max(...[0, 1].map((k) => Math.abs(along(plane[k], codeOf(0)) - shown[k])));
  sliders[0].input.value = 1.25;
  sliders[0].input.dispatchEvent(new Event("input"));
  show();
  const pixels = Array.from(decode(z)[0]);
  const place = Array.from(z);
  $("scatter").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  const moved = Array.from(z);
  for (let part = 0; part < 9; part++) showRest(part);
  const root = document.documentElement;
  const answer = { away, reach: box[1][0] - box[0][0], before, place, moved, pixels,
    unit: units[0].place, ...document.body.dataset,
    wide: root.scrollWidth, room: root.clientWidth, check: $("check").textContent,
    said: $("said").textContent, nearest: $("nearest").children.length,
    strips: document.querySelectorAll("#traversals button").length,
    prior: $("prior-value").textContent, aggregate: $("aggregate-value").textContent,
    expected: { prior: -0.5 * z.reduce((s, v) => s + v * v, 0) - 0.919 * z.length },
    unnamed: [...document.querySelectorAll("button, input, select, canvas[role]")].filter(
      (e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim())).length };
  document.body.append(Object.assign(document.createElement("pre"),
    { id: "answer", textContent: JSON.stringify(answer) }));
}, 1500);
"""


def opened(page: Path, width: int = 1200) -> dict[str, Any]:
    """What the page says of itself in a browser after a hand was at it."""
    driven = page.with_name(f"driven-{width}.html")
    driven.write_text(page.read_text().replace("</body>", f"<script>{DRIVE}</script></body>"))
    words = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
        f"--window-size={width},900", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom",
        driven.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, timeout=120, check=True)
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    assert found is not None, done.stderr.decode()[-500:]
    answer: dict[str, Any] = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<"))
    return answer


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_page_of_images_answers_as_the_model_does(deeplvm: Deeplvm, image_run: Path) -> None:
    done = deeplvm("explore", image_run, "-o", "page.html", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["difference"] < CLOSE
    page = Path("page.html").resolve()
    assert said["bytes"] == page.stat().st_size
    assert not re.search(r"(src|href)=\"(?!data:|https://arxiv.org)", page.read_text())
    found = opened(page, 390)
    assert float(found["difference"]) < CLOSE
    decoder = Decoder(open_run(image_run))
    with torch.no_grad():
        (expected,) = decoder(torch.tensor([found["place"]], dtype=torch.float32))
    reach = 16 if expected.max() > 1 else 1
    np.testing.assert_allclose(found["pixels"], expected.flatten(), atol=CLOSE * reach)
    changed = [i for i, (a, b) in enumerate(zip(found["before"], found["place"], strict=True))
               if a != b]  # fmt: skip
    assert changed == [found["unit"]]
    assert found["place"][found["unit"]] == pytest.approx(1.25, abs=0.05)
    assert found["moved"] != found["place"]
    assert found["away"] < 0.01 * found["reach"], "the cursor is not where its row is"
    assert found["nearest"] > 0
    assert found["strips"] >= 9
    assert found["unnamed"] == 0, "a reader of the screen finds no name"
    assert "Nearest rows" in found["said"]
    assert found["wide"] <= found["room"], "a phone has to scroll sideways"
    assert "nats" in found["aggregate"]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_page_of_a_table_answers_in_the_units_of_the_file(
    deeplvm: Deeplvm, table_run: Path, copy_of: Callable[[Path], Path]
) -> None:
    run = copy_of(table_run)
    done = deeplvm("explore", run, "--rows", 7)
    assert done.code == 0, done.err
    assert "7 rows" in done.err
    assert deeplvm("report", run).code == 0
    assert 'href="explore.html"' in (run / "report.html").read_text()
    found = opened(run / "explore.html")
    assert float(found["difference"]) < CLOSE
    assert float(found["prior"].replace("−", "-").split()[0]) == pytest.approx(
        -0.5 * sum([v * v for v in found["place"]]) - 0.919 * len(found["place"]), abs=0.1
    )


@pytest.mark.skipif(engine() is None, reason="needs node or Chromium")
@pytest.mark.parametrize("words", [["-o", "page.txt"], ["-o", "nowhere/page.html"]])
def test_a_page_goes_where_a_page_can_be(
    deeplvm: Deeplvm, image_run: Path, words: list[str]
) -> None:
    done = deeplvm("explore", image_run, *words)
    assert done.code == 2
    assert words[1].partition("/")[0].partition(".")[0] in done.line


def test_without_latents_there_is_nothing_to_explore(deeplvm: Deeplvm) -> None:
    fit = ["fit", "digits", "--limit", "20", "--epochs", "1", "--recipe", "made", "--hidden", "4"]
    assert deeplvm(*fit, "--out", "made", "--no-evaluate", "--device", "cpu").code == 0
    done = deeplvm("explore", "made")
    assert done.code == 2
    assert "draws no latents" in done.line


def test_rows_that_are_series_are_drawn_as_curves_in_the_range_of_the_page() -> None:
    stored = torch.arange(24.0).reshape(4, 3, 2)
    decoder: Any = SimpleNamespace(in_units={"x": lambda values: 10 * values})
    shown = MagicMock(exact=lambda name: stored)
    shown.__getitem__.return_value = shown
    view = {"kind": "curve", "name": "x", "shape": [3, 2], "low": 0.0, "high": 230.0}
    packed = _series([view], decoder, shown, 4)
    assert packed is not None
    drawn = np.frombuffer(base64.b64decode(packed), "<f2")
    np.testing.assert_allclose(drawn, np.arange(24) / 23, atol=1e-3)
    assert _series([view | {"kind": "image"}], decoder, shown, 4) is None


@pytest.mark.parametrize(
    "part, whole, said", [(1.0, 4.0, " (25 %)"), (0.001, 4.0, " (below 1 %)"), (0.0, 0.0, "")]
)
def test_the_share_of_an_axis_is_never_nothing(part: float, whole: float, said: str) -> None:
    assert _share(part, whole) == said


def test_an_atlas_has_places_labels_and_pictures(deeplvm: Deeplvm, image_run: Path) -> None:
    assert deeplvm("embed", image_run, "--atlas", "-o", "atlas.parquet").code == 0
    table = pandas.read_parquet("atlas.parquet")
    assert deeplvm("embed", image_run, "-o", "latents.parquet").code == 0
    latents = pandas.read_parquet("latents.parquet")
    np.testing.assert_allclose(table[["x", "y"]], latents[["z_0", "z_1"]], rtol=1e-6)
    assert list(table["row"]) == list(range(len(table)))
    assert list(table["label_code"]) == list(latents["y"])
    assert Image.open(io.BytesIO(table["image"][0]["bytes"])).size == (8, 8)


def test_an_atlas_of_a_table_has_its_columns(deeplvm: Deeplvm, table_run: Path) -> None:
    assert deeplvm("embed", table_run, "--atlas", "-o", "atlas.parquet").code == 0
    assert {"row", "x", "y", "height", "weight", "age"} <= set(
        pandas.read_parquet("atlas.parquet")
    )
    done = deeplvm("embed", table_run, "--atlas", "-o", "atlas.csv")
    assert done.code == 2
    assert "atlas.parquet" in done.line


def test_no_column_of_an_atlas_takes_the_place_of_another(tmp_path: Path) -> None:
    path, columns = tmp_path / "atlas.parquet", {"x_": [1.0], "x": [2.0]}
    variable = SimpleNamespace(columns=[*columns], length=None, restored=lambda *_, **__: columns)
    rows: Any = SimpleNamespace(exact=lambda name: name)
    variables: Any = {"values": variable}
    save_atlas(path, {"z": np.zeros((1, 2))}, rows, variables, {})
    table = pandas.read_parquet(path)
    assert (table["x"][0], table["x_"][0], table["x__"][0]) == (0.0, 1.0, 2.0)
