"""Tokenisation against sacremoses as it is and against hand-worked lines in WikiText's style."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacremoses import MosesTokenizer

from knnlm.corpus import sotu, tokenise
from knnlm.corpus.text import SPLITS
from knnlm.steps import tokenise as step
from knnlm.storage.manifests import read_manifest, write_manifest

YEARS = {"first_year": 1944, "last_year": 1950, "kinds": ["spoken"], "period": 3, "valid": 0, "test": 1}


@pytest.mark.parametrize(
    ("line", "tokenised"),
    [
        ("A well-known fact.", "A well @-@ known fact ."),
        ("It cost $1,234,567.50, or 3.5%", "It cost $ 1 @,@ 234 @,@ 567 @.@ 50 , or 3 @.@ 5 %"),
        ('Mr. Smith doesn\'t say "U.S. & <b>"...', 'Mr. Smith doesn \'t say " U.S. & < b > " ...'),
        ("war--and peace -- now---so", "war -- and peace -- now --- so"),
        ("a <unk> ( <unk> ) 1 @,@ 000 and 3 @.@ 5 x @-@ y", "a <unk> ( <unk> ) 1 @,@ 000 and 3 @.@ 5 x @-@ y"),
        ("\ue000 <unk> \ue001", "\ue000 <unk> \ue001"),
        ("(<unk>),", "( <unk> ) ,"),
        ("= = Title = =", "= = Title = ="),
        ("", ""),
    ],
)
def test_hand_worked_lines(line, tokenised):
    assert tokenise.tokenise(line) == tokenised


def test_more_units_than_sacremoses_can_protect():
    line = "<unk> @-@ " * 1500
    assert tokenise.tokenise(line) == line.strip()


def addresses() -> list[str]:
    """Return real lines, with every kind of punctuation that the corpus has."""
    splits = sotu.splits(YEARS)
    return [line for documents in splits.values() for document in documents for line in document]


def test_same_as_sacremoses_on_real_lines():
    reference = MosesTokenizer("en")
    lines = addresses()
    assert len(lines) > 300
    for line in lines:
        expected = reference.tokenize(
            line.replace("--", " -- "), aggressive_dash_splits=True, return_str=True, escape=False
        )
        assert re.sub(r" @([.,])@ ", r"\1", tokenise.tokenise(line)) == re.sub(" +", " ", expected)


def test_nothing_but_spaces_and_marks_is_added_to_real_lines():
    for line in addresses():
        text = tokenise.tokenise(line)
        for mark in ("@-@", "@,@", "@.@"):
            text = text.replace(mark, mark[1])
        assert text.replace(" ", "") == line.replace(" ", "")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<unk>", "@-@", "@,@", "@.@", "word", "1,5", "don't", "U.S.", "(", "\ue000", "é", "-", "."]),
        max_size=12,
    )
)
def test_units_survive_and_lines_stay_lines(words):
    tokenised = tokenise.tokenise(" ".join(words))
    assert tokenised == " ".join(tokenised.split())
    assert [word for word in tokenised.split() if word == "<unk>"] == [word for word in words if word == "<unk>"]
    for unit, character in (("@-@", None), ("@,@", "1,5"), ("@.@", None)):
        assert tokenised.split().count(unit) == words.count(unit) + (words.count(character) if character else 0)


def test_step_with_processes_keeps_lines_and_order(tmp_path):
    paths = {split: (tmp_path / f"{split}.txt", tmp_path / f"{split}.tokenised.txt") for split in SPLITS}
    lines = [f"line {number}, well-known." if number % 7 else "" for number in range(2 * tokenise.LINES_PER_TASK + 3)]
    for text, _ in paths.values():
        with open(text, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    texts, tokenised = zip(*paths.values(), strict=True)
    of_texts, manifest = tmp_path / "texts.json", tmp_path / "tokenised.json"
    write_manifest(of_texts, texts, kind="text")
    for tokeniser, expected in {"moses": list(map(tokenise.tokenise, lines)), "none": lines}.items():
        files = {"texts": texts, "of_texts": of_texts, "tokenised": tokenised, "manifest": manifest}
        step.main({"corpus": {"tokeniser": tokeniser}}, threads=2, **files)
        assert len(read_manifest(manifest, kind="tokenised text")["files"]) == 3
        for path in tokenised:
            with open(path, encoding="utf-8") as file:
                assert file.read().split("\n") == [*expected, ""]
