import numpy as np
import pandas as pd
import pytest

from knnlm.analysis import significance
from knnlm.analysis.significance import bootstrap, bootstrap_perplexity, interval, resample_counts
from knnlm.analysis.units import unit_sums


def test_resamples_draw_as_many_documents_as_there_are_each_equally_often():
    counts = resample_counts(8, 20_000, seed=1)
    assert (counts.sum(axis=1) == 8).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(counts.var(axis=0), 1 - 1 / 8, atol=0.03)  # binomial(8, 1/8)
    np.testing.assert_array_equal(counts, resample_counts(8, 20_000, seed=1))
    assert (counts != resample_counts(8, 20_000, seed=2)).any()


def test_bootstrap_is_what_resampling_the_tokens_one_by_one_gives():
    generator = np.random.default_rng(3)
    offsets = np.array([0, 30, 45, 100, 120, 200])
    log_p, is_word = -generator.exponential(3, (2, 200)), generator.random(200) < 0.8
    counts = resample_counts(5, 50, seed=4)
    sums = np.stack([unit_sums(component, offsets) for component in log_p])
    samples = bootstrap_perplexity(sums, unit_sums(is_word, offsets), counts)
    for component in range(2):
        for resample, drawn in enumerate(counts):
            picked = [np.arange(offsets[d], offsets[d + 1]) for d in range(5) for _ in range(drawn[d])]
            rows = np.concatenate(picked)
            assert samples[component, resample] == pytest.approx(
                np.exp(-log_p[component, rows].sum() / is_word[rows].sum()), rel=1e-12
            )


def test_bootstrap_by_hand():
    # Two documents, 2 words of 2 nats in all and 1 word of 4 nats; drawn (2,0), (1,1), (0,2) times.
    samples = bootstrap_perplexity(np.array([[-2.0, -4.0]]), np.array([2.0, 1.0]), np.array([[2, 0], [1, 1], [0, 2]]))
    np.testing.assert_allclose(samples, np.exp([[1.0, 2.0, 4.0]]))


def test_pairing_removes_what_the_components_share():
    generator = np.random.default_rng(5)
    hard = generator.normal(-400, 80, 30)  # how hard each document is, for both
    sums = np.stack([hard, hard + generator.normal(10, 1, 30)])
    base, other = bootstrap(sums, np.full(30, 100.0), 2000, seed=0)
    low, high = interval(base - other, 0.95)
    separate_low, separate_high = (
        interval(base, 0.95)[0] - interval(other, 0.95)[1],
        interval(base, 0.95)[1] - interval(other, 0.95)[0],
    )
    assert separate_low < 0 < low
    assert high - low < 0.2 * (separate_high - separate_low)


def test_blocks_change_nothing(monkeypatch):
    sums, words = -np.random.default_rng(6).exponential(100, (3, 7)), np.arange(10.0, 17.0)
    whole = bootstrap_perplexity(sums, words, resample_counts(7, 101, seed=9))
    monkeypatch.setattr(significance, "COUNTS_PER_BLOCK", 70)
    np.testing.assert_allclose(bootstrap(sums, words, 101, seed=9), whole, rtol=1e-12)


def test_a_document_without_mass_makes_only_the_resamples_that_draw_it_infinite():
    counts = np.array([[1, 1], [2, 0]])
    samples = bootstrap_perplexity(np.array([[-2.0, -np.inf], [-2.0, -2.0]]), np.array([1.0, 1.0]), counts)
    np.testing.assert_allclose(samples, [[np.inf, np.exp(2)], [np.exp(2), np.exp(2)]])
    low, high = interval(samples, 0.9)
    np.testing.assert_allclose([low[0], high[0]], [np.exp(2), np.inf])


def test_one_document_has_no_interval():
    samples = bootstrap(np.array([[-10.0]]), np.array([5.0]), 100, seed=0)
    assert samples.shape == (1, 100)
    assert np.isnan(interval(samples, 0.95)).all()


def test_interval_holds_the_level_of_the_samples():
    samples = np.random.default_rng(7).permutation(np.arange(1, 10_001.0))
    low, high = interval(samples, 0.95)
    assert abs(((samples >= low) & (samples <= high)).sum() - 9500) <= 1
    assert abs((samples < low).sum() - (samples > high).sum()) <= 1


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Σ log p per document is normal around -100 nats at 20 words, so the true perplexity is exp(5). The percentile
    # bootstrap is known to be a little narrow with few documents; 40 of them are enough for 90 % to 98 %.
    generator = np.random.default_rng(8)
    covered = 0
    for trial in range(300):
        low, high = interval(bootstrap(generator.normal(-100, 10, (1, 40)), np.full(40, 20.0), 500, seed=trial), 0.95)
        covered += low[0] <= np.exp(5) <= high[0]
    assert 0.90 <= covered / 300 <= 0.98


def test_mean_and_spread_over_seeds_by_hand():
    first = pd.DataFrame({"component": ["base", "knn"], "split": "test", "ppl": [10.0, 8.0], "gain": [0.0, 2.0]})
    second = pd.DataFrame({"component": ["base", "knn"], "split": "test", "ppl": [12.0, 9.0], "gain": [0.0, 3.0]})
    table = significance.over_seeds([first, second], ["component", "split"]).set_index("component")
    assert list(table["seeds"]) == [2, 2]
    assert table.loc["knn", "ppl_mean"] == 8.5
    assert table.loc["knn", "gain_std"] == pytest.approx(0.5**0.5)
    assert (table.loc["knn", "ppl_min"], table.loc["knn", "ppl_max"]) == (8.0, 9.0)
    assert "reaches_mean" not in table


def test_verdicts_of_seeds_are_counted_and_a_row_that_one_seed_lacks_is_kept():
    key = ["hypothesis", "question", "paper"]
    first = pd.DataFrame(
        [["a", "A?", "refuted", 0.1, "does nothing"], ["b", "B?", "silent", None, "inconclusive"]],
        columns=[*key, "reaches", "verdict"],
    )
    second = pd.DataFrame([["a", "A?", "refuted", 0.3, "contributes"]], columns=[*key, "reaches", "verdict"])
    third = pd.DataFrame([["a", "A?", "refuted", 0.2, "contributes"]], columns=[*key, "reaches", "verdict"])
    table = significance.over_seeds([first, second, third], key).set_index("hypothesis")
    assert table.loc["a", ["seeds", "verdicts"]].tolist() == [3, "does nothing 1, contributes 2"]
    assert table.loc["a", "reaches_mean"] == pytest.approx(0.2)
    assert table.loc["b", "seeds"] == 1
    assert pd.isna(table.loc["b", "reaches_mean"])
