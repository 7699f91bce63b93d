"""The config: its files are valid, its schema is complete, and each mistake is told by the name of its key."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from configs import changed, refusal, whole, written

from knnlm.config import variants
from knnlm.config.checks import check, check_combinations, warnings
from knnlm.config.readme import documentation
from knnlm.config.schema import flattened, read_schema

ROOT = Path(__file__).parents[3]
SCHEMA = read_schema()
OVERLAYS = [(), ("tiny",), ("sotu",), ("wiki",), ("wikitext103",), ("wikitext103", "rehearsal"), ("sotu", "tiny")]
OVERLAYS += [("ladder",), ("search",), ("sotu", "search"), ("wiki", "search")]
NAMELESS = {"search"}  # variants of whatever run they lie over


DEFAULTS, TINY, PAPER = whole({"name": "defaults"}), whole(written("tiny")), whole(written("wikitext103"))


@pytest.mark.parametrize("overlays", OVERLAYS, ids="+".join)
def test_files_of_the_folder_are_valid(overlays):
    config = written(*overlays)
    check(config, SCHEMA)
    config = whole(config)
    check_combinations(config)
    assert config["name"] == next((name for name in reversed(overlays) if name not in NAMELESS), "demo")
    check(config, SCHEMA)  # what Snakemake fills in is valid as well
    for name, overlay in variants.overlays(config).items():
        check_combinations(whole(variants.applied(written(*overlays), name, overlay)))


def test_an_overlay_for_every_file_of_the_folder_is_tested():
    names = {path.stem for path in (ROOT / "config").glob("*.yaml")}
    assert names == {"config", "hypotheses"} | {name for overlays in OVERLAYS for name in overlays}


def test_defaults_alone_are_a_valid_config():
    config = whole({"name": "x"})
    check_combinations(config)
    assert config["retrieval"] == {"k": 1024, "h": ["att", "ffn"], "metrics": ["l2", "ip"]}
    assert config["lm"]["training"]["cosine_period"] is None


def test_paper_hyper_parameters():
    training = PAPER["lm"]["training"]
    assert training["tokens_per_sample"] * training["batch_samples"] * training["accumulate"] == 73_728
    assert {t / 10 for t in range(1, 31)} <= set(PAPER["temperature"]["grid"])
    assert PAPER["fractions"] == [0.05, *(f / 10 for f in range(1, 11))]


@pytest.mark.parametrize(
    ("key", "subschema"), list(flattened(SCHEMA)), ids=lambda item: item if isinstance(item, str) else ""
)
def test_every_key_is_described_and_bounded(key, subschema):
    assert subschema["description"].endswith(".")
    if subschema.get("type") == "object" or subschema.get("type") == ["object", "null"]:
        free = {
            "variants": dict,
            "hypotheses": dict,
            "hypotheses.<name>.settings": bool,
        }  # names of the user's own, and what the steps check
        assert subschema["additionalProperties"] is False or isinstance(subschema["additionalProperties"], free[key])
    if not key.startswith("corpus.token_counts."):  # given together or not at all
        assert "default" in subschema
    for part in (subschema, subschema.get("items", {})):
        types = [part["type"]] if isinstance(part.get("type"), str) else part.get("type", [])
        if {"integer", "number"} & set(types):
            assert {"minimum", "exclusiveMinimum"} & part.keys()
            assert {"maximum", "exclusiveMaximum"} & part.keys()
        if "array" in types:
            assert {"minItems", "maxItems", "items"} <= part.keys()


def test_readme_is_what_the_schema_says():
    assert (ROOT / "config/README.md").read_text(encoding="utf-8") == documentation(SCHEMA), (
        "run the command at its end"
    )


def test_readme_names_every_key_that_a_full_config_has():
    def leaves(section: dict, prefix: str = ""):
        for name, value in section.items():
            if prefix + name == "hypotheses":
                continue  # under names of the user's own
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]

    rows = set(re.findall(r"^\| `([a-z0-9_.]+)` \|", (ROOT / "config/README.md").read_text(), re.MULTILINE))
    assert set(leaves(PAPER)) <= rows


SCHEMA_MISTAKES = [
    ("lm.architecture.head", 4, "lm.architecture.head", "did you mean lm.architecture.heads"),
    ("retreival", {}, "retreival", "did you mean retrieval"),
    ("k", 64, "k", "did you mean retrieval.k"),
    ("index.chunks", 64, "index.chunks", "did you mean datastore.chunks"),
    ("figures.zzz", 1, "figures.zzz", "known here are dpi"),
    ("corpus.token_counts", {"train": 5, "valid": 5}, "corpus.token_counts.test", "missing"),
    ("lm.training.learning_rate", "1e-3", "lm.training.learning_rate", "write 1.0e-3"),
    ("lm.training.learning_rate", float("nan"), "lm.training.learning_rate", "finite"),
    ("lm.training.learning_rate", 0, "lm.training.learning_rate", "more than 0"),
    ("lm.training.updates", 10.0, "lm.training.updates", "whole number"),
    ("lm.training.patience", 0, "lm.training.patience", "at least 1"),
    ("lm.training.updates", True, "lm.training.updates", "whole number"),
    ("lm.training.betas", [0.9], "lm.training.betas", "at least 2"),
    ("lm.training.fp16", "yes", "lm.training.fp16", "true or false"),
    ("lm.architecture.dropout", 1, "lm.architecture.dropout", "less than 1"),
    ("lm", None, "lm", "remove the line"),
    ("name", "My run", "name", "not allowed"),
    ("seed", -1, "seed", "at least 0"),
    ("corpus.source", "wikipedia", "corpus.source", "sotu, text, wiki, wikitext103"),
    ("corpus.sotu.kinds", ["spoken", "spoken"], "corpus.sotu.kinds", "twice"),
    ("corpus.sotu.kinds", ["sung"], "corpus.sotu.kinds[0]", "spoken, written"),
    ("corpus.wiki.language", "fr", "corpus.wiki.language", "en-us, fr-fr, es-es"),
    ("corpus.wiki.sha256", None, "corpus.wiki.sha256", "remove the line"),
    ("corpus.wikitext103.sha256", "abc", "corpus.wikitext103.sha256", "allowed"),
    ("retrieval.h", [], "retrieval.h", "at least 1"),
    ("retrieval.metrics", ["l2", "cosine"], "retrieval.metrics[1]", "l2, ip"),
    ("fractions", [0.0, 1.0], "fractions[0]", "more than 0"),
    ("fractions", [0.5, 0.5, 1.0], "fractions", "twice"),
    ("fractions", 1.0, "fractions", "a list"),
    ("temperature.grid", [1.0, "2"], "temperature.grid[1]", "number"),
    ("significance.level", 1.5, "significance.level", "less than 1"),
    ("corpus.text.folder", "", "corpus.text.folder", "at least 1"),
]


@pytest.mark.parametrize(("key", "value", "named", "said"), SCHEMA_MISTAKES)
def test_mistakes_before_defaults_are_whole(key, value, named, said):
    message = refusal(check, changed(written(), key, value), SCHEMA)
    assert message.startswith(f"config key {named}: ")
    assert said in message


def test_missing_name_and_wrong_file():
    assert refusal(check, {}, SCHEMA).startswith("config key name: ")
    assert "section" in refusal(check, ["name"], SCHEMA)


COMBINATIONS = [
    (DEFAULTS, {"lm.architecture.heads": 3}, "lm.architecture.heads", "3 does not divide lm.architecture.width (128)"),
    (DEFAULTS, {"lm.architecture.width": 33, "lm.architecture.heads": 3}, "lm.architecture.width", "odd"),
    (DEFAULTS, {"lm.training.minimum_learning_rate": 0.1}, "lm.training.minimum_learning_rate", "above"),
    (DEFAULTS, {"lm.training.warmup_initial_learning_rate": 0.1}, "lm.training.warmup_initial_learning_rate", "above"),
    (DEFAULTS, {"lm.training.warmup_updates": 1501}, "lm.training.warmup_updates", "1500"),
    (
        DEFAULTS,
        {"lm.training.warmup_updates": 0, "lm.training.schedule": "inverse_sqrt"},
        "lm.training.warmup_updates",
        "needs a warm-up",
    ),
    (
        DEFAULTS,
        {"lm.training.patience": 2, "lm.training.validate_every": 50, "lm.training.save_every": 100},
        "lm.training.save_every",
        "make them equal",
    ),
    (DEFAULTS, {"lm.training.fp16": True}, "lm.training.fp16", "resources.training_gpus"),
    (DEFAULTS, {"resources.training_gpus": 4, "lm.training.accumulate": 6}, "lm.training.accumulate", "multiple of 4"),
    (PAPER, {"resources.training_nodes": 3}, "resources.training_nodes", "divisor"),
    (DEFAULTS, {"resources.training_nodes": 2}, "resources.training_nodes", "or 1"),
    (DEFAULTS, {"windows.train.context": 129}, "windows.train", "257"),
    (DEFAULTS, {"windows.evaluation.new": 65}, "windows.evaluation", "257"),
    (DEFAULTS, {"index.factory": "HNSW32"}, "index.factory", "IVF<lists>"),
    (DEFAULTS, {"index.factory": "IVF0,PQ8"}, "index.factory", "IVF<lists>"),
    (DEFAULTS, {"index.factory": "IVF512,PQ32x4"}, "index.factory", "IVF<lists>"),
    (DEFAULTS, {"index.factory": "IVF512,PQ48"}, "index.factory", "48 PQ codes do not divide"),
    (DEFAULTS, {"index.factory": "PQ32"}, "index.factory", "IVF<lists>"),
    (DEFAULTS, {"index.factory": "IVF512_HNSW16,PQ32"}, "index.factory", "IVF<lists>_HNSW32"),
    (DEFAULTS, {"index.factory": "IVF512,PQ32x4fsr"}, "index.factory", "PQ<n>x4fs"),
    (DEFAULTS, {"index.factory": "PCA,IVF512,PQ32"}, "index.factory", "PCA<width>"),
    (DEFAULTS, {"index.factory": "OPQ48,IVF512,PQ32"}, "index.factory", "48 OPQ codes do not divide"),
    (
        DEFAULTS,
        {"index.factory": "OPQ16_48,IVF512,PQ32"},
        "index.factory",
        "32 PQ codes do not divide the width behind",
    ),
    (DEFAULTS, {"index.factory": "RR256,IVF512,SQ8"}, "index.factory", "can make fewer, not more"),
    (DEFAULTS, {"index.factory": "PCA64,IVF512,SQ8"}, "index.factory", "by inner product"),
    (DEFAULTS, {"index.factory": "IVF512,PQ256"}, "index.factory", "256 PQ codes do not divide"),
    (DEFAULTS, {"index.training_rows": 511, "datastore.chunks": 1}, "index.training_rows", "which needs 512"),
    (DEFAULTS, {"index.training_rows": 514, "datastore.chunks": 4}, "index.training_rows", "which needs 515"),
    (
        DEFAULTS,
        {"index.factory": "IVF16,PQ32", "index.nprobe": 8, "index.training_rows": 255, "datastore.chunks": 1},
        "index.training_rows",
        "256",
    ),
    (DEFAULTS, {"index.nprobe": 513}, "index.nprobe", "512"),
    (DEFAULTS, {"main.h": "ffn", "retrieval.h": ["att"]}, "main.h", "retrieval.h"),
    (DEFAULTS, {"retrieval.metrics": ["ip"]}, "main.metric", "retrieval.metrics"),
    (DEFAULTS, {"fractions": [0.5, 0.1, 1.0]}, "fractions", "ascend"),
    (DEFAULTS, {"fractions": [0.1, 0.5]}, "fractions", "1.0"),
    (DEFAULTS, {"fractions": [0.1, 0.1000000001, 1.0]}, "fractions", "six digits"),
    (PAPER, {"index.nprobe": 4096}, "index.nprobe", "GPU, and a search on the CPU would take about"),
    (PAPER, {"index.factory": "IVF64,PQ128"}, "index.factory", "PQ of 128 codes on a GPU"),
    (PAPER, {"index.factory": "IVF8,PQ64", "index.nprobe": 8, "retrieval.k": 2049}, "retrieval.k", "days"),
    (DEFAULTS, {"corpus.sotu.test": 3}, "corpus.sotu.test", "corpus.sotu.valid"),
    (DEFAULTS, {"corpus.sotu.valid": 10}, "corpus.sotu.valid", "0 to 9"),
    (DEFAULTS, {"corpus.source": "wiki", "corpus.wiki.test": 7}, "corpus.wiki.test", "corpus.wiki.valid"),
    (DEFAULTS, {"corpus.source": "wiki", "corpus.wiki.period": 17}, "corpus.wiki.test", "corpus.wiki.period (17)"),
    (DEFAULTS, {"corpus.sotu.first_year": 2027}, "corpus.sotu.first_year", "last_year"),
    (DEFAULTS, {"corpus.sotu.first_year": 2019, "corpus.sotu.last_year": 2022}, "corpus.sotu.valid", "no address"),
    (DEFAULTS, {"temperature.low": 20000.0}, "temperature.low", "temperature.high"),
    (DEFAULTS, {"temperature.high": 50.0}, "temperature.grid", "60.0"),
    (DEFAULTS, {"temperature.grid": [0.5, 2.0]}, "temperature.grid", "1.0"),
    (TINY, {"retrieval.k": 100_000}, "retrieval.k", "rows of the smallest store"),
    (TINY, {"index.factory": "IVF200000,PQ8", "index.training_rows": 200_001}, "index.factory", "fewer lists"),
    (TINY, {"lm.training.tokens_per_sample": 1_000_000}, "lm.training.tokens_per_sample", "too long"),
    (TINY, {"datastore.chunks": 9_999, "index.training_rows": 20_000}, "datastore.chunks", "windows"),
    (TINY, {"corpus.token_counts": {"train": 1279, "valid": 9, "test": 9}}, "retrieval.k", "63 rows"),
    (PAPER, {"corpus.token_counts.train": 20_000}, "retrieval.k", "1000 rows"),
]


@pytest.mark.parametrize(("config", "changes", "named", "said"), COMBINATIONS)
def test_impossible_combinations(config, changes, named, said):
    for key, value in changes.items():
        config = changed(config, key, value)
    check(config, SCHEMA)
    message = refusal(check_combinations, config)
    assert message.startswith(f"config key {named}: ")
    assert said in message


def test_k_may_be_exactly_the_smallest_store():
    config = changed(TINY, "index.factory", "IVF16,Flat")
    check_combinations(
        changed(config, "corpus.token_counts", {"train": 1280, "valid": 9, "test": 9})
    )  # 0.05 · 1280 = 64 = k


def test_reading_a_workflow_imports_nothing_heavy():
    heavy = "{'torch', 'faiss', 'fairseq', 'numpy', 'pandas', 'sotu'}"
    program = f"import sys, knnlm.config.checks; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_an_index_that_faiss_does_not_know_is_refused_in_a_sweep_too():
    config = changed(PAPER, "hypotheses.approximate-search.settings.factories", ["IVF512,PQ32", "IVF512,LSH"])
    message = refusal(check_combinations, config)
    assert "hypotheses.approximate-search.settings.factories: 'IVF512,LSH' is not an index" in message


def test_what_faiss_cannot_do_on_a_gpu_in_time_is_done_on_the_cpu_and_said():
    on_gpu = changed(DEFAULTS, "resources.gpus", 1)
    assert not [line for line in warnings(on_gpu) if "on the CPU" in line]
    for key, value in (("retrieval.k", 2049), ("index.factory", "IVF512,PQ128"), ("index.factory", "IVF512,PQ32x4fs")):
        config = changed(on_gpu, key, value)
        check_combinations(config)
        (line,) = [line for line in warnings(config) if "on the CPU" in line]
        assert line.startswith(f"{key}: ")
        assert not [line for line in warnings(changed(config, "resources.gpus", 0)) if "on the CPU" in line]
