"""Every kind of stored file, cut short and with flipped bits.

The step that reads it names it in one sentence, and remaking it gives the same bytes.
"""

import io
import json
import os
import re
import shlex
import shutil
import time
from importlib import import_module
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from knnlm.analysis.tables import main_result
from knnlm.language_model.transformer import save_model
from knnlm.running.step import run as run_step
from knnlm.storage.manifests import SECONDS_OF_CHANGE, write_manifest

pytestmark = pytest.mark.slow

RUN = Path("results/tiny")
# By one output of the step that makes them: files, and an output of a step that reads each.
STORED = {
    "lm/model.pt": {"lm/model.pt": "states/manifest.json"},
    "states/manifest.json": {
        "states/test.att.npy": "neighbours/att-l2-exact/manifest.json",
        "components/base.valid.npy": "components/knn-att-l2-exact.json",
    },
    "datastore/chunk-1/manifest.json": {
        "datastore/chunk-1/att.npy": "neighbours/att-l2-exact/manifest.json",
        "datastore/chunk-1/values.npy": "components/knn-att-l2-exact.json",
        "datastore/chunk-1/manifest.json": "index/att-l2/trained.faiss",
    },
    "index/att-l2/trained.faiss": {
        "index/att-l2/trained.faiss": "index/att-l2/chunk-0.faiss",
        "index/att-l2/trained.json": "index/att-l2/chunk-1.faiss",
    },
    "index/att-l2/chunk-0.faiss": {"index/att-l2/chunk-0.faiss": "neighbours/att-l2-approximate/manifest.json"},
    "neighbours/ffn-ip-exact/manifest.json": {
        "neighbours/ffn-ip-exact/valid.ids.npy": "components/knn-ffn-ip-exact.json",
        "neighbours/ffn-ip-exact/test.similarities.npy": "components/knn-ffn-ip-exact.json",
    },
    "components/knn-ffn-ip-exact.json": {
        "components/knn-ffn-ip-exact.valid.npy": "tables/components.csv",
        "components/knn-ffn-ip-exact.json": "tables/components.csv",
        "components/knn-ffn-ip-exact.temperature.csv": "tables/components.csv",
    },
    "hypotheses/sparsification.json": {
        "hypotheses/sparsification.test.npy": "tables/components.csv",
        "hypotheses/sparsification.facts.csv": "tables/components.csv",
    },
}
# Files of the corpus; making them again takes fairseq's tool seconds.
CORPUS = {
    "corpus/text/train.txt": "corpus/tokenised/manifest.json",
    "corpus/text/valid.documents.npy": "corpus/tokens/manifest.json",
    "corpus/tokenised/valid.txt": "corpus/pieces/manifest.json",
    "corpus/pieces/test.txt": "corpus/tokens/manifest.json",
    "corpus/tokens/valid.npy": "states/manifest.json",
    "corpus/binary/train.bin": "lm/model.pt",
    "corpus/binary/train.idx": "hypotheses/second-seed.json",
    "corpus/dictionary.txt": "tables/helped_types.csv",
}
OLD = {
    "corpus/tokens/manifest.json": "lm/model.pt",
    "states/manifest.json": "neighbours/att-l2-exact/manifest.json",
    "datastore/chunk-0/manifest.json": "index/att-l2/chunk-0.faiss",
    "index/att-l2/trained.json": "index/att-l2/chunk-0.faiss",
    "index/att-l2/chunk-1.json": "neighbours/att-l2-approximate/manifest.json",
    "neighbours/att-l2-exact/manifest.json": "components/knn-att-l2-exact.json",
    "components/base.json": "tables/components.csv",
}


@pytest.fixture(scope="module")
def commands(finished):
    """The words of the command line of every step of `tiny`, and its number of threads, by each of its outputs."""
    listed, found = finished("hypotheses", "--dry-run", "--printshellcmds", "--forceall").stdout, {}
    for outputs, facts, command in re.findall(
        r"^ +output: (.*?)$(.*?)^Shell command: logged \S+ ([^\n]*)$", listed, flags=re.MULTILINE | re.DOTALL
    ):
        command = re.sub(r"\$\(dirname (\S+?)\)", lambda match: str(Path(match[1]).parent), command)
        threads = re.search(r"^ +threads: (\d+)$", facts, flags=re.MULTILINE)
        found |= dict.fromkeys(outputs.split(", "), (shlex.split(command), int(threads[1]) if threads else 1))
    return found


