"""Every measurement at a size of moments: whether it runs and what it measures is right, never how fast it is."""

import pytest
from configs import VOCABULARY, config_of

from knnlm.performance.bench import Bench
from knnlm.performance.language_model import random_model
from knnlm.performance.stores import Retrieval, opened_index, random_store, write_filled, write_trained


@pytest.fixture(scope="session")
def config():
    found = config_of("tiny")
    found["lm"]["architecture"] |= {"layers": 1, "width": 16, "feed_forward_width": 24}
    found["index"] |= {"factory": "IVF4,PQ4", "training_rows": 400, "nprobe": 2}
    return found


@pytest.fixture
def bench(tmp_path):
    return Bench(pairs=2, seconds=1e-4, rows=600, seed=1, device="cpu", folder=tmp_path, speed=1e9)


@pytest.fixture(scope="session")
def model(config, tmp_path_factory):
    longest = config["lm"]["training"]["tokens_per_sample"]
    return random_model(tmp_path_factory.mktemp("model"), config["lm"]["architecture"], longest, VOCABULARY, "cpu")


@pytest.fixture(scope="session")
def retrieval(config):
    return Retrieval.of(config | {"fractions": [0.5, 1.0], "retrieval": config["retrieval"] | {"k": 8}})


@pytest.fixture(scope="session")
def store(retrieval, tmp_path_factory):
    return random_store(tmp_path_factory.mktemp("store"), retrieval, rows=300, chunks=2, seed=1)


@pytest.fixture(scope="session")
def index(retrieval, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    write_trained(folder, retrieval, store, seed=1, device="cpu")
    write_filled(folder, retrieval, store, "cpu")
    return opened_index(folder, retrieval, store)
