import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.analysis.units import ENOUGH_DOCUMENTS, resampling_units, unit_sums
from knnlm.errors import KnnlmError


def test_unit_sums_are_the_sums_of_the_slices():
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    offsets = np.array([0, 10, 10, 55, 99, 100, 100])
    expected = [values[begin:end].astype(np.float64).sum() for begin, end in itertools.pairwise(offsets)]
    np.testing.assert_allclose(unit_sums(values, offsets), expected, rtol=1e-12)


@pytest.mark.parametrize("offsets", [[0, 5, 9], [1, 5, 10], [0, 7, 5, 10]])
def test_document_offsets_that_do_not_span_the_tokens_are_refused(offsets):
    with pytest.raises(KnnlmError, match="document offsets"):
        unit_sums(np.ones(10), np.array(offsets))
    with pytest.raises(KnnlmError, match="document offsets"):
        resampling_units(np.ones(10, bool), np.array(offsets), 5)


def test_many_documents_are_the_units_themselves():
    offsets = np.arange(0, 10 * ENOUGH_DOCUMENTS + 1, 10)
    units = resampling_units(np.ones(offsets[-1], bool), np.insert(offsets, 3, offsets[3]), block=2)
    np.testing.assert_array_equal(units.offsets, offsets)  # the empty document is none
    assert (units.size, units.documents, units.block) == (ENOUGH_DOCUMENTS, ENOUGH_DOCUMENTS, None)


def test_few_documents_are_cut_into_blocks_by_hand():
    ends_word = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1], bool)  # documents of 4, 3 and 1 words
    units = resampling_units(ends_word, np.array([0, 6, 6, 9, 12]), block=2)
    np.testing.assert_array_equal(units.offsets, [0, 3, 6, 7, 9, 12])  # three words are one and a half blocks: two
    assert (units.size, units.documents, units.block) == (5, 3, 2)


@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=60), min_size=1, max_size=ENOUGH_DOCUMENTS - 1),
    st.integers(1, 30),
)
def test_blocks_cross_no_document_cut_no_word_and_are_of_even_length(documents, block):
    """Documents are lists of words, and a word is its number of pieces."""
    ends_word = np.concatenate([np.arange(pieces) == pieces - 1 for words in documents for pieces in words])
    borders = np.cumsum([0, *(sum(words) for words in documents)])
    units = resampling_units(ends_word, borders, block)
    assert set(borders) <= set(units.offsets)
    assert ends_word[units.offsets[1:] - 1].all()
    words = unit_sums(ends_word, units.offsets)
    for begin, end, document in zip(borders[:-1], borders[1:], documents, strict=True):
        own = words[(units.offsets[:-1] >= begin) & (units.offsets[1:] <= end)]
        assert own.sum() == len(document)
        assert np.ptp(own) <= 1
        assert abs(len(own) - len(document) / block) <= 0.5 or len(own) == 1
