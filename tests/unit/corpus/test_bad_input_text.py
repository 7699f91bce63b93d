"""Odd text from file to pieces: bad text ends in one sentence and leaves nothing; unusual text keeps every word."""

import os
import random
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from knnlm.corpus.dictionary import CONTINUATION
from knnlm.corpus.download import wikitext103
from knnlm.corpus.text import SPLITS, read_lines
from knnlm.corpus.tokenise import tokenise as tokenise_line
from knnlm.errors import KnnlmError
from knnlm.steps import bpe, corpus_text, tokenise

PLAIN = b"a plain text\nof two lines\n"


def make_text(folder: Path, separator: str = "file", **texts: bytes) -> list[Path]:
    """Run the first step on three files and return what it wrote, train first."""
    paths = {split: folder / f"{split}.txt" for split in SPLITS}
    for split, path in paths.items():
        path.write_bytes(texts.get(split, split.encode() + b" " + PLAIN))
    text = {"folder": None, "document_separator": separator} | {split: str(path) for split, path in paths.items()}
    made = [folder / "made" / "text" / f"{split}.txt" for split in SPLITS]
    files = {
        "documents": [path.with_suffix(".documents.npy") for path in made],
        "manifest": folder / "made" / "text" / "manifest.json",
    }
    corpus_text.main(
        {"seed": 1, "corpus": {"source": "text", "normalisation": "none", "share": 1.0, "text": text}}, made, **files
    )
    return made


def make_pieces(folder: Path, tokeniser: str, merges: int, separator: str = "file", **texts: bytes) -> list[Path]:
    """Run the first three steps and return the files of pieces, train first."""
    made = make_text(folder, separator, **texts)
    tokenised, pieces = ([folder / "made" / name / path.name for path in made] for name in ("tokenised", "pieces"))
    of_texts, of_tokenised, of_pieces = (paths[0].parent / "manifest.json" for paths in (made, tokenised, pieces))
    files = {"texts": made, "of_texts": of_texts, "tokenised": tokenised, "manifest": of_tokenised}
    tokenise.main({"corpus": {"tokeniser": tokeniser}}, **files)
    files = {"tokenised": tokenised, "of_tokenised": of_tokenised, "pieces": pieces, "manifest": of_pieces}
    files |= {"codes": folder / "made" / "bpe.json", "dictionary": folder / "made" / "dictionary.txt"}
    bpe.main({"corpus": {"bpe_merges": merges}}, **files)
    return pieces


def words_of(pieces: Path) -> list[list[str]]:
    """Return the words of every line of a file of pieces, put together again."""
    return [
        re.sub(f"{CONTINUATION} ", "", line).split() for line in pieces.read_text(encoding="utf-8").split("\n")[:-1]
    ]


