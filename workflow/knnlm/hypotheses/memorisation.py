"""The base LM trained on without dropout until it knows its training text by heart (docs/paper.md#memorisation)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from knnlm.components.catalogue import main_name
from knnlm.components.interpolation import agreement, correlation
from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.lm_training import Training, lm_component, train_perplexity
from knnlm.language_model.transformer import write_first_checkpoint
from knnlm.storage.manifests import sha256

NEEDS = ("training", "model", "components")
SETTINGS = {
    "updates": "count", "every": "count", "train_tokens": "count",
    "learning_rate": "positive", "warmup_updates": "natural", "clip_norm": "amount",
}  # fmt: skip
WORK = {"updates": "updates", "updates_a_model": "every"}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
CONSTANT = 10**9  # updates of a cosine's period that is flat for as long as anyone trains


def stages(inputs: Inputs) -> Iterator[tuple[int, Path]]:
    """Yield the number of updates and the model file of every stage, without training again what is there.

    Each stage is a call of fairseq that goes on from the last: a single one leaves out checkpoints at epochs' ends.
    """
    every, updates = inputs.settings["every"], inputs.settings["updates"]
    schedule = {key: inputs.settings[key] for key in ("learning_rate", "warmup_updates", "clip_norm", "updates")}
    schedule |= {"schedule": "cosine", "cosine_period": CONSTANT, "patience": None}
    schedule |= {"validate_every": every, "save_every": every}
    changes = {"architecture": NO_DROPOUT, "training": schedule}
    training = Training(inputs, inputs.seed, changes, {"model": [sha256(inputs.model)]})
    first = training.folder / "base.pt"
    write_first_checkpoint(inputs.model, first)
    for done in range(every, updates + 1, every):
        model = training.folder / f"model-{done}.pt"
        if not model.exists():
            training.forget_after(done)
            training.run(done, more={"finetune-from-model": first})
            training.export("checkpoint_last.pt", model.name)
        yield done, model


def components(inputs: Inputs) -> Results:
    """Yield every stage of the training, and how much it is like the kNN distribution on test."""
    knn = inputs.stored_component(main_name(inputs.main)).log_p["test"]
    base, sample = inputs.log_p_base["test"], inputs.settings["train_tokens"]
    inputs.run_facts["train_ppl_base"] = train_perplexity(inputs, inputs.model, sample)
    for updates, model in stages(inputs):
        result = lm_component(inputs, f"updates-{updates}", model, {}, series="without dropout", x=updates)
        log_p = result.log_p["test"]
        facts = {"train_ppl": train_perplexity(inputs, model, sample), "agreement": agreement(base, log_p, knn)}
        yield replace(result, facts={**facts, "correlation": correlation(base, log_p, knn)})
