"""Counting what is drawn: valid, different, new; and what rdkit and selfies say of molecules."""

from __future__ import annotations

import math

import pytest

from deeplvm.data import molecules
from deeplvm.evaluation import generated

DRAWN = ["CCO", "OCC", "C1CC", "CC", "", "C(C)O", "c1ccccc1"]


def read(text: str) -> str | None:
    return "".join(sorted(text)) if text.isalpha() else None


def test_shares_of_a_known_list() -> None:
    drawn = ["ab", "ba", "ab", "cd", "e", "?", "1"]
    found = generated(drawn, ["dc", "x"], read, properties=lambda text: {"size": len(text)})
    assert found.valid.value == pytest.approx(5 / 7)
    assert found.unique.value == pytest.approx(3 / 5)  # ab, cd, e
    assert found.novel.value == pytest.approx(2 / 3)  # not cd
    assert found.properties["size"].value == pytest.approx(5 / 3)
    # the jackknife of a mean is its standard error
    assert found.valid.stderr == pytest.approx(math.sqrt(5 / 7 * 2 / 7 / 6))


def test_errors_are_those_of_the_jackknife() -> None:
    drawn, training = ["ab", "ba", "ab", "cd", "e", "?", "1"], ["dc", "x"]
    whole = generated(drawn, training, read)
    for name in ("valid", "unique", "novel"):
        left = [
            getattr(generated(drawn[:i] + drawn[i + 1 :], training, read), name).value
            for i in range(len(drawn))
        ]
        mean = sum(left) / len(left)
        error = math.sqrt(6 / 7 * sum([(value - mean) ** 2 for value in left]))
        assert getattr(whole, name).stderr == pytest.approx(error)


def test_nothing_valid_has_no_share_that_differs() -> None:
    found = generated(["1", "2"], ["a"], read)
    assert found.valid.value == 0
    assert math.isnan(found.unique.value)
    with pytest.raises(ValueError, match="No string was drawn"):
        generated([], ["a"], read)


def test_molecules_of_a_known_list() -> None:
    pytest.importorskip("rdkit", reason="needs the extra 'molecules'")
    found = generated(DRAWN, ["CC"], molecules.canonical, properties=molecules.properties)
    assert found.valid.value == pytest.approx(5 / 7)  # an open ring, and no atom, are none
    assert found.unique.value == pytest.approx(3 / 5)  # ethanol three times
    assert found.novel.value == pytest.approx(2 / 3)
    assert molecules.properties("c1ccccc1")["logp"] == pytest.approx(1.6866)  # RDKit's, benzene
    drawing = molecules.drawing("c1ccccc1")
    assert drawing is not None
    assert drawing.startswith("<svg")
    assert molecules.drawing("C(") is None


def test_any_selfies_are_a_molecule() -> None:
    pytest.importorskip("selfies", reason="needs the extra 'molecules'")
    smiles = "C[C@@H](Cl)c1ccccc1"
    tokens = molecules.selfies_tokens(smiles)
    assert "".join(tokens).startswith("[C]")
    assert len(tokens) > 5
    assert molecules.smiles_of_selfies("".join(tokens[::-1])) != ""
    with pytest.raises(molecules.DataError, match="no SELFIES"):
        molecules.selfies_tokens("C1CC(")