BAD_TEXTS = {
    "empty": (b"", "is empty"),
    "blank lines": (b"\n \r\n\t\n", "is empty"),
    "only spaces of other kinds": ("\u00a0\u2003\u2028\u3000".encode(), "is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "is empty"),
    "a NUL byte": (b"good\nb\0d\n", "NUL byte at byte 6"),
    "UTF-16": ("text".encode("utf-16-le"), "NUL byte at byte 1 and looks like UTF-16LE"),
    "Latin-1": (b"caf\xe9\n", "not UTF-8 at byte 3"),
    "a lone surrogate": (b"ab\xed\xa0\x80c\n", "not UTF-8 at byte 2"),
    "two surrogates for one character": (b"\xed\xa0\xbd\xed\xb8\x80\n", "not UTF-8 at byte 0"),
    "an overlong zero": (b"abc\xc0\x80\n", "not UTF-8 at byte 3"),
    "an emoji cut short": ("😀 😀".encode()[:-1], "not UTF-8 at byte 5"),
    "a byte beyond Unicode": (b"a\xf4\x90\x80\x80\n", "not UTF-8 at byte 1"),
    "a compressed file": (b"\x1f\x8b\x08\x08\xd2\x02", "not UTF-8 at byte 1"),
    "a word without end": (b"a b\n" + b"x" * 100_001 + b" y\n", "line 2 has 100,001 characters without a space"),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_bad_text_is_named_and_nothing_is_left(kind, split, tmp_path):
    content, said = BAD_TEXTS[kind]
    with pytest.raises(KnnlmError) as caught:
        make_text(tmp_path, **{split: content})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/{split}.txt: ")
    assert said in message
    assert message.isprintable()
    assert message.endswith(".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.txt", "train.txt", "valid.txt"]


def test_a_folder_and_an_unreadable_file_are_named(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(KnnlmError, match=r"folder\.txt: cannot be read \(Is a directory\)"):
        read_lines(tmp_path / "folder.txt")
    (tmp_path / "secret.txt").write_text("text")
    (tmp_path / "secret.txt").chmod(0)
    superuser = os.geteuid() == 0
    try:
        if superuser:
            os.seteuid(65534)
        with pytest.raises(KnnlmError, match=r"secret\.txt: cannot be read \(Permission denied\)"):
            read_lines(tmp_path / "secret.txt")
    finally:
        if superuser:
            os.seteuid(0)


@pytest.mark.parametrize("text", [b"<unk>\n", b"<unk> <unk>\n<unk>\n", b"@-@ <unk> @.@\n"])
@pytest.mark.parametrize("tokeniser", ["moses", "none"])
def test_a_training_text_of_nothing_but_unknown_words_is_told(text, tokeniser, tmp_path):
    with pytest.raises(
        KnnlmError, match=r"tokenised/train\.txt: the training text has no word to learn BPE from; give more text\."
    ):
        make_pieces(tmp_path, tokeniser, 10, train=text)
    assert not (tmp_path / "made" / "pieces").exists()
    assert not (tmp_path / "made" / "bpe.json").exists()


def test_evaluation_text_of_nothing_but_unknown_words_stays(tmp_path):
    pieces = make_pieces(tmp_path, "moses", 10, test=b"<unk> <unk>\n")
    assert pieces[2].read_text() == "<unk> <unk>\n"


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ({}, 0),
        ({"test": b"train " + PLAIN}, 1),
        ({"test": b"train  " + PLAIN.replace(b"\n", b"\r\n") + b"\n\n"}, 1),
        (dict.fromkeys(SPLITS, PLAIN), 1),
        ({"train": b"a\n\nb\n\nc\n\nc\n", "valid": b"b\n\nd\n", "test": b"c\n\nb\n\na"}, 3),
    ],
)
def test_documents_in_several_splits_are_counted_in_a_warning(texts, count, tmp_path, capsys):
    make_text(tmp_path, "blank_line" if b"\n\n" in texts.get("valid", b"") else "file", **texts)
    error = capsys.readouterr().err
    if count:
        assert f"Warning: documents that stand in more than one split: {count}; " in error
        assert "remove them" in error
    else:
        assert "more than one split" not in error


ONE_DOCUMENT = "documents in the {} split: 1; its intervals"
DIVIDED = b"one\n\ntwo\n"


@pytest.mark.parametrize(
    ("separator", "texts", "warned"),
    [
        ("file", {}, ["valid", "test"]),
        ("file", dict.fromkeys(("valid", "test"), DIVIDED), ["valid", "test"]),
        ("blank_line", {"valid": DIVIDED}, ["test"]),
        ("blank_line", {"test": DIVIDED + b"\n"}, ["valid"]),
        ("blank_line", {"valid": DIVIDED, "test": b"three\n\n\n\nfour"}, []),
        ("heading", {"valid": b" = One = \n x \n = Two = \n y \n"}, ["test"]),
    ],
)
def test_a_split_of_one_document_is_told_in_a_warning_that_names_the_key(separator, texts, warned, tmp_path, capsys):
    make_text(tmp_path, separator, **texts)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "intervals" in line]
    assert len(warnings) == len(warned)
    for line, split in zip(warnings, warned, strict=True):
        assert line.startswith(f"Warning: {ONE_DOCUMENT.format(split)}")
        assert ("verdict" in line) == (split == "test")
        assert "; set corpus.text.document_separator to " in line
        assert line.endswith(".")


