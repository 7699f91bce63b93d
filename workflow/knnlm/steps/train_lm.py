"""Train the base LM with fairseq, resuming where an earlier attempt was killed."""

import argparse
from pathlib import Path

from knnlm.language_model.fairseq_runs import checkpoint_folder, history, train_until
from knnlm.language_model.training import fairseq_command, loss_table, training_devices
from knnlm.running.devices import training_options
from knnlm.running.step import run
from knnlm.storage.files import read_manifest, write_manifest
from knnlm.storage.tables import write_table


def main(arguments: argparse.Namespace) -> None:
    """Train, then export the checkpoint of lowest validation loss and the loss curve."""
    from knnlm.language_model.transformer import PLUGIN, export_model

    read_manifest(arguments.corpus, kind="corpus")  # knows fairseq's files too
    lm, devices = arguments.settings["lm"], training_devices(arguments)
    checkpoints = checkpoint_folder(
        arguments.checkpoints, arguments.settings, arguments.binary, [PLUGIN / "__init__.py"]
    )
    command = fairseq_command(
        lm["architecture"], lm["training"], arguments.settings["seed"], devices, arguments.binary, PLUGIN, checkpoints
    )
    train_until(lm["training"]["updates"], command, checkpoints)
    export_model(
        checkpoints / "checkpoint_best.pt",
        arguments.model,
        lm["architecture"],
        lm["training"]["tokens_per_sample"],
        arguments.binary / "dict.txt",
    )
    write_table(arguments.loss, loss_table(history(checkpoints)))
    write_manifest(arguments.manifest, [arguments.model], kind="language model", settings=arguments.settings)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with seed and lm")
    training_options(options)
    options.add_argument("--corpus", type=Path, required=True, help="manifest of the corpus")
    options.add_argument("--binary", type=Path, required=True, help="folder of fairseq's binary corpus")
    options.add_argument("--checkpoints", type=Path, required=True, help="folder that survives a crash")
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--loss", type=Path, required=True)
    options.add_argument(
        "--manifest",
        type=Path,
        required=True,
        help="of the model (written); the loss curve, which holds speeds, is not in it",
    )
    return options


if __name__ == "__main__":
    run(main, parser())
