"""Variants of a run: their configs, and the run that makes what several of them share."""

import re
from pathlib import Path

import pytest
from configs import ROOT, changed, config_of, sentence, whole, written
from hypothesis import given
from hypothesis import strategies as st

from knnlm.config import variants
from knnlm.config.checks import check, check_combinations
from knnlm.config.schema import read_schema
from knnlm.config.sizes import complete

TINY = config_of("tiny")
RULES = ROOT / "workflow/rules"
LATER = "significance"  # a key that shapes tables alone


def applied(*overlay: object, of: dict = TINY) -> dict:
    """Return the complete config of the variant `other` that changes one dotted key."""
    own = variants.applied(of, "other", changed({}, *overlay) if overlay else {})
    complete(own)
    return own


def made_by_main(*overlay: object, of: dict = TINY) -> list[str]:
    """Return the stages of a variant whose files the main run makes."""
    return [stage for stage, run in variants.makers(applied(*overlay, of=of), [of]).items() if run == of["name"]]


def test_seeds_are_short_for_variants_of_another_seed_alone():
    long = {"seed-1": {"seed": 1}, "seed-2": {"seed": 2}}
    assert variants.overlays(TINY | {"seeds": [1, 2]}) == variants.overlays(TINY | {"variants": long}) == long
    mixed = TINY | {"seeds": [2], "variants": {"small": {"lm": {}, "seed": 3}}}
    assert variants.run_names(mixed) == ["tiny-seed-2", "tiny-small"]
    assert variants.of_seeds_alone(mixed) == ["tiny-seed-2"]


def test_a_name_that_seeds_make_too_is_refused():
    told = sentence(variants.overlays, TINY | {"seeds": [1], "variants": {"seed-1": {}}})
    assert told.startswith("config key variants.seed-1: ")


@pytest.mark.parametrize("key", variants.NOT_VARIED)
def test_a_variant_is_neither_of_another_name_nor_has_variants(key):
    assert f"config key {key}: " in sentence(variants.applied, TINY, "other", {key: "x"})


def test_an_overlay_lies_over_the_config_and_leaves_it_as_it_is():
    before = repr(TINY)
    own = applied("lm.architecture.width", 16)
    assert own["lm"]["architecture"] == TINY["lm"]["architecture"] | {"width": 16}
    assert (own["name"], own["seeds"], own["variants"]) == ("tiny-other", [], {})
    assert repr(TINY) == before


def test_open_sizes_follow_the_variant_s_own_text():
    open_sizes = whole(written({"corpus": {"source": "wikitext103"}}))
    counts = {"train": 100_000_000, "valid": 200_000, "test": 200_000}
    of = variants.applied(open_sizes, "x", {"corpus": {"token_counts": counts}})
    assert of["corpus"]["token_counts"] == counts
    assert variants.applied(of, "y", {"corpus": {"share": 0.5}})["corpus"]["token_counts"] is None
    assert variants.applied(of, "y", {"seed": 2})["corpus"]["token_counts"] == counts
    assert variants.applied(TINY, "z", {"corpus": {"source": "text"}})["retrieval"]["k"] is None


@pytest.mark.parametrize(
    ("overlay", "shared"),
    [
        ((), ["corpus", "language_model", "datastore", "retrieval", "hypotheses"]),
        ((f"{LATER}.level", 0.9), ["corpus", "language_model", "datastore", "retrieval", "hypotheses"]),
        (("hypotheses.padding.question", "Why?"), ["corpus", "language_model", "datastore", "retrieval", "hypotheses"]),
        (("hypotheses.padding.enabled", False), ["corpus", "language_model", "datastore", "retrieval"]),
        (("retrieval.k", 32), ["corpus", "language_model", "datastore"]),
        (("index.nprobe", 2), ["corpus", "language_model", "datastore"]),
        (("datastore.chunks", 3), ["corpus", "language_model"]),
        (("lm.architecture.width", 16), ["corpus"]),
        (("seed", 2), ["corpus"]),
        (("corpus.share", 0.5), []),
        (("corpus.bpe_merges", 400), []),
    ],
)
def test_what_a_variant_does_not_change_the_main_run_makes(overlay, shared):
    assert made_by_main(*overlay) == shared


