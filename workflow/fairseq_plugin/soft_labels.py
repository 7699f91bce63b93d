"""`fairseq-train` with one more criterion, `soft_labels`: a program of its own, which the base LM does not use."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig

from knnlm.errors import KnnlmError
from knnlm.language_model.soft_targets import SoftCrossEntropy, sample_positions
from knnlm.language_model.transformer import LanguageModel
from knnlm.storage.arrays import load_array


@dataclass
class SoftLabelsConfig(CrossEntropyCriterionConfig):
    """Options of the criterion; the files of every position's neighbours are needed where the kNN's weight is not 0."""

    teacher_model: str = field(default="", metadata={"help": "model file of the teacher"})
    teacher_dictionary: str = field(default="", metadata={"help": "its dictionary"})
    knn_weight: float = field(default=0.0, metadata={"help": "λ: the kNN's share of the labels"})
    train_tokens: str = field(default="", metadata={"help": ".npy of the training text, int32 (tokens,)"})
    neighbour_values: str = field(default="", metadata={"help": ".npy of their tokens, int32 (1, tokens, k)"})
    neighbour_weights: str = field(default="", metadata={"help": ".npy of their p_kNN, float16 (1, tokens, k)"})


@register_criterion("soft_labels", dataclass=SoftLabelsConfig)
class SoftLabels(CrossEntropyCriterion):
    """Cross-entropy with the labels (1−λ) p_teacher + λ p_kNN in training, and with the text itself in validation.

    The frozen teacher reads what the student reads. Per token the loss is −Σ_w label(w) log p_student(w); it is summed
    over the batch (docs/paper.md#soft-labels).
    """

    def __init__(self, task, cfg):
        super().__init__(task, sentence_avg=False)
        precision = torch.get_float32_matmul_precision()
        teacher = LanguageModel(cfg.teacher_model, cfg.teacher_dictionary, "cpu").decoder.requires_grad_(False)
        torch.set_float32_matmul_precision(precision)  # of training, which evaluation raises
        self.teacher = [teacher]  # in a list, so that it is no part of what is trained and saved
        self.tokens_per_sample = task.args.tokens_per_sample
        self.knn_weight = cfg.knn_weight
        if cfg.knn_weight:
            self.tokens = load_array(cfg.train_tokens, dtype="int32")
            self.values = load_array(cfg.neighbour_values, dtype="int32", shape=(1, len(self.tokens), None))[0]
            self.weights = load_array(cfg.neighbour_weights, dtype="float16", shape=(1, *self.values.shape))[0]

    def forward(self, model, sample, reduce=True):
        """Return the summed loss, the number of tokens and what fairseq logs."""
        if not model.training:
            return super().forward(model, sample, reduce)
        real = sample["target"].ne(self.padding_idx).view(-1)
        chosen = slice(None) if bool(real.all()) else real
        features = model(**sample["net_input"], features_only=True)[0]  # W_sm multiplies them without more dropout
        with torch.no_grad():
            teacher = self.teacher[0] = self.teacher[0].to(features.device, features.dtype)
            found = teacher(sample["net_input"]["src_tokens"], features_only=True)[0]
        student = features.flatten(0, 1)[chosen], model.decoder.output_projection.weight
        taught = found.flatten(0, 1)[chosen], teacher.output_projection.weight
        near = self.neighbours(sample, real, features.device) if self.knn_weight else None
        loss = SoftCrossEntropy.apply(*student, taught, near, self.knn_weight)
        counts = {"ntokens": sample["ntokens"], "nsentences": len(sample["target"]), "sample_size": sample["ntokens"]}
        return loss, sample["ntokens"], {"loss": loss.data, **counts}

    def neighbours(self, sample: dict, real: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values, int64 (n, k), and weights, float16 (n, k), of a batch; KnnlmError for other tokens."""
        target, real = sample["target"].cpu().view(-1), real.cpu()
        positions = sample_positions(sample["id"].cpu(), self.tokens_per_sample, sample["target"].shape[1])
        positions = positions.view(-1)[real].numpy()  # (n,)
        if positions.max() >= len(self.tokens) or not np.array_equal(self.tokens[positions], target[real].numpy()):
            problem = "the batches of fairseq are not in the order of the training tokens"
            raise KnnlmError(f"{problem}; this version of fairseq cuts the text differently.")
        values, weights = self.values[positions].astype(np.int64), self.weights[positions]
        return torch.from_numpy(values).to(device), torch.from_numpy(weights).to(device)


if __name__ == "__main__":
    logging.getLogger().handlers.clear()  # set by what fairseq imports; fairseq-train sets its own where there are none
    from fairseq_cli.train import cli_main

    cli_main()
