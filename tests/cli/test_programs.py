"""Programs drive the tool: objects with the keys of the page, tools, a recipe to begin with."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deeplvm.cli.app import application

Run = Callable[..., Any]
PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
SERVERS = ("mcp",)  # speak another language
WORDS = {
    "sample": ["-n", "3", "-o", "out.csv"],
    "embed": ["-o", "out.csv"],
    "reconstruct": ["-o", "out.csv"],
    "score": ["--particles", "2", "-o", "out.csv"],
    "impute": ["{csv}", "--particles", "2", "-o", "out.csv"],
}


def keys_of(verb: str) -> set[str]:
    """What the page says that the object has."""
    row = re.search(rf"^\| `{verb}` \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row, f"docs/programs.md has no row for {verb}"
    return set(re.findall(r"`(\w+)`", row[1]))


def test_every_verb_answers_in_json() -> None:
    app = application([])
    verbs = {name for name in app if name[:1] != "-"} - {"fit", "tune", *SERVERS}
    for verb in verbs:
        command: Any = app[verb].default_command
        assert "json" in inspect.signature(command).parameters, verb
    for verb in (*verbs, "fit", "tune"):
        assert keys_of(verb), verb


@pytest.mark.parametrize("verb", WORDS)
def test_what_was_written_is_told_as_an_object(
    deeplvm: Run, table_run: Path, csv: Path, verb: str
) -> None:
    words = [word.format(csv=csv) for word in WORDS[verb]]
    outcome = deeplvm(verb, table_run, *words, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert set(found) == keys_of(verb)
    assert found["verb"] == verb
    assert found["files"] == [{"path": "out.csv", "bytes": Path("out.csv").stat().st_size}]
    assert found["rows"] == len(Path("out.csv").read_text().splitlines()) - 1


@pytest.mark.parametrize("verb", ["recipes", "datasets"])
def test_lists_are_lists_of_objects(deeplvm: Run, verb: str) -> None:
    found = json.loads(deeplvm(verb, "--json").out)
    assert len(found) > 10
    assert all([set(each) == keys_of(verb) for each in found])


def test_an_error_leaves_standard_output_empty(deeplvm: Run, table_run: Path) -> None:
    outcome = deeplvm("sample", table_run, "-o", "no/out.csv", "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "make the folder first" in outcome.line


def test_a_new_recipe_runs(deeplvm: Run) -> None:
    outcome = deeplvm("new", "recipe", "sparse", "--json")
    found = json.loads(outcome.out)
    assert set(found) == keys_of("new")
    assert found["command"] == "deeplvm fit digits --recipe sparse.py:sparse"
    assert "mine" not in Path("sparse.py").read_text()
    short = "--limit 20 --epochs 1 --latent 2 --no-evaluate --out run"
    outcome = deeplvm(*found["command"].split()[1:], *short.split())
    assert outcome.code == 0, outcome.err
    again = deeplvm("new", "recipe", "sparse")
    assert again.code == 2
    assert "sparse.py exists; name another recipe, or try it: deeplvm fit" in again.line
    assert "'a-b' is no name of a function" in deeplvm("new", "recipe", "a-b").line


def test_the_shell_completes_options_of_fit(deeplvm: Run) -> None:
    outcome = deeplvm("--install-completion", "--shell", "bash", "--output", "complete.sh")
    assert outcome.code == 0, outcome.err
    script = Path("complete.sh").read_text()
    assert "--false-alarms" in script
    assert "--epochs" in script


def test_the_verbs_are_tools() -> None:
    client_of = pytest.importorskip("mcp").Client
    from deeplvm.cli.mcp import server

    async def talk() -> None:
        async with client_of(server()) as client:
            tools = {each.name: each for each in (await client.list_tools()).tools}
            assert {"fit", "score", "compare", "new"} <= set(tools)
            assert "mcp" not in tools
            known = tools["score"].input_schema
            assert set(known["required"]) == {"run", "output"}
            assert known["properties"]["data"]["type"] == "array"
            assert "trust" not in known["properties"]
            answer = await client.call_tool("new", {"what": "recipe", "name": "mine"})
            assert json.loads(answer.content[0].text)["files"][0]["path"] == "mine.py"
            listed = await client.call_tool("reproduce", {"show": True})  # --list
            assert "probabilistic-pca" in json.loads(listed.content[0].text)
            trusting = {"data": "digits", "words": ["--config=a.toml", "--trust"]}
            refused = await client.call_tool("fit", trusting)
            assert "--trust is a person's word" in refused.content[0].text
            again = await client.call_tool("new", {"what": "recipe", "name": "mine"})
            assert again.is_error
            assert "mine.py exists; name another" in again.content[0].text

    asyncio.run(talk())
