"""*Removes* against simulation and brute force: 1 of the kNN itself, 0 of a copy of the base LM, rising in between."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from knnlm.analysis.removal import Beside, in_order
from knnlm.analysis.tables import BASE, Split
from knnlm.components.catalogue import OF_NEIGHBOURS, may_explain
from knnlm.hypotheses import registry

KNN = "knn-att-l2-exact-real"
TOKENS, DOCUMENTS = 4000, 20


def simulated(seed: int = 0, **more):
    """A base LM, a kNN that is better at a third of the tokens and knows nothing of some, and noise; and `more`."""
    generator, columns = np.random.default_rng(seed), {}
    for split in ("valid", "test"):
        base = -generator.exponential(4, TOKENS)
        knn = np.where(generator.random(TOKENS) < 1 / 3, base / 4, 2 * base)
        knn[generator.random(TOKENS) < 0.1] = -np.inf
        noise = generator.normal(-25, 1, TOKENS)
        columns |= {(BASE, split): base, (KNN, split): knn, ("noise", split): noise}
        columns |= {(name, split): make(base, knn, noise) for name, make in more.items()}
    offsets = np.linspace(0, TOKENS, DOCUMENTS + 1).astype(np.int64)
    tokens, whole = np.zeros(TOKENS, np.int32), np.zeros(1, bool)
    splits = [Split.of(split, tokens, offsets, whole, TOKENS) for split in ("valid", "test")]
    return (lambda name, split: columns[name, split].astype(np.float32)), splits


def with_noise(part: float):
    """A component that is the kNN but for a part of the tokens, at which it is noise."""
    return lambda base, knn, noise: np.where(np.arange(TOKENS) % 100 < 100 * part, noise, knn)


def removes(name, read, splits):
    alone, beside = (Beside(read, splits, KNN).left(part) for part in (None, name))
    return 1 - beside.gain[0] / alone.gain[0]


def test_the_knn_removes_all_of_its_own_gain_and_a_copy_of_the_base_lm_nothing():
    read, splits = simulated(copy=lambda base, knn, noise: base)
    assert removes(KNN, read, splits) == pytest.approx(1, abs=1e-6)
    assert removes("copy", read, splits) == pytest.approx(0, abs=1e-6)
    assert removes(BASE, read, splits) == 0
    assert removes("noise", read, splits) == pytest.approx(0, abs=0.01)


def test_the_knn_mixed_with_noise_is_in_between_and_removes_the_more_the_less_noise_there_is():
    parts = (0.95, 0.8, 0.6, 0.4, 0.2, 0.05)
    read, splits = simulated(**{f"noise-{part}": with_noise(part) for part in parts})
    found = [removes(f"noise-{part}", read, splits) for part in parts]
    assert all(0 < share < 1 for share in found)
    assert found == sorted(found)


def test_a_token_to_which_nothing_in_the_mixture_gives_mass_makes_what_is_left_unknown_and_ends_in_no_error():
    """Valid says that the component needs no base LM beside it; test has a token that it does not know."""
    split_of = {"valid": (-1.0, -9.0, -9.0), "test": (-np.inf, -9.0, -np.inf)}
    splits = simulated()[1]

    def read(name, split):
        component, base, knn = split_of[split]
        return np.full(TOKENS, {"sure": component, BASE: base, KNN: knn}[name], np.float32)

    left = Beside(read, splits, KNN).left("sure")
    assert (left.ppl, left.ppl_with_knn) == (np.inf, np.inf)
    assert np.isnan(left.gain).all()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_the_gain_that_is_left_is_that_of_the_best_weights(seed):
    """Against a general optimiser over softmax weights; tokens of one document stay together."""
    read, splits = simulated(seed, other=with_noise(0.5))
    left = Beside(read, splits, KNN).left("other")
    losses = []
    for names in ((BASE, "other"), (BASE, "other", KNN)):
        valid, test = (np.exp(np.stack([read(name, split) for name in names])) for split in ("valid", "test"))

        def softmax(free):
            weights = np.exp(np.append(free, 0.0))
            return weights / weights.sum()

        def loss(free, columns=valid):
            return -np.log(softmax(free) @ columns).mean()

        weights = softmax(minimize(loss, np.zeros(len(names) - 1), tol=1e-12).x)
        # a softmax is never 0, where the best weight may be; tokens that nothing else knows would tell the difference
        losses.append(np.log(np.where(weights > 1e-6, weights, 0.0) @ test))
    gain = losses[1] - losses[0]  # (T,), a word each
    assert left.gain.size == 1 + DOCUMENTS
    assert left.gain[0] == pytest.approx(gain.mean(), abs=1e-5)
    assert left.gain[1] == pytest.approx(gain[TOKENS // DOCUMENTS :].mean(), abs=1e-5)
    assert [left.ppl, left.ppl_with_knn] == pytest.approx([np.exp(-loss.mean()) for loss in losses], rel=1e-5)


def test_the_order_is_that_of_an_exhaustive_search_on_valid():
    half = {f"half-{number}": with_noise(0.5 + 0.01 * number) for number in range(3)}
    rest = lambda base, knn, noise: np.where(np.arange(TOKENS) % 100 < 50, knn, noise)  # noqa: E731
    read, splits = simulated(rest=rest, copy=lambda base, knn, noise: base, **half)
    names = [*half, "rest", "copy"]
    beside = Beside(read, splits, KNN)
    steps = list(in_order(beside, names, least=0.02, most=5))
    assert [name for name, _ in steps] == beside.held
    held = []
    for name, left in steps:
        tried = {other: Beside(read, splits, KNN, [*held]).left_on_valid(other) for other in names if other not in held}
        assert name == min(tried, key=tried.get)
        held.append(name)
        assert left.gain_on_valid == pytest.approx(tried[name])
    assert set(held[:2]) == {"half-0", "rest"}  # which together know all that the kNN knows
    assert "copy" not in held
    whole, first, second = (left.gain[0] for left in (Beside(read, splits, KNN).left(), steps[0][1], steps[1][1]))
    assert second < 0.7 * first < 0.5 * whole
    assert [name for name, _ in in_order(Beside(read, splits, KNN), names, least=0.02, most=1)] == held[:1]


def test_nothing_is_taken_from_a_knn_that_adds_nothing():
    read, splits = simulated(copy=lambda base, knn, noise: base, half=with_noise(0.5))
    assert not list(in_order(Beside(read, splits, "copy"), ["half"], least=0.0, most=3))


def test_every_family_is_told_apart_by_one_rule():
    """A family that is written later counts as an explanation until the rule says otherwise."""
    assert set(registry.families()) >= OF_NEIGHBOURS - {"knn"}
    assert not may_explain(KNN, "knn")
    assert not may_explain(BASE, "lm")
    assert may_explain("second-seed-lm", "lm")
    assert may_explain("clustering-att-l2-kmeans", "clustering")
