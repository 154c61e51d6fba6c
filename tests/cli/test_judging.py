"""`evaluate` with all that it can measure, and `diagnose`: what they write, show and refuse."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deeplvm.cli import main
from deeplvm.runs.run import open_run
from deeplvm.runs.sidecars import read_metrics

Run = Callable[..., Any]
Copy = Callable[[Path], Path]

QUICK = ("--particles", 20, "--device", "cpu")
FEWEST = ("--rows", 5, "--particles", 2, "--temperatures", 1, "--device", "cpu")
CHAINS = ("--annealed-rows", 4, "--temperatures", 5, "--annealed-particles", 2)


def numbers(value: Any) -> Any:
    """All numbers in an object of JSON."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from numbers(each)
    if isinstance(value, float):
        yield value


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory, table_run: Path) -> Path:
    """A run that was diagnosed, and what was said; tests take copies."""
    folder = tmp_path_factory.mktemp("diagnosed") / "people"
    shutil.copytree(table_run, folder)
    words = ("diagnose", folder, "--rows", 8, "--temperatures", 5, *QUICK)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(word) for word in words]) == 0
    (folder.parent / "said").write_text(said.getvalue())
    return folder


def test_annealing_and_sandwich_are_kept_and_shown(
    deeplvm: Run, table_run: Path, copy_of: Copy
) -> None:
    run = copy_of(table_run)
    outcome = deeplvm("evaluate", run, "--ais", "--sandwich", *CHAINS, *QUICK)
    assert outcome.code == 0, outcome.err
    kept = json.loads((run / "evaluation.json").read_text())
    assert kept["annealing"]["rows"] == kept["sandwich"]["rows"] == 4
    assert kept["annealing"]["annealed_particles"] == 2
    assert [point["temperatures"] for point in kept["annealing"]["annealing"]][-1] == 5
    assert [point["particles"] for point in kept["annealing"]["importance"]][-1] == 20
    assert kept["sandwich"]["lower"]["value"] < kept["sandwich"]["upper"]["value"] + 10
    assert all(math.isfinite(number) for number in numbers(kept))
    lines = outcome.out.splitlines()
    (annealed,) = [line for line in lines if line.startswith("log p(x), annealed")]
    assert f"{kept['annealing']['annealing'][-1]['value']:.2f}" in annealed
    assert "2 particles, 5 temperatures, 4 random rows" in annealed
    (gap,) = [line for line in lines if line.startswith("sandwich gap")]
    assert "on 4 simulated rows" in gap
    assert kept["annealing"]["verdict"] in outcome.out
    assert deeplvm("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "log p(x), annealed" in page
    assert "sandwich gap" in page
    # what is measured again without them has none
    assert deeplvm("evaluate", run, *QUICK).code == 0
    assert not {"annealing", "sandwich"} & set(json.loads((run / "evaluation.json").read_text()))


def test_drawn_rows_are_compared_with_real_ones(deeplvm: Run, table_run: Path, csv: Path) -> None:
    words = ("--synthetic", "--target", "weight", "--particles", 5)
    found = json.loads(deeplvm("evaluate", table_run, csv, *words, "--json").out)["synthetic"]
    assert (found["rows"], found["train_rows"]) == (64, 64)
    assert (found["utility"]["target"], found["utility"]["measure"]) == ("weight", "R²")
    assert set(found["columns"]) == {"height", "weight", "age"}
    line = deeplvm("evaluate", table_run, *words).line
    assert "synthetic rows (--synthetic) cannot be had here: 8 rows are too few" in line
    assert "add --synthetic" in deeplvm("evaluate", table_run, *words[1:]).line


def test_annealing_compares_two_rows_or_more(deeplvm: Run, table_run: Path) -> None:
    outcome = deeplvm("evaluate", table_run, "--ais", "--annealed-rows", 1)
    assert outcome.code == 2
    assert "--ais" in outcome.line
    assert "--annealed-rows is 1" in outcome.line


@pytest.mark.parametrize("flag", ["--ais", "--sandwich", "--gaps"])
def test_what_a_model_does_not_allow_is_named_by_its_flag(
    deeplvm: Run, csv: Path, flag: str
) -> None:
    words = ("--recipe", "gumbel_softmax_vae", "--epochs", 1, "--no-evaluate", "--out", "run")
    assert deeplvm("fit", csv, "--label", "kind", *words).code == 0
    outcome = deeplvm("evaluate", "run", flag, *CHAINS, *QUICK)
    assert outcome.code == 2
    assert f"({flag}) cannot be had here" in outcome.line
    assert "Leave it out" in outcome.line
    assert not Path("run/evaluation.json").exists()


def test_one_row_is_not_called_collapsed(deeplvm: Run, table_run: Path, table: Any) -> None:
    table(1).to_csv("one.csv", index=False)
    outcome = deeplvm("evaluate", table_run, "one.csv", *QUICK)
    assert outcome.code == 0
    assert "collapsed" not in outcome.out
    assert "Only one row was evaluated" in outcome.out


def test_a_diagnosis_leaves_words_figures_and_a_report(diagnosed: Path) -> None:
    kept = json.loads((diagnosed / "diagnosis.json").read_text())
    assert kept["title"] == "people: 8 test rows, 64 of training"
    assert kept["healthy"] == (not kept["verdicts"])
    assert len(kept["looked_for_in_vain"]) > 5
    assert all(math.isfinite(number) for number in numbers(kept))
    files = {each["file"] for each in kept["figures"]}
    assert files == {f"figures/{path.name}" for path in (diagnosed / "figures").iterdir()}
    assert {"figures/checks.svg", "figures/convergence.svg"} <= files
    page = (diagnosed / "report.html").read_text()
    for each in kept["figures"]:
        assert each["caption"] in page
        assert each["topic"] in page
    for verdict in kept["verdicts"]:
        assert verdict["name"] in page
    assert "faults that were looked for" in page or "faults were looked for" in page


def test_a_diagnosis_is_told_in_words(diagnosed: Path) -> None:
    said = (diagnosed.parent / "said").read_text()
    assert said.startswith("people: 8 test rows, 64 of training\n")
    assert "Looked for and not found:" in said
    assert str(diagnosed / "report.html") in said
    assert "RUN" not in said


def test_json_of_a_diagnosis_is_all(deeplvm: Run, image_run: Path, copy_of: Copy) -> None:
    run = copy_of(image_run)
    words = ("diagnose", run, "--quick", "--json", "--split", "train")
    outcome = deeplvm(*words, *FEWEST)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == json.loads((run / "diagnosis.json").read_text())
    assert "40 train rows" in outcome.out


# what is wrong: words, and what the line must have
REFUSED = {
    "no rows": (("--rows", 0), "--rows must be a whole number"),
    "two rows": (("--rows", 2), "needs 5 or more (--rows)"),
    "no particles": (("--particles", 0), "--particles must be a whole number"),
    "no such split": (("--split", "tests"), "--split"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_diagnosis_that_cannot_be_made(deeplvm: Run, table_run: Path, case: str) -> None:
    words, expected = REFUSED[case]
    outcome = deeplvm("diagnose", table_run, *words)
    assert outcome.code == 2
    assert expected in outcome.line
    assert not (table_run / "diagnosis.json").exists()


def test_a_diagnosis_of_no_run(deeplvm: Run, table_run: Path, copy_of: Copy) -> None:
    assert "There is no RUN folder" in deeplvm("diagnose", "nowhere").line
    run = copy_of(table_run)
    (run / "model.safetensors").unlink()
    assert f"deeplvm resume {run}" in deeplvm("diagnose", run).line


@pytest.mark.parametrize("verb", ["evaluate", "diagnose"])
def test_a_folder_that_cannot_be_written_to_is_refused_at_once(
    deeplvm: Run, table_run: Path, monkeypatch: Any, verb: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    outcome = deeplvm(verb, table_run)
    assert outcome.code == 2
    assert f"{table_run} cannot be written to (Read-only file system)" in outcome.line
    assert outcome.err.count("\n") == 1  # nothing was measured


def test_a_limit_of_the_shell_on_files_is_one_line(
    deeplvm: Run, table_run: Path, monkeypatch: Any
) -> None:
    def limited(*_: object, **__: object) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr("deeplvm.files.write_atomically", limited)
    outcome = deeplvm("evaluate", table_run, "--particles", 2)
    assert outcome.code == 2
    assert "ulimit -f" in outcome.line


def _without(entry: str, inner: str = "") -> Callable[[str], str]:
    def damage(text: str) -> str:
        plain = json.loads(text)
        if inner:
            del plain[entry][0][inner]
        else:
            del plain[entry]
        return json.dumps(plain)

    return damage


DAMAGE: dict[str, Callable[[str], str]] = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "a list": lambda _: "[]",
    "nested": lambda _: "[" * 100_000,
    "no verdicts": _without("verdicts"),
    "figure without a file": _without("figures", "file"),
    "verdicts of text": lambda text: json.dumps(json.loads(text) | {"verdicts": ["text"]}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_diagnosis(deeplvm: Run, diagnosed: Path, copy_of: Copy, damage: str) -> None:
    run = copy_of(diagnosed)
    before = (run / "report.html").read_bytes()
    path = run / "diagnosis.json"
    path.write_text(DAMAGE[damage](path.read_text()))
    outcome = deeplvm("report", run)
    assert outcome.code == 2
    assert f"{path} is damaged" in outcome.line
    assert f"deeplvm diagnose {run}" in outcome.line
    assert (run / "report.html").read_bytes() == before


def test_the_report_names_the_run_and_does_without_figures(
    deeplvm: Run, diagnosed: Path, copy_of: Copy
) -> None:
    run = copy_of(diagnosed)
    shutil.rmtree(run / "figures")
    plain = json.loads((run / "diagnosis.json").read_text())
    plain["verdicts"] = [{"name": "fault", "seen": "This.", "remedy": "deeplvm resume RUN"}]
    (run / "diagnosis.json").write_text(json.dumps(plain))
    assert deeplvm("report", run).code == 0
    assert f"deeplvm resume {run}" in (run / "report.html").read_text()


@pytest.mark.parametrize("tail", [b'{"epoch": 3, "tr', b"\xff\xfe\n", b"3\n", b"[" * 100_000])
def test_metrics_cut_short_or_damaged(table_run: Path, here: Path, tail: bytes) -> None:
    whole = (table_run / "metrics.jsonl").read_bytes()
    path = here / "metrics.jsonl"
    path.write_bytes(whole + tail)
    assert [record["epoch"] for record in read_metrics(path)] == [1, 2]


def test_flags_are_those_of_the_recipe(image_run: Path) -> None:
    """A remedy does not name a flag that `fit` would refuse."""
    from deeplvm.diagnosis.remedies import networks
    from deeplvm.evaluation import examination

    seen = examination.Examination(open_run(image_run).model, open_run(image_run).data, "test")
    assert networks(seen, 2.0) == ["--hidden 512 512"]
    seen.settings = {"latent": 2, "learning_rate": 1e-3}
    assert seen.takes("latent")
    assert networks(seen, 2.0) == []
