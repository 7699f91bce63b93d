"""The base LM trained on without dropout until it knows its training text by heart, and with dropout as a control
(docs/paper.md#memorisation).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from knnlm.components.catalogue import main_name
from knnlm.components.interpolation import agreement, correlation, perplexity
from knnlm.hypotheses.inputs import Inputs, Result, Results
from knnlm.hypotheses.lm_training import Training, lm_component, train_perplexity
from knnlm.storage.manifests import sha256

NEEDS = ("training", "model", "components")
SETTINGS = {
    "updates": "count", "every": "count", "train_tokens": "count", "known_by_heart": "factor",
    "learning_rate": "positive", "warmup_updates": "natural", "clip_norm": "amount",
}  # fmt: skip
WORK = {"updates": "updates", "updates_a_model": "every", "trainings": "2"}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
CONSTANT = 10**9  # updates of a cosine's period that is flat for as long as anyone trains


def stages(inputs: Inputs, dropout: dict[str, float], updates: int) -> Iterator[tuple[int, Path]]:
    """Yield the number of updates and the model file of every stage, without training again what is there.

    `dropout` changes the base LM's. Each stage is a call of fairseq that goes on from the last: a single one leaves out
    checkpoints at epochs' ends.
    """
    every = inputs.settings["every"]
    schedule = {key: inputs.settings[key] for key in ("learning_rate", "warmup_updates", "clip_norm", "updates")}
    schedule |= {"schedule": "cosine", "cosine_period": CONSTANT, "patience": None}
    schedule |= {"validate_every": every, "save_every": every}
    changes = {"architecture": dropout, "training": schedule}
    training = Training(inputs, inputs.seed, changes, {"model": [sha256(inputs.model)]})
    first = training.from_model(inputs.model)
    for done in range(every, updates + 1, every):
        model = training.folder / f"model-{done}.pt"
        if not model.exists():
            training.forget_after(done)
            training.run(done, more=first)
            training.export("checkpoint_last.pt", model.name)
        yield done, model


def why_not_tested(train_ppl: float, valid_ppl: list[float], known_by_heart: float) -> str | None:
    """Say why an LM tells nothing of memorisation, None where it does: it knows its text, and pays for it on valid.

    `valid_ppl` has the word perplexity on valid of the base LM and of every stage, this one last.
    """
    if train_ppl > known_by_heart:
        known = f"its word perplexity there is {train_ppl:.4g}, and {known_by_heart:g} would be"
        return f"The LM does not know its training text by heart: {known}."
    if valid_ppl[-1] <= min(valid_ppl[:-1]):
        return "The LM is still getting better on valid: what it gains may be training, not memory."
    return None


def components(inputs: Inputs) -> Results:
    """Yield every stage without dropout, the last as `last`, and then the control's, the last as `control-last`.

    The training ends with the first stage that knows the text by heart, at the latest after `updates`; the control,
    with the base LM's dropout, has as many. A stage that tells nothing of memorisation says why in its fact
    `not_tested`.
    """
    limit, every, valid_ppl = inputs.settings["updates"], inputs.settings["every"], []
    valid_ppl.append(perplexity(inputs.log_p_base["valid"], inputs.words["valid"]))
    inputs.run_facts["train_ppl_base"] = train_perplexity(inputs, inputs.model, inputs.settings["train_tokens"])
    for updates, model in stages(inputs, NO_DROPOUT, limit):
        result = of_stage(inputs, f"updates-{updates}", model, "without dropout", updates)
        valid_ppl.append(result.facts["valid_ppl"])
        why = why_not_tested(result.facts["train_ppl"], valid_ppl, inputs.settings["known_by_heart"])
        is_last = why is None or updates + every > limit
        yield named(inputs, replace(result, facts=result.facts | ({"not_tested": why} if why else {})), "last", is_last)
        if is_last:
            break
    for done, model in stages(inputs, {}, updates):
        result = of_stage(inputs, f"control-{done}", model, "with dropout", done)
        yield named(inputs, result, "control-last", done == updates)


def of_stage(inputs: Inputs, name: str, model: Path, series: str, updates: int) -> Result:
    """Return the component of a stage, how well it knows train and valid, and how much it is like the kNN on test."""
    result = lm_component(inputs, name, model, {}, series=series, x=updates)
    log_p, knn = result.log_p, inputs.stored_component(main_name(inputs.main)).log_p["test"]
    facts = {"train_ppl": train_perplexity(inputs, model, inputs.settings["train_tokens"])}
    facts |= {"valid_ppl": perplexity(log_p["valid"], inputs.words["valid"])}
    like = inputs.log_p_base["test"], log_p["test"], knn
    return replace(result, facts=facts | {"agreement": agreement(*like), "correlation": correlation(*like)})


def named(inputs: Inputs, result: Result, name: str, is_last: bool) -> Result:
    """Return a result under this name if it is the last of its training: its number of updates is known only then."""
    renamed = replace(result.component, component=f"{inputs.hypothesis}-{name}")
    return replace(result, component=renamed) if is_last else result
