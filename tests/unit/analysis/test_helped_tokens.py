from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.analysis import helped_tokens
from knnlm.analysis.helped_tokens import (
    COLUMNS,
    PROPERTIES,
    TYPE_COLUMNS,
    Scored,
    bigram_counts,
    document_positions,
    helped_table,
    successor_entropy,
    type_table,
)
from knnlm.corpus.bpe import SPECIAL

VOCABULARY = 30
PIECES = [*SPECIAL, *(f"p{i}" + "@@" * (i % 3 == 0) for i in range(4, VOCABULARY))]
CONTINUATION = np.array([piece.endswith("@@") for piece in PIECES])
DOCUMENTS = np.array([0, 1, 1, 40, 300, 900])


@pytest.fixture(scope="module")
def data():
    """A training text in which some types are missing, and a scored split in which they are not."""
    generator = np.random.default_rng(5)
    weights = 1.0 / np.arange(1, VOCABULARY - 4)
    train = generator.choice(np.arange(2, VOCABULARY - 3), 5000, p=weights / weights.sum()).astype(np.int32)
    tokens = generator.integers(2, VOCABULARY, 900).astype(np.int32)
    return Scored(tokens, generator.random(900) < 0.4, generator.normal(0.2, 1, 900)), train


def entropy_of(train, token):
    """Entropy of the successors in plain Python."""
    after = Counter(b for a, b in pairwise(train) if a == token)
    total = sum(after.values())
    return -sum(n / total * log(n / total) for n in after.values()) if total else None


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 7))
def test_entropies_are_those_of_counted_pairs_however_the_text_is_cut(tokens, part):
    tokens = np.array(tokens, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helped_tokens, "COUNTED_AT_ONCE", part)
        entropy = successor_entropy(bigram_counts(tokens, 6))
    expected = [entropy_of(tokens.tolist(), token) for token in range(6)]
    np.testing.assert_allclose(entropy, [np.nan if value is None else value for value in expected], atol=1e-12)


def test_positions_count_from_the_beginning_of_each_document():
    assert document_positions(np.array([0, 2, 2, 5])).tolist() == [0, 1, 0, 1, 2]


def properties(scored, train):
    """For every token the interval of each property that it belongs to, found by trying."""
    counts, train = Counter(train.tolist()), train.tolist()
    entropies = {token: entropy_of(train, token) for token in range(VOCABULARY)}
    powers = {0: [0, 1, 10, 100, 1000, 10000], 2: [0, 1, 4, 16, 64, 256, 1024], 3: range(9)}
    for t, token in enumerate(scored.tokens.tolist()):
        before = scored.tokens[t - 1] if t else SPECIAL.index("</s>")
        position = t - max(begin for begin in DOCUMENTS.tolist() if begin <= t)
        for number, value in ((0, counts[token]), (2, position), (3, entropies[before])):
            yield (
                t,
                PROPERTIES[number],
                next(
                    (
                        (low, high)
                        for low, high in zip(powers[number], powers[number][1:], strict=False)
                        if value is not None and low <= value < high
                    ),
                    None,
                ),
            )
        yield t, PROPERTIES[1], (1, 2) if PIECES[before].endswith("@@") else (0, 1)


def test_the_table_is_what_loops_give(data):
    scored, train = data
    table = helped_table(scored, train, DOCUMENTS, CONTINUATION)
    assert list(table) == COLUMNS
    members = {}
    for t, name, interval in properties(scored, train):
        members.setdefault((name, interval), []).append(t)
    assert len(members) == len(table)
    assert any(interval is None for _, interval in members)
    for row in table.to_dict("records"):
        chosen = members[row["property"], None if row["bin"] == "unseen" else (row["low"], row["high"])]
        assert row["tokens"] == len(chosen)
        assert row["helped"] == pytest.approx(sum(bool(scored.helped[t]) for t in chosen) / len(chosen))
        assert row["gain"] == pytest.approx(sum(scored.gain[t] for t in chosen) / len(chosen))
        assert row["share_of_gain"] == pytest.approx(sum(scored.gain[t] for t in chosen) / sum(scored.gain))
    for _, rows in table.groupby("property"):
        assert rows["tokens"].sum() == 900
        assert rows["share_of_gain"].sum() == pytest.approx(1)


def test_bins_are_named_for_readers(data):
    scored, train = data
    table = helped_table(scored, train, DOCUMENTS, CONTINUATION)
    names = {name: rows["bin"].tolist() for name, rows in table.groupby("property")}
    assert names["training frequency"] == ["0", "10–99", "100–999", "1k–10k"]
    assert names["place in the word"] == ["start", "inside"]
    assert names["tokens into the document"] == ["0", "1–3", "4–15", "16–63", "64–255", "256–1023"]
    assert names["entropy of successors (nats)"][-2:] == ["2–3", "unseen"]


def test_without_a_gain_there_are_no_shares_of_it(data):
    scored, train = data
    table = helped_table(Scored(scored.tokens, scored.helped, -np.abs(scored.gain)), train, DOCUMENTS, CONTINUATION)
    assert table["share_of_gain"].isna().all()
    assert table["gain"].notna().all()


def test_types_are_ranked_by_their_summed_gain(data):
    scored, train = data
    table = type_table(scored, train, PIECES)
    assert list(table) == TYPE_COLUMNS
    places = {token: np.flatnonzero(scored.tokens == token) for token in range(VOCABULARY)}
    gains = {PIECES[token]: scored.gain[here].sum() for token, here in places.items() if len(here)}
    ranked = sorted(gains, key=gains.get, reverse=True)
    assert table.loc[table["effect"] == "helped", "type"].tolist() == [name for name in ranked if gains[name] > 0][:20]
    assert (
        table.loc[table["effect"] == "hurt", "type"].tolist() == [name for name in ranked[::-1] if gains[name] < 0][:20]
    )
    for row in table.to_dict("records"):
        here = places[PIECES.index(row["type"])]
        assert (row["tokens"], row["train_count"]) == (len(here), int((train == PIECES.index(row["type"])).sum()))
        assert [row["gain"], row["helped"]] == pytest.approx([gains[row["type"]], scored.helped[here].mean()])
