"""Sizes that follow from the text: of any length, they pass all checks, before and after its tokens are counted."""

import copy
import json
import math
from pathlib import Path

import pytest
from configs import config_of, whole, written

from knnlm.config import text_limits
from knnlm.config.checks import check_combinations, warnings
from knnlm.config.sizes import CHOICES, complete, forget
from knnlm.datastore.factory import parse_factory
from knnlm.errors import KnnlmError

RESOLVED = json.loads((Path(__file__).parent / "resolved.json").read_text(encoding="utf-8"))
FOLDER = {"valid_fraction": 0.1, "test_fraction": 0.1}


@pytest.mark.parametrize("name", RESOLVED)
def test_shipped_configs_mean_what_they_meant_before_sizes_could_be_left_open(name):
    def recorded(now: object, then: object) -> object:
        return {key: recorded(now[key], then[key]) for key in then} if isinstance(then, dict) else now

    config = config_of(*([] if name == "demo" else [name]))
    assert recorded(json.loads(json.dumps(config)), RESOLVED[name]) == RESOLVED[name]


def folder_of(path: Path, files: list[int]) -> dict:
    """Return the five lines of README for a folder with files of so many bytes, which are sparse and never read."""
    (path / "texts").mkdir()
    for number, size in enumerate(files):
        with open(path / "texts" / f"{number}.txt", "wb") as file:
            file.truncate(size)
    return {"name": "mine", "corpus": {"source": "text", "text": {"folder": str(path / "texts")}}}


