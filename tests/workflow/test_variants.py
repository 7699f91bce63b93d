"""Variants of a run, as a dry run announces them: what each makes itself, and sentences that name a variant's key."""

import json
from pathlib import Path

import pytest
import yaml
from test_elsewhere import ROOT, jobs_by_rule, snakemake

TINY = ROOT / "config/tiny.yaml"
STAGES = ["corpus_text", "train_lm", "datastore_chunk", "retrieve_exact", "hypothesis", "tables", "plot_hypothesis"]


def announced(folder: Path, *words: str, check: bool = True, **keys: object) -> str:
    """Return what a dry run of `tiny` with further keys says."""
    (folder / "mine.yaml").write_text(json.dumps(yaml.safe_load(TINY.read_text(encoding="utf-8")) | keys))
    files = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "mine.yaml"]
    return snakemake(folder, "-n", *words, *files, check=check)


def made(said: str, prefix: str) -> list[str]:
    """Return the stages that a run makes itself."""
    jobs = jobs_by_rule(said)
    return [rule for rule in STAGES if f"{prefix}{rule}" in jobs]


def test_a_variant_makes_what_it_changes_and_takes_the_rest_from_the_first_run_that_makes_it(tmp_path):
    variants = {
        "same": {},
        "narrow": {"lm": {"architecture": {"width": 16}}},
        "narrow-few": {"lm": {"architecture": {"width": 16}}, "retrieval": {"k": 32}},
        "other-level": {"significance": {"level": 0.9}},
    }
    said = announced(tmp_path, variants=variants)
    assert made(said, "") == STAGES[:5]
    assert made(said, "same_") == made(said, "other_level_") == STAGES[5:]
    assert made(said, "narrow_") == STAGES[1:]
    assert made(said, "narrow_few_") == STAGES[3:]


def test_a_variant_is_a_target_of_its_own(tmp_path):
    variants = {"narrow": {"lm": {"architecture": {"width": 16}}}, "wide": {"lm": {"architecture": {"width": 64}}}}
    said = announced(tmp_path, "wide_all", variants=variants)
    assert made(said, "wide_") == STAGES[1:]
    assert made(said, "narrow_") == []
    assert jobs_by_rule(announced(tmp_path, "hypotheses", variants=variants))["wide_hypothesis"] > 13


def test_a_search_trains_the_lm_of_every_variant_and_nothing_more(tmp_path):
    wet, wide = {"lm": {"architecture": {"dropout": 0.5}}}, {"lm": {"architecture": {"width": 64}}}
    said = announced(tmp_path, "lm_search", variants={"wet": wet, "wide": wide, "same": {}})
    jobs = jobs_by_rule(said)
    assert jobs.keys() >= {"lm_search", "train_lm", "wet_train_lm", "wide_train_lm"}
    assert "same_train_lm" not in jobs  # it is that of the main run
    assert not [rule for rule in jobs if rule.endswith(("evaluation_states", "datastore_chunk", "tables"))]


def test_seeds_are_variants_of_the_same_names(tmp_path):
    long = {f"seed-{seed}": {"seed": seed} for seed in (1, 2)}
    short, long = (jobs_by_rule(announced(tmp_path, **keys)) for keys in ({"seeds": [1, 2]}, {"variants": long}))
    assert short == long
    assert short["seed_tables"] == 1
    assert "seed_1_train_lm" not in short  # the main run's own seed


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ({"lm": {"architecture": {"widht": 16}}}, "variants.bad.lm.architecture.widht"),
        ({"lm": {"architecture": {"width": 15}}}, "variants.bad.lm.architecture.heads"),
        ({"lm": 3}, "variants.bad.lm"),
        ({"name": "other"}, "variants.bad.name"),
        (3, "variants.bad"),
    ],
)
def test_a_mistake_in_a_variant_is_one_sentence_that_names_its_key(tmp_path, overlay, key):
    said = announced(tmp_path, variants={"bad": overlay}, check=False)
    assert f"Error: config key {key}: " in said
    assert "Traceback" not in said


def test_what_a_variant_is_too_small_for_is_said_under_its_name_and_nothing_twice(tmp_path):
    few = {"index": {"factory": "IVF2,PQ8", "nprobe": 2}}
    said = announced(tmp_path, variants={"few": few, "same": {}}, hypotheses={"padding": {"enabled": False}})
    assert "variants.few.hypotheses.approximate-search.settings.nprobe: " in said
    assert "variants.same." not in said