SOTU = {"first_year": 1990, "last_year": 1997, "kinds": ["spoken"], "period": 6, "valid": 0, "test": 2}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (
            {
                "source": "text",
                "text": {"folder": "texts", "endings": [".txt"], "valid_fraction": 0.1, "test_fraction": 0.4},
            },
            "raise corpus.text.valid_fraction",
        ),
        ({"source": "sotu", "sotu": SOTU}, "lower corpus.sotu.period"),
    ],
)
def test_the_key_is_that_of_the_source(settings, key, tmp_path, monkeypatch, capsys):
    """Ten files of which one is for valid; of the years 1990 to 1997 it is 1992."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for number in range(10):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number}\n")
    files = {
        "texts": [Path("made/text", f"{split}.txt") for split in SPLITS],
        "documents": [Path(f"{split}.npy") for split in SPLITS],
    }
    files["manifest"] = Path("made/text/manifest.json")
    corpus_text.main({"seed": 1, "corpus": {"normalisation": "none", "share": 1.0} | settings}, **files)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if ONE_DOCUMENT.format("valid") in line]
    assert warning.endswith(f"; {key}.")


WORDS = {
    "emoji": ["😀", "👍🏽", "👨‍👩‍👧", "🇩🇪", "❤️", "1️⃣"],
    "Hebrew": ["שלום", "עולם", "טוב", "בוקר"],
    "Arabic": ["مرحبا", "بالعالم", "صباح", "الخير"],
    "Greek and Cyrillic": ["καλημέρα", "κόσμε", "привет", "мир"],
    "Persian with joiners": ["می‌خواهم", "کتاب‌ها"],
    "Hindi": ["नमस्ते", "दुनिया"],
    "Thai": ["สวัสดีชาวโลก", "ขอบคุณ"],
    "Chinese": ["你好世界", "謝謝"],
    "combining marks": ["e\u0301le\u0300ve", "n\u0303", "o\u0308"],
    "private use": ["\ue000\ue001", "\uf8ff", "\U000f0000"],
    "direction marks": ["\u200fשלום\u200e", "\u202eabc\u202c", "a\u2066b\u2069c"],
    "marks of BPE": ["a@@", "@@", "@", "@-@", "@@@@", "a@@b"],
    "names of symbols": ["<s>", "</s>", "<pad>", "<unk>", "madeupword0000"],
    "markup": ["&amp;", "&lt;b&gt;", "{seed}", "%s", "$(touch", "\\n", '"', "'"],
    "control characters": ["a\x01b", "\x7f", "\x1b[31m", "x\ufeffy", "\ufffd"],
}


@pytest.mark.parametrize("kind", WORDS)
def test_words_that_stand_between_spaces_are_kept_one_for_one(kind, tmp_path):
    """With `tokeniser: none` each word comes out as it went in or, if BPE cannot say it, as `<unk>`; none is lost."""
    lines = [random.Random(number).choices(WORDS[kind], k=30) for number in range(20)]
    text = "\n".join(" ".join(line) for line in lines).encode()
    for pieces in make_pieces(tmp_path, "none", 20, train=text, valid=text, test=text):
        found = words_of(pieces)
        assert [len(line) for line in found] == [30] * 20
        for line, words in zip(lines, found, strict=True):
            assert all(word in (meant, "<unk>") for meant, word in zip(line, words, strict=True))
        kept = sum(
            word == meant
            for line, words in zip(lines, found, strict=True)
            for meant, word in zip(line, words, strict=True)
        )
        assert kept > (0 if kind in ("marks of BPE", "names of symbols") else 599)


@pytest.mark.parametrize("kind", ["Hebrew", "Arabic", "Greek and Cyrillic"])
def test_moses_leaves_letters_of_other_scripts_and_emoji_between_spaces_alone(kind, tmp_path):
    words = [*WORDS[kind], "😀", "🎉"]
    lines = [random.Random(number).choices(words, k=25) for number in range(20)]
    text = "\n".join(" ".join(line) for line in lines).encode()
    assert words_of(make_pieces(tmp_path, "moses", 20, train=text)[0]) == lines


LINES = [["one", "two"], ["three"], ["four", "five", "six"]]
ENDINGS = {
    "LF": b"one two\nthree\nfour five six\n",
    "CRLF": b"one two\r\nthree\r\nfour five six\r\n",
    "CR": b"one two\rthree\rfour five six\r",
    "all of them": b"one two\r\nthree\rfour five six\n",
    "no end": b"one two\nthree\nfour five six",
    "a byte order mark": b"\xef\xbb\xbfone two\nthree\nfour five six\n",
    "other spaces": "one\u00a0two\nthree\u2028\nfour\u3000five \t\v\f six\x1f\n".encode(),
    "blank lines": b"\n\none two\n\n \nthree\nfour five six\n\n\n",
}


@pytest.mark.parametrize("tokeniser", ["moses", "none"])
@pytest.mark.parametrize("kind", ENDINGS)
def test_lines_end_as_they_may(kind, tokeniser, tmp_path):
    assert words_of(make_pieces(tmp_path, tokeniser, 5, train=ENDINGS[kind])[0]) == LINES


def test_one_line_is_a_text(tmp_path):
    assert words_of(make_pieces(tmp_path, "moses", 5, train=b"one line", valid=b"x", test=b"y\n")[0]) == [
        ["one", "line"]
    ]


def test_a_line_with_every_character_that_could_stand_for_a_unit():
    every = "".join(map(chr, range(0xE000, 0xF900)))
    assert tokenise_line(f"a <unk> b{every} c").split()[:2] == ["a", "<unk>"]


def test_a_line_of_ten_megabytes_keeps_every_word(tmp_path):
    """Of the 10 MB line the files are compared word by word, so the count is that of what was put in."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=40)) for _ in range(100)]
    words = chance.choices(vocabulary, k=250_000)
    text = " ".join(words).encode()
    assert len(text) > 10_000_000
    assert words_of(make_pieces(tmp_path, "moses", 1000, train=text)[0]) == [words]