def at(config: dict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config


WORD_BYTES = (6, 16)  # of English with its space, and of long words in scripts of two or three bytes a character


@pytest.mark.parametrize("word_bytes", WORD_BYTES)
@pytest.mark.parametrize("words", [5_000, 20_000, 1_000_000, 100_000_000])
def test_any_text_runs_with_five_lines(words, word_bytes, tmp_path):
    overlay = folder_of(tmp_path, [words * word_bytes // 10] * 10)
    config = written(overlay)
    config = whole(config)
    check_combinations(config)
    assert all(at(config, key) is not None for key in CHOICES)
    assert not list(warnings(config))
    # What is counted: at least one token a word, and at most one a byte; eight of the ten documents are trained on.
    for tokens in (words * 8 // 10, words * word_bytes * 8 // 10):
        assert not list(text_limits.problems(config, tokens))
    factory, rows = parse_factory(config["index"]["factory"], 128), words * 8 // 10
    assert config["index"]["nprobe"] <= factory.lists
    assert min(config["index"]["training_rows"], rows) >= factory.least_training_rows
    assert min(config["index"]["training_rows"], rows) >= 39 * factory.lists


def test_longer_texts_get_larger_sizes(tmp_path):
    found = []
    for words in (5_000, 30_000, 200_000, 1_000_000, 10_000_000, 100_000_000):
        (tmp_path / str(words)).mkdir()
        config = config_of(folder_of(tmp_path / str(words), [words // 2] * 12))
        lists = parse_factory(config["index"]["factory"], 128).lists
        training = config["lm"]["training"]
        found.append((config["corpus"]["bpe_merges"], training["updates"], config["retrieval"]["k"], lists))
    for sizes in zip(*found, strict=True):
        assert list(sizes) == sorted(sizes)
        assert len(set(sizes)) >= 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retrieval.k", 256),
        ("fractions", [0.5, 1.0]),
        ("index.factory", "IVF8,Flat"),
        ("index.training_rows", 300),
        ("lm.training.tokens_per_sample", 32),
        ("lm.training.updates", 7),
        ("windows.train", {"context": 100, "new": 200}),
        ("windows.evaluation", {"new": 20}),
        ("datastore.chunks", 3),
        ("lm.architecture", {"width": 60, "heads": 2}),
    ],
)
def test_what_is_given_stays_and_the_rest_goes_along(key, value, tmp_path):
    overlay = folder_of(tmp_path, [3_000] * 10)
    *path, last = key.split(".")
    section = overlay
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    config = config_of(overlay)
    check_combinations(config)
    found = at(config, key)
    assert (found.items() >= value.items()) if isinstance(value, dict) else (found == value)


def test_a_training_that_patience_ends_validates_often_and_keeps_every_checkpoint(tmp_path):
    overlay = folder_of(tmp_path, [30_000] * 10)
    plain = config_of(overlay)["lm"]["training"]
    patient = config_of(overlay | {"lm": {"training": {"patience": 3}}})["lm"]["training"]
    assert plain["updates"] == patient["updates"]
    assert patient["save_every"] == patient["validate_every"] == patient["updates"] // 20
    assert plain["save_every"] == plain["validate_every"] == plain["updates"] // 6


def test_what_is_given_and_cannot_be_is_refused(tmp_path):
    overlay = folder_of(tmp_path, [300] * 10) | {"retrieval": {"k": 5000}}
    with pytest.raises(KnnlmError, match=r"config key retrieval\.k: 5000 is more than the \d+ rows"):
        check_combinations(config_of(overlay))


def test_what_counting_will_refuse_is_said_before(tmp_path):
    overlay = folder_of(tmp_path, [3_000] * 10) | {"retrieval": {"k": 512}, "fractions": [0.05, 1.0]}
    config = config_of(overlay)
    check_combinations(config)  # one token a byte would be enough
    (line,) = warnings(config)
    assert line.startswith("retrieval.k: will probably be refused when the tokens are counted: 512 is more than")


def test_token_counts_that_a_text_cannot_have_are_said(tmp_path):
    overlay = folder_of(tmp_path, [3_000] * 10)
    for train, said in ((4_800, 0), (3_000 * 4_800, 1), (100, 1)):
        overlay["corpus"]["token_counts"] = {"train": train, "valid": 500, "test": 500}
        lines = [line for line in warnings(config_of(overlay)) if line.startswith("corpus.token_counts.train: ")]
        assert len(lines) == said
    counted = {"train": 4_800, "valid": 500, "test": 520}
    assert text_limits.difference(None, counted) is None
    assert text_limits.difference(dict(counted), counted) is None
    said = text_limits.difference({"train": 4_800, "valid": 500, "test": 521}, counted)
    assert (
        said == "config key corpus.token_counts: test 521 given, 520 counted; what is counted is used. Correct the key."
    )
    said = text_limits.difference({"train": 14_400_000, "valid": 500, "test": 500}, counted)
    assert "train 14,400,000 given, 4,800 counted" in said


def test_a_single_large_document_may_be_dealt_to_any_split(tmp_path):
    config = config_of(folder_of(tmp_path, [1_000_000, *[4_000] * 9]))
    check_combinations(config)
    assert not list(text_limits.problems(config, 8 * 4_000 // 10))  # ten bytes a token, without the large one


def test_sizes_of_the_demo_are_for_its_own_text():
    demo = {"corpus": {"source": "sotu"}, "retrieval": {"k": 512, "h": ["att"]}, "fractions": [0.5, 1.0]}
    for given, k, fractions in (
        ({"retrieval": {}}, 512, [0.5, 1.0]),
        ({"corpus": {"source": "sotu"}}, 512, [0.5, 1.0]),
        ({"corpus": {"source": "text"}}, None, None),
        ({"corpus": {"source": "text"}, "retrieval": {"k": 512}}, 512, None),
    ):
        config = copy.deepcopy(demo)
        config["corpus"] |= given.get("corpus", {})
        forget(config, given, "sotu")
        assert config["retrieval"] == {"k": k, "h": ["att"]}
        assert config["fractions"] == fractions


def test_settings_of_hypotheses_that_a_run_is_too_small_for_are_lowered_and_said(tmp_path):
    config = config_of()
    config["index"] |= {"factory": "IVF16,PQ32", "nprobe": 4}
    config["retrieval"]["k"] = 60
    _, lines = complete(config)
    assert lines == [
        "hypotheses.approximate-search.settings.nprobe: 32 left out, as the index has 16 lists",
        "hypotheses.neighbours.settings.counts: 64, 256 left out, as retrieval.k is 60",
        "hypotheses.soft-labels.settings.nprobe: 32 lowered to 16, as the index has 16 lists",
        "hypotheses.soft-labels.settings.k: 64 lowered to 60, as retrieval.k is 60",
    ]
    assert config["hypotheses"]["approximate-search"]["settings"]["nprobe"] == [1, 4, 32]  # the step leaves it out
    assert config["hypotheses"]["soft-labels"]["settings"] == {"k": 60, "nprobe": 16}
    check_combinations(config)


def disabled(*names: str, **changes: dict) -> tuple[dict, list[str]]:
    config = config_of()
    for name in names:
        config["hypotheses"][name]["enabled"] = False
    config |= changes
    return config, complete(config)[1]


def test_a_hypothesis_goes_with_the_one_that_it_only_compares_with():
    config, lines = disabled("softmax-capacity")
    check_combinations(config)
    out = {name for name, entry in config["hypotheses"].items() if not entry["enabled"]}
    of_learned = {"input-representation", "learned-embedding"}
    assert out == {"softmax-capacity", "adaptive-capacity", "interpolated-loss"} | of_learned
    assert "hypotheses.adaptive-capacity: left out, as softmax-capacity is disabled" in lines
    assert len(lines) == len(out) - 1  # all but the one that the config disables


def test_a_hypothesis_with_other_candidates_loses_only_those_that_are_left_out():
    config = config_of()
    config["hypotheses"]["softmax-capacity"]["enabled"] = False
    both = {"candidates": ["softmax-capacity-att-1v-random", "additional-linear-att"]}
    config["hypotheses"]["learned-embedding"] |= both
    _, lines = complete(config)
    assert config["hypotheses"]["learned-embedding"]["candidates"] == ["additional-linear-att"]
    assert any(line.startswith("hypotheses.learned-embedding.candidates: softmax-capacity-att-1v") for line in lines)


def test_a_hypothesis_goes_with_the_one_that_it_comes_after():
    config, lines = disabled("second-seed")
    check_combinations(config)
    assert lines == ["hypotheses.second-seed-and-knn: left out, as second-seed is disabled"]
    assert not config["hypotheses"]["second-seed-and-knn"]["enabled"]


def test_a_hypothesis_goes_with_a_metric_that_is_not_retrieved():
    config, lines = disabled(
        retrieval={"k": 512, "h": ["att", "ffn"], "metrics": ["ip"]}, main={"h": "att", "metric": "ip"}
    )
    check_combinations(config)
    assert lines == ["hypotheses.ensembling: left out, as l2 is not in retrieval.metrics"]


def test_a_name_that_nobody_makes_is_still_refused():
    config = config_of()
    config["hypotheses"]["padding"]["against"] = "paddings-exact-0.1"
    assert complete(config)[1] == []
    with pytest.raises(KnnlmError, match="is no component of this run"):
        check_combinations(config)


def test_sizes_are_chosen_in_whole_and_round_numbers(tmp_path):
    config = config_of(folder_of(tmp_path, [123_457] * 10))
    assert math.log2(config["retrieval"]["k"]).is_integer()
    assert all(str(at(config, key)).rstrip("0")[2:] == "" for key in ("corpus.bpe_merges", "lm.training.updates"))
