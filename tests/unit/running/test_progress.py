import io
import re
import sys

import pytest

from knnlm.running import progress as module
from knnlm.running.progress import progress


def test_a_line_at_the_end_without_a_terminal(capsys):
    assert list(progress([7, 8, 9], "rows")) == [7, 8, 9]
    captured = capsys.readouterr()
    assert re.fullmatch(r"rows: 3 of 3, \d+\.\d s\n", captured.err)
    assert captured.out == ""


def test_total_of_a_generator(capsys):
    assert list(progress((number for number in range(4)), "numbers", total=4)) == [0, 1, 2, 3]
    assert capsys.readouterr().err.startswith("numbers: 4 of 4")


def test_nothing_to_do(capsys):
    assert list(progress([], "rows")) == []
    assert capsys.readouterr().err.startswith("rows: 0 of 0")


def test_lines_between_say_how_long_it_will_take(capsys, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    list(progress(range(6), "rows"))
    # Three seconds an item, a line every five: after 1, 3 and 5 items, 6, 12 and 18 seconds after the start.
    lines = capsys.readouterr().err.splitlines()
    assert lines[:-1] == [
        "rows: 1 of 6, 6 s gone, about 30 s to go",
        "rows: 3 of 6, 12 s gone, about 12 s to go",
        "rows: 5 of 6, 18 s gone, about 4 s to go",
    ]


def test_items_are_taken_one_at_a_time():
    taken = []
    loop = progress((taken.append(number) or number for number in range(5)), "rows", total=5)
    next(loop)
    assert taken == [0]


def test_an_error_is_not_reported_as_done(capsys):
    def fails():
        yield 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(progress(fails(), "rows", total=2))
    assert "2 of 2" not in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(iter(range(3)), "rows", total=3)) == [0, 1, 2]
    assert "rows: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
