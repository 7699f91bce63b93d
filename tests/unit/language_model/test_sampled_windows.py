import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import pearsonr

from knnlm.components.interpolation import agreement, perplexity
from knnlm.corpus.windows import fixed_windows
from knnlm.language_model.sampled_windows import correlation, log_p_in_windows, sample_windows
from knnlm.language_model.states import extract_states
from knnlm.language_model.transformer import LanguageModel, build_model, save_model

COLUMNS = npst.arrays(
    np.float32, st.tuples(st.just(3), st.integers(3, 30)), elements=st.floats(-20, 0, width=32) | st.just(-np.inf)
)


def test_agreement_by_hand():
    base = np.log([0.5, 0.5, 0.5, 0.5])
    assert (
        agreement(base, np.log([0.6, 0.4, 0.6, 0.5]), np.log([0.9, 0.1, 0.2, 0.6])) == 0.5
    )  # both better, both worse; not, not: equal is not better


@given(COLUMNS)
def test_agreement_with_itself_is_whole(columns):
    assert agreement(columns[0], columns[1], columns[1]) == 1


@given(COLUMNS)
def test_correlation_is_pearsons(columns):
    base, one, other = np.exp(columns.astype(np.float64))
    found = correlation(*columns)
    if min(np.ptp(one - base), np.ptp(other - base)) < 1e-9:
        return
    assert found == pytest.approx(pearsonr(one - base, other - base).statistic, abs=1e-6)


def test_correlation_with_what_never_changes():
    assert np.isnan(correlation(np.zeros(4), np.zeros(4), np.log([0.1, 0.2, 0.3, 0.4])))


@given(st.integers(1, 200), st.integers(1, 300), st.integers(0, 9))
def test_a_sample_of_windows(tokens, wanted, seed):
    windows = fixed_windows(tokens, 3, 7)
    found = sample_windows(windows, wanted, seed)
    scored = int((found[:, 2] - found[:, 1]).sum())
    assert min(wanted, tokens) <= scored <= max(wanted + 7, 1)
    assert np.array_equal(found, windows[np.isin(windows[:, 1], found[:, 1])])
    assert np.array_equal(found, sample_windows(windows, wanted, seed))


def test_the_same_log_p_as_window_after_window(tmp_path):
    architecture = {
        "layers": 1,
        "width": 8,
        "feed_forward_width": 12,
        "heads": 2,
        "dropout": 0.3,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
    }
    (tmp_path / "dictionary.txt").write_text("".join(f"p{number} 1\n" for number in range(20)))
    torch.manual_seed(0)
    network = build_model(architecture, 16, str(tmp_path / "dictionary.txt"))
    save_model(tmp_path / "model.pt", architecture, 16, network.state_dict(), tmp_path / "dictionary.txt")
    model = LanguageModel(tmp_path / "model.pt", tmp_path / "dictionary.txt", "cpu")
    tokens = np.random.default_rng(1).integers(2, 24, 100).astype(np.int32)
    windows = fixed_windows(100, 9, 7)
    gold, log_p = log_p_in_windows(model, tokens, windows, tokens_at_once=40)
    assert sorted(gold.tolist()) == sorted(tokens.tolist())
    assert perplexity(log_p, 100) == pytest.approx(
        perplexity(extract_states(model, tokens, windows, with_log_p=True)[2], 100), rel=1e-5
    )
    part = windows[[2, 5]]
    gold, log_p = log_p_in_windows(model, tokens, part)
    whole = extract_states(model, tokens, windows, with_log_p=True)[2]
    assert np.array_equal(gold, np.concatenate([tokens[14:21], tokens[35:42]]))
    assert np.allclose(log_p, np.concatenate([whole[14:21], whole[35:42]]), atol=1e-5)
