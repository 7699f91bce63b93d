"""Fresh LMs trained on the base LM's distribution, on the kNN-LM's, and on the text (docs/paper.md#soft-labels).

The LM trained on hard labels is the base LM itself: the same seed, data and updates give the same LM. With
`lm.training.patience` each of the three ends by its own loss on valid.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knnlm.components.catalogue import main_name
from knnlm.components.interpolation import optimal_weight
from knnlm.hypotheses.inputs import Inputs, Result, Results
from knnlm.hypotheses.lm_training import Training, lm_component
from knnlm.language_model import soft_targets
from knnlm.language_model.training import PLUGIN
from knnlm.language_model.transformer import read_model
from knnlm.storage.arrays import load_array, new_array
from knnlm.storage.manifests import identity_name, read_manifest, sha256, verified, write_manifest

if TYPE_CHECKING:  # fairseq runs this module; the import tells the workflow that its code matters
    from fairseq_plugin import soft_labels  # noqa: F401

NEEDS = ("training", "model", "datastore", "training_neighbours", "components")
SETTINGS = {"k": "neighbours", "nprobe": "lists"}
WORK = {"neighbours": "k", "lists": "nprobe", "trainings": "2"}
CODE = PLUGIN / "soft_labels.py", Path(soft_targets.__file__)  # what fairseq loads beside the architecture
ARRAYS = {"values": "int32", "weights": "float16"}  # of the neighbours, (1, tokens, k) by position


def write_neighbours(inputs: Inputs, temperature: float, files: dict[str, Path]) -> None:
    """Join the chunks' neighbours of every training position in `files`, one for each of ARRAYS, with one in memory."""
    store, k = inputs.store, inputs.settings["k"]
    with ExitStack() as stack:
        arrays = {name: new_array(files[name], dtype, (1, store.rows, k)) for name, dtype in ARRAYS.items()}
        write = {name: stack.enter_context(array) for name, array in arrays.items()}
        for path, chunk in zip(inputs.stored.training_neighbours, store.chunks, strict=True):
            place = {"checkpoint": store.checkpoint, "first_position": chunk.first_position}
            read_manifest(path, kind="training neighbours", k=k, **place, **inputs.main)
            values = load_array(path.parent / "values.npy", "int32", (chunk.rows, k))
            similarities = load_array(path.parent / "similarities.npy", "float32", (chunk.rows, k))
            weights = soft_targets.neighbour_weights(np.asarray(similarities), temperature)
            write["values"](0, chunk.first_position, values)
            write["weights"](0, chunk.first_position, weights)


def trained(inputs: Inputs, knn_weight: float, neighbours: dict[str, Path], starts_from: dict) -> Training:
    """Train an LM on soft labels: the base LM's recipe and seed, another criterion."""
    dictionary, train_tokens = inputs.stored.dictionary, inputs.stored.corpus / "tokens" / "train.npy"
    read_model(inputs.model, dictionary)  # fairseq would tell a fault of these files with a traceback
    for path in (train_tokens, *neighbours.values()):
        verified(path)
    teacher = {"teacher-model": inputs.model, "teacher-dictionary": dictionary}
    options = {"criterion": "soft_labels", **teacher, "knn-weight": knn_weight}
    options |= {f"neighbour-{name}": path for name, path in neighbours.items()} | {"train-tokens": train_tokens}
    identity = {**starts_from, "knn_weight": knn_weight, "teacher": [sha256(inputs.model)]}
    training = Training(inputs, inputs.seed, {}, identity, CODE)
    training.run(training.training["updates"], "fairseq_plugin.soft_labels", options)
    return training


def components(inputs: Inputs) -> Results:
    """Yield `hard`, `base` and `knn`: what each kind of labels makes of the same LM."""
    yield Result(inputs.component("hard"), inputs.log_p_base)
    knn = inputs.stored_component(main_name(inputs.main, "approximate-faiss"))
    knn_weight, temperature = optimal_weight(inputs.log_p_base["valid"], knn.log_p["valid"]), knn.component.temperature
    found = {"temperature": temperature, "code": [sha256(CODE[1])]}
    found |= {"neighbours": [read_manifest(path)["files"] for path in inputs.stored.training_neighbours]}
    name = identity_name(found)
    files = {part: inputs.checkpoints / f"neighbours-{name}.{part}.npy" for part in ARRAYS}
    manifest = inputs.checkpoints / f"neighbours-{name}.json"
    if not all(path.exists() for path in (manifest, *files.values())):
        write_neighbours(inputs, temperature, files)
        write_manifest(manifest, files.values(), kind="soft labels")
    for label, weight, neighbours, starts_from in (("base", 0.0, {}, {}), ("knn", knn_weight, files, found)):
        training = trained(inputs, weight, neighbours, starts_from)
        facts = {"valid_loss": training.best_valid_loss(), "lambda": weight}
        facts |= {"temperature": temperature} if neighbours else {}
        yield lm_component(inputs, label, training.export("checkpoint_best.pt"), facts)
