"""Bad configs: odd values under every key. Each ends in one sentence."""

import copy
import datetime
import itertools

import pytest
from configs import changed, config_of, sentence, written
from snakemake.utils import update_config

from knnlm.config.checks import check, check_combinations
from knnlm.config.schema import flattened, read_schema
from knnlm.config.sizes import complete
from knnlm.errors import KnnlmError

SCHEMA = read_schema()
TINY = config_of("tiny")
ENTRY = {"question": "Does it?", "paper": "silent", "candidates": ["{main}"]}
BAD_VALUES = [
    ("name", "x\n", "name", "'x\\n' has a line end"),
    ("name", "x" * 65, "name", "at most 64"),
    ("name", "", "name", "not allowed"),
    ("name", "../other", "name", "not allowed"),
    ("name", "a; touch pwned", "name", "not allowed"),
    ("name", 5, "name", "5 is not text"),
    ("name", datetime.date(2024, 1, 1), "name", "the date 2024-01-01 is neither text nor a number"),
    ("seed", 10**400, "seed", "has more than 80 digits"),
    ("seed", -(16**6000), "seed", "has more than 80 digits"),
    ("seed", float("inf"), "seed", "whole number"),
    ("seed", "2", "seed", "without quotation marks"),
    ("seeds", [1, 1], "seeds", "twice"),
    ("seeds", [1, -1], "seeds[1]", "at least 0"),
    ("seeds", list(range(101)), "seeds", "at most 100"),
    ("seeds", 3, "seeds", "a list"),
    ("corpus", ["sotu"], "corpus", "a section of keys"),
    ("corpus", "sotu", "corpus", "a section of keys"),
    ("corpus.sotu", [1, 2], "corpus.sotu", "a section of keys"),
    ("corpus.text.train", ["a.txt"], "corpus.text.train", "text or null"),
    ("corpus.token_counts", [1, 2, 3], "corpus.token_counts", "a section of keys or null"),
    ("corpus.token_counts", {"train": None, "valid": 1, "test": 1}, "corpus.token_counts.train", "has no value"),
    ("corpus.bpe_merges", 0, "corpus.bpe_merges", "at least 1"),
    ("corpus.wikitext103.urls", ["wikitext-103.zip"], "corpus.wikitext103.urls[0]", "not allowed"),
    ("corpus.wikitext103.urls", ["https://localhost/{run}.zip"], "corpus.wikitext103.urls[0]", "not allowed"),
    ("corpus.wikitext103.urls", ["https://a/b.zip", "https://a/ b"], "corpus.wikitext103.urls[1]", "not allowed"),
    ("corpus.wikitext103.urls", "https://localhost/", "corpus.wikitext103.urls", "a list"),
    ("corpus.wikitext103.urls", [], "corpus.wikitext103.urls", "at least 1"),
    ("corpus.wikitext103.urls", ["https://a/b.zip"] * 2, "corpus.wikitext103.urls", "twice"),
    ("corpus.wikitext103.url", "https://localhost/", "corpus.wikitext103.url", "did you mean corpus.wikitext103.urls"),
    ("corpus.wikitext103.file", ["a.zip"], "corpus.wikitext103.file", "text or null"),
    ("corpus.wikitext103.file", "", "corpus.wikitext103.file", "at least 1"),
    ("corpus.wikitext103.sha256", "0" * 63 + "g", "corpus.wikitext103.sha256", "not allowed"),
    ("corpus.tokenizer", "none", "corpus.tokenizer", "did you mean corpus.tokeniser"),
    ("lm.training.betas", [0.9, 0.9, 0.9], "lm.training.betas", "at most 2"),
    ("lm.training.betas", [0.9, 1.0], "lm.training.betas[1]", "less than 1"),
    ("lm.training.learning_rate", float("-inf"), "lm.training.learning_rate", "a finite number"),
    ("lm.training.fp16", "true", "lm.training.fp16", "without quotation marks"),
    ("windows.train.new", 0, "windows.train.new", "at least 1"),
    ("windows.evaluation", 5, "windows.evaluation", "a section of keys"),
    ("datastore.chunks", 0, "datastore.chunks", "at least 1"),
    ("index.factory", "IVF1," + "9" * 100, "index.factory", "at most 100 characters"),
    ("index.probes", 4, "index.probes", "did you mean index.nprobe"),
    ("retrieval.k", 0, "retrieval.k", "at least 1"),
    ("retrieval.k", "64", "retrieval.k", "not inside the braces of --config"),
    ("retrieval.metrics", ["l2", "l2"], "retrieval.metrics", "twice"),
    ("main", [{"h": "att"}], "main", "a section of keys"),
    ("fractions", [], "fractions", "at least 1"),
    ("temperature.grid", {"low": 1}, "temperature.grid", "a list"),
    ("temperature.low", 0, "temperature.low", "more than 0"),
    ("verdict.explains", 0, "verdict.explains", "more than 0"),
    ("significance.resamples", 99, "significance.resamples", "at least 100"),
    ("figures.dpi", 1.5, "figures.dpi", "whole number"),
    ("resources.gpus", 65, "resources.gpus", "at most 64"),
    ("resources.GPUs", 1, "resources.GPUs", "did you mean resources.gpus"),
    (1, 2, "1", "the name is not text"),
    ("a\nb", 2, "'a\\nb'", "has a line end"),
    ("hypotheses", [ENTRY], "hypotheses", "a section of keys"),
    ("hypotheses", {"mine": None}, "hypotheses.mine", "has no value"),
    ("hypotheses", {"My idea": ENTRY}, "hypotheses", "'My idea' has characters that are not allowed"),
    ("hypotheses", {"idea\n": ENTRY}, "hypotheses.'idea\\n'", "has a line end"),
    ("hypotheses", {"i" * 41: ENTRY}, "hypotheses", "at most 40 characters"),
    ("hypotheses", {2: ENTRY}, "hypotheses.2", "the name is not text"),
    ("hypotheses", {"mine": {"paper": "silent"}}, "hypotheses.mine.question", "missing"),
    ("hypotheses", {"mine": ENTRY | {"paper": "yes"}}, "hypotheses.mine.paper", "supported, refuted, silent"),
    ("hypotheses", {"mine": ENTRY | {"paper_perplexity": 1}}, "hypotheses.mine.paper_perplexity", "more than 1"),
    ("hypotheses", {"mine": ENTRY | {"candidates": []}}, "hypotheses.mine.candidates", "at least 1"),
    ("hypotheses", {"mine": ENTRY | {"candidates": "base"}}, "hypotheses.mine.candidates", "a list or null"),
    ("hypotheses", {"mine": ENTRY | {"after": ["a", "a"]}}, "hypotheses.mine.after", "twice"),
    (
        "hypotheses",
        {"mine": ENTRY | {"familly": "padding"}},
        "hypotheses.mine.familly",
        "did you mean hypotheses.mine.family",
    ),
    ("hypotheses", {"mine": ENTRY | {"family": "../steps"}}, "hypotheses.mine.family", "not allowed"),
    ("hypotheses", {"mine": ENTRY | {"question": "Does\nit?"}}, "hypotheses.mine.question", "has a line end"),
    ("hypotheses", {"mine": ENTRY | {"question": "Does\0it?"}}, "hypotheses.mine.question", "the character U+0000"),
    ("hypotheses", {"mine": ENTRY | {"x_label": "\ud800"}}, "hypotheses.mine.x_label", "the character U+D800"),
    (
        "hypotheses",
        {"mine": ENTRY | {"settings": {"k": datetime.date(2024, 1, 1)}}},
        "hypotheses.mine.settings.k",
        "neither text nor a number",
    ),
    (
        "hypotheses",
        {"mine": ENTRY | {"settings": {"k": b"bytes"}}},
        "hypotheses.mine.settings.k",
        "neither text nor a number",
    ),
    ("hypotheses", {"mine": ENTRY | {"settings": {True: 1}}}, "hypotheses.mine.settings.True", "the name is not text"),
]


