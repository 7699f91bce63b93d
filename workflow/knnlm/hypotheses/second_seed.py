"""The base LM trained with another seed, and its control, the base LM trained on (docs/paper.md#second-seed)."""

from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.lm_training import Training, lm_component
from knnlm.storage.manifests import sha256

NEEDS = ("training", "model")
SETTINGS = {"seed_offset": "seed_offset"}
WORK = {"trainings": "2"}


def components(inputs: Inputs) -> Results:
    """Yield `lm`, the LM of another seed, and `control`, the base LM after as many further updates on the same text.

    Both are at their checkpoint of lowest validation loss. A second model that gains no more than the control gains by
    its training, not by being a second one.
    """
    other = Training(inputs, inputs.seed + inputs.settings["seed_offset"], {})
    same = Training(inputs, inputs.seed, {}, {"model": [sha256(inputs.model)]})
    for name, training in (("lm", other), ("control", same)):
        more = same.from_model(inputs.model) if training is same else None
        training.run(training.training["updates"], more=more)
        facts = {"valid_loss": training.best_valid_loss()}
        yield lm_component(inputs, name, training.export("checkpoint_best.pt"), facts)
