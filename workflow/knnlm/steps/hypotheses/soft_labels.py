"""A fresh LM trained on the base LM's distribution, and one on the kNN-LM's, against one trained on the text (the paper's soft-label hypothesis).

The LM trained on hard labels is the base LM itself: the same seed, data and number of updates give the same LM, so it is not trained again.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knnlm.artifacts import load_array, new_array
from knnlm.component_list import main_name
from knnlm.fairseq_runs import identity_name
from knnlm.interpolation import optimal_weight
from knnlm.language_model import PLUGIN
from knnlm.soft_labels import neighbour_weights
from knnlm.steps.hypotheses import Inputs, Result, run_hypothesis
from knnlm.steps.lm_training import Training, file_identity, log_p_of, parameters
from knnlm.training_neighbours import training_neighbours

if TYPE_CHECKING:  # it is fairseq that runs this; the workflow reads here that its code matters
    from fairseq_plugin import soft_labels  # noqa: F401

LIBRARY = PLUGIN.parent / "knnlm"
NEEDS = ("training", "model", "datastore", "index", "components")
SETTINGS = {"k": "count"}


def write_neighbours(inputs: Inputs, temperature: float, files: dict[str, Path]) -> None:
    """Store the neighbours of every training position, the position itself left out: values int32, weights float16 (1, tokens, k), by position.

    Memory: the index, the values of the store and one chunk's neighbours.
    """
    store, (h, metric), k = inputs.store, (inputs.main["h"], inputs.main["metric"]), inputs.settings["k"]
    index, values = inputs.search_index(), store.all_values()
    with ExitStack() as open_files:
        write = {
            name: open_files.enter_context(new_array(files[name], dtype, (1, store.rows, k))) for name, dtype in (("values", "int32"), ("weights", "float16"))
        }
        for chunk in store.chunks:
            own = np.arange(chunk.first_position, chunk.first_position + chunk.rows)
            ids, similarities = training_neighbours(chunk.keys_of(h), own, index, k, metric)
            order = np.argsort(load_array(chunk.folder / "positions.npy", dtype="int64", shape=(chunk.rows,)))
            write["values"](0, chunk.first_position, values[ids[order]])
            write["weights"](0, chunk.first_position, neighbour_weights(similarities[order], temperature))


def trained(inputs: Inputs, knn_weight: float, neighbours: dict[str, Path], starts_from: dict) -> Training:
    """Train an LM on soft labels: the base LM's recipe and seed, another criterion."""
    arguments = inputs.arguments
    options = {"criterion": "soft_labels", "teacher-model": arguments.model, "teacher-dictionary": arguments.dictionary, "knn-weight": knn_weight}
    options |= {f"neighbour-{name}": path for name, path in neighbours.items()}
    options |= {"train-tokens": arguments.corpus / "tokens" / "train.npy"}
    identity = {**starts_from, "knn_weight": knn_weight, "teacher": file_identity(arguments.model)}
    training = Training(inputs, inputs.seed, {}, identity, (PLUGIN / "soft_labels.py", LIBRARY / "soft_labels.py"))
    training.run(training.training["updates"], "fairseq_plugin.soft_labels", options)
    return training


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield `hard`, `base` and `knn`: what each kind of labels makes of the same LM."""
    yield Result(inputs.component("hard"), inputs.log_p_base)
    knn = inputs.stored_component(main_name(inputs.main, "approximate-faiss"))
    knn_weight, temperature = optimal_weight(inputs.log_p_base["valid"], knn.log_p["valid"]), knn.component.temperature
    found = {"k": inputs.settings["k"], "temperature": temperature, "nprobe": inputs.index["nprobe"], **inputs.main}
    found |= {"store": file_identity(*inputs.arguments.chunks, inputs.arguments.trained)}
    found |= {"code": file_identity(LIBRARY / "soft_labels.py", LIBRARY / "training_neighbours.py")}
    name = identity_name(found)
    files = {part: inputs.arguments.checkpoints / f"neighbours-{name}.{part}.npy" for part in ("values", "weights")}
    if not all(path.exists() for path in files.values()):
        write_neighbours(inputs, temperature, files)
    for label, weight, neighbours, starts_from in (("base", 0.0, {}, {}), ("knn", knn_weight, files, found)):
        training = trained(inputs, weight, neighbours, starts_from)
        model = training.export("checkpoint_best.pt")
        facts = {"valid_loss": training.best_valid_loss(), "lambda": weight, **({"temperature": temperature} if neighbours else {})}
        yield Result(inputs.component(label, added_parameters=parameters(model)), log_p_of(inputs, model), facts)


if __name__ == "__main__":
    run_hypothesis(components)