@pytest.mark.parametrize(
    ("key", "value", "named", "said"), BAD_VALUES, ids=[f"{case[2]} {case[3]}" for case in BAD_VALUES]
)
def test_a_bad_value_is_told_by_its_key(key, value, named, said):
    config = written() | {key: value} if not isinstance(key, str) or "\n" in key else changed(written(), key, value)
    message = sentence(check, config, SCHEMA)
    assert message.startswith(f"config key {named}: ")
    assert said in message


ODD = [
    None,
    True,
    "",
    "x",
    "x\n",
    "; touch pwned",
    "$(x)",
    "~",
    ".",
    "\0",
    "\ud800",
    "a" * 5000,
    [],
    [None],
    [[]],
    {},
    {"x": 1},
    {None: 1},
]
ODD += [float("nan"), float("inf"), -1, 0, 1.5, 1e308, 10**400, datetime.date(2024, 1, 1), b"x", {"a"}]


@pytest.mark.parametrize("section", sorted(SCHEMA["properties"]))
def test_an_odd_value_under_any_key_passes_or_is_told(section):
    """Whatever stands under a key, the config's checks end in a sentence or in nothing."""
    keys = [key.replace("<name>", "mine") for key, _ in flattened(SCHEMA) if key.split(".")[0] == section]
    filled = changed(TINY, "hypotheses", {"mine": TINY["hypotheses"]["temperature"]})
    told = 0
    for key, value in itertools.product(keys, ODD):
        config = changed(
            {"name": "odd", "hypotheses": {"mine": ENTRY} if section == "hypotheses" else {}}, key, copy.deepcopy(value)
        )
        if key.startswith(("corpus.text", "corpus.wikitext103")):
            config = changed(config, "corpus.source", key.split(".")[1])
        try:
            check(config, SCHEMA)
            whole = copy.deepcopy(filled)
            update_config(whole, config)
            complete(whole)
            check_combinations(whole)
        except KnnlmError as error:
            told += 1
            assert str(error).startswith("config key "), (key, value)
            assert str(error).isprintable(), (key, value)
            assert len(str(error)) < 500, (key, value)
    assert told > len(keys) * len(ODD) / 2
