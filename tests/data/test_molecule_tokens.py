"""Strings of molecules and of grammars as tokens: there and back, from files and named sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from deeplvm.data import Data, DataError, load
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.evaluation import generated_of
from deeplvm.evaluation.molecules import readable
from deeplvm.grammar import Grammar
from deeplvm.inference import climb, predicted
from deeplvm.recipes import grammar_vae, selfies_vae, smiles_vae
from deeplvm.recipes.catalogue import RecipeError

MOLECULES = ["CCO", "C[C@@H](Cl)Br", "c1ccccc1[N+](=O)[O-]", "CC(=O)N"] * 5


@pytest.mark.parametrize("tokens", ["smiles", "smiles-grammar", "selfies", "characters"])
def test_molecules_go_there_and_back(tokens: str) -> None:
    if tokens == "selfies":
        pytest.importorskip("selfies", reason="needs the extra 'molecules'")
    data = load(MOLECULES, tokens=tokens)
    vocabulary = vocabulary_of(data.description)
    rows = [vocabulary.encode(text) for text in MOLECULES[:4]]
    assert all([row[-1] == 0 and 1 not in row for row in rows])
    back = [vocabulary.decode([*row, 0, 0]) for row in rows]
    if tokens == "selfies":  # another way to write them
        molecules = pytest.importorskip("deeplvm.data.molecules")
        pytest.importorskip("rdkit", reason="needs the extra 'molecules'")
        assert [*map(molecules.canonical, back)] == [*map(molecules.canonical, MOLECULES[:4])]
    else:
        assert back == MOLECULES[:4]
    like = load(MOLECULES[:3], like=data.description.to_dict())
    assert like.description.rows["test"] == 3


def test_a_grammar_of_ones_own_is_kept_in_the_run(tmp_path: Path) -> None:
    rules = tmp_path / "sums.grammar"
    rules.write_text("S -> S '+' T | T\nT -> 'x' | 'y' | \"f'\"\n")
    (tmp_path / "sums.txt").write_text("x+y\nf'+x\n" * 10)
    data = load(tmp_path / "sums.txt", tokens=str(rules))
    rules.unlink()
    vocabulary = vocabulary_of(data.description)
    assert vocabulary.names[2:] == ("S -> S '+' T", "S -> T", "T -> 'x'", "T -> 'y'", 'T -> "f\'"')
    assert vocabulary.decode(vocabulary.encode("f'+x")) == "f'+x"
    grammar_vae(data, latent=2, hidden=4, channels=(2,))


def test_what_a_grammar_does_not_read_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "molecules.smi"
    path.write_text("CCO ethanol\nCC(C propane\n" * 5)
    assert load(path).description.options["tokens"] == "smiles"
    with pytest.raises(DataError, match=r"molecules.smi, line 2: 'CC\(C' is not of the grammar"):
        load(path, tokens="smiles-grammar")
    with pytest.raises(DataError, match="--lower would change what smiles-grammar says"):
        load(path, tokens="smiles-grammar", lower=True)
    (tmp_path / "wrong.grammar").write_text("S -> T")
    with pytest.raises(DataError, match=r"wrong.grammar: .* no rule for 'T'"):
        load(path, tokens=str(tmp_path / "wrong.grammar"))


def test_only_rows_that_are_kept_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "molecules.smi", list[str]()
    path.write_text("CCO\n" * 50)
    parse = Grammar.parse
    monkeypatch.setattr(
        Grammar, "parse", lambda self, text: read.append(text) or parse(self, text)
    )
    data = load(path, tokens="smiles-grammar", limit=2)
    assert len(read) == 6
    assert data.description.steps["train"] == 2 * 10  # nine productions, and the end


def test_a_recipe_says_which_tokens_it_is_for() -> None:
    characters = load(MOLECULES, tokens="smiles")
    with pytest.raises(RecipeError, match=r"grammar_vae .* smiles: say --tokens smiles-grammar"):
        grammar_vae(characters)
    with pytest.raises(RecipeError, match="or take the recipe grammar_vae"):
        smiles_vae(load(MOLECULES, tokens="smiles-grammar"))
    with pytest.raises(RecipeError, match="selfies_vae models texts, but digits has"):
        selfies_vae(load("digits", limit=20))


def test_expressions_are_the_same_rows_each_time() -> None:
    data = load("expressions", limit=20, tokens="expression-grammar")
    assert data.description.rows["train"] == 20
    assert data.description.variables["x"].levels == 13


def test_numbers_beside_a_text_are_told_from_the_code(tmp_path: Path) -> None:
    table = pd.DataFrame({"smiles": MOLECULES, "size": range(20), "note": "a"})
    table.loc[3, "smiles"] = None  # left out, with its number
    data = load(table, text="smiles", tokens="smiles", group="size=size")
    size = data.variables["size"]
    assert (size.length, size.columns, data.variables["x"].length) == (None, ("size",), "n")
    rows = torch.cat([part.batch(slice(None), ("size",))["size"] for part in parts_of(data)])
    assert sorted(rows.flatten().tolist()) == [0, 1, 2, *range(4, 20)]
    model = smiles_vae(data, latent=2, hidden=4, channels=(2,))
    batch = data.train.batch(slice(4), ("x", "n", "size"))
    terms = model.evidence(batch).terms
    assert terms["size"].shape == (4,)
    assert climb(predicted(model, "size"), torch.zeros(3, 2), steps=2).codes.shape == (3, 2)
    without = load(table[["smiles"]], like=data.description)
    batch = without.test.batch(slice(3), ("x", "n", "size"))
    alone = model.evidence(batch, missing=frozenset(["size"])).terms
    assert bool((alone["size"] == 0).all())


@pytest.mark.parametrize(
    "group, match",
    [
        ("note=note", "'note' beside a text is to be numbers"),
        ("n=size", "n is the number of its tokens"),
        ("size=weight", "weight"),
    ],
)
def test_what_cannot_be_beside_a_text_is_said(group: str, match: str) -> None:
    table = pd.DataFrame({"smiles": MOLECULES, "size": range(20), "note": "a"})
    with pytest.raises(DataError, match=match):
        load(table, text="smiles", tokens="smiles", group=group)


def test_it_is_known_what_reads_the_draws() -> None:
    data = load(["x+1", "x", "1*x", "2"] * 5, tokens="expression-grammar")
    found = generated_of(["x", "x+", "3"], data)
    assert found is not None
    assert (found.valid.value, found.novel.value) == (pytest.approx(2 / 3), 0.5)
    assert "read by the expression-grammar: 0.67" in readable(["x", "x+", "3"], data.description)
    assert generated_of(["x"], load(["x+1", "x", "1*x", "2"] * 5)) is None


def parts_of(data: Data) -> list[Any]:
    return [data.train, data.valid, data.test]
