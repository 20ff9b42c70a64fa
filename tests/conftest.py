import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; must be set before numpy is imported

import numpy as np
import pytest

FIRST = ("test_simulate", "test_processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is costliest to set up: late tests are divided among workers, and each would set it up anew."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
