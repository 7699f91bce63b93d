"""The base LM trained once more with another seed (spec §5.13): what an ordinary ensemble of two LMs gains."""

from collections.abc import Iterator

from knnlm.hypotheses.inputs import Inputs, Result
from knnlm.hypotheses.lm_training import Training, log_p_of, parameters

NEEDS = ("training",)
SETTINGS = {"seed_offset": "seed_offset"}


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield the LM at its checkpoint of lowest validation loss."""
    training = Training(inputs, inputs.seed + inputs.settings["seed_offset"], {})
    training.run(training.training["updates"])
    model = training.export("checkpoint_best.pt")
    facts = {"valid_loss": training.best_valid_loss()}
    yield Result(inputs.component("lm", added_parameters=parameters(model)), log_p_of(inputs, model), facts)
