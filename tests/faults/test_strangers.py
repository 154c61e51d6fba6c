"""A RUN folder of a stranger is data: it runs no code, and names no file that is not its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deeplvm.runs.run import open_run

SVG = '<svg xmlns="http://www.w3.org/2000/svg">{}</svg>'
pytestmark = pytest.mark.usefixtures("workplace")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


VERBS = {
    "evaluate": ("evaluate", "run", "--particles", 2),
    "sample": ("sample", "run", "-o", "a.csv"),
    "embed": ("embed", "run", "-o", "a.csv"),
    "reconstruct": ("reconstruct", "run", "-o", "a.csv"),
    "score": ("score", "run", "-o", "a.csv"),
    "impute": ("impute", "run", "finished.npy", "-o", "a.csv"),
    "diagnose": ("diagnose", "run"),
    "report": ("report", "run"),
    "resume": ("resume", "run"),
    "config": ("fit", "--config", "run/config.toml", "--out", "b"),
    "help": ("fit", "--config", "run/config.toml", "--help"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_recipe_that_is_not_ours_is_shown_and_not_run(end: Any, run: Path, verb: str) -> None:
    """The standard library suffices: ``logging.basicConfig`` truncates the file that it names."""
    Path("thesis.tex").write_text("...")
    options = '[recipe_options]\nfilename = "thesis.tex"\nfilemode = "w"\nforce = true\n'
    config = run / "config.toml"
    text = config.read_text().replace('recipe = "vae"', 'recipe = "logging:basicConfig"')
    head, _, tail = text.partition("[recipe_options]")
    config.write_text(f"{head}{options}[training]{tail.partition('[training]')[2]}")
    code, line = end(*VERBS[verb])
    assert code == 2
    assert "logging:basicConfig" in line
    assert "basicConfig(data, filename='thesis.tex'" in line
    assert "--trust" in line
    assert Path("thesis.tex").read_text() == "..."


def test_it_is_run_where_somebody_says_so(end: Any, run: Path) -> None:
    """By ``--recipe`` on this command line, or ``--trust``; with the modules beside it."""
    Path("beside_it.py").write_text("from deeplvm.recipes import vae\n")
    Path("own_recipe.py").write_text(
        "def model(data, *, latent: int = 2):\n"
        "    from beside_it import vae\n"
        "    return vae(data, latent=latent, hidden=(4,))\n"
    )
    Path("numpy.py").write_text("raise SystemExit('beside the data')\n")
    words = (run.parent / "run/config.toml", "--no-evaluate", "--out")
    edit(run / "config.toml", 'recipe = "vae"', 'recipe = "own_recipe:model"')
    head, _, tail = (run / "config.toml").read_text().partition("[recipe_options]")
    options = f"[recipe_options]\nlatent = 2\n\n[training]{tail.partition('[training]')[2]}"
    (run / "config.toml").write_text(head + options)
    assert end("fit", "--config", words[0], "--no-evaluate", "--out", "a")[0] == 2
    assert not Path("a").exists()
    assert end("fit", "--config", *words, "a", "--trust")[0] == 0
    assert end("fit", "--config", *words, "b", "--recipe", "own_recipe:model")[0] == 0
    assert end("sample", "a", "-o", "a.csv", "--trust")[0] == 0
    assert end("sample", "a", "-o", "a.csv")[0] == 2
    with pytest.raises(ValueError, match="trust=True"):
        _ = open_run("a").model
    assert open_run("a", trust=True).model.q.names == ("z",)


@pytest.mark.parametrize(
    "table, line",
    [
        ("training", 'folder = "elsewhere"'),
        ("training", "resume = true"),
        ("training", "quiet = true"),
        ("data_options", 'source = "/etc/passwd"'),
    ],
)
def test_a_file_cannot_say_what_a_run_decides(end: Any, run: Path, table: str, line: str) -> None:
    edit(run / "config.toml", f"[{table}]\n", f"[{table}]\n{line}\n")
    code, said = end("resume", "run", "--epochs", 2)
    assert code == 2
    assert line.split()[0] in said
    assert not Path("elsewhere").exists()


SIDECARS = ("metrics.jsonl", "evaluation.json", "diagnosis.json", "config.toml", "data.json")


@pytest.mark.parametrize("name", SIDECARS)
@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder"])
def test_only_regular_files_are_read(end: Any, run: Path, name: str, what: str) -> None:
    path = run / name
    path.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(path)  # without a writer, to open it would wait for ever
    elif what == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    code, line = end("report", run)
    assert code == 2
    assert str(path) in line


# file: what it holds, and what is said of it
SHAPES = {
    "evaluation.json": ('{"data": 3}', "[1]", '{"a": ' * 200 + "1" + "}" * 200, '"data"'),
    "diagnosis.json": (
        '{"title": 1, "verdicts": [], "looked_for_in_vain": [], "figures": []}',
        '{"title": "", "verdicts": [{"name": "a"}], "looked_for_in_vain": [], "figures": []}',
        '{"title": "", "verdicts": {}, "looked_for_in_vain": [], "figures": []}',
    ),
    "metrics.jsonl": (
        '{"epoch": "one"}',
        '{"epoch": 1, "train": 3}',
        '{"epoch": 1, "seconds": "long"}',
        '{"epoch": 1, "train": {"elbo": {"value": 3}}}',
    ),
}


@pytest.mark.parametrize("name, text", [(name, text) for name in SHAPES for text in SHAPES[name]])
def test_sidecars_of_other_shapes(end: Any, run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)
    code, line = end("report", run)
    assert code == 2
    assert str(run / name) in line
    assert "damaged" in line


@pytest.mark.parametrize("entry", ["log_px", "elbo", "latents", "data", "annealing", "kl"])
def test_an_evaluation_whose_entries_are_others(end: Any, run: Path, entry: str) -> None:
    plain = json.loads((run / "evaluation.json").read_text())
    for value in ({"value": "high"}, {"z": {}}):
        (run / "evaluation.json").write_text(json.dumps(plain | {entry: value}))
        code, line = end("report", run)
        assert code in (0, 2)
        assert "an error of ours" not in line


FIGURES = {
    "a file of the machine": ("/etc/passwd", "x"),
    "a file above": ("../secret.svg", "x"),
    "a page": ("figures/a.svg", "<script>alert(1)</script>"),
    "a script in a drawing": ("figures/a.svg", SVG.format("<script>alert(1)</script>")),
    "an event": ("figures/a.svg", SVG.format('<path onclick="alert(1)"/>')),
    "a page inside": ("figures/a.svg", SVG.format("<foreignObject><p/></foreignObject>")),
    "a link": ("figures/a.svg", SVG.format('<use href="https://example.org/a.svg#b"/>')),
    "a style": ("figures/a.svg", SVG.format('<path style="fill:url(https://example.org)"/>')),
    "a style sheet": ("figures/a.svg", SVG.format("<style>@import url(//a.org)</style>")),
    "an entity": ("figures/a.svg", '<!DOCTYPE svg [<!ENTITY a "b">]>' + SVG.format("")),
    "a picture with an event": (
        "figures/a.svg",
        '<img class="pixels" alt="" style="width:1px" src="x" onerror="alert(1)">',
    ),
}


@pytest.mark.parametrize("what", FIGURES)
def test_figures_are_drawings_of_the_run(end: Any, run: Path, workplace: Path, what: str) -> None:
    name, text = FIGURES[what]
    (run / "figures").mkdir()
    if not name.startswith("/"):
        (run / name).write_text(text)
    figure = {"file": name, "topic": "t", "caption": "c"}
    plain = {"title": "t", "verdicts": [], "looked_for_in_vain": [], "figures": [figure]}
    (run / "diagnosis.json").write_text(json.dumps(plain))
    (run / "report.html").unlink()
    assert end("report", run)[0] == 2
    assert not (run / "report.html").exists()
    (run / "figures").rename(workplace / "figures")
    (run / "figures").symlink_to(workplace / "figures")
    assert end("report", run)[0] == 2


def test_every_name_and_text_of_a_page_is_escaped(end: Any, run: Path) -> None:
    evil = "<script>alert(1)</script>"
    figure = {"file": "figures/a.svg", "topic": evil, "caption": evil}
    (run / "figures").mkdir()
    (run / "figures/a.svg").write_text(SVG.format('<path d="M 0 0"/>'))
    plain = {
        "title": evil,
        "verdicts": [{"name": evil, "seen": evil, "remedy": evil}],
        "looked_for_in_vain": [evil],
        "figures": [figure],
    }
    (run / "diagnosis.json").write_text(json.dumps(plain))
    measured = json.loads((run / "evaluation.json").read_text())
    measured["warnings"] = [evil]
    measured["bits_per_dim_offset"] = evil
    measured["data"]["name"] = evil
    for table in ("kl", "active_units", "latents"):
        measured[table] = {evil: measured[table]["z"]}
    (run / "evaluation.json").write_text(json.dumps(measured))
    for name in ("data.json", "config.toml"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace('"random with', f'"{evil} random with'))
    assert end("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "alert(1)" in page
    assert "<script" not in page


def test_results_say_which_model_they_measured(end: Any, run: Path, monkeypatch: Any) -> None:
    """A longer resume that dies before it evaluates leaves the old numbers: the report says so."""

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    words = ("evaluate", run, "--particles", 5, "--ais", "--annealed-rows", 3, "--temperatures", 4)
    assert end(*words, "--annealed-particles", 2)[0] == 0
    before = json.loads((run / "evaluation.json").read_text())
    assert end("report", run)[0] == 0
    assert "earlier model" not in (run / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("deeplvm.evaluation.evaluate", dies)
        assert end("resume", run, "--epochs", 4)[0] == 130
    assert end("report", run)[0] == 0
    assert "belong to an earlier model" in (run / "report.html").read_text()
    assert end("resume", run, "--evaluation-particles", 5)[0] == 0
    after = json.loads((run / "evaluation.json").read_text())
    assert after["settings"]["model"] != before["settings"]["model"]
    assert after["annealing"]["rows"] == 3
    assert len(after["annealing"]["annealing"]) == len(before["annealing"]["annealing"])
    assert "earlier model" not in (run / "report.html").read_text()


def test_nothing_is_imported_from_the_folder_of_the_data() -> None:
    """As torchrun starts each of its workers."""
    for name in ("json", "tempfile", "numpy", "torch", "cyclopts"):
        Path(f"{name}.py").write_text(f"raise SystemExit('{name} beside the data')\n")
    found = subprocess.run(
        [sys.executable, "-m", "deeplvm", "--help"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert found.returncode == 0, found.stderr
    assert "evaluate" in found.stdout
