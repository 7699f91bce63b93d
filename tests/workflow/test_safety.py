"""Names that would be commands, of the run's folder, of texts and in a config.

Any of them that reached a shell as code would be run.
"""

import json
import os
import stat

import numpy as np
import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.slow

ODD = 'it\'s "odd" $(touch pwned) `touch pwned`; touch pwned & # * %s \\ <run> é'
NAMES = [
    "a b",
    "it's",
    '"quoted"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "&& touch pwned",
    "| touch pwned",
    "-rf",
    "*",
    "%s",
    "\\n",
    "é 😀",
    "#",
]


@pytest.fixture(scope="module")
def odd(finished, tmp_path_factory):
    """The finished project in a folder with an odd name, beside a folder of text with odd names."""
    project = finished.copied(tmp_path_factory.mktemp("safety") / ODD)
    texts = project.folder / f"texts {ODD.replace('<run>', '')}"
    texts.mkdir()
    generator = np.random.default_rng(0)
    for name in NAMES:
        words = generator.choice(["these", "are", "words", "$(touch", "pwned)", ";", "😀", "שלום", "مرحبا"], 400)
        (texts / f"{name}.txt").write_bytes(b"\xef\xbb\xbf" + " ".join(words).encode() + b"\r\n")
    overlay = yaml.safe_load((project.folder / "config/tiny.yaml").read_text())
    section = {
        "source": "text",
        "tokeniser": "none",
        "bpe_merges": 20,
        "text": {"folder": texts.name, "valid_fraction": 0.2, "test_fraction": 0.2},
    }
    small = {"name": "odd", "corpus": section, "index": {"factory": "IVF2,Flat", "training_rows": 256, "nprobe": 1}}
    (project.folder / "config/odd.yaml").write_text(json.dumps(overlay | small))
    question = "Is it '$(touch pwned)', `touch pwned` or \"; touch pwned\" for $5, or $6?"
    entry = {"question": question, "settings": {"ensembles": {"; touch pwned $(touch pwned)": ["{l2}"]}}}
    overlay["hypotheses"]["ensembling"] = entry
    (project.folder / "config/tiny-odd.yaml").write_text(json.dumps(overlay))
    return project


def nothing_was_executed(project) -> bool:
    return not [path for path in project.folder.parent.rglob("*") if path.name == "pwned"] and not os.path.exists(
        "pwned"
    )


def writable_by_all(folder) -> list[str]:
    return [
        str(path)
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH
    ]


def test_nothing_of_a_whole_run_may_be_written_by_everyone(finished):
    assert not writable_by_all(finished.folder / "results")
    assert not writable_by_all(finished.folder / ".snakemake")


def test_odd_names_of_folder_and_text_make_a_corpus_that_only_its_owner_may_write(odd):
    before = os.umask(0)  # as a shell that protects nothing
    try:
        odd("binarise", config="config/odd.yaml")
    finally:
        os.umask(before)
    facts = json.loads((odd.folder / "results/odd/corpus/tokens/manifest.json").read_text())
    assert sum(facts["documents"].values()) == len(NAMES)
    assert sum(facts["words"].values()) == len(NAMES) * (400 + 1)  # and the end of each file's one line
    assert nothing_was_executed(odd)
    assert not writable_by_all(odd.folder / "results/odd")


def test_odd_texts_in_a_config_go_through_a_hypothesis_to_its_picture(odd):
    """Question and names of components in settings, tables and pictures; what else is out of date is left alone."""
    allowed = ["hypothesis", "tables", "plot_hypothesis"]
    odd("results/tiny/figures/hypothesis-ensembling.png", "--allowed-rules", *allowed, config="config/tiny-odd.yaml")
    components = pd.read_csv(odd.folder / "results/tiny/tables/components.csv")
    assert "ensembling-; touch pwned $(touch pwned)" in set(components["component"])
    verdicts = pd.read_csv(odd.folder / "results/tiny/tables/verdicts.csv").set_index("hypothesis")
    assert verdicts.loc["ensembling", "question"].startswith("Is it '$(touch pwned)'")
    assert (odd.folder / "results/tiny/figures/hypothesis-ensembling.png").read_bytes().startswith(b"\x89PNG")
    assert nothing_was_executed(odd)
