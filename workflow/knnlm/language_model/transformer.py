"""The base language model behind a small door: token ids in; `att`, `ffn` and log-probabilities out.

The only module that imports fairseq. A model file holds plain tensors and its architecture's sizes, and is read without unpickling code.
"""

import hashlib
import logging
import pickle
import zipfile
import zlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from knnlm.errors import KnnlmError
from knnlm.storage.files import atomic, sealed
from knnlm.storage.seals import verified

PLUGIN = Path(__file__).parents[2] / "fairseq_plugin"
END_OF_LINE = 2
POSITIONS_AT_ONCE = 4096  # rows of the V-wide softmax held in memory


def build_model(architecture: dict, tokens_per_sample: int, dictionary_file: str) -> torch.nn.Module:
    """Build the untrained network: pre-norm, no final LayerNorm, untied output without bias (paper, appendix A; spec §1.1)."""
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(
        logging.WARNING
    )  # asks for tensorboardX when it is imported
    from fairseq.data import Dictionary
    from fairseq.models.transformer_lm import TransformerLanguageModel
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=str(PLUGIN)))
    from fairseq_plugin import transformer_lm_wikibpe

    settings = Namespace(
        decoder_layers=architecture["layers"],
        decoder_embed_dim=architecture["width"],
        decoder_ffn_embed_dim=architecture["feed_forward_width"],
        decoder_attention_heads=architecture["heads"],
        max_target_positions=tokens_per_sample,
        tokens_per_sample=tokens_per_sample,
    )
    transformer_lm_wikibpe(settings)
    dictionary = Dictionary.load(dictionary_file)
    return TransformerLanguageModel.build_model(
        settings, Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    )


def export_model(
    checkpoint: str | Path,
    model_file: str | Path,
    architecture: dict,
    tokens_per_sample: int,
    dictionary_file: str | Path,
) -> None:
    """Turn a fairseq checkpoint that this run has written into a model file of plain tensors; like fairseq itself, it unpickles no code.

    Raises KnnlmError, naming the checkpoint, if it is damaged.
    """
    if not is_whole(checkpoint):
        raise KnnlmError(
            f"{checkpoint}: missing or damaged; delete the folder {Path(checkpoint).parent} and rerun: the training starts anew."
        )
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    save_model(
        model_file,
        architecture,
        tokens_per_sample,
        {name: weight.float() for name, weight in weights.items()},
        dictionary_file,
    )


def save_model(
    model_file: str | Path, architecture: dict, tokens_per_sample: int, weights: dict, dictionary_file: str | Path
) -> None:
    """Write a model file, sealed, whole or not at all. The same model gives the same bytes: PyTorch would store the name of a file that it opens itself."""
    content = {
        "architecture": architecture,
        "tokens_per_sample": tokens_per_sample,
        "pieces": pieces_hash(dictionary_file),
        "weights": weights,
    }
    with sealed(model_file) as unfinished, open(unfinished, "wb") as file:
        torch.save(content, file)


def pieces_hash(dictionary_file: str | Path) -> str:
    """Return the SHA-256 of the pieces of fairseq's dictionary in their order; how often each was counted does not matter to a trained model."""
    try:
        with open(dictionary_file, "rb") as lines:
            return hashlib.sha256(b"\n".join(line.rsplit(b" ", 1)[0] for line in lines)).hexdigest()
    except OSError as error:
        raise KnnlmError(
            f"{dictionary_file}: not a readable dictionary ({error.strerror}); rerun the step that makes it."
        ) from None


def read_model(model_file: str | Path, dictionary_file: str | Path | None = None) -> dict:
    """Return what a model file holds: architecture, tokens_per_sample, pieces and weights.

    Raises KnnlmError, naming the file, if it is damaged or, where a dictionary is given, was trained with other pieces.
    """
    verified(model_file)
    try:
        content = torch.load(model_file, map_location="cpu", weights_only=True, mmap=True)
        found = {key: content[key] for key in ("architecture", "tokens_per_sample", "pieces", "weights")}
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, EOFError, OSError, ValueError):
        raise KnnlmError(f"{model_file}: not a readable model file; delete it and rerun train_lm.") from None
    if dictionary_file is not None and found["pieces"] != pieces_hash(dictionary_file):
        raise KnnlmError(
            f"{dictionary_file}: not the dictionary that {model_file} was trained with; delete it and rerun the step that makes it."
        )
    return found


