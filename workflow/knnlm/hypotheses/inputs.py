"""What the steps of the hypotheses share: the stored files they may read, and how their components are written.

A hypothesis is one entry of the config and one step: a module with `NEEDS`, the stored things it reads, and `components(inputs)`, which yields
a Result for every component. `CONTRIBUTING.md` has a whole example.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knnlm.components.catalogue import Component
from knnlm.components.columns import GRID_STEP, checkpoint_of, find_component, load_components
from knnlm.components.interpolation import count_words, interpolate, optimal_weight, perplexity
from knnlm.components.temperature import tune_temperature
from knnlm.corpus.text import EVALUATED as SPLITS
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.hypotheses import kept_results
from knnlm.running.devices import Job
from knnlm.storage.files import check_same_model, identity_name, load_array, read_manifest
from knnlm.storage.seals import verified

if TYPE_CHECKING:
    import faiss

KEPT = "results"  # where, among what survives a crash, finished components are kept until the step ends


@dataclass(frozen=True)
class Result:
    """A component, its log p of the gold tokens for each split, float32 (n,) in nats, and what else was measured of it, by name."""

    component: Component
    log_p: dict[str, np.ndarray]
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """Where the stored files of a run are: tokens and the base LM for every hypothesis, the rest where its `NEEDS` names it.

    Files of splits stand in the order valid, test; those of chunks in the order of the chunks.
    """

    tokens: Sequence[Path] = ()
    continuation: Path | None = None
    base: Path | None = None  # description file of the base LM as a component
    states: Path | None = None  # manifest of the evaluation states
    chunks: Sequence[Path] = ()  # manifests of the datastore's chunks
    model: Path | None = None
    dictionary: Path | None = None
    neighbours: Sequence[Path] = ()  # manifests of the main retrieval, exact and approximate
    components: Sequence[Path] = ()  # description files of the kNN components
    trained: Path | None = None  # the main retrieval's index, before and after rows were added
    filled: Sequence[Path] = ()
    training_neighbours: Sequence[Path] = ()  # manifests of the training positions' neighbours
    corpus: Path | None = None  # folder of the corpus, for trainings
    code: Sequence[Path] = ()  # files of the library that the step runs


@dataclass
class Inputs:
    """The stored files of a run, each read when it is first asked for.

    A hypothesis may read what its `NEEDS` names, and always the tokens and the base LM.
    """

    config: dict  # the part that the hypothesis sees
    stored: Stored
    job: Job = field(default_factory=Job)
    checkpoints: Path | None = None  # folder that survives a crash
    family: str = ""

    def __post_init__(self) -> None:
        """Name the parts of the config."""
        given = self.config
        self.settings: dict = given["settings"]
        self.hypothesis: str = given["hypothesis"]
        self.seed: int = given["seed"]
        self.main: dict = given.get("main", {})
        self.temperature: dict = given.get("temperature", {})
        self.retrieval: dict = given.get("retrieval", {})
        self.index: dict = given.get("index", {})
        self.run_facts: dict[str, float] = {}

    @cached_property
    def device(self) -> str:
        """The torch device of this step."""
        return self.job.device

    @cached_property
    def continuation(self) -> np.ndarray:
        """Whether a piece ends in `@@`, bool (V,)."""
        return np.asarray(load_array(self.stored.continuation, dtype="bool"))

    @cached_property
    def gold(self) -> dict[str, np.ndarray]:
        """The tokens of each split, int32 (n,)."""
        return {
            split: np.asarray(load_array(path, dtype="int32"))
            for split, path in zip(SPLITS, self.stored.tokens, strict=True)
        }

    @cached_property
    def words(self) -> dict[str, int]:
        """The number of words of each split."""
        return {split: count_words(gold, self.continuation) for split, gold in self.gold.items()}

    @cached_property
    def checkpoint(self) -> str:
        """The base LM's identity: nothing that was made with another LM is read."""
        return checkpoint_of(self.stored.base)

    @cached_property
    def log_p_base(self) -> dict[str, np.ndarray]:
        """The base LM's log p of the gold tokens, float32 (n,) in nats."""
        return {
            split: np.array(load_components(self.stored.base, split, len(gold), self.checkpoint)[0][1])
            for split, gold in self.gold.items()
        }

    @cached_property
    def store(self) -> Datastore:
        """The datastore (needs `datastore`)."""
        store = open_datastore(self.stored.chunks)
        check_same_model(store.manifest, store.checkpoint, self.stored.base, self.checkpoint)
        return store

    @cached_property
    def model(self) -> Path:
        """The base LM's file (needs `model`)."""
        read_manifest(self.stored.base, checkpoint=verified(self.stored.model))
        return self.stored.model

    @cached_property
    def output_embedding(self) -> np.ndarray:
        """The base LM's output embedding W_sm, float32 (V, width) (needs `model`)."""
        from knnlm.language_model.transformer import output_embedding

        return output_embedding(self.model)

    def queries(self, split: str, h: str) -> np.ndarray:
        """Return the evaluation states of a split, float32 (n, width) (needs `states`)."""
        facts = read_manifest(self.stored.states, kind="evaluation states")
        check_same_model(self.stored.states, facts["checkpoint"], self.stored.base, self.checkpoint)
        shape = (len(self.gold[split]), facts["width"])
        return np.asarray(
            load_array(self.stored.states.parent / f"{split}.{h}.npy", dtype="float16", shape=shape), dtype=np.float32
        )

    def trained_index(self) -> "faiss.IndexIVF":
        """Return the main retrieval's index without rows (needs `datastore` and `index`)."""
        from knnlm.datastore.index import open_trained

        return open_trained(self.stored.trained, **self.main, width=self.store.width, checkpoint=self.checkpoint)

    def search_index(self) -> "faiss.IndexIVF":
        """Return the main retrieval's index over the whole store, ready to be searched (needs `datastore` and `index`)."""
        from knnlm.datastore.index import join_indexes, open_filled

        filled = open_filled(self.stored.filled, self.stored.trained, self.store, **self.main)
        index = join_indexes(self.trained_index(), filled, self.store.chunks, 0.0, 1.0, self.stored.filled[0].parent)
        index.nprobe = self.index["nprobe"]
        return index

    def neighbours(self, split: str, search: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the main retrieval's ids, int32 (n, k), and similarities, float32 (n, k), in the whole store, memory-mapped (needs `neighbours`).

        `search` is `approximate` (FAISS's scores) or `exact` (real ones).
        """
        expected = {"kind": "neighbours", **self.main, "k": self.retrieval["k"], "checkpoint": self.checkpoint}
        expected |= {"store": self.store.identity} if self.stored.chunks else {}
        folders = {
            manifest["search"]: path.parent
            for path in self.stored.neighbours
            for manifest in [read_manifest(path, **expected)]
        }
        shape = (None, len(self.gold[split]), self.retrieval["k"])
        ids = load_array(folders[search] / f"{split}.ids.npy", dtype="int32", shape=shape)
        return ids[-1], load_array(folders[search] / f"{split}.similarities.npy", dtype="float32", shape=shape)[-1]

    def stored_component(self, name: str) -> Result:
        """Return a component that was made before, such as `knn-att-l2-exact-real` (needs `components`)."""
        sizes = {split: len(gold) for split, gold in self.gold.items()}
        return Result(*find_component(self.stored.components, name, sizes, self.checkpoint))

    def usable(self, setting: str, fits: Callable[[int | None], bool], why: str) -> list[int | None]:
        """Return the values of a list in the settings that fit this run; the job's log says which are left out and why.

        A list that stands in config/hypotheses.yaml is for large runs and small ones.
        """
        values = self.settings[setting]
        if left_out := [str(value) for value in values if not fits(value)]:
            print(
                f"hypotheses.{self.hypothesis}.settings.{setting}: {', '.join(left_out)} left out, as {why}", flush=True
            )
        return [value for value in values if fits(value)]

    def component(self, name: str, **fields: object) -> Component:
        """Return the description of a component of this hypothesis, `<hypothesis>-<name>`; `fields` as in Component."""
        return Component(f"{self.hypothesis}-{name}", self.family, hypothesis=self.hypothesis, **fields)

    @cached_property
    def shaping_facts(self) -> dict:
        """What shapes the components: settings, code and the files that are read; the corpus is known by the files that were made of it."""
        return kept_results.shaping_facts(self.config, self.stored, without=("corpus",))

    def kept(self, name: str, make: Callable[[], Result]) -> Result:
        """Return what `make` returns, and keep it until the step has ended: an attempt that follows one which was cut off does not make it again.

        For what takes long. `name` is that of the component; nothing else than it, the settings, the code and the files read may shape the result.
        """
        folder = self.checkpoints / KEPT / identity_name([name, self.shaping_facts])
        if found := kept_results.kept(folder, SPLITS):
            print(f"{name}: kept from an attempt that was cut off", flush=True)
            return Result(*found)
        result = make()
        kept_results.keep(folder, result.component, result.log_p, result.facts)
        return result

    def loss(self, log_p: np.ndarray) -> float:
        """Return valid's nats per token when the base LM is interpolated with `log_p`, float (n,), at the best λ: what is tuned for."""
        base = self.log_p_base["valid"]
        return -float(interpolate(base, log_p, optimal_weight(base, log_p)).mean())

    def tuned(self, component: Component, log_p_at: Callable[[str, float], np.ndarray], **facts: float) -> Result:
        """Return the component at the temperature that is best on valid; `log_p_at(split, temperature)` gives log p of the gold tokens."""
        low, high = self.temperature["low"], self.temperature["high"]
        grid = self.temperature["grid"][::GRID_STEP]
        temperature, status = tune_temperature(
            lambda temperature: self.loss(log_p_at("valid", temperature)), grid, low, high
        )
        return Result(
            component.tuned(temperature, status), {split: log_p_at(split, temperature) for split in SPLITS}, facts
        )


def reported(result: Result, inputs: Inputs) -> Result:
    """Show a component as it comes, in the job's log: its perplexity on valid alone and beside the base LM."""
    log_p, base = result.log_p["valid"], inputs.log_p_base["valid"]
    weight = optimal_weight(base, log_p)
    alone, mixed = (perplexity(column, inputs.words["valid"]) for column in (log_p, interpolate(base, log_p, weight)))
    print(
        f"{result.component.component}: word perplexity on valid {alone:.2f} alone, {mixed:.2f} with the base LM at λ = {weight:.3f}",
        flush=True,
    )
    return result
