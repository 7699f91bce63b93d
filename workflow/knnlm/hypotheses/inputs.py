"""What a hypothesis may read, by name, and how it describes and tunes what it makes.

A hypothesis is one entry of the config and one module: its `NEEDS` names the stored things it reads, and its
`components(inputs)` yields a Result for every component. `CONTRIBUTING.md` has a whole example.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knnlm.components.catalogue import BASE, Component, missing_line
from knnlm.components.columns import checkpoint_of, find_component
from knnlm.components.interpolation import count_words
from knnlm.components.knn import Neighbours, knn_scorer, missing_share
from knnlm.components.temperature import first_tried, mixed_loss, tuned
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.hypotheses.results import KEPT, Fact, Result, keep, kept
from knnlm.hypotheses.results import Results as Results  # modules of hypotheses import all they need from here
from knnlm.running.devices import Job
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import check_same_model, content_hash, identity_name, read_manifest, verified

if TYPE_CHECKING:
    import faiss

MASKS = {"exact": "real", "approximate": "faiss"}  # how the main retrieval's neighbours are found, and scored alike
SEARCHED = {"exact": "real mask, real score", "approximate": "FAISS mask, FAISS score"}  # the same as names of curves


@dataclass(frozen=True)
class Stored:
    """Where the stored files of a run are: tokens and base LM for every hypothesis, the rest where `NEEDS` names it.

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
    trained: Path | None = None  # the main retrieval's index before rows were added
    filled: Sequence[Path] = ()  # and after
    training_neighbours: Sequence[Path] = ()  # manifests of the training positions' neighbours
    corpus: Path | None = None  # folder of the corpus, for trainings
    code: Sequence[Path] = ()  # files of the library that the step runs

    def identity(self) -> dict[str, list[str]]:
        """Return the hashes of the files by field; the files made of it tell the corpus."""
        found = {name: value for name, value in vars(self).items() if name != "corpus" and value}
        found = {name: [value] if isinstance(value, Path) else value for name, value in found.items()}
        return {name: [content_hash(path) for path in paths] for name, paths in found.items()}