def write_first_checkpoint(model_file: str | Path, checkpoint: str | Path) -> None:
    """Turn a model file into a checkpoint for fairseq's `--finetune-from-model`: the weights, and no update made yet."""
    begin = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    extra_state = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    weights = dict(read_model(model_file)["weights"])
    with atomic(checkpoint) as unfinished:
        torch.save(
            {"model": weights, "args": None, "cfg": None, "optimizer_history": [begin], "extra_state": extra_state},
            unfinished,
        )


def is_whole(checkpoint: str | Path) -> bool:
    """Return whether a checkpoint of fairseq is there and as it was written: PyTorch stores the CRC-32 of every part, but does not look at it itself.

    It has no attributes for its parts; for one that is marked as a folder, it returns memory that was never filled.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return not any(part.external_attr for part in archive.infolist()) and archive.testzip() is None
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        LookupError,
        RuntimeError,
        ValueError,
    ):  # whatever a damaged header may lead to
        return False


def trained_updates(checkpoint: str | Path) -> int:
    """Return the number of updates behind a fairseq checkpoint that this run has written; 0 if it is missing, cut short or damaged."""
    if not is_whole(checkpoint):
        return 0
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        pickle.UnpicklingError,
    ):  # not what is in it, but where it stands
        return 0
    return content["optimizer_history"][-1]["num_updates"]


def output_embedding(model_file: str | Path) -> np.ndarray:
    """Return W_sm, float32 (V, width), of a model file, without building the network. Raises KnnlmError, naming it, if it is damaged."""
    weights = read_model(model_file)["weights"]
    try:
        return weights["decoder.output_projection.weight"].numpy().copy()
    except (LookupError, TypeError):
        raise KnnlmError(f"{model_file}: not a readable model file; delete it and rerun train_lm.") from None


class LanguageModel:
    """A trained LM that only ever evaluates: no dropout, no gradients."""

    def __init__(self, model_file: str | Path, dictionary_file: str | Path, device: str):
        """Load a model file. Raises KnnlmError, naming it, if it is damaged or was trained with other pieces than the dictionary's."""
        architecture, tokens_per_sample, _, weights = read_model(model_file, dictionary_file).values()
        try:
            network = build_model(architecture, tokens_per_sample, str(dictionary_file))
            network.load_state_dict(weights)
        except (RuntimeError, LookupError, TypeError, AttributeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise KnnlmError(
                f"{model_file}: not a language model for {dictionary_file} ({reason}); delete it and rerun train_lm."
            ) from None
        torch.set_float32_matmul_precision("highest")  # the plugin lowers it for training
        self.device = torch.device(device)
        self.longest_input = tokens_per_sample
        self.decoder = network.decoder.eval().to(self.device)
        self.width = self.decoder.output_embed_dim
        self._att = torch.empty(0)
        self.decoder.layers[-1].final_layer_norm.register_forward_hook(self._keep_att)

    def _keep_att(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self._att = output

    @torch.inference_mode()
    def states(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `att` and `ffn` at every position (spec §2.1), float32 (batch, length, width) each.

        `source` is int64 (batch, length): the token *before* each position that is asked about. What stands behind a position does not change it.
        `att` is what enters the last layer's feed-forward network, after its LayerNorm; `ffn` is the vector that W_sm multiplies.
        """
        ffn, _ = self.decoder.extract_features(source.to(self.device), None)
        return self._att.transpose(0, 1), ffn

    @torch.inference_mode()
    def log_probabilities(self, ffn: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return log p_LM of `targets` (rows,) given `ffn` (rows, width): float32 (rows,), nats."""
        found = []
        for features, gold in zip(
            ffn.split(POSITIONS_AT_ONCE), targets.to(self.device).split(POSITIONS_AT_ONCE), strict=True
        ):
            found.append(
                -torch.nn.functional.cross_entropy(
                    self.decoder.output_projection(features).float(), gold, reduction="none"
                )
            )
        return torch.cat(found)