@pytest.fixture
def step(finished, tmp_path, monkeypatch, commands):
    """A function that does what the step with an output does, and returns the step's sentence, if any.

    It works in this process, in a copy of the finished run. The copy is one of links: everything in it is replaced,
    nothing written into, but for what a training keeps.
    """
    shutil.copytree(finished.folder / RUN, tmp_path / RUN, copy_function=os.link)
    for kept in (tmp_path / RUN / "lm/checkpoints", *(tmp_path / RUN / "hypotheses").glob("*.checkpoints")):
        shutil.rmtree(kept)
        shutil.copytree(finished.folder / kept.relative_to(tmp_path), kept)
    monkeypatch.chdir(tmp_path)

    def run(output: str, **changed: str) -> str | None:
        command, threads = commands[str(RUN / output)]
        words = [changed.get(word, word) for word in command]
        assert words[:3] == ["python", "-m", "knnlm.steps"]
        torch.set_num_threads(threads)  # rounding depends on it
        faiss.omp_set_num_threads(threads)
        try:
            run_step(import_module(f"knnlm.steps.{words[3]}").main, words[4:])
        except SystemExit as end:
            return end.code
        return None

    return run


def damaged(content: bytes, random: np.random.Generator) -> list[bytes]:
    """Return the content with a bit flipped, with another one flipped, and cut short, at random places."""
    made = []
    for _ in range(2):
        flipped = bytearray(content)
        flipped[random.integers(len(content))] ^= 1 << int(random.integers(8))
        made.append(bytes(flipped))
    return [*made, content[: random.integers(len(content))]]


def replace(path: Path, content: bytes) -> None:
    """Give a file other content; the finished run's file, to which it was a link, stays as it is."""
    path.unlink()
    path.write_bytes(content)


def assert_names(sentence: str | None, *named: Path) -> None:
    """Assert that a step ended in one sentence that names these files and says what to do."""
    assert sentence is not None
    assert sentence.startswith("Error: ")
    assert len(sentence.splitlines()) == 1
    assert re.search(r"delete .* and rerun", sentence)
    for path in named:
        assert str(path) in sentence


def assert_all_damage_is_named(path: Path, step, reader: str) -> None:
    content = path.read_bytes()
    for other in damaged(content, np.random.default_rng(len(content))):
        replace(path, other)
        assert_names(step(reader), path)
    replace(path, content)


@pytest.mark.parametrize("maker", STORED)
def test_a_damaged_file_is_named_and_its_step_makes_the_same_again(maker, step):
    for file, reader in STORED[maker].items():
        assert_all_damage_is_named(RUN / file, step, reader)
    before = {RUN / file: (RUN / file).read_bytes() for file in STORED[maker]}
    for path in before:
        path.unlink()
    assert step(maker) is None
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("file", CORPUS)
def test_a_damaged_corpus_is_named(file, step):
    assert_all_damage_is_named(RUN / file, step, CORPUS[file])


@pytest.mark.parametrize("file", OLD)
def test_a_manifest_of_an_older_version_is_named(file, step):
    facts = json.loads((RUN / file).read_text())
    replace(
        RUN / file,
        json.dumps({key: facts[key] for key in facts if key not in ("files", "sha256")} | {"format": 1}).encode(),
    )
    sentence = step(OLD[file])
    assert_names(sentence, RUN / file)
    assert "format is 1" in sentence


def test_a_datastore_of_another_checkpoint_is_named(step):
    model, states, store = (
        RUN / "lm/model.pt",
        RUN / "states/manifest.json",
        [RUN / f"datastore/chunk-{chunk}/manifest.json" for chunk in (0, 1)],
    )
    before = (store[0].parent / "att.npy").read_bytes()
    content = torch.load(model, weights_only=True)
    weights = {name: weight * 1.01 for name, weight in content["weights"].items()}
    save_model(
        "other.pt", content["architecture"], content["tokens_per_sample"], weights, RUN / "corpus/dictionary.txt"
    )
    write_manifest("other.json", ["other.pt"])
    assert step("datastore/chunk-1/manifest.json", **{str(model): "other.pt"}) is None
    assert_names(step("index/att-l2/trained.faiss"), store[1], store[0])
    assert step("datastore/chunk-0/manifest.json", **{str(model): "other.pt"}) is None
    assert (store[0].parent / "att.npy").read_bytes() != before
    assert_names(step("neighbours/att-l2-exact/manifest.json"), states, store[0])
    assert_names(step("index/att-l2/chunk-0.faiss"), RUN / "index/att-l2/trained.json")
    assert_names(step("components/knn-att-l2-exact.json"), RUN / "neighbours/att-l2-exact/manifest.json")
    assert_names(step("hypotheses/clustering.json"), store[0], RUN / "components/base.json")
    assert step("datastore/chunk-0/manifest.json") is None
    assert (store[0].parent / "att.npy").read_bytes() == before


def test_neighbours_of_another_store_of_the_same_checkpoint_are_named(step):
    manifest = RUN / "datastore/chunk-1/manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.unlink()
    facts["settings"]["windows"]["train"]["context"] = 16
    write_manifest(
        manifest,
        [manifest.parent / name for name in facts.pop("files")],
        **{key: facts[key] for key in facts if key != "format"},
    )
    assert_names(step("components/knn-att-l2-exact.json"), RUN / "neighbours/att-l2-exact/manifest.json")
    assert_names(step("neighbours/att-l2-approximate/manifest.json"), RUN / "index/att-l2/chunk-1.json")