def damaged(path: Path, kind: str) -> None:
    """Write a zip of WikiText-103's files that cannot be read for one reason."""
    method = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as content:
        for split in SPLITS:
            content.writestr(f"wikitext-103/wiki.{split}.tokens", b" \n = First = \n \n some words \n" * 50)
    data = bytearray(path.read_bytes())
    first, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    if kind == "encrypted":
        for place in (first + 6, central + 8):
            data[place] |= 1
    elif kind == "an unknown method":
        for place in (first + 8, central + 10):
            data[place : place + 2] = struct.pack("<H", 77)
    elif kind == "damaged":
        data[first + 62 : first + 72] = bytes(10)
    elif kind == "no zip":
        data = bytearray(b"<html>404</html>")
    path.write_bytes(data)


UNCHECKED = {"file": None, "urls": ["https://localhost/"], "sha256": None}


@pytest.mark.parametrize("kind", ["encrypted", "an unknown method", "damaged", "no zip"])
def test_a_damaged_archive_is_named(kind, tmp_path):
    damaged(tmp_path / "wiki.zip", kind)
    with pytest.raises(KnnlmError, match=r"wiki\.zip: not the zip of WikiText-103 \(.*; delete it and rerun"):
        wikitext103(UNCHECKED, tmp_path / "wiki.zip")


def test_an_archive_that_is_a_folder_is_named(tmp_path):
    with pytest.raises(KnnlmError, match=r"cannot be read \(Is a directory\)"):
        wikitext103(UNCHECKED, tmp_path)


def test_documents_of_odd_text_begin_where_they_should(tmp_path):
    made = make_text(tmp_path, "blank_line", train="א\r\n\r\n😀 😀\r\nb\r\n\r\n\r\nc".encode())
    assert made[0].read_text(encoding="utf-8") == "א\n😀 😀\nb\nc\n"
    assert np.load(made[0].with_suffix(".documents.npy"), allow_pickle=False).tolist() == [0, 1, 3, 4]
