"""Context-free grammars: strings as the productions that derive them, and back."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

_SYMBOL = re.compile(r"'([^']*)'|\"([^\"]*)\"|(->)|(\|)|([A-Za-z_]\w*)|(\S)")

#: Functions of one variable, of *Grammar Variational Autoencoder* (Kusner et al., 2017).
EXPRESSIONS = """
S -> S '+' T | S '*' T | S '/' T | T
T -> '(' S ')' | 'sin(' S ')' | 'exp(' S ')'
T -> 'x' | '1' | '2' | '3'
"""

#: SMILES as the OpenSMILES specification has them, <http://opensmiles.org>, without classes of
#: atoms. It recurs on the right, so that atoms are derived from the first to the last.
SMILES = r"""
molecule -> chain | chain '.' molecule
chain -> atom | atom after
after -> ring | ring after | branch | branch further | chain | bond chain
further -> branch | branch further | chain | bond chain
ring -> number | bond number
number -> digit | '%' digit digit
branch -> '(' chain ')' | '(' bond chain ')'
bond -> '-' | '=' | '#' | ':' | '/' | '\'
atom -> 'C' | 'N' | 'O' | 'S' | 'P' | 'F' | 'Cl' | 'Br' | 'I' | 'B' | 'c' | 'n' | 'o' | 's' | 'p'
atom -> '[' kind ']' | '[' mass kind ']'
kind -> element | element more | element chiral | element chiral more
more -> hydrogens | hydrogens charge | charge
element -> 'H' | 'B' | 'C' | 'N' | 'O' | 'F' | 'Na' | 'Mg' | 'Al' | 'Si' | 'P' | 'S' | 'Cl' | 'K'
element -> 'Li' | 'Ca' | 'Fe' | 'Cu' | 'Zn' | 'As' | 'Se' | 'Br' | 'Ag' | 'Sn' | 'Te' | 'I' | 'Pt'
element -> 'b' | 'c' | 'n' | 'o' | 'p' | 's' | 'se' | 'as'
chiral -> '@' | '@@'
hydrogens -> 'H' | 'H' digit
charge -> '+' | '-' | '+' digit | '-' digit
mass -> digit | digit digit | digit digit digit
digit -> '1' | '2' | '3' | '4' | '5' | '6' | '7' | '8' | '9' | '0'
"""


class GrammarError(ValueError):
    """The text is no grammar, or a string is not of its language."""


@dataclass(frozen=True)
class Production:
    """One rule: the nonterminal on its left, and names and terminals on its right.

    Attributes:
        left: Which nonterminal it replaces.
        right: By what: the number of a nonterminal, or the text of a terminal.
    """

    left: int
    right: tuple[int | str, ...]

    @cached_property
    def below(self) -> tuple[int, ...]:
        """The nonterminals on its right, from the first to the last."""
        return tuple([symbol for symbol in self.right if isinstance(symbol, int)])


class Grammar:
    r"""A context-free grammar, and the derivations of its strings.

    A string is kept as the numbers of the productions of its leftmost derivation: each replaces
    the first nonterminal that is left. Where a grammar derives a string in several ways, one of
    them is kept, always the same.

    Args:
        text: Rules, ``S -> S '+' T | T``, one or more lines each; what is in quotes stands for
            itself, and what may be written in several ways is on the left of several rules, or
            separated by bars. The first name on the left is where derivations start.

    Raises:
        GrammarError: The text has no such rules; a name has none; a right side is empty; a name
            derives no string, or is never reached.

    Strings are read by Earley's algorithm, with one terminal of lookahead: An Efficient
    Context-Free Parsing Algorithm (Earley, 1970), https://doi.org/10.1145/362007.362035. A
    molecule of 40 characters takes half a millisecond.

    >>> grammar = Grammar("S -> S '+' T | T    T -> 'x' | '1'")
    >>> grammar.parse("x+1")
    [0, 1, 2, 3]
    >>> [grammar.shown(each) for each in grammar.parse("x+1")]
    ["S -> S '+' T", 'S -> T', "T -> 'x'", "T -> '1'"]
    >>> grammar.text([0, 1, 2, 3])
    'x+1'
    """

    def __init__(self, text: str) -> None:
        self.source = text
        rules = _read(text)
        self.names: tuple[str, ...] = tuple(dict.fromkeys([left for left, _ in rules]))
        place = {name: number for number, name in enumerate(self.names)}
        productions = []
        for left, right in rules:
            if unknown := [name for name, quoted in right if not quoted and name not in place]:
                raise GrammarError(
                    f"The grammar has no rule for {unknown[0]!r}, which {left!r} needs; write "
                    f"what stands for itself in quotes."
                )
            symbols = [name if quoted else place[name] for name, quoted in right]
            productions.append(Production(place[left], tuple(symbols)))
        self.productions: tuple[Production, ...] = tuple(dict.fromkeys(productions))
        self._of: list[list[int]] = [[] for _ in self.names]
        for number, production in enumerate(self.productions):
            self._of[production.left].append(number)
        self.least = self._least()
        self._first = self._firsts()
        self._after = self._lookahead()
        reached = self._reached()
        if lost := [name for number, name in enumerate(self.names) if number not in reached]:
            raise GrammarError(
                f"No derivation from {self.names[0]!r} comes to {lost[0]!r}; leave its rule out, "
                f"or write first the rule from which all start."
            )

    def __len__(self) -> int:
        return len(self.productions)

    def __repr__(self) -> str:
        return f"Grammar({len(self)} productions, from {self.names[0]!r})"

    def shown(self, production: int) -> str:
        """A production as it is written."""
        found = self.productions[production]
        right = [self.names[s] if isinstance(s, int) else _quoted(s) for s in found.right]
        return f"{self.names[found.left]} -> {' '.join(right)}"

    def text(self, productions: Iterable[int]) -> str:
        """The string that productions derive.

        Raises:
            GrammarError: They are no derivation of one: one does not replace the first
                nonterminal that is left, some are left at the end, or none was before it.
        """
        written: list[str] = []
        waiting: list[int | str] = [0]  # the last comes first
        for step, number in enumerate(productions):
            production = self.productions[number] if 0 <= number < len(self) else None
            expected = waiting.pop() if waiting else None
            if production is None or expected != production.left:
                name = "the end" if expected is None else repr(self.names[int(expected)])
                raise GrammarError(f"Production {number} at step {step} does not replace {name}.")
            waiting += production.right[::-1]
            while waiting and isinstance(waiting[-1], str):
                written.append(str(waiting.pop()))
        if waiting:
            raise GrammarError(f"The derivation stops before {self.names[int(waiting[-1])]!r}.")
        return "".join(written)

    def parses(self, text: str) -> bool:
        """Whether a string is of the language."""
        try:
            self.parse(text)
        except GrammarError:
            return False
        return True

    def parse(self, text: str) -> list[int]:
        """The productions of a string's leftmost derivation.

        Raises:
            GrammarError: There is none; the message says how far it can be read.
        """
        columns, whole = self._columns(text)
        if whole is None:
            far = max([place for place, column in enumerate(columns) if column], default=0)
            expected = {
                t for production, dot, _ in columns[far] for t in self._after[production][dot]
            }
            some = ", ".join([repr(each) for each in sorted(expected - {""})][:8])
            found = repr(text[far : far + 8]) if far < len(text) else "the end"
            raise GrammarError(
                f"{text!r} is not of the grammar: after {text[:far]!r} it expects "
                f"{some or 'the end'}, found {found}."
            )
        derivation = []
        waiting = [(len(text), whole)]
        while waiting:  # what was put there last is the leftmost
            place, item = waiting.pop()
            derivation.append(item[0])
            production, dot, origin = item
            while dot:  # from the last symbol to the first
                symbol = self.productions[production].right[dot - 1]
                if isinstance(symbol, str):
                    place -= len(symbol)
                else:
                    child = columns[place][production, dot, origin]
                    assert child is not None  # an item behind a nonterminal keeps what filled it
                    waiting.append((place, child))
                    place = child[2]
                dot -= 1
        return derivation

    def _columns(self, text: str) -> tuple[list[dict[_Item, _Item | None]], _Item | None]:
        """Earley's items by where they end, and that of the whole text.

        An item is a production, how many of its symbols are read, and from where on; beside it
        stands the item that filled the last of these, of a nonterminal.
        """
        columns: list[dict[_Item, _Item | None]] = [{} for _ in range(len(text) + 1)]
        asked: list[dict[int, list[_Item]]] = [defaultdict(list) for _ in columns]
        longest = max([len(terminal) for terminal in self._terminals], default=0)
        right = [production.right for production in self.productions]
        for place, column in enumerate(columns):
            if place and not column:
                continue
            pieces = [text[place : place + size] for size in range(1, longest + 1)]
            ahead = {piece for piece in pieces if piece in self._terminals}
            ahead = ahead if place < len(text) else {""}
            if not place:
                column |= {(number, 0, 0): None for number in self._of[0]}
            queue = [
                item for item in column if not self._after[item[0]][item[1]].isdisjoint(ahead)
            ]
            while queue:
                item = queue.pop()
                production, dot, origin = item
                if dot == len(right[production]):  # read: go on with what asked for it
                    for waiting in asked[origin][self.productions[production].left]:
                        grown = (waiting[0], waiting[1] + 1, waiting[2])
                        if grown not in column:
                            column[grown] = item
                            if not self._after[grown[0]][grown[1]].isdisjoint(ahead):
                                queue.append(grown)
                    continue
                symbol = right[production][dot]
                if isinstance(symbol, str):
                    if symbol in ahead:
                        columns[place + len(symbol)][production, dot + 1, origin] = None
                    continue
                if symbol not in asked[place]:
                    for number in self._of[symbol]:
                        fresh = (number, 0, place)
                        column[fresh] = None
                        if not self._after[number][0].isdisjoint(ahead):
                            queue.append(fresh)
                asked[place][symbol].append(item)
        whole = [
            item
            for number in self._of[0]
            if (item := (number, len(right[number]), 0)) in columns[-1]
        ]
        return columns, whole[0] if whole else None

    @cached_property
    def _terminals(self) -> frozenset[str]:
        return frozenset([s for p in self.productions for s in p.right if isinstance(s, str)])

    def _reached(self) -> set[int]:
        reached, waiting = {0}, [0]
        while waiting:
            for number in self._of[waiting.pop()]:
                fresh = set(self.productions[number].below) - reached
                reached |= fresh
                waiting += fresh
        return reached

    def _least(self) -> tuple[int, ...]:
        """The fewest productions that make a string of each nonterminal."""
        least: list[float] = [float("inf")] * len(self.names)
        changed = True
        while changed:
            changed = False
            for production in self.productions:
                cost = 1 + sum([least[name] for name in production.below])
                if cost < least[production.left]:
                    least[production.left], changed = cost, True
        if endless := [
            n for n, cost in zip(self.names, least, strict=True) if cost == float("inf")
        ]:
            raise GrammarError(f"No string is derived from {endless[0]!r}: all its rules go on.")
        return tuple([int(cost) for cost in least])

    def _firsts(self) -> list[set[str]]:
        """The terminals with which the strings of each nonterminal begin."""
        first: list[set[str]] = [set() for _ in self.names]
        changed = True
        while changed:
            changed = False
            for production in self.productions:
                symbol = production.right[0]
                found = {symbol} if isinstance(symbol, str) else first[symbol]
                if not found <= first[production.left]:
                    first[production.left] |= found
                    changed = True
        return first

    def _lookahead(self) -> list[list[frozenset[str]]]:
        """What may stand after each dot of each production; ``""`` is the end of the text."""
        follow: list[set[str]] = [set() for _ in self.names]
        follow[0].add("")

        def begins(symbol: int | str) -> set[str]:
            return {symbol} if isinstance(symbol, str) else self._first[symbol]

        changed = True
        while changed:
            changed = False
            for left, right in [(p.left, p.right) for p in self.productions]:
                for place, symbol in enumerate(right):
                    if isinstance(symbol, int):
                        last = place + 1 == len(right)
                        found = follow[left] if last else begins(right[place + 1])
                        if not found <= follow[symbol]:
                            follow[symbol] |= found
                            changed = True
        return [
            [frozenset(begins(s)) for s in production.right] + [frozenset(follow[production.left])]
            for production in self.productions
        ]


_Item = tuple[int, int, int]


def _quoted(terminal: str) -> str:
    return f'"{terminal}"' if "'" in terminal else f"'{terminal}'"


def _read(text: str) -> list[tuple[str, list[tuple[str, bool]]]]:
    """The rules: a name, and symbols each with whether it stands in quotes."""
    tokens = list(_SYMBOL.finditer(text))
    rules: list[tuple[str, list[tuple[str, bool]]]] = []
    left = ""
    for place, token in enumerate(tokens):
        one, two, arrow, bar, name, other = token.groups()
        heads = place + 1 < len(tokens) and tokens[place + 1][3] is not None
        if other or (arrow and (not place or tokens[place - 1][5] is None)):
            raise GrammarError(
                f"The grammar has {token[0]!r} where a name, a text in quotes, '->' or '|' is "
                f"expected: {text[max(0, token.start() - 20) : token.end() + 20].strip()!r}."
            )
        if heads and name:
            left = name
        elif left and (arrow or bar):
            rules.append((left, []))
        elif not rules:
            raise GrammarError(
                f"A grammar is written as \"S -> S '+' T | T\", but this one starts with "
                f"{token[0]!r}."
            )
        else:
            rules[-1][1].append((name or one or two or "", name is None))
    if not rules:
        raise GrammarError("The grammar has no rule; write one as \"S -> S '+' T | T\".")
    for left, right in rules:
        if not all(symbol for symbol, _ in right) or not right:
            raise GrammarError(
                f"A rule of {left!r} has an empty right side; write the rules that need it twice, "
                f"with {left!r} and without."
            )
    return rules
