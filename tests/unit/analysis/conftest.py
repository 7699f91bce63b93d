import pytest
from runs import random_run


@pytest.fixture(scope="session")
def run():
    return random_run()
