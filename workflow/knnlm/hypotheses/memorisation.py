"""The base LM trained on without dropout until it knows its training text by heart, checkpoint by checkpoint (spec §5.12)."""

from collections.abc import Iterator
from pathlib import Path

from knnlm.components.catalogue import main_name
from knnlm.components.interpolation import agreement, correlation
from knnlm.hypotheses.inputs import Inputs, Result
from knnlm.hypotheses.lm_training import Training, file_identity, log_p_of, parameters, train_perplexity
from knnlm.language_model.transformer import write_first_checkpoint

NEEDS = ("training", "model", "components")
SETTINGS = {
    "updates": "count",
    "every": "count",
    "learning_rate": "positive",
    "warmup_updates": "natural",
    "clip_norm": "amount",
    "train_tokens": "count",
}
WORK = {"updates": "updates", "updates_a_model": "every"}

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
CONSTANT = 10**9  # updates of a cosine's period that is flat for as long as anyone trains


def stages(inputs: Inputs) -> Iterator[tuple[int, Path]]:
    """Yield the number of updates and the model file of every stage; what an earlier attempt has trained is used.

    Each stage is a call of fairseq that goes on where the last one ended: in one call, it would leave out the checkpoints at the ends of epochs.
    """
    settings = inputs.settings
    schedule = {
        "learning_rate": settings["learning_rate"],
        "warmup_updates": settings["warmup_updates"],
        "cosine_period": CONSTANT,
    }
    schedule |= {
        "clip_norm": settings["clip_norm"],
        "updates": settings["updates"],
        "validate_every": settings["every"],
        "save_every": settings["every"],
    }
    training = Training(
        inputs, inputs.seed, {"architecture": NO_DROPOUT, "training": schedule}, {"model": file_identity(inputs.model)}
    )
    first = training.folder / "base.pt"
    write_first_checkpoint(inputs.model, first)
    models = {
        updates: training.folder / f"model-{updates}.pt"
        for updates in range(settings["every"], settings["updates"] + 1, settings["every"])
    }
    for updates, model in models.items():
        if not model.exists():
            training.forget_after(updates)
            training.run(updates, more_options={"finetune-from-model": first})
            training.export("checkpoint_last.pt", model.name)
        yield updates, model


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield every stage of the training, and how much it is like the kNN distribution on test."""
    knn = inputs.stored_component(main_name(inputs.main)).log_p["test"]
    base, sample = inputs.log_p_base["test"], inputs.settings["train_tokens"]
    inputs.run_facts["train_ppl_base"] = train_perplexity(inputs, inputs.model, sample)
    for updates, model in stages(inputs):
        log_p = log_p_of(inputs, model)
        likeness = {
            "agreement": agreement(base, log_p["test"], knn),
            "correlation": correlation(base, log_p["test"], knn),
        }
        facts = {"train_ppl": train_perplexity(inputs, model, sample), **likeness}
        component = inputs.component(
            f"updates-{updates}", added_parameters=parameters(model), series="without dropout", x=updates
        )
        yield Result(component, log_p, facts)
