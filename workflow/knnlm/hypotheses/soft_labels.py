"""A fresh LM trained on the base LM's distribution, and one on the kNN-LM's, against one trained on the text (the paper's soft-label hypothesis).

The LM trained on hard labels is the base LM itself: the same seed, data and number of updates give the same LM, so it is not trained again.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knnlm.components.catalogue import main_name
from knnlm.components.interpolation import optimal_weight
from knnlm.hypotheses.inputs import Inputs, Result
from knnlm.hypotheses.lm_training import Training, file_identity, log_p_of, parameters
from knnlm.language_model.fairseq_runs import identity_name
from knnlm.language_model.soft_targets import neighbour_weights
from knnlm.language_model.transformer import PLUGIN, read_model
from knnlm.storage.files import load_array, new_array, read_manifest
from knnlm.storage.seals import verified

if TYPE_CHECKING:  # it is fairseq that runs this; the workflow reads here that its code matters
    from fairseq_plugin import soft_labels  # noqa: F401

TARGETS = PLUGIN.parent / "knnlm/language_model/soft_targets.py"
NEEDS = ("training", "model", "datastore", "training_neighbours", "components")
SETTINGS = {"k": "neighbours", "nprobe": "lists"}
WORK = {"neighbours": "k", "lists": "nprobe"}


def write_neighbours(inputs: Inputs, temperature: float, files: dict[str, Path]) -> None:
    """Put the chunks' neighbours together, of every training position: values int32, weights float16 (1, tokens, k), by position.

    Memory: one chunk's neighbours.
    """
    store, k = inputs.store, inputs.settings["k"]
    with ExitStack() as open_files:
        write = {
            name: open_files.enter_context(new_array(files[name], dtype, (1, store.rows, k)))
            for name, dtype in (("values", "int32"), ("weights", "float16"))
        }
        for path, chunk in zip(inputs.stored.training_neighbours, store.chunks, strict=True):
            read_manifest(
                path,
                kind="training neighbours",
                checkpoint=store.checkpoint,
                first_position=chunk.first_position,
                k=k,
                **inputs.main,
            )
            values, similarities = (
                load_array(path.parent / f"{name}.npy", dtype, (chunk.rows, k))
                for name, dtype in (("values", "int32"), ("similarities", "float32"))
            )
            write["values"](0, chunk.first_position, values)
            write["weights"](0, chunk.first_position, neighbour_weights(np.asarray(similarities), temperature))


def trained(inputs: Inputs, knn_weight: float, neighbours: dict[str, Path], starts_from: dict) -> Training:
    """Train an LM on soft labels: the base LM's recipe and seed, another criterion."""
    dictionary, train_tokens = inputs.stored.dictionary, inputs.stored.corpus / "tokens" / "train.npy"
    read_model(inputs.model, dictionary)  # fairseq checks these files as well, but tells it with a traceback
    for path in (train_tokens, *neighbours.values()):
        verified(path)
    options = {
        "criterion": "soft_labels",
        "teacher-model": inputs.model,
        "teacher-dictionary": dictionary,
        "knn-weight": knn_weight,
    }
    options |= {f"neighbour-{name}": path for name, path in neighbours.items()} | {"train-tokens": train_tokens}
    identity = {**starts_from, "knn_weight": knn_weight, "teacher": file_identity(inputs.model)}
    training = Training(inputs, inputs.seed, {}, identity, (PLUGIN / "soft_labels.py", TARGETS))
    training.run(training.training["updates"], "fairseq_plugin.soft_labels", options)
    return training


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield `hard`, `base` and `knn`: what each kind of labels makes of the same LM."""
    yield Result(inputs.component("hard"), inputs.log_p_base)
    knn = inputs.stored_component(main_name(inputs.main, "approximate-faiss"))
    knn_weight, temperature = optimal_weight(inputs.log_p_base["valid"], knn.log_p["valid"]), knn.component.temperature
    found = {"temperature": temperature, "code": file_identity(TARGETS)}
    found |= {"neighbours": [read_manifest(path)["files"] for path in inputs.stored.training_neighbours]}
    name = identity_name(found)
    files = {part: inputs.checkpoints / f"neighbours-{name}.{part}.npy" for part in ("values", "weights")}
    if not all(path.exists() for path in files.values()):
        write_neighbours(inputs, temperature, files)
    for label, weight, neighbours, starts_from in (("base", 0.0, {}, {}), ("knn", knn_weight, files, found)):
        training = trained(inputs, weight, neighbours, starts_from)
        model = training.export("checkpoint_best.pt")
        facts = {
            "valid_loss": training.best_valid_loss(),
            "lambda": weight,
            **({"temperature": temperature} if neighbours else {}),
        }
        yield Result(inputs.component(label, added_parameters=parameters(model)), log_p_of(inputs, model), facts)
