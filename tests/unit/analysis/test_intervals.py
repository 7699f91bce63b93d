import numpy as np
import pytest
import simulated_texts
from scipy import stats

from knnlm.analysis.intervals import Confidence, interval, log_perplexities, ratio_interval, simultaneous, totals


def confidence(units, level=0.95):
    """Return that of units of one size."""
    return Confidence(level, units - 1)


def replicates_of(values):
    """Replicates of the mean of `values` (..., units), by leaving each out."""
    units = values.shape[-1]
    left = np.stack([np.delete(values, place, axis=-1).mean(axis=-1) for place in range(units)], axis=-1)
    return np.concatenate([values.mean(axis=-1, keepdims=True), left], axis=-1)


def test_log_perplexities_leave_out_one_unit_each():
    sums, words = np.array([[-2.0, -4.0, -9.0], [-3.0, -1.0, -2.0]]), np.array([2.0, 1.0, 3.0])
    expected = [[15 / 6, 13 / 4, 11 / 5, 6 / 3], [6 / 6, 3 / 4, 5 / 5, 4 / 3]]
    np.testing.assert_allclose(log_perplexities(sums, words), expected)


def test_a_unit_without_mass_makes_every_replicate_infinite_but_the_one_without_it():
    found = log_perplexities(np.array([[-2.0, -np.inf, -4.0]]), np.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [[np.inf, np.inf, 3.0, np.inf]])
    assert np.isnan(interval(found, confidence(3))).all()


def test_the_interval_of_a_mean_is_student_s():
    values = np.random.default_rng(1).exponential(size=(3, 12))
    found = interval(replicates_of(values), confidence(12, 0.9))
    expected = stats.t.interval(0.9, 11, loc=values.mean(axis=1), scale=stats.sem(values, axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_one_unit_has_no_interval():
    found = log_perplexities(np.array([[-10.0]]), np.array([5.0]))
    assert found[0, 0] == 2
    alone = Confidence.of(np.array([5.0]), 0.95)
    assert np.isnan(interval(found, alone)).all()
    assert np.isnan(ratio_interval(found, found, alone)).all()


def test_pairing_removes_what_the_components_share():
    generator = np.random.default_rng(5)
    hard = generator.normal(-400, 80, 30)  # how hard each unit is, for both
    ppl = np.exp(log_perplexities(np.stack([hard, hard + generator.normal(10, 1, 30)]), np.full(30, 100.0)))
    low, high = interval(ppl[0] - ppl[1], confidence(30))
    (low_one, low_other), (high_one, high_other) = interval(ppl, confidence(30))
    assert low_one - high_other < 0 < low
    assert high - low < 0.2 * (high_one - low_other - (low_one - high_other))


def test_a_ratio_s_interval_is_the_jackknife_s_of_the_ratio():
    generator = np.random.default_rng(2)
    below = generator.normal(3, 1, 10)
    above = 0.4 * below + generator.normal(0, 1, 10)
    ratios = [np.delete(above, place).sum() / np.delete(below, place).sum() for place in range(10)]
    error, whole = np.sqrt(9 * np.var(ratios)), above.sum() / below.sum()
    t = stats.t.ppf(0.95, 9)
    found = ratio_interval(replicates_of(above), replicates_of(below), confidence(10, 0.9))
    np.testing.assert_allclose(found, [whole - t * error, whole + t * error])


def test_ratios_of_the_denominator_to_itself_and_of_nothing_are_certain():
    below = replicates_of(np.random.default_rng(3).normal(3, 1, 20))
    np.testing.assert_array_equal(ratio_interval(below, below, confidence(20)), [1, 1])
    np.testing.assert_array_equal(ratio_interval(0 * below, below, confidence(20)), [0, 0])


@pytest.mark.parametrize("mean", [0.2, -3.0])
def test_a_ratio_to_what_may_be_nothing_is_unknown(mean):
    below = replicates_of(mean + stats.norm.ppf((np.arange(20) + 0.5) / 20))
    assert not interval(below, confidence(20))[0] > 0
    assert np.isnan(ratio_interval(below + 1, below, confidence(20))).all()


def test_one_statistic_keeps_its_level_and_independent_ones_share_it():
    found, one = replicates_of(np.random.default_rng(4).normal(size=(20, 4000))), confidence(4000)
    assert simultaneous(found[:1], one, 1000, seed=1) == one
    twenty_times_one = simultaneous(np.repeat(found[:1], 20, axis=0), one, 100_000, seed=1)
    assert twenty_times_one.level == pytest.approx(0.95, abs=0.003)
    twenty = simultaneous(found, one, 100_000, seed=1)
    assert twenty.level == pytest.approx(0.95 ** (1 / 20), abs=4e-4)
    assert twenty.freedom == one.freedom


def test_constant_and_infinite_statistics_do_not_count():
    found, one = replicates_of(np.random.default_rng(4).normal(size=(3, 40))), confidence(40)
    more = np.concatenate([found, np.ones((1, 41)), np.full((1, 41), np.inf), 1 + 1e-15 * found])
    assert simultaneous(more, one, 1000, seed=1) == simultaneous(found, one, 1000, seed=1)


def test_units_of_one_size_have_as_many_degrees_of_freedom_as_units_less_one():
    found = Confidence.of(np.full(5, 700), 0.95)
    assert found.freedom == pytest.approx(4)
    assert found.quantile == pytest.approx(2.776445, abs=1e-6)  # as in every table of t


def test_units_of_unequal_size_count_as_fewer():
    found = Confidence.of(np.array([300, 100, 100, 100]), 0.95)
    assert found.freedom == pytest.approx(600**2 / 120_000 - 1)
    assert np.isnan(Confidence.of(np.array([300, 0]), 0.95).quantile)
    assert np.isnan(Confidence.of(np.zeros(3), 0.95).quantile)


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 60, 120, 500])
@pytest.mark.parametrize(
    "texts",
    [
        lambda generator, count: simulated_texts.blocks(generator, 1, 100 * count, 100),
        lambda generator, count: simulated_texts.documents(generator, count, 80, 0.3),
        lambda generator, count: simulated_texts.documents(generator, count, 15, 1.0),
    ],
    ids=["blocks", "documents", "unequal documents"],
)
def test_intervals_of_95_percent_cover_what_longer_texts_would_give(texts, count):
    """Gain, share and removes on texts with the dependence of the demo's; 1,000 texts tell coverage to 0.7 %."""
    found = simulated_texts.covered(lambda generator: texts(generator, count), 1000, chosen_alone=True)
    for coverage in found.values():
        assert (coverage > 0.93 - 0.007).all()
        assert (coverage < 0.97 + 0.007).all()


@pytest.mark.slow
@pytest.mark.parametrize("units", [13, 30, 120])
def test_intervals_of_several_questions_cover_all_at_once(units):
    """Ten means that depend on each other, of units of unequal size: words vary, and units do, a little skewed."""
    generator, hits = np.random.default_rng(11), []
    for trial in range(1000):
        words = np.rint(generator.lognormal(7, 0.3, units))
        of_words, of_units = (generator.gamma(16, size=(11, units)) - 16 for _ in range(2))
        values = of_words / np.sqrt(words / words.mean()) + 0.5 * of_units  # (11, units)
        replicates = totals(words * (values[:10] + 0.5 * values[10])) / totals(words)
        low, high = interval(replicates, simultaneous(replicates, Confidence.of(words, 0.95), 2000, trial))
        hits.append(((low <= 0) & (high >= 0)).all())
    assert 0.92 < np.mean(hits) < 0.98
