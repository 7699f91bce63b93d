"""The base language model behind a small door: token ids in; `att`, `ffn` and log-probabilities out.

The only module that imports fairseq. A model file holds plain tensors and sizes, and is read without unpickling code.
"""

import logging
import pickle
import zipfile
import zlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from knnlm.corpus.dictionary import pieces_hash
from knnlm.errors import KnnlmError
from knnlm.language_model.training import PLUGIN
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import AGAIN, verified

POSITIONS_AT_ONCE = 4096  # rows of the V-wide softmax held in memory
UNREADABLE = "not a readable model file; delete it and rerun train_lm"
CONTENT = ("architecture", "tokens_per_sample", "pieces", "weights")  # of a model file
DAMAGE = (OSError, EOFError, LookupError, RuntimeError, ValueError)  # that a damaged file may lead to


def build_model(architecture: dict, tokens_per_sample: int, dictionary: str) -> torch.nn.Module:
    """Build the untrained network: pre-norm, no last LayerNorm, untied output without bias (docs/paper.md#base-lm)."""
    # At its import, it asks for tensorboardX.
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    from fairseq.data import Dictionary
    from fairseq.models.transformer_lm import TransformerLanguageModel
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=str(PLUGIN)))
    from fairseq_plugin import transformer_lm_wikibpe

    settings = Namespace(max_target_positions=tokens_per_sample, tokens_per_sample=tokens_per_sample)
    settings.decoder_layers, settings.decoder_attention_heads = architecture["layers"], architecture["heads"]
    settings.decoder_embed_dim = architecture["width"]
    settings.decoder_ffn_embed_dim = architecture["feed_forward_width"]
    transformer_lm_wikibpe(settings)
    pieces = Dictionary.load(dictionary)
    task = Namespace(source_dictionary=pieces, target_dictionary=pieces)
    return TransformerLanguageModel.build_model(settings, task)


def export_model(checkpoint: Path, model_file: Path, architecture: dict, window: int, dictionary: Path) -> None:
    """Turn fairseq's checkpoint into a model file of plain tensors, unpickling no code; KnnlmError if it is damaged."""
    if not is_whole(checkpoint):
        remedy = f"delete the folder {checkpoint.parent} and rerun: the training starts anew"
        raise KnnlmError(f"{checkpoint}: missing or damaged; {remedy}.")
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    weights = {name: weight.float() for name, weight in stored.items()}
    save_model(model_file, architecture, window, weights, dictionary)


def save_model(model_file: Path, architecture: dict, tokens_per_sample: int, weights: dict, dictionary: Path) -> None:
    """Write a model file, whole or not at all. The same model gives the same bytes."""
    content = dict(zip(CONTENT, (architecture, tokens_per_sample, pieces_hash(dictionary), weights), strict=True))
    # PyTorch would store the name of a file that it opens itself.
    with atomic(model_file) as unfinished, open(unfinished, "wb") as file:
        torch.save(content, file)


def read_model(model_file: str | Path, dictionary: str | Path | None = None) -> dict:
    """Return what a model file holds: architecture, tokens_per_sample, pieces and weights.

    Raises KnnlmError, naming the file, if it is damaged or, where a dictionary is given, was trained with other pieces.
    """
    verified(model_file)
    try:
        content = torch.load(model_file, map_location="cpu", weights_only=True, mmap=True)
        found = {key: content[key] for key in CONTENT}
    except (pickle.UnpicklingError, TypeError, *DAMAGE):
        raise KnnlmError(f"{model_file}: {UNREADABLE}.") from None
    if dictionary is not None and found["pieces"] != pieces_hash(dictionary):
        raise KnnlmError(f"{dictionary}: not the dictionary that {model_file} was trained with; {AGAIN}")
    return found


def write_first_checkpoint(model_file: str | Path, checkpoint: str | Path) -> None:
    """Turn a model file into a checkpoint for fairseq's `--finetune-from-model`: weights, and no update made yet."""
    begin = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    content = {"model": dict(read_model(model_file)["weights"]), "args": None, "cfg": None}
    content |= {"optimizer_history": [begin], "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}}
    with atomic(checkpoint) as unfinished:
        torch.save(content, unfinished)


def is_whole(checkpoint: str | Path) -> bool:
    """Return whether a checkpoint of fairseq is there and as it was written.

    PyTorch stores the CRC-32 of every part but never looks at it. It gives no part attributes, and for one that is
    marked as a folder it returns memory that was never filled.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return not any(part.external_attr for part in archive.infolist()) and archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, *DAMAGE):
        return False


def trained_updates(checkpoint: str | Path) -> int:
    """Return the number of updates behind a fairseq checkpoint of ours, 0 if it is missing, cut short or damaged."""
    if not is_whole(checkpoint):
        return 0
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, *DAMAGE):  # the parts are whole, but not in their places
        return 0
    return content["optimizer_history"][-1]["num_updates"]


def output_embedding(model_file: str | Path) -> np.ndarray:
    """Return W_sm, float32 (V, width), of a model file, without building the network; KnnlmError for a damaged one."""
    try:
        return read_model(model_file)["weights"]["decoder.output_projection.weight"].numpy().copy()
    except (LookupError, TypeError):
        raise KnnlmError(f"{model_file}: {UNREADABLE}.") from None


class LanguageModel:
    """A trained LM that only ever evaluates: no dropout, no gradients."""

    def __init__(self, model_file: str | Path, dictionary: str | Path, device: str):
        """Load a model file. Raises KnnlmError, naming it, if it is damaged or was trained with another dictionary."""
        architecture, tokens_per_sample, _, weights = read_model(model_file, dictionary).values()
        try:
            network = build_model(architecture, tokens_per_sample, str(dictionary))
            network.load_state_dict(weights)
        except (TypeError, AttributeError, *DAMAGE) as error:
            problem = f"not a language model for {dictionary} ({str(error).splitlines()[-1].strip()})"
            raise KnnlmError(f"{model_file}: {problem}; delete it and rerun train_lm.") from None
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
        """Return `att` and `ffn` at every position, float32 (batch, length, width) each (docs/paper.md#hidden-states).

        `source` is int64 (batch, length): the token *before* each position. Later tokens do not change a position.
        `att` enters the last layer's feed-forward network, after its LayerNorm; W_sm multiplies `ffn`.
        """
        ffn, _ = self.decoder.extract_features(source.to(self.device), None)
        return self._att.transpose(0, 1), ffn

    @torch.inference_mode()
    def log_probabilities(self, ffn: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return log p_LM of `targets` (rows,) given `ffn` (rows, width): float32 (rows,), nats."""
        parts = zip(ffn.split(POSITIONS_AT_ONCE), targets.to(self.device).split(POSITIONS_AT_ONCE), strict=True)
        logits = ((self.decoder.output_projection(features).float(), gold) for features, gold in parts)  # (part, V)
        return torch.cat([-torch.nn.functional.cross_entropy(*pair, reduction="none") for pair in logits])
