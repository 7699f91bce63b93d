from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.components.word_centroids import (
    allotted,
    cluster_of,
    halves,
    lloyd,
    random_rows,
    sorted_by_word,
    two_means,
    variance_per_row,
    widest_cluster,
    word_means,
)

SEEDS = st.integers(0, 2**31)
PRIORITIES = [variance_per_row, widest_cluster]


def rows_of_words(seed, rows=120, width=3, types=8):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, width)).astype(np.float16), generator.choice(
        np.arange(types) * 2, rows
    ).astype(np.int32)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_word_means_are_those_of_pandas(seed):
    keys, values = rows_of_words(seed)
    expected = pd.DataFrame(keys.astype(np.float64)).groupby(values).mean()
    means, words = word_means([(keys[:50], values[:50]), (keys[50:], values[50:])], types=20)
    assert words.tolist() == expected.index.tolist()
    assert means.dtype == np.float32
    assert np.allclose(means, expected, atol=1e-6)


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_random_rows_are_of_every_word_and_repeat_with_their_seed(seed, per_word):
    values = np.random.default_rng(seed).geometric(0.3, 60)
    chosen = random_rows(values, per_word, seed)
    assert (np.diff(chosen) > 0).all()
    counts = pd.Series(values).value_counts().clip(upper=per_word).sort_index()
    assert pd.Series(values[chosen]).value_counts().sort_index().tolist() == counts.tolist()
    assert (chosen == random_rows(values, per_word, seed)).all()


def test_random_rows_are_uniform():
    values = np.array([7, 7, 7, 7, 2])
    found = pd.Series([row for seed in range(2000) for row in random_rows(values, 2, seed)[:-1].tolist()]).value_counts(
        normalize=True
    )
    assert (found - 0.25).abs().max() < 0.03


def best_halves(keys):
    """The least sum of squares of all ways to divide a few keys in two."""
    masks = [np.array((True, *rest)) for rest in product([False, True], repeat=len(keys) - 1) if not all(rest)]
    return min(cluster_of(keys[mask])[0] + cluster_of(keys[~mask])[0] for mask in masks)


@given(SEEDS, st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_halves_are_an_optimum_of_two_means(seed, rows):
    generator = np.random.default_rng(seed)
    keys = generator.standard_normal((rows, 2)).astype(np.float32)
    side = halves(keys, 50)
    assert 0 < side.sum() < rows
    distances = [np.square(keys - keys[part].mean(axis=0)).sum(1) for part in (side, ~side)]
    assert (distances[0][side] <= distances[1][side] + 1e-5).all()
    assert (distances[1][~side] <= distances[0][~side] + 1e-5).all()
    keys[: rows // 2] += 50
    side = halves(keys, 50)
    assert cluster_of(keys[side])[0] + cluster_of(keys[~side])[0] == pytest.approx(
        best_halves(keys), rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
def test_equal_keys_are_not_divided(rows):
    key = np.random.default_rng(rows).standard_normal(16).astype(np.float32) * 10
    assert halves(np.tile(key, (rows, 1)), 5).all()


def test_two_means_of_every_word():
    keys = np.array([[0, 0], [0, 1], [9, 0], [9, 1], [5, 5], [3, 3], [3, 3]], dtype=np.float16)
    means, owners = two_means(sorted_by_word(keys, np.array([4, 4, 4, 4, 1, 6, 6])), iterations=5)
    found = sorted((word, *mean) for word, mean in zip(owners.tolist(), means.tolist(), strict=True))
    assert found == [(1, 5, 5), (4, 0, 0.5), (4, 9, 0.5), (6, 3, 3)]


def toy():
    """Word 0: ten thousand rows within 1 of each other. 1: two modes 100 apart. 2: the same, too few rows. 3: one."""
    generator = np.random.default_rng(0)
    modes = np.array([[0.0, 0.0], [100.0, 0.0]])
    compact = generator.uniform(0, 1, (10000, 2))
    two, few = (np.repeat(modes, count, axis=0) + generator.uniform(0, 1, (2 * count, 2)) for count in (40, 3))
    keys = np.concatenate([compact, two, few, [[7.0, 7.0]]]).astype(np.float32)
    return sorted_by_word(keys, np.repeat([0, 1, 2, 3], [10000, 80, 6, 1]))


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_word_with_two_modes_gets_the_further_centroid(priority):
    rows = toy()
    means, owners = allotted(rows, 5, least_points=10, iterations=10, priority=priority)
    assert owners.tolist() == [0, 1, 1, 2, 3]
    assert np.allclose(means[owners == 0], rows.of(0).mean(axis=0), atol=1e-3)
    assert sorted(means[owners == 1][:, 0] > 50) == [False, True]
    assert np.allclose(means[owners == 3], 7)


def test_the_priorities_worked_by_hand():
    """Word 0: 4 rows at ±3, 36 in all. Word 1: 100 rows at ±1, 100 in all: more in all, less a row."""
    rows = sorted_by_word(
        np.repeat([-3, 3, -1, 1], [2, 2, 50, 50])[:, None].astype(np.float32), np.repeat([0, 1], [4, 100])
    )
    clusters = [[cluster_of(rows.of(number))] for number in (0, 1)]
    assert [variance_per_row(parts) for parts in clusters] == [9, 1]
    assert [widest_cluster(parts) for parts in clusters] == [36, 100]
    assert allotted(rows, 3, 1, 5, variance_per_row)[1].tolist() == [0, 0, 1]
    assert allotted(rows, 3, 1, 5, widest_cluster)[1].tolist() == [0, 1, 1]
    means, owners = allotted(rows, 100, 1, 5, widest_cluster)  # no variance is left with two each
    assert sorted(zip(owners.tolist(), means[:, 0].tolist(), strict=True)) == [(0, -3), (0, 3), (1, -1), (1, 1)]


@pytest.mark.parametrize("priority", PRIORITIES)
def test_no_word_has_fewer_rows_for_a_centroid_than_asked(priority):
    keys, values = rows_of_words(3, rows=900)
    _, owners = allotted(sorted_by_word(keys, values), 400, least_points=30, iterations=3, priority=priority)
    counts, centroids = pd.Series(values).value_counts(), pd.Series(owners).value_counts()
    assert centroids.to_dict() == (counts // 30).to_dict()


def test_the_variance_of_a_frequent_word_is_that_of_all_its_rows():
    """The paper's mistake: a sample's objective over the count of all. A word with many rows must not look compact."""
    generator = np.random.default_rng(4)
    keys = generator.standard_normal((5100, 2)) * np.repeat([2.0, 1.0], [5000, 100])[:, None]
    rows = sorted_by_word(keys.astype(np.float32), np.repeat([0, 1], [5000, 100]))
    assert allotted(rows, 3, 40, 5, variance_per_row)[1].tolist() == [0, 0, 1]


def test_lloyd_lowers_the_sum_of_squares_and_keeps_what_is_empty():
    keys = np.random.default_rng(5).standard_normal((200, 3)).astype(np.float32)
    start = np.concatenate([keys[:4], [[1e3, 1e3, 1e3]]]).astype(np.float32)
    objectives = [
        np.square(keys[:, None] - lloyd(keys, start, iterations)[None]).sum(2).min(1).sum()
        for iterations in (0, 1, 3, 9)
    ]
    assert objectives == sorted(objectives, reverse=True)
    assert (lloyd(keys, start, 3)[4] == 1e3).all()
