"""The sizes that all work is computed from: a run's config, its tokens and types, and what follows from them."""

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from knnlm.components.catalogue import Component, knn_components, retrievals, searched_fractions
from knnlm.config.corpus import most_training_tokens
from knnlm.datastore.factory import ID_BYTES, parse_factory
from knnlm.retrieval.blocks import block_edges

HALF, SINGLE = 2, 4  # bytes of float16; of float32 and int32
BYTES_PER_TOKEN = 6  # of text; WikiText-103 has 4.8
TYPES_BEYOND_MERGES = 1400  # single characters and the like: the paper's 33,344 types come of 32,000 merges
WIKITEXT103 = {"train": 112735284, "valid": 237669, "test": 268161}  # tokens, where neither the config nor a text tells


@dataclass
class Run:
    """The config with defaults filled, tokens of each split, types of the vocabulary (V), and the sizes that follow."""

    config: dict
    tokens: dict[str, int]
    vocabulary: int

    def __post_init__(self):
        """Compute all sizes."""
        config, lm, windows = self.config, self.config["lm"]["architecture"], self.config["windows"]
        # all tokens of a window, and the new ones among them
        self.windows = {of: (size["context"] + size["new"], size["new"]) for of, size in windows.items()}
        self.train = self.tokens["train"]  # T: tokens of the training text, rows of the store
        self.evaluated = self.tokens["valid"] + self.tokens["test"]  # E
        self.largest_split = max(self.tokens["valid"], self.tokens["test"])
        self.width = lm["width"]  # d: dimension of a key
        self.parameters = layer_parameters(lm) + 2 * self.vocabulary * self.width  # P: embeddings untied, no bias
        self.k = config["retrieval"]["k"]  # neighbours of each query
        self.chunks = config["datastore"]["chunks"]
        new = self.windows["train"][1]
        count = math.ceil(self.train / new)
        self.chunk_rows = min(self.train, math.ceil(count / self.chunks) * new)  # n: rows of the largest chunk
        self.factory = parse_factory(config["index"]["factory"], self.width)
        self.codewords = self.factory.codewords
        transform = self.width if self.factory.transform else 0
        centroids = self.factory.lists + self.codewords + transform
        self.centroid_bytes = SINGLE * self.width * centroids  # of an index without rows, and its transform
        self.pairs = sorted({(h, metric) for h, metric, _ in retrievals(config)})  # all that is indexed and searched
        self.list_bytes = self.train * (self.factory.code_bytes + ID_BYTES)  # of an index of the whole store
        self.searches = sum(len(searched_fractions(config, *pair)) for pair in self.pairs)
        self.found_bytes = self.searches * self.evaluated * self.k * 2 * SINGLE  # int32 ids and float32 similarities
        self.text_bytes = BYTES_PER_TOKEN * sum(self.tokens.values())  # of all splits

    @cached_property
    def knn_components(self) -> list[Component]:
        """All kNN components of the run."""
        return [made for found in retrievals(self.config) for made in knn_components(self.config, *found)]

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
    """Return tokens of each split, the corpus's, the config's or the most possible; types, or None if not counted."""
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
    """Return the parameters of all layers."""
    d, f = architecture["width"], architecture["feed_forward_width"]
    attention, feed_forward, norms = 4 * d * d + 4 * d, 2 * d * f + f + d, 4 * d
    return architecture["layers"] * (attention + feed_forward + norms)


def tokens_per_update(config: dict) -> int:
    """Return the tokens of one update, on however many devices."""
    training = config["lm"]["training"]
    return training["tokens_per_sample"] * training["batch_samples"] * training["accumulate"]


def forward_flops(architecture: dict, length: int, vocabulary: int = 0) -> float:
    """Return the operations of a forward pass for one of `length` tokens; with `vocabulary` those of its logits too."""
    layers, d = architecture["layers"], architecture["width"]
    attention = 2 * layers * d * length  # 4·d in each layer for each of length/2 positions on average
    return 2 * layer_parameters(architecture) + attention + 2 * d * vocabulary
