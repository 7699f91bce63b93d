import numpy as np
import pandas as pd
import pytest
from scipy import signal

from knnlm.analysis.block_lengths import COLUMNS, block_length_table
from knnlm.analysis.tables import Split
from knnlm.analysis.units import ENOUGH_DOCUMENTS

WORDS = np.zeros(1, bool)  # one type, which ends a word


def table(documents: int, length: int, decay: float) -> pd.DataFrame:
    """Return the table of a component whose gain at a word depends on those before it."""
    generator, tokens = np.random.default_rng(1), np.zeros(documents * length, np.int32)
    offsets = np.arange(documents + 1) * length
    gain = 0.3 + signal.lfilter([1], [1, -decay], generator.normal(0, 0.1, tokens.size))
    columns = {"base": np.full(tokens.size, -5.0), "knn": -5.0 + gain}

    def cut(block: int) -> list[Split]:
        return [Split.of(name, tokens, offsets, WORDS, block) for name in ("valid", "test")]

    return block_length_table("knn", 1.0, lambda name, _: columns[name], cut, 160, 0.95)


def test_doubling_a_block_widens_the_interval_until_it_is_longer_than_what_depends():
    """A correlation of 0.9 from word to word: the true standard error is that of (1 + 0.9) / (1 − 0.9) times fewer."""
    found = table(4, 20_480, 0.9)
    assert list(found) == COLUMNS
    assert found["split"].tolist() == ["valid"] * 8 + ["test"] * 8
    test = found[found["split"] == "test"]
    assert test["block"].tolist()[:-1] == [20, 40, 80, 160, 320, 640, 1280]
    assert pd.isna(test["block"].iloc[-1])
    assert test["units"].tolist() == [4096, 2048, 1024, 512, 256, 128, 64, 4]
    errors = test["standard_error"].to_numpy(float)
    assert errors[1] > 1.1 * errors[0]
    assert errors[4] == pytest.approx(errors[3], rel=0.1)
    expected = np.exp(4.7) * 0.1 / (1 - 0.9) / np.sqrt(4 * 20_480)
    assert errors[3] == pytest.approx(expected, rel=0.15)
    np.testing.assert_allclose(test["width"], test["gain_high"] - test["gain_low"])


def test_lengths_beyond_the_documents_are_left_out():
    test = table(6, 100, 0.5)[lambda rows: rows["split"] == "test"]
    assert test["units"].tolist() == [30, 18, 6]  # blocks of 20, of 33, and of 80 words or more
    assert test["block"].tolist()[:-1] == [20, 40]


def test_many_documents_need_no_blocks():
    found = table(ENOUGH_DOCUMENTS, 30, 0.5)
    assert found["units"].tolist() == [ENOUGH_DOCUMENTS] * 2
    assert found["block"].isna().all()
