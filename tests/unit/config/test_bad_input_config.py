"""Bad configs: whole files, odd values under every key, and the user's paths. Each ends in one sentence."""

import copy
import datetime
import itertools
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from configs import ROOT, config_of, written
from snakemake.utils import update_config

from knnlm.config.checks import check, check_combinations
from knnlm.config.files import check_file, check_folder, check_submitted
from knnlm.config.schema import flattened, read_schema
from knnlm.config.sizes import complete
from knnlm.errors import KnnlmError

SCHEMA = read_schema()
TINY = config_of("tiny")


def sentence(function, *arguments) -> str:
    """Return the one sentence in which a call ends."""
    with pytest.raises(KnnlmError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.endswith(".")
    assert message.isprintable()
    assert len(message) < 500
    return message


def changed(config: dict, key: str, value: object) -> dict:
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    return config


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


@contextmanager
def as_somebody_else():
    """Give up the right of the superuser to read everything, if it is held."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


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


ENTRY = {"question": "Does it?", "paper": "silent", "candidates": ["{main}"]}
BAD_VALUES = [
    ("name", "x\n", "name", "'x\\n' has a line end"),
    ("name", "x" * 65, "name", "at most 64"),
    ("name", "", "name", "not allowed"),
    ("name", "../other", "name", "not allowed"),
    ("name", "a; touch pwned", "name", "not allowed"),
    ("name", 5, "name", "5 is not text"),
    ("name", datetime.date(2024, 1, 1), "name", "the date 2024-01-01 is neither text nor a number"),
    ("seed", 10**400, "seed", "has more than 80 digits"),
    ("seed", -(16**6000), "seed", "has more than 80 digits"),
    ("seed", float("inf"), "seed", "whole number"),
    ("seed", "2", "seed", "without quotation marks"),
    ("seeds", [1, 1], "seeds", "twice"),
    ("seeds", [1, -1], "seeds[1]", "at least 0"),
    ("seeds", list(range(101)), "seeds", "at most 100"),
    ("seeds", 3, "seeds", "a list"),
    ("corpus", ["sotu"], "corpus", "a section of keys"),
    ("corpus", "sotu", "corpus", "a section of keys"),
    ("corpus.sotu", [1, 2], "corpus.sotu", "a section of keys"),
    ("corpus.text.train", ["a.txt"], "corpus.text.train", "text or null"),
    ("corpus.token_counts", [1, 2, 3], "corpus.token_counts", "a section of keys or null"),
    ("corpus.token_counts", {"train": None, "valid": 1, "test": 1}, "corpus.token_counts.train", "has no value"),
    ("corpus.bpe_merges", 0, "corpus.bpe_merges", "at least 1"),
    ("corpus.wikitext103.urls", ["wikitext-103.zip"], "corpus.wikitext103.urls[0]", "not allowed"),
    ("corpus.wikitext103.urls", ["https://localhost/{run}.zip"], "corpus.wikitext103.urls[0]", "not allowed"),
    ("corpus.wikitext103.urls", ["https://a/b.zip", "https://a/ b"], "corpus.wikitext103.urls[1]", "not allowed"),
    ("corpus.wikitext103.urls", "https://localhost/", "corpus.wikitext103.urls", "a list"),
    ("corpus.wikitext103.urls", [], "corpus.wikitext103.urls", "at least 1"),
    ("corpus.wikitext103.urls", ["https://a/b.zip"] * 2, "corpus.wikitext103.urls", "twice"),
    ("corpus.wikitext103.url", "https://localhost/", "corpus.wikitext103.url", "did you mean corpus.wikitext103.urls"),
    ("corpus.wikitext103.file", ["a.zip"], "corpus.wikitext103.file", "text or null"),
    ("corpus.wikitext103.file", "", "corpus.wikitext103.file", "at least 1"),
    ("corpus.wikitext103.sha256", "0" * 63 + "g", "corpus.wikitext103.sha256", "not allowed"),
    ("corpus.tokenizer", "none", "corpus.tokenizer", "did you mean corpus.tokeniser"),
    ("lm.training.betas", [0.9, 0.9, 0.9], "lm.training.betas", "at most 2"),
    ("lm.training.betas", [0.9, 1.0], "lm.training.betas[1]", "less than 1"),
    ("lm.training.learning_rate", float("-inf"), "lm.training.learning_rate", "a finite number"),
    ("lm.training.fp16", "true", "lm.training.fp16", "without quotation marks"),
    ("windows.train.new", 0, "windows.train.new", "at least 1"),
    ("windows.evaluation", 5, "windows.evaluation", "a section of keys"),
    ("datastore.chunks", 0, "datastore.chunks", "at least 1"),
    ("index.factory", "IVF1," + "9" * 100, "index.factory", "at most 100 characters"),
    ("index.probes", 4, "index.probes", "did you mean index.nprobe"),
    ("retrieval.k", 0, "retrieval.k", "at least 1"),
    ("retrieval.k", "64", "retrieval.k", "not inside the braces of --config"),
    ("retrieval.metrics", ["l2", "l2"], "retrieval.metrics", "twice"),
    ("main", [{"h": "att"}], "main", "a section of keys"),
    ("fractions", [], "fractions", "at least 1"),
    ("temperature.grid", {"low": 1}, "temperature.grid", "a list"),
    ("temperature.low", 0, "temperature.low", "more than 0"),
    ("verdict.share", 0, "verdict.share", "more than 0"),
    ("significance.resamples", 99, "significance.resamples", "at least 100"),
    ("figures.dpi", 1.5, "figures.dpi", "whole number"),
    ("resources.gpus", 65, "resources.gpus", "at most 64"),
    ("resources.GPUs", 1, "resources.GPUs", "did you mean resources.gpus"),
    (1, 2, "1", "the name is not text"),
    ("a\nb", 2, "'a\\nb'", "has a line end"),
    ("hypotheses", [ENTRY], "hypotheses", "a section of keys"),
    ("hypotheses", {"mine": None}, "hypotheses.mine", "has no value"),
    ("hypotheses", {"My idea": ENTRY}, "hypotheses", "'My idea' has characters that are not allowed"),
    ("hypotheses", {"idea\n": ENTRY}, "hypotheses.'idea\\n'", "has a line end"),
    ("hypotheses", {"i" * 41: ENTRY}, "hypotheses", "at most 40 characters"),
    ("hypotheses", {2: ENTRY}, "hypotheses.2", "the name is not text"),
    ("hypotheses", {"mine": {"paper": "silent"}}, "hypotheses.mine.question", "missing"),
    ("hypotheses", {"mine": ENTRY | {"paper": "yes"}}, "hypotheses.mine.paper", "supported, refuted, silent"),
    ("hypotheses", {"mine": ENTRY | {"share": 2}}, "hypotheses.mine.share", "at most 1"),
    ("hypotheses", {"mine": ENTRY | {"candidates": []}}, "hypotheses.mine.candidates", "at least 1"),
    ("hypotheses", {"mine": ENTRY | {"candidates": "base"}}, "hypotheses.mine.candidates", "a list or null"),
    ("hypotheses", {"mine": ENTRY | {"after": ["a", "a"]}}, "hypotheses.mine.after", "twice"),
    (
        "hypotheses",
        {"mine": ENTRY | {"familly": "padding"}},
        "hypotheses.mine.familly",
        "did you mean hypotheses.mine.family",
    ),
    ("hypotheses", {"mine": ENTRY | {"family": "../steps"}}, "hypotheses.mine.family", "not allowed"),
    ("hypotheses", {"mine": ENTRY | {"question": "Does\nit?"}}, "hypotheses.mine.question", "has a line end"),
    ("hypotheses", {"mine": ENTRY | {"question": "Does\0it?"}}, "hypotheses.mine.question", "the character U+0000"),
    ("hypotheses", {"mine": ENTRY | {"x_label": "\ud800"}}, "hypotheses.mine.x_label", "the character U+D800"),
    (
        "hypotheses",
        {"mine": ENTRY | {"settings": {"k": datetime.date(2024, 1, 1)}}},
        "hypotheses.mine.settings.k",
        "neither text nor a number",
    ),
    (
        "hypotheses",
        {"mine": ENTRY | {"settings": {"k": b"bytes"}}},
        "hypotheses.mine.settings.k",
        "neither text nor a number",
    ),
    ("hypotheses", {"mine": ENTRY | {"settings": {True: 1}}}, "hypotheses.mine.settings.True", "the name is not text"),
]


@pytest.mark.parametrize(
    ("key", "value", "named", "said"), BAD_VALUES, ids=[f"{case[2]} {case[3]}" for case in BAD_VALUES]
)
def test_a_bad_value_is_told_by_its_key(key, value, named, said):
    config = written() | {key: value} if not isinstance(key, str) or "\n" in key else changed(written(), key, value)
    message = sentence(check, config, SCHEMA)
    assert message.startswith(f"config key {named}: ")
    assert said in message


ODD = [
    None,
    True,
    "",
    "x",
    "x\n",
    "; touch pwned",
    "$(x)",
    "~",
    ".",
    "\0",
    "\ud800",
    "a" * 5000,
    [],
    [None],
    [[]],
    {},
    {"x": 1},
    {None: 1},
]
ODD += [float("nan"), float("inf"), -1, 0, 1.5, 1e308, 10**400, datetime.date(2024, 1, 1), b"x", {"a"}]


@pytest.mark.parametrize("section", sorted(SCHEMA["properties"]))
def test_an_odd_value_under_any_key_passes_or_is_told(section):
    """Whatever stands under a key, the config's checks end in a sentence or in nothing."""
    keys = [key.replace("<name>", "mine") for key, _ in flattened(SCHEMA) if key.split(".")[0] == section]
    filled = changed(TINY, "hypotheses", {"mine": TINY["hypotheses"]["temperature"]})
    told = 0
    for key, value in itertools.product(keys, ODD):
        config = changed(
            {"name": "odd", "hypotheses": {"mine": ENTRY} if section == "hypotheses" else {}}, key, copy.deepcopy(value)
        )
        if key.startswith(("corpus.text", "corpus.wikitext103")):
            config = changed(config, "corpus.source", key.split(".")[1])
        try:
            check(config, SCHEMA)
            whole = copy.deepcopy(filled)
            update_config(whole, config)
            complete(whole)
            check_combinations(whole)
        except KnnlmError as error:
            told += 1
            assert str(error).startswith("config key "), (key, value)
            assert str(error).isprintable(), (key, value)
            assert len(str(error)) < 500, (key, value)
    assert told > len(keys) * len(ODD) / 2


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
