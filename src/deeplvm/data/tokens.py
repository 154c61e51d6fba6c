"""Vocabulary: texts as tokens 0, 1, ..., of which 0 ends a text and 1 is what is not known."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deeplvm.data.molecules import selfies_tokens, smiles_of_selfies, smiles_tokens
from deeplvm.data.variable import DataError
from deeplvm.files import read_whole
from deeplvm.grammar import EXPRESSIONS, SMILES, Grammar, GrammarError

END, UNKNOWN = 0, 1
SPECIAL = ("<end>", "<unk>")
#: What a grammar is called, and its rules; one of somebody's own is a file.
GRAMMARS = {"smiles-grammar": SMILES, "expression-grammar": EXPRESSIONS}
SCHEMES = ("words", "characters", "bytes", "smiles", "selfies", *GRAMMARS)
#: Of which the vocabulary has those that are in the training rows.
COUNTED = ("words", "characters", "smiles", "selfies")
GRAMMAR_FILE, TOKENIZER_FILE = ".grammar", ".json"
MOST_WORDS = 10_000  # kept by default, so that a word has been seen a few times
_RATE = 2  # how often a word must be there in the training rows, by default


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens there are, and how a text is made of them.

    Attributes:
        names: What each token is called: ``"<end>"``, ``"<unk>"``, and the others.
        scheme: ``"words"`` between blanks, ``"characters"``, ``"bytes"`` of UTF-8; of molecules
            that are written as SMILES their ``"smiles"`` or ``"selfies"``; productions of the
            ``"smiles-grammar"``, of the ``"expression-grammar"`` or of a file ``.grammar``; or the
            path of a ``tokenizer.json``.
        lower: Whether texts are in lower case.

    >>> words = Vocabulary(("<end>", "<unk>", "a", "rose"), "words")
    >>> words.encode("a rose is a rose"), words.decode([2, 3, 1, 0, 0])
    ([2, 3, 1, 2, 3, 0], 'a rose <unk>')
    """

    names: tuple[str, ...]
    scheme: str
    lower: bool = False

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        scheme: str,
        *,
        size: int | None = None,
        minimum: int | None = None,
        lower: bool = False,
    ) -> Vocabulary:
        """The tokens that are often there in some texts, the most frequent first.

        Args:
            texts: Those of training.
            scheme: How a text is cut.
            size: Keep only so many, with the two special ones; of words at most 10,000 by default.
            minimum: Keep only those that are there so often; of words twice by default, so that
                the unknown one is learned too, unless the texts have it already.
            lower: Whether texts are in lower case.
        """
        if scheme == "bytes":
            return cls((*SPECIAL, *[f"0x{byte:02x}" for byte in range(256)]), scheme, lower)
        if is_grammar(scheme):
            return cls((*SPECIAL, *_rules(scheme)), scheme, lower)
        if scheme not in SCHEMES:
            return cls((*SPECIAL, *_pieces(scheme)), scheme, lower)
        made, counts = cls(SPECIAL, scheme, lower), Counter[str]()
        for text in texts:
            counts.update(made.cut(text))
        known = scheme != "words" or SPECIAL[UNKNOWN] in counts
        least = minimum or (1 if known else _RATE)
        most = (size or (MOST_WORDS if scheme == "words" else len(counts) + 2)) - len(SPECIAL)
        found = sorted(counts, key=lambda token: (-counts[token], token))
        kept = [each for each in found if counts[each] >= least and each not in SPECIAL]
        return cls((*SPECIAL, *kept[: max(0, most)]), scheme, lower)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The token of each name; of the end's none, which a text cannot hold."""
        return {name: code for code, name in enumerate(self.names) if code != END}

    def cut(self, text: str) -> Sequence[str]:
        """The pieces of a text, whether they are in the vocabulary or not."""
        text = text.lower() if self.lower else text
        cut = {"words": str.split, "smiles": smiles_tokens, "selfies": selfies_tokens}
        return cut.get(self.scheme, str)(text)

    @cached_property
    def grammar(self) -> Grammar:
        """That whose productions the tokens are."""
        return Grammar("\n".join(self.names[len(SPECIAL) :]))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, the end among them."""
        if is_grammar(self.scheme):
            return [*[each + len(SPECIAL) for each in self.grammar.parse(text)], END]
        if self.scheme in COUNTED:
            known = self.index
            return [*[known.get(each, UNKNOWN) for each in self.cut(text)], END]
        text = text.lower() if self.lower else text
        if self.scheme == "bytes":
            return [*[byte + len(SPECIAL) for byte in text.encode()], END]
        ids = _tokenizer(self.scheme).encode(text, add_special_tokens=False).ids
        return [*[each + len(SPECIAL) for each in ids], END]

    def decode(self, tokens: Iterable[float]) -> str:
        """The text of some tokens, up to the end."""
        codes = list[int]()
        for each in map(int, tokens):
            if each == END:
                break
            codes.append(each)
        if self.scheme == "words":
            return " ".join([self.names[each] for each in codes])
        if self.scheme == "selfies":
            return smiles_of_selfies("".join([self.names[e] for e in codes if e != UNKNOWN]))
        if self.scheme in ("characters", "smiles"):
            return "".join([self.names[each] if each != UNKNOWN else "\ufffd" for each in codes])
        plain = [each - len(SPECIAL) for each in codes if each >= len(SPECIAL)]
        if is_grammar(self.scheme):
            try:
                return self.grammar.text(plain)
            except GrammarError:  # tokens that no draw has, such as the most probable of each step
                return "\ufffd"
        if self.scheme == "bytes":
            return bytes(plain).decode(errors="replace")
        return str(_tokenizer(self.scheme).decode(plain))


def scheme_of(texts: Iterable[str]) -> str:
    """How texts are cut where nobody said: words, or characters of texts that are one word each.

    >>> scheme_of(["a rose is", "a rose"]), scheme_of(["rose", "tulip"])
    ('words', 'characters')
    """
    return "words" if any([len(text.split()) > 1 for text in texts]) else "characters"


def is_grammar(scheme: str) -> bool:
    """Whether tokens are productions."""
    return scheme in GRAMMARS or scheme.endswith(GRAMMAR_FILE)


def is_molecule(scheme: str) -> bool:
    """Whether texts are molecules."""
    return scheme in ("smiles", "selfies", "smiles-grammar")


def _rules(scheme: str) -> list[str]:
    """The productions of a grammar, as they are written."""
    rules = GRAMMARS.get(scheme)
    try:
        grammar = Grammar(read_whole(Path(scheme), DataError).decode() if rules is None else rules)
    except (GrammarError, UnicodeDecodeError) as problem:
        raise DataError(f"{scheme}: {problem}") from None
    return [grammar.shown(number) for number in range(len(grammar))]


def _tokenizer(path: str) -> Any:
    """What is in a ``tokenizer.json``."""
    try:
        found = importlib.import_module("tokenizers").Tokenizer
    except ImportError:
        raise DataError(
            f"{path}: a tokenizer.json is read by the package tokenizers: pip install "
            f"deeplvm[text]; or take --tokens words, characters or bytes."
        ) from None
    try:
        return found.from_file(path)
    except Exception as problem:  # noqa: BLE001 - the package raises nothing more special
        raise DataError(f"{path}: no tokenizer can be read from it ({problem}).") from None


def _pieces(path: str) -> list[str]:
    """What the tokens of a ``tokenizer.json`` are called."""
    known = _tokenizer(path).get_vocab(with_added_tokens=True)
    names = {code: name for name, code in known.items()}
    return [names.get(code, f"#{code}") for code in range(max(names) + 1)]
