"""The binary format by hand-worked ids, through the step's command line and fairseq's own tool."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_128_hexdigest

import knnlm
from knnlm.corpus import binary
from knnlm.errors import KnnlmError
from knnlm.steps import check_size
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

DICTIONARY = (
    "the 5\nlow@@ 3\ner 2\né 1\n@-@ 0\nmadeupword0000 0\nmadeupword0001 0\nmadeupword0002 0\nmadeupword0003 0\n"
)
PIECES = {
    "train": "the low@@ er\n\né the @-@ <unk>\nlow@@ low@@ er\n",
    "valid": "the\nabsent the\n",
    "test": "\nlow@@ er\n",
}
TOKENS = {"train": [4, 5, 6, 2, 2, 7, 4, 8, 3, 2, 5, 5, 6, 2], "valid": [4, 2, 3, 4, 2], "test": [2, 5, 6, 2]}
LINES = {"train": [0, 4, 5, 10, 14], "valid": [0, 2, 5], "test": [0, 1, 4]}
LINE_DOCUMENTS = {"train": [0, 2, 4], "valid": [0, 1, 2], "test": [0, 2]}
DOCUMENTS = {"train": [0, 5, 14], "valid": [0, 2, 5], "test": [0, 4]}


def run(folder: Path) -> subprocess.CompletedProcess:
    """Write the inputs to `folder` and run the step as a rule does, outputs below `folder`/out."""
    (folder / "dictionary.txt").write_text(DICTIONARY)
    command = [sys.executable, "-m", "knnlm.steps", "binarise", "--dictionary", str(folder / "dictionary.txt")]
    for split, pieces in PIECES.items():
        (folder / f"{split}.txt").write_text(pieces)
        save_array(folder / f"{split}.npy", np.array(LINE_DOCUMENTS[split]))
    out = folder / "out"
    write_manifest(
        folder / "pieces.json",
        [folder / "dictionary.txt", *(folder / f"{split}.txt" for split in PIECES)],
        kind="pieces",
    )
    write_manifest(folder / "manifest.json", [folder / f"{split}.npy" for split in PIECES], kind="text")
    command += ["--of-pieces", str(folder / "pieces.json"), "--of-texts", str(folder / "manifest.json")]
    command += ["--pieces", *(str(folder / f"{split}.txt") for split in PIECES)]
    command += ["--line-documents", *(str(folder / f"{split}.npy") for split in PIECES)]
    command += [
        "--binary",
        *(str(out / "binary" / f"{split}.{end}") for split in PIECES for end in ("bin", "idx")),
        str(out / "binary/dict.txt"),
    ]
    for option, name in {"tokens": "{}.npy", "lines": "{}.lines.npy", "documents": "{}.documents.npy"}.items():
        command += [f"--{option}", *(str(out / "tokens" / name.format(split)) for split in PIECES)]
    command += ["--continuation", str(out / "tokens/continuation.npy"), "--manifest", str(out / "tokens/manifest.json")]
    environment = os.environ | {"PYTHONPATH": str(Path(knnlm.__file__).parent.parent)}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The step's output folder; fairseq's tool runs once for all tests here."""
    folder = tmp_path_factory.mktemp("a,b")  # fairseq splits paths at commas
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.parametrize("split", PIECES)
def test_arrays(made, split):
    for name, values, dtype in [
        ("", TOKENS, np.int32),
        (".lines", LINES, np.int64),
        (".documents", DOCUMENTS, np.int64),
    ]:
        array = np.load(made / "tokens" / f"{split}{name}.npy")
        assert array.dtype == dtype
        assert array.tolist() == values[split]
    assert np.fromfile(made / "binary" / f"{split}.bin", dtype=np.uint16).tolist() == TOKENS[split]


def test_dictionary_and_continuation(made):
    assert (made / "binary/dict.txt").read_text() == DICTIONARY
    continuation = np.load(made / "tokens/continuation.npy")
    assert continuation.dtype == bool
    assert np.flatnonzero(continuation).tolist() == [5]
    assert len(continuation) == 13


def test_manifest(made):
    manifest = json.loads((made / "tokens/manifest.json").read_text())
    assert manifest["vocabulary_size"] == 13
    assert manifest["tokens"] == {"train": 14, "valid": 5, "test": 4}
    assert manifest["words"] == {"train": 11, "valid": 5, "test": 3}
    assert manifest["documents"] == {"train": 2, "valid": 2, "test": 1}
    assert manifest["unknown"] == {"train": 1, "valid": 1, "test": 0}
    content = DICTIONARY.encode()
    known = {"bytes": len(content), "xxh3_128": xxh3_128_hexdigest(content)}
    assert manifest["files"]["../../dictionary.txt"] == manifest["files"]["../binary/dict.txt"] == known
    assert len(manifest["files"]) == 18  # ten arrays, seven files of fairseq's and the dictionary


