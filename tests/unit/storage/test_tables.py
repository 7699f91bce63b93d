import csv
import os

import numpy as np
import pandas as pd
import pytest

from knnlm.errors import KnnlmError
from knnlm.storage.tables import DIGITS, RERUN, read_rows, read_table, read_text_table, write_table

TABLE = pd.DataFrame({"name": ["é, ü", 'a "b"', None], "count": [1, 20, 3], "x": [1 / 3, np.nan, 2.0]})


def test_a_table_has_the_same_bytes_on_every_system(tmp_path):
    write_table(tmp_path / "new" / "some.csv", TABLE)
    write_table(tmp_path / "digits.csv", TABLE, DIGITS)
    expected = 'name,count,x\n"é, ü",1,{}\n"a ""b""",20,\n,3,{}\n'
    assert (tmp_path / "new/some.csv").read_bytes() == expected.format(1 / 3, 2.0).encode()
    assert (tmp_path / "digits.csv").read_bytes() == expected.format("0.3333333333", "2").encode()
    assert sorted(os.listdir(tmp_path)) == ["digits.csv", "new"]


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_table(tmp_path / "some.csv", TABLE)
    before = (tmp_path / "some.csv").read_bytes()
    with pytest.raises(TypeError):
        write_table(tmp_path / "some.csv", TABLE, "%.10g %s")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"some.csv": before}


def test_what_was_written_is_read(tmp_path):
    write_table(tmp_path / "some.csv", TABLE)
    pd.testing.assert_frame_equal(read_table(tmp_path / "some.csv"), TABLE)
    as_text = [["é, ü", "1", repr(1 / 3)], ['a "b"', "20", ""], ["", "3", "2.0"]]
    assert read_text_table(tmp_path / "some.csv", list(TABLE)).to_numpy().tolist() == as_text
    assert [list(row.values()) for row in read_rows(tmp_path / "some.csv")] == as_text
    write_table(tmp_path / "again.csv", read_text_table(tmp_path / "some.csv", list(TABLE)), DIGITS)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "some.csv").read_bytes()


def test_other_columns_are_named(tmp_path):
    write_table(tmp_path / "some.csv", TABLE)
    with pytest.raises(KnnlmError, match=rf"some\.csv: has the columns name, count, x, expected x; {RERUN}\.$"):
        read_text_table(tmp_path / "some.csv", ["x"])


@pytest.mark.parametrize("content", [None, b"", b"a,b\n1,\xff\n", b'a,b\n1,"2\n'])
def test_what_is_no_table_is_named(tmp_path, content):
    path = tmp_path / "some.csv"
    if content is not None:
        path.write_bytes(content)
    readers = [(read_table, "remake the tables"), (lambda path: read_text_table(path, ["a", "b"]), RERUN)]
    for read, remedy in readers:
        with pytest.raises(KnnlmError, match=rf"^{path}: not a readable table \(.*\); {remedy}\.$"):
            read(path)


@pytest.mark.parametrize("content", [None, b"a,b\n1,\xff\n", b'a\n"' + b"1" * csv.field_size_limit() + b'1"\n'])
def test_rows_that_cannot_be_read_are_named_with_the_remedy_asked_for(tmp_path, content):
    path = tmp_path / "some.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KnnlmError, match=rf"^{path}: not a readable table \(.*\); measure again\.$"):
        read_rows(path, "measure again")
