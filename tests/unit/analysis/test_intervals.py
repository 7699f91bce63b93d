import numpy as np
import pytest
from scipy import stats

from knnlm.analysis.intervals import interval, log_perplexities, quantile, ratio_interval, simultaneous_level


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
    assert np.isnan(interval(found, 0.9)).all()


def test_the_interval_of_a_mean_is_student_s():
    values = np.random.default_rng(1).exponential(size=(3, 12))
    found = interval(replicates_of(values), 0.9)
    expected = stats.t.interval(0.9, 11, loc=values.mean(axis=1), scale=stats.sem(values, axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_one_unit_has_no_interval():
    found = log_perplexities(np.array([[-10.0]]), np.array([5.0]))
    assert found[0, 0] == 2
    assert np.isnan(interval(found, 0.95)).all()
    assert np.isnan(ratio_interval(found, found, 0.95)).all()


def test_pairing_removes_what_the_components_share():
    generator = np.random.default_rng(5)
    hard = generator.normal(-400, 80, 30)  # how hard each unit is, for both
    ppl = np.exp(log_perplexities(np.stack([hard, hard + generator.normal(10, 1, 30)]), np.full(30, 100.0)))
    low, high = interval(ppl[0] - ppl[1], 0.95)
    (low_one, low_other), (high_one, high_other) = interval(ppl, 0.95)
    assert low_one - high_other < 0 < low
    assert high - low < 0.2 * (high_one - low_other - (low_one - high_other))


def test_a_ratio_s_interval_holds_the_ratios_that_t_does_not_reject():
    generator = np.random.default_rng(2)
    below = generator.normal(3, 2, 10)
    above, below = replicates_of(np.stack([0.4 * below + generator.normal(0, 1, 10), below]))
    low, high = ratio_interval(above, below, 0.9)
    assert low < above[0] / below[0] < high
    for ratio in (low, high):
        assert np.abs(interval(above - ratio * below, 0.9)).min() == pytest.approx(0, abs=1e-9)
    inside, outside = interval(above - 0.5 * (low + high) * below, 0.9), interval(above - (high + 0.1) * below, 0.9)
    assert inside[0] < 0 < inside[1]
    assert outside[1] < 0


def test_ratios_of_the_denominator_to_itself_and_of_nothing_are_certain():
    below = replicates_of(np.random.default_rng(3).normal(3, 1, 20))
    np.testing.assert_allclose(ratio_interval(below, below, 0.95), [1, 1], atol=1e-6)
    np.testing.assert_allclose(ratio_interval(0 * below, below, 0.95), [0, 0], atol=1e-12)


@pytest.mark.parametrize("mean", [0.2, -3.0])
def test_a_ratio_to_what_may_be_nothing_is_unknown(mean):
    below = replicates_of(mean + stats.norm.ppf((np.arange(20) + 0.5) / 20))
    assert not interval(below, 0.95)[0] > 0
    assert np.isnan(ratio_interval(below + 1, below, 0.95)).all()


def test_one_statistic_keeps_its_level_and_independent_ones_share_it():
    values = np.random.default_rng(4).normal(size=(20, 4000))
    found = replicates_of(values)
    assert simultaneous_level(found[:1], 0.95, 1000, seed=1) == 0.95
    assert simultaneous_level(np.repeat(found[:1], 20, axis=0), 0.95, 100_000, seed=1) == pytest.approx(0.95, abs=0.003)
    assert simultaneous_level(found, 0.95, 100_000, seed=1) == pytest.approx(0.95 ** (1 / 20), abs=4e-4)


def test_constant_and_infinite_statistics_do_not_count():
    values = np.random.default_rng(4).normal(size=(3, 40))
    found = np.concatenate([replicates_of(values), np.ones((1, 41)), np.full((1, 41), np.inf)])
    found = np.concatenate([found, 1 + 1e-15 * found[:3]])
    assert simultaneous_level(found, 0.95, 1000, seed=1) == simultaneous_level(found[:3], 0.95, 1000, seed=1)


def test_quantiles_are_student_s_with_one_degree_of_freedom_less_than_units():
    assert quantile(np.zeros(6), 0.95) == pytest.approx(2.776445, abs=1e-6)  # 5 units, as in every table of t
    assert np.isnan(quantile(np.zeros(2), 0.95))
