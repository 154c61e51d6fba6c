"""Grammars: every string is read into a derivation that gives it back, and no other is read."""

from __future__ import annotations

import itertools
import random

import pytest

from deeplvm.grammar import EXPRESSIONS, SMILES, Grammar, GrammarError

MOLECULES = (
    "CC(C)(C)c1ccc2occ(CC(=O)Nc3ccccc3F)c2c1",
    "C[C@@H]1CC(Nc2cncc(-c3nncn3C)c2)C[C@@H](C)C1",
    r"C/C=C\C(=O)[O-].[Na+]",
    "[13CH4]",
    "C%12CC%12[N+](=O)[O-]",
    "BrC1=CC=CC(Cl)=C1[nH+]1ccc[se]1",
)


def drawn(grammar: Grammar, rng: random.Random, most: int = 40) -> list[int]:
    """A derivation, each production at random among those that can still end in time."""
    waiting, derivation = [0], []
    while waiting:
        left = waiting.pop()
        room = most - len(derivation) - sum([grammar.least[name] for name in waiting])
        allowed = [
            number
            for number, production in enumerate(grammar.productions)
            if production.left == left
            and 1 + sum([grammar.least[name] for name in production.below]) <= room
        ]
        number = rng.choice(allowed)
        derivation.append(number)
        waiting += grammar.productions[number].below[::-1]
    return derivation


@pytest.mark.parametrize("rules", [EXPRESSIONS, SMILES])
def test_a_string_is_read_into_the_derivation_that_made_it(rules: str) -> None:
    grammar, rng = Grammar(rules), random.Random(0)
    for _ in range(50):
        derivation = drawn(grammar, rng)
        assert grammar.parse(grammar.text(derivation)) == derivation


@pytest.mark.parametrize("text", MOLECULES)
def test_molecules_are_read(text: str) -> None:
    grammar = Grammar(SMILES)
    assert grammar.text(grammar.parse(text)) == text


def test_the_strings_that_are_read_are_those_of_the_language() -> None:
    """By brute force: all strings of up to 5 characters against the rule of brackets."""
    grammar = Grammar("S -> '(' S ')' | S S | 'x'")  # of many derivations a string, too
    for size in range(1, 6):
        for letters in itertools.product("()x", repeat=size):
            text, depth, holds = "".join(letters), 0, True
            for letter in text:
                depth += {"(": 1, ")": -1, "x": 0}[letter]
                holds &= depth >= 0
            holds &= depth == 0 and "()" not in text
            assert grammar.parses(text) == holds, text


def test_a_string_that_cannot_be_read_says_how_far_it_can() -> None:
    with pytest.raises(GrammarError, match=r"after 'x\+' it expects '\(', '1', .* found '\*2'"):
        Grammar(EXPRESSIONS).parse("x+*2")
    with pytest.raises(GrammarError, match="found the end"):
        Grammar(EXPRESSIONS).parse("")


@pytest.mark.parametrize(
    "derivation, match",
    [([1], "stops before 'T'"), ([1, 2, 2], "Production 2 at step 2 .* the end"), ([2], "'S'")],
)
def test_what_is_no_derivation_gives_no_text(derivation: list[int], match: str) -> None:
    with pytest.raises(GrammarError, match=match):
        Grammar("S -> S '+' T | T  T -> 'x'").text(derivation)


@pytest.mark.parametrize(
    "rules, match",
    [
        ("", "has no rule"),
        ("'x' S -> 'y'", "is written as .* starts with"),
        ("S -> T 'x'", "no rule for 'T'"),
        ("S -> 'x' | ", "empty right side"),
        ("S -> ''", "empty right side"),
        ("S -> S 'x'", "No string is derived from 'S'"),
        ("S -> 'x'  T -> 'y'", "comes to 'T'"),
        ("S => 'x'", "is written as|has '='"),
        ("'S' -> 'x'", "is written as .* starts with"),
        ("S -> 'x' -> 'y'", "has '->' where"),
    ],
)
def test_what_is_no_grammar_is_refused(rules: str, match: str) -> None:
    with pytest.raises(GrammarError, match=match):
        Grammar(rules)