@dataclass
class Inputs:
    """What a hypothesis may read: its entry, and by its `NEEDS` parts of the config and stored files."""

    hypothesis: str
    settings: dict  # the entry's own
    seed: int
    stored: Stored = field(default_factory=Stored)
    family: str = ""
    main: dict = field(default_factory=dict)  # h and metric of the main retrieval
    retrieval: dict = field(default_factory=dict)
    index: dict = field(default_factory=dict)
    temperature: dict = field(default_factory=dict)
    lm: dict = field(default_factory=dict)
    windows: dict = field(default_factory=dict)
    job: Job = field(default_factory=Job)
    checkpoints: Path = Path()  # folder that survives a crash
    run_facts: dict[str, float] = field(default_factory=dict)  # what is measured of no single component, for the step

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
        files = dict(zip(EVALUATED, self.stored.tokens, strict=True))
        return {split: np.asarray(load_array(path, dtype="int32")) for split, path in files.items()}

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
        return self._found([self.stored.base], BASE.component).log_p

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
        states = load_array(self.stored.states.parent / f"{split}.{h}.npy", dtype="float16", shape=shape)
        return np.asarray(states, dtype=np.float32)

    def trained_index(self) -> "faiss.Index":
        """Return the main retrieval's index without rows (needs `datastore` and `index`)."""
        from knnlm.datastore.index import open_trained

        return open_trained(self.stored.trained, **self.main, width=self.store.width, checkpoint=self.checkpoint)

    def search_index(self) -> "faiss.Index":
        """Return the main retrieval's index over the whole store, to be searched (needs `datastore`, `index`)."""
        from knnlm.datastore.index import join_indexes, open_filled
        from knnlm.datastore.placing import ivf_of

        filled = open_filled(self.stored.filled, self.stored.trained, self.store, **self.main)
        index = join_indexes(self.trained_index(), filled, self.store.chunks, 0.0, 1.0, self.stored.filled[0].parent)
        ivf_of(index).nprobe = self.index["nprobe"]
        return index

    def neighbours(self, search: str) -> Neighbours:
        """Return the main retrieval's neighbours in the whole store, memory-mapped (needs `neighbours`).

        `search` is `approximate` (with FAISS's scores) or `exact` (with real ones).
        """
        k = self.retrieval["k"]
        expected = {"kind": "neighbours", **self.main, "k": k, "checkpoint": self.checkpoint}
        expected |= {"store": self.store.identity} if self.stored.chunks else {}
        folders = {read_manifest(path, **expected)["search"]: path.parent for path in self.stored.neighbours}
        found = {}
        for split, gold in self.gold.items():
            shape, place = (None, len(gold), k), folders[search]  # of all fractions of the store, the whole last
            ids = load_array(place / f"{split}.ids.npy", dtype="int32", shape=shape)[-1]
            found[split] = ids, load_array(place / f"{split}.similarities.npy", dtype="float32", shape=shape)[-1]
        return found

    def stored_component(self, name: str) -> Result:
        """Return a component that was made before, such as `knn-att-l2-exact-real` (needs `components`)."""
        return self._found(self.stored.components, name)

    def _found(self, files: Sequence[Path], name: str) -> Result:
        sizes = {split: len(gold) for split, gold in self.gold.items()}
        return Result(*find_component(files, name, sizes, self.checkpoint))

    def usable(self, setting: str, fits: Callable[[int | None], bool], why: str) -> list[int | None]:
        """Return those values of a setting that fit the size of this run; the log names the others."""
        values = self.settings[setting]
        if left_out := ", ".join(str(value) for value in values if not fits(value)):
            print(f"hypotheses.{self.hypothesis}.settings.{setting}: {left_out} left out, as {why}", flush=True)
        return [value for value in values if fits(value)]

    def component(self, name: str, **described: object) -> Component:
        """Return a component of this hypothesis, `<hypothesis>-<name>`; `described` are fields of Component."""
        return Component(f"{self.hypothesis}-{name}", self.family, hypothesis=self.hypothesis, **described)

    def tuned(self, component: Component, log_p_at: Callable[[str, float], np.ndarray], **facts: Fact) -> Result:
        """Return the component at the τ that is best on valid (needs `temperature`).

        `log_p_at(split, τ)` is log p of the gold tokens, float32 (n,) in nats.
        """
        loss = mixed_loss(partial(log_p_at, "valid"), self.log_p_base["valid"])
        component = tuned(component, loss, self.temperature)
        return Result(component, {split: log_p_at(split, component.temperature) for split in EVALUATED}, facts)

    def knn_component(
        self, name: str, search: str, found: Neighbours, values: np.ndarray,
        same: Component | None = None, **place: object,
    ) -> Result:  # fmt: skip
        """Return the kNN component that other neighbours than the stored ones give the main retrieval.

        `found` are the neighbours of both splits as `search` would find and score them, values: int32 (rows,) by id.
        The temperature is tuned, unless a component `same` has the same neighbours: then it is that one's.
        """
        described = {"mask": MASKS[search], "score": MASKS[search], "k": found["valid"][0].shape[1]}
        described |= {"missing": missing_share(found)}
        component = self.component(name, **self.main, fraction=1.0, rows=len(values), **described, **place)
        if line := missing_line(component):
            print(f"warning: {line}", flush=True)
        ahead = {"valid": [first_tried(self.temperature)]} if same is None else {}
        log_p_at = knn_scorer(found, values, self.gold, self.device, ahead)
        if same is None:
            return self.tuned(component, log_p_at)
        component = component.tuned(same.temperature, same.temperature_status)
        return Result(component, {split: log_p_at(split, same.temperature) for split in EVALUATED})

    @cached_property
    def identity(self) -> dict:
        """What shapes the components: the parts of the config, and the content of the code and the files read."""
        beside = ("stored", "job", "checkpoints", "run_facts")
        config = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in beside}
        return {"config": config, "files": self.stored.identity()}

    def kept(self, name: str, make: Callable[[], Result]) -> Result:
        """Return what `make` returns, and keep it until the step has ended: for what takes long.

        `name` is that of the component. Only the name, the settings, the code and the files read may shape the result.
        """
        folder = self.checkpoints / KEPT / identity_name([name, self.identity])
        if found := kept(folder):
            print(f"{name}: kept from an attempt that was cut off", flush=True)
            return found
        keep(folder, result := make())
        return result
