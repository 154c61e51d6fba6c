"""Texts: what is a token, where the vocabulary is from, and files that are none."""

from __future__ import annotations

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.data import datasets, load
from deeplvm.data.readers.text import read_lines, vocabulary_of
from deeplvm.data.records import Description, check_description
from deeplvm.data.tokens import Vocabulary
from deeplvm.data.variable import DataError

ROSES = ["a rose is a rose", "is it a rose", "what rose", "it is"] * 6


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("scheme", ["words", "characters", "bytes"])
def test_a_text_comes_back_from_its_tokens(scheme: str) -> None:
    texts = ["naïve façade", "a façade", "naïve"]
    made = Vocabulary.of(texts, scheme, minimum=1)
    for text in texts:
        tokens = made.encode(text)
        assert tokens[-1] == 0
        assert 0 not in tokens[:-1]
        assert 1 not in tokens
        assert made.decode(tokens) == made.decode([*tokens, 5, 0]) == text
    assert len(made.encode("naïve")) == {"words": 2, "characters": 6, "bytes": 7}[scheme]
    strange = made.encode("zebra")
    assert (1 in strange) == (scheme != "bytes")


def test_the_most_frequent_tokens_are_kept_and_the_others_are_one() -> None:
    texts = ["b b b a a c c d"]
    assert Vocabulary.of(texts, "words").names == ("<end>", "<unk>", "b", "a", "c")
    assert Vocabulary.of(texts, "words", size=4).names[2:] == ("b", "a")
    assert Vocabulary.of(texts, "words", minimum=3).names[2:] == ("b",)
    assert Vocabulary.of(["a <unk> b A"], "words", lower=True).names[2:] == ("a", "b")
    made = Vocabulary.of(["a <unk> <end> b"], "words")
    assert made.encode("a <unk> <end> z") == [2, 1, 1, 1, 0]


def test_lines_of_a_file_are_rows_and_the_vocabulary_is_that_of_training(tmp_path: Path) -> None:
    path = written(tmp_path / "poems.txt", "\ufeff" + "\r\n".join([*ROSES, "", "what once"]))
    data = load(path, seed=1)
    x = data.variables["x"]
    assert (x.kind, x.shape, x.length, x.likelihood) == ("token", (), "n", "categorical")
    assert data.options["stream"] is False
    assert "a row is a sequence" in str(data.description)
    assert "1 rows without" in str(data)
    vocabulary = vocabulary_of(data.description)
    seen = {vocabulary.decode(row) for row in data.train["x"][:]}
    words = {word for text in seen for word in text.split()} - {"<unk>"}
    assert {*vocabulary.names[2:]} <= words
    for split in ("train", "valid", "test"):
        batch = data.batch(split, slice(None))  # type: ignore[arg-type]
        beyond = torch.arange(batch["x"].shape[1]) >= batch["n"][:, None] - 1
        assert torch.equal(batch["x"] == 0, beyond)  # the end counts, padding looks like it
    plain = Description.from_dict(json.loads(json.dumps(data.to_dict())))
    check_description(plain)
    assert vocabulary_of(plain) == vocabulary
    again = load(written(tmp_path / "other.txt", "a rose was\n"), like=plain)
    assert again.test["x"][:].tolist() == [vocabulary.encode("a rose was")]


def test_a_word_a_line_is_characters_and_what_is_asked_for_goes_before(tmp_path: Path) -> None:
    path = written(tmp_path / "words.txt.gz", gzip.compress(b"rose\ntulip\nlily\n" * 9))
    data = load(path)
    assert data.options["tokens"] == "characters"
    assert load(path, tokens="bytes").variables["x"].levels == 258
    assert load(path, tokens="words", minimum_count=1).description.lengths[-1] == 2


def test_a_table_in_a_txt_file_stays_one(tmp_path: Path) -> None:
    numbers = written(tmp_path / "numbers.txt", "1.5 2.5\n3.0 4.0\n2.0 1.0\n" * 4)
    assert load(numbers).variables["x"].length is None
    cells = written(tmp_path / "cells.txt", "name\tsize\na\t1\nb\t2\na\t4\n" * 1 + "b\t3\na\t7\n")
    assert load(cells).variables["x"].length is None
    commas = written(tmp_path / "poem.txt", "a rose, a rose\nis, it, a rose\nwhat rose\n" * 5)
    assert load(commas).variables["x"].kind == "token"


def test_folders_with_labels_and_columns_of_tables(tmp_path: Path) -> None:
    for place, text in enumerate(ROSES):
        folder = tmp_path / "folder" / ("good" if place % 2 else "bad")
        folder.mkdir(parents=True, exist_ok=True)
        written(folder / f"{place:02}.txt", text + "\nrose\n")
    data = load(tmp_path / "folder")
    assert data.classes == ("bad", "good")
    assert data.rows("train") == 20
    frame = pd.DataFrame({"id": range(24), "text": ROSES, "mood": ["good", "bad"] * 12})
    frame.loc[3, "text"] = None
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    for source in (tmp_path / "table.csv", tmp_path / "table.parquet", frame):
        data = load(source, text="text", label="mood")
        assert sum(map(data.rows, ("train", "valid", "test"))) == 23
        assert data.classes == ("bad", "good")
        assert "left out: id" in str(data)
        other = load(["a rose is red"], like=data.description)
        assert other.rows("test") == 1
    with pytest.raises(DataError, match="no column 'txt'"):
        load(frame, text="txt")


