"""Files of text: which of a folder count, and how their bytes become lines."""

import codecs
import os
import tempfile
import unicodedata
from pathlib import Path

import pytest

from knnlm.config.corpus import most_training_tokens, problems, text_files
from knnlm.corpus import text
from knnlm.corpus.sources import text_folder
from knnlm.corpus.text import SPLITS
from knnlm.errors import KnnlmError

SECTION = {"valid_fraction": 0.1, "test_fraction": 0.1, "endings": [".txt", ".md"]} | dict.fromkeys(SPLITS)


def write(folder: Path, **contents: str) -> None:
    """Write files, whose names stand with `__` for a folder's end."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def names(folder: Path, *endings: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in text.folder_files(folder, endings or (".txt", ".md"))]


def corpus(folder: Path, **changed: object) -> dict:
    return {"source": "text", "token_counts": None, "text": SECTION | {"folder": str(folder)} | changed}


def test_lines_are_normalised_and_blank_lines_kept():
    data = "\ufeffone \t two\r\n\r\nthree\u00a0four\rfive\n".encode()
    assert text.decode(data, "file") == ["one two", "", "three four", "five"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \n\r\n", "empty"),
        (b"ab\nc\xe9d\n", "not UTF-8 at byte 4"),
        (b"ab\x00c", "NUL byte at byte 2"),
    ],
)
def test_bad_text_is_named(data, words):
    with pytest.raises(KnnlmError, match=f"name.*{words}"):
        text.decode(data, "name")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(KnnlmError, match=r"absent\.txt: cannot be read \(No such file"):
        text.read_lines(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("separator", "documents"),
    [
        ("file", [["= A =", "= = a = =", "x", "= B =", "y"]]),
        ("blank_line", [["= A ="], ["= = a = =", "x"], ["= B ="], ["y"]]),
        ("heading", [["", "= A =", "", "= = a = =", "x", ""], ["= B =", "", "", "y"]]),
    ],
)
def test_documents_of_a_file(separator, documents):
    assert text.divide(["", "= A =", "", "= = a = =", "x", "", "= B =", "", "", "y"], separator) == documents


def test_files_of_a_folder_and_of_its_folders(tmp_path):
    write(
        tmp_path,
        **{"b.txt": "b", "A.TXT": "a", "notes.md": "n", "c.text": "c", "sub__b.txt": "b", "sub__x__y.Txt": "y"},
    )
    assert names(tmp_path) == ["A.TXT", "b.txt", "notes.md", "sub/b.txt", "sub/x/y.Txt"]
    assert names(tmp_path, ".TEXT") == ["c.text"]


def test_what_macos_leaves_behind_is_not_text(tmp_path):
    write(tmp_path, **{"00.txt": "text", "sub.txt__1.txt": "text"})
    for hidden in ("._00.txt", ".DS_Store", ".txt", ".git/1.txt", "sub.txt/._1.txt"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\0\5\26\7")
    assert names(tmp_path) == ["00.txt", "sub.txt/1.txt"]


def test_a_folder_that_a_link_leads_to_is_read_once(tmp_path):
    write(tmp_path, **{"here__1.txt": "1", "elsewhere__2.txt": "2"})
    (tmp_path / "here" / "again").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "here") == ["1.txt", "link/2.txt"]


def test_a_folder_in_the_folder_that_cannot_be_read_is_named():
    superuser = os.geteuid() == 0  # who may read all, and whose folders of tests nobody else may open
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write(folder, **{"a.txt": "a", "sub__b.txt": "b"})
        (folder / "sub").chmod(0)
        try:
            if superuser:
                os.seteuid(65534)
            with pytest.raises(KnnlmError, match=r"/sub: cannot be read \(Permission denied\); change its permissions"):
                names(folder)
        finally:
            if superuser:
                os.seteuid(0)
            (folder / "sub").chmod(0o755)


def test_what_the_config_counts_is_what_is_read(tmp_path, capsys):
    write(
        tmp_path,
        **{f"{name}.txt": f"text {name}\n" for name in "abc"},
        **{"sub__D.MD": "# Title", "e.txt": "", "f.txt": "\ufeff \n"},
    )
    section = corpus(tmp_path)
    assert list(problems({"corpus": section})) == []
    assert text_files(section) == [
        str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt", "e.txt", "f.txt", "sub/D.MD")
    ]
    splits = text_folder(section["text"], 1)
    assert sorted(line for split in SPLITS for (line,) in splits[split]) == ["# Title", "text a", "text b", "text c"]
    assert most_training_tokens({"corpus": section}) >= sum(
        len(line) + 1 for split in SPLITS for (line,) in splits[split]
    )
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == f"Warning: empty files in corpus.text.folder are left out: {tmp_path}/e.txt, {tmp_path}/f.txt."


def test_many_empty_files_are_one_warning(tmp_path, capsys):
    write(
        tmp_path,
        **{f"{number}.txt": "x" if number < 3 else "" for number in range(10, 30)},
        **{"1.txt": "1", "2.txt": "2", "3.txt": "3"},
    )
    text_folder(corpus(tmp_path)["text"], 1)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.endswith("14.txt and 15 more.")


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\u200b\n"])
def test_a_folder_of_empty_files_is_refused(content, tmp_path):
    write(tmp_path, **{f"{name}.txt": content for name in "abc"})
    with pytest.raises(KnnlmError, match=r"has 0 \.txt or \.md files with text"):
        text_folder(corpus(tmp_path)["text"], 1)
    if not content:
        ((key, problem),) = problems({"corpus": corpus(tmp_path)})
        assert key == "corpus.text.folder"
        assert problem.startswith(f"{tmp_path} has 0 .txt or .md files with text")


def test_endings_that_no_file_has_are_told(tmp_path):
    write(tmp_path, **{f"{name}.txt": name for name in "abc"})
    ((_, problem),) = problems({"corpus": corpus(tmp_path, endings=[".text"])})
    assert problem.endswith(
        "has 0 .text files with text, but each of three splits needs one; add files, or correct corpus.text.endings."
    )


def test_a_byte_order_mark_is_dropped_wherever_it_begins_a_line():
    joined = "\ufeffone\ufeff two\n".encode() + codecs.BOM_UTF8 + b"three\n" + codecs.BOM_UTF8 * 2 + b" four"
    assert text.decode(joined, "name") == ["one\ufeff two", "three", "four"]


@pytest.mark.parametrize(
    "nothing", ["\ufeff", "\u200b\u200d", " \u2060\t", "\u00ad", "\x1a", "\u3164", "\ufe0f", "\u200e"]
)
def test_a_line_of_characters_that_nobody_sees_is_blank(nothing):
    lines = text.decode(f"one\n{nothing}\ntwo {nothing}x".encode(), "name")
    assert text.divide(lines, "blank_line") == [["one"], [lines[2]]]
    with pytest.raises(text.EmptyTextError):
        text.decode(f"{nothing}\n{nothing}".encode(), "name")


def test_format_characters_are_invisible_but_those_that_one_sees_and_no_letter_is():
    seen = ("ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN", "INTERLINEAR")  # signs before a number, and the like
    formats = [character for character in map(chr, range(0x110000)) if unicodedata.category(character) == "Cf"]
    assert all(text.INVISIBLE.fullmatch(c) for c in formats if not unicodedata.name(c, "TAG").startswith(seen))
    assert not any(text.INVISIBLE.fullmatch(c) for c in "a1.é語한ा\u0301\ufffd\ue000")


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
@pytest.mark.parametrize("words", ["A text of two lines\nor so\n", "Größe, naïveté — «là»\n", "语言模型"])
def test_another_encoding_of_unicode_is_named_with_how_to_convert_it(words, encoding, mark):
    """A text without a mark and without Latin letters cannot be told from any other bytes."""
    data = mark + words.encode(encoding)
    with pytest.raises(KnnlmError) as caught:
        text.decode(data, "name.txt")
    said = str(caught.value)
    assert said.startswith("name.txt: ")
    assert said.isprintable()
    if mark or words.isascii():
        name = encoding.removesuffix("-le").removesuffix("-be").upper()
        assert f"looks like {name}" in said
        assert f"`iconv -f {name}" in said
        assert data.decode(said.partition("iconv -f ")[2].split()[0]).removeprefix("\ufeff") == words
