import faiss
import numpy as np
import pytest

from knnlm.datastore.factory import IndexFactory, parse_factory


def test_factories():
    of_paper = IndexFactory(4096, 64, 64, "PQ64", 1024)
    assert parse_factory("IVF4096,PQ64", 1024) == parse_factory("IVF4096,PQ64x8", 1024) == of_paper
    assert parse_factory("IVF16,SQfp16", 32) == IndexFactory(16, 64, 0, "SQfp16", 32)
    assert parse_factory("IVF16,Flat", 32) == IndexFactory(16, 128, 0, "Flat", 32)


@pytest.mark.parametrize("factory", ["IVF16,PQ8", "IVF16,SQfp16", "IVF16,Flat"])
def test_code_bytes_are_those_of_faiss(factory):
    assert parse_factory(factory, 32).code_bytes == faiss.index_factory(32, factory).code_size


@pytest.mark.parametrize("factory", ["IVF300,PQ2", "IVF16,PQ2", "IVF16,Flat", "IVF16,SQfp16"])
def test_faiss_can_train_on_so_many_rows_and_not_on_one_less(factory):
    rows = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    least = parse_factory(factory, 4).least_training_rows
    faiss.index_factory(4, factory).train(rows[:least])
    with pytest.raises(RuntimeError, match="should be at least as large"):
        faiss.index_factory(4, factory).train(rows[: least - 1])
