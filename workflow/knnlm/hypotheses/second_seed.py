"""The base LM trained with another seed: what an ordinary ensemble of two LMs gains (docs/paper.md#second-seed)."""

from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.lm_training import Training, lm_component

NEEDS = ("training",)
SETTINGS = {"seed_offset": "seed_offset"}


def components(inputs: Inputs) -> Results:
    """Yield the LM at its checkpoint of lowest validation loss."""
    training = Training(inputs, inputs.seed + inputs.settings["seed_offset"], {})
    training.run(training.training["updates"])
    yield lm_component(inputs, "lm", training.export("checkpoint_best.pt"), {"valid_loss": training.best_valid_loss()})
