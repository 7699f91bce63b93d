"""Stores of random keys with their index, and the two searches of them, in the sizes of a config's main retrieval."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch

from knnlm.components.catalogue import searched_fractions
from knnlm.datastore.factory import PQ_CENTROIDS, IndexFactory, parse_factory
from knnlm.datastore.index import fill_index, load_index, save_index, train_index
from knnlm.datastore.store import Chunk, Datastore
from knnlm.retrieval.approximate import approximate_search
from knnlm.retrieval.exact import exact_search
from knnlm.retrieval.top_k import Snapshot
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

SAMPLE_ROWS_PER_CENTROID = 40  # FAISS asks for 39 to train an index
WHOLE = (1.0,)  # of the store, without a stop at fractions
Found = tuple[np.ndarray, np.ndarray]  # ids int32 and similarities float32, (n, k) each


@dataclass(frozen=True)
class Index:
    """A trained, empty index, its copies with the rows of each chunk, and their folder."""

    trained: faiss.Index
    filled: list[faiss.Index]
    folder: Path


@dataclass(frozen=True)
class Retrieval:
    """What the main retrieval of a config searches for and with."""

    h: str
    metric: str
    k: int
    width: int
    fractions: tuple[float, ...]
    factory: str
    training_rows: int
    nprobe: int

    @classmethod
    def of(cls, config: dict) -> "Retrieval":
        """Read it from a config."""
        sizes = {"k": config["retrieval"]["k"], "width": config["lm"]["architecture"]["width"]}
        fractions = tuple(searched_fractions(config, **config["main"]))
        return cls(**config["main"], **sizes, fractions=fractions, **config["index"])

    @property
    def parsed_factory(self) -> IndexFactory:
        return parse_factory(self.factory, self.width)

    @property
    def least_rows(self) -> int:
        """Rows of the smallest store with enough of them for k neighbours at every fraction and to train the index."""
        return max(int(2 * self.k / self.fractions[0]), self.sample_rows)

    @property
    def sample_rows(self) -> int:
        """Rows on which the index is trained: no more than FAISS asks for, as a search is as fast with any number."""
        return min(self.training_rows, SAMPLE_ROWS_PER_CENTROID * max(self.parsed_factory.lists, PQ_CENTROIDS))

    def exact(self, store: Datastore, queries: np.ndarray, device: str, fractions: tuple[float, ...] = ()) -> Found:
        """Search exactly at these fractions, or the config's; return what is found in the largest."""
        wanted = list(fractions or self.fractions)
        return _last(exact_search(queries, store, self.h, self.metric, self.k, wanted, device))

    def approximate(
        self, store: Datastore, index: Index, queries: np.ndarray, device: str, fractions: tuple[float, ...] = ()
    ) -> Found:
        """Search with an index, as `exact` does without."""
        sizes = self.nprobe, self.k, list(fractions or self.fractions)
        return _last(approximate_search(queries, store, index.trained, index.filled, *sizes, device, index.folder))


def random_vectors(rows: int, width: int, seed: int | list[int]) -> np.ndarray:
    """Return normally distributed vectors, float16 (rows, width)."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return torch.randn(rows, width, generator=generator).half().numpy()


def random_queries(rows: int, width: int, seed: int) -> np.ndarray:
    """Return queries as they are read from stored states: float32 (rows, width), of float16's precision."""
    return random_vectors(rows, width, [seed, 2**31]).astype(np.float32)


def random_store(folder: Path, retrieval: Retrieval, rows: int, chunks: int, seed: int) -> Datastore:
    """Write a store of random keys, `rows` in each chunk, of the one kind that is searched, and open it."""
    for number in range(chunks):
        keys = random_vectors(rows, retrieval.width, [seed, number])
        path = folder / f"chunk-{number}" / f"{retrieval.h}.npy"
        save_array(path, keys)
        write_manifest(path.with_name("manifest.json"), [path])
    return opened_store(folder, retrieval, rows, chunks)


def opened_store(folder: Path, retrieval: Retrieval, rows: int, chunks: int) -> Datastore:
    """Open the first chunks of such a store."""
    found = [Chunk(folder / f"chunk-{place}", rows, retrieval.width, place * rows) for place in range(chunks)]
    return Datastore(tuple(found), checkpoint="random")


def write_trained(folder: Path, retrieval: Retrieval, store: Datastore, seed: int, device: str) -> None:
    """Train an index on the store and write it to `folder`."""
    sample = store.sample(retrieval.h, retrieval.sample_rows)
    _write(train_index(retrieval.factory, retrieval.metric, sample, seed, device), folder / "trained.faiss")


def write_filled(folder: Path, retrieval: Retrieval, store: Datastore, device: str) -> None:
    """Fill a copy of the trained index with each chunk of the store and write it."""
    for number, chunk in enumerate(store.chunks):
        index = _opened(folder / "trained.faiss", retrieval, 0)
        fill_index(index, [chunk], retrieval.h, device)
        _write(index, folder / f"filled-{number}.faiss")


def repeat_filled(folder: Path, retrieval: Retrieval, rows: int, chunks: int) -> None:
    """Write the filled index of the first chunk for all others, under their ids: filling takes longer than a search."""
    for number in range(1, chunks):
        index = _opened(folder / "trained.faiss", retrieval, 0)
        index.merge_from(faiss.read_index(str(folder / "filled-0.faiss")), number * rows)
        _write(index, folder / f"filled-{number}.faiss")


def opened_index(folder: Path, retrieval: Retrieval, store: Datastore) -> Index:
    """Open the index of a store as the workflow does."""
    sizes = {f"filled-{number}.faiss": chunk.rows for number, chunk in enumerate(store.chunks)}
    filled = [_opened(folder / name, retrieval, rows) for name, rows in sizes.items()]
    return Index(_opened(folder / "trained.faiss", retrieval, 0), filled, folder)


def _write(index: faiss.Index, path: Path) -> None:
    save_index(index, path)
    write_manifest(path.with_suffix(".json"), [path])


def _opened(path: Path, retrieval: Retrieval, rows: int) -> faiss.Index:
    return load_index(path, retrieval.metric, retrieval.width, rows)


def _last(snapshots: Iterable[Snapshot]) -> Found:
    """Return ids and similarities of the last snapshot of a search."""
    ((_, ids, similarities),) = deque(snapshots, maxlen=1)
    return ids, similarities