def test_lists_of_texts_in_memory_with_labels_and_splits() -> None:
    data = load({"x": ROSES, "y": [0, 1] * 12})
    assert data.classes == ("0", "1")
    assert data.variables["x"].kind == "token"
    data = load({"train": ROSES, "test": ["a rose"]})
    assert data.rows("test") == 1


@pytest.mark.parametrize(
    "content, said",
    [
        (b"a rose\nna\xefve rose\n", "line 2 is not UTF-8 text .byte 0xef."),
        (b"a rose\0\1\2", "binary file"),
        (b"\n \n", "there is no text in it"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(written(tmp_path / "poems.txt", content), tokens="words")
    assert read_lines(written(tmp_path / "wide.txt", "a\nrose".encode("utf-16"))) == ["a", "rose"]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"tokens": "syllables"}, "choose words, characters, bytes"),
        ({"tokens": "absent.json"}, "no such file"),
        ({"vocabulary": 2}, "--vocabulary 2: at least 3"),
        ({"minimum_count": 0}, "--minimum-count 0: at least 1"),
        ({"minimum_count": 99}, "lower --minimum-count"),
        ({"tokens": "bytes", "vocabulary": 50}, "--vocabulary chooses among words"),
        ({"binarize": "static"}, "--binarize is for numbers"),
        ({"likelihood": "poisson"}, "tokens of a text are categorical"),
        ({"members": 2}, "--members"),
        ({"stream": True}, "not streamed"),
    ],
)
def test_options_that_no_text_has_are_refused(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    path = written(tmp_path / "poems.txt", "\n".join(ROSES))
    with pytest.raises(DataError, match=said):
        load(path, **options)


def test_options_of_texts_are_refused_for_numbers() -> None:
    with pytest.raises(DataError, match="--tokens is for texts"):
        load("digits", tokens="words")
    data = load(ROSES)
    with pytest.raises(DataError, match="no sequence here"):
        load(np.zeros((5, 3)), like=data.description)


def test_a_very_long_row_is_warned_of() -> None:
    assert "has 9,001 tokens" in str(load([*ROSES * 9, "rose " * 9000], split=(0.8, 0.1, 0.1)))


def test_a_tokenizer_file_is_read_by_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "tokenizer.json", "{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"pip install deeplvm\[text\]"):
        load(ROSES, tokens=str(path))

    class Tokenizer:  # of single letters, as the package answers
        @classmethod
        def from_file(cls, _: str) -> Tokenizer:
            return cls()

        def get_vocab(self, *, with_added_tokens: bool) -> dict[str, int]:
            assert with_added_tokens
            return {letter: code for code, letter in enumerate(" aehiorstw")}

        def encode(self, text: str, *, add_special_tokens: bool) -> Any:
            assert not add_special_tokens
            return types.SimpleNamespace(
                ids=[self.get_vocab(with_added_tokens=True)[c] for c in text]
            )

        def decode(self, ids: list[int]) -> str:
            return "".join([" aehiorstw"[each] for each in ids])

    monkeypatch.setitem(sys.modules, "tokenizers", types.SimpleNamespace(Tokenizer=Tokenizer))
    data = load(ROSES, tokens=str(path))
    vocabulary = vocabulary_of(data.description)
    assert len(vocabulary.names) == 12
    assert vocabulary.decode(vocabulary.encode("what rose")) == "what rose"


def test_a_tokenizer_of_the_package_itself(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "a": 1, "rose": 2, "is": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    vocabulary = vocabulary_of(load(ROSES, tokens=str(path)).description)
    assert vocabulary.names == ("<end>", "<unk>", "[UNK]", "a", "rose", "is")
    assert vocabulary.encode("a rose is") == [3, 4, 5, 0]
    assert vocabulary.decode([3, 4, 5, 0, 0]) == "a rose is"
    path.write_text("{}")
    with pytest.raises(DataError, match="no tokenizer can be read from it"):
        load(ROSES, tokens=str(path))


def test_what_is_not_streamed_says_the_way_round(tmp_path: Path) -> None:
    lines = written(tmp_path / "roses.txt", "a rose is\na rose\n" * 10)
    with pytest.raises(DataError, match="a token takes 4 bytes of memory"):
        load(str(lines), stream=True)
    (tmp_path / "series").mkdir()
    for row in "ab":
        written(tmp_path / "series" / f"{row}.csv", "heat\n1.5\n2.5\n")
    with pytest.raises(DataError, match="save them as one"):
        load(str(tmp_path / "series"), stream=True)


@pytest.mark.data
@pytest.mark.skipif(
    not any([each.found for each in datasets() if each.name == "ptb"]),
    reason="ptb is not on this machine ($DEEPLVM_DATA)",
)
def test_the_penn_treebank() -> None:
    """Tokens with the ends of sentences, as the literature counts them."""
    data = load("ptb")
    assert data.description.steps == {"train": 929_589, "valid": 73_760, "test": 82_430}
    assert data.variables["x"].levels == 10_000
