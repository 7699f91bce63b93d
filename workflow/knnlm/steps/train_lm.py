"""Train the base LM with fairseq, resuming where an earlier attempt was killed."""

from pathlib import Path

from knnlm.language_model.fairseq_runs import checkpoint_folder, history, train_until
from knnlm.language_model.training import PLUGIN, fairseq_command, loss_table, training_devices
from knnlm.language_model.transformer import export_model
from knnlm.running.devices import Job
from knnlm.storage.manifests import read_manifest, write_manifest
from knnlm.storage.tables import write_table


def main(
    settings: dict, job: Job, corpus: Path, binary: Path, checkpoints: Path, model: Path, loss: Path, manifest: Path
) -> None:
    """Train, then export the checkpoint of lowest validation loss and the loss curve."""
    read_manifest(corpus, kind="corpus")  # knows fairseq's files too
    lm, devices = settings["lm"], training_devices(job)
    folder = checkpoint_folder(checkpoints, settings, binary, [PLUGIN / "__init__.py"])
    command = fairseq_command(lm["architecture"] | lm["training"], settings["seed"], devices, binary, folder)
    train_until(lm["training"]["updates"], command, folder, lm["training"]["patience"])
    sizes = lm["architecture"], lm["training"]["tokens_per_sample"]
    export_model(folder / "checkpoint_best.pt", model, *sizes, binary / "dict.txt")
    write_table(loss, loss_table(history(folder)))
    write_manifest(manifest, [model], kind="language model", settings=settings)
