"""The sizes that all work is computed from: a run's config, its tokens and types, and what follows from them.

One multiply-add counts as two operations.
"""

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from knnlm.components.catalogue import Component, knn_components, retrievals
from knnlm.config.checks import most_training_tokens
from knnlm.datastore.factory import PQ_CENTROIDS, IndexFactory, parse_factory
from knnlm.retrieval.query_blocks import block_edges

HALF, SINGLE = 2, 4  # bytes of float16; of float32 and int32
TYPES_BEYOND_MERGES = 1400  # single characters and the like: the paper's 33,344 types come of 32,000 merges
WIKITEXT103 = {"train": 112735284, "valid": 237669, "test": 268161}  # tokens, where neither the config nor a text tells


@dataclass(frozen=True)
class Run:
    """The config with defaults filled, tokens of each split, and types of the vocabulary (V)."""

    config: dict
    tokens: dict[str, int]
    vocabulary: int

    @property
    def train(self) -> int:
        """Tokens of the training text, which are the rows of the store (T)."""
        return self.tokens["train"]

    @property
    def evaluated(self) -> int:
        """Tokens of valid and test together (E)."""
        return self.tokens["valid"] + self.tokens["test"]

    @property
    def largest_split(self) -> int:
        """Tokens of the larger of valid and test."""
        return max(self.tokens["valid"], self.tokens["test"])

    @property
    def width(self) -> int:
        """Dimension of a key (d)."""
        return self.config["lm"]["architecture"]["width"]

    @property
    def k(self) -> int:
        """Neighbours of each query."""
        return self.config["retrieval"]["k"]

    @property
    def factory(self) -> IndexFactory:
        """What the index stores."""
        return parse_factory(self.config["index"]["factory"], self.width)

    @property
    def codewords(self) -> int:
        """Centroids of each sub-quantiser, 0 without PQ."""
        return PQ_CENTROIDS if self.factory.sub_quantisers else 0

    @property
    def parameters(self) -> int:
        """Parameters of the LM (P): layers and two embeddings of V·d (untied, no bias; positions have none)."""
        return layer_parameters(self.config["lm"]["architecture"]) + 2 * self.vocabulary * self.width

    @property
    def chunks(self) -> int:
        """Chunks of the datastore."""
        return self.config["datastore"]["chunks"]

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest chunk (n): its share of the windows."""
        new = self.config["windows"]["train"]["new"]
        return min(self.train, math.ceil(math.ceil(self.train / new) / self.chunks) * new)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The combinations of hidden state and metric that are indexed and searched."""
        return sorted({(h, metric) for h, metric, _ in retrievals(self.config)})

    @property
    def knn_components(self) -> list[Component]:
        """All kNN components of the run."""
        return [found for retrieval in retrievals(self.config) for found in knn_components(self.config, *retrieval)]

    def with_config(self, section: str, **values: object) -> "Run":
        """Return the run with other values in one section of its config."""
        return replace(self, config={**self.config, section: self.config[section] | values})

    def of_pair(self, wildcards: dict) -> "Run":
        """Return the run as if it retrieved with one hidden state and metric alone."""
        return self.with_config("retrieval", h=[wildcards["h"]], metrics=[wildcards["metric"]])

    def of_block(self, wildcards: dict) -> "Run":
        """Return the run of one hidden state and metric as if its largest block of queries were all."""
        edges = block_edges(self.evaluated, self.config["resources"]["query_blocks"])
        largest = max(end - begin for begin, end in pairwise(edges))
        return replace(self.of_pair(wildcards), tokens=self.tokens | {"valid": largest, "test": 0})


def run_of(config: dict, tokens: dict[str, int], vocabulary: int | None) -> Run:
    """Return the sizes of a run; types that nobody has counted are estimated."""
    return Run(config, tokens, vocabulary or estimated_vocabulary(config["corpus"]["bpe_merges"]))


def tokens_of(config: dict, manifest: str | Path) -> tuple[dict[str, int], int | None]:
    """Return tokens of each split, and types or None if nobody has counted them.

    They are the corpus's if its manifest is there, else the config's, else no fewer than there can be.
    """
    try:
        facts = json.loads(Path(manifest).read_text(encoding="utf-8"))
        return facts["tokens"], facts["vocabulary_size"]
    except (OSError, ValueError, KeyError, TypeError):  # the steps that trust the manifest say what is wrong with it
        if config["corpus"]["token_counts"] is not None:
            return config["corpus"]["token_counts"], None
    most = most_training_tokens(config)
    return (dict.fromkeys(WIKITEXT103, most) if most else WIKITEXT103), None


def estimated_vocabulary(bpe_merges: int) -> int:
    """Return the types to expect of this many merges, a multiple of 8 as fairseq pads them."""
    return math.ceil((bpe_merges + TYPES_BEYOND_MERGES) / 8) * 8


def layer_parameters(architecture: dict) -> int:
    """Return the parameters of all layers: L · (4d² + 4d [attention] + 2df + f + d [feed-forward] + 4d [norms])."""
    d, f = architecture["width"], architecture["feed_forward_width"]
    return architecture["layers"] * (4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d)


def tokens_per_update(config: dict) -> int:
    """Return the tokens of one update: tokens_per_sample · batch_samples · accumulate, on however many devices."""
    training = config["lm"]["training"]
    return training["tokens_per_sample"] * training["batch_samples"] * training["accumulate"]


def forward_flops(architecture: dict, length: int, vocabulary: int = 0) -> float:
    """Return operations of the forward pass for one token in an input of `length`.

    2·(layer parameters) + 2·L·d·length + 2·d·V. The second term is attention, 4·L·d for each of length/2 positions on
    average; without `vocabulary` no logits are made and the third is left out.
    """
    layers, d = architecture["layers"], architecture["width"]
    return 2 * layer_parameters(architecture) + 2 * layers * d * length + 2 * d * vocabulary
