"""What the questions that train another LM share: the training itself, and the trained LM as a component."""

from pathlib import Path

from knnlm.components.interpolation import count_words, perplexity
from knnlm.corpus.text import EVALUATED
from knnlm.corpus.windows import fixed_windows, whole_line_windows
from knnlm.hypotheses.inputs import Inputs, Result
from knnlm.language_model.fairseq_runs import checkpoint_folder, history, saved_updates, train_until
from knnlm.language_model.states import extract_states, log_p_in_windows, sample_windows
from knnlm.language_model.training import PLUGIN, TRAIN, fairseq_command, loss_table, training_devices
from knnlm.language_model.transformer import LanguageModel, export_model, read_model, write_first_checkpoint
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import read_manifest, write_manifest


class Training:
    """One training of an LM like the base LM: done once, and resumed where an earlier attempt was killed."""

    def __init__(
        self, inputs: Inputs, seed: int, changes: dict, starts_from: dict | None = None, code: tuple[Path, ...] = ()
    ):
        """Take what differs from the base LM's training: `changes` of `lm`'s sections `architecture` and `training`.

        `starts_from` names all else that shapes it, `code` our files that fairseq loads beside the architecture.
        """
        sections = ("architecture", "training")
        self.architecture, self.training = (inputs.lm[section] | changes.get(section, {}) for section in sections)
        self.seed, self.devices = seed, training_devices(inputs.job)
        read_manifest(inputs.stored.corpus / "tokens" / "manifest.json", kind="corpus")  # knows fairseq's files too
        self.binary = inputs.stored.corpus / "binary"
        identity = {"seed": seed, "architecture": self.architecture, "training": self.training}
        identity["starts_from"] = starts_from or {}
        self.folder = checkpoint_folder(inputs.checkpoints, identity, self.binary, [PLUGIN / "__init__.py", *code])

    def run(self, updates: int, program: str = TRAIN, more: dict | None = None) -> None:
        """Train until this many updates have been made in all, or until patience ends it.

        `program` and `more` as in fairseq_command.
        """
        lm = self.architecture | self.training | {"updates": updates}
        command = fairseq_command(lm, self.seed, self.devices, self.binary, self.folder, program, more)
        train_until(updates, command, self.folder, self.training["patience"])

    def from_model(self, model: Path) -> dict[str, Path]:
        """Return the options of `run` with which a training starts from the weights of a model file."""
        first = self.folder / "base.pt"
        write_first_checkpoint(model, first)
        return {"finetune-from-model": first}

    def forget_after(self, updates: int) -> None:
        """Begin from the start, unless the checkpoints lead to this number of updates and no further."""
        if saved_updates(self.folder) > updates:
            for path in self.folder.glob("checkpoint*.pt"):
                path.unlink()

    def export(self, checkpoint: str, name: str = "model.pt") -> Path:
        """Write one of fairseq's checkpoints as a model file beside it and return its path."""
        model, window = self.folder / name, self.training["tokens_per_sample"]
        export_model(self.folder / checkpoint, model, self.architecture, window, self.binary / "dict.txt")
        write_manifest(model.with_suffix(".json"), [model], kind="language model")
        return model

    def best_valid_loss(self) -> float:
        """Return the lowest validation loss, nats per BPE token, in fairseq's windows: that of `checkpoint_best.pt`."""
        table = loss_table(history(self.folder))
        return float(table.loc[table["split"] == "valid", "loss"].min())


def lm_component(inputs: Inputs, name: str, model_file: Path, facts: dict[str, float], **place: object) -> Result:
    """Return the component of another LM, read like the base LM; `place` are further fields of Component."""
    windows = inputs.windows["evaluation"]
    model, log_p = LanguageModel(model_file, inputs.stored.dictionary, inputs.device), {}
    for split in EVALUATED:
        lines = load_array(inputs.stored.corpus / "tokens" / f"{split}.lines.npy", dtype="int64")
        cut = whole_line_windows(lines, windows["context"], windows["new"])
        log_p[split] = extract_states(model, inputs.gold[split], cut, with_log_p=True)[2]  # float32 (n,)
    added = sum(weight.numel() for weight in read_model(model_file)["weights"].values())
    return Result(inputs.component(name, added_parameters=added, **place), log_p, facts)


def train_perplexity(inputs: Inputs, model_file: Path, tokens: int) -> float:
    """Return the word perplexity on a sample, always the same, of about `tokens` training tokens, without dropout."""
    windows = inputs.windows["evaluation"]
    text = load_array(inputs.stored.corpus / "tokens" / "train.npy", dtype="int32")
    chosen = sample_windows(fixed_windows(len(text), windows["context"], windows["new"]), tokens, inputs.seed)
    gold, log_p = log_p_in_windows(LanguageModel(model_file, inputs.stored.dictionary, inputs.device), text, chosen)
    return perplexity(log_p, count_words(gold, inputs.continuation))
