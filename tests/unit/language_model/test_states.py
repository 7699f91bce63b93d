import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stores import known

from knnlm.components.interpolation import perplexity
from knnlm.corpus.dictionary import END_OF_LINE
from knnlm.corpus.windows import fixed_windows, whole_line_windows
from knnlm.errors import KnnlmError
from knnlm.language_model.states import extract_states, log_p_in_windows, padded_source, sample_windows, window_batches
from knnlm.language_model.transformer import LanguageModel, build_model, save_model

TYPES, LONGEST, LENGTH = 60, 48, 40
ARCHITECTURE = {"layers": 2, "width": 16, "feed_forward_width": 24, "heads": 2}
WHOLE = fixed_windows(LENGTH, 0, LENGTH)


def load(folder, scale=0.3):
    dictionary = folder / "dictionary.txt"
    dictionary.write_text("".join(f"piece{number} 1\n" for number in range(TYPES - 4)))
    torch.manual_seed(3)
    network = build_model(ARCHITECTURE, LONGEST, str(dictionary))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    save_model(folder / "model.pt", ARCHITECTURE, LONGEST, network.state_dict(), dictionary)
    known(folder / "model.pt")
    return LanguageModel(folder / "model.pt", dictionary, "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(5).integers(2, TYPES, LENGTH).astype(np.int32)


def close(one, other):
    return np.allclose(one.astype(np.float32), other.astype(np.float32), atol=4e-3, rtol=2e-3)  # float16


def test_source_is_the_token_before_and_the_first_is_the_end_of_a_line():
    tokens = np.array([10, 11, 12, 13, 14, 15], dtype=np.int32)
    source = padded_source(tokens, np.array([[0, 0, 2], [0, 2, 4], [3, 4, 6]]))
    assert source[0, :2].tolist() == [END_OF_LINE, 10]
    assert source[1].tolist() == [END_OF_LINE, 10, 11, 12]
    assert source[2, :3].tolist() == [12, 13, 14]
    assert END_OF_LINE == 2


def test_states_and_log_p_are_the_models_own(model, tokens):
    att, ffn, log_p = extract_states(model, tokens, WHOLE, with_log_p=True)
    source = torch.tensor([[2, *tokens[:-1].tolist()]])
    with torch.inference_mode():
        logits, _ = model.decoder(source)
    expected = torch.log_softmax(logits[0].double(), dim=1)
    assert att.shape == ffn.shape == (LENGTH, 16)
    assert att.dtype == ffn.dtype == np.float16
    assert log_p.dtype == np.float32
    assert np.allclose(log_p, expected[torch.arange(LENGTH), torch.from_numpy(tokens).long()], atol=1e-5)
    assert np.allclose(expected.exp().sum(1), 1)
    assert close(ffn, model.states(source)[1][0].numpy())
    assert close(att, model.states(source)[0][0].numpy())


@pytest.mark.parametrize("new", [1, 3, 7, 40])
def test_windows_that_reach_the_beginning_give_the_states_of_one_window(model, tokens, new):
    whole, cut = (
        extract_states(model, tokens, windows, with_log_p=True)
        for windows in (WHOLE, fixed_windows(LENGTH, LENGTH, new))
    )
    for one, other in zip(whole, cut, strict=True):
        assert len(other) == LENGTH
        assert close(one, other)


def test_a_shorter_context_changes_the_states(model, tokens):
    (_, whole, _), (_, cut, _) = (
        extract_states(model, tokens, windows) for windows in (WHOLE, fixed_windows(LENGTH, 2, 4))
    )
    assert close(whole[:4], cut[:4])
    assert not close(whole[12:], cut[12:])


def test_batches_and_padding_change_nothing(model, tokens):
    windows = whole_line_windows(np.array([0, 3, 4, 9, 20, 22, 31, 40]), 6, 8)
    assert len(set((windows[:, 2] - windows[:, 0]).tolist())) > 3
    alone = extract_states(model, tokens, windows, tokens_at_once=1, with_log_p=True)
    for tokens_at_once in (20, 30, 1000):
        for one, other in zip(
            alone, extract_states(model, tokens, windows, tokens_at_once, with_log_p=True), strict=True
        ):
            assert close(one, other)


def test_a_share_of_the_windows_gives_its_own_rows(model, tokens):
    windows = fixed_windows(LENGTH, 8, 8)
    whole, part = (extract_states(model, tokens, chosen, with_log_p=True) for chosen in (windows, windows[2:4]))
    for one, other in zip(whole, part, strict=True):
        assert len(other) == 16
        assert close(one[16:32], other)


def test_batches_hold_every_window_once_and_are_bounded():
    windows = fixed_windows(1000, 30, 7)
    batches = list(window_batches(windows, 100))
    assert sorted(map(tuple, np.concatenate(batches).tolist())) == sorted(map(tuple, windows.tolist()))
    assert all(len(batch) * (batch[:, 2] - batch[:, 0]).max() <= 100 for batch in batches)
    assert [len(batch) for batch in window_batches(windows, 1)] == [1] * len(windows)


def test_a_window_longer_than_the_model_reads_is_refused(model):
    with pytest.raises(KnnlmError, match="windows: context \\+ new is more than the 48 tokens"):
        extract_states(model, np.full(60, 5, dtype=np.int32), np.array([[0, 0, 49]]))


def test_states_beyond_float16_are_refused(tmp_path, tokens):
    with pytest.raises(KnnlmError, match="do not fit float16"):
        extract_states(load(tmp_path, scale=300.0), tokens, WHOLE)


def test_unequal_windows_give_no_warning(model, tokens):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract_states(model, tokens, fixed_windows(LENGTH, 8, 7), with_log_p=True)


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
    known(tmp_path / "model.pt")
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