def test_only_declared_files_are_left(made):
    declared = ["dict.txt", *(f"{split}.{end}" for split in PIECES for end in ("bin", "idx"))]
    assert {path.name for path in (made / "binary").iterdir()} == {".lock", *declared}
    assert len(list((made / "tokens").iterdir())) == 11


def test_why_fairseqs_tool_has_failed_is_told_and_its_traceback_kept_beside_the_log(tmp_path, monkeypatch, capsys):
    """A dictionary that has a piece twice, which fairseq refuses."""
    monkeypatch.setenv("KNNLM_LOG", str(tmp_path / "binarise.log"))
    (tmp_path / "binary").mkdir()
    dictionary, kept = tmp_path / "dictionary.txt", tmp_path / "binarise.output.txt"
    dictionary.write_text("the 5\nthe 4\n")
    for split, pieces in PIECES.items():
        (tmp_path / split).write_text(pieces)
    with pytest.raises(KnnlmError) as caught:
        binary.preprocess([str(tmp_path / split) for split in PIECES], str(dictionary), tmp_path / "binary", 1)
    sentence = str(caught.value)
    assert sentence.startswith(
        f"{dictionary}: fairseq-preprocess ended with status 1: RuntimeError: Duplicate word found when loading "
        "Dictionary: 'the'"
    )
    assert sentence.endswith(f"; see {kept} for what else it said.")
    assert sentence.isprintable()
    assert "Traceback" in kept.read_text()
    assert capsys.readouterr() == ("", "")


def sample_of(tokens: int) -> dict:
    return {"lm": {"architecture": {"width": 4}, "training": {"tokens_per_sample": tokens}}}


@pytest.mark.parametrize(
    ("stage", "fits", "too_much", "sentence"),
    [
        ("training", sample_of(14), sample_of(15), "lm.training.tokens_per_sample: a sample of 15 tokens is too long"),
        (
            "retrieval",
            {"retrieval": {"k": 7}},
            {"retrieval": {"k": 8}},
            "retrieval.k: 8 is more than the 7 rows of the smallest store",
        ),
        (
            "index",
            {"index": {"factory": "IVF14,Flat"}},
            {"index": {"factory": "IVF15,Flat"}},
            "index.factory: IVF15,Flat needs 15 rows to train",
        ),
        (
            "datastore",
            {"datastore": {"chunks": 3}},
            {"datastore": {"chunks": 4}},
            "datastore.chunks: 4 is more than the 3 windows of the training text",
        ),
    ],
)
def test_what_the_counted_tokens_are_too_few_for_is_refused(made, stage, fits, too_much, sentence):
    environment = os.environ | {"PYTHONPATH": str(Path(knnlm.__file__).parent.parent)}
    common = {"fractions": [0.5, 1.0], "lm": {"architecture": {"width": 4}}, "windows": {"train": {"new": 5}}}
    for settings, status in ((fits, 0), (too_much, 1)):
        command = [
            sys.executable,
            "-m",
            "knnlm.steps",
            "check_size",
            "--stage",
            stage,
            "--settings",
            json.dumps(common | settings),
        ]
        done = subprocess.run(
            [*command, "--manifest", made / "tokens/manifest.json"],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == status
    assert done.stderr.startswith(f"Error: config key {sentence}")
    assert "the training text has 14 BPE tokens" in done.stderr


def test_tokens_that_are_given_and_wrong_are_said_once(made, capsys):
    settings = {"fractions": [1.0], "retrieval": {"k": 1}, "lm": {"training": {"tokens_per_sample": 5}}}
    counted = list(json.loads((made / "tokens/manifest.json").read_text())["tokens"].values())
    for given, said in (((), 0), (counted, 0), ([counted[0] + 1, *counted[1:]], 1)):
        for stage in ("training", "retrieval"):
            check_size.main(stage, settings, made / "tokens/manifest.json", given)
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == said
    assert warnings[0].startswith("Warning: config key corpus.token_counts: train 15 given, 14 counted; ")


def test_what_a_killed_attempt_has_left_is_removed(tmp_path):
    (tmp_path / ".unfinished.old").mkdir()
    (tmp_path / ".unfinished.old" / "train.bin").write_bytes(b"half")
    with binary.unfinished_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".lock", folder.name}
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}
