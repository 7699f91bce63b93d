"""Bad paths and addresses in a config: the user's own files, folders and archives. Each ends in one sentence."""

import os
from pathlib import Path

import pytest
from configs import as_somebody_else, changed, config_of, sentence

from knnlm.config.checks import check_combinations

TINY = config_of("tiny")


def own_files(folder: Path) -> dict:
    """Return a valid config with three files of the user's own in a folder."""
    paths = {split: folder / f"{split}.txt" for split in ("train", "valid", "test")}
    for split, path in paths.items():
        path.write_text(f"{split} " + "words of a text\n" * 200)
    return changed(
        TINY,
        "corpus",
        TINY["corpus"]
        | {"source": "text", "text": TINY["corpus"]["text"] | {split: str(path) for split, path in paths.items()}},
    )


def link(folder: Path) -> str:
    (folder / "link.txt").symlink_to(folder / "train.txt")
    return str(folder / "link.txt")


def broken_link(folder: Path) -> str:
    (folder / "broken.txt").symlink_to(folder / "nothing.txt")
    return str(folder / "broken.txt")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.txt")
    return str(folder / "pipe.txt")


BAD_PATHS = {
    "a file that is a folder": (str, "is not a file"),
    "the training file under another name": (link, "is given for another split too"),
    "the training file by another way": (
        lambda folder: f"{folder}/../{folder.name}/train.txt",
        "is given for another split too",
    ),
    "a broken link": (broken_link, "No such file or directory"),
    "a pipe": (pipe, "is not a file"),
    "a name that is too long": (lambda folder: str(folder / ("x" * 300)), "File name too long"),
    "the home folder's sign": (lambda folder: "~/test.txt", "begins with ~"),
    "braces": (lambda folder: str(folder / "{seed}.txt"), "has the character {"),
    "angle brackets": (lambda folder: str(folder / "<run>.txt"), "has the character <"),
    "a file as a folder": (lambda folder: str(folder / "train.txt" / "test.txt"), "Not a directory"),
}


@pytest.mark.parametrize("kind", BAD_PATHS)
def test_a_bad_path_is_told(kind, tmp_path):
    path, said = BAD_PATHS[kind]
    config = own_files(tmp_path)
    check_combinations(config)
    message = sentence(check_combinations, changed(config, "corpus.text.test", path(tmp_path)))
    assert message.startswith("config key corpus.text.test: ")
    assert said in message


def of_wikitext103(**changes: object) -> dict:
    return changed(TINY, "corpus", TINY["corpus"] | {"source": "wikitext103", "wikitext103": WIKITEXT103 | changes})


WIKITEXT103 = TINY["corpus"]["wikitext103"]
BAD_ARCHIVES = {kind: case for kind, case in BAD_PATHS.items() if "training file" not in kind}
BAD_ARCHIVES["an empty file"] = (lambda folder: str((folder / "empty.zip").touch() or folder / "empty.zip"), "is empty")


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_a_bad_path_of_the_zip_is_told(kind, tmp_path):
    path, said = BAD_ARCHIVES[kind]
    own_files(tmp_path)
    check_combinations(of_wikitext103(file=str(tmp_path / "train.txt")))  # whether it is a zip is seen when it is read
    message = sentence(check_combinations, of_wikitext103(file=path(tmp_path)))
    assert message.startswith("config key corpus.wikitext103.file: ")
    assert said in message


@pytest.mark.parametrize("scheme", ["htps", "s", "sftp", "git"])
def test_an_address_that_nothing_can_be_downloaded_from_is_told(scheme):
    urls = ["https://localhost/a.zip", f"{scheme}://localhost/a.zip"]
    message = sentence(check_combinations, of_wikitext103(urls=urls))
    assert message.startswith(f"config key corpus.wikitext103.urls[1]: '{scheme}'")
    check_combinations(of_wikitext103(urls=[*urls[:1], "file:///a.zip", "ftp://localhost/a.zip", "http://[::1]:80/"]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("{x}.txt", b"x\n", "the character {"), ("a\nb.txt", b"x\n", "a line end"), ("caf\udce9.txt", b"x\n", "U+DCE9")],
)
def test_a_bad_file_in_a_folder_is_told(name, content, said, tmp_path):
    config = changed(own_files(tmp_path), "corpus.text", TINY["corpus"]["text"] | {"folder": str(tmp_path)})
    check_combinations(config)
    (tmp_path / name).write_bytes(content)
    message = sentence(check_combinations, config)
    assert message.startswith("config key corpus.text.folder: ")
    assert said in message


def test_an_empty_file_and_a_folder_in_a_folder_are_let_pass(tmp_path):
    config = changed(own_files(tmp_path), "corpus.text", TINY["corpus"]["text"] | {"folder": str(tmp_path)})
    (tmp_path / "empty.txt").touch()
    (tmp_path / "sub.txt").mkdir()
    check_combinations(config)
    (tmp_path / "train.txt").write_bytes(b"")
    assert "2 .txt" in sentence(check_combinations, config)


def test_text_that_may_not_be_read_is_told(tmp_path):
    config = own_files(tmp_path)
    (tmp_path / "valid.txt").chmod(0)
    with as_somebody_else():
        message = sentence(check_combinations, config)
        assert (
            "corpus.text.train: " in message or "corpus.text.valid: " in message
        )  # where even the folder is not the reader's, the first
        folder = changed(config, "corpus.text", TINY["corpus"]["text"] | {"folder": str(tmp_path)})
        assert "corpus.text.folder: " in sentence(check_combinations, folder)
