"""Bad config files and folders: what YAML lets pass or Snakemake ends with a traceback ends in one sentence."""

import pytest
import yaml
from configs import ROOT, as_somebody_else, sentence

from knnlm.config.files import check_file, check_folder, check_submitted

BAD_FILES = {
    "a key twice": (b"name: x\nseed: 1\nseed: 2\n", "the key seed stands twice, in lines 2 and 3"),
    "a key twice in a section": (
        b"name: x\nlm:\n  training:\n    updates: 1\n    fp16: true\n    updates: 2\n",
        "the key lm.training.updates stands twice",
    ),
    "a section twice": (
        b"lm: {training: {updates: 1}}\nname: x\nlm: {architecture: {layers: 1}}\n",
        "the key lm stands twice, in lines 1 and 3",
    ),
    "a key twice in braces": (
        b"name: x\nretrieval: {k: 1, k: 2}\n",
        "the key retrieval.k stands twice, in lines 2 and 2",
    ),
    "a hypothesis twice": (
        b"hypotheses:\n  a: {paper: silent}\n  b: {paper: silent}\n  a: {paper: silent}\n",
        "the key hypotheses.a stands twice",
    ),
    "a key twice in a list": (b"name: x\nlist: [{a: 1}, {b: 1, b: 2}]\n", "the key list[1].b stands twice"),
    "a key twice in JSON": (b'{"name": "x", "seed": 1, "seed": 2}', "the key seed stands twice"),
    "empty": (b"", "has no keys"),
    "only comments": (b"# name: x\n", "has no keys"),
    "a list": (b"- name\n- x\n", "has no keys"),
    "words": (b"just words\n", "has no keys"),
    "an open bracket": (b"name: x\nseeds: [1, 2\nseed: 3\n", "not YAML at line 3"),
    "a tab": (b"lm:\n\ttraining: {}\n", "not YAML at line 2"),
    "a colon too many": (b"name: x: y\n", "not YAML at line 1"),
    "an unknown alias": (b"name: x\nlm: *base\n", "not YAML at line 2"),
    "two documents": (b"name: x\n---\nname: y\n", "not YAML at line 2"),
    "Latin-1": (b"# caf\xe9\nname: x\n", "not UTF-8 at byte 5"),
    "UTF-16": ("name: x\n".encode("utf-16"), "not UTF-8 at byte 0"),
    "a NUL byte": (b"name: a\0b\n", "not YAML"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named(kind, tmp_path):
    content, said = BAD_FILES[kind]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    message = sentence(check_file, path)
    assert message.startswith(f"{path}: ")
    assert said in message


GOOD_FILES = {
    "a byte order mark": b"\xef\xbb\xbfname: x\n",
    "CRLF": b"name: x\r\nlm:\r\n  training: {updates: 5}\r\n",
    "the same key in two sections": b"windows: {train: {new: 1}, evaluation: {new: 1}}\n",
    "an alias": b"a: &a {k: 1}\nb: *a\nc: *a\n",
    "a merged section with a key of its own": b"a: &a {k: 1, n: 2}\nb: {<<: *a, k: 3}\n",
    "a number and a text that look alike": b'a: {1: x, "1": y}\n',
    "JSON": b'{"name": "x",\n "seed": 1}',
    "not ended": b"name: x",
}


@pytest.mark.parametrize("kind", GOOD_FILES)
def test_a_good_file_is_let_pass(kind, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(GOOD_FILES[kind])
    check_file(tmp_path / "mine.yaml")
    assert yaml.safe_load(GOOD_FILES[kind])


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_no_shipped_file_says_anything_twice(path):
    check_file(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert "mine.yaml: cannot be read (No such file" in sentence(check_file, tmp_path / "mine.yaml")
    assert "cannot be read (Is a directory)" in sentence(check_file, tmp_path)
    (tmp_path / "secret.yaml").write_text("name: x\n")
    (tmp_path / "secret.yaml").chmod(0)
    with as_somebody_else():
        assert "secret.yaml: cannot be read (Permission denied)" in sentence(check_file, tmp_path / "secret.yaml")


@pytest.mark.parametrize(
    ("name", "said"),
    [("a:b", "the character :"), ("{seed}", "the character {"), ("two\nlines", "a line end"), ("a\x07", "U+0007")],
)
def test_a_folder_that_no_workflow_can_run_in_is_named(name, said, tmp_path):
    assert said in sentence(check_folder, tmp_path / name)


@pytest.mark.parametrize("name", ['it\'s "odd"', "$(touch pwned); & | * ? # ~ % <run> \\", "é 語 😀", "-rf"])
def test_a_folder_with_an_odd_name_is_let_pass(name, tmp_path):
    check_folder(tmp_path / name)


@pytest.mark.parametrize("name", ["$(touch pwned)", "`touch pwned`", "it's", 'so "called"', "back\\slash"])
def test_a_name_that_a_cluster_s_shells_would_read_as_code_is_named(name):
    assert "jobs on a cluster cannot be given" in sentence(check_submitted, f"folder/{name}/config.yaml")


def test_a_name_with_spaces_and_odd_letters_goes_to_a_cluster():
    check_submitted("two words/é 語 😀; touch pwned & | * ? # ~ %/config.yaml")