def test_another_seed_draws_another_share_of_the_text_and_deals_a_folder_anew(tmp_path):
    half = applied("corpus.share", 0.5)
    assert made_by_main("seed", 2, of=half) == []
    folder = changed(TINY, "corpus.source", "text")
    folder = changed(folder, "corpus.text.folder", str(tmp_path))
    assert made_by_main("seed", 2, of=folder) == []


def test_variants_share_with_each_other_what_the_main_run_does_not_make():
    first, second = applied("corpus.share", 0.5), applied("corpus.share", 0.5)
    first["name"], second["lm"]["architecture"]["width"] = "tiny-first", 16
    assert variants.makers(second, [TINY, first]) == dict.fromkeys(variants.STAGES, "tiny-other") | {
        "corpus": "tiny-first"
    }


@given(st.lists(st.sampled_from(["seed", "corpus.share", "retrieval.k", f"{LATER}.resamples"]), max_size=4))
def test_a_stage_is_shared_only_behind_shared_stages(keys):
    own = variants.applied(TINY, "other", {})
    for key in keys:
        own = changed(own, key, {"corpus.share": 0.5}.get(key, 7))
    shared = [run == "tiny" for run in variants.makers(own, [TINY]).values()]
    assert shared == sorted(shared, reverse=True)


def covered(key: str, keys: list[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def test_a_stage_depends_on_all_keys_that_its_rules_see():
    """Else a variant would take files that were made with another value."""
    so_far = ["corpus"]
    for stage, keys in variants.STAGES.items():
        so_far += keys
        text = (RULES / f"{stage}.smk").read_text() + (hypothesis_keys() if stage == "hypotheses" else "")
        for call in re.findall(r"settings\(([^()]*)\)", text):
            for key in re.findall(r'"([\w.]+)"', re.sub(r"\w+=[^,]*", "", call)):
                assert covered(key, so_far), (stage, key)


def hypothesis_keys() -> str:
    (known,) = re.findall(r"^KNOWN = \{(.*?)^\}", Path(RULES / "hypothesis_files.smk").read_text(), re.M | re.S)
    keys = re.findall(r'"([\w.]+)"', re.sub(r'"\w+": ', "", known))
    assert "lm" in keys
    return f"settings({', '.join(repr(key).replace(chr(39), chr(34)) for key in keys)})"


def test_every_section_of_the_config_shapes_a_stage_or_none_before_the_tables():
    shaping = {key.partition(".")[0] for keys in variants.STAGES.values() for key in keys} | {"corpus", "hypotheses"}
    later = {"name", "seeds", "variants", "verdict", "significance", "figures", "performance", "resources"}
    assert shaping | later == set(TINY)
    assert not shaping & later


def test_what_a_variant_changes_is_said_on_one_line():
    overlay = {"lm": {"architecture": {"width": 64}}, "seed": 2, "fractions": [0.5, 1.0]}
    assert variants.changes(overlay) == "lm.architecture.width 64, seed 2, fractions [0.5, 1.0]"
    assert variants.changes({}) == ""


def test_the_keys_that_any_variant_changes_are_told_of_all():
    config = TINY | {"seeds": [2], "variants": {"narrow": {"lm": {"architecture": {"width": 16}}, "fractions": [1.0]}}}
    runs = {name: variants.applied(config, name, overlay) for name, overlay in variants.overlays(config).items()}
    assert variants.varied(config, runs) == {
        "index": ["seed-2", "narrow"],
        "columns": ["seed", "lm.architecture.width", "fractions"],
        "data": [[2, 32, "[0.05, 0.1, 0.5, 1.0]"], [1, 16, "[1.0]"]],
    }


def test_the_rungs_of_the_ladder_fit_and_share_their_text():
    ladder, runs = config_of("ladder"), {}
    for name, overlay in variants.overlays(ladder).items():
        runs[name] = variants.applied(ladder, name, overlay)
        check(runs[name], read_schema())
        complete(runs[name])
        check_combinations(runs[name])
    assert len(runs) >= 9
    corpora = {
        name: variants.makers(own, [ladder, *list(runs.values())[:place]])["corpus"]
        for place, (name, own) in enumerate(runs.items())
    }
    assert len(set(corpora.values())) == len({own["corpus"]["share"] for own in runs.values()}) == 3
    assert variants.makers(runs["w128-whole"], [ladder])["hypotheses"] == "ladder"
