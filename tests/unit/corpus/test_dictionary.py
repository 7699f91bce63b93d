"""fairseq's dictionary as a file."""

import pytest

from knnlm.corpus.dictionary import SPECIAL, read_pieces
from knnlm.errors import KnnlmError


def test_pieces_are_read_in_the_order_of_their_ids(tmp_path):
    (tmp_path / "dict.txt").write_text("the 12\na@@ 3\n\u2028 1\n", encoding="utf-8")
    assert read_pieces(tmp_path / "dict.txt") == [*SPECIAL, "the", "a@@", "\u2028"]
    with pytest.raises(KnnlmError, match=r"none\.txt: not a readable dictionary"):
        read_pieces(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 1\n")
    with pytest.raises(KnnlmError, match=r"latin\.txt: not a readable dictionary \(not UTF-8\)"):
        read_pieces(tmp_path / "latin.txt")
