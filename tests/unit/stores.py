"""Stores for the tests of both searches, and what brute force finds in them; a corpus for those of trainings."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from knnlm.datastore.shuffle import prefix_rows
from knnlm.datastore.store import Chunk, Datastore
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

FRACTIONS = [0.05, 0.3, 0.5, 1.0]
RANDOM = np.random.default_rng(5)
QUERIES = RANDOM.standard_normal((37, 12)).astype(np.float32)
KEYS = RANDOM.standard_normal((900, 12)).astype(np.float16)


def make_store(folder, keys, chunks):
    made, first = [], 0
    for number, part in enumerate(np.array_split(keys, chunks)):
        path = Path(folder) / f"chunk-{number}"
        path.mkdir(parents=True)
        save_array(path / "att.npy", part)
        write_manifest(path / "manifest.json", [path / "att.npy"])
        made.append(Chunk(path, len(part), keys.shape[1], first))
        first += len(part)
    return Datastore(tuple(made), "abc")


def true_similarities(queries, keys, metric):
    queries, keys = queries.astype(np.float64), keys.astype(np.float64)
    return queries @ keys.T if metric == "ip" else -((queries[:, None] - keys[None]) ** 2).sum(2)


def brute_force(similarity, k):
    """Ids and similarities of the k best rows, best first; of rows that tie the first."""
    ids = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int32), np.take_along_axis(similarity, ids, 1)


def rows_of(store, fraction):
    return np.concatenate(
        [chunk.first_position + np.arange(prefix_rows(fraction, chunk.rows)) for chunk in store.chunks]
    )


def check(found, similarity, rows, k):
    """Check a result against the similarities of all rows, float64 (n, rows); only those in `rows` may be found."""
    ids, similarities = found
    have = min(k, len(rows))
    assert ids.dtype == np.int32
    assert similarities.dtype == np.float32
    assert ids.shape == similarities.shape == (len(similarity), k)
    assert (ids[:, have:] == -1).all()
    assert np.isneginf(similarities[:, have:]).all()
    assert np.isin(ids[:, :have], rows).all()
    assert all(len(set(row)) == have for row in ids[:, :have])
    best = -np.sort(-similarity[:, rows], axis=1)[:, :have]
    np.testing.assert_allclose(similarities[:, :have], best, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        np.take_along_axis(similarity, ids[:, :have].astype(np.int64), 1), best, rtol=1e-5, atol=1e-4
    )
    assert (np.diff(similarities[:, :have], axis=1) <= 0).all()


def check_prefixes(snapshots, folder, k):
    """Check that `snapshots(store, fractions)` finds in a fraction what it finds in a store of these rows alone."""
    store = make_store(folder / "whole", KEYS, 3)
    for fraction, ids, similarities in snapshots(store, FRACTIONS):
        rows = rows_of(store, fraction)
        part = make_store(folder / str(fraction), KEYS[rows], 1)
        ((_, alone, alone_similarities),) = snapshots(part, [1.0])
        assert ids.shape == (len(QUERIES), k)
        np.testing.assert_allclose(similarities, alone_similarities, rtol=1e-5, atol=1e-5)
        assert (
            np.mean(ids == np.where(alone >= 0, rows[alone], -1)) > 0.99
        )  # rows whose similarities are equal may change places


def known(*paths):
    """Write a manifest beside each file that knows it, as the steps do for what they write, and return the paths."""
    for path in map(Path, paths):
        write_manifest(path.with_suffix(".json"), [path])
    return paths


def fairseq_corpus(folder: Path) -> Path:
    """Write a random corpus of 60 pieces in fairseq's binary format, made by fairseq, and return its folder."""
    generator = np.random.default_rng(0)
    (folder / "dict.txt").write_text("".join(f"p{number} 1\n" for number in range(60)))
    for split, lines in (("train", 400), ("valid", 30)):
        rows = (" ".join(f"p{piece}" for piece in generator.integers(0, 60, 12)) for _ in range(lines))
        (folder / split).write_text("\n".join(rows) + "\n")
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "--only-source", "--srcdict", folder / "dict.txt"]
    command += ["--trainpref", folder / "train", "--validpref", folder / "valid", "--destdir", folder / "binary"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "binary"