@pytest.mark.parametrize(
    ("given", "taken", "fact"),
    [("att-ip", "att-l2", "metric is 'ip', but 'l2'"), ("att-l2", "ffn-l2", "h is 'att', but 'ffn'")],
)
def test_an_index_of_another_metric_or_of_other_keys_is_named(given, taken, fact, step):
    for path in (RUN / "index" / given).iterdir():
        replace(RUN / "index" / taken / path.name, path.read_bytes())
    for output in (f"index/{taken}/chunk-0.faiss", f"neighbours/{taken}-approximate/manifest.json"):
        sentence = step(output)
        assert_names(sentence, RUN / "index" / taken / "trained.json")
        assert fact in sentence


def test_files_of_a_group_that_were_exchanged_are_named(step):
    chunk = RUN / "datastore/chunk-0"
    replace(chunk / "ffn.npy", (chunk / "att.npy").read_bytes())
    assert_names(step("neighbours/ffn-l2-exact/manifest.json"), chunk / "ffn.npy", chunk / "manifest.json")


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("datastore/chunk-1/att.npy", "neighbours/att-l2-exact/manifest.json"),
        ("index/att-l2/chunk-1.faiss", "neighbours/att-l2-approximate/manifest.json"),
        ("corpus/pieces/test.txt", "corpus/tokens/manifest.json"),
    ],
)
def test_damage_between_two_steps_is_named_though_the_first_found_the_file_whole(file, reader, step):
    path = RUN / file
    replace(path, content := path.read_bytes())
    time.sleep(SECONDS_OF_CHANGE + 0.1)  # a younger file is not noted as whole
    assert step(reader) is None
    assert path.with_name(f".{path.name}.checked").exists()
    before, place = path.stat(), len(content) // 2
    with path.open("r+b") as opened:  # the same file still, of the same size, and of the same time
        opened.seek(place)
        opened.write(bytes([content[place] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_names(step(reader), path)


def test_a_damaged_checkpoint_is_not_resumed_from(step):
    """The last one is made again from its copy; the best one, from which the model is made, is named."""
    (folder,) = (RUN / "lm/checkpoints").iterdir()
    last, best, made = (
        folder / "checkpoint_last.pt",
        folder / "checkpoint_best.pt",
        [RUN / "lm/model.pt", RUN / "lm/loss.csv"],
    )
    whole, before = last.read_bytes(), [path.read_bytes() for path in made]
    for content in damaged(whole, np.random.default_rng(1)):
        last.write_bytes(content)
        assert step("lm/model.pt") is None
        assert last.read_bytes() == whole
        assert [path.read_bytes() for path in made] == before
    for content in damaged(best.read_bytes(), np.random.default_rng(2)):
        best.write_bytes(content)
        assert_names(step("lm/model.pt"), best, folder)


def test_what_the_sentence_says_leads_to_the_same_tables(finished, new_project):
    """Through Snakemake: a flipped bit is told; once the file is deleted, what needs it is made again."""
    project = new_project("damage")
    shutil.copytree(finished.folder / "results", project.folder / "results")
    shutil.copytree(finished.folder / ".snakemake", project.folder / ".snakemake")
    overlay = yaml.safe_load((project.folder / "config/tiny.yaml").read_text())
    hypotheses = yaml.safe_load((project.folder / "config/hypotheses.yaml").read_text())["hypotheses"]
    (project.folder / "config/main.yaml").write_text(
        json.dumps(overlay | {"hypotheses": {name: {"enabled": False} for name in hypotheses}})
    )
    path, before = RUN / "components/knn-att-l2-exact.test.npy", project.tables()
    content = bytearray((project.folder / path).read_bytes())
    content[len(content) // 2] ^= 1
    (project.folder / path).write_bytes(content)
    table = str(RUN / "tables/components.csv")
    done = project("--force", table, config="config/main.yaml", check=False)
    assert done.returncode != 0
    assert set(re.findall(r"^Error: .*$", done.stdout, flags=re.MULTILINE)) == {
        f"Error: {path}: not as it was when {RUN}/components/knn-att-l2-exact.json was written; "
        "delete it and rerun the step that makes it."
    }
    assert "Traceback" not in done.stdout
    (project.folder / path).unlink()
    project(table, config="config/main.yaml")
    after = project.tables()
    for name in ("temperature.csv", "lambda.csv", "datastore_size.csv"):
        assert after[name] == before[name]
    expected, found = (
        main_result(pd.read_csv(io.BytesIO(tables["components.csv"]), dtype=str)) for tables in (before, after)
    )
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False)
