"""The base language model behind a small door: token ids in; `att`, `ffn` and log-probabilities out.

The only module that imports fairseq. A model file holds plain tensors and its architecture's sizes, and is read without unpickling code.
"""

import logging
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from knnlm.artifacts import atomic
from knnlm.errors import KnnlmError

PLUGIN = Path(__file__).parent.parent / "fairseq_plugin"
END_OF_LINE = 2
POSITIONS_AT_ONCE = 4096  # rows of the V-wide softmax held in memory


def build_model(architecture: dict, tokens_per_sample: int, dictionary_file: str) -> torch.nn.Module:
    """Build the untrained network: pre-norm, no final LayerNorm, untied output without bias (paper, appendix A; spec §1.1)."""
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)  # asks for tensorboardX when it is imported
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
    return TransformerLanguageModel.build_model(settings, Namespace(source_dictionary=dictionary, target_dictionary=dictionary))


def export_model(checkpoint: str | Path, model_file: str | Path, architecture: dict, tokens_per_sample: int) -> None:
    """Turn a fairseq checkpoint that this run has just written into a model file of plain tensors."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=False)["model"]
    content = {
        "architecture": architecture,
        "tokens_per_sample": tokens_per_sample,
        "weights": {name: weight.float() for name, weight in weights.items()},
    }
    with atomic(model_file) as unfinished, open(unfinished, "wb") as file:  # a file that PyTorch opens itself would have its name in it
        torch.save(content, file)


def read_model(model_file: str | Path) -> dict:
    """Return what a model file holds: architecture, tokens_per_sample and weights. Raises KnnlmError, naming the file, if it is damaged."""
    try:
        content = torch.load(model_file, map_location="cpu", weights_only=True, mmap=True)
        return {key: content[key] for key in ("architecture", "tokens_per_sample", "weights")}
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, EOFError, OSError, ValueError):
        raise KnnlmError(f"{model_file}: not a readable model file; delete it and rerun train_lm.") from None


def write_first_checkpoint(model_file: str | Path, checkpoint: str | Path) -> None:
    """Turn a model file into a checkpoint for fairseq's `--finetune-from-model`: the weights, and no update made yet."""
    begin = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    extra_state = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    weights = dict(read_model(model_file)["weights"])
    with atomic(checkpoint) as unfinished:
        torch.save({"model": weights, "args": None, "cfg": None, "optimizer_history": [begin], "extra_state": extra_state}, unfinished)


def trained_updates(checkpoint: str | Path) -> int:
    """Return the number of updates behind a fairseq checkpoint that this run has written; 0 if it is missing or was cut off in writing."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
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
        """Load a model file. Raises KnnlmError, naming it, if it is damaged or does not fit the dictionary."""
        architecture, tokens_per_sample, weights = read_model(model_file).values()
        try:
            network = build_model(architecture, tokens_per_sample, str(dictionary_file))
            network.load_state_dict(weights)
        except (RuntimeError, LookupError, TypeError, AttributeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise KnnlmError(f"{model_file}: not a language model for {dictionary_file} ({reason}); delete it and rerun train_lm.") from None
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
        for features, gold in zip(ffn.split(POSITIONS_AT_ONCE), targets.to(self.device).split(POSITIONS_AT_ONCE), strict=True):
            found.append(-torch.nn.functional.cross_entropy(self.decoder.output_projection(features).float(), gold, reduction="none"))
        return torch.cat(found)
