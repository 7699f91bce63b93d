"""The rehearsal of the paper: the paper's config with other sizes, and a zip in WikiText's format."""

import zipfile

import pytest
from configs import config_of
from wikitext_zip import wikitext_zip

from knnlm.config.checks import check_combinations, warnings
from knnlm.corpus.download import wikitext103
from knnlm.storage.manifests import sha256

PAPER, REHEARSAL = config_of("wikitext103"), config_of("wikitext103", "rehearsal")
# By their last word: what a run is called and reads, and how much of everything there is.
SIZES = {
    "name", "urls", "sha256", "token_counts", "bpe_merges",  # the text
    "layers", "width", "feed_forward_width", "heads",  # the base LM
    "updates", "warmup_updates", "cosine_period", "every", "validate_every", "save_every", "tokens_per_sample",
    "train", "evaluation",  # windows
    "factory", "factories", "training_rows", "gpus", "training_gpus",
    "passes", "rows", "batch", "rows_per_centroid", "iterations", "nprobe", "sample_rows", "train_tokens",
}  # fmt: skip


def differing(paper: object, rehearsal: object, key: tuple[str, ...] = ()) -> dict[tuple[str, ...], tuple]:
    """Return the keys at which two configs differ, with both values."""
    if isinstance(paper, dict) and isinstance(rehearsal, dict):
        names = dict.fromkeys([*paper, *rehearsal])
        found = [differing(paper.get(name), rehearsal.get(name), (*key, name)) for name in names]
        return {name: values for entry in found for name, values in entry.items()}
    return {} if paper == rehearsal else {key: (paper, rehearsal)}


def parts(key: tuple[str, ...]) -> str:
    """Return the word that says what a key is: the last one, but that of a section of sizes."""
    section = [word for word in key if word in ("train", "evaluation", "token_counts")]
    return section[0] if section else key[-1]


def test_the_rehearsal_differs_from_the_paper_in_sizes_only():
    found = differing(PAPER, REHEARSAL)
    assert {parts(key) for key in found} - SIZES - {"fp16"} == set()
    # float16 needs a GPU; whoever has one sets it as the paper has it
    assert found[("lm", "training", "fp16")] == (True, False)


@pytest.mark.parametrize("section", ["datastore", "retrieval", "fractions", "temperature", "main", "significance"])
def test_what_the_rehearsal_is_about_is_as_in_the_paper(section):
    assert REHEARSAL[section] == PAPER[section]


def test_the_rehearsal_has_the_papers_full_lists():
    of = {name: entry.get("settings", {}) for name, entry in REHEARSAL["hypotheses"].items()}
    assert of["softmax-capacity"]["n"] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert of["mixture-of-softmaxes"]["K"] == [2, 3, 4]
    assert of["approximate-search"]["codes"] == [16, 32, 64, 128]
    assert of["approximate-search"]["nprobe"] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert len(of["clustering"]["kinds"]) == 9
    assert REHEARSAL["datastore"]["chunks"] == 64
    assert REHEARSAL["resources"]["query_blocks"] == 4
    assert (len(REHEARSAL["temperature"]["grid"]), len(REHEARSAL["fractions"])) == (39, 11)
    assert REHEARSAL["index"]["factory"].endswith(",PQ64")
    assert REHEARSAL["index"]["nprobe"] == PAPER["index"]["nprobe"]
    assert all(REHEARSAL["hypotheses"][name]["enabled"] for name in ("soft-labels", "memorisation", "second-seed"))


def test_the_rehearsal_can_run_and_nothing_looks_wrong():
    check_combinations(REHEARSAL)
    assert list(warnings(REHEARSAL)) == list(warnings(PAPER))


def test_the_zip_has_wikitexts_format_and_the_checksum_of_the_config(tmp_path):
    path = wikitext_zip(tmp_path / "wikitext-103-v1.zip")
    section = REHEARSAL["corpus"]["wikitext103"]
    assert sha256(path) == section["sha256"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"wikitext-103/wiki.{split}.tokens" for split in ("train", "valid", "test")]
        text = archive.read("wikitext-103/wiki.train.tokens").decode()
    lines = text.removesuffix("\n").split("\n")
    assert all(line == " " or (line.startswith(" ") and line.endswith(" ") and line.strip()) for line in lines)
    assert text.startswith(" \n = State of the Union , ")
    assert {"<unk>", "@-@", "@,@"} <= set(text.split())
    articles = [line for line in lines if line.startswith(" = ") and not line.startswith(" = = ")]
    documents = wikitext103(section | {"file": str(path)}, path)["train"]
    assert len(documents) == len(articles) > 50
    assert any(line.startswith("= = ") for line in documents[0])
